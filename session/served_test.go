package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
)

// busBy does something before each message to one node, or to all.
type busBy struct {
	transport.Bus
	to     event.NodeID
	before func()
}

func (b busBy) Publish(ctx context.Context, node event.NodeID, msg []byte) error {
	if b.to == "" || b.to == node {
		b.before()
	}
	return b.Bus.Publish(ctx, node, msg)
}

// joinBy adds a node whose messages to another one, or to all, something is done before.
func (c *cluster) joinBy(name, to event.NodeID, before func()) *world {
	return c.join(name, setup{config: session.Config{Bus: busBy{c.bus.As(name), to, before}}})
}

// slowly adds a node whose messages to another one, or to all, take a while.
func (c *cluster) slowly(name event.NodeID, wait time.Duration, to event.NodeID) *world {
	return c.joinBy(name, to, func() { time.Sleep(wait) })
}

// endings are calls after which nothing may be sent any more to ann's phone.
var endings = []struct {
	name string
	call func(w *world, g *gadget) error
}{
	{"kick", func(w *world, g *gadget) error {
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: g.acc, Logins: []event.LoginID{g.id}})
		return err
	}},
	{"kick all", func(w *world, g *gadget) error {
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: g.acc, All: true})
		return err
	}},
	{"kick a platform", func(w *world, g *gadget) error {
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: g.acc, Platform: "ios"})
		return err
	}},
	{"kick by a filter", func(w *world, g *gadget) error {
		_, err := w.reg.Kick(context.Background(), session.KickRequest{
			Account: g.acc, Filter: func(s session.Session) bool { return s.Login == g.id },
		})
		return err
	}},
	{"logout", func(w *world, g *gadget) error { return w.reg.Logout(context.Background(), g.acc, g.id) }},
	{"remove device", func(w *world, g *gadget) error {
		return w.reg.RemoveDevice(context.Background(), session.RemoveDeviceRequest{Account: g.acc, Device: "phone"})
	}},
	{"ban", func(w *world, g *gadget) error {
		_, err := w.reg.Ban(context.Background(), session.BanRequest{Account: g.acc})
		return err
	}},
	{"delete account", func(w *world, g *gadget) error {
		_, err := w.reg.DeleteAccount(context.Background(), session.DeleteRequest{Account: g.acc})
		return err
	}},
}

// lastSends sends all the time, and returns a function that ends this and says how many sends began after over was set.
func lastSends(g *gadget, over *atomic.Bool) func() int64 {
	var late atomic.Int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	g.wire.onSend = func(context.Context) error {
		if over.Load() {
			late.Add(1)
		}
		return nil
	}
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(200 * time.Microsecond):
				_ = g.conn.Send(context.Background(), []event.Frame{&event.Pong{}})
			}
		}
	})
	return func() int64 {
		time.Sleep(100 * time.Millisecond)
		close(done)
		wg.Wait()
		return late.Load()
	}
}

// joinWired is join with a hook on Send that is there from the beginning.
func (w *world) joinSending(a event.Account, over *atomic.Bool) (*gadget, func() int64) {
	g := w.login(a, "phone", "ios")
	g.attach()
	return g, lastSends(g, over)
}

// TestKick_TheSecondOfTwo (K15.5): the connection is on node x, whose messages take a while. When either of two calls has
// returned that end the same login at about the same time, on one node or on two, no Send begins any more.
func TestKick_TheSecondOfTwo(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, _, _ *world) {
		const wait = 20 * time.Millisecond
		a, b, d := c.slowly("a", wait, ""), c.slowly("b", wait, ""), c.slowly("d", wait, "")
		round := 0
		for _, second := range []*world{d, b, a} {
			for _, first := range endings {
				for _, then := range endings {
					account := event.Account(fmt.Sprint("u", round))
					name := fmt.Sprintf("%s, then %s on %s", first.name, then.name, second.now.config.Node)
					var over atomic.Bool
					g, late := a.joinSending(account, &over)
					var wg sync.WaitGroup
					call := func(w *world, how func(*world, *gadget) error, after time.Duration) {
						wg.Go(func() {
							time.Sleep(after)
							err := how(w, g)
							over.Store(true)
							if err != nil {
								require.True(c.t, errors.Is(err, session.ErrNotFound), "%s: %v", name, err)
							}
						})
					}
					call(b, first.call, 0)
					call(second, then.call, time.Duration(round%8)*3*time.Millisecond)
					wg.Wait()
					require.Zero(c.t, late(), name)
					require.False(c.t, g.live(), name)
					round++
				}
			}
		}
		require.Equal(c.t, 192, round)
	})
}

