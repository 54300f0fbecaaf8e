package session_test

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// wallClock is a wall clock that tests move without moving elapsed time.
type wallClock struct{ off atomic.Int64 }

// now is for session.Config.Wall.
func (c *wallClock) now() time.Time { return time.Now().Add(time.Duration(c.off.Load())) }

// set moves the clock so that it is ahead of the right time by this much.
func (c *wallClock) set(ahead time.Duration) { c.off.Store(int64(ahead)) }

const day = 24 * time.Hour

// withWall returns a setup with a wall clock that the test moves.
func withWall(s setup) (setup, *wallClock) {
	wall := new(wallClock)
	s.config.Wall = wall.now
	return s, wall
}

// clocks returns what was told of the clock and of the server's absence since the last call.
func (w *world) clocks() []session.Change {
	all := slices.DeleteFunc(w.history(), func(c session.Change) bool {
		return c.Kind != session.ChangeClockStepped && c.Kind != session.ChangeServerAway
	})
	before := w.noted
	w.noted = len(all)
	return all[before:]
}

// TestK1_1_LivelyConnectionsOutliveASetClock (I30): devices that ping every 25 s stay, however the wall clock is set, and it
// is told.
func TestK1_1_LivelyConnectionsOutliveASetClock(t *testing.T) {
	for name, step := range map[string]time.Duration{
		"100 s ahead": 100 * time.Second, "an hour back": -time.Hour, "40 days ahead": 40 * day, "back to 1972": -28 * 365 * day,
	} {
		t.Run(name, func(t *testing.T) {
			s, wall := withWall(setup{rules: policy.Rules{PerPlatform: -1}})
			inBubble(t, s, func(w *world) {
				var all []*gadget
				for i := range 50 {
					all = append(all, w.join(event.Account(fmt.Sprint("u", i%10)), event.DeviceID(fmt.Sprint("d", i)), "ios"))
				}
				ping := func(d time.Duration) {
					for range int(d / (25 * time.Second)) {
						w.pass(25 * time.Second)
						for _, g := range all {
							g.conn.Touch()
						}
					}
				}
				ping(5 * time.Minute)
				w.clocks()
				wall.set(step)
				ping(10 * time.Minute)
				for _, g := range all {
					require.True(w.t, g.live())
					require.Empty(w.t, g.wire.ends())
				}
				require.Equal(w.t, []session.Change{{Kind: session.ChangeClockStepped, By: step}}, w.clocks())
				wall.set(0)
				ping(10 * time.Minute)
				for _, g := range all {
					require.True(w.t, g.live())
				}
				require.Equal(w.t, []session.Change{{Kind: session.ChangeClockStepped, By: -step}}, w.clocks())
				seen := w.list("u1")[0].LastSeen
				require.WithinDuration(w.t, time.Now(), seen, time.Second, "views show wall-clock time")
			})
		})
	}
}

// TestK1_2_ALoginThatLingersOutlivesASetClock: it keeps its slot for its resume window of real time, and no longer.
func TestK1_2_ALoginThatLingersOutlivesASetClock(t *testing.T) {
	for name, step := range map[string]time.Duration{"3 min ahead": 3 * time.Minute, "3 min back": -3 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			s, wall := withWall(setup{})
			inBubble(t, s, func(w *world) {
				g := w.join("ann", "phone", "ios")
				g.conn.Detach()
				w.pass(8 * time.Second)
				wall.set(step)
				w.pass(90 * time.Second)
				require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
				w.pass(30 * time.Second)
				require.Equal(w.t, []session.State{session.Offline}, w.states("ann"))
			})
		})
	}
}

// TestK1_3_ADeadSocketIsFoundAlthoughTheClockWasSetBack: after the idle bound and the resume window of real time.
func TestK1_3_ADeadSocketIsFoundAlthoughTheClockWasSetBack(t *testing.T) {
	s, wall := withWall(setup{})
	inBubble(t, s, func(w *world) {
		g := w.join("ann", "phone", "ios")
		w.pass(time.Second)
		wall.set(-time.Hour)
		w.pass(95 * time.Second)
		require.Equal(w.t, []event.Reason{event.Lost}, g.wire.reasons())
		require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
		w.pass(125 * time.Second)
		require.Equal(w.t, []session.State{session.Offline}, w.states("ann"))
	})
}

