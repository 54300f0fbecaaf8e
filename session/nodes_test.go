package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/membus"
)

func TestS9_TwoNodesQuotaOne(t *testing.T) {
	one := policy.Rules{Platforms: map[event.Platform]int{"ios": 1}}
	onNodes(t, setup{rules: one}, func(c *cluster, x, y *world) {
		for round := range 50 {
			account := event.Account(fmt.Sprintf("u%d", round))
			var both [2]*gadget
			var all sync.WaitGroup
			for i, w := range []*world{x, y} {
				all.Go(func() {
					g := w.login(account, event.DeviceID(fmt.Sprintf("d%d", i)), "ios")
					g.wire = new(wire)
					g.conn, _ = g.tryAttach(g.wire)
					both[i] = g
				})
			}
			all.Wait()
			list := x.list(account)
			require.Len(c.t, list, 1, "never zero, never two")
			require.Equal(c.t, list, y.list(account))
			for _, g := range both {
				survivor := g.id == list[0].Login
				if survivor {
					require.True(c.t, g.conn != nil && g.live())
				} else {
					require.False(c.t, g.conn != nil && g.live())
					require.Equal(c.t, event.EvictedQuota, g.refused().Reason)
				}
			}
		}
	})
}

func TestI21_KickOnAnotherNode(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.join("ann", "phone", "ios")
		stays := x.join("ann", "tablet", "ios")
		require.Equal(c.t, event.NodeID("x"), node(y, "ann", 0))
		require.Equal(c.t, []session.State{session.Online, session.Online}, y.states("ann"))
		res, err := y.reg.Kick(c.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}, Note: "go"})
		require.NoError(c.t, err)
		require.True(c.t, res[0].Ended)
		require.False(c.t, g.live(), "when Kick returns, no Send begins on any node")
		require.Equal(c.t, event.KickedHost, g.refused().Reason)
		require.Equal(c.t, event.KickedHost, g.on(y).refused().Reason)
		synctest.Wait()
		require.Equal(c.t, []event.Closed{{Reason: event.KickedHost, Note: "go", Retry: event.RetryNo}}, g.wire.ends())
		require.True(c.t, stays.live())
		require.Empty(c.t, x.revocations(), "the hook runs once, where the kick was")
		require.Len(c.t, y.revocations(), 1)
	})
}

func TestI22_ALoginMovesToAnotherNode(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.join("ann", "phone", "ios")
		there := g.on(y).attach()
		require.False(c.t, g.live())
		require.True(c.t, there.live())
		require.True(c.t, there.conn.Restored(), "what was sent last is known to the other node only")
		synctest.Wait()
		require.Equal(c.t, []event.Reason{event.Moved}, g.wire.reasons())
		require.Equal(c.t, event.NodeID("y"), node(x, "ann", 0))
		g.conn.Detach() // late: nothing happens
		c.pass(5 * time.Minute)
		require.Equal(c.t, []session.State{session.Online}, x.states("ann"))
		require.Equal(c.t, 1, countKind(x, session.ChangeOnline)+countKind(y, session.ChangeOnline))
		back := there.on(x).attach()
		require.True(c.t, back.live())
		require.False(c.t, there.live())
	})
}

func TestI22_TabsMoveTogether(t *testing.T) {
	onNodes(t, setup{rules: threeTabs}, func(c *cluster, x, y *world) {
		g := x.login("ann", "browser", "web")
		one, two := g.tab("1"), g.tab("2")
		there := g.on(y).tab("3")
		require.True(c.t, there.live())
		require.False(c.t, one.live() || two.live())
		g.on(y).tab("4")
		require.True(c.t, there.live())
	})
}

func TestB14_LingeringIsKnownToAllNodes(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.join("ann", "phone", "ios")
		g.conn.Detach()
		c.pass(5 * time.Second)
		require.Equal(c.t, []session.State{session.Lingering}, y.states("ann"))
		there := g.on(y).attach() // back within the window, on the other node
		c.pass(3 * time.Minute)
		require.Equal(c.t, []session.State{session.Online}, x.states("ann"))
		require.Equal(c.t, 1, countKind(x, session.ChangeOnline)+countKind(y, session.ChangeOnline), "it never went offline")
		require.Zero(c.t, countKind(x, session.ChangeOffline)+countKind(y, session.ChangeOffline))
		there.conn.Detach()
		c.pass(3 * time.Minute)
		require.Equal(c.t, []session.State{session.Offline}, x.states("ann"))
		require.Equal(c.t, 1, countKind(x, session.ChangeOffline)+countKind(y, session.ChangeOffline), "told once")
	})
}

