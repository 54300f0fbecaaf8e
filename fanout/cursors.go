package fanout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// cursorBook holds the cursors that are newer than what the store has.
type cursorBook struct {
	turn chan struct{} // holds one token while a flush runs

	mu     sync.Mutex
	dirty  map[cursorKey]store.Cursor
	moving map[cursorKey]store.Cursor // on their way into the store
}

type cursorKey struct {
	account     event.Account
	incarnation event.Incarnation
}

func (b *cursorBook) init() {
	b.turn = make(chan struct{}, 1)
	b.dirty = make(map[cursorKey]store.Cursor)
}

// merge puts c into m, where the higher numbers win.
func merge(m map[cursorKey]store.Cursor, c store.Cursor) {
	k := cursorKey{c.Account, c.Incarnation}
	old := m[k]
	c.Seq, c.Sent = max(old.Seq, c.Seq), max(old.Sent, c.Sent)
	m[k] = c
}

func (b *cursorBook) put(c store.Cursor) {
	b.mu.Lock()
	defer b.mu.Unlock()
	merge(b.dirty, c)
}

// get returns what is newer than in the store. Ask it before the store: what it does not have is there.
func (b *cursorBook) get(account event.Account, inc event.Incarnation) (store.Cursor, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := cursorKey{account, inc}
	c, ok := b.dirty[k]
	m, moving := b.moving[k]
	c.Seq, c.Sent = max(c.Seq, m.Seq), max(c.Sent, m.Sent)
	return c, ok || moving
}

// take moves all dirty cursors to moving and returns them.
func (b *cursorBook) take() []store.Cursor {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moving, b.dirty = b.dirty, make(map[cursorKey]store.Cursor)
	list := make([]store.Cursor, 0, len(b.moving))
	for _, c := range b.moving {
		list = append(list, c)
	}
	return list
}

// done ends a flush. What was not written is dirty again.
func (b *cursorBook) done(written bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !written {
		for _, c := range b.moving {
			merge(b.dirty, c)
		}
	}
	b.moving = nil
}

func (r *Router) flushLoop() {
	t := time.NewTicker(max(r.cfg.CursorFlush/2, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
			if err := r.flushCursors(r.ctx); err != nil && r.ctx.Err() == nil {
				r.log.Warn("fanout: flush cursors", "err", err)
			}
		}
	}
}

// flushCursors writes the cursors that have moved. Delivered receipts that are owed for the same acks go first: once the
// cursor is on disk nobody would remember them. If there is no room for receipts, cursors are written all the same.
func (r *Router) flushCursors(ctx context.Context) error {
	select {
	case r.cursors.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("fanout: flush: %w", ctx.Err())
	}
	defer func() { <-r.cursors.turn }()
	list := r.cursors.take()
	err := r.flushAllReceipts(ctx)
	written := err == nil || errors.Is(err, store.ErrFull)
	if written && len(list) > 0 {
		saved := r.st.SaveCursors(ctx, list)
		written = saved == nil
		err = errors.Join(err, saved)
	}
	r.cursors.done(written)
	if err != nil {
		return fmt.Errorf("fanout: flush: %w", err)
	}
	return nil
}

func (r *Router) flushAllReceipts(ctx context.Context) error {
	var errs []error
	for _, h := range r.owing() {
		errs = append(errs, r.flushReceipts(ctx, h))
		h.release()
	}
	return errors.Join(errs...)
}

// owing returns the hubs with delivered receipts that are not yet told, held.
func (r *Router) owing() []*hub {
	var all []*hub
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for h := range sh.restless {
			h.refs++
			all = append(all, h)
		}
		sh.mu.Unlock()
	}
	return all
}
