package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

// beat returns the stored heartbeat: what the wall clock said, and how much of the grace was left. Zero: there is none.
func (w *world) beat() (at time.Time, left time.Duration) {
	w.t.Helper()
	page, err := w.st.States(context.Background(), engine, store.StateOptions{Limit: 10})
	require.NoError(w.t, err)
	for _, s := range page.States {
		require.True(w.t, s.Internal())
		var ms int64
		_, err := fmt.Sscan(string(s.Value), &ms)
		require.NoError(w.t, err)
		return time.UnixMilli(int64(s.Number)), time.Duration(ms) * time.Millisecond
	}
	return time.Time{}, 0
}

// off closes the registry and opens another one over the same store after a time without any.
func (w *world) off(d time.Duration, s setup) {
	w.t.Helper()
	w.shut(w.reg)
	w.pass(d)
	w.open(s)
}

// TestK1_5_ADeviceComesBackAfterTheServerWasAway (I30): its login and its place in the inbox are there.
func TestK1_5_ADeviceComesBackAfterTheServerWasAway(t *testing.T) {
	s := setup{}
	inBubble(t, s, func(w *world) {
		g := w.join("ann", "phone", "ios")
		other := w.join("ann", "pad", "ios")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", other.id))
		w.saveCursor("ann", g.res.Session.Incarnation, 1)
		w.pass(time.Hour)
		w.off(40*day, s)
		w.pass(10 * time.Minute)
		require.Equal(w.t, event.Logout, other.refused().Reason)
		away := w.clocks()
		require.Len(w.t, away, 1)
		require.Equal(w.t, session.ChangeServerAway, away[0].Kind)
		require.InDelta(w.t, 40*day, away[0].By, float64(time.Second))
		g.attach()
		require.EqualValues(w.t, 1, w.cursor("ann", g.res.Session.Incarnation))
		all, err := w.reg.Devices(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Len(w.t, all, 2)
	})
}

// TestK1_6_AFileThatWasOpenedWithTheClockAhead: for 5 min, closed, and opened again with the right clock.
func TestK1_6_AFileThatWasOpenedWithTheClockAhead(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"40 days ahead": 40 * day, "in 1972": -28 * 365 * day} {
		t.Run(name, func(t *testing.T) {
			s, wall := withWall(setup{})
			inBubble(t, s, func(w *world) {
				g := w.join("ann", "phone", "ios")
				g.conn.Detach()
				w.pass(10 * time.Minute)
				w.shut(w.reg)
				wall.set(ahead)
				w.open(s)
				w.pass(5 * time.Minute)
				w.shut(w.reg)
				wall.set(0)
				w.open(s)
				w.pass(2 * day) // beyond the grace
				require.Equal(w.t, "phone", w.devices("ann"))
				require.WithinDuration(w.t, time.Now().Add(-2*day-15*time.Minute), w.list("ann")[0].LastSeen, time.Hour,
					"a wrong clock has not touched what was stored before")
				g.attach()
			})
		})
	}
}

// TestI30_TheGraceOutlivesRestarts: it is counted in uptime, and what is old goes when it is over.
func TestI30_TheGraceOutlivesRestarts(t *testing.T) {
	s := setup{}
	inBubble(t, s, func(w *world) {
		w.join("ann", "phone", "ios").conn.Detach()
		w.pass(time.Hour)
		w.off(40*day, s)
		w.pass(5 * time.Minute)
		w.off(30*time.Minute, s) // the heartbeat is recent
		require.Equal(w.t, "phone", w.devices("ann"))
		for range 22 {
			w.pass(time.Hour)
			w.off(time.Minute, s)
		}
		w.pass(time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"), "up for 23 h 5 min")
		w.pass(2 * time.Hour)
		require.Empty(w.t, w.devices("ann"))
		_, left := w.beat()
		require.Zero(w.t, left)
	})
}

// TestI30_TheGraceOutlivesACrash: an engine that is not closed has its heartbeat written in time.
func TestI30_TheGraceOutlivesACrash(t *testing.T) {
	s := setup{}
	inBubble(t, s, func(w *world) {
		w.join("ann", "phone", "ios").conn.Detach()
		w.pass(20 * time.Minute)
		at, left := w.beat()
		require.WithinDuration(w.t, time.Now().Add(-5*time.Minute), at, time.Second)
		require.Zero(w.t, left)
		w.shut(w.reg)
		w.pass(40 * day)
		reg := w.open(s)
		w.pass(time.Minute)
		w.st.set(func(f *faults) { f.beat = func() error { return errDown } }) // from now on it may as well be dead
		w.shut(reg)
		_, left = w.beat()
		require.InDelta(w.t, day, left, float64(10*time.Second), "written at the start")
		w.st.heal()
		w.open(s)
		w.pass(20 * time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"))
	})
}

// TestHeartbeat_AStepIsWrittenDownAtOnce so that the grace is known after a crash.
func TestHeartbeat_AStepIsWrittenDownAtOnce(t *testing.T) {
	s, wall := withWall(setup{})
	inBubble(t, s, func(w *world) {
		w.pass(time.Minute)
		wall.set(time.Hour)
		w.pass(10 * time.Second)
		at, left := w.beat()
		require.WithinDuration(w.t, time.Now().Add(time.Hour), at, 10*time.Second)
		require.InDelta(w.t, day, left, float64(time.Minute))
	})
}

// TestHeartbeat_WhatCountsAsAbsence: which stores an engine was away from.
func TestHeartbeat_WhatCountsAsAbsence(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(w *world)
		away    time.Duration
		told    int
	}{
		"an empty store": {func(*world) {}, 0, 0},
		"a store that was used an hour ago": {func(w *world) {
			w.login("ann", "phone", "ios")
			w.shut(w.reg)
			w.pass(59 * time.Minute)
		}, 0, 0},
		"a store with accounts and no heartbeat": {func(w *world) {
			w.login("ann", "phone", "ios")
			w.shut(w.reg)
			require.NoError(w.t, w.st.Store.Delete(w.t.Context(), engine, 0))
		}, 0, 1},
		"a heartbeat that cannot be read": {func(w *world) {
			w.login("ann", "phone", "ios")
			w.shut(w.reg)
			w.st.set(func(f *faults) { f.states = func() error { return errDown } })
		}, 0, 1},
		"a heartbeat that makes no sense": {func(w *world) {
			w.shut(w.reg)
			_, err := w.st.Store.Commit(w.t.Context(), store.Batch{Account: engine, Now: time.Now(), States: []store.StateUpdate{{
				Conversation: "_engine", Name: "_heartbeat", Merge: store.MergeLast, Number: 7, Value: []byte("x"),
			}}})
			require.NoError(w.t, err)
		}, -1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				tc.prepare(w)
				w.st.abandon()
				w.open(setup{})
				w.st.heal()
				w.pass(10 * time.Second)
				told := w.clocks()
				require.Len(w.t, told, tc.told)
				for _, c := range told {
					require.Equal(w.t, session.ChangeServerAway, c.Kind)
					if tc.away >= 0 {
						require.Equal(w.t, tc.away, c.By)
					}
				}
				w.pass(beatWritten)
				at, _ := w.beat()
				require.WithinDuration(w.t, time.Now(), at, 16*time.Minute, "there is one from now on")
			})
		})
	}
}

