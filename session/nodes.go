package session

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport"
)

const (
	leasesKnown  = 1_024       // leases of which it is remembered whether they live
	livenessAge  = time.Second // how long an answer holds that a lease is not dead
	renewsInLife = 4           // renewals within a lease's life; after three quarters without one the node stops
	reacquire    = time.Second // between tries to get a lease
)

// nodes is this registry's place among several over one store. A nil one means that there are no others.
type nodes struct {
	r      *Registry
	leases store.Leases
	bus    transport.Bus // nil: none
	life   time.Duration
	stop   func() // unsubscribes from the bus; nil: there is none

	epoch atomic.Uint64 // of the lease; 0: none
	until atomic.Int64  // it may be counted on till this clock.Elapsed
	wall  atomic.Int64  // and till the wall clock says this, in Unix milliseconds: elapsed time stands still while a machine is suspended
	sure  atomic.Int64  // clock.Elapsed when it was renewed after it had been in doubt; 0: it never was
	soon  chan struct{} // has the lease renewed before its time
	// first: of the nodes that live it comes first by name, as far as it knows. It looks after what the dead have left.
	first atomic.Bool

	mu       sync.Mutex
	renewed  chan struct{} // closed when the lease was renewed or lost, and made anew; see await
	known    *lru.Cache[store.Lease, liveness]
	looks    map[event.Account][]message     // accounts that are looked at, with what was asked since that began
	asked    map[uint64]chan struct{}        // questions to other nodes; closed when answered
	partings map[event.Account]chan struct{} // closed when another node says that its revoke hooks have run
}

// liveness is what is known of another node's lease.
type liveness struct {
	dead bool
	at   time.Duration // clock.Elapsed when it was asked for; if it is dead, when that was noticed
}

// joinNodes subscribes to the bus and tries to get a lease. If that fails, nodeLoop goes on trying.
func (r *Registry) joinNodes() error {
	known, err := lru.New[store.Lease, liveness](leasesKnown)
	if err != nil {
		return fmt.Errorf("session: lease cache: %w", err)
	}
	n := &nodes{
		r: r, leases: r.cfg.Leases, bus: r.cfg.Bus, life: r.cfg.LeaseLife, known: known,
		soon: make(chan struct{}, 1), renewed: make(chan struct{}),
		looks: map[event.Account][]message{}, asked: map[uint64]chan struct{}{}, partings: map[event.Account]chan struct{}{},
	}
	n.first.Store(true) // until it knows of others
	r.nodes = n
	if n.bus != nil {
		if err := n.subscribe(); err != nil {
			return fmt.Errorf("session: bus: %w", err)
		}
	}
	n.acquire()
	r.owned.Go(n.loop)
	r.owned.Go(n.watch)
	return nil
}

// subscribe listens to the bus. A bus that answers later than is waited for keeps no subscription: the name has to be free
// when the host tries again.
func (n *nodes) subscribe() error {
	var mu sync.Mutex
	var stop func()
	over := false
	call := n.hostCall("session: no bus", HookBus, n.r.cfg.HookTimeout)
	_, err := callHost(n.r.ctx, n.r, call, func(context.Context) (none, error) {
		leave, err := n.bus.Subscribe(n.r.cfg.Node, n.handle)
		if err != nil {
			return none{}, err
		}
		mu.Lock()
		late := over
		stop = leave
		mu.Unlock()
		if late {
			leave()
		}
		return none{}, nil
	})
	mu.Lock()
	over = true
	n.stop = stop
	mu.Unlock()
	if err != nil { // and it may have come just after the time-out
		n.unsubscribe(context.WithoutCancel(n.r.ctx))
	}
	return err
}

func (n *nodes) unsubscribe(ctx context.Context) {
	if n.stop == nil {
		return
	}
	_, _ = callHost(ctx, n.r, n.hostCall("session: bus not left", HookBus, n.r.cfg.HookTimeout), func(context.Context) (none, error) {
		n.stop()
		return none{}, nil
	})
}

// leave gives the lease back and leaves the bus. The connections are closed already.
func (n *nodes) leave(ctx context.Context) {
	if n == nil {
		return
	}
	n.unsubscribe(ctx)
	e := n.epoch.Swap(0)
	if e == 0 {
		return
	}
	call := n.hostCall("session: lease not released", HookLeases, n.r.cfg.HookTimeout)
	_, _ = callHost(ctx, n.r, call, func(ctx context.Context) (none, error) {
		return none{}, n.leases.Release(ctx, store.Lease{Node: n.r.cfg.Node, Epoch: e})
	})
}

