// Package storetest checks implementations of [store.Store] and injects faults into them.
//
// [TestStore] runs every rule of the contract against a store, a fresh one for each rule. A failure is named after the
// rule that is broken. [WithFaults] wraps a store, so that tests of what uses it can make its methods fail, stall or
// lose their answer.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store"
)

// Harness says how to make the store under test, and what it promises. Rules run one after another, never two at once,
// and close the stores that they get.
type Harness struct {
	// Open makes a new, empty store. Required.
	Open func(t *testing.T) store.Store
	// Reopen closes s in good order and opens the same data again. Required if Capabilities.Durable.
	Reopen func(t *testing.T, s store.Store) store.Store
	// Crash gives s up without a Close, as the end of the process would, and opens the same data again. What it takes to
	// let go of s is up to the harness. Nil: those rules use Reopen alone.
	Crash func(t *testing.T, s store.Store) store.Store
	// Small makes a new, empty store that is full with at most 64 MiB of payloads, and takes in more after a trim. Nil:
	// the rules on a full store are left out.
	Small func(t *testing.T) store.Store
	// Capabilities are those that the store declares. Rules that belong to others are left out.
	Capabilities store.Capabilities
	// Steps is how many steps a random history has; 0: 300.
	Steps int
}

// rule is one rule of the contract.
type rule struct {
	name  string
	when  func(h *Harness) bool // nil: always
	check func(f *fixture)
}

func durable(h *Harness) bool { return h.Capabilities.Durable }

// TestStore checks a store against the whole contract, each rule as a subtest of its own.
func TestStore(t *testing.T, h Harness) {
	require.NotNil(t, h.Open, "Harness.Open is required")
	if h.Capabilities.Durable {
		require.NotNil(t, h.Reopen, "Harness.Reopen is required for a durable store")
	}
	for _, group := range [][]rule{
		infoRules, recordRules, inboxRules, pageRules, removalRules, sendRules, orderRules, changeRules, countRules, stateRules, cursorRules,
		idempotencyRules, accountRules, claimRules, errorRules, fullRules, reopenRules, historyRules,
	} {
		for _, r := range group {
			if r.when != nil && !r.when(&h) {
				continue
			}
			t.Run(r.name, func(t *testing.T) { r.check(newFixture(t, h, h.Open(t))) })
		}
	}
}

// closeTimeout is far more than a store needs to close, so that a hanging one fails instead of blocking the suite.
const closeTimeout = 30 * time.Second

func closeStore(s store.Store) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return s.Close(ctx)
}

var infoRules = []rule{
	{name: "info is as declared and does not change", check: func(f *fixture) {
		info := f.s.Info()
		require.Equal(f.t, f.h.Capabilities, info.Capabilities)
		require.NotZero(f.t, info.Incarnation)
		require.NotZero(f.t, info.Secret)
		f.send("ann", "ann")
		require.Equal(f.t, info, f.s.Info())
	}},
	{name: "info differs between two stores", check: func(f *fixture) {
		other := newFixture(f.t, f.h, f.h.Open(f.t))
		require.NotEqual(f.t, f.s.Info().Secret, other.s.Info().Secret)
	}},
	{name: "a working store has not failed", check: func(f *fixture) {
		f.send("ann", "ann")
		select {
		case <-f.s.Failed():
			require.Fail(f.t, "the channel is closed")
		default:
		}
	}},
}
