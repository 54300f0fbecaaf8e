package session

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/counted"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/owned"
	"github.com/manydevice/manydevice/internal/stream"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/store"
)

const shardCount = 64 // a power of two, so that the shard is a mask

// Registry admits, attaches, lists and ends logins. It is safe for concurrent use.
type Registry struct {
	st     store.Store
	claim  *claim
	free   func()        // gives the registry's part of the claim back
	failed chan struct{} // see Failed
	cfg    Config
	policy atomic.Pointer[policy.Policy]
	// ruled counts the calls of SetPolicy and Enforce: what the host was asked before the last one does not hold any more.
	// enforced counts those of Enforce.
	ruled, enforced atomic.Uint64

	issuer *event.Issuer
	log    *trace.Log

	seed       maphash.Seed
	shards     [shardCount]shard
	records    *recordCache
	clock      *clock.Clock
	shared     shared
	replaced   replacements
	generation atomic.Uint64
	instant    sendContext // stands for each Send of a connection that never waits; it never ends

	nodes     *nodes               // nil: this registry is the only one over its store
	cleanSoon chan struct{}        // has the janitor come before its time
	beatSoon  chan struct{}        // has the heartbeat written before its time
	overdue   chan []event.Account // what the sweep has found
	sweepers  crew
	janitors  crew

	departure  atomic.Pointer[departure] // nil: the node is not about to stop
	arriving   event.Closed              // its address marks connections that are arriving
	attaches   *limiter                  // of the node
	attachesOf *limiter                  // of each account
	refusals   *limiter                  // logins of each account that were not admitted, and those that run

	calls     calls
	stats     counters
	wallPanic atomic.Pointer[error] // of Config.Wall, to be logged; nil: none
	feed      stream.Feed[Change]
	listener  atomic.Pointer[stream.Listener[Change]] // the fan-out; nil: there is none

	ctx    context.Context // ends with cause ErrClosed
	cancel context.CancelCauseFunc
	owned  owned.Group
	beaten sync.Once   // nothing runs any more: the heartbeat of the end was written
	closed atomic.Bool // the line that says so was written

	doubt int64       // up to when entries are in doubt, Unix milliseconds; see orderly.go
	begun bool        // the first heartbeat is written
	ended atomic.Bool // nothing runs any more
	// unwritten is how many routers have listened that have not written everything yet.
	unwritten atomic.Int32
}

type shard struct {
	mu       sync.Mutex
	accounts map[event.Account]*account
}

