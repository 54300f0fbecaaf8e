package session_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// troubled is how many accounts have trouble beside the one that is measured.
const troubled = 64

// nuisance is what goes on beside an account that is measured: it runs while it is let, and may be stopped for a while.
type nuisance struct {
	reg  *session.Registry
	mu   sync.RWMutex // held while it has to keep still
	done context.Context
	all  sync.WaitGroup
}

// loop repeats do while the nuisance goes on.
func (n *nuisance) loop(pause time.Duration, do func()) {
	n.all.Go(func() {
		for n.done.Err() == nil {
			n.wait()
			do()
			time.Sleep(pause)
		}
	})
}

// wait returns as soon as the nuisance may go on.
func (n *nuisance) wait() {
	n.mu.RLock()
	defer n.mu.RUnlock()
}

// deafWire takes nothing: each Send hangs, and looks at no context.
type deafWire struct{ gate chan struct{} }

func (d deafWire) Send(context.Context, []event.Frame) error { <-d.gate; return nil }
func (deafWire) Close(event.Closed) error                    { return nil }

// hangIn returns hooks of which the named one hangs for accounts in trouble.
func hangIn(name string, gate chan struct{}, c *session.Config) {
	hang := func(hook string, a event.Account) {
		if hook == name && a[0] == 't' {
			<-gate
		}
	}
	c.DecideLogin = func(_ context.Context, q session.Question) (bool, error) {
		hang("DecideLogin", q.Account)
		return true, nil
	}
	c.DecidePolicy = func(_ context.Context, q session.Question) (*policy.Policy, error) {
		hang("DecidePolicy", q.Account)
		return nil, nil
	}
	c.Revoke = func(_ context.Context, e session.Ended) error {
		hang("Revoke", e.Session.Account)
		return nil
	}
}

// begin lets one kind of trouble begin.
func (n *nuisance) begin(b *testing.B, kind string, gate chan struct{}) {
	ctx := context.Background()
	switch kind {
	case "DecideLogin", "DecidePolicy", "Revoke":
		for i := range troubled {
			n.loop(10*time.Millisecond, func() {
				_, _ = n.reg.Login(ctx, request(event.Account(fmt.Sprint("t", i)), "d", "ios")) // it replaces its own
			})
		}
	case "stranger":
		q := session.AttachRequest{Account: "t", Login: event.NewLoginID(), Token: event.NewResumeToken()}
		n.loop(100*time.Microsecond, func() { _, _ = n.reg.Attach(ctx, q, nowhere{}) })
	case "subscriber":
		for range troubled {
			_, err := n.reg.Subscribe(16)
			require.NoError(b, err)
		}
	case "Send":
		for i := range troubled {
			a := event.Account(fmt.Sprint("t", i))
			res, err := n.reg.Login(ctx, request(a, "d", "ios"))
			require.NoError(b, err)
			c, err := n.reg.Attach(ctx, session.AttachRequest{Account: a, Login: res.Session.Login, Token: res.Token}, deafWire{gate})
			require.NoError(b, err)
			n.all.Go(func() { _ = c.Send(ctx, []event.Frame{&event.Pong{}}) })
		}
	}
}

// p99 returns the 99th percentile, in ns.
func p99(all []time.Duration) float64 {
	slices.Sort(all)
	return max(float64(all[len(all)*99/100]), 1)
}

