package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// clocked joins a node whose wall clock the test moves.
func (c *cluster) clocked(name event.NodeID) (*world, *wallClock) {
	c.t.Helper()
	s, wall := withWall(setup{})
	return c.join(name, s), wall
}

// TestK1_8_ASuspendedNodeServesNobody: elapsed time stands still while a machine is suspended. When it goes on, only the wall
// clock says that its lease is over; another node may have its logins by then.
func TestK1_8_ASuspendedNodeServesNobody(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, _, y *world) {
		z, wall := c.clocked("z")
		g := z.join("ann", "phone", "ios")
		z.pass(time.Second)
		sent := g.wire.sent()
		lease := c.lease("z")
		require.NoError(c.t, c.leases.Release(c.t.Context(), lease)) // for the others its time is over
		wall.set(time.Minute)
		require.False(c.t, g.live())
		require.Equal(c.t, sent, g.wire.sent(), "nothing was sent")
		z.pass(time.Second)
		require.Equal(c.t, []event.Reason{event.LeaseLost}, g.wire.reasons())
		require.Equal(c.t, sent, g.wire.sent())
		g.on(y).attach()
	})
}

// TestI30_ASetClockEndsNoLease: a node whose wall clock was set asks for its lease, still has it, and goes on serving. The Send
// that found out has waited for the answer.
func TestI30_ASetClockEndsNoLease(t *testing.T) {
	for name, step := range map[string]time.Duration{"a minute ahead": time.Minute, "40 days ahead": 40 * day, "an hour back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{}, func(c *cluster, _, y *world) {
				z, wall := c.clocked("z")
				g := z.join("ann", "phone", "ios")
				z.pass(3 * time.Second)
				wall.set(step)
				require.True(c.t, g.live())
				h := z.join("ben", "phone", "ios")
				z.pass(time.Minute)
				require.True(c.t, g.live())
				require.True(c.t, h.live())
				require.Empty(c.t, g.wire.ends())
				wall.set(0)
				z.pass(time.Minute)
				require.True(c.t, g.live())
				require.Equal(c.t, []session.State{session.Online}, y.states("ann"))
			})
		})
	}
}

// TestI36_ALeaseInDoubtIsWaitedForAsLongAsTheContextAllows, and no longer than it lasts by elapsed time.
func TestI36_ALeaseInDoubtIsWaitedForAsLongAsTheContextAllows(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, _, _ *world) {
		z, wall := c.clocked("z")
		g := z.join("ann", "phone", "ios")
		z.pass(time.Second)
		sent, begun := g.wire.sent(), time.Now()
		c.cut["z"].hang.Store(true)
		wall.set(time.Minute)
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		defer cancel()
		err := g.conn.Send(ctx, []event.Frame{&event.Pong{}})
		require.ErrorIs(c.t, err, context.DeadlineExceeded)
		require.Equal(c.t, time.Second, time.Since(begun))
		_, err = z.reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: g.id, Token: g.token}, new(wire))
		require.ErrorIs(c.t, err, session.ErrNoLease)
		require.ErrorIs(c.t, g.conn.Send(c.t.Context(), []event.Frame{&event.Pong{}}), session.ErrFenced)
		require.LessOrEqual(c.t, time.Since(begun), 15*time.Second)
		require.Equal(c.t, sent, g.wire.sent())
		z.pass(time.Second)
		require.Equal(c.t, []event.Reason{event.LeaseLost}, g.wire.reasons())
	})
}

// TestK1_2_LingeringOverNodesOutlivesASetClock: on the node that it left and on another one.
func TestK1_2_LingeringOverNodesOutlivesASetClock(t *testing.T) {
	for name, step := range map[string]time.Duration{"3 min ahead": 3 * time.Minute, "3 min back": -3 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{}, func(c *cluster, _, y *world) {
				z, wall := c.clocked("z")
				v, other := c.clocked("v")
				g := z.join("ann", "phone", "ios")
				g.conn.Detach()
				z.pass(20 * time.Second)
				require.Equal(c.t, []session.State{session.Lingering}, y.states("ann"))
				wall.set(step)
				other.set(step)
				z.pass(80 * time.Second)
				for _, w := range []*world{y, z, v} {
					require.Equal(c.t, []session.State{session.Lingering}, w.states("ann"))
				}
				z.pass(30 * time.Second)
				for _, w := range []*world{y, z, v} {
					require.Equal(c.t, []session.State{session.Offline}, w.states("ann"))
				}
			})
		})
	}
}

// TestK1_ALoginThatLeftInTheFuture: the clock of the node that it left was a day ahead. It lingers for its window and no longer.
func TestK1_ALoginThatLeftInTheFuture(t *testing.T) {
	onNodes(t, setup{config: session.Config{JanitorInterval: time.Minute}}, func(c *cluster, x, y *world) {
		z, wall := c.clocked("z")
		wall.set(day)
		g := z.join("ann", "phone", "ios")
		g.conn.Detach()
		z.pass(10 * time.Second)
		z.shut(z.reg)
		require.Equal(c.t, []session.State{session.Lingering}, y.states("ann"))
		x.pass(10 * time.Minute)
		require.Equal(c.t, []session.State{session.Offline}, y.states("ann"))
	})
}
