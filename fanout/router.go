package fanout

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/counted"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/owned"
	"github.com/manydevice/manydevice/internal/sentinel"
	"github.com/manydevice/manydevice/internal/stream"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// Errors that callers branch on. What to tell a client for each of them, [event.ClosedOf] says.
var (
	// ErrClosed: the router was closed.
	ErrClosed = sentinel.New(event.Shutdown, "fanout: closed")
	// ErrDetached is matched by every [*DetachedError]: the attachment has ended, so its frames have no effect.
	ErrDetached = sentinel.New(event.Lost, "fanout: attachment has ended")
	// ErrUnknownMessage: this store has issued no such message ID.
	ErrUnknownMessage = sentinel.New(event.ProtocolError, "fanout: unknown message ID")
	// ErrUnknownTarget: a target is no login of the account. Nothing was appended.
	ErrUnknownTarget = sentinel.New(event.ProtocolError, "fanout: unknown target login")
	// ErrUnknownOrigin: the sending login is not there, or has ended. Nothing was appended.
	ErrUnknownOrigin = sentinel.New(event.Unknown, "fanout: unknown origin login")
)

const shardCount = 64 // a power of two, so that the shard is a mask

// Router brings entries to devices. It is safe for concurrent use.
type Router struct {
	reg    *session.Registry
	st     store.Store
	cfg    Config
	issuer *event.Issuer
	log    *trace.Log

	seed        maphash.Seed
	shards      [shardCount]shard
	cursors     cursorBook
	early       earlyReads
	grown       grownSet
	troubles    troubleBook
	push        pushBook
	poisonCalls hostcall.Hook // of Config.OnPoison
	nackCalls   hostcall.Hook // of Config.OnNack
	drainCalls  hostcall.Hook // of transport.Drainer
	tailBytes   atomic.Int64
	scratches   sync.Pool    // of *scratch
	pages       sync.Pool    // of *[]event.Entry
	rounds      sync.Pool    // of *round
	none        business     // of attachments at rest
	times       *clock.Clock // the registry's
	attached    atomic.Int64
	gauges      atomic.Pointer[gauges] // as the watchdog has found them last
	hot         hotBook
	doubt       time.Time // see session.Registry.Doubt
	doubtful    bool      // it is known
	stats       counters
	feed        feed
	deaf        func()        // stops the router from hearing of changes
	finishing   chan struct{} // has room for the one Close that writes last
	finished    bool          // Close has nothing left to write; guarded by finishing

	ctx    context.Context // ends with cause ErrClosed
	cancel context.CancelCauseFunc
	owned  owned.Group
}

type shard struct {
	sent sentCounters

	mu      sync.Mutex
	appends uint64 // entries that were appended to inboxes of the shard
	hubs    map[event.Account]*hub
	// restless are hubs that the sweep has to look at: something is unacknowledged, uncovered or not yet told.
	restless []*hub
}

// hub is what is known of an account that has attachments here.
type hub struct {
	account event.Account
	shard   *shard
	refs    int32         // attachments, tasks and the list of restless ones; guarded by shard.mu
	watched int32         // one more than its place among the restless ones; 0: it is none of them. Guarded by shard.mu
	grown   atomic.Uint32 // trim round of which it is known that the account is in grownSet

	mu       sync.Mutex
	owing    uint32 // second of Router.clock, from 1, since which delivered receipts are owed; 0: none are
	atts     []*Attachment
	epoch    event.Epoch      // of head and tail
	head     uint64           // newest entry that this node knows of
	parks    uint32           // counts calls of Park
	rings    uint32           // counts what was heard of new entries
	tail     []*event.Sealed  // the newest entries without a gap, for readers that are nearly there
	slots    [1]*event.Sealed // what tail is in as long as it is that short
	receipts deliveredBook
}

