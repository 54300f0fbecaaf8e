package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// crowd attaches a device of each of n accounts.
func (w *world) crowd(n int) []*gadget {
	w.t.Helper()
	var all []*gadget
	for i := range n {
		all = append(all, w.join(event.Account(fmt.Sprint("ann", i)), "phone", "ios"))
	}
	return all
}

// told returns what a gadget's connection was told, which has to be to come back later because of a shutdown.
func (g *gadget) told() time.Duration {
	g.w.t.Helper()
	all := g.wire.ends()
	require.Len(g.w.t, all, 1)
	require.Equal(g.w.t, event.Shutdown, all[0].Reason)
	require.Equal(g.w.t, event.RetryAfter, all[0].Retry)
	return all[0].After
}

// TestK20_1_WhoFollowsTheAdviceMeetsTheNextProcess: on one node all are closed at once, and told to come when the next process
// is there. It takes them all, as fast as they come.
func TestK20_1_WhoFollowsTheAdviceMeetsTheNextProcess(t *testing.T) {
	const clients, perSecond = 60, 20
	const spread = time.Second * (clients - perSecond*3/4) / perSecond // a quarter of those that may come at once is left to others
	for name, c := range map[string]struct {
		stop  func(ctx context.Context, r *session.Registry) error
		least time.Duration
	}{
		"drain":                   {drain(session.DrainRequest{}), time.Second},
		"drain over 10 s":         {drain(session.DrainRequest{Over: 10 * time.Second}), time.Second},
		"drain, back after 300ms": {drain(session.DrainRequest{Over: 10 * time.Second, Back: 300 * time.Millisecond}), 300 * time.Millisecond},
		"drain, back after 30 s":  {drain(session.DrainRequest{Back: 30 * time.Second}), 30 * time.Second},
		"close":                   {func(ctx context.Context, r *session.Registry) error { return r.Close(ctx) }, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, setup{config: session.Config{AttachesPerSecond: perSecond, IdleTimeout: -1}}, func(w *world) {
				var all []*gadget
				for i := range clients {
					all = append(all, w.login(event.Account(fmt.Sprint("ann", i)), "phone", "ios"))
					w.pass(time.Second / perSecond)
					all[i].attach()
				}
				w.pass(time.Minute)
				begin := time.Now()
				require.NoError(w.t, c.stop(w.t.Context(), w.reg))
				require.Less(w.t, time.Since(begin), time.Millisecond, "nobody is closed later than another")
				told := map[time.Duration]int{}
				for _, g := range all {
					told[g.told()]++
					require.GreaterOrEqual(w.t, g.told(), c.least)
					require.LessOrEqual(w.t, g.told(), c.least+spread, "as long as a node takes to admit them all")
				}
				require.Greater(w.t, len(told), clients/2, "not all at once")
				w.pass(c.least - time.Millisecond)
				w.restart(w.now)
				slices.SortFunc(all, func(a, b *gadget) int { return int(a.told() - b.told()) })
				for _, g := range all {
					w.pass(g.told() - time.Since(begin))
					g.attach()
				}
			})
		})
	}
}

func drain(q session.DrainRequest) func(ctx context.Context, r *session.Registry) error {
	return func(ctx context.Context, r *session.Registry) error { return r.Drain(ctx, q) }
}

// TestK20_1_WhoComesMeanwhileIsToldTheSame: a login or an attach while the node drains, and after it was closed, is refused with
// the moment at which the next process is there, until that is over.
func TestK20_1_WhoComesMeanwhileIsToldTheSame(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "phone", "ios")
		come := func(is error, least, most time.Duration) {
			w.t.Helper()
			_, attach := g.tryAttach(new(wire))
			_, login := w.tryLogin(request("bob", "b1", "ios"))
			_, replacing := w.reg.LoginReplacing(context.Background(), request("ann", "a2", "ios"), g.id)
			for call, err := range map[string]error{"attach": attach, "login": login, "login replacing": replacing} {
				require.ErrorIs(w.t, err, is, call)
				stopping, ok := errors.AsType[*session.StoppingError](err)
				require.True(w.t, ok, "%s: %v", call, err)
				why := event.ClosedOf(err)
				require.Equal(w.t, event.Shutdown.Closed(stopping.RetryAfter), why)
				require.GreaterOrEqual(w.t, why.After, least, call)
				require.LessOrEqual(w.t, why.After, most, call)
			}
		}
		require.NoError(w.t, w.reg.Drain(w.t.Context(), session.DrainRequest{Back: 5 * time.Second}))
		come(session.ErrDraining, 5*time.Second, 5100*time.Millisecond)
		w.pass(3 * time.Second)
		come(session.ErrDraining, 2*time.Second, 2100*time.Millisecond)
		w.shut(w.reg)
		come(session.ErrClosed, 2*time.Second, 2100*time.Millisecond)
		w.pass(time.Minute) // the stop takes longer than was said
		come(session.ErrClosed, 100*time.Millisecond, time.Second)
	})
}

