// Package storetest checks implementations of [store.Store] and injects faults into them.
//
// [TestStore] runs every rule of the contract against a store, a fresh one for each rule. A failure is named after the
// rule that is broken. Rules on what a store does not have are skipped, with the reason: a capability that it does not declare,
// or a field of the [Harness] that is not set. The command in mutants shows that the rules find faults.
//
// [WithFaults] wraps a store, so that tests of what uses it can make its methods fail, stall or lose their answer.
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
	// Small makes a new, empty store that is full with at most 64 MiB of payloads, takes in more after a trim, and keeps
	// at least 128 KiB back for batches with Reserve, but not more than 32 MiB. Reopen and Crash keep its bound. Nil: the
	// rules on a full store are skipped.
	Small func(t *testing.T) store.Store
	// KeepsRoom says that an emptied store does not soon take at least 9 tenths of what Small first took. The rule that it does
	// is skipped then.
	KeepsRoom bool
	// Disk makes a new, empty store on a disk of its own: fill lets another program take all that is left of it, and free
	// takes that away again. What the store has allocated, such as its reserve of at least 128 KiB, stays its own. Nil: the
	// rule on a full disk is skipped.
	Disk func(t *testing.T) (s store.Store, fill, free func())
	// Opener makes a place for a store where there is nothing yet, and returns what opens it. That may be called again, also
	// while the store is open, and by several goroutines at once; it does not wait for another one to close. Nil: the rules on
	// several openers are skipped.
	Opener func(t *testing.T) (open func() (store.Store, error))
	// Damage makes something unreadable, as a flipped bit or a bad block does, and returns the store to go on with: s itself,
	// or the same data opened again after s was closed in good order. Nil: the rules on damage are skipped.
	Damage func(t *testing.T, s store.Store, d Damage) store.Store
	// Corrupt is, by errors.Is, the store's error for what cannot be read. Required with Damage.
	Corrupt error
	// Capabilities are those that the store declares. Rules that belong to others are left out.
	Capabilities store.Capabilities
	// Steps is how many steps a random history has; 0: 300.
	Steps int
}

// rule is one rule of the contract.
type rule struct {
	name  string
	skip  func(h *Harness) (why string) // nil or empty: the rule applies
	check func(f *fixture)
}

// unless returns why a rule is skipped, unless the store has what the rule is about.
func unless(has bool, why string) string {
	if has {
		return ""
	}
	return why
}

func durable(h *Harness) string { return unless(h.Capabilities.Durable, "the store is not durable") }
func dense(h *Harness) string   { return unless(h.Capabilities.Dense, "numbers may have gaps") }
func uniformOrder(h *Harness) string {
	return unless(h.Capabilities.UniformOrder, "inboxes may differ in order")
}
func atomicSend(h *Harness) string {
	return unless(h.Capabilities.AtomicSend, "inboxes get a message one after another")
}

// TestStore checks a store against the whole contract, each rule as a subtest of its own.
func TestStore(t *testing.T, h Harness) {
	require.NotNil(t, h.Open, "Harness.Open is required")
	if h.Capabilities.Durable {
		require.NotNil(t, h.Reopen, "Harness.Reopen is required for a durable store")
	}
	for _, group := range [][]rule{
		infoRules, recordRules, inboxRules, pageRules, removalRules, sendRules, orderRules, changeRules, countRules, stateRules, cursorRules,
		idempotencyRules, accountRules, claimRules, errorRules, fullRules, openerRules, reopenRules, reopenMore, damageRules, hotRules, historyRules,
	} {
		for _, r := range group {
			t.Run(r.name, func(t *testing.T) {
				if r.skip != nil {
					if why := r.skip(&h); why != "" {
						t.Skip(why)
					}
				}
				r.check(newFixture(t, h, h.Open(t)))
			})
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
		require.NotZero(f.t, info.IDKey)
		f.send("ann", "ann")
		require.Equal(f.t, info, f.s.Info())
	}},
	{name: "info differs between two stores", check: func(f *fixture) {
		other := newFixture(f.t, f.h, f.h.Open(f.t))
		require.NotEqual(f.t, f.s.Info().IDKey, other.s.Info().IDKey)
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