// New returns a router over a registry and the store that the registry uses. Both stay the caller's, and are to be closed
// in the order registry, router, store. It keeps the registry's claim on the store until it is closed. It starts goroutines that
// Close ends. A registry has one router at a time: a second one is refused with [session.ErrListening].
func New(reg *session.Registry, st store.Store, cfg Config) (_ *Router, err error) {
	defer fault.In("fanout", "new", &err)
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	switch {
	case reg == nil:
		return nil, &event.InvalidError{Field: "registry", Reason: "nil"}
	case st == nil:
		return nil, &event.InvalidError{Field: "store", Reason: "nil"}
	case !reg.Over(st):
		return nil, &event.InvalidError{Field: "store", Reason: "not the registry's"}
	}
	waiting, err := lru.New[event.Account, []earlyRead](pendingAccounts)
	if err != nil {
		return nil, err
	}
	r := &Router{
		reg: reg, cfg: cfg, issuer: event.NewIssuer(st.Info().IDKey), log: trace.New(cfg.Logger), seed: maphash.MakeSeed(),
		times: reg.Clock(), finishing: make(chan struct{}, 1),
	}
	r.st = counted.Store{Store: st, Counters: &r.stats.store}
	r.early.waiting = waiting
	r.doubt, r.doubtful = reg.Doubt()
	if err := r.troubles.init(); err != nil {
		return nil, err
	}
	r.none.limits = &limits{window: cfg.Window, windowBytes: cfg.WindowBytes, ackWait: cfg.AckWait, frameWrite: cfg.FrameWrite}
	r.feed.End = ErrClosed
	r.stats.init()
	r.initHooks()
	r.gauges.Store(&gauges{})
	r.feed.now = r.times.Now
	r.cursors.init(r.clock)
	r.grown.init()
	r.push.init(&cfg.Push)
	for i := range r.shards {
		r.shards[i].hubs = make(map[event.Account]*hub)
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	if r.deaf, err = reg.Listen(&stream.Listener[session.Change]{Hear: r.changed}); err != nil {
		r.cancel(err)
		return nil, err
	}
	r.owned.Go(r.sweepLoop)
	r.owned.Go(r.flushLoop)
	r.owned.Go(r.trimLoop)
	if cfg.Push.Hook != nil {
		for i := range r.push.lanes {
			r.owned.Go(func() { r.pushLoop(&r.push.lanes[i]) })
		}
		r.owned.Go(r.pushLookLoop)
	}
	return r, nil
}

// clock is elapsed time: it never goes back and cannot be set.
func (r *Router) clock() time.Duration { return r.times.Elapsed() }

// now is what the wall clock says: for what is stored, and for what a host has set a date for.
func (r *Router) now() time.Time { return r.times.Now().Truncate(event.Millis) }

// commitTime is now for an entry that is about to be stored: other nodes know before if the clock was set.
func (r *Router) commitTime(ctx context.Context) time.Time {
	return r.reg.CommitTime(ctx).Truncate(event.Millis)
}

// enter lets a call in that writes to the store, or returns ErrClosed. Close waits for it, and no other engine gets the store
// before it has ended. It must be followed by owned.Leave.
func (r *Router) enter() error {
	if r.ctx.Err() != nil || !r.owned.Enter() {
		return ErrClosed
	}
	return nil
}

// Close stops delivery, writes what is pending (cursors and delivered receipts), and waits for what runs, calls of the host's among
// it, as long as ctx allows. Connections that are still there are closed with reason shutdown; close the registry first, and there
// are none. Subscriptions end when Close returns, whether or not everything has ended by then.
//
// It may be called again, to go on waiting and writing. After the registry and the router have given the store back it writes
// nothing beside an engine that has it by then: what could not be written before is lost, and the error matches [store.ErrInUse].
func (r *Router) Close(ctx context.Context) (err error) {
	defer fault.In("fanout", "close", &err)
	first, last := make(chan error, 1), make(chan error, 1)
	begun := r.owned.Go(func() { first <- r.flush(ctx) })
	if begun { // a store that ignores its context must not hold up the caller
		select {
		case err = <-first:
		case <-ctx.Done():
		}
	}
	r.cancel(ErrClosed)
	go func() { // for the same reason
		r.closeConnections()
		r.owned.Wait()
		err := r.finish(ctx)
		r.deaf() // gives up the claim on the store
		r.feed.Close()
		r.log.Close()
		last <- err
	}()
	select {
	case err := <-last:
		return err
	case <-ctx.Done():
		r.feed.Close() // a subscriber does not wait for what hangs
		return errors.Join(err, ctx.Err())
	}
}

// finish writes what came up while the router was closed, and what could not be written before. If an earlier Close has given up
// the claim on the store, and another engine has it by now, that is lost.
//
// Of several calls of Close one is here at a time, so that none has the store when another one has returned.
func (r *Router) finish(ctx context.Context) error {
	select {
	case r.finishing <- struct{}{}:
		defer func() { <-r.finishing }()
	case <-ctx.Done():
		return fmt.Errorf("an earlier call still writes: %w", ctx.Err())
	}
	if r.finished {
		return nil
	}
	free, err := r.reg.Hold()
	if err != nil {
		if r.isPending() {
			return fmt.Errorf("cursors or receipts are lost: %w", err)
		}
		return nil
	}
	defer free()
	if err := r.flush(ctx); err != nil {
		r.flushFailed("", err) // nobody may wait for it any longer
		return err
	}
	r.finished = r.reg.Orderly(ctx) // the next engine knows then what was sent
	return nil
}

// isPending reports whether there is something to flush.
func (r *Router) isPending() bool {
	n, _ := r.cursors.pending()
	hubs := r.owing()
	for _, h := range hubs {
		h.release()
	}
	return n+len(hubs) > 0
}

// closeConnections closes the connections of a router that was closed. One that is still arriving finds out itself; see begin.
func (r *Router) closeConnections() {
	var all []*Attachment
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		hubs := slices.Collect(maps.Values(sh.hubs))
		sh.mu.Unlock()
		for _, h := range hubs {
			h.mu.Lock()
			all = append(all, h.atts...)
			h.mu.Unlock()
		}
	}
	for i, a := range all {
		a.conn.Close(r.reg.Shutdown(i, len(all)))
	}
}

