package fanout

import (
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// cursorBook holds the cursors that are newer than what the store has.
type cursorBook struct {
	turn  chan struct{}        // holds one token while a flush runs
	clock func() time.Duration // the router's

	mu     sync.Mutex
	since  time.Duration              // when the first of noted and dirty came; meaningless while both are empty
	taken  time.Duration              // the same of moving
	noted  []*Attachment              // whose cursors have moved
	dirty  map[cursorKey]store.Cursor // of attachments that have ended, or that could not be written
	moving map[cursorKey]store.Cursor // on their way into the store
}

type cursorKey struct {
	account     event.Account
	incarnation event.Incarnation
}

func (b *cursorBook) init(clock func() time.Duration) {
	b.clock = clock
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
	b.beginLocked()
	merge(b.dirty, c)
}

// beginLocked is called before something is added to noted or dirty.
func (b *cursorBook) beginLocked() {
	if len(b.noted)+len(b.dirty) == 0 {
		b.since = b.clock()
	}
}

// pending returns about how many cursors are newer than in the store, and since when.
func (b *cursorBook) pending() (n int, since time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, since = len(b.noted)+len(b.dirty), b.since
	if len(b.moving) > 0 {
		return n + len(b.moving), b.taken
	}
	return n, since
}

// note has the cursor of an attachment written, as it will be then. The attachment's hub is locked.
func (b *cursorBook) note(a *Attachment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.beginLocked()
	b.noted = append(b.noted, a)
}

// get returns what is newer than in the store, of attachments that are noted no more.
func (b *cursorBook) get(account event.Account, inc event.Incarnation) (store.Cursor, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := cursorKey{account, inc}
	c, ok := b.dirty[k]
	m, moving := b.moving[k]
	c.Seq, c.Sent = max(c.Seq, m.Seq), max(c.Sent, m.Sent)
	return c, ok || moving
}

// take moves all cursors that are to be written to moving and returns them.
func (b *cursorBook) take() []store.Cursor {
	b.mu.Lock()
	noted := b.noted
	b.taken = b.since
	b.noted, b.moving, b.dirty = nil, b.dirty, make(map[cursorKey]store.Cursor)
	b.mu.Unlock()
	for _, a := range noted {
		b.move(a)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]store.Cursor, 0, len(b.moving))
	for _, c := range b.moving {
		list = append(list, c)
	}
	return list
}

// move takes over the cursor of an attachment that is noted, unless it has ended since.
func (b *cursorBook) move(a *Attachment) {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	if a.noted {
		a.noted = false
		b.mu.Lock()
		defer b.mu.Unlock()
		merge(b.moving, a.cursorLocked())
	}
}

// done ends a flush. What was not written is dirty again.
func (b *cursorBook) done(unwritten []store.Cursor) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(unwritten) > 0 {
		b.since = b.taken
	}
	for _, c := range unwritten {
		merge(b.dirty, c)
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
			if err := r.flush(r.ctx); err != nil && r.ctx.Err() == nil {
				r.flushFailed("", err)
			}
		}
	}
}
