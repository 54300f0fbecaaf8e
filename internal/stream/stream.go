// Package stream brings what happens in the engine to those who watch it, without ever waiting for them.
//
// Each subscription has a queue of its own, of a size that its subscriber chose. A subscriber that falls behind loses what
// does not fit, is told how much, and slows nobody down.
//
//  1. A queue has two lanes with room of their own. What a client can make happen as often as it likes goes into the frequent
//     one, so that it never takes the place of what must not be missed.
//  2. An item with a key takes an item with the same key out of the queue if that still waits. So what only tells how things
//     are now waits once, however often it changes.
//  3. Items come in the order in which they were published, whatever their lane. Some may be missing, none comes early or late.
package stream

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/manydevice/manydevice/event"
)

// MaxBuffer is how many items one lane of a subscription may hold.
const MaxBuffer = 1 << 20

// ErrClosed is the end of a feed that has no error of its own.
var ErrClosed = errors.New("subscription is closed")

// Lane is a part of a subscription's queue with room of its own.
type Lane uint8

// Lanes. No item is dropped for one of the other lane.
const (
	Important Lane = iota
	Frequent
	lanes
)

// Item is what is published.
type Item[T any] struct {
	Value T
	Lane  Lane
	Key   any // comparable, and all items with it are of one lane; nil: the item takes the place of no other
}

// Listener is what a package of the engine's own listens with. It is called at once, by whoever publishes and with what
// locks that holds, so it waits for nothing and calls no code of the host's. Hosts cannot name it.
type Listener[T any] struct{ Hear func(T) }

// Feed hands items to its subscriptions. The zero value is ready. It is safe for concurrent use.
type Feed[T any] struct {
	End error // what Next returns in the end; nil: ErrClosed. Not to be changed once the feed is used

	list atomic.Pointer[[]*Subscription[T]] // nil: nobody watches

	mu     sync.Mutex // held to change the list
	closed bool
}

// Subscription is one subscriber's queue. It is safe for concurrent use; of several that call Next each gets other items.
type Subscription[T any] struct {
	feed *Feed[T]
	size int

	mu      sync.Mutex
	queues  [lanes]queue[T]
	keyed   map[any]*node[T] // those with a key that wait
	last    uint64           // number of the newest item
	dropped [lanes]uint64
	closed  bool
	wake    chan struct{} // holds a token if there may be something for a Next that waits
}

// queue is a list of items, oldest first.
type queue[T any] struct {
	first, last *node[T]
	len         int
}

type node[T any] struct {
	item       Item[T]
	number     uint64 // rising in the order of publication
	prev, next *node[T]
}

// Subscribe returns a stream of all items from now on. Each lane holds buffer items, from 1 to [MaxBuffer]. It returns the
// feed's end once that was closed.
func (f *Feed[T]) Subscribe(buffer int) (*Subscription[T], error) {
	if buffer < 1 || buffer > MaxBuffer {
		return nil, &event.InvalidError{Field: "buffer", Reason: "want 1 to 1048576"}
	}
	s := &Subscription[T]{feed: f, size: buffer, keyed: make(map[any]*node[T]), wake: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, f.end()
	}
	f.setLocked(append(f.subscriptions(), s))
	return s, nil
}

// Watched reports whether anybody subscribes. Without subscribers there is no need to make an item.
func (f *Feed[T]) Watched() bool { return f.list.Load() != nil }

// Publish hands an item to all subscriptions. It never waits, so it may be called with a lock held. Items that are published
// one after another come in that order.
func (f *Feed[T]) Publish(i Item[T]) {
	if p := f.list.Load(); p != nil {
		for _, s := range *p {
			s.offer(i)
		}
	}
}

// Close ends all streams and lets none begin. It may be called again.
func (f *Feed[T]) Close() {
	f.mu.Lock()
	all := f.subscriptions()
	f.closed = true
	f.setLocked(nil)
	f.mu.Unlock()
	for _, s := range all {
		s.end()
	}
}