// New returns a registry over a store, which stays the caller's and must be closed after the registry. It reads from the
// store when it was used last, for 5 s at most, and starts goroutines that Close ends.
//
// Without Config.Leases the registry has to be the only one over its store, and with them all others need them too: otherwise
// New returns [store.ErrInUse], before anything is read or written. A store that was closed or has failed is refused with its
// error.
func New(st store.Store, cfg Config) (_ *Registry, err error) {
	defer fault.In("session", "new", &err)
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if st == nil {
		return nil, &event.InvalidError{Field: "store", Reason: "nil"}
	}
	if cfg.Leases != nil && !st.Info().Capabilities.Shared {
		return nil, &event.InvalidError{Field: "Leases", Reason: "of no use over a store that no other engine may open"}
	}
	pol := cfg.Policy
	if pol == nil {
		p, err := policy.New(policy.Rules{})
		if err != nil {
			return nil, fmt.Errorf("default policy: %w", err)
		}
		pol = p
	}
	records, err := newRecordCache()
	if err != nil {
		return nil, err
	}
	held, opened := &claim{st: st, shared: cfg.Leases != nil}, false
	free, err := held.take()
	if err != nil {
		return nil, err
	}
	defer func() {
		if !opened { // also after a panic, from which the host may recover
			free()
		}
	}()
	r := &Registry{
		claim: held, free: free, failed: make(chan struct{}), cfg: cfg,
		issuer: event.NewIssuer(st.Info().IDKey), log: trace.New(cfg.Logger), seed: maphash.MakeSeed(), records: records,
		cleanSoon: make(chan struct{}, 1), beatSoon: make(chan struct{}, 1), overdue: make(chan []event.Account),
		sweepers: make(crew, sweepCrew), janitors: make(crew, janitorCrew),
	}
	r.st = counted.Store{Store: st, Counters: &r.stats.store}
	r.stats.init()
	r.watchHooks()
	var wall func() time.Time // nil: the system's, which costs less
	if cfg.Wall != nil {
		wall = r.wall
	}
	r.clock = clock.New(wall, cfg.AgeGrace)
	if err := cmp.Or(r.storeError(context.Background()), r.limit()); err != nil {
		return nil, err
	}
	r.shared.steps = make(chan struct{}, 1)
	r.policy.Store(pol)
	r.feed.End = ErrClosed
	for i := range r.shards {
		r.shards[i].accounts = make(map[event.Account]*account)
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.wake()
	if cfg.Leases != nil {
		if err := r.joinNodes(); err != nil {
			r.cancel(ErrClosed)
			return nil, err
		}
		r.owned.Go(r.shareLoop)
	}
	r.owned.Go(r.watchStore)
	r.owned.Go(r.sweepLoop)
	r.owned.Go(r.tidyLoop)
	r.owned.Go(r.janitorLoop)
	r.owned.Go(r.beatLoop)
	opened = true
	r.log.Info("session: opened", "node", string(cfg.Node), "shared", cfg.Leases != nil, "grace", r.clock.Left())
	return r, nil
}

// Clock returns the registry's clock. It is for fan-out, which tells the same time; hosts have no use for it.
func (r *Registry) Clock() *clock.Clock { return r.clock }

// limit makes the limiters.
func (r *Registry) limit() (err error) {
	node, account := float64(r.cfg.AttachesPerSecond), float64(r.cfg.AttachesPerAccount)
	if r.attaches, err = newLimiter(node, node, 1, 1); err != nil {
		return err
	}
	if r.attachesOf, err = newLimiter(account, 2*account, 1./2, limitsKept); err != nil {
		return err
	}
	logins := 4 * float64(r.cfg.LoginsPerMinute)
	r.refusals, err = newLimiter(logins/60, logins, 1./4, limitsKept)
	return err
}

// elapsed is the time since the registry was opened.
func (r *Registry) elapsed() time.Duration { return r.clock.Elapsed() }

// Close refuses new work, closes every connection with reason shutdown, and waits for what runs as long as ctx allows. Clients
// are advised as by Drain with a zero [DrainRequest], unless Drain was called before; so are those that come in the meantime,
// by a [*StoppingError]. Logins do not end. Subscriptions end when it returns, whether or not everything has ended by then. It
// may be called again.
//
// The store is free for another engine when the last work of this one has ended, and the router is closed as well. After a Close
// that ran into its ctx that may take longer: until then another engine gets [store.ErrInUse]. Call Close again to wait.
func (r *Registry) Close(ctx context.Context) (err error) {
	defer fault.In("session", "close", &err)
	begun := time.Now()
	plan := r.plan(DrainRequest{}, len(r.connections()))
	plan.closes = true
	r.departure.CompareAndSwap(nil, plan)
	r.cancel(ErrClosed)
	all := r.connections() // with those that have come in meanwhile
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var last sync.WaitGroup
	for i, c := range all {
		last.Go(func() { c.end(r.Shutdown(i, len(all))) })
	}
	done := make(chan struct{})
	go func() {
		last.Wait()
		r.owned.Wait()
		r.beaten.Do(func() {
			r.lastBeat(context.WithoutCancel(ctx))
			r.ended.Store(true)
			if r.generation.Load() == 0 && r.nodes == nil { // nothing was sent, which is known without a router
				r.mark(ctx)
			}
		})
		r.nodes.leave(context.WithoutCancel(ctx))
		r.feed.Close()
		r.free()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		r.feed.Close() // what is still to come is told to no one: a subscriber does not wait for what hangs
		err = ctx.Err()
	}
	r.noteClosed(len(all), time.Since(begun), err)
	return err
}

// noteClosed logs the end of the registry, and then what was left out of the log.
func (r *Registry) noteClosed(connections int, took time.Duration, err error) {
	log := r.log.With("node", string(r.cfg.Node), "connections", connections, "took", took)
	switch {
	case err != nil:
		log.Warn("session: close has left something running", trace.Err(err))
	case !r.closed.Swap(true):
		log.Info("session: closed")
	}
	r.log.Close()
}

// connections returns the attached connections of all accounts.
func (r *Registry) connections() []*Connection {
	var all []*Connection
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for _, a := range sh.accounts {
			a.mu.Lock()
			for _, k := range a.links {
				all = append(all, k.conns...)
			}
			a.mu.Unlock()
		}
		sh.mu.Unlock()
	}
	return all
}

