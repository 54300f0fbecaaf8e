package boltstore_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// What is saved of a store that has lost rows is a store in which rows agree with each other, and which goes on.
func TestSalvage_MendsWhatRowsSayOfEachOther(t *testing.T) {
	all := func([]byte) bool { return true }
	for _, tt := range []struct {
		name, table string
		match       func([]byte) bool
		readable    bool // all of Ann's entries
	}{
		{"nothing", "head", func([]byte) bool { return false }, true},
		{"all heads", "head", all, true},
		{"Ann's head", "head", is("ann"), true},
		{"Ann's entries", "account", part("ann", 'e'), false},
		{"Ann's keys", "account", part("ann", 'k'), true},
		{"Ann's record", "account", part("ann", 'r'), true},
		{"Ann's idempotency records", "account", part("ann", 'i'), true},
		{"all messages", "message", all, false},
		{"lists of inboxes", "message", func(key []byte) bool { return key[len(key)-1] == 't' }, true},
		{"payloads", "message", func(key []byte) bool { return key[len(key)-1] == 'p' }, false},
		{"references", "reference", all, true},
		{"chunks of payloads", "long", all, false},
		{"some of each account's rows", "account", func(key []byte) bool { return rand.IntN(3) == 0 }, false},
		{"some messages", "message", func(key []byte) bool { return rand.IntN(3) == 0 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, to := newPath(t), newPath(t)
			s := open(t, path, boltstore.Config{})
			busy(t, s)
			before, _, err := readAll(t.Context(), s, "ann")
			require.NoError(t, err)
			require.NoError(t, s.Delete(t.Context(), "dan", 0))
			closeStore(t, s)
			lost := damage(t, path, tt.table, tt.match)
			found := 0
			done, err := boltstore.Salvage(t.Context(), path, to, func(f boltstore.Finding) {
				found++
				require.NotContains(t, f.String(), "hidden")
			})
			require.NoError(t, err)
			require.Equal(t, found, done.Findings)
			require.GreaterOrEqual(t, found, lost)
			s = open(t, to, boltstore.Config{})
			list, _ := verify(t, s)
			require.Empty(t, list)
			after, _, err := readAll(t.Context(), s, "ann")
			require.NoError(t, err)
			if tt.readable {
				require.Equal(t, len(before), len(after))
				for i := range after {
					require.Equal(t, before[i].ID, after[i].ID)
					require.True(t, bytes.Equal(before[i].Payload, after[i].Payload))
				}
			}
			for i := range 3 { // it goes on, and what had a key is superseded
				b := message(fmt.Sprint("new", i), []byte("x"), "ann", "bob", "dan")
				b.Messages[0].Key = "key1"
				_, err = s.Commit(t.Context(), b)
				require.NoError(t, err)
			}
			_, err = s.Trim(t.Context(), "ann", 1<<40, 1000)
			require.NoError(t, err)
			for _, a := range []event.Account{"ann", "bob", "cid", "dan"} {
				r, err := s.Load(t.Context(), a)
				require.NoError(t, err)
				require.NoError(t, s.Delete(t.Context(), a, r.Revision))
			}
			waitFor(t, func() bool { return !s.Purging() })
			list, _ = verify(t, s)
			require.Empty(t, list)
			_, err = s.Commit(t.Context(), store.Batch{Account: "ann", Now: start.Add(time.Hour), Record: &store.RecordUpdate{Data: []byte("r")}})
			require.NoError(t, err)
		})
	}
}
