package boltstore

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// bytesStored is how many bytes of keys and values the file has in its tables, once all that was written is there.
func bytesStored(t *testing.T, s *Store) (n int64) {
	require.NoError(t, s.Compact(t.Context()))
	require.NoError(t, s.db.Bolt().View(func(tx *bolt.Tx) error {
		for _, table := range append([]string{"long"}, tables[tableHead].Name, tables[tableAccount].Name, tables[tableMessage].Name) {
			err := tx.Bucket([]byte(table)).ForEach(func(k, v []byte) error { n += int64(len(k) + len(v)); return nil })
			if err != nil {
				return err
			}
		}
		return nil
	}))
	return n
}

// A batch never stores more than it takes room for, and not much less where it is large.
func TestSizeIsAnUpperBound(t *testing.T) {
	id := func(prefix string) string { return prefix + strings.Repeat("x", event.MaxIDBytes-len(prefix)) }
	full := func(n int) store.Message {
		m := store.Message{
			ID: event.MessageID(id(fmt.Sprint("m", n))), Kind: event.KindMessage, Conversation: event.ConversationID(id("c")),
			ClientID: event.ClientMessageID(id("client")), From: event.Account(id("from")), Origin: event.LoginID(id("login")),
			Flags: event.FlagUnread, Key: strings.Repeat("k", store.MaxKeyBytes), Of: event.MessageID(id("m0")),
			Expires: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), Payload: make([]byte, 3000),
		}
		for i := range 20 {
			to := store.Inbox{Account: event.Account(id(fmt.Sprint("to", i)))}
			if i == 0 {
				to.Account = m.From
			}
			for j := range uint64(store.MaxTargets) {
				to.Targets = append(to.Targets, event.Incarnation(1<<63+j))
			}
			m.To = append(m.To, to)
		}
		return m
	}
	batch := func(messages ...store.Message) store.Batch {
		return store.Batch{Account: event.Account(id("from")), Now: time.UnixMilli(1), Messages: messages}
	}
	name := func(b store.Batch, n int) store.Batch {
		b.Idempotency = &store.Idempotency{
			Device: event.DeviceID(id("d")), ClientID: event.ClientMessageID(id(fmt.Sprint("i", n))), Window: 1e18, Max: 99,
		}
		return b
	}
	state := func(n int) store.Batch {
		b := batch()
		for i := range 20 {
			b.States = append(b.States, store.StateUpdate{
				Conversation: event.ConversationID(id(fmt.Sprint(i))), Name: id("n"), Number: 1<<63 + uint64(n), Value: make([]byte, 100*i),
			})
		}
		return b
	}
	begin := batch()
	for i := range uint64(50) {
		begin.Begin = append(begin.Begin, store.Begin{Incarnation: event.Incarnation(i + 1)})
	}
	record := batch()
	record.Record = &store.RecordUpdate{Data: make([]byte, store.MaxRecordBytes)}
	short := store.Message{ID: "m", Kind: event.KindMessage, From: "a", To: []store.Inbox{{Account: "a"}, {Account: "b", Flags: event.FlagUnread}}}

	s, err := Open(filepath.Join(t.TempDir(), "db"), Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	for i, b := range []store.Batch{
		name(batch(full(0)), 0), name(batch(full(1), full(2), full(3)), 1), state(0), state(1), record,
		name(batch(), 2), {Account: "a", Now: time.UnixMilli(1), Messages: []store.Message{short}},
	} {
		before := bytesStored(t, s)
		_, err := s.Commit(t.Context(), b)
		require.NoError(t, err)
		stored, reckoned := bytesStored(t, s)-before, size(&b)
		t.Log(i, stored, reckoned)
		require.LessOrEqual(t, stored, reckoned, "%d", i)
		if stored > 10_000 {
			require.LessOrEqual(t, reckoned, 2*stored, "%d", i)
		}
	}
	_, err = s.Commit(t.Context(), begin)
	require.NoError(t, err)
}
