package transporttest

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// plainBus is a bus that the flawed ones start from: it calls handlers in the goroutine of the sender, one at a time.
type plainBus struct {
	mu   sync.Mutex
	subs map[event.NodeID]*plainSub
	bus  busFlaws
}

// busFlaws says how a plainBus breaks the contract.
type busFlaws struct {
	everybody, neverGone, openNames, deaf, parallel, alias, stale, locked, reentrant, wrongError, lazyStop, stopByName bool
}

type plainSub struct {
	mu     sync.Mutex
	handle func([]byte) []byte
	last   []byte
}

func (b *plainBus) get(node event.NodeID) *plainSub {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.subs[node]
}

func (b *plainBus) Subscribe(node event.NodeID, handle func([]byte) []byte) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subs[node] != nil && !b.bus.openNames {
		return nil, transport.ErrTaken
	}
	s := &plainSub{handle: handle}
	b.subs[node] = s
	return func() {
		b.mu.Lock()
		if b.subs[node] == s || b.bus.stopByName {
			delete(b.subs, node)
		}
		b.mu.Unlock()
		if !b.bus.lazyStop {
			s.mu.Lock()
			defer s.mu.Unlock()
		}
	}, nil
}

func (b *plainBus) Publish(ctx context.Context, node event.NodeID, msg []byte) error {
	s := b.get(node)
	if s == nil {
		return transport.ErrGone
	}
	if !b.bus.alias {
		msg = bytes.Clone(msg)
	}
	if b.bus.locked {
		_, err := b.call(ctx, s, msg)
		return err
	}
	targets := []*plainSub{s}
	if b.bus.everybody {
		b.mu.Lock()
		targets = targets[:0]
		for _, s := range b.subs {
			targets = append(targets, s)
		}
		b.mu.Unlock()
	}
	for _, s := range targets {
		go func() { _, _ = b.call(context.Background(), s, msg) }()
	}
	return nil
}

func (b *plainBus) Request(ctx context.Context, node event.NodeID, msg []byte) ([]byte, error) {
	s := b.get(node)
	if s == nil {
		if b.bus.neverGone {
			return nil, transport.ErrUnknown
		}
		return nil, transport.ErrGone
	}
	if b.bus.deaf {
		ctx = context.Background()
	}
	type answer struct {
		reply []byte
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		reply, err := b.call(ctx, s, bytes.Clone(msg))
		done <- answer{reply, err}
	}()
	select {
	case a := <-done:
		return a.reply, a.err
	case <-ctx.Done():
		if b.bus.wrongError {
			return nil, ctx.Err()
		}
		return nil, transport.ErrUnknown
	}
}

func (b *plainBus) call(_ context.Context, s *plainSub, msg []byte) ([]byte, error) {
	if !b.bus.parallel && !b.bus.reentrant {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	reply := s.handle(msg)
	if b.bus.stale {
		reply, s.last = s.last, reply
	}
	return reply, nil
}

// TestBusSuiteHasTeeth runs each rule against a bus that breaks it, and all of them against one that breaks none.
func TestBusSuiteHasTeeth(t *testing.T) {
	broken := map[string]busFlaws{
		"a message reaches its node and no other":          {everybody: true},
		"a request gets its answer":                        {stale: true},
		"nobody listens":                                   {neverGone: true},
		"a name is taken once":                             {openNames: true},
		"no answer in time":                                {deaf: true},
		"one message at a time":                            {parallel: true},
		"the message is the sender's again after the call": {alias: true},
		"every request gets its own answer":                {stale: true},
		"publish from a handler":                           {locked: true},
		"request from a handler":                           {stale: true},
		"a handler that asks itself":                       {reentrant: true},
		"two nodes that ask each other":                    {wrongError: true},
		"stop waits for a running handler":                 {lazyStop: true},
		"stop may come twice":                              {stopByName: true},
	}
	open := func(f busFlaws) func(testing.TB) transport.Bus {
		return func(testing.TB) transport.Bus { return &plainBus{subs: map[event.NodeID]*plainSub{}, bus: f} }
	}
	for _, r := range busRules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			flaw, ok := broken[r.name]
			require.True(t, ok)
			require.Error(t, r.run(t, BusHarness{Open: open(flaw), Timeout: 300 * time.Millisecond}))
			require.NoError(t, r.run(t, BusHarness{Open: open(busFlaws{}), Timeout: 20 * time.Second}))
		})
	}
}