// TestI30_AProcessThatStoodStillClosesNobody: while it did, nobody could be heard and nobody could come back. What stands still
// here is the sweep alone: it waits for a log line to be written.
func TestI30_AProcessThatStoodStillClosesNobody(t *testing.T) {
	p := &paused{Handler: slog.NewTextHandler(io.Discard, nil)}
	s, wall := withWall(setup{config: session.Config{Logger: slog.New(p)}})
	inBubble(t, s, func(w *world) {
		p.gate = make(chan struct{})
		g, o := w.join("ann", "phone", "ios"), w.join("ann", "pad", "ios")
		w.pass(time.Minute)
		g.conn.Touch()
		o.conn.Detach()
		wall.set(2 * time.Minute)
		w.pass(10 * time.Minute)
		require.Equal(w.t, []session.State{session.Online, session.Lingering}, w.states("ann"))
		close(p.gate)
		w.pass(time.Minute)
		require.Empty(w.t, g.wire.ends())
		require.Equal(w.t, []session.State{session.Online, session.Lingering}, w.states("ann"))
		w.pass(90 * time.Second)
		require.Equal(w.t, []event.Reason{event.Lost}, g.wire.reasons(), "it was silent since")
		require.Equal(w.t, session.Offline, w.states("ann")[1])
	})
}