const beatWritten = 2 * time.Minute

// TestHeartbeat_AStoreThatIsAwayHoldsUpNothing: a write that fails is logged once, tried again, and waited for by nobody.
func TestHeartbeat_AStoreThatIsAwayHoldsUpNothing(t *testing.T) {
	var out bytes.Buffer
	s := setup{config: session.Config{Logger: slog.New(slog.NewTextHandler(&out, nil))}}
	inBubble(t, s, func(w *world) {
		w.pass(time.Minute)
		w.st.set(func(f *faults) { f.beat = func() error { return errDown } })
		w.pass(3 * time.Hour)
		w.join("ann", "phone", "ios")
		require.Equal(w.t, 1, strings.Count(out.String(), "heartbeat"))
		w.st.heal()
		w.pass(beatWritten)
		at, _ := w.beat()
		require.WithinDuration(w.t, time.Now(), at, beatWritten)
		w.st.set(func(f *faults) { f.beat = func() error { return errDown } })
		w.shut(w.reg)
	})
}

// TestHeartbeat_IsNobodysAccount: no store lists it, and it stays over restarts, in memory and on file.
func TestHeartbeat_IsNobodysAccount(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		w.shut(w.reg)
		all, err := w.st.Accounts(w.t.Context(), "", 10)
		require.NoError(w.t, err)
		require.Empty(w.t, all)
		first, _ := w.beat()
		require.False(w.t, first.IsZero())
		w.login2()
		w.shut(w.reg)
		all, err = w.st.Accounts(w.t.Context(), "", 10)
		require.NoError(w.t, err)
		require.Equal(w.t, []event.Account{"ann"}, all)
	})
}

// login2 opens the registry again and logs somebody in.
func (w *world) login2() {
	w.open(w.now)
	w.login("ann", "phone", "ios")
}

// TestK1_5_AFileAfter40Days: the file itself forgets nothing either. Its clock is the engine's.
func TestK1_5_AFileAfter40Days(t *testing.T) {
	s, wall := withWall(setup{config: session.Config{SweepInterval: 10 * time.Millisecond, JanitorInterval: 10 * time.Millisecond, ResumeWindow: -1}})
	path := filepath.Join(t.TempDir(), "store")
	w := &world{t: t, real: true}
	var g *gadget
	open := func() {
		st, err := boltstore.Open(path, boltstore.Config{})
		require.NoError(t, err)
		w.st = withFaults(st)
		w.open(s)
	}
	shut := func() {
		w.shut(w.reg)
		require.NoError(t, w.st.Close(context.Background()))
	}
	open()
	g = w.join("ann", "phone", "ios")
	g.conn.Detach()
	require.Eventually(t, func() bool { return w.states("ann")[0] == session.Offline }, 10*time.Second, time.Millisecond)
	shut()
	for _, ahead := range []time.Duration{40 * day, 40*day + 30*time.Minute, 0, -20 * 365 * day, 0} {
		wall.set(ahead)
		open()
		time.Sleep(1_200 * time.Millisecond) // the janitor comes after a second
		require.Equal(t, "phone", w.devices("ann"))
		require.Equal(t, []session.State{session.Offline}, w.states("ann"))
		shut()
	}
	open()
	g.attach()
	shut()
}

// TestHeartbeat_ASlowStoreDoesNotKeepNewFromReturning for longer than 5 s, nor Close for longer than a small part of that.
func TestHeartbeat_ASlowStoreDoesNotKeepNewFromReturning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &hangingStates{Store: memstore.New(memstore.Config{})}
		begun := time.Now()
		reg, err := session.New(st, session.Config{})
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(begun), 5*time.Second)
		begun = time.Now()
		require.NoError(t, errors.Join(reg.Close(t.Context()), st.Close(t.Context())))
		require.LessOrEqual(t, time.Since(begun), time.Second, "Close has more to do in its 5 s")
	})
}

type hangingStates struct{ store.Store }

func (s *hangingStates) States(ctx context.Context, _ event.Account, _ store.StateOptions) (store.StatePage, error) {
	<-ctx.Done()
	return store.StatePage{}, ctx.Err()
}
