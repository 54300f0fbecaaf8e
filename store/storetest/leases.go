package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// leaseLife is how long the leases of the suite last: the shortest life there is.
const leaseLife = store.MinLease

// leaseRule is one rule of the contract of store.Leases. It gets leases of which none is held, and returns what is wrong.
type leaseRule struct {
	name  string
	check func(ctx context.Context, l store.Leases) error
}

// LeaseHarness says how to make the leases under test.
type LeaseHarness struct {
	// Open makes leases of which none is held. Required. It is called for each rule, and by the rule's subtest alone.
	Open func(t *testing.T) store.Leases
	// Bubble runs each rule, with its Open, in a synctest bubble, where waiting takes no time: for leases that do no I/O and
	// have no goroutine outside. Without it the rules wait, by time.Sleep, for leases to expire: some seconds in all.
	Bubble bool
}

// TestLeases checks an implementation of [store.Leases] against the contract, each rule as a subtest with leases of its
// own.
func TestLeases(t *testing.T, h LeaseHarness) {
	require.NotNil(t, h.Open, "LeaseHarness.Open is required")
	for _, r := range leaseRules {
		check := func(t *testing.T) { require.NoError(t, r.check(t.Context(), h.Open(t))) }
		t.Run(r.name, func(t *testing.T) {
			if h.Bubble {
				synctest.Test(t, check)
				return
			}
			check(t)
		})
	}
}

