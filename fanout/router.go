package fanout

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/owned"
	"github.com/manydevice/manydevice/internal/sentinel"
	"github.com/manydevice/manydevice/internal/stream"
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
	log    *slog.Logger

	seed        maphash.Seed
	shards      [shardCount]shard
	cursors     cursorBook
	early       earlyReads
	grown       grownSet
	troubles    troubleBook
	push        pushBook
	poisonCalls hostcall.Hook // of Config.OnPoison
	tailBytes   atomic.Int64
	scratches   sync.Pool    // of *scratch
	pages       sync.Pool    // of *[]event.Entry
	rounds      sync.Pool    // of *round
	none        business     // of attachments at rest
	times       *clock.Clock // the registry's
	stats       counters
	feed        feed
	deaf        func() // stops the router from hearing of changes

	ctx    context.Context // ends with cause ErrClosed
	cancel context.CancelCauseFunc
	owned  owned.Group
}

type shard struct {
	sent sentCounters

	mu   sync.Mutex
	hubs map[event.Account]*hub
	// restless are hubs that the sweep has to look at: something is unacknowledged, uncovered or not yet told.
	restless map[*hub]struct{}
}

// hub is what is known of an account that has attachments here.
type hub struct {
	account event.Account
	shard   *shard
	refs    int           // attachments, tasks and the list of restless ones; guarded by shard.mu
	grown   atomic.Uint32 // trim round of which it is known that the account is in grownSet

	mu       sync.Mutex
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
// in the order registry, router, store. It starts goroutines that Close ends. A registry has one router at a time: a second
// one is refused with [session.ErrListening].
func New(reg *session.Registry, st store.Store, cfg Config) (*Router, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("fanout: config: %w", err)
	}
	if reg == nil || st == nil {
		return nil, &event.InvalidError{Field: "registry or store", Reason: "nil"}
	}
	waiting, err := lru.New[event.Account, []earlyRead](pendingAccounts)
	if err != nil {
		return nil, fmt.Errorf("fanout: %w", err)
	}
	r := &Router{
		reg: reg, st: st, cfg: cfg, issuer: event.NewIssuer(st.Info().Secret), log: cfg.Logger, seed: maphash.MakeSeed(),
		times: reg.Clock(),
	}
	r.early.waiting = waiting
	if err := r.troubles.init(); err != nil {
		return nil, fmt.Errorf("fanout: %w", err)
	}
	r.feed.End = ErrClosed
	r.stats.init()
	r.feed.now = r.times.Now
	r.cursors.init()
	r.grown.init()
	r.push.init(&cfg.Push)
	for i := range r.shards {
		r.shards[i].hubs = make(map[event.Account]*hub)
		r.shards[i].restless = make(map[*hub]struct{})
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	if r.deaf, err = reg.Listen(&stream.Listener[session.Change]{Hear: r.changed}); err != nil {
		r.cancel(err)
		return nil, fmt.Errorf("fanout: %w", err)
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

// clock is elapsed time: it never goes back, and nobody can set it.
func (r *Router) clock() time.Duration { return r.times.Elapsed() }

// now is what the wall clock says: for what is stored, and for what a host has set a date for.
func (r *Router) now() time.Time { return r.times.Now().Truncate(event.Millis) }

// Close stops delivery, writes what is pending (cursors and delivered receipts), and waits for what runs as long as ctx
// allows. Close the registry first, so that connections are told. It may be called again, to go on waiting and writing.
func (r *Router) Close(ctx context.Context) error {
	err := r.flushCursors(ctx)
	r.cancel(ErrClosed)
	done := make(chan struct{})
	go func() {
		r.owned.Wait()
		close(done)
	}()
	select {
	case <-done:
		err := r.flushCursors(ctx) // what came meanwhile, and what could not be written before
		r.deaf()
		r.feed.Close()
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("fanout: close: %w", ctx.Err()))
	}
}

// Flush writes cursors and delivered receipts that are pending, and returns when they are durable.
func (r *Router) Flush(ctx context.Context) error { return r.flushCursors(ctx) }

func (r *Router) shardOf(id event.Account) *shard {
	return &r.shards[maphash.String(r.seed, string(id))&(shardCount-1)]
}

// find returns the account's hub, or nil if nobody of it is attached here.
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

// watchLocked has the sweep look at the hub until it is at rest. The hub's mutex is held; the shard's comes after it.
func (h *hub) watchLocked() {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if _, ok := h.shard.restless[h]; !ok {
		h.shard.restless[h] = struct{}{}
		h.refs++
	}
}

// unwatchLocked is the opposite. Whoever calls it holds the hub besides.
func (h *hub) unwatchLocked() {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if _, ok := h.shard.restless[h]; ok {
		delete(h.shard.restless, h)
		h.refs--
	}
}

// grew notes that the account's inbox has grown, and returns its hub, or nil if nobody of it is attached here.
func (r *Router) grew(account event.Account) *hub {
	h := r.find(account)
	switch {
	case r.cfg.TrimInterval <= 0: // nobody takes them out
	case h == nil:
		r.grown.add(account)
	case h.grown.Load() != r.grown.round.Load():
		h.grown.Store(r.grown.add(account))
	}
	return h
}

// appended rings the doorbell of a hub: the inbox goes up to a place now. e is the entry there, for the tail; nil: some of
// the tail's were replaced. Connections that never wait are served on the caller's goroutine, which must hold no lock.
func (r *Router) appended(h *hub, at event.Position, e *event.Sealed) {
	var d *round
	now := r.clock()
	h.mu.Lock()
	for _, a := range r.rungLocked(h, at, e) {
		if !a.rouseLocked() {
			continue
		}
		if d == nil {
			d = r.newRound(len(h.atts))
		}
		d.addLocked(a, now)
	}
	h.mu.Unlock()
	r.serve(h, d)
}

// reached is appended for an entry of the engine's own that is not at hand. It only wakes readers, on goroutines of their
// own, so that the caller may hold locks.
func (r *Router) reached(h *hub, at event.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range r.rungLocked(h, at, nil) {
		a.wakeLocked()
	}
}

// rungLocked notes how far the inbox goes, and returns the attachments that are to look.
func (r *Router) rungLocked(h *hub, at event.Position, e *event.Sealed) []*Attachment {
	if e == nil {
		r.dropTailLocked(h)
	}
	if len(h.atts) == 0 || !r.reachedLocked(h, at) {
		return nil
	}
	if e != nil {
		r.keepLocked(h, e)
	}
	return h.atts
}

// reachedLocked notes that the inbox goes up to a place, and reports whether that is so: an inbox that was deleted begins
// anew under a higher epoch, and what is heard of the old one comes too late.
func (r *Router) reachedLocked(h *hub, at event.Position) bool {
	if at.Epoch < h.epoch {
		return false
	}
	if at.Epoch > h.epoch {
		r.dropTailLocked(h)
		h.epoch, h.head = at.Epoch, 0
	}
	h.head = max(h.head, at.Seq)
	h.rings++
	return true
}

// keepLocked adds an entry to the tail. The tail has no gaps, so an entry that does not follow the last one starts it
// anew; readers find what is not in it in the store.
func (r *Router) keepLocked(h *hub, e *event.Sealed) {
	if n := len(h.tail); n > 0 {
		last := h.tail[n-1].Seq
		if e.Seq <= last {
			return
		}
		if e.Seq != last+1 {
			r.dropTailLocked(h)
		}
	}
	if r.tailBytes.Load() >= r.cfg.TailCache {
		r.dropTailLocked(h)
		return
	}
	if len(h.tail) == tailEntries {
		r.tailBytes.Add(-int64(h.tail[0].Size()))
		h.tail[0] = nil
		h.tail = h.tail[1:]
	}
	if h.tail == nil {
		h.tail = h.slots[:0]
	}
	h.tail = append(h.tail, e)
	r.tailBytes.Add(int64(e.Size()))
}

func (r *Router) dropTailLocked(h *hub) {
	for _, e := range h.tail {
		r.tailBytes.Add(-int64(e.Size()))
	}
	h.tail, h.slots[0] = nil, nil
}

// changed hears of every change of a login, at once and in the order of its account's steps; see [session.Registry.Listen].
// It is called with the account's mutex of the registry held: it does not wait, and nothing that it does calls the registry
// or code of the host's. The router takes its locks after those of the registry, the hub's first and the shard's then, and
// calls the registry with none of them held.
func (r *Router) changed(c session.Change) {
	if c.Position.Seq > 0 {
		if h := r.grew(c.Session.Account); h != nil {
			r.reached(h, c.Position)
		}
	}
	switch c.Kind {
	case session.ChangeOnline:
		r.announce(c, event.KindDeviceOnline)
	case session.ChangeOffline:
		r.announce(c, event.KindDeviceOffline)
	case session.ChangeDeleted:
		r.forget(c.Session.Account)
	}
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

// sweepLoop looks at restless hubs once a second.
func (r *Router) sweepLoop() {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
			for i := range r.shards {
				r.sweepShard(&r.shards[i])
			}
		}
	}
}

// sweepShard looks at the shard's restless hubs and takes those off the list that have come to rest.
func (r *Router) sweepShard(sh *shard) {
	sh.mu.Lock()
	list := make([]*hub, 0, len(sh.restless))
	for h := range sh.restless {
		h.refs++
		list = append(list, h)
	}
	sh.mu.Unlock()
	for _, h := range list {
		for _, a := range h.sweep(r.clock(), r.times.Woke()) {
			a.slow(CauseAckWait)
		}
		if h.receiptsDue(r.clock()) {
			if err := r.flushReceipts(r.ctx, h); err != nil && r.ctx.Err() == nil {
				r.flushFailed(h.account, err)
			}
		}
		h.release()
	}
}

// sweep wakes readers that owe a cover, and returns connections without progress. Nobody could make any while the process stood
// still, which it did until woke.
func (h *hub) sweep(clock, woke time.Duration) (slow []*Attachment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rest := h.receipts.len() == 0
	for _, a := range h.atts {
		if a.stuckLocked(clock, woke) {
			slow = append(slow, a)
		}
		if a.coverDueLocked(clock) {
			a.wakeLocked()
		}
		rest = rest && a.atRestLocked()
	}
	if rest {
		h.unwatchLocked()
	}
	return slow
}