// TestI30_OfflineLoginsOutliveASetClock: whatever the wall clock says, nobody goes for their age until the grace is over.
// Then what is old does go.
func TestI30_OfflineLoginsOutliveASetClock(t *testing.T) {
	s, wall := withWall(setup{config: session.Config{IdleDevice: 30 * day, TombstoneTTL: 30 * day}})
	inBubble(t, s, func(w *world) {
		g := w.join("ann", "phone", "ios")
		gone := w.join("ann", "pad", "ios")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", gone.id))
		g.conn.Detach()
		w.pass(3 * time.Hour)
		wall.set(40 * day)
		w.pass(23 * time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"))
		require.Equal(w.t, event.Logout, gone.refused().Reason, "the tombstone is there")
		wall.set(0)
		w.pass(30 * time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"), "nothing of the step is left")
		g.attach()
		g.conn.Detach()
		wall.set(-20 * 365 * day)
		w.pass(20 * time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"))
		wall.set(0)
		w.pass(20 * time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"))
		w.pass(3 * day)
		wall.set(40 * day)
		w.pass(23 * time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"))
		w.pass(3 * time.Hour)
		require.Empty(w.t, w.devices("ann"), "the clock has said so for a day")
		all, err := w.reg.Devices(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Empty(w.t, all)
		require.Equal(w.t, event.ExpiredIdle, g.refused().Reason)
	})
}

// TestI30_WhatWasStoredWhileTheClockWasBehind is not as old as the clock says when it has been set right: the phone was
// there a day ago. A device whose time was noted before does not get an older one.
func TestI30_WhatWasStoredWhileTheClockWasBehind(t *testing.T) {
	s, wall := withWall(setup{config: session.Config{IdleDevice: 30 * day}})
	inBubble(t, s, func(w *world) {
		gone := w.login("ann", "gone", "web")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", gone.id))
		w.pass(29*day + 12*time.Hour)
		w.join("ann", "pad", "web").conn.Detach()
		w.pass(time.Hour)
		wall.set(-26 * 365 * day)
		w.join("ann", "phone", "ios").conn.Detach()
		pad := w.login("ann", "pad", "web")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", pad.id))
		w.pass(10 * time.Minute)
		wall.set(0)
		w.pass(26 * time.Hour)
		require.Equal(w.t, event.Logout, pad.refused().Reason, "it may learn why for 30 days")
		require.Equal(w.t, "phone", w.devices("ann"))
		w.restart(s)
		all, err := w.reg.Devices(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Contains(w.t, all, event.DeviceID("pad"))
		require.NotContains(w.t, all, event.DeviceID("gone"))
		wall.set(100 * day)
		w.pass(26 * time.Hour)
		require.Empty(w.t, w.devices("ann"), "the clock has said so for a day")
	})
}

// TestI30_AGraceWithoutEnd: the longest one that a host can ask for is not none.
func TestI30_AGraceWithoutEnd(t *testing.T) {
	s, wall := withWall(setup{config: session.Config{AgeGrace: 30 * 365 * day, IdleDevice: 30 * day}})
	inBubble(t, s, func(w *world) {
		w.join("ann", "phone", "ios").conn.Detach()
		w.pass(time.Hour)
		wall.set(40 * day)
		w.pass(30 * time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"))
		w.restart(s)
		w.clocks()
		w.restart(s)
		w.pass(30 * time.Hour)
		require.Equal(w.t, "phone", w.devices("ann"))
		require.Empty(w.t, w.clocks(), "what is left of it can be read")
	})
}

// TestK1_NoPictureShowsATimeOfTheFuture: the clock was ahead when a device was seen, and an account banned.
func TestK1_NoPictureShowsATimeOfTheFuture(t *testing.T) {
	s, wall := withWall(setup{})
	inBubble(t, s, func(w *world) {
		wall.set(3 * day)
		g := w.join("ann", "phone", "ios")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", g.id))
		_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann"})
		require.NoError(w.t, err)
		wall.set(0)
		in, err := w.reg.Inspect(w.t.Context(), "ann")
		require.NoError(w.t, err)
		for _, at := range []time.Time{in.Devices[0].LastSeen, in.Devices[0].FirstSeen, in.Recent[0].Time, in.Ban.Since} {
			require.False(w.t, at.After(time.Now()), "%v", at)
		}
	})
}

// TestI30_WhatAHostHasDatedGoesByTheWallClock: absolute lifetimes and bans.
func TestI30_WhatAHostHasDatedGoesByTheWallClock(t *testing.T) {
	s, wall := withWall(setup{config: session.Config{AbsoluteLifetime: 30 * day}})
	inBubble(t, s, func(w *world) {
		g := w.join("ann", "phone", "ios")
		_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ben", Until: time.Now().Add(30 * day)})
		require.NoError(w.t, err)
		wall.set(40 * day)
		w.pass(10 * time.Second)
		require.Equal(w.t, []event.Reason{event.ExpiredAbsolute}, g.wire.reasons())
		w.login("ben", "phone", "ios")
	})
}

// TestK1_TimesOfAClockThatWasAheadAreClamped: what was stored while the clock was ten years ahead ages from the end of the grace
// on, instead of staying for ten years.
func TestK1_TimesOfAClockThatWasAheadAreClamped(t *testing.T) {
	s, wall := withWall(setup{config: session.Config{IdleDevice: 30 * day, TombstoneTTL: 30 * day, TokenRotation: day}})
	inBubble(t, s, func(w *world) {
		wall.set(3650 * day)
		g := w.join("ann", "phone", "ios")
		gone := w.join("ann", "pad", "ios")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", gone.id))
		w.join("ben", "phone", "ios")
		wall.set(0)
		w.pass(time.Minute)
		v := w.list("ann")[0]
		require.False(w.t, v.LastSeen.After(time.Now()), "no view is of the future")
		require.False(w.t, v.LoggedInAt.After(time.Now()))
		g.conn.Detach()
		w.pass(29 * day)
		require.Equal(w.t, "phone", w.devices("ann"))
		require.Equal(w.t, event.Logout, gone.refused().Reason)
		w.pass(3 * day)
		require.Empty(w.t, w.devices("ann"))
		w.pass(day)
		_, err := gone.tryAttach(new(wire))
		require.ErrorIs(w.t, err, session.ErrUnknownLogin)
		require.NotErrorIs(w.t, err, session.ErrEnded)
	})
}

// TestI30_I40_AnotherNodesWrongClockEndsNobody: what it has stored looks old to a node whose clock is right.
func TestI30_I40_AnotherNodesWrongClockEndsNobody(t *testing.T) {
	s, wall := withWall(setup{})
	s.config.SweepInterval = time.Second
	onNodes(t, setup{}, func(c *cluster, x, _ *world) {
		z := c.join("z", s)
		z.pass(3 * day)
		wall.set(-40 * day)
		z.pass(10 * time.Second)
		g := z.join("ann", "phone", "ios")
		gone := z.join("ann", "pad", "ios")
		require.NoError(z.t, z.reg.Logout(z.t.Context(), "ann", gone.id))
		g.conn.Detach()
		z.pass(30 * time.Minute)
		require.Equal(z.t, "phone", x.devices("ann"))
		require.Equal(z.t, event.Logout, gone.on(x).refused().Reason)
		wall.set(0)
		z.pass(10 * time.Second)
		g.on(x).attach().conn.Detach()
		x.pass(26 * time.Hour)
		require.Equal(z.t, "phone", x.devices("ann"))
		x.pass(32 * day)
		require.Empty(z.t, x.devices("ann"), "the grace ends all the same, although each node hears of the other's")
	})
}
