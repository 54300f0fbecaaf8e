// Package stream brings what happens in the engine to those who watch it, without ever waiting for them.
//
// Each subscription has a queue of its own, of a size that its subscriber chose. A subscriber that falls behind loses what
// does not fit, is told how much, and slows nobody down. Items may have a lane: what comes often, and may be merged, shares
// no room with what must not be missed.
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

// MaxBuffer is how many items a subscription may hold.
const MaxBuffer = 1 << 20

// ErrClosed is what Next returns when the stream has ended and nothing is left in it.
var ErrClosed = errors.New("subscription is closed")

// Lane is a part of a subscription's queue with room of its own.
type Lane uint8

// Lanes. Important items are never dropped for those of the other one.
const (
	Important Lane = iota
	Frequent
	lanes
)

// Item is what is published. Key, if not nil, names what it is about: of the items of one lane with one key, an item takes the
// place of one that still waits.
type Item[T any] struct {
	Value T
	Lane  Lane
	Key   any // comparable; nil: it is never merged
	// Seals, if not nil, is a key: an item with it that still waits keeps its value from now on, and later ones come behind this
	// item. So a value that holds after this item is never put before it.
	Seals any
}

// Feed hands items to its subscriptions. The zero value is ready. It is safe for concurrent use.
type Feed[T any] struct {
	list atomic.Pointer[[]*Subscription[T]] // nil: nobody watches

	mu     sync.Mutex // held to change the list
	closed bool
}

// Subscription is one subscriber's queue. It is safe for concurrent use; of several that call Next each gets other items.
type Subscription[T any] struct {
	feed *Feed[T]
	size int

	mu      sync.Mutex
	queues  [lanes][]entry[T]
	keyed   map[any]uint64 // number of the item of a key that waits
	last    uint64         // number of the newest item
	dropped [lanes]uint64
	closed  bool
	wake    chan struct{} // holds a token if something changed since Next looked
}

type entry[T any] struct {
	number uint64
	item   Item[T]
}

// Subscribe returns a stream of all items from now on. Each lane holds buffer items, from 1 to [MaxBuffer]. It returns
// [ErrClosed] once the feed was closed.
func (f *Feed[T]) Subscribe(buffer int) (*Subscription[T], error) {
	if buffer < 1 || buffer > MaxBuffer {
		return nil, &event.InvalidError{Field: "buffer", Reason: "want 1 to 1048576"}
	}
	s := &Subscription[T]{feed: f, size: buffer, keyed: make(map[any]uint64), wake: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	f.setLocked(append(f.subscriptions(), s))
	return s, nil
}

// Watched reports whether anybody subscribes. Without subscribers there is no need to make an item.
func (f *Feed[T]) Watched() bool { return f.list.Load() != nil }

// Publish hands an item to all subscriptions. It never waits, so it may be called with a lock held.
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
// it, and then [ErrClosed].
func (s *Subscription[T]) Next(ctx context.Context) (T, error) {
	var none T
	for {
		if err := ctx.Err(); err != nil {
			return none, err
		}
		v, ok, more, closed := s.take()
		if more { // another Next may wait
			s.signal()
		}
		switch {
		case ok:
			return v, nil
		case closed:
			s.signal()
			return none, ErrClosed
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
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

// Dropped returns how many items were lost because their lane was full.
func (s *Subscription[T]) Dropped(l Lane) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped[l]
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

func (s *Subscription[T]) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take takes out the oldest item.
func (s *Subscription[T]) take() (v T, ok, more, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := -1
	for l := range s.queues {
		if q := s.queues[l]; len(q) > 0 && (from < 0 || q[0].number < s.queues[from][0].number) {
			from = l
		}
	}
	if from < 0 {
		return v, false, false, s.closed
	}
	q := s.queues[from]
	e := q[0]
	q[0] = entry[T]{}
	if s.queues[from] = q[1:]; len(q) == 1 {
		s.queues[from] = nil
	}
	if e.item.Key != nil && s.keyed[e.item.Key] == e.number {
		delete(s.keyed, e.item.Key)
	}
	for l := range s.queues {
		more = more || len(s.queues[l]) > 0
	}
	return e.item.Value, true, more, s.closed
}

// offer adds an item, in the place of one with its key if that still waits, or drops it.
func (s *Subscription[T]) offer(i Item[T]) {
	s.mu.Lock()
	if s.closed || s.replaceLocked(i) { // an item with a key seals nothing
		s.mu.Unlock()
		return
	}
	if i.Seals != nil {
		delete(s.keyed, i.Seals)
	}
	if len(s.queues[i.Lane]) >= s.size {
		s.dropped[i.Lane]++
		s.mu.Unlock()
		return
	}
	s.last++
	s.queues[i.Lane] = append(s.queues[i.Lane], entry[T]{number: s.last, item: i})
	if i.Key != nil {
		s.keyed[i.Key] = s.last
	}
	s.mu.Unlock()
	s.signal()
}

// replaceLocked puts an item in the place of one with its key, if that still waits.
func (s *Subscription[T]) replaceLocked(i Item[T]) bool {
	if i.Key == nil {
		return false
	}
	number, ok := s.keyed[i.Key]
	if !ok {
		return false
	}
	q := s.queues[i.Lane]
	at, ok := slices.BinarySearchFunc(q, number, func(e entry[T], n uint64) int {
		switch {
		case e.number < n:
			return -1
		case e.number > n:
			return 1
		}
		return 0
	})
	if ok {
		q[at].item = i
	}
	return ok
}
