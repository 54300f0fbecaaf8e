package session

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/store"
)

const shardCount = 64 // a power of two, so that the shard is a mask

// Registry admits, attaches, lists and ends logins. It is safe for concurrent use.
type Registry struct {
	st     store.Store
	cfg    Config
	policy atomic.Pointer[policy.Policy]
	issuer *event.Issuer
	log    *slog.Logger

	seed       maphash.Seed
	shards     [shardCount]shard
	records    *lru.Cache[event.Account, cached]
	opened     time.Time
	generation atomic.Uint64
	hungCloses atomic.Uint64

	nodes     *nodes        // nil: this registry is the only one over its store
	cleanSoon chan struct{} // has the janitor come before its time

	draining atomic.Bool
	attaches limiter

	hooks  *Subscription // feeds Config.OnChange; nil without
	hooked sync.WaitGroup

	watchMu       sync.Mutex
	subscriptions []*Subscription
	watchers      atomic.Pointer[[]func(Change)]

	ctx    context.Context // ends with cause ErrClosed
	cancel context.CancelCauseFunc
	owned  owner
}

type shard struct {
	mu       sync.Mutex
	accounts map[event.Account]*account
}

type cached struct {
	rec *record
	rev store.Revision
}

// New returns a registry over a store, which stays the caller's and must be closed after the registry. It starts a
// goroutine that Close ends.
func New(st store.Store, cfg Config) (*Registry, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("session: config: %w", err)
	}
	if st == nil {
		return nil, &event.InvalidError{Field: "store", Reason: "nil"}
	}
	pol := cfg.Policy
	if pol == nil {
		p, err := policy.New(policy.Rules{})
		if err != nil {
			return nil, fmt.Errorf("session: default policy: %w", err)
		}
		pol = p
	}
	records, err := lru.New[event.Account, cached](recordsCached)
	if err != nil {
		return nil, fmt.Errorf("session: record cache: %w", err)
	}
	r := &Registry{
		st: st, cfg: cfg, issuer: event.NewIssuer(st.Info().Secret), log: cfg.Logger,
		seed: maphash.MakeSeed(), records: records, opened: time.Now(),
		cleanSoon: make(chan struct{}, 1), attaches: limiter{perSecond: cfg.AttachesPerSecond},
	}
	r.policy.Store(pol)
	for i := range r.shards {
		r.shards[i].accounts = make(map[event.Account]*account)
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	if cfg.Leases != nil {
		if err := r.joinNodes(); err != nil {
			r.cancel(ErrClosed)
			return nil, err
		}
	}
	if cfg.OnChange != nil {
		if r.hooks, err = r.Subscribe(hookQueue); err != nil {
			return nil, err
		}
		r.hooked.Go(r.hookLoop)
	}
	r.owned.start(r.sweepLoop)
	r.owned.start(r.janitorLoop)
	return r, nil
}

// Watch has fn called for every change of a login, after it was committed, on the goroutine that made it. fn must return
// quickly; it may call the registry. Watchers are meant to be added before the registry is used and cannot be removed.
func (r *Registry) Watch(fn func(Change)) {
	r.watchMu.Lock()
	defer r.watchMu.Unlock()
	var all []func(Change)
	if p := r.watchers.Load(); p != nil {
		all = append(all, *p...)
	}
	all = append(all, fn)
	r.watchers.Store(&all)
}

func (r *Registry) tell(changes []Change) {
	if len(changes) == 0 {
		return
	}
	r.publish(changes)
	p := r.watchers.Load()
	if p == nil {
		return
	}
	for _, c := range changes {
		for _, fn := range *p {
			fn(c)
		}
	}
}

// HungCloses returns how many calls of Conn.Close did not return within Config.CloseTimeout.
func (r *Registry) HungCloses() uint64 { return r.hungCloses.Load() }

// HookDrops returns how many changes Config.OnChange was not told of, because it was too far behind.
func (r *Registry) HookDrops() uint64 {
	if r.hooks == nil {
		return 0
	}
	return r.hooks.Dropped()
}

// hookLoop calls Config.OnChange until the registry is closed and what was queued is told.
func (r *Registry) hookLoop() {
	for c := range r.hooks.Changes() {
		r.onChange(c)
	}
}

func (r *Registry) onChange(c Change) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Warn("session: OnChange panicked", "change", string(c.Kind), "panic", p)
		}
	}()
	r.cfg.OnChange(c)
}

// Close refuses new work, closes every connection with reason shutdown, and waits for what runs as long as ctx allows.
// Logins do not end. It may be called again.
func (r *Registry) Close(ctx context.Context) error {
	r.cancel(ErrClosed)
	var last sync.WaitGroup
	for _, c := range r.connections() {
		last.Go(func() { c.end(event.Shutdown.Closed(time.Second)) })
	}
	done := make(chan struct{})
	go func() {
		last.Wait()
		r.owned.wait()
		r.nodes.leave(context.WithoutCancel(ctx))
		r.endSubscriptions()
		r.hooked.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("session: close: %w", ctx.Err())
	}
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

// enter waits for the account's turn. It must be followed by leave.
func (r *Registry) enter(ctx context.Context, id event.Account) (*account, error) {
	sh := r.shard(id)
	sh.mu.Lock()
	a := sh.accounts[id]
	if a == nil {
		a = &account{id: id, turn: make(chan struct{}, 1)}
		sh.accounts[id] = a
	}
	a.refs++
	sh.mu.Unlock()
	var err error
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		err = fmt.Errorf("session: waiting for the account's turn: %w", ctx.Err())
	case <-r.ctx.Done():
		err = ErrClosed
	}
	if err == nil { // several cases may have been ready
		if err = cmp.Or(context.Cause(r.ctx), ctx.Err()); err == nil {
			return a, nil
		}
		<-a.turn
	}
	r.drop(sh, a)
	return nil, err
}

func (r *Registry) leave(a *account) {
	<-a.turn
	r.drop(r.shard(a.id), a)
}

// drop gives a reference back and forgets the account if nothing lives there.
func (r *Registry) drop(sh *shard, a *account) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	a.refs--
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refs == 0 && len(a.links) == 0 {
		delete(sh.accounts, a.id)
	}
}

// load returns the account's record. Where no other engine can change it, what this one committed last is what there is.
func (r *Registry) load(ctx context.Context, id event.Account) (*record, store.Revision, error) {
	c, known := r.records.Get(id)
	if known && !r.st.Info().Capabilities.Shared {
		select {
		case <-r.st.Failed():
			return nil, 0, fmt.Errorf("session: load account: %w", store.ErrFailed)
		default:
			r.nodes.learn(ctx, c.rec)
			return c.rec, c.rev, nil
		}
	}
	got, err := r.st.Load(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("session: load account: %w", err)
	}
	rec := c.rec
	if !known || c.rev != got.Revision {
		if rec, err = decodeRecord(got.Data); err != nil {
			return nil, 0, err
		}
	}
	r.nodes.learn(ctx, rec)
	return rec, got.Revision, nil
}

// owner waits for the goroutines that it started and for the calls that it let in.
type owner struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// start runs fn on a goroutine of its own, or, when the owner is already waiting for the end, right here.
func (o *owner) start(fn func()) {
	if !o.enter() {
		fn()
		return
	}
	go func() {
		defer o.leave()
		fn()
	}()
}

// enter lets a call in, unless the owner is already waiting for the end. It must be followed by leave.
func (o *owner) enter() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.wg.Add(1)
	return true
}

func (o *owner) leave() { o.wg.Done() }

func (o *owner) wait() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.wg.Wait()
}
