package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

const (
	// flushersAtOnce is how many accounts' receipts are committed at once, so that the store can group them: one after another
	// those of 2,000 accounts took 5 s, which are two syncs each.
	flushersAtOnce = 64
	// drainFlushLeast is how long the first flush of a drain may take at least: nobody is sent away yet.
	drainFlushLeast = 500 * time.Millisecond
	drainFlushWait  = time.Second // how long the last one may take at least
	drainFlushGap   = time.Second // between two flushes while clients are sent away
)

// Flush writes cursors and delivered receipts that are pending, and returns when they are durable.
func (r *Router) Flush(ctx context.Context) (err error) {
	defer fault.In("fanout", "flush", &err)
	return r.flushFor(ctx, 0)
}

// Drain prepares for a stop, for instance when a new version is rolled out. It writes what is pending (cursors and delivered
// receipts), for half of q.Over at most, or half a second if that is more, while the node serves as before. Then the registry
// drains: no logins and connections are taken any more, and those that are there are closed; see [session.Registry.Drain] and
// [session.DrainRequest]. What comes up meanwhile is written, too. So little is left to do for Close once clients wait for the
// next process.
//
// It returns when all clients have been told and everything is written: two seconds after q.Over at the latest, but for
// Config.CloseTimeout of the registry, and never later than ctx. An error means that something could not be written yet, or
// that ctx was over before all clients were told. Close, which comes next, does what is left.
func (r *Router) Drain(ctx context.Context, q session.DrainRequest) (err error) {
	defer fault.In("fanout", "drain", &err)
	if err := q.Validate(); err != nil {
		return err
	}
	start, over := r.clock(), max(q.Over, 0)
	before := max(over/2, drainFlushLeast)
	for range 2 { // what comes up during the first one is less. The last flush of all says what is left
		if wait := before - (r.clock() - start); wait > 0 {
			_ = r.flushFor(ctx, wait)
		}
	}
	if q.Over > 0 {
		q.Over = max(over-(r.clock()-start), time.Millisecond)
	}
	away := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() {
		t := time.NewTicker(drainFlushGap)
		defer t.Stop()
		for {
			select {
			case <-away:
				return
			case <-t.C:
				_ = r.flushFor(ctx, drainFlushGap)
			}
		}
	})
	err = r.reg.Drain(ctx, q)
	close(away)
	beside.Wait()
	left := r.flushFor(ctx, max(over-(r.clock()-start), drainFlushWait))
	return cmp.Or(err, left)
}

// flushFor is flush that waits no longer than the given time, if that is not 0, and ctx, whatever the store does.
func (r *Router) flushFor(ctx context.Context, limit time.Duration) error {
	cancel := func() {}
	if limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, limit)
	}
	done := make(chan error, 1)
	if !r.owned.Go(func() {
		defer cancel()
		done <- r.flush(ctx)
	}) {
		cancel()
		return ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done: // which ended it
		return err
	default:
		return fmt.Errorf("flush: %w", ctx.Err())
	}
}

// flushFailed says that cursors, or the receipts of one account, could not be written yet.
func (r *Router) flushFailed(account event.Account, err error) {
	r.stats.flushFailures.Add(1)
	r.feed.emit(Event{Kind: EventFlushFailed, Account: account, Err: err})
	if account == "" {
		r.log.Warn("fanout: cursors or receipts could not be written yet", trace.Err(err))
		return
	}
	r.log.Warn("fanout: receipts of an account could not be written yet", "account", string(account), trace.Err(err))
}

// flush writes the cursors that have moved and the delivered receipts that are owed. The receipts of an account go before its
// cursors: once a cursor is on disk nobody would remember what is owed for the same acks. So
//
//  1. cursors of accounts that owe nothing are written first, in one call of the store: they wait for no one;
//  2. then receipts, of many accounts at once, so that their commits share the store's syncs;
//  3. then cursors of accounts whose receipts are written. If there is no room for receipts, they are written all the same.
//
// What is not written is written by the next flush.
func (r *Router) flush(ctx context.Context) error {
	select {
	case r.cursors.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("flush: %w", ctx.Err())
	}
	defer func() { <-r.cursors.turn }()
	list := r.cursors.take()
	hubs := r.owing() // after it: what is owed for these cursors is among them
	owes := make(map[event.Account]bool, len(hubs))
	for _, h := range hubs {
		owes[h.account] = true
	}
	var free, bound, unwritten []store.Cursor
	for _, c := range list {
		if owes[c.Account] {
			bound = append(bound, c)
		} else {
			free = append(free, c)
		}
	}
	save := func(cursors []store.Cursor) error {
		if len(cursors) == 0 {
			return nil
		}
		err := r.st.SaveCursors(ctx, cursors)
		if err != nil {
			unwritten = append(unwritten, cursors...)
		}
		return err
	}
	err := save(free)
	failed, told := r.flushAllReceipts(ctx, hubs)
	var ready []store.Cursor
	for _, c := range bound {
		if failed[c.Account] {
			unwritten = append(unwritten, c)
		} else {
			ready = append(ready, c)
		}
	}
	err = errors.Join(err, told, save(ready))
	r.cursors.done(unwritten)
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// flushAllReceipts writes what hubs owe, and releases them. It returns the accounts for which that failed, except for want of
// room, and one of the errors: many would say the same.
func (r *Router) flushAllReceipts(ctx context.Context, hubs []*hub) (failed map[event.Account]bool, err error) {
	failed = make(map[event.Account]bool)
	var mu sync.Mutex
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(flushersAtOnce, len(hubs)) {
		all.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(hubs); i = next.Add(1) - 1 {
				h := hubs[i]
				fails := ctx.Err()
				if fails == nil {
					fails = r.flushReceipts(ctx, h)
				}
				h.release()
				if fails == nil {
					continue
				}
				mu.Lock()
				full := errors.Is(fails, store.ErrFull)
				if err == nil || !full {
					err = fails
				}
				if !full {
					failed[h.account] = true
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return failed, err
}

// owing returns the hubs with delivered receipts that are not yet told, held.
func (r *Router) owing() []*hub {
	var all []*hub
	for i := range r.shards {
		for _, h := range r.shards[i].restlessHubs() {
			h.mu.Lock()
			owes := h.receipts.len() > 0 || h.receipts.busy != nil
			h.mu.Unlock()
			if owes {
				all = append(all, h)
			} else {
				h.release()
			}
		}
	}
	return all
}
