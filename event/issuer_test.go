package event_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

func TestIssuer_KnowsItsOwn(t *testing.T) {
	mine := event.NewIssuer(event.IDKeyOf([32]byte{1}))
	same := event.NewIssuer(event.IDKeyOf([32]byte{1}))
	other := event.NewIssuer(event.IDKeyOf([32]byte{2}))
	for range 200 {
		id := mine.Issue()
		require.Len(t, string(id), 26)
		require.True(t, mine.Issued(id))
		require.True(t, same.Issued(id), "the secret is the store's, not the issuer's")
		require.False(t, other.Issued(id))
	}
}

// Stores keep messages in the order of what is sealed in their IDs.
func TestIssuer_OpenIsInOrder(t *testing.T) {
	mine, other := event.NewIssuer(event.IDKeyOf([32]byte{1})), event.NewIssuer(event.IDKeyOf([32]byte{2}))
	var last [12]byte
	rises := 0
	for range 500 {
		id := mine.Issue()
		number, ok := event.NewIssuer(event.IDKeyOf([32]byte{1})).Open(id)
		require.True(t, ok)
		if string(number[:]) > string(last[:]) {
			rises++
		}
		last = number
		_, ok = other.Open(id)
		require.False(t, ok)
	}
	require.GreaterOrEqual(t, rises, 499, "but where the counter begins anew")
}

// TestI23_MadeUpMessageIDs: an ID that the store did not issue is known as such.
func TestI23_MadeUpMessageIDs(t *testing.T) {
	issuer := event.NewIssuer(event.IDKeyOf([32]byte{7}))
	id := string(issuer.Issue())
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	for i := range len(id) {
		for _, c := range alphabet {
			if byte(c) != id[i] {
				require.False(t, issuer.Issued(event.MessageID(id[:i]+string(c)+id[i+1:])), "place %d, %c", i, c)
			}
		}
	}
	tests := []struct{ name, id string }{
		{"empty", ""},
		{"short", id[1:]},
		{"long", id + "a"},
		{"capitals", strings.ToUpper(id)},
		{"padding", id[:25] + "="},
		{"space", " " + id[1:]},
		{"not UTF-8", "\xff" + id[1:]},
		{"all the same", strings.Repeat("a", 26)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { require.False(t, issuer.Issued(event.MessageID(tt.id))) })
	}
}

func TestIssuer_UniqueWhenConcurrent(t *testing.T) {
	const issuers, goroutines, each = 4, 4, 2_000
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		all = map[event.MessageID]bool{}
	)
	for range issuers { // of one store: several nodes, or one that was opened again
		issuer := event.NewIssuer(event.IDKeyOf([32]byte{9}))
		for range goroutines {
			wg.Go(func() {
				ids := make([]event.MessageID, each)
				for i := range ids {
					ids[i] = issuer.Issue()
				}
				mu.Lock()
				defer mu.Unlock()
				for _, id := range ids {
					all[id] = true
				}
			})
		}
	}
	wg.Wait()
	require.Len(t, all, issuers*goroutines*each)
}
