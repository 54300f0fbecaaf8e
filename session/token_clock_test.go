package session_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// comes attaches another process of the app, which has the token of before, and returns the token that it is handed.
func (g *gadget) comes(w *world, old event.ResumeToken) event.ResumeToken {
	extension := g.on(w)
	extension.token = old
	return extension.attach().conn.Token()
}

// stays has no time-outs, so that only what a test is about happens.
func stays() setup { return setup{config: session.Config{IdleTimeout: -1}} }

// TestK11_4_K1_AClockThatIsSetWithinTheIntervalLogsNobodyOut: the token was replaced on one node; another one, whose wall
// clock is set a second later, still takes the one before.
func TestK11_4_K1_AClockThatIsSetWithinTheIntervalLogsNobodyOut(t *testing.T) {
	for name, step := range map[string]time.Duration{
		"100 s ahead": 100 * time.Second, "100 s back": -100 * time.Second, "40 days ahead": 40 * day, "an hour back": -time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, stays(), func(c *cluster, x, _ *world) {
				z, wall := c.clocked("z")
				g, old, next := rotated(x)
				require.NoError(c.t, x.reg.ConfirmToken(c.t.Context(), g.conn))
				x.pass(time.Second)
				wall.set(step)
				require.Equal(c.t, next.Reveal(), g.comes(z, old).Reveal())
				x.pass(10 * time.Second)
				late := g.on(z)
				late.token = old
				require.Equal(c.t, event.TokenReuse, late.refused().Reason, "I26")
			})
		})
	}
}

// TestK11_4_K1_NodesWithClocksThatDiffer: the node on which the token was replaced knows when that was, whatever the record says
// after another node has worked on it. A node whose clock is behind does not take it for longer than from when it saw that.
func TestK11_4_K1_NodesWithClocksThatDiffer(t *testing.T) {
	for name, ahead := range map[string]time.Duration{
		"2 min ahead": 2 * time.Minute, "15 s ahead": 15 * time.Second, "15 s behind": -15 * time.Second, "50 s behind": -50 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			s := stays()
			s.config.AgeGrace = -1
			onNodes(t, s, func(c *cluster, _, y *world) {
				s, wall := withWall(s)
				wall.set(ahead)
				z := c.join("z", s)
				g, old, next := rotated(z)
				require.NoError(c.t, z.reg.ConfirmToken(c.t.Context(), g.conn))
				y.login("ann", "b", "web")
				z.pass(time.Second)
				require.Equal(c.t, next.Reveal(), g.comes(z, old).Reveal())
				z.pass(11 * time.Second)
				late := g.on(y)
				late.token = old
				require.Equal(c.t, event.TokenReuse, late.refused().Reason, "I26")
			})
		})
	}
}

// TestI26_AClockThatIsSetDoesNotBeginTheIntervalAgain: neither when it says the time of the replacement a second time, nor when a
// time that was ahead is clamped.
func TestI26_AClockThatIsSetDoesNotBeginTheIntervalAgain(t *testing.T) {
	story := func(name string, before time.Duration, run func(w *world, g *gadget, wall *wallClock)) {
		t.Run(name, func(t *testing.T) {
			s, wall := withWall(stays())
			s.config.JanitorInterval = -1
			inBubble(t, s, func(w *world) {
				wall.set(before)
				g, old, next := rotated(w)
				require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
				g.token = next
				run(w, g, wall)
				thief := g.on(w)
				thief.token = old
				require.Equal(w.t, event.TokenReuse, thief.refused().Reason)
			})
		})
	}
	story("an hour back, an hour later", 0, func(w *world, _ *gadget, wall *wallClock) {
		wall.set(-time.Hour)
		w.pass(time.Hour)
	})
	story("an hour back, a restart, an hour later", 0, func(w *world, g *gadget, wall *wallClock) {
		wall.set(-time.Hour)
		w.pass(time.Minute)
		w.restart(w.now)
		g.attach()
		w.pass(59 * time.Minute)
	})
	story("three days ahead, set right, the grace is over", 3*day, func(w *world, _ *gadget, wall *wallClock) {
		wall.set(0)
		w.pass(25 * time.Hour)
	})
}

// TestToken_OneIntervalAtATimeWhateverTheClockSays: a clock that is set ahead by a day makes the next token due, but not
// while the one before may still be used.
func TestToken_OneIntervalAtATimeWhateverTheClockSays(t *testing.T) {
	s, wall := withWall(stays())
	inBubble(t, s, func(w *world) {
		app, old, next := rotated(w)
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), app.conn))
		w.pass(time.Second)
		wall.set(25 * time.Hour)
		app.token = next
		app.attach()
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), app.conn))
		require.Equal(w.t, next.Reveal(), app.comes(w, old).Reveal())
	})
}
