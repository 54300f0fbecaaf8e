package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// stall holds up all commits of one account until free is called.
func stall(w *world, account event.Account) (free func()) {
	stop := make(chan struct{})
	w.st.set(func(f *faults) {
		f.before = func(b store.Batch) error {
			if b.Account == account {
				<-stop
			}
			return nil
		}
	})
	return func() { close(stop) }
}

// stuck has one account in the middle of a commit that does not end, another one whose resume window is over, and a
// connection that is silent.
func stuck(w *world) (gone, silent *gadget, free func()) {
	w.join("ann", "a1", "ios").conn.Detach()
	gone, silent = w.join("bob", "b1", "ios"), w.join("cyd", "c1", "ios")
	free = stall(w, "ann")
	gone.conn.Detach()
	return gone, silent, free
}

// TestS15_S30_UpkeepBesideAStalledAccount: what the store holds up for one account goes on for the others.
func TestS15_S30_UpkeepBesideAStalledAccount(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		_, silent, free := stuck(w)
		w.events.take()
		w.pass(time.Hour)
		require.ElementsMatch(w.t, []string{"offline b1 lost", "offline c1 lost"}, w.events.take())
		require.Equal(w.t, []event.Reason{event.Lost}, silent.wire.reasons())
		free()
		w.pass(10 * time.Second)
		require.Equal(w.t, []string{"offline a1 lost"}, w.events.take())
	})
}

// TestS15_JanitorBesideAStalledAccount: the same for what is looked at after a restart.
func TestS15_JanitorBesideAStalledAccount(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleDevice: time.Hour}}, func(w *world) {
		for _, a := range []event.Account{"ann", "bob", "cyd"} {
			w.join(a, "d1", "ios")
		}
		w.restart(w.now)
		free := stall(w, "ann")
		w.pass(2 * time.Hour)
		require.Empty(w.t, w.list("bob"))
		require.Empty(w.t, w.list("cyd"))
		free()
		w.pass(2 * time.Hour)
		require.Empty(w.t, w.list("ann"))
	})
}

// TestI5_FailureBesideAStalledAccount: everybody is sent away at once.
func TestI5_FailureBesideAStalledAccount(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		_, _, free := stuck(w)
		w.pass(5 * time.Minute)
		g := w.join("dan", "d1", "ios")
		close(w.st.failed)
		w.pass(0)
		require.Equal(w.t, []event.Reason{event.Unavailable}, g.wire.reasons())
		free()
	})
}

// TestS15_CommitsOfACrowd: those who go offline together are written side by side, so that a store can write them at once.
func TestS15_CommitsOfACrowd(t *testing.T) {
	inBubble(t, setup{config: session.Config{SweepInterval: time.Second}}, func(w *world) {
		for i := range 200 {
			w.join(event.Account(fmt.Sprint("u", i)), "d1", "ios").conn.Detach()
		}
		var at, most atomic.Int64
		w.st.set(func(f *faults) {
			f.before = func(store.Batch) error {
				most.Store(max(most.Load(), at.Add(1)))
				time.Sleep(100 * time.Millisecond) // a disk
				at.Add(-1)
				return nil
			}
		})
		w.pass(2*time.Minute + 2*time.Second)
		require.Equal(w.t, 200, countKind(w, session.ChangeOffline))
		require.EqualValues(w.t, 64, most.Load())
	})
}

// TestB14_I28_OrderBesideAHangingClose: a login that is ended while the admission that it got back its slot by still waits
// for its victim. Whoever looks on must not be left with "online".
func TestB14_I28_OrderBesideAHangingClose(t *testing.T) {
	inBubble(t, setup{rules: onePhone}, func(w *world) {
		s, err := w.reg.Subscribe(16)
		require.NoError(w.t, err)
		x := w.join("ann", "x", "ios")
		x.conn.Detach()
		w.pass(5 * time.Minute)
		y := w.login("ann", "y", "ios")
		stop := make(chan struct{})
		_, err = y.tryAttach(&wire{onClose: func(event.Closed) error { <-stop; return nil }})
		require.NoError(w.t, err)
		w.events.take()
		session.Drain(s)
		go func() { _, _ = x.tryAttach(new(wire)) }()
		synctest.Wait() // it waits for y's Close
		require.Equal(w.t, []string{"ended y evicted_quota", "online x"}, w.events.take(), "the siblings do not wait for it")
		w.kick("ann", x.id)
		close(stop)
		synctest.Wait()
		require.Equal(w.t, []string{"ended x kicked_host"}, w.events.take())
		var told []string
		for _, c := range session.Drain(s) {
			told = append(told, line(c))
		}
		require.Equal(w.t, []string{"ended y evicted_quota", "online x", "ended x kicked_host"}, told)
	})
}

