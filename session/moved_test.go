package session_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// contended returns what the host was told of things that are taken in turns.
func (w *world) contended() []session.Change {
	return slices.DeleteFunc(w.history(), func(c session.Change) bool { return c.Kind != session.ChangeContended })
}

// TestMoved_AnAppComesBackAfterItsExtension: however often its extension attaches for a moment, the app is advised to come
// back after the shortest delay (K11.8: it was told to stay away).
func TestMoved_AnAppComesBackAfterItsExtension(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		app := w.join("ann", "a1", "ios")
		before := w.stored("ann")
		for range 50 {
			extension := app.on(w).attach()
			require.Equal(w.t, []event.Closed{{Reason: event.Moved, Retry: event.RetryAfter, After: 2 * time.Second}}, app.wire.ends())
			w.tick()
			extension.conn.Detach()
			w.tick()
			app.attach()
			w.tick()
		}
		require.Equal(w.t, before, w.stored("ann"))
		require.Empty(w.t, w.contended())
	})
}

// TestMoved_TwoMachinesWithOneToken end up minutes apart, and the host is told once.
func TestMoved_TwoMachinesWithOneToken(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1, TokenRotation: -1}}, func(w *world) {
		in, out := w.join("ann", "a1", "ios"), (*gadget)(nil)
		out = in.on(w)
		begin, turns := time.Now(), 0
		for time.Since(begin) < 2*time.Hour {
			out.attach()
			in, out = out, in
			turns++
			why := out.wire.ends()
			require.Len(w.t, why, 1)
			require.Equal(w.t, event.Moved, why[0].Reason)
			require.Equal(w.t, min(2*time.Second<<min(turns-1, 10), 5*time.Minute), why[0].After)
			if turns == 3 {
				require.Less(w.t, time.Since(begin), 10*time.Second, "noticed within 10 s")
			}
			require.Len(w.t, w.contended(), min(turns/3, 1), "once")
			w.pass(why[0].After)
		}
		require.Less(w.t, turns, 35)
		told := w.contended()[0]
		require.Equal(w.t, event.Moved, told.Reason)
		require.Equal(w.t, in.id, told.Session.Login)
		require.Equal(w.t, event.DeviceID("a1"), told.Session.Device)

		out.attach() // the other machine gives up
		require.Equal(w.t, 5*time.Minute, in.wire.ends()[0].After)
		w.pass(11 * time.Minute)
		in, out = out, in
		out.attach()
		require.Equal(w.t, 2*time.Second, in.wire.ends()[0].After, "the turns are over")
		out.conn.Detach()
		out.attach()
		in.attach()
		require.Equal(w.t, 2*time.Second, out.wire.ends()[0].After, "who displaces nobody begins a new count")
	})
}

// TestMoved_AClientThatIgnoresItsAdvice is told of all the same, and once.
func TestMoved_AClientThatIgnoresItsAdvice(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		before := w.stored("ann")
		for range 100 {
			g.attach()
		}
		require.Len(w.t, w.contended(), 1)
		require.Equal(w.t, before, w.stored("ann"))
	})
}

// TestMoved_ANetworkThatBreaksNowAndThen is not taken for two machines: the old connection is the client's own.
func TestMoved_ANetworkThatBreaksNowAndThen(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		for range 100 {
			w.pass(20 * time.Second)
			old := g.wire
			g.attach()
			require.Equal(w.t, 2*time.Second, old.ends()[0].After)
		}
		require.Empty(w.t, w.contended())
	})
}

// TestMoved_AmongNodes: turns that two nodes take are counted in the record, with the commit that the move makes anyway.
func TestMoved_AmongNodes(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		in := x.join("ann", "a1", "ios")
		out := in.on(y)
		for turn := range 12 {
			out.attach()
			in, out = out, in
			c.pass(50 * time.Millisecond)
			why := out.wire.ends()
			require.Len(c.t, why, 1)
			require.Equal(c.t, min(2*time.Second<<turn, 5*time.Minute), why[0].After)
			require.Len(c.t, append(x.contended(), y.contended()...), min((turn+1)/3, 1))
			c.pass(why[0].After)
		}
		c.pass(11 * time.Minute)
		out.attach()
		c.pass(50 * time.Millisecond)
		require.Equal(c.t, 2*time.Second, in.wire.ends()[0].After)
	})
}

// TestMoved_ATabThatIsReplaced does not come back by itself: its user sees the other one.
func TestMoved_ATabThatIsReplaced(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.login("ann", "browser", "web")
		first := g.tab("1")
		second := g.tab("2")
		require.Equal(w.t, []event.Closed{{Reason: event.TabReplaced, Retry: event.RetryNo}}, first.wire.ends())
		g.tab("2")
		require.Equal(w.t, []event.Closed{event.Moved.Closed(2 * time.Second)}, second.wire.ends())
	})
}