func (r *Router) shardOf(id event.Account) *shard {
	return &r.shards[maphash.String(r.seed, string(id))&(shardCount-1)]
}

// grow is find that counts an entry, and reports whether it is one that says which account has much to do.
func (r *Router) grow(id event.Account) (h *hub, sample bool) {
	sh := r.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.appends++
	return sh.hubs[id], sh.appends%sampleEvery == 0
}

// find returns the account's hub, or nil if no device of it is attached here.
func (r *Router) find(id event.Account) *hub {
	sh := r.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.hubs[id]
}

// hold returns the account's hub, made if need be. It must be followed by release.
func (r *Router) hold(id event.Account) *hub {
	sh := r.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	h := sh.hubs[id]
	if h == nil {
		h = &hub{account: id, shard: sh, receipts: deliveredBook{flushed: -receiptInterval}}
		sh.hubs[id] = h
	}
	h.refs++
	return h
}

func (h *hub) release() {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	h.refs--
	if h.refs == 0 && h.shard.hubs[h.account] == h { // a late holder must not take away the one made since
		delete(h.shard.hubs, h.account)
	}
}

// watchLocked makes the sweep look at the hub until it is at rest. The hub's mutex is held; the shard's comes after it.
func (h *hub) watchLocked() {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if h.watched == 0 {
		h.shard.restless = append(h.shard.restless, h)
		h.watched = int32(len(h.shard.restless))
		h.refs++
	}
}

// unwatchLocked is the opposite. Its caller holds the hub as well, so that it does not go.
func (h *hub) unwatchLocked() {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if h.watched == 0 {
		return
	}
	list, last := h.shard.restless, len(h.shard.restless)-1
	list[h.watched-1] = list[last]
	list[last].watched = h.watched
	list[last] = nil
	if list = list[:last]; cap(list) >= 64 && len(list) < cap(list)/4 { // after a crowd
		list = slices.Clone(list)
	}
	h.shard.restless, h.watched = list, 0
	h.refs--
}

// forget drops what is owed to and by an account that was deleted.
func (r *Router) forget(account event.Account) {
	r.early.drop(account)
	r.push.drop(account)
	if h := r.find(account); h != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.receipts.debts = debts{}
	}
}