// BenchmarkTrouble measures logins, attaches and kicks of one account while others have trouble, and without that, in turns of
// 100, in one run: p99-ratio is what the trouble costs it (I35).
func BenchmarkTrouble(b *testing.B) {
	for _, kind := range []string{"none", "DecideLogin", "DecidePolicy", "Revoke", "Send", "stranger", "subscriber"} {
		b.Run("trouble="+kind, func(b *testing.B) {
			gate, cfg := make(chan struct{}), session.Config{LoginsPerMinute: -1, FlapLimit: -1}
			hangIn(kind, gate, &cfg)
			cfg.AttachesPerAccount = 1_000_000 // its own; the stranger's account has as many
			reg := openWith(b, cfg)
			done, stop := context.WithCancel(context.Background())
			n := &nuisance{reg: reg, done: done}
			quiet := openWith(b, cfg)
			n.begin(b, kind, gate)
			time.Sleep(100 * time.Millisecond)
			var without, with [3][]time.Duration
			for i := 0; b.Loop(); i++ {
				if i/100%2 == 0 {
					if i%100 == 0 {
						n.mu.Lock()
					}
					victim(b, quiet, &without)
					if i%100 == 99 {
						n.mu.Unlock()
					}
				} else {
					victim(b, reg, &with)
				}
			}
			n.mu.TryLock() // it may have ended in a turn without trouble, which holds it already
			n.mu.Unlock()
			stop()
			close(gate)
			n.all.Wait()
			if len(with[0]) == 0 {
				return
			}
			for i, op := range []string{"login", "attach", "kick"} {
				b.ReportMetric(p99(with[i])/1e3, op+"-p99-µs")
				b.ReportMetric(p99(with[i])/p99(without[i]), op+"-p99-ratio")
			}
		})
	}
}

func openWith(b *testing.B, cfg session.Config) *session.Registry {
	b.Helper()
	st := memory()
	reg, err := session.New(st, cfg)
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, reg.Close(context.Background()))
		require.NoError(b, st.Close(context.Background()))
	})
	return reg
}

// victim logs a device in, attaches it and kicks it.
func victim(b *testing.B, reg *session.Registry, took *[3][]time.Duration) {
	begin := time.Now()
	lap := func(i int) {
		now := time.Now()
		took[i], begin = append(took[i], now.Sub(begin)), now
	}
	res, err := reg.Login(b.Context(), request("ann", "phone", "ios"))
	require.NoError(b, err)
	lap(0)
	_, err = reg.Attach(b.Context(), session.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, nowhere{})
	require.NoError(b, err)
	lap(1)
	_, err = reg.Kick(b.Context(), session.KickRequest{Account: "ann", All: true})
	require.NoError(b, err)
	lap(2)
}

// BenchmarkOverABlockedConnection measures calls that end a connection on which a Send hangs for ever, and one that is idle,
// in turns, in one run (I36). It was a second against 20 µs.
func BenchmarkOverABlockedConnection(b *testing.B) {
	for name, call := range map[string]func(reg *session.Registry, q session.AttachRequest) error{
		"attach": func(reg *session.Registry, q session.AttachRequest) error {
			_, err := reg.Attach(context.Background(), q, nowhere{})
			return err
		},
		"login": func(reg *session.Registry, q session.AttachRequest) error {
			_, err := reg.Login(context.Background(), request(q.Account, "phone", "ios"))
			return err
		},
		"kick": func(reg *session.Registry, q session.AttachRequest) error {
			_, err := reg.Kick(context.Background(), session.KickRequest{Account: q.Account, All: true})
			return err
		},
	} {
		b.Run("call="+name, func(b *testing.B) {
			reg := openWith(b, session.Config{LoginsPerMinute: -1, FlapLimit: -1, AttachesPerSecond: -1, AttachesPerAccount: -1})
			var took [2][]time.Duration
			for i := 0; b.Loop(); i++ {
				res, err := reg.Login(b.Context(), request("ann", "phone", "ios"))
				require.NoError(b, err)
				q := session.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}
				old := deafWire{make(chan struct{})}
				c, err := reg.Attach(b.Context(), q, old)
				require.NoError(b, err)
				var sending sync.WaitGroup
				if i%2 == 1 {
					sending.Go(func() { _ = c.Send(context.Background(), []event.Frame{&event.Pong{}}) })
				}
				time.Sleep(20 * time.Millisecond) // it is in the host's code by then
				begin := time.Now()
				require.NoError(b, call(reg, q))
				took[i%2] = append(took[i%2], time.Since(begin))
				close(old.gate)
				sending.Wait()
			}
			if len(took[1]) > 0 {
				idle, blocked := p99(took[0]), p99(took[1]) // which sorts them
				b.ReportMetric(blocked/1e3, "blocked-p99-µs")
				b.ReportMetric(blocked/idle, "p99-ratio")
				b.ReportMetric(float64(took[1][len(took[1])/2])/float64(took[0][len(took[0])/2]), "p50-ratio")
			}
		})
	}
}