func (f *Feed[T]) end() error {
	if f.End != nil {
		return f.End
	}
	return ErrClosed
}

// subscriptions returns a copy of the list.
func (f *Feed[T]) subscriptions() []*Subscription[T] {
	if p := f.list.Load(); p != nil {
		return slices.Clone(*p)
	}
	return nil
}

func (f *Feed[T]) setLocked(all []*Subscription[T]) {
	if len(all) == 0 {
		f.list.Store(nil)
		return
	}
	f.list.Store(&all)
}

// Next returns the oldest item, and waits for one as long as ctx allows. When the stream has ended it returns what is left in
// it, and then the feed's end.
func (s *Subscription[T]) Next(ctx context.Context) (T, error) {
	for {
		if err := ctx.Err(); err != nil {
			s.signal() // the token that woke this call may be for another one
			var none T
			return none, err
		}
		v, ok, rest := s.take()
		if rest { // another Next may wait
			s.signal()
		}
		switch {
		case ok:
			return v, nil
		case rest:
			return v, s.feed.end()
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}

// Poll returns the oldest item if there is one.
func (s *Subscription[T]) Poll() (T, bool) {
	v, ok, _ := s.take()
	return v, ok
}

// All returns the items as they come, until ctx or the stream ends.
func (s *Subscription[T]) All(ctx context.Context) iter.Seq[T] {
	return func(yield func(T) bool) {
		for {
			v, err := s.Next(ctx)
			if err != nil || !yield(v) {
				return
			}
		}
	}
}

// Dropped returns how many items were lost because their lane was full. Items that a newer one took the place of are not
// lost.
func (s *Subscription[T]) Dropped() (important, frequent uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped[Important], s.dropped[Frequent]
}

// Close ends the stream. It may be called again.
func (s *Subscription[T]) Close() {
	f := s.feed
	f.mu.Lock()
	f.setLocked(slices.DeleteFunc(f.subscriptions(), func(o *Subscription[T]) bool { return o == s }))
	f.mu.Unlock()
	s.end()
}

func (s *Subscription[T]) end() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
}

// signal wakes one Next. A token too many costs it a look.
func (s *Subscription[T]) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take takes out the oldest item. rest: there are others, or the stream has ended.
func (s *Subscription[T]) take() (v T, ok, rest bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *node[T]
	for l := range s.queues {
		if n := s.queues[l].first; n != nil && (oldest == nil || n.number < oldest.number) {
			oldest = n
		}
	}
	if oldest == nil {
		return v, false, s.closed
	}
	s.removeLocked(oldest)
	return oldest.item.Value, true, s.closed || s.queues[Important].len+s.queues[Frequent].len > 0
}

// offer adds an item, or drops it.
func (s *Subscription[T]) offer(i Item[T]) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	if n := s.keyed[i.Key]; n != nil {
		s.removeLocked(n)
	}
	q := &s.queues[i.Lane]
	if q.len >= s.size {
		s.dropped[i.Lane]++
		s.mu.Unlock()
		return
	}
	s.last++
	n := &node[T]{item: i, number: s.last}
	q.push(n)
	if i.Key != nil {
		s.keyed[i.Key] = n
	}
	s.mu.Unlock()
	s.signal()
}

func (s *Subscription[T]) removeLocked(n *node[T]) {
	s.queues[n.item.Lane].remove(n)
	if n.item.Key != nil {
		delete(s.keyed, n.item.Key)
	}
}

func (q *queue[T]) push(n *node[T]) {
	q.len++
	if n.prev = q.last; n.prev == nil {
		q.first = n
	} else {
		n.prev.next = n
	}
	q.last = n
}

func (q *queue[T]) remove(n *node[T]) {
	q.len--
	if n.prev == nil {
		q.first = n.next
	} else {
		n.prev.next = n.next
	}
	if n.next == nil {
		q.last = n.prev
	} else {
		n.next.prev = n.prev
	}
}