func (r *Registry) shard(id event.Account) *shard {
	return &r.shards[maphash.String(r.seed, string(id))&(shardCount-1)]
}

// peek returns the account's live side, or an empty one if it has none.
func (r *Registry) peek(id event.Account) *account {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if a := sh.accounts[id]; a != nil {
		return a
	}
	return &account{id: id}
}

// hold keeps the account's live side in memory until drop, so that its turn can be waited for.
func (r *Registry) hold(id event.Account) *account {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	a := sh.accounts[id]
	if a == nil {
		a = &account{id: id}
		sh.accounts[id] = a
	}
	if a.refs++; a.refs == 1 {
		a.turn = make(chan struct{}, 1)
	}
	return a
}

// enter waits for the account's turn. It must be followed by leave.
func (r *Registry) enter(ctx context.Context, id event.Account) (*account, error) {
	a := r.hold(id)
	var err error
	a.waiting.Add(1)
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		err = fmt.Errorf("session: waiting for the account's turn: %w", ctx.Err())
	case <-r.ctx.Done():
		err = ErrClosed
	}
	a.waiting.Add(-1)
	if err == nil { // several cases may have been ready
		if err = cmp.Or(context.Cause(r.ctx), ctx.Err()); err == nil {
			return a, nil
		}
		<-a.turn
	}
	r.drop(a)
	return nil, err
}

// tryEnter is enter that does not wait. It returns nil if it is another step's turn.
func (r *Registry) tryEnter(id event.Account) *account {
	a := r.hold(id)
	select {
	case a.turn <- struct{}{}:
		return a
	default:
		r.drop(a)
		return nil
	}
}

func (r *Registry) leave(a *account) {
	<-a.turn
	r.drop(a)
}

// drop gives a reference back, and lets the account's live side go if nothing is there any more.
func (r *Registry) drop(a *account) {
	sh := r.shard(a.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if a.refs--; a.refs == 0 {
		a.turn = nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refs == 0 && len(a.links) == 0 && !a.unsure && sh.accounts[a.id] == a {
		delete(sh.accounts, a.id)
	}
}

// load returns the account's record, which is the caller's. Where no other engine can change it, what this one committed
// last is what there is.
func (r *Registry) load(ctx context.Context, id event.Account) (*record, store.Revision, error) {
	c, known := r.records.get(id)
	if !known || r.st.Info().Capabilities.Shared || storeFailed(r.st) {
		got, err := r.st.Load(ctx, id)
		if err != nil {
			return nil, 0, fmt.Errorf("session: load account: %w", err)
		}
		known = known && c.rev == got.Revision
		c = cached{data: got.Data, rev: got.Revision}
	}
	read := decodeRecord
	if known {
		read = openRecord
	}
	rec, err := read(c.data)
	if err != nil {
		return nil, 0, err
	}
	r.nodes.learn(ctx, rec)
	return rec, c.rev, nil
}