// mine reports whether the record says that the login is attached here.
func (n *nodes) mine(l *login) bool {
	return l.Node == n.r.cfg.Node && l.Lease == n.epoch.Load()
}

// learn asks which of the other nodes that hold a login of the record live. What cannot be told counts as alive.
func (n *nodes) learn(ctx context.Context, rec *record) {
	if n == nil {
		return
	}
	for i := range rec.Logins {
		l := &rec.Logins[i]
		if l.Node == "" || n.mine(l) {
			continue
		}
		lease := store.Lease{Node: l.Node, Epoch: l.Lease}
		if v, ok := n.look(lease); ok && (v.dead || n.r.clock.Elapsed()-v.at < livenessAge) {
			continue
		}
		call := n.hostCall("session: it is not known whether a node lives", HookLiveness, n.r.cfg.HookTimeout)
		call.about = slog.String("node", string(l.Node))
		v, err := callHost(ctx, n.r, call, func(ctx context.Context) (store.Liveness, error) { return n.leases.Alive(ctx, lease) })
		n.note(lease, err == nil && v == store.Dead)
	}
}

func (n *nodes) look(l store.Lease) (liveness, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known.Get(l)
}

// watch looks at all leases as often as it renews its own. One that was there and is not any more is dead, and its logins
// linger from now on, whether or not anybody asks for them.
func (n *nodes) watch() {
	var before []store.Lease
	for n.sleep(n.life / renewsInLife) {
		call := n.hostCall("session: leases cannot be listed", HookLiveness, n.r.cfg.HookTimeout)
		live, err := callHost(n.r.ctx, n.r, call, n.leases.List)
		if err != nil {
			continue
		}
		first := true
		for _, l := range live {
			first = first && l.Node >= n.r.cfg.Node
		}
		n.first.Store(first)
		for _, l := range before {
			if l.Node != n.r.cfg.Node && !slices.Contains(live, l) {
				n.note(l, true)
			}
		}
		before = live
	}
}

// note remembers an answer. When a lease is dead, the logins that it held are over for nobody yet: one of those who notice
// looks through all accounts once their resume windows are over.
func (n *nodes) note(l store.Lease, dead bool) {
	n.mu.Lock()
	v, known := n.known.Get(l)
	if !v.dead {
		n.known.Add(l, liveness{dead: dead, at: n.r.clock.Elapsed()})
	}
	n.mu.Unlock()
	if dead && !(known && v.dead) && n.first.Load() {
		select {
		case n.r.cleanSoon <- struct{}{}:
		default: // it is due already
		}
	}
}

// elsewhere reports whether the login is attached on another node that is not known to be dead.
func (n *nodes) elsewhere(l *login) bool {
	if n == nil || l.Node == "" || n.mine(l) {
		return false
	}
	v, _ := n.look(store.Lease{Node: l.Node, Epoch: l.Lease})
	return !v.dead
}

// left returns how long a login that has no connection here has been without one, as far as is known. attached: it has one on
// another node.
func (n *nodes) left(l *login) (gone time.Duration, attached bool) {
	switch {
	case l.Node == "":
		return n.ago(max(l.Left, l.At)), false
	case n.mine(l):
		return n.ago(max(l.Seen, l.At)), false
	}
	v, _ := n.look(store.Lease{Node: l.Node, Epoch: l.Lease})
	return n.r.clock.Elapsed() - v.at, !v.dead
}

// ago returns how long ago something was stored by a node. What lies in the future is of now; see clampTimes. If it may be this
// node's clock that is wrong, nothing is known of before the registry was opened.
func (n *nodes) ago(stored int64) time.Duration {
	ago, ok := n.r.clock.Ago(stored)
	if !ok && n.r.clock.Left() > 0 {
		return n.r.clock.Elapsed()
	}
	return ago
}

// due reports whether the sweep has to look at a login: it was detached and the other nodes do not know yet, or it has
// not been compared with the record for a lease's life.
func (n *nodes) due(k *link, now time.Duration) bool {
	if n == nil {
		return false
	}
	if !k.attached() {
		return !k.told
	}
	return now-k.looked >= n.life
}
