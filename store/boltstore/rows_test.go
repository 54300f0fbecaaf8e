package boltstore_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// What an operation writes is what changes, and no row more.
func TestRowsOfOperations(t *testing.T) {
	send := message("m", []byte("x"), "ann", "bob")
	send.Messages[0].To[1].Flags = event.FlagUnread
	send.Idempotency = &store.Idempotency{ClientID: "c", Window: time.Hour, Max: 100}
	mark := store.Batch{Account: "ann", Now: start, States: []store.StateUpdate{{Conversation: "talk", Name: "read", Number: 9}}}
	batch := func(b store.Batch) func(*testing.T, store.Store) error {
		return func(t *testing.T, s store.Store) error { _, err := s.Commit(t.Context(), b); return err }
	}
	for _, tt := range []struct {
		name string
		rows int
		do   func(*testing.T, store.Store) error
	}{
		{"send", 7, batch(send)}, // two heads, two entries, the count, the message, the idempotency record
		{"mark", 1, batch(mark)},
		{"cursor", 1, func(t *testing.T, s store.Store) error {
			return s.SaveCursors(t.Context(), []store.Cursor{{Account: "ann", Incarnation: 1, Seq: 2}})
		}},
		{"cursor that is behind", 0, func(t *testing.T, s store.Store) error {
			return s.SaveCursors(t.Context(), []store.Cursor{{Account: "ann", Incarnation: 1}, {Account: "nobody", Incarnation: 1, Seq: 1}})
		}},
		{"trim of the only copy", 3, func(t *testing.T, s store.Store) error { // head, entry, message
			_, err := s.Trim(t.Context(), "ann", 1, 1)
			return err
		}},
		{"trim of nothing", 0, func(t *testing.T, s store.Store) error {
			_, err := s.Trim(t.Context(), "nobody", 1, 1)
			return err
		}},
		{"void of one of two copies", 3, func(t *testing.T, s store.Store) error { // head, entry, references
			_, err := s.Void(t.Context(), "bob", []uint64{1})
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, out := newPath(t), new(logged)
			s := open(t, path, boltstore.Config{})
			own := message("own", nil, "ann")
			own.Begin = []store.Begin{{Incarnation: 1, Back: 9}}
			for _, b := range []store.Batch{own, message("both", nil, "ann", "bob")} {
				_, err := s.Commit(t.Context(), b)
				require.NoError(t, err)
			}
			require.NoError(t, s.Compact(t.Context()))
			require.NoError(t, tt.do(t, s))
			s.Crash()
			s = open(t, path, boltstore.Config{Logger: out.logger()})
			rows := 0
			for _, line := range out.lines(t, "boltstore: log replayed") {
				rows = int(line["rows"].(float64))
			}
			require.Equal(t, tt.rows, rows)
		})
	}
}
