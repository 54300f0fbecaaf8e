package fanout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

func TestC23_HookFails(t *testing.T) {
	for name, fail := range map[string]func(ctx context.Context) error{
		"error": func(context.Context) error { return errPush },
		"panic": func(context.Context) error { panic("odd") },
		"slow":  func(ctx context.Context) error { <-ctx.Done(); return nil },
		"deaf":  func(context.Context) error { time.Sleep(3 * time.Second); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
				d := w.login("ann", "a1")
				w.login("eve", "e1")
				var calls []string
				l.first(func(ctx context.Context, p fanout.Push) error {
					if p.Account == "eve" {
						return nil
					}
					calls = append(calls, strings.Join(texts(p.Devices[0].Missed), " "))
					return fail(ctx)
				})
				begin := time.Now()
				w.host("bob", "x", "ann")
				time.Sleep(11 * time.Second)
				w.host("bob", "y", "ann", "eve")
				w.decided()
				require.Equal(w.t, "y", l.got()["e1"], "others are not concerned")
				require.Equal(w.t, []string{"x", "x", "x", "x", "x", "y", "y", "y", "y", "y"}, calls, "what came later waits")
				require.LessOrEqual(w.t, time.Since(begin), 2*time.Minute)
				s := w.r.Stats()
				require.Equal(w.t, []uint64{1, 1, 10, 2}, []uint64{s.Pushes, s.PushEntries, s.PushErrors, s.PushesGivenUp})
				require.Equal(w.t, w.head("ann").Seq, w.pushMark("ann"), "given up is decided")
				d.online()
				require.Equal(w.t, []string{"x", "y"}, d.wire(), "delivery is another matter")
			})
		})
	}
	t.Run("recovers", func(t *testing.T) {
		pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
			var calls atomic.Int32
			l.first(func(context.Context, fanout.Push) error {
				if calls.Add(1) < 3 {
					return errPush
				}
				return nil
			})
			w.login("ann", "a1")
			w.host("bob", "x", "ann")
			w.host("bob", "y", "ann")
			w.pushes(1)
			w.decided()
			require.Equal(w.t, map[string]string{"a1": "x y"}, l.got())
		})
	})
	t.Run("read before the next try", func(t *testing.T) {
		pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
			w.login("ann", "a1")
			l.first(func(context.Context, fanout.Push) error { return errPush })
			w.host("bob", "x", "ann")
			time.Sleep(11 * time.Second)
			l.first(nil)
			w.read("c1", w.head("ann").Seq, false)
			w.host("bob", "y", "ann")
			w.decided()
			require.Equal(w.t, []string{"ann: a1 y"}, l.take())
		})
	})
}

func TestC23_HookCallsBack(t *testing.T) {
	pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
		w.login("ann", "a1")
		l.first(func(ctx context.Context, p fanout.Push) error {
			if len(texts(p.Devices[0].Missed)) == 0 || texts(p.Devices[0].Missed)[0] != "x" {
				return nil
			}
			u, err := w.r.Unread(ctx, p.Account, "")
			require.NoError(w.t, err)
			require.EqualValues(w.t, 1, u.Total, "a badge")
			_, err = w.reg.Login(ctx, session.LoginRequest{Account: p.Account, Device: "a2", Platform: "ios"})
			require.NoError(w.t, err)
			_, err = w.r.Send(ctx, fanout.SendRequest{From: "bob", To: []event.Account{p.Account}, Payload: []byte("y")})
			require.NoError(w.t, err)
			_, err = w.reg.Kick(ctx, session.KickRequest{Account: p.Account, Logins: []event.LoginID{p.Devices[0].Login}})
			return err
		})
		w.host("bob", "x", "ann")
		w.pushes(2)
		w.decided()
		got := l.got()
		require.Equal(w.t, map[string]string{"a1": "x", "a2": "y"}, got)
	})
}

func TestC23_StoreFails(t *testing.T) {
	for _, m := range []storetest.Method{storetest.Cursors, storetest.Read, storetest.States, storetest.Message, storetest.Load} {
		t.Run(string(m), func(t *testing.T) {
			pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
				w.login("ann", "a1")
				id := w.host("bob", "typo", "ann").ID
				w.post(fanout.SendRequest{From: "bob", Kind: event.KindEdit, Of: id, Payload: []byte("x")})
				w.restart() // so that not even the record is in memory
				var hit atomic.Int32
				f := storetest.Fault{Method: m, Account: "ann", Times: 3, Err: errAway, Reached: func() { hit.Add(1) }}
				if m == storetest.Message {
					f.Account = ""
				}
				w.st.Inject(f)
				w.pushes(1)
				w.decided()
				require.Equal(w.t, map[string]string{"a1": "x"}, l.got(), "later, but once")
				require.EqualValues(w.t, 3, hit.Load())
			})
		})
	}
	for name, err := range map[string]error{"away": errAway, "full": store.ErrFull, "unknown": store.ErrUnknownOutcome} {
		t.Run("mark "+name, func(t *testing.T) {
			pushOverStores(t, anyOffline(), func(w *world, l *pushLog) {
				w.login("ann", "a1")
				w.host("bob", "x", "ann")
				end := w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Times: -1, Err: err})
				w.pushes(1)
				w.host("bob", "y", "ann")
				w.pushes(2)
				w.undecided(1)
				require.Zero(w.t, w.pushMark("ann"))
				end()
				w.decided()
				require.Equal(w.t, map[string]string{"a1": "x y"}, l.got(), "it is noted in memory meanwhile")
				require.Equal(w.t, w.head("ann").Seq, w.pushMark("ann"))
			})
		})
	}
}

