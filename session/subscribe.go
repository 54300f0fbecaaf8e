package session

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/manydevice/manydevice/event"
)

// Subscription is a stream of changes of logins for a host that looks on, such as one that publishes presence. It is safe
// for concurrent use.
type Subscription struct {
	r       *Registry
	dropped atomic.Uint64

	mu     sync.Mutex
	closed bool
	out    chan Change
}

// Subscribe returns a stream of all changes from now on. A change that finds the buffer full is dropped and counted: the
// engine never waits for who looks on. The buffer holds that many changes, from 1 to 1,048,576. After Close it returns
// [ErrClosed].
func (r *Registry) Subscribe(buffer int) (*Subscription, error) {
	if buffer < 1 || buffer > 1<<20 {
		return nil, &event.InvalidError{Field: "buffer", Reason: "want 1 to 1048576"}
	}
	s := &Subscription{r: r, out: make(chan Change, buffer)}
	r.watchMu.Lock()
	defer r.watchMu.Unlock()
	if r.watched {
		return nil, ErrClosed
	}
	all := append(slices.Clone(r.subscribed()), s)
	r.subscriptions.Store(&all)
	return s, nil
}

// Changes returns the stream. It is closed by Close, and when the registry is closed.
func (s *Subscription) Changes() <-chan Change { return s.out }

// Dropped returns how many changes were dropped because the buffer was full. Whoever finds it raised asks
// [Registry.Presence] for what it needs.
func (s *Subscription) Dropped() uint64 { return s.dropped.Load() }

// Close ends the stream. It may be called again.
func (s *Subscription) Close() {
	s.r.watchMu.Lock()
	all := slices.DeleteFunc(slices.Clone(s.r.subscribed()), func(o *Subscription) bool { return o == s })
	s.r.subscriptions.Store(&all)
	s.r.watchMu.Unlock()
	s.end()
}

func (s *Subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.out)
	}
}

// offer adds a change, or drops it.
func (s *Subscription) offer(c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	select {
	case s.out <- c:
	default:
		s.dropped.Add(1)
	}
}

// subscribed returns all subscriptions. The slice is replaced when there are others, never changed.
func (r *Registry) subscribed() []*Subscription {
	if p := r.subscriptions.Load(); p != nil {
		return *p
	}
	return nil
}

// publish hands changes to all subscriptions.
func (r *Registry) publish(changes []Change) {
	for _, s := range r.subscribed() {
		for _, c := range changes {
			s.offer(c)
		}
	}
}

// endSubscriptions ends all streams, and lets none begin.
func (r *Registry) endSubscriptions() {
	r.watchMu.Lock()
	all := r.subscribed()
	r.watched = true
	r.watchMu.Unlock()
	for _, s := range all {
		s.end()
	}
}
