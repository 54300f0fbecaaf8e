package session_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport/membus"
)

// cluster is several registries over one store, in a bubble.
type cluster struct {
	*world
	bus    *membus.Bus
	leases *memstore.Leases
	nodes  map[event.NodeID]*world
	cut    map[event.NodeID]*cutLeases
}

// cutLeases are a node's way to the leases, which can be cut.
type cutLeases struct {
	store.Leases
	down atomic.Bool
	hang atomic.Bool
}

var errCut = errors.New("no way to the leases")

func (c *cutLeases) broken(ctx context.Context) error {
	if c.hang.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if c.down.Load() {
		return errCut
	}
	return nil
}

func (c *cutLeases) Acquire(ctx context.Context, n event.NodeID, life time.Duration) (store.Lease, error) {
	if err := c.broken(ctx); err != nil {
		return store.Lease{}, err
	}
	return c.Leases.Acquire(ctx, n, life)
}

func (c *cutLeases) Renew(ctx context.Context, l store.Lease) error {
	if err := c.broken(ctx); err != nil {
		return err
	}
	return c.Leases.Renew(ctx, l)
}

func (c *cutLeases) List(ctx context.Context) ([]store.Lease, error) {
	if err := c.broken(ctx); err != nil {
		return nil, err
	}
	return c.Leases.List(ctx)
}

func (c *cutLeases) Alive(ctx context.Context, l store.Lease) (store.Liveness, error) {
	if err := c.broken(ctx); err != nil {
		return store.CannotTell, err
	}
	return c.Leases.Alive(ctx, l)
}

// onNodes tells a story with registries x and y.
func onNodes(t *testing.T, s setup, story func(c *cluster, x, y *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{
			world: &world{t: t, st: withFaults(memstore.New(memstore.Config{}))}, bus: membus.New(membus.Config{}),
			leases: memstore.NewLeases(), nodes: map[event.NodeID]*world{}, cut: map[event.NodeID]*cutLeases{},
		}
		t.Cleanup(func() {
			require.NoError(t, c.bus.Close(context.Background()))
			require.NoError(t, c.st.Close(context.Background()))
		})
		story(c, c.join("x", s), c.join("y", s))
	})
}

// join adds a node.
func (c *cluster) join(name event.NodeID, s setup) *world {
	c.t.Helper()
	cut := &cutLeases{Leases: c.leases}
	s.config.Node, s.config.Leases, s.config.IdleTimeout = name, cut, -1
	if s.config.Bus == nil {
		s.config.Bus = c.bus.As(name)
	}
	w := &world{t: c.t, st: c.st}
	w.open(s)
	c.nodes[name], c.cut[name] = w, cut
	return w
}

// on is the gadget as another node sees it.
func (g *gadget) on(w *world) *gadget {
	o := *g
	o.w, o.wire, o.conn = w, nil, nil
	return &o
}

func node(w *world, a event.Account, i int) event.NodeID { return w.list(a)[i].Node }

// lease returns a node's lease.
func (c *cluster) lease(name event.NodeID) store.Lease {
	c.t.Helper()
	all, err := c.leases.List(c.t.Context())
	require.NoError(c.t, err)
	for _, l := range all {
		if l.Node == name {
			return l
		}
	}
	require.Fail(c.t, "no lease", name)
	return store.Lease{}
}