func TestC23_DeletedAccount(t *testing.T) {
	ctx := context.Background()
	pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
		remove := func() {
			_, err := w.reg.DeleteAccount(ctx, session.DeleteRequest{Account: "ann"})
			require.NoError(w.t, err)
		}
		w.login("ann", "a1")
		for range 10 {
			w.host("bob", "x", "ann")
		}
		w.undecided(1)
		remove()
		w.undecided(0)
		w.login("eve", "e1")
		w.host("bob", "y", "eve")
		w.decided()
		require.Equal(w.t, map[string]string{"e1": "y"}, l.got())

		// Deleted while the host is being told: what is noted late must not count for the next account of that name.
		w.login("ann", "a2")
		in, out := make(chan struct{}), make(chan struct{})
		l.first(func(context.Context, fanout.Push) error {
			close(in)
			<-out
			return nil
		})
		for range 10 {
			w.host("bob", "x", "ann")
		}
		<-in
		remove()
		l.first(nil)
		close(out)
		w.decided()
		l.take()
		left, err := w.inner.States(ctx, "ann", store.StateOptions{Limit: 10})
		require.NoError(w.t, err)
		require.Empty(w.t, left.States)
		w.login("ann", "a3")
		w.host("bob", "z", "ann")
		w.decided()
		require.Equal(w.t, map[string]string{"a3": "z"}, l.got())
	})
	t.Run("while it is decided", func(t *testing.T) {
		var w *world
		cfg := fanout.Config{Push: fanout.PushConfig{Decide: func(ctx context.Context, q fanout.PushQuestion) ([]event.DeviceID, error) {
			_, err := w.reg.DeleteAccount(ctx, session.DeleteRequest{Account: "ann"})
			return q.Default, err
		}}}
		pushInMemory(t, cfg, func(here *world, l *pushLog) {
			w = here
			w.login("ann", "a1")
			w.host("bob", "x", "ann")
			w.decided()
			require.Empty(w.t, l.take())
			require.Zero(w.t, w.r.Stats().PushErrors)
		})
	})
	t.Run("late mark", func(t *testing.T) {
		pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
			w.login("ann", "a1")
			for range 10 {
				w.host("bob", "x", "ann")
			}
			in, out := make(chan struct{}), make(chan struct{})
			w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Reached: func() { close(in) }, Wait: out})
			<-in
			gone := make(chan error)
			go func() {
				_, err := w.reg.DeleteAccount(ctx, session.DeleteRequest{Account: "ann"})
				gone <- err
			}()
			require.NoError(w.t, <-gone)
			close(out)
			w.decided()
			l.take()
			w.login("ann", "a2")
			w.host("bob", "y", "ann")
			w.decided()
			require.Equal(w.t, []string{"ann: a2 y"}, l.take(), "numbers of the former inbox mean nothing")
		})
	})
}

// TestC23_LargePayloads: what one call holds is bounded in bytes as well.
func TestC23_LargePayloads(t *testing.T) {
	pushInMemory(t, fanout.Config{PageBytes: 100 << 10}, func(w *world, l *pushLog) {
		w.login("ann", "a1")
		for range 10 {
			w.host("bob", strings.Repeat("x", 50<<10), "ann")
		}
		w.decided()
		require.Len(w.t, l.calls, 5)
		for _, p := range l.calls {
			require.Len(w.t, p.Devices[0].Missed, 2)
		}
	})
}

// TestC23_LongWay: what wanted no push is not looked through again and again.
func TestC23_LongWay(t *testing.T) {
	pushInMemory(t, fanout.Config{PageEntries: 10}, func(w *world, l *pushLog) {
		w.login("ann", "a1")
		for i := range 100 {
			w.post(fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, Payload: fmt.Append(nil, i)})
		}
		id := w.host("bob", "x", "ann").ID
		w.post(fanout.SendRequest{From: "bob", Kind: event.KindRecall, Of: id})
		w.decided()
		require.Empty(w.t, l.take())
		require.Equal(w.t, w.head("ann").Seq, w.pushMark("ann"))
		reads := w.st.Calls(storetest.Read)
		w.host("bob", "y", "ann")
		w.decided()
		require.Equal(w.t, []string{"ann: a1 y"}, l.take())
		require.LessOrEqual(w.t, w.st.Calls(storetest.Read)-reads, 3)
	})
}

// TestC23_S70_FullStore: a push is decided on the room that is kept back.
func TestC23_S70_FullStore(t *testing.T) {
	l := &pushLog{}
	path := filepath.Join(t.TempDir(), "store.db")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, path, fanout.Config{Push: fanout.PushConfig{Hook: l.hook}})
		w.bolt.MaxSize = 8 << 20
		w.restart()
		w.login("ann", "a1")
		w.host("bob", "x", "ann")
		var err error
		for err == nil {
			_, err = w.r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"eve"}, Payload: make([]byte, 10_000)})
		}
		require.ErrorIs(w.t, err, store.ErrFull)
		for _, size := range []int{60_000, 5_000, 500, 0} { // until not even a register fits
			err = nil
			for i := 0; err == nil; i++ {
				_, err = w.inner.Commit(context.Background(), store.Batch{Account: "e", Now: time.Now(), States: []store.StateUpdate{
					{Name: fmt.Sprint(size, i), Value: make([]byte, size)},
				}})
			}
			require.ErrorIs(w.t, err, store.ErrFull)
		}
		w.decided()
		require.Equal(w.t, []string{"ann: a1 x"}, l.take())
		require.NotZero(w.t, w.pushMark("ann"))
	})
}
