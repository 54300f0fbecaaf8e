package memstore

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Leases is a store.Leases in memory, for engines of one process and for tests.
type Leases struct {
	mu    sync.Mutex
	epoch uint64 // of the last lease
	held  map[event.NodeID]held
}

type held struct {
	epoch uint64
	life  time.Duration
	until time.Time
}

var _ store.Leases = (*Leases)(nil)

// NewLeases returns leases of which none is held.
func NewLeases() *Leases { return &Leases{held: make(map[event.NodeID]held)} }

// Acquire implements store.Leases.
func (m *Leases) Acquire(ctx context.Context, node event.NodeID, life time.Duration) (store.Lease, error) {
	if err := store.ValidateLease(node, life); err != nil {
		return store.Lease{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Lease{}, fmt.Errorf("memstore: acquire lease: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if h, ok := m.held[node]; ok && now.Before(h.until) {
		return store.Lease{}, fmt.Errorf("memstore: node %q: %w", node, store.ErrLeaseHeld)
	}
	maps.DeleteFunc(m.held, func(_ event.NodeID, h held) bool { return !now.Before(h.until) })
	m.epoch++
	m.held[node] = held{epoch: m.epoch, life: life, until: now.Add(life)}
	return store.Lease{Node: node, Epoch: m.epoch}, nil
}

// Renew implements store.Leases.
func (m *Leases) Renew(ctx context.Context, l store.Lease) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memstore: renew lease: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	h, ok := m.held[l.Node]
	if !ok || h.epoch != l.Epoch || !now.Before(h.until) {
		return fmt.Errorf("memstore: node %q: %w", l.Node, store.ErrLeaseLost)
	}
	h.until = now.Add(h.life)
	m.held[l.Node] = h
	return nil
}

// Release implements store.Leases.
func (m *Leases) Release(ctx context.Context, l store.Lease) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memstore: release lease: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held[l.Node].epoch == l.Epoch {
		delete(m.held, l.Node)
	}
	return nil
}

// List implements store.Leases.
func (m *Leases) List(ctx context.Context) ([]store.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("memstore: list leases: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []store.Lease
	for node, h := range m.held {
		if time.Now().Before(h.until) {
			all = append(all, store.Lease{Node: node, Epoch: h.epoch})
		}
	}
	return all, nil
}

// Alive implements store.Leases.
func (m *Leases) Alive(ctx context.Context, l store.Lease) (store.Liveness, error) {
	if err := ctx.Err(); err != nil {
		return store.CannotTell, fmt.Errorf("memstore: look at lease: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.held[l.Node]; ok && h.epoch == l.Epoch && time.Now().Before(h.until) {
		return store.Live, nil
	}
	return store.Dead, nil
}
