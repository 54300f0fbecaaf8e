package fanout_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

// Two connections of one engine, each with limits of its own (K11.5).
func TestK11_LimitsOfOneConnection(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.feed("ann", 0, 100)
		one, four, plain := taking(), taking(), taking()
		for _, c := range []struct {
			device event.DeviceID
			q      fanout.AttachRequest
			conn   *hostConn
		}{
			{"a1", fanout.AttachRequest{Window: 1}, one},
			{"a2", fanout.AttachRequest{WindowBytes: 400}, four},
			{"a3", fanout.AttachRequest{}, plain},
		} {
			res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: c.device, Platform: "ios"})
			require.NoError(w.t, err)
			c.q.Account, c.q.Login, c.q.Token = "ann", res.Session.Login, res.Token
			c.q.Position = &event.Position{Epoch: w.head("ann").Epoch}
			w.bound(c.q, c.conn)
		}
		w.until("full windows", func() bool { return len(one.seqs()) == 1 && len(four.seqs()) > 1 && len(plain.seqs()) == 64 })
		_, bytes, _, _ := four.attachment().Window()
		require.LessOrEqual(w.t, bytes, 400)
		require.Less(w.t, len(four.seqs()), 10)
		for i := range 5 { // each ack makes room for one
			seqs := one.seqs()
			require.NoError(w.t, one.attachment().Handle(context.Background(),
				&event.Ack{Position: event.Position{Epoch: w.head("ann").Epoch, Seq: seqs[len(seqs)-1]}}))
			w.until("the next", func() bool { return len(one.seqs()) == i+2 })
		}
		w.host("bob", "live", "ann")
		require.Len(w.t, one.seqs(), 6)
	})
}

func TestK11_TimesOfOneConnection(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		ends, mu := map[string]time.Duration{}, sync.Mutex{}
		start := time.Now()
		conn := func(name string) *hostConn {
			c := taking()
			c.onClose = func() {
				mu.Lock()
				defer mu.Unlock()
				ends[name] = time.Since(start)
			}
			return c
		}
		w.hosted("ann", "a1", fanout.AttachRequest{AckWait: 5 * time.Second}, conn("short"))
		w.hosted("ann", "a2", fanout.AttachRequest{AckWait: 5 * time.Minute}, conn("long"))
		w.hosted("ann", "a3", fanout.AttachRequest{}, conn("plain"))
		start = time.Now()
		w.host("bob", "x", "ann")
		time.Sleep(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		require.InDelta(w.t, 5.5, ends["short"].Seconds(), 0.6)
		require.InDelta(w.t, 30.5, ends["plain"].Seconds(), 0.6)
		require.InDelta(w.t, 300.5, ends["long"].Seconds(), 0.6)
	})
}

func TestK11_LimitsAreChecked(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
		require.NoError(w.t, err)
		for field, q := range map[string]fanout.AttachRequest{
			"window": {Window: -1}, "windowBytes": {WindowBytes: -1}, "ackWait": {AckWait: -1}, "frameWrite": {FrameWrite: -time.Second},
		} {
			q.Account, q.Login, q.Token = "ann", res.Session.Login, res.Token
			_, err := w.r.Attach(context.Background(), q, taking())
			w.invalid(err, field)
		}
		for _, q := range []fanout.AttachRequest{{Window: 65_536}, {WindowBytes: 4<<20 + 1}} {
			q.Account, q.Login, q.Token = "ann", res.Session.Login, res.Token
			_, err := w.r.Attach(context.Background(), q, taking())
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok)
		}
		w.bound(fanout.AttachRequest{
			Account: "ann", Login: res.Session.Login, Token: res.Token, Window: 65_535, WindowBytes: 4 << 20, IdleTimeout: -1,
		}, taking())
	})
}

// A connection that is held is attached and gets nothing before Start; then it gets all, in order.
func TestHold_NothingIsSentBeforeStart(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.feed("ann", 0, 10)
		var kinds []string
		c := newHostConn(nil)
		c.send = func(_ context.Context, c *hostConn, frames []event.Frame) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, f := range frames {
				switch f := f.(type) {
				case *event.Welcome:
					kinds = append(kinds, "welcome")
				case *event.Data:
					for range f.Entries {
						kinds = append(kinds, "entry")
					}
				case *event.Live:
					kinds = append(kinds, "live")
				}
			}
			return nil
		}
		seen := func() []string {
			c.mu.Lock()
			defer c.mu.Unlock()
			return append([]string(nil), kinds...)
		}
		att := w.hosted("ann", "a1", fanout.AttachRequest{Hold: true, Position: &event.Position{Epoch: w.head("ann").Epoch}}, c)
		w.host("bob", "live one", "ann")
		_, err := w.r.Publish(context.Background(), fanout.PublishRequest{From: "bob", Kind: event.KindTyping, To: []event.Account{"ann"}})
		require.NoError(w.t, err)
		require.NoError(w.t, att.Handle(context.Background(), &event.Ping{}))
		p, err := w.reg.Presence(context.Background(), "ann")
		require.NoError(w.t, err)
		require.Equal(w.t, session.Online, p.State)
		time.Sleep(20 * time.Millisecond)
		require.Empty(w.t, seen())
		att.Start()
		att.Start()
		w.until("all", func() bool { return len(seen()) >= 13 })
		require.Equal(w.t, "welcome", seen()[0])
		require.Contains(w.t, seen(), "live")
		n := len(seen())
		att.Start()
		time.Sleep(20 * time.Millisecond)
		require.Len(w.t, seen(), n)
	})
}

// A held connection is not slow, not even one that owes the acknowledgement of a Reset that it was not yet sent. The idle
// bound holds, and it ends as any other.
func TestHold_IsNotSlowButMayBeIdle(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		sibling := w.login("ann", "other")
		sibling.online()
		c := taking()
		q := fanout.AttachRequest{Hold: true, Position: &event.Position{Epoch: 99, Seq: 5}}
		att := w.hosted("ann", "a1", q, c)
		for range 100 {
			w.host("bob", "x", "ann") // the sweep looks at the account
			time.Sleep(time.Second)
		}
		require.Empty(w.t, c.reasons())
		att.Start()
		time.Sleep(time.Minute)
		require.Equal(w.t, []event.Reason{event.Slow}, c.reasons(), "from here on it counts")
		att.Start()

		c = taking()
		q = fanout.AttachRequest{Hold: true, IdleTimeout: 10 * time.Second}
		att = w.hosted("ann", "a1", q, c)
		time.Sleep(20 * time.Second)
		require.Equal(w.t, []event.Reason{event.Lost}, c.reasons())
		att.Start()
		synctest.Wait()
		require.Empty(w.t, c.seqs())

		c = taking()
		att = w.hosted("ann", "a1", fanout.AttachRequest{Hold: true}, c)
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{att.Login()}})
		require.NoError(w.t, err)
		synctest.Wait()
		require.Equal(w.t, []event.Reason{event.KickedHost}, c.reasons())
		att.Start()
		require.ErrorIs(w.t, att.Handle(context.Background(), &event.Ping{}), fanout.ErrDetached)
	})
}