// TestD9_Drain: where other nodes take over, connections are closed evenly over the given time, in random order, and clients
// come back at once. Logins live on.
func TestD9_Drain(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		all := x.crowd(10)
		begin := time.Now()
		done := make(chan error, 1)
		go func() { done <- x.reg.Drain(c.t.Context(), session.DrainRequest{Over: 10 * time.Second}) }()
		x.pass(4500 * time.Millisecond)
		var shut []int
		for i, g := range all {
			if len(g.wire.called()) > 0 {
				shut = append(shut, i)
			}
		}
		require.Len(c.t, shut, 5, "half of them after half of the time")
		_, err := x.tryLogin(request("fay", "f1", "ios"))
		require.ErrorIs(c.t, err, session.ErrDraining)
		_, err = all[0].tryAttach(new(wire))
		require.ErrorIs(c.t, err, session.ErrDraining)
		require.NoError(c.t, <-done)
		require.LessOrEqual(c.t, time.Since(begin), 10*time.Second)
		for _, g := range all {
			require.LessOrEqual(c.t, g.told(), time.Second)
			g.on(y).attach()
		}
		ctx, cancel := context.WithCancel(c.t.Context())
		cancel()
		require.ErrorIs(c.t, y.reg.Drain(ctx, session.DrainRequest{Over: time.Hour}), context.Canceled)
	})
}

// A drain of several nodes at once, as of a whole cluster, waits for the next process like one of a single node; and a host can
// say of a single node that another one takes over.
func TestDrain_TheHostKnowsBetter(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, _ *world) {
		all := x.crowd(3)
		require.NoError(c.t, x.reg.Drain(c.t.Context(), session.DrainRequest{Over: time.Hour, Back: time.Minute}))
		for _, g := range all {
			require.GreaterOrEqual(c.t, g.told(), time.Minute)
		}
	})
	inBubble(t, setup{}, func(w *world) {
		all, begin := w.crowd(3), time.Now()
		require.NoError(w.t, w.reg.Drain(w.t.Context(), session.DrainRequest{Over: 3 * time.Second, Back: -1}))
		require.Equal(w.t, 2*time.Second, time.Since(begin))
		for _, g := range all {
			require.LessOrEqual(w.t, g.told(), time.Second)
		}
	})
}

// A connection whose Close hangs does not hold up a drain for longer than CloseTimeout.
func TestDrain_WaitsUntilAllAreTold(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		slow, hangs := w.login("ann", "a1", "ios"), w.login("bob", "b1", "ios")
		told, never := false, make(chan struct{})
		w.t.Cleanup(func() { close(never) })
		for g, wait := range map[*gadget]func(event.Closed) error{
			slow:  func(event.Closed) error { time.Sleep(300 * time.Millisecond); told = true; return nil },
			hangs: func(event.Closed) error { <-never; return nil },
		} {
			_, err := g.tryAttach(&wire{onClose: wait})
			require.NoError(w.t, err)
		}
		begin := time.Now()
		require.NoError(w.t, w.reg.Drain(w.t.Context(), session.DrainRequest{}))
		require.True(w.t, told)
		require.Equal(w.t, time.Second, time.Since(begin))
	})
}

