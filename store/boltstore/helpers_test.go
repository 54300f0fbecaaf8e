package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

var start = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

func newPath(tb testing.TB) string { return filepath.Join(tb.TempDir(), "store.db") }

func open(tb testing.TB, path string, cfg boltstore.Config) *boltstore.Store {
	tb.Helper()
	s, err := boltstore.Open(path, cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { closeStore(tb, s) })
	return s
}

// closeStore closes s, which may have failed or be closed already.
func closeStore(tb testing.TB, s *boltstore.Store) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(tb, s.Close(ctx))
}

// message returns a batch that appends one message to inboxes, the first of which is the sender's.
func message(id string, payload []byte, to ...event.Account) store.Batch {
	m := store.Message{
		ID: event.MessageID(id), Kind: event.KindMessage, Conversation: "talk", From: to[0], Payload: payload,
	}
	for _, a := range to {
		m.To = append(m.To, store.Inbox{Account: a})
	}
	return store.Batch{Account: to[0], Now: start, Messages: []store.Message{m}}
}

// readAll returns all entries of an inbox, page by page.
func readAll(ctx context.Context, s store.Store, a event.Account) ([]event.Entry, store.Head, error) {
	var all []event.Entry
	for after := uint64(0); ; {
		p, err := s.Read(ctx, a, store.ReadOptions{After: after, Limit: 256, MaxBytes: 1 << 20})
		if err != nil {
			return nil, store.Head{}, err
		}
		all = append(all, p.Entries...)
		if after = p.Through; after >= p.Head.Seq {
			return all, p.Head, nil
		}
	}
}

// fillBytes is the size of the messages of fill.
const fillBytes = 30_000

// fill appends messages until the store is full, and returns how many went in.
func fill(tb testing.TB, s store.Store, prefix string, a event.Account) int {
	tb.Helper()
	for n := 0; ; n++ {
		_, err := s.Commit(tb.Context(), message(fmt.Sprint(prefix, n), make([]byte, fillBytes), a))
		if errors.Is(err, store.ErrFull) {
			return n
		}
		require.NoError(tb, err)
	}
}