// A quota counts those that are attached on other nodes.
func TestI19_QuotaOverNodes(t *testing.T) {
	onNodes(t, setup{rules: policy.Rules{Platforms: map[event.Platform]int{"ios": 2}}}, func(c *cluster, x, y *world) {
		first, second := x.join("ann", "a1", "ios"), y.join("ann", "a2", "ios")
		c.pass(10 * time.Minute)
		y.join("ann", "a3", "ios")
		require.False(c.t, first.live())
		require.True(c.t, second.live())
		require.Equal(c.t, "a2 a3", x.devices("ann"))
	})
}

// S25: a node that is cut off from everything does not hold anybody up, and closes its connections by itself.
func TestS25_KickOfALoginOnADeadNode(t *testing.T) {
	one := policy.Rules{Platforms: map[event.Platform]int{"ios": 1}}
	for name, deaf := range map[string]bool{"bus works": false, "bus is cut": true} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{rules: one}, func(c *cluster, x, y *world) {
				g := x.join("ann", "phone", "ios")
				h := x.join("bea", "phone", "ios")
				if deaf {
					c.bus.Partition("x")
				}
				c.cut["x"].down.Store(true)
				start := time.Now()
				y.login("ann", "other", "ios")
				_, err := y.reg.Kick(c.t.Context(), session.KickRequest{Account: "bea", All: true})
				require.NoError(c.t, err)
				require.LessOrEqual(c.t, time.Since(start), 2*time.Second, "at once")
				require.Equal(c.t, "other", y.devices("ann"))
				c.pass(15 * time.Second)
				require.False(c.t, g.live(), "it has stopped by itself")
				require.False(c.t, h.live())
				require.NotEmpty(c.t, g.wire.reasons())
				c.pass(10 * time.Second)
				c.cut["x"].down.Store(false)
				c.bus.Heal("x")
				c.pass(2 * time.Second)
				require.Equal(c.t, event.EvictedQuota, g.refused().Reason, "when it is back, it knows")
				require.Equal(c.t, event.KickedHost, h.refused().Reason)
				again := x.join("cyd", "phone", "ios")
				require.True(c.t, again.live())
			})
		})
	}
}

func TestS31_LateRenewal(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.join("ann", "phone", "ios")
		c.cut["x"].hang.Store(true)
		c.pass(15*time.Second + 5*time.Second/5)
		require.False(c.t, g.live(), "fenced before the lease is over for the others")
		require.Equal(c.t, []event.Closed{event.LeaseLost.Closed(0)}, g.wire.ends())
		_, err := g.tryAttach(new(wire))
		require.ErrorIs(c.t, err, session.ErrNoLease)
		c.pass(10 * time.Second)
		require.Equal(c.t, []session.State{session.Lingering}, y.states("ann"), "its login has not ended")
		c.cut["x"].hang.Store(false)
		c.pass(3 * time.Second)
		require.False(c.t, g.live(), "a late renewal does not bring it back")
		g.attach()
		require.True(c.t, g.live(), "under a lease of its own it serves again")
		require.Equal(c.t, []session.State{session.Online}, y.states("ann"))
	})
}

// A lease that was taken away is found out at the next renewal.
func TestS31_LeaseIsTakenAway(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.join("ann", "phone", "ios")
		lease, err := c.leases.Alive(c.t.Context(), store.Lease{Node: "x", Epoch: 1})
		require.NoError(c.t, err)
		require.Equal(c.t, store.Live, lease)
		require.NoError(c.t, c.leases.Release(c.t.Context(), store.Lease{Node: "x", Epoch: 1}))
		c.pass(5 * time.Second) // the next renewal is refused
		require.False(c.t, g.live())
		c.pass(2 * time.Second)
		g.attach()
		require.True(c.t, g.live())
	})
}

// What cannot be told is not dead.
func TestS25_CannotTell(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		x.join("ann", "phone", "ios")
		c.cut["y"].down.Store(true)
		c.pass(10 * time.Second)
		require.Equal(c.t, []session.State{session.Online}, y.states("ann"))
		p, err := y.reg.Presence(c.t.Context(), "ann")
		require.NoError(c.t, err)
		require.Equal(c.t, session.Online, p.State)
	})
}

// Without a bus, or if it loses what is said, a node finds out within the life of a lease.
func TestI21_WithoutABus(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g, h := x.join("ann", "phone", "ios"), x.join("bea", "phone", "ios")
		c.bus.Partition("x")
		_, err := y.reg.Kick(c.t.Context(), session.KickRequest{Account: "ann", All: true})
		require.NoError(c.t, err)
		there := h.on(y).attach()
		c.pass(26 * time.Second)
		require.Equal(c.t, []event.Reason{event.KickedHost}, g.wire.reasons())
		require.Equal(c.t, []event.Reason{event.Moved}, h.wire.reasons())
		require.True(c.t, there.live())
	})
}

