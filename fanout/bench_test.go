package fanout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport"
)

// sink is a connection that acknowledges at once, on the goroutine that sends.
type sink struct {
	att       atomic.Pointer[fanout.Attachment]
	delivered atomic.Int64
	position  atomic.Uint64
	caughtUp  chan struct{}
}

var _ transport.Conn = (*sink)(nil)

func (s *sink) Send(ctx context.Context, frames []event.Frame) error {
	for _, f := range frames {
		switch f := f.(type) {
		case *event.Data:
			s.delivered.Add(int64(len(f.Entries)))
			s.position.Store(f.Seq)
			if a := s.att.Load(); a != nil {
				if err := a.Handle(ctx, &event.Ack{Position: event.Position{Epoch: f.Epoch, Seq: f.Seq}}); err != nil {
					return err
				}
			}
		case *event.CaughtUp:
			close(s.caughtUp)
		}
	}
	return nil
}

func (s *sink) Close(event.Closed) error { return nil }

// sinks attaches devices to an account. Each is caught up when it returns.
func sinks(b *testing.B, w *world, account event.Account, n int) []*sink {
	all := make([]*sink, n)
	for i := range all {
		d := w.login(account, event.DeviceID(fmt.Sprint("d", i)))
		all[i] = &sink{caughtUp: make(chan struct{})}
		att, err := w.r.Attach(context.Background(), fanout.AttachRequest{Account: account, Login: d.Login(), Token: d.Token()}, all[i])
		require.NoError(b, err)
		<-all[i].caughtUp
		d.att = att
		all[i].att.Store(att)
	}
	return all
}

// drain waits until every device is at the end of its inbox.
func drain(w *world, account event.Account, all []*sink) {
	head := w.head(account).Seq
	for _, s := range all {
		for s.position.Load() < head {
			runtime.Gosched()
		}
	}
}

// BenchmarkLive sends 512 bytes to an account whose four devices take and acknowledge every entry.
func BenchmarkLive(b *testing.B) {
	for _, devices := range []int{1, 4} {
		b.Run(fmt.Sprint("devices=", devices), func(b *testing.B) {
			w := newWorld(b, "", fanout.Config{Window: 1024, TrimInterval: -1})
			all := sinks(b, w, "ann", devices)
			drain(w, "ann", all[:devices-1])
			var before int64
			for _, s := range all {
				before += s.delivered.Load()
			}
			q := fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, NoSenderCopy: true, Receipts: fanout.ReceiptsOff, Payload: make([]byte, 512)}
			b.ReportAllocs()
			sent := 0
			for b.Loop() {
				if _, err := w.r.Send(context.Background(), q); err != nil {
					b.Fatal(err)
				}
				if sent++; sent%512 == 0 { // a sender that is far ahead would measure the store, not delivery
					drain(w, "ann", all)
				}
			}
			drain(w, "ann", all)
			var delivered int64
			for _, s := range all {
				delivered += s.delivered.Load()
			}
			require.Equal(b, int64(sent*devices), delivered-before, "each entry once at each device")
			b.ReportMetric(float64(delivered-before)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// BenchmarkDurableSend sends 512 bytes to one account over a file, with nobody attached.
func BenchmarkDurableSend(b *testing.B) {
	send := func(b *testing.B, w *world, n uint64) {
		q := fanout.SendRequest{
			From: event.Account(fmt.Sprint("s", n%1000)), To: []event.Account{event.Account(fmt.Sprint("r", n%997))},
			ClientID: event.ClientMessageID(fmt.Sprint("m", n)), Payload: make([]byte, 512),
		}
		if _, err := w.r.Send(context.Background(), q); err != nil {
			b.Error(err)
		}
	}
	b.Run("senders=1", func(b *testing.B) {
		w := newWorld(b, filepath.Join(b.TempDir(), "store.db"), fanout.Config{TrimInterval: -1})
		var n uint64
		b.ReportAllocs()
		for b.Loop() {
			n++
			send(b, w, n)
		}
	})
	b.Run("senders=256", func(b *testing.B) {
		w := newWorld(b, filepath.Join(b.TempDir(), "store.db"), fanout.Config{TrimInterval: -1})
		var n atomic.Uint64
		b.ReportAllocs()
		b.SetParallelism(128)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				send(b, w, n.Add(1))
			}
		})
	})
}

// BenchmarkCatchUp has a device return to 10,000 entries.
func BenchmarkCatchUp(b *testing.B) {
	const entries = 10_000
	for _, file := range []bool{false, true} {
		b.Run(fmt.Sprint("file=", file), func(b *testing.B) {
			path := ""
			if file {
				path = filepath.Join(b.TempDir(), "store.db")
			}
			w := newWorld(b, path, fanout.Config{TrimInterval: -1})
			d := w.login("ann", "a1")
			payload := make([]byte, 512)
			fill(b, w, entries, payload)
			epoch := w.head("ann").Epoch
			b.ReportAllocs()
			for b.Loop() {
				s := &sink{caughtUp: make(chan struct{})}
				late := &lateSink{sink: s, attached: make(chan struct{})}
				att, err := w.r.Attach(context.Background(), fanout.AttachRequest{
					Account: "ann", Login: d.Login(), Token: d.Token(), Position: &event.Position{Epoch: epoch},
				}, late)
				if err != nil {
					b.Fatal(err)
				}
				d.att = att
				s.att.Store(att)
				close(late.attached)
				<-s.caughtUp
				if n := s.delivered.Load(); n != entries {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(entries*b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// lateSink holds frames back until its sink can answer them.
type lateSink struct {
	*sink
	attached chan struct{}
}

func (s *lateSink) Send(ctx context.Context, frames []event.Frame) error {
	<-s.attached
	return s.sink.Send(ctx, frames)
}

// fill puts messages into ann's inbox, many at a time.
func fill(b *testing.B, w *world, n int, payload []byte) {
	issuer := event.NewIssuer(w.st.Info().Secret)
	for n > 0 {
		batch := store.Batch{Account: "bob", Now: time.Now()}
		for range min(n, 1_000) {
			batch.Messages = append(batch.Messages, store.Message{
				ID: issuer.Issue(), Kind: event.KindMessage, From: "bob", Payload: payload, To: []store.Inbox{{Account: "ann"}},
			})
			n--
		}
		_, err := w.inner.Commit(context.Background(), batch)
		require.NoError(b, err)
	}
}
