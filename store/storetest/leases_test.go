package storetest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
)

func TestLeases_Memory(t *testing.T) {
	TestLeases(t, func(*testing.T) store.Leases { return memstore.NewLeases() })
}

// broken is leases with one fault each.
type broken struct {
	store.Leases
	fault string

	mu   sync.Mutex
	last map[event.NodeID]store.Lease
}

func (b *broken) Acquire(ctx context.Context, n event.NodeID, life time.Duration) (store.Lease, error) {
	switch b.fault {
	case "shared":
		b.mu.Lock()
		old := b.last[n]
		b.mu.Unlock()
		if old.Epoch != 0 {
			_ = b.Leases.Release(ctx, old)
		}
	case "eternal":
		life = store.MaxLease
	case "any life":
		life = max(life, store.MinLease)
	}
	l, err := b.Leases.Acquire(ctx, n, life)
	if err == nil {
		b.mu.Lock()
		b.last[n] = l
		b.mu.Unlock()
	}
	if b.fault == "same epoch" {
		l.Epoch = 1
	}
	return l, err
}

func (b *broken) Renew(ctx context.Context, l store.Lease) error {
	switch b.fault {
	case "no renewal":
		return nil
	case "deaf":
		ctx = context.WithoutCancel(ctx)
	}
	return b.Leases.Renew(ctx, l)
}

func (b *broken) Release(ctx context.Context, l store.Lease) error {
	switch b.fault {
	case "no release":
		return nil
	case "any release":
		b.mu.Lock()
		l = b.last[l.Node]
		b.mu.Unlock()
	}
	return b.Leases.Release(ctx, l)
}

func (b *broken) List(ctx context.Context) ([]store.Lease, error) {
	switch b.fault {
	case "lists nothing":
		return nil, ctx.Err()
	case "lists the dead":
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Collect(maps.Values(b.last)), ctx.Err()
	case "deaf list":
		ctx = context.WithoutCancel(ctx)
	}
	return b.Leases.List(ctx)
}

func (b *broken) Alive(ctx context.Context, l store.Lease) (store.Liveness, error) {
	switch b.fault {
	case "always alive":
		return store.Live, ctx.Err()
	case "never tells":
		return store.CannotTell, nil
	}
	return b.Leases.Alive(ctx, l)
}

// TestLeases_HasTeeth: each fault is found by some rule.
func TestLeases_HasTeeth(t *testing.T) {
	faults := []string{
		"shared", "eternal", "any life", "same epoch", "no renewal", "deaf", "no release", "any release", "always alive", "never tells",
		"lists nothing", "lists the dead", "deaf list",
	}
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var found []string
				for _, r := range leaseRules {
					b := &broken{Leases: memstore.NewLeases(), fault: fault, last: map[event.NodeID]store.Lease{}}
					if err := r.check(t.Context(), b); err != nil {
						found = append(found, r.name)
					}
				}
				require.NotEmpty(t, found)
			})
		})
	}
}

func TestLiveness_String(t *testing.T) {
	require.Equal(t, "cannot tell live dead Liveness(9)",
		store.CannotTell.String()+" "+store.Live.String()+" "+store.Dead.String()+" "+store.Liveness(9).String())
}
