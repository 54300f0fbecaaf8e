package membus

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// Fault says whether something befalls a message to a node. It must not keep msg. It is called by many goroutines at once
// and without a lock.
type Fault func(node event.NodeID, msg []byte) bool

// faults are never changed in place: what changes is copied.
type faults struct {
	lose, duplicate Fault
	cut             map[event.NodeID]bool
}

// EveryNth returns a Fault that befalls every n-th message: the n-th, the 2n-th and so on. A number below 1 means none.
func EveryNth(n int) Fault {
	var count atomic.Uint64
	return func(event.NodeID, []byte) bool {
		return n > 0 && count.Add(1)%uint64(n) == 0
	}
}

// Lose swallows messages and requests: the sender is told nothing. Nil: none.
func (b *Bus) Lose(f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults.lose = f
}

// Duplicate delivers messages and requests twice; a request gets the first answer. Nil: none.
func (b *Bus) Duplicate(f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults.duplicate = f
}

// Partition cuts a node off: what is sent to it, or by it through [Bus.As], is swallowed, until [Bus.Heal].
func (b *Bus) Partition(node event.NodeID) { b.setCut(node, true) }

// Heal ends a Partition.
func (b *Bus) Heal(node event.NodeID) { b.setCut(node, false) }

func (b *Bus) setCut(node event.NodeID, on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	cut := maps.Clone(b.faults.cut)
	if cut == nil {
		cut = map[event.NodeID]bool{}
	}
	cut[node] = on
	b.faults.cut = cut
}

// As returns the bus as one node sees it: what is sent through it is swallowed while the node is cut off. All else is the
// same.
func (b *Bus) As(node event.NodeID) transport.Bus { return view{b, node} }

// view is a bus that knows who sends.
type view struct {
	*Bus
	node event.NodeID
}

func (v view) Publish(ctx context.Context, node event.NodeID, msg []byte) error {
	if _, _, err := v.send(ctx, v.node, node, message{body: slices.Clone(msg)}); err != nil {
		return fmt.Errorf("membus: publish: %w", err)
	}
	return nil
}

func (v view) Request(ctx context.Context, node event.NodeID, msg []byte) ([]byte, error) {
	return v.request(ctx, v.node, node, msg)
}
