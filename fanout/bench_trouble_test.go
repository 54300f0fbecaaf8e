package fanout_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

// troubled is how many accounts have trouble besides the one that is measured.
const troubled = 64

// deafConn takes nothing: each Send hangs, and looks at no context.
type deafConn struct{ gate chan struct{} }

func (d deafConn) Send(context.Context, []event.Frame) error { <-d.gate; return nil }
func (deafConn) Close(event.Closed) error                    { return nil }

// BenchmarkSend_BesideTrouble measures sends to an account with one device while others have trouble, and in a router without
// any, in turns of 100, in one run: p99-ratio is what the trouble costs (I35).
func BenchmarkSend_BesideTrouble(b *testing.B) {
	for _, kind := range []string{"none", "push", "Send", "subscriber"} {
		b.Run("trouble="+kind, func(b *testing.B) {
			gate := make(chan struct{})
			cfg := fanout.Config{Window: 1024, TrimInterval: -1}
			if kind == "push" {
				cfg.Push = fanout.PushConfig{Delay: time.Millisecond, Hook: func(_ context.Context, p fanout.Push) error {
					if p.Account[0] == 't' {
						<-gate
					}
					return nil
				}}
			}
			var all [2][]*sink
			var worlds [2]*world
			for i := range worlds {
				worlds[i] = newWorld(b, "", cfg)
				all[i] = sinks(b, worlds[i], "ann", 1)
			}
			b.Cleanup(func() { close(gate) }) // before the routers are closed
			beginTrouble(b, worlds[1], kind, gate)
			q := fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, NoSenderCopy: true, Receipts: fanout.ReceiptsOff, Payload: make([]byte, 512)}
			var took [2][]time.Duration
			for i := 0; b.Loop(); i++ {
				k := i / 100 % 2
				begin := time.Now()
				_, err := worlds[k].r.Send(context.Background(), q)
				require.NoError(b, err)
				drain(worlds[k], "ann", all[k])
				took[k] = append(took[k], time.Since(begin))
			}
			if len(took[1]) > 0 {
				b.ReportMetric(p99(took[1])/1e3, "p99-µs")
				b.ReportMetric(p99(took[1])/p99(took[0]), "p99-ratio")
			}
		})
	}
}

func p99(all []time.Duration) float64 {
	slices.Sort(all)
	return max(float64(all[len(all)*99/100]), 1)
}

// beginTrouble lets one kind of trouble begin, for other accounts.
func beginTrouble(b *testing.B, w *world, kind string, gate chan struct{}) {
	if kind == "subscriber" {
		for range troubled {
			_, err := w.r.Subscribe(16)
			require.NoError(b, err)
		}
	}
	hang := 0
	for i := range troubled {
		a := event.Account(fmt.Sprint("t", i))
		switch kind {
		case "push":
			w.login(a, "d")
		case "Send":
			d := w.login(a, "d")
			att, err := w.r.Attach(b.Context(), fanout.AttachRequest{Account: a, Login: d.Login(), Token: d.Token()}, deafConn{gate})
			require.NoError(b, err)
			d.att = att
		default:
			continue
		}
		hang++
		w.post(fanout.SendRequest{From: "bob", To: []event.Account{a}, NoSenderCopy: true, Payload: []byte("x")})
	}
	if hang > 0 {
		time.Sleep(200 * time.Millisecond) // they hang
	}
}
