package membus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// ErrFull is returned when the subscriber's queue is full. The message was not delivered.
var ErrFull = errors.New("membus: queue full")

// DefaultQueue is how many messages wait for a subscriber by default. Messages are hints, so that a subscriber that is so
// far behind loses little by losing the next one.
const DefaultQueue = 1024

const mostQueue = 1 << 20 // of 40 bytes each for a subscriber

// Config tunes a Bus. The zero value is valid.
type Config struct {
	// Queue bounds the messages that wait for one subscriber. Zero or less means DefaultQueue; more than 1,048,576 counts as
	// that.
	Queue int
}

// Bus is a transport.Bus within one process. It is safe for concurrent use.
type Bus struct {
	queue   int
	dropped atomic.Uint64
	closed  chan struct{}

	mu     sync.Mutex
	down   bool
	subs   map[event.NodeID]*subscriber
	all    map[*subscriber]struct{} // until their goroutine ended
	faults faults
}

var _ transport.Bus = (*Bus)(nil)

// New returns a bus without subscribers.
func New(cfg Config) *Bus {
	if cfg.Queue < 0 {
		cfg.Queue = 0
	}
	return &Bus{
		queue:  min(cmp.Or(cfg.Queue, DefaultQueue), mostQueue),
		closed: make(chan struct{}),
		subs:   map[event.NodeID]*subscriber{},
		all:    map[*subscriber]struct{}{},
	}
}

// subscriber is one node that listens.
type subscriber struct {
	handle func([]byte) []byte
	queue  chan message
	stop   chan struct{} // closed: take no more
	done   chan struct{} // closed: the goroutine ended
}

// message is one call of a handler.
type message struct {
	body  []byte
	reply chan []byte // nil: none is wanted; has room for one
}

// run is the goroutine of a subscriber.
func (s *subscriber) run() {
	for {
		select {
		case <-s.stop:
			return
		case m := <-s.queue:
			select {
			case <-s.stop: // both were ready
				return
			default:
			}
			reply := s.handle(m.body)
			if m.reply != nil {
				m.reply <- slices.Clone(reply)
			}
		}
	}
}

// Subscribe implements transport.Bus. It returns transport.ErrTaken if the name is in use and transport.ErrClosed after
// Close.
func (b *Bus) Subscribe(node event.NodeID, handle func(msg []byte) []byte) (stop func(), err error) {
	s := &subscriber{
		handle: handle,
		queue:  make(chan message, b.queue),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.down:
		return nil, fmt.Errorf("membus: subscribe: %w", transport.ErrClosed)
	case b.subs[node] != nil:
		return nil, fmt.Errorf("membus: subscribe: %w", transport.ErrTaken)
	}
	b.subs[node] = s
	b.all[s] = struct{}{}
	go func() {
		defer func() {
			b.mu.Lock()
			delete(b.all, s)
			b.mu.Unlock()
			close(s.done)
		}()
		s.run()
	}()
	return func() { b.unsubscribe(node, s) }, nil
}

func (b *Bus) unsubscribe(node event.NodeID, s *subscriber) {
	b.mu.Lock()
	if b.subs[node] == s {
		delete(b.subs, node)
		close(s.stop)
	}
	b.mu.Unlock()
	<-s.done
}

// Publish implements transport.Bus. It returns transport.ErrGone if nobody listens, ErrFull, or transport.ErrClosed; the
// message was then not sent.
func (b *Bus) Publish(ctx context.Context, node event.NodeID, msg []byte) error {
	_, _, err := b.send(ctx, "", node, message{body: slices.Clone(msg)})
	if err != nil {
		return fmt.Errorf("membus: publish: %w", err)
	}
	return nil
}

// Request implements transport.Bus. A request that a fault swallowed ends with its context, as over a network.
func (b *Bus) Request(ctx context.Context, node event.NodeID, msg []byte) ([]byte, error) {
	return b.request(ctx, "", node, msg)
}

func (b *Bus) request(ctx context.Context, from, node event.NodeID, msg []byte) ([]byte, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("membus: request: %w: %w", transport.ErrUnknown, err)
	}
	m := message{body: slices.Clone(msg), reply: make(chan []byte, 2)} // two: it may be repeated
	s, lost, err := b.send(ctx, from, node, m)
	if errors.Is(err, ErrFull) {
		err = fmt.Errorf("%w: %w", transport.ErrUnknown, err)
	}
	if err != nil {
		return nil, fmt.Errorf("membus: request: %w", err)
	}
	var done <-chan struct{} // what is lost does not learn of the node's end
	if !lost {
		done = s.done
	}
	select {
	case reply := <-m.reply:
		return reply, nil
	case <-done:
		select {
		case reply := <-m.reply:
			return reply, nil
		default:
		}
		return nil, fmt.Errorf("membus: request: stopped first: %w", transport.ErrGone)
	case <-ctx.Done():
		return nil, fmt.Errorf("membus: request: %w: %w", transport.ErrUnknown, context.Cause(ctx))
	case <-b.closed:
		return nil, fmt.Errorf("membus: request: %w: %w", transport.ErrUnknown, transport.ErrClosed)
	}
}

// send puts a message into the node's queue. Lost: a fault swallowed it.
func (b *Bus) send(ctx context.Context, from, node event.NodeID, m message) (s *subscriber, lost bool, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, false, err
	}
	b.mu.Lock()
	s, down, f := b.subs[node], b.down, b.faults
	cut := f.cut[node] || f.cut[from]
	b.mu.Unlock()
	switch {
	case down:
		return nil, false, transport.ErrClosed
	case cut, f.lose != nil && f.lose(node, m.body):
		return nil, true, nil
	case s == nil:
		return nil, false, transport.ErrGone
	}
	copies := 1
	if f.duplicate != nil && f.duplicate(node, m.body) {
		copies = 2
	}
	for i := range copies {
		if i > 0 {
			m.body = slices.Clone(m.body)
		}
		select {
		case s.queue <- m:
		default:
			b.dropped.Add(1)
			if i == 0 {
				return s, false, ErrFull
			}
		}
	}
	return s, false, nil
}

// Dropped returns how many messages found a full queue.
func (b *Bus) Dropped() uint64 { return b.dropped.Load() }

// Close refuses new work, ends all subscriptions and waits for running handlers as long as ctx allows; the error is then
// the one of ctx. It may be called again.
func (b *Bus) Close(ctx context.Context) error {
	b.mu.Lock()
	if !b.down {
		b.down = true
		close(b.closed)
	}
	for node, s := range b.subs {
		delete(b.subs, node)
		close(s.stop)
	}
	var running []*subscriber
	for s := range b.all {
		running = append(running, s)
	}
	b.mu.Unlock()
	for _, s := range running {
		select {
		case <-s.done:
			continue
		default:
		}
		select {
		case <-s.done:
		case <-ctx.Done():
			return fmt.Errorf("membus: close: %w", context.Cause(ctx))
		}
	}
	return nil
}