// TestK20_2_WhatIsInDoubt: only after an end that was not in order is it in doubt what was sent to devices that are older, and
// an orderly end after it changes nothing for them.
func TestK20_2_WhatIsInDoubt(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		end := func(orderly bool) {
			w.shut(w.reg)
			if orderly {
				w.reg.Orderly(context.Background())
			}
			w.tick()
			w.open(w.now)
			w.tick()
			time.Sleep(2 * time.Millisecond)
		}
		restored := func(g *gadget) bool { return g.attach().conn.Restored() }
		first := w.join("ann", "a1", "ios")
		require.False(w.t, restored(first), "nothing was ever sent")
		end(true)
		require.False(w.t, restored(first))
		end(false)
		require.True(w.t, restored(first))
		require.True(w.t, restored(first), "it may not have acknowledged yet what was sent before")
		until, known := w.reg.Doubt()
		require.True(w.t, known)
		later := w.join("ann", "a2", "ios")
		require.False(w.t, restored(later), "only this engine has sent anything to it")
		end(true)
		again, known := w.reg.Doubt()
		require.True(w.t, known)
		require.Equal(w.t, until, again, "what was committed since is in no doubt")
		require.True(w.t, restored(first))
		end(false)
		require.True(w.t, restored(later))
		again, _ = w.reg.Doubt()
		require.True(w.t, again.After(until))
	})
}

// The word of the last engine holds for the next one only, also if that dies at once; and if it cannot be taken back, it is not
// believed.
func TestK20_2_TheWordOfAnOrderlyEndHoldsOnce(t *testing.T) {
	inBubble(t, setup{crowd: true}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.shut(w.reg)
		w.reg.Orderly(context.Background())
		w.tick()
		w.open(w.now)
		require.False(w.t, g.attach().conn.Restored())
		w.tick()
		w.st.abandon()
		w.open(w.now) // the one before is not closed
		require.True(w.t, g.attach().conn.Restored())
	})
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.shut(w.reg)
		w.reg.Orderly(context.Background())
		w.tick()
		w.st.set(func(f *faults) { f.beat = func() error { return errDown } })
		w.open(w.now)
		require.True(w.t, g.attach().conn.Restored())
	})
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.reg.Orderly(context.Background()) // before it was closed: that says nothing
		w.tick()
		w.restart(w.now)
		require.True(w.t, g.attach().conn.Restored())
	})
}

// An engine whose clock was ahead has stamped entries with times that are still to come: they are in doubt, too.
func TestK20_2_DoubtAfterAClockThatWasAhead(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"by 30 s": 30 * time.Second, "by 40 days": 40 * day} {
		t.Run(name, func(t *testing.T) {
			s, wall := withWall(setup{crowd: true})
			inBubble(t, s, func(w *world) {
				wall.set(ahead)
				w.restart(s)
				g := w.join("ann", "a1", "ios")
				w.pass(10 * time.Minute)
				stamped := w.reg.Clock().Now()
				w.st.abandon()
				w.open(s) // while it is ahead; the one before is not closed
				w.pass(time.Second)
				wall.set(0)
				w.st.abandon()
				w.open(s)
				require.True(w.t, g.attach().conn.Restored())
				until, _ := w.reg.Doubt()
				require.True(w.t, until.After(stamped))
			})
		})
	}
}

// The same if the clock was set right before the engine ended: then its last heartbeat is of the right time, and has a grace.
func TestK20_2_DoubtAfterAClockThatWasSetRight(t *testing.T) {
	s, wall := withWall(setup{crowd: true})
	inBubble(t, s, func(w *world) {
		wall.set(10 * time.Hour)
		w.restart(s)
		g := w.join("ann", "a1", "ios")
		stamped := w.reg.Clock().Now()
		wall.set(0)
		w.pass(time.Minute)
		w.st.abandon()
		w.open(s) // the one before is not closed
		require.True(w.t, g.attach().conn.Restored())
		until, _ := w.reg.Doubt()
		require.True(w.t, until.After(stamped))
	})
}

// A time of a few nanoseconds is one whose unit is missing.
func TestDrain_RefusesTimesThatMakeNoSense(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		for field, q := range map[string]session.DrainRequest{
			"Over": {Over: 30}, "Back": {Back: 500}, "Over Back": {Over: 25 * time.Hour, Back: 1<<63 - 1},
		} {
			err := w.reg.Drain(w.t.Context(), q)
			for f := range strings.FieldsSeq(field) {
				require.ErrorContains(w.t, err, f)
			}
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok)
		}
		require.True(w.t, g.live(), "nothing has happened")
		require.NoError(w.t, w.reg.Drain(w.t.Context(), session.DrainRequest{Over: -1, Back: -1}))
	})
}
