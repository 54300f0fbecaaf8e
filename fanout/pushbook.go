package fanout

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/store"
)

// pushBook holds the accounts that have something undecided. An account at rest is not in it. What it forgets, the store
// still knows.
type pushBook struct {
	limit  int
	wake   chan struct{} // the first of the queue has changed
	slots  chan struct{} // one for each account that has its turn
	missed atomic.Bool   // accounts found the book full
	calls  hostcall.Hook // of PushConfig.Hook
	asked  hostcall.Hook // of PushConfig.Decide

	mu    sync.Mutex
	items map[event.Account]*pushItem
	queue pushQueue // those that wait; the others have their turn
}

// pushItem is one account in the book. Account, due, seq and dropped are guarded by the book's mutex; the rest is for whoever
// has the account's turn.
type pushItem struct {
	account event.Account
	due     time.Duration // Router.clock
	seq     uint64        // the newest entry that may want a push, as far as is known; 0: found in the store
	dropped bool          // the account was deleted

	told    map[pushTold]struct{} // of entries that are not decided yet
	tries   int                   // failed calls for the entries up to through
	through uint64                // 0: none has failed
}

// pushTold says that the host was told that a device has missed an entry.
type pushTold struct {
	device event.Incarnation
	seq    uint64
}

func (b *pushBook) init(c *PushConfig) {
	b.limit = c.Pending
	b.wake = make(chan struct{}, 1)
	b.slots = make(chan struct{}, c.Concurrency)
	b.items = make(map[event.Account]*pushItem)
}

// add has an account come up at a time, unless it waits already. It reports false if there is no room.
func (b *pushBook) add(account event.Account, seq uint64, due time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if it := b.items[account]; it != nil {
		it.seq = max(it.seq, seq)
		return true
	}
	if len(b.items) >= b.limit {
		return false
	}
	it := &pushItem{account: account, seq: seq, due: due}
	b.items[account] = it
	b.queueLocked(it)
	return true
}

func (b *pushBook) queueLocked(it *pushItem) {
	heap.Push(&b.queue, it)
	if b.queue[0] != it {
		return
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// next takes out an account whose turn has come, or returns how long there is none; negative: as long as none is added.
func (b *pushBook) next(now time.Duration) (it *pushItem, seq uint64, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) > 0 && b.queue[0].dropped {
		heap.Pop(&b.queue)
	}
	switch {
	case len(b.queue) == 0:
		return nil, 0, -1
	case now < b.queue[0].due:
		return nil, 0, b.queue[0].due - now
	}
	it = heap.Pop(&b.queue).(*pushItem)
	return it, it.seq, 0
}

// done ends an account's turn: it comes up again at a time, or, if that is 0 and no entry beyond seq has come meanwhile, is
// at rest.
func (b *pushBook) done(it *pushItem, seq uint64, again, later time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case it.dropped:
		return
	case again != 0:
		it.due = again
	case it.seq > seq:
		it.due = later
	default:
		delete(b.items, it.account)
		return
	}
	b.queueLocked(it)
}

// drop forgets an account.
func (b *pushBook) drop(account event.Account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if it := b.items[account]; it != nil {
		it.dropped = true
		delete(b.items, account)
	}
}

func (b *pushBook) isDropped(it *pushItem) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return it.dropped
}

// pushQueue is a heap by due time.
type pushQueue []*pushItem

func (q pushQueue) Len() int           { return len(q) }
func (q pushQueue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q pushQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *pushQueue) Push(x any)        { *q = append(*q, x.(*pushItem)) }

func (q *pushQueue) Pop() any {
	last := len(*q) - 1
	it := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	if last == 0 {
		*q = nil // a queue that was long once keeps no room
	}
	return it
}

// pushLater has the accounts that got a message come up for a push decision, if it may want one.
func (r *Router) pushLater(m *store.Message, placed store.Placed) {
	if r.cfg.Push.Hook == nil || m.Flags&event.FlagNoPush != 0 {
		return
	}
	info := r.cfg.Kinds.Info(m.Kind)
	if !info.WantsPush() && info.Change != event.ChangeReplace {
		return
	}
	due := r.clock() + r.cfg.Push.Delay
	for _, p := range placed.To {
		if p.Account != m.From && !r.push.add(p.Account, p.Seq, due) {
			r.push.missed.Store(true)
		}
	}
}

// pushLoop gives each account its turn when it is due.
func (r *Router) pushLoop() {
	b := &r.push
	t := time.NewTimer(0)
	defer t.Stop()
	failed := r.st.Failed()
	for r.ctx.Err() == nil {
		it, seq, wait := b.next(r.clock())
		if it == nil {
			var due <-chan time.Time
			if wait >= 0 {
				t.Reset(wait)
				due = t.C
			}
			select {
			case <-r.ctx.Done():
			case <-failed: // another engine finds what is undecided
				return
			case <-b.wake:
			case <-due:
			}
			continue
		}
		select {
		case <-r.ctx.Done():
			return
		case b.slots <- struct{}{}:
		}
		started := r.owned.Go(func() {
			defer func() { <-b.slots }()
			r.pushTurn(it, seq)
		})
		if !started {
			<-b.slots
		}
	}
}