// TestKick_TheSecondOfTwoByAnotherClock: the node of the second call has a wall clock that differs by minutes from the
// others', or that is set between the two.
func TestKick_TheSecondOfTwoByAnotherClock(t *testing.T) {
	for name, ahead := range map[string][2]time.Duration{
		"set ahead": {0, 3 * time.Minute}, "set back": {0, -3 * time.Minute}, "40 days": {0, 40 * day},
		"ahead": {3 * time.Minute, 3 * time.Minute}, "behind": {-3 * time.Minute, -3 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{}, func(c *cluster, _, _ *world) {
				const wait = 20 * time.Millisecond
				a, b := c.slowly("a", wait, ""), c.slowly("b", wait, "")
				s, wall := withWall(setup{config: session.Config{Bus: busBy{c.bus.As("d"), "", func() { time.Sleep(wait) }}}})
				wall.set(ahead[0])
				d := c.join("d", s)
				for i, how := range endings {
					var over atomic.Bool
					g, late := a.joinSending(event.Account(fmt.Sprint("u", i)), &over)
					var wg sync.WaitGroup
					wg.Go(func() { _ = endings[0].call(b, g) })
					time.Sleep(5 * time.Millisecond)
					wall.set(ahead[1])
					_ = how.call(d, g)
					over.Store(true)
					wg.Wait()
					require.Zero(c.t, late(), how.name)
					wall.set(ahead[0])
				}
			})
		})
	}
}

// TestAttach_TakesOverAtOnceByAClockThatWasSetBack: the node's clock repeats earlier times, so that the move could
// be taken for one that the other node has long noticed (I22, K1).
func TestAttach_TakesOverAtOnceByAClockThatWasSetBack(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, _ *world) {
		s, wall := withWall(setup{})
		b := c.join("b", s)
		b.pass(5 * time.Minute)
		wall.set(-2 * time.Minute)
		b.pass(time.Minute)
		older := new(wire)
		g := x.login("ann", "a1", "ios")
		_, err := g.tryAttach(older)
		require.NoError(t, err)
		_, err = g.on(b).tryAttach(new(wire))
		require.NoError(t, err)
		b.pass(100 * time.Millisecond)
		require.Equal(t, []event.Reason{event.Moved}, older.reasons(), "and not when it looks by itself")
	})
}

// TestKick_WhileItMoves: the login is just being taken over by another node when it is kicked on a third. The node that
// had it may not know yet.
func TestKick_WhileItMoves(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, _, _ *world) {
		const wait = 200 * time.Millisecond
		a, b, d, e := c.slowly("a", 0, ""), c.slowly("b", wait, "a"), c.slowly("d", wait, "a"), c.slowly("e", 0, "")
		for round := range 20 {
			account := event.Account(fmt.Sprint("u", round))
			var over atomic.Bool
			g, late := a.joinSending(account, &over)
			var wg sync.WaitGroup
			for i, w := range []*world{b, d} {
				wg.Go(func() {
					time.Sleep(time.Duration(i*round) * time.Millisecond)
					_, _ = g.on(w).tryAttach(new(wire))
				})
			}
			time.Sleep(time.Duration(1+round) * time.Millisecond)
			require.NoError(c.t, endings[0].call(e, g))
			over.Store(true)
			require.Zero(c.t, late(), "round %d", round)
			wg.Wait()
		}
	})
}

// I35, I36: a Bus that hangs or panics on the way to one node. A kick returns within a second, other nodes are told at once,
// and the one that was not told finds out by itself.
func TestKick_ABusThatHangsOrPanics(t *testing.T) {
	for name, before := range map[string]func(free chan struct{}){
		"hangs":  func(free chan struct{}) { <-free },
		"panics": func(chan struct{}) { panic("bus") },
	} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{}, func(c *cluster, x, y *world) {
				free := make(chan struct{})
				z := c.joinBy("z", "x", func() { before(free) })
				phone, tablet := x.join("ann", "phone", "ios"), y.join("ann", "tablet", "ios")
				start := time.Now()
				_, err := z.reg.Kick(c.t.Context(), session.KickRequest{Account: "ann", All: true})
				require.NoError(c.t, err)
				require.LessOrEqual(c.t, time.Since(start), time.Second)
				require.False(c.t, tablet.live())
				c.pass(time.Minute)
				require.Equal(c.t, []event.Reason{event.KickedHost}, phone.wire.reasons())
				close(free)
			})
		})
	}
}
