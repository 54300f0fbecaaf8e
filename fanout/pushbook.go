package fanout

import (
	"container/heap"
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/store"
)

// pushBook holds the accounts that have something undecided. An account at rest is not in it. What it forgets, the store
// still knows.
//
// A turn takes as long as the host's hooks do, and a hook that hangs takes all the time that it may. So accounts whose last turn
// was late wait in a lane of their own: they delay each other and no other account. One queue for both would do as well only
// if late accounts at its head could be passed over.
type pushBook struct {
	limit  int
	lanes  [pushLanes]pushLane
	missed atomic.Bool   // accounts found the book full
	calls  hostcall.Hook // of PushConfig.Hook
	asked  hostcall.Hook // of PushConfig.Decide

	mu    sync.Mutex
	items map[event.Account]*pushItem
}

// Lanes of the push book.
const (
	pushPrompt = iota
	pushLate   // the hooks, or the store, did not return in time for the account last
	pushLanes
	latePart = 4 // for each late turn at once there may be this many prompt ones
)

// pushLane is a part of the accounts that wait, with turns of its own.
type pushLane struct {
	// begun are the accounts whose time had come and that are not decided, in the order in which it came: those that have
	// their turn, and those of which a turn failed. Values are *pushItem. Guarded by the book's mutex.
	begun list.List

	wake  chan struct{} // the first of the queue has changed
	slots chan struct{} // one for each account that has its turn
	queue pushQueue     // guarded by the book's mutex
}

// pushItem is one account in the book. The fields up to came are guarded by the book's mutex; the rest belongs to the
// goroutine that has the account's turn.
type pushItem struct {
	account event.Account
	due     time.Duration // Router.clock
	seq     uint64        // the newest entry that may want a push, as far as is known; 0: found in the store
	dropped bool          // the account was deleted
	begun   *list.Element // of the lane in which its time has come; nil: it has not, or it is decided
	came    time.Duration // if begun: when it did

	late    bool                  // in which lane it waits
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
	for i, n := range [pushLanes]int{c.Concurrency, max(c.Concurrency/latePart, 1)} {
		b.lanes[i] = pushLane{wake: make(chan struct{}, 1), slots: make(chan struct{}, n)}
	}
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
	it := &pushItem{account: account, seq: seq, due: due, late: b.calls.Hangs(account) || b.asked.Hangs(account)}
	b.items[account] = it
	b.queueLocked(it)
	return true
}

func (b *pushBook) queueLocked(it *pushItem) {
	l := &b.lanes[pushPrompt]
	if it.late {
		l = &b.lanes[pushLate]
	}
	heap.Push(&l.queue, it)
	if l.queue[0] != it {
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next takes out an account of the lane whose turn has come, or returns how long there is none; negative: as long as none is
// added.
func (b *pushBook) next(l *pushLane, now time.Duration) (it *pushItem, seq uint64, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(l.queue) > 0 && l.queue[0].dropped {
		heap.Pop(&l.queue)
	}
	switch {
	case len(l.queue) == 0:
		return nil, 0, -1
	case now < l.queue[0].due:
		return nil, 0, l.queue[0].due - now
	}
	it = heap.Pop(&l.queue).(*pushItem)
	if it.begun == nil {
		it.came, it.begun = it.due, l.begun.PushBack(it)
	}
	return it, it.seq, 0
}

// restLocked notes that nothing of the account whose time had come is undecided.
func (b *pushBook) restLocked(it *pushItem) {
	if it.begun == nil {
		return
	}
	for i := range b.lanes {
		b.lanes[i].begun.Remove(it.begun) // of another lane it does nothing
	}
	it.begun = nil
}

// waiting returns how many accounts are in the book, and for how long the one that is late the longest should have been decided.
func (b *pushBook) waiting(now time.Duration) (n int, overdue time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.lanes {
		l := &b.lanes[i]
		if len(l.queue) > 0 && !l.queue[0].dropped {
			overdue = max(overdue, now-l.queue[0].due)
		}
		if e := l.begun.Front(); e != nil {
			overdue = max(overdue, now-e.Value.(*pushItem).came)
		}
	}
	return len(b.items), overdue
}

// done ends an account's turn: it comes up again at a time, or, if that is 0 and no entry beyond seq has come meanwhile, is
// at rest. failed says that what was due is not decided.
func (b *pushBook) done(it *pushItem, seq uint64, again, later time.Duration, failed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !failed {
		b.restLocked(it)
	}
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
		b.restLocked(it)
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

// pushLoop gives each account of a lane its turn when it is due.
func (r *Router) pushLoop(l *pushLane) {
	t := time.NewTimer(0)
	defer t.Stop()
	failed := r.st.Failed()
	for r.ctx.Err() == nil {
		it, seq, wait := r.push.next(l, r.clock())
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
			case <-l.wake:
			case <-due:
			}
			continue
		}
		select {
		case <-r.ctx.Done():
			return
		case l.slots <- struct{}{}:
		}
		started := r.owned.Go(func() {
			defer func() { <-l.slots }()
			r.pushTurn(it, seq)
		})
		if !started {
			<-l.slots
		}
	}
}