// TestHooks_OneAccountsHangIsNobodyElses: a hook that never returns for one account is called for that account 8 times, and
// then its default holds at once. Other accounts are asked as before. I27, I35, K2.3.
func TestHooks_OneAccountsHangIsNobodyElses(t *testing.T) {
	var calls atomic.Int64
	var stop chan struct{} // of the bubble
	s := setup{}
	s.config.DecideLogin = func(_ context.Context, q session.Question) (bool, error) {
		if q.Account == "eve" {
			calls.Add(1)
			<-stop
		}
		return q.Device != "bad", nil
	}
	inBubble(t, s, func(w *world) {
		stop = make(chan struct{})
		try := func(a event.Account, d event.DeviceID, want time.Duration) error {
			start := time.Now()
			_, err := w.tryLogin(request(a, d, "ios"))
			require.Equal(w.t, want, time.Since(start))
			return err
		}
		for i := range 300 {
			want := 2 * time.Second
			if i >= 8 {
				want = 0
			}
			_ = try("eve", "d", want)
			require.ErrorIs(w.t, try("ann", "bad", 0), session.ErrRefused, "the answer holds")
		}
		require.NoError(w.t, try("ann", "good", 0))
		require.EqualValues(w.t, 8, calls.Load())
		require.EqualValues(w.t, 292, w.reg.HookSkips())
		close(stop)
		synctest.Wait()
		require.ErrorIs(w.t, try("eve", "bad", 0), session.ErrRefused, "it is called again")
	})
}

// TestI21_LandedThenKicked: the commit of a login took effect, its outcome was not known, and before that could be seen
// another node has kicked the login. It does not come back under the ID that was refused everywhere.
func TestI21_LandedThenKicked(t *testing.T) {
	inBubble(t, setup{crowd: true}, func(w *world) {
		here := w.reg
		other := w.open(w.now)
		w.reg = here
		lose := once(store.ErrUnknownOutcome)
		w.st.set(func(f *faults) {
			f.after = func(store.Batch, error) error {
				err := lose()
				if err != nil {
					w.st.heal()
					_, bad := other.Kick(context.Background(), session.KickRequest{Account: "ann", All: true, Note: "go"})
					err = errors.Join(err, bad)
				}
				return err
			}
		})
		_, err := w.tryLogin(request("ann", "a1", "ios"))
		ended, ok := errors.AsType[*session.EndedError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, event.KickedHost, ended.Why.Reason)
		require.Equal(w.t, "go", ended.Why.Note)
		require.Empty(w.t, w.list("ann"))
		require.Len(w.t, shapeOf(w.t, []byte(w.stored("ann").data)).Tombstones, 1)
	})
}

// TestD9_I29_AttachMeetsTheEnd: a connection that is bound after everybody was looked for is sent away all the same.
func TestD9_I29_AttachMeetsTheEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		during func(c *cluster, x *world)
		err    error
		reason event.Reason
	}{
		"drain": {func(c *cluster, x *world) {
			require.NoError(c.t, x.reg.Drain(context.Background(), session.DrainRequest{}))
		}, session.ErrDraining, event.Shutdown},
		"close": {func(_ *cluster, x *world) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_ = x.reg.Close(ctx) // it waits for the attach
		}, session.ErrClosed, event.Shutdown},
		"lease lost": {func(c *cluster, _ *world) {
			c.cut["x"].down.Store(true)
			time.Sleep(16 * time.Second)
		}, session.ErrNoLease, event.LeaseLost},
	} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{}, func(c *cluster, x, y *world) {
				g := x.login("ann", "phone", "ios")
				c.st.set(func(f *faults) {
					f.before = func(store.Batch) error {
						c.st.heal()
						tt.during(c, x)
						return nil
					}
				})
				conn, told := new(wire), []event.Reason(nil)
				_, err := x.reg.Attach(context.Background(), session.AttachRequest{
					Account: "ann", Login: g.id, Token: g.token,
					Delivery: delivery(nil, func(why event.Closed) { told = append(told, why.Reason) }),
				}, conn)
				require.ErrorIs(c.t, err, tt.err)
				require.Equal(c.t, tt.reason, event.ClosedOf(err).Reason)
				c.pass(time.Second)
				require.Empty(c.t, told)
				require.Empty(c.t, conn.reasons(), "the connection is the caller's")
			})
		})
	}
}

// A node that was closed has no lease either, and says that it is closed.
func TestI29_ClosedIsNotALostLease(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.login("ann", "phone", "ios")
		require.NoError(c.t, x.reg.Unserved(1))
		require.NoError(c.t, x.reg.Close(context.Background()))
		require.ErrorIs(c.t, x.reg.Unserved(1), session.ErrClosed)
		_, err := x.reg.Attach(context.Background(), session.AttachRequest{Account: "ann", Login: g.id, Token: g.token}, new(wire))
		require.ErrorIs(c.t, err, session.ErrClosed)
	})
}

// TestI28_DisplacedTabsAreShutTogether: nobody waits for those that hang.
func TestI28_DisplacedTabsAreShutTogether(t *testing.T) {
	inBubble(t, setup{rules: threeTabs}, func(w *world) {
		g := w.login("ann", "browser", "web")
		stop := make(chan struct{})
		for _, name := range []string{"1", "2", "3"} {
			_, err := w.reg.Attach(w.t.Context(), session.AttachRequest{Account: g.acc, Login: g.id, Token: g.token, Tab: name},
				&wire{onClose: func(event.Closed) error { <-stop; return nil }})
			require.NoError(w.t, err)
		}
		require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, onePhone)))
		start := time.Now()
		g.tab("4")
		require.Zero(w.t, time.Since(start))
		w.pass(time.Second)
		require.EqualValues(w.t, 3, w.reg.HungCloses())
		close(stop)
	})
}