func TestI29_ANodeLeaves(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.join("ann", "phone", "ios")
		x.shut(x.reg)
		require.Equal(c.t, []event.Reason{event.Shutdown}, g.wire.reasons())
		live, err := c.leases.Alive(c.t.Context(), store.Lease{Node: "x", Epoch: 1})
		require.NoError(c.t, err)
		require.Equal(c.t, store.Dead, live, "its name is free")
		c.pass(2 * time.Second)
		require.Equal(c.t, []session.State{session.Lingering}, y.states("ann"))
		there := g.on(y).attach()
		require.True(c.t, there.live())
		again := c.join("x", setup{})
		require.Equal(c.t, []session.State{session.Online}, again.states("ann"))
		require.True(c.t, g.on(again).attach().live())
	})
}

// A name that another process has: no connections are taken until it is free.
func TestLeases_NameIsTaken(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		other, err := c.leases.Acquire(c.t.Context(), "z", 20*time.Second)
		require.NoError(c.t, err)
		z := c.join("z", setup{})
		g := z.login("ann", "phone", "ios")
		_, err = g.tryAttach(new(wire))
		require.ErrorIs(c.t, err, session.ErrNoLease)
		require.NoError(c.t, c.leases.Release(c.t.Context(), other))
		c.pass(2 * time.Second)
		require.True(c.t, g.attach().live())

		_, err = session.New(c.st, session.Config{Node: "z", Leases: c.leases, Bus: c.bus.As("z")})
		require.ErrorIs(c.t, err, transport.ErrTaken)
	})
}

func TestLeases_Config(t *testing.T) {
	st := withFaults(memstore.New(memstore.Config{}))
	leases := memstore.NewLeases()
	for name, tt := range map[string]struct {
		config session.Config
		field  string
	}{
		"bus alone":  {session.Config{Bus: membus.New(membus.Config{})}, "Bus"},
		"no node":    {session.Config{Leases: leases}, "Node"},
		"short life": {session.Config{Leases: leases, Node: "x", LeaseLife: time.Millisecond}, "LeaseLife"},
		"long life":  {session.Config{Leases: leases, Node: "x", LeaseLife: 2 * time.Hour}, "LeaseLife"},
	} {
		_, err := session.New(st, tt.config)
		invalid, ok := errors.AsType[*event.InvalidError](err)
		require.True(t, ok, name)
		require.Equal(t, tt.field, invalid.Field, name)
	}
	st.hidden = true
	_, err := session.New(st, session.Config{Leases: leases, Node: "x"})
	invalid, ok := errors.AsType[*event.InvalidError](err)
	require.True(t, ok, "a store that is one engine's alone")
	require.Equal(t, "Leases", invalid.Field)
}

// What a stranger says on the bus does no harm.
func TestHostile_BusMessages(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.join("ann", "phone", "ios")
		for _, raw := range []string{"", "{", "[]", `{"look":""}`, `{"look":"` + string(slices.Repeat([]byte("x"), 200)) + `"}`, "\xff", `{"look":"nobody"}`, `{"look":"ann"}`} {
			_, err := c.bus.As("z").Request(c.t.Context(), "x", []byte(raw))
			require.NoError(c.t, err)
		}
		require.True(c.t, g.live())
	})
}

// TestI21_TheEndOfALoginThatHasMoved: node x has not noticed yet that its connection's login is on node y now when the login is
// ended there. The connection is closed once.
func TestI21_TheEndOfALoginThatHasMoved(t *testing.T) {
	for _, end := range endings {
		t.Run(end.name, func(t *testing.T) {
			onNodes(t, setup{config: session.Config{Bus: deafBus{}}}, func(c *cluster, x, y *world) {
				g := x.join("ann", "phone", "ios")
				moved := g.on(y).attach()
				require.NoError(c.t, end.call(x, g))
				x.pass(time.Second)
				require.Len(c.t, g.wire.ends(), 1)
				x.pass(time.Minute)
				require.Len(c.t, moved.wire.ends(), 1)
			})
		})
	}
}

// deafBus gets nothing through.
type deafBus struct{ transport.Bus }

func (deafBus) Publish(context.Context, event.NodeID, []byte) error { return transport.ErrGone }

func (deafBus) Subscribe(event.NodeID, func([]byte) []byte) (func(), error) { return func() {}, nil }