var leaseRules = []leaseRule{
	{"a lease is exclusive", func(ctx context.Context, l store.Leases) error {
		first, err := acquire(ctx, l, "x")
		if err != nil {
			return err
		}
		if _, err := l.Acquire(ctx, "x", leaseLife); !errors.Is(err, store.ErrLeaseHeld) {
			return fmt.Errorf("a second one of the same node: %v, want ErrLeaseHeld", err)
		}
		if _, err := acquire(ctx, l, "y"); err != nil {
			return fmt.Errorf("another node: %w", err)
		}
		return alive(ctx, l, first, store.Live)
	}},
	{"one of many gets it", func(ctx context.Context, l store.Leases) error {
		var mu sync.Mutex
		var all sync.WaitGroup
		got, odd := 0, error(nil)
		for range 16 {
			all.Go(func() {
				_, err := l.Acquire(ctx, "x", leaseLife)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					got++
				case !errors.Is(err, store.ErrLeaseHeld):
					odd = err
				}
			})
		}
		all.Wait()
		if got != 1 || odd != nil {
			return fmt.Errorf("%d of 16 got the lease, others %v", got, odd)
		}
		return nil
	}},
	{"epochs are never used again", func(ctx context.Context, l store.Leases) error {
		seen := map[uint64]bool{0: true}
		for range 5 {
			for _, node := range []event.NodeID{"x", "y"} {
				a, err := acquire(ctx, l, node)
				if err != nil {
					return err
				}
				if a.Node != node || seen[a.Epoch] {
					return fmt.Errorf("lease %+v: wrong node, or an epoch of before", a)
				}
				seen[a.Epoch] = true
				if err := l.Release(ctx, a); err != nil {
					return err
				}
			}
		}
		return nil
	}},
	{"renewal keeps a lease", func(ctx context.Context, l store.Leases) error {
		a, err := acquire(ctx, l, "x")
		if err != nil {
			return err
		}
		for range 4 {
			time.Sleep(leaseLife / 2)
			if err := l.Renew(ctx, a); err != nil {
				return fmt.Errorf("renew: %w", err)
			}
		}
		if _, err := l.Acquire(ctx, "x", leaseLife); !errors.Is(err, store.ErrLeaseHeld) {
			return fmt.Errorf("acquire of what was renewed: %v", err)
		}
		return alive(ctx, l, a, store.Live)
	}},
	{"S31 a late renewal is refused", func(ctx context.Context, l store.Leases) error {
		a, err := acquire(ctx, l, "x")
		if err != nil {
			return err
		}
		time.Sleep(leaseLife + leaseLife/2)
		if err := errors.Join(lost(l.Renew(ctx, a)), alive(ctx, l, a, store.Dead)); err != nil {
			return fmt.Errorf("nobody took the name: %w", err)
		}
		b, err := acquire(ctx, l, "x")
		if err != nil {
			return fmt.Errorf("the name is free: %w", err)
		}
		return errors.Join(lost(l.Renew(ctx, a)), alive(ctx, l, a, store.Dead), alive(ctx, l, b, store.Live))
	}},
	{"release frees the name at once", func(ctx context.Context, l store.Leases) error {
		a, err := acquire(ctx, l, "x")
		if err != nil {
			return err
		}
		for range 2 {
			if err := l.Release(ctx, a); err != nil {
				return fmt.Errorf("release: %w", err)
			}
		}
		if err := errors.Join(lost(l.Renew(ctx, a)), alive(ctx, l, a, store.Dead)); err != nil {
			return err
		}
		b, err := acquire(ctx, l, "x")
		if err != nil {
			return err
		}
		if err := l.Release(ctx, a); err != nil {
			return fmt.Errorf("a late release: %w", err)
		}
		return alive(ctx, l, b, store.Live)
	}},
	{"what never was is dead", func(ctx context.Context, l store.Leases) error {
		a, err := acquire(ctx, l, "x")
		if err != nil {
			return err
		}
		return errors.Join(
			alive(ctx, l, store.Lease{Node: "nobody", Epoch: a.Epoch}, store.Dead),
			alive(ctx, l, store.Lease{Node: "x", Epoch: a.Epoch + 1_000}, store.Dead),
			lost(l.Renew(ctx, store.Lease{Node: "nobody", Epoch: a.Epoch})),
		)
	}},
	{"those that live are listed", func(ctx context.Context, l store.Leases) error {
		a, err := acquire(ctx, l, "x")
		if err != nil {
			return err
		}
		b, err := acquire(ctx, l, "y")
		if err != nil {
			return err
		}
		c, err := acquire(ctx, l, "z")
		if err != nil {
			return err
		}
		if err := listed(ctx, l, a, b, c); err != nil {
			return err
		}
		if err := l.Release(ctx, b); err != nil {
			return fmt.Errorf("release: %w", err)
		}
		if err := listed(ctx, l, a, c); err != nil {
			return fmt.Errorf("one was released: %w", err)
		}
		time.Sleep(leaseLife / 2)
		if err := l.Renew(ctx, a); err != nil {
			return fmt.Errorf("renew: %w", err)
		}
		time.Sleep(leaseLife * 3 / 4)
		if err := listed(ctx, l, a); err != nil {
			return fmt.Errorf("one has expired: %w", err)
		}
		if c, err = acquire(ctx, l, "z"); err != nil {
			return fmt.Errorf("the name is free: %w", err)
		}
		return listed(ctx, l, a, c)
	}},
	{"bad input is refused", func(ctx context.Context, l store.Leases) error {
		for _, bad := range []struct {
			node event.NodeID
			life time.Duration
		}{{"", leaseLife}, {"a\x00", leaseLife}, {"x", 0}, {"x", -1}, {"x", store.MinLease - 1}, {"x", store.MaxLease + 1}} {
			_, err := l.Acquire(ctx, bad.node, bad.life)
			if _, ok := errors.AsType[*event.InvalidError](err); !ok {
				return fmt.Errorf("node %q for %v: %v", bad.node, bad.life, err)
			}
		}
		_, err := acquire(ctx, l, "x")
		return err
	}},
	{"a call that was given up is an error", func(ctx context.Context, l store.Leases) error {
		a, err := acquire(ctx, l, "x")
		if err != nil {
			return err
		}
		over, cancel := context.WithCancel(ctx)
		cancel()
		if err := l.Renew(over, a); err == nil || errors.Is(err, store.ErrLeaseLost) {
			return fmt.Errorf("renew: %v, want an error that leaves it open", err)
		}
		if _, err := l.List(over); err == nil {
			return errors.New("list: no error")
		}
		if v, err := l.Alive(over, a); err == nil || v != store.CannotTell {
			return fmt.Errorf("alive: %v, %v, want an error and CannotTell", v, err)
		}
		return alive(ctx, l, a, store.Live)
	}},
}

func acquire(ctx context.Context, l store.Leases, node event.NodeID) (store.Lease, error) {
	a, err := l.Acquire(ctx, node, leaseLife)
	if err != nil {
		return a, fmt.Errorf("acquire: %w", err)
	}
	return a, nil
}

func alive(ctx context.Context, l store.Leases, a store.Lease, want store.Liveness) error {
	if v, err := l.Alive(ctx, a); err != nil || v != want {
		return fmt.Errorf("lease %+v is %v (%v), want %v", a, v, err, want)
	}
	return nil
}

// listed requires that these leases are all that live.
func listed(ctx context.Context, l store.Leases, want ...store.Lease) error {
	all, err := l.List(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if len(all) != len(want) {
		return fmt.Errorf("listed: %v, want %v", all, want)
	}
	for _, w := range want {
		if !slices.Contains(all, w) {
			return fmt.Errorf("listed: %v, want %v", all, want)
		}
	}
	return nil
}

// lost requires that a renewal was refused for good.
func lost(err error) error {
	if !errors.Is(err, store.ErrLeaseLost) {
		return fmt.Errorf("renew: %v, want ErrLeaseLost", err)
	}
	return nil
}
