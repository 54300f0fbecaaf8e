package session_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// TestHeartbeat_NodesShareIt: one that starts beside others that live was not away, and the rest of a grace is not lost when
// another one writes.
func TestHeartbeat_NodesShareIt(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		x.login("ann", "phone", "ios")
		x.pass(3 * day)
		z := c.join("z", setup{})
		z.pass(10 * time.Second)
		require.Empty(z.t, z.clocks())
		s, wall := withWall(setup{})
		v := c.join("v", s)
		wall.set(time.Hour)
		v.pass(10 * time.Second)
		wall.set(0)
		v.pass(10 * time.Second)
		require.Len(v.t, v.clocks(), 2)
		v.shut(v.reg)
		x.pass(time.Hour) // the others have written since
		_, left := x.beat()
		require.InDelta(x.t, 23*time.Hour, left, float64(time.Minute))
	})
}

// TestI30_AnotherNodesWrongClockAgesNobody: the clock of node z is set back to 1974. What it stores by that is old for the
// others, but they know of its grace before they end or forget anything, and so does z when it starts again with the clock
// right.
func TestI30_AnotherNodesWrongClockAgesNobody(t *testing.T) {
	for name, wait := range map[string]time.Duration{"at once": 0, "after 30 min": 30 * time.Minute, "after 20 h": 20 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{config: session.Config{IdleDevice: 30 * day}}, func(c *cluster, _, y *world) {
				z, wall := c.clocked("z")
				z.pass(time.Hour)
				wall.set(-26 * 365 * day)
				z.pass(10 * time.Second)
				g := z.join("ann", "phone", "ios")
				g.conn.Detach()
				gone := z.join("ann", "pad", "ios")
				require.NoError(c.t, z.reg.Logout(c.t.Context(), "ann", gone.id))
				z.pass(time.Second + wait)
				y.login("ann", "b", "web")
				require.Equal(c.t, "phone b", y.devices("ann"))
				require.Equal(c.t, event.Logout, gone.on(y).refused().Reason, "the tombstone is there")
				z.shut(z.reg)
				wall.set(0)
				z.open(z.now)
				_, left := y.beat()
				require.GreaterOrEqual(c.t, left, 23*time.Hour-wait)
				z.login("ann", "c", "web")
				require.Equal(c.t, "phone b c", z.devices("ann"))
				known, err := y.reg.Devices(c.t.Context(), "ann")
				require.NoError(c.t, err)
				require.Contains(c.t, known, event.DeviceID("pad"))
			})
		})
	}
}

// TestHeartbeat_GracesDoNotKeepEachOtherUp: of several nodes that read each other's, each is over when it is over.
func TestHeartbeat_GracesDoNotKeepEachOtherUp(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		z, wall := c.clocked("z")
		z.pass(time.Hour)
		wall.set(-time.Hour)
		z.pass(25 * time.Hour)
		for _, w := range []*world{x, y, z} {
			require.Zero(c.t, w.reg.Clock().Left())
		}
		x.pass(20 * time.Minute)
		_, left := x.beat()
		require.Zero(c.t, left)
	})
}

// TestI30_AnotherNodesWrongClockAgesNobody_WhileTheStoreDoesNotSay: a node that cannot find out whether others have a grace
// leaves alone what looks old, and does all else.
func TestI30_AnotherNodesWrongClockAgesNobody_WhileTheStoreDoesNotSay(t *testing.T) {
	onNodes(t, setup{config: session.Config{IdleDevice: 30 * day}}, func(c *cluster, _, y *world) {
		z, wall := c.clocked("z")
		z.pass(time.Hour)
		wall.set(-26 * 365 * day)
		z.pass(10 * time.Second)
		z.join("ann", "phone", "ios").conn.Detach()
		gone := z.join("ann", "pad", "ios")
		require.NoError(c.t, z.reg.Logout(c.t.Context(), "ann", gone.id))
		z.pass(3 * time.Second)
		c.st.set(func(f *faults) { f.states = func() error { return errDown } })
		y.login("ann", "b", "web")
		require.Equal(c.t, event.Logout, gone.on(y).refused().Reason, "the tombstone is there")
		c.st.set(func(f *faults) { f.states = nil })
		require.Equal(c.t, "phone b", y.devices("ann"))
	})
}

// TestI30_I40_OtherNodesKnowOfASetClockBeforeAnythingIsStoredByIt: not only when the sweep has come.
func TestI30_I40_OtherNodesKnowOfASetClockBeforeAnythingIsStoredByIt(t *testing.T) {
	onNodes(t, setup{config: session.Config{IdleDevice: 30 * day}}, func(c *cluster, _, y *world) {
		z, wall := c.clocked("z")
		z.pass(time.Hour + time.Second)
		require.True(c.t, y.reg.MayAge(c.t.Context()), "what it knows by now is older than what it reads then")
		wall.set(-26 * 365 * day)
		gone := z.join("ann", "pad", "ios")
		require.NoError(c.t, z.reg.Logout(c.t.Context(), "ann", gone.id))
		y.login("ann", "b", "web")
		require.Equal(c.t, event.Logout, gone.on(y).refused().Reason, "the tombstone is there")
		known, err := y.reg.Devices(c.t.Context(), "ann")
		require.NoError(c.t, err)
		require.Contains(c.t, known, event.DeviceID("pad"))
	})
}

// TestI30_I40_AHeartbeatThatIsGoneCountsAsUnknown: with it went what is known of the grace of node z. Nothing goes for its
// age until there is another one, and that begins a whole grace.
func TestI30_I40_AHeartbeatThatIsGoneCountsAsUnknown(t *testing.T) {
	for name, lose := range map[string]func(w *world){
		"deleted": func(w *world) { require.NoError(w.t, w.st.Store.Delete(w.t.Context(), engine, 0)) },
		"makes no sense": func(w *world) {
			_, err := w.st.Store.Commit(w.t.Context(), store.Batch{Account: engine, Now: time.Now(), States: []store.StateUpdate{{
				Conversation: "_engine", Name: "_heartbeat", Merge: store.MergeLast, Number: 7, Value: []byte("x"),
			}}})
			require.NoError(w.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{config: session.Config{IdleDevice: 30 * day}}, func(c *cluster, _, y *world) {
				z, wall := c.clocked("z")
				z.pass(time.Hour)
				wall.set(-26 * 365 * day)
				gone := z.join("ann", "pad", "ios")
				require.NoError(c.t, z.reg.Logout(c.t.Context(), "ann", gone.id))
				z.pass(time.Second)
				z.shut(z.reg)
				lose(y)
				y.login("ann", "b", "web")
				require.Equal(c.t, event.Logout, gone.on(y).refused().Reason, "the tombstone is there")
				y.pass(2 * time.Minute)
				_, left := y.beat()
				require.InDelta(c.t, day, left, float64(3*time.Minute))
				y.login("ann", "c", "web")
				require.Equal(c.t, event.Logout, gone.on(y).refused().Reason, "and stays")
				y.pass(25 * time.Hour)
				require.True(c.t, y.reg.MayAge(c.t.Context()), "one grace, and not one after another")
			})
		})
	}
}
