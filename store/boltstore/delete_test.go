package boltstore_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// crowd puts entries into the inbox of ann, every tenth also into that of bob.
func crowd(t *testing.T, s store.Store, entries int) {
	for i := 0; i < entries; {
		b := store.Batch{Account: "ann", Now: start}
		for range 500 {
			to := []event.Account{"ann"}
			if i%10 == 0 {
				to = append(to, "bob")
			}
			b.Messages = append(b.Messages, message(fmt.Sprint("m", i), make([]byte, 1500*(i%2)), to...).Messages...)
			i++
		}
		_, err := s.Commit(t.Context(), b)
		require.NoError(t, err)
	}
}

func TestDeleteIsOneStepAndThenPurges(t *testing.T) {
	const entries = 3000
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	crowd(t, s, entries)
	old, err := s.Read(t.Context(), "ann", store.ReadOptions{})
	require.NoError(t, err)

	// The group of the deletion is let through, and the first of the purge; the others fail.
	groups := 0
	s.SetWrite(func(write func() error) error {
		if groups++; groups > 2 {
			return errDisk
		}
		return write()
	})
	require.NoError(t, s.Delete(t.Context(), "ann", 0))
	<-s.Failed()
	closeStore(t, s)

	s = open(t, path, boltstore.Config{})
	gone := func() {
		p, err := s.Read(t.Context(), "ann", store.ReadOptions{Limit: 9})
		require.NoError(t, err)
		require.Equal(t, store.Head{Epoch: old.Head.Epoch + 1}, p.Head)
		require.Empty(t, p.Entries)
		_, err = s.Message(t.Context(), "m2999")
		require.ErrorIs(t, err, store.ErrNotFound)
		info, err := s.Message(t.Context(), "m2990")
		require.NoError(t, err, "bob holds it")
		require.Equal(t, old.Head.Epoch, info.To[0].Epoch)
		accounts, err := s.Accounts(t.Context(), "", 9)
		require.NoError(t, err)
		require.Equal(t, []event.Account{"bob"}, accounts)
	}
	gone() // while the purge that Open began may still run
	waitFor(t, func() bool { return !s.Purging() })
	gone()
	require.Zero(t, s.Rows("purge"))
	require.Equal(t, entries/10, messages(t, s))
	_, err = s.Trim(t.Context(), "bob", 1<<40, 1<<30)
	require.NoError(t, err)
	require.Zero(t, s.Rows("message"))
	require.Zero(t, s.Rows("account"))
	require.Zero(t, s.Rows("long"))
	require.Equal(t, 2, s.Rows("head"))
}

// messages counts the messages in the file.
func messages(t *testing.T, s *boltstore.Store) (n int) {
	require.NoError(t, s.Compact(t.Context()))
	require.NoError(t, s.Bolt().View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("message")).ForEach(func(k, _ []byte) error {
			if bytes.HasSuffix(k, []byte("m")) {
				n++
			}
			return nil
		})
	}))
	return n
}

// A deleted account's messages are gone from the first moment, even if none of their rows is.
func TestDeleteHidesMessagesBeforeThePurge(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	crowd(t, s, 1000)
	g := newGate(s)
	done := make(chan error)
	go func() { done <- s.Delete(t.Context(), "ann", 0) }()
	<-g.entered
	g.open <- struct{}{}
	require.NoError(t, <-done)
	<-g.entered // the purge began, and goes no further
	require.True(t, s.Purging())
	_, err := s.Message(t.Context(), "m999")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Message(t.Context(), "m990")
	require.NoError(t, err)
	close(g.open)
	waitFor(t, func() bool { return !s.Purging() })
	require.Zero(t, s.Rows("purge"))
}

func TestRemovalLeavesNoRows(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	ctx := t.Context()
	for i := range 20 {
		b := message(fmt.Sprint("m", i), make([]byte, 700*i), "ann", "bob")
		b.Messages[0].Key = []string{"", "typing"}[i%2]
		_, err := s.Commit(ctx, b)
		require.NoError(t, err)
	}
	require.Equal(t, 11, messages(t, s), "ten, and the last of a key")
	_, err := s.Void(ctx, "ann", []uint64{1, 2, 3, 3, 20, 99})
	require.NoError(t, err)
	_, err = s.Trim(ctx, "ann", 100, 100)
	require.NoError(t, err)
	require.Equal(t, 11, messages(t, s), "bob has them")
	require.NoError(t, s.Delete(ctx, "bob", 0))
	for _, table := range []string{"message", "account", "purge", "long"} {
		require.Zero(t, s.Rows(table), table)
	}
	require.Equal(t, 2, s.Rows("head"))
}

// Deletions of one account one after another have a generation each, and no row of any stays.
func TestDeleteAgainAndAgain(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{}.WithMemory(64<<10))
	ctx := t.Context()
	before := event.Epoch(0)
	for round := range 5 {
		for n := range 3 {
			b := store.Batch{Account: "ann", Now: start}
			for i := range 400 { // more than one operation of the purge removes
				b.Messages = append(b.Messages, message(fmt.Sprint("m", round, "-", n, "-", i), nil, "ann").Messages...)
			}
			_, err := s.Commit(ctx, b)
			require.NoError(t, err)
		}
		p, err := s.Read(ctx, "ann", store.ReadOptions{Limit: 9})
		require.NoError(t, err)
		require.EqualValues(t, 1200, p.Head.Seq)
		require.Greater(t, p.Head.Epoch, before)
		before = p.Head.Epoch
		require.NoError(t, s.Delete(ctx, "ann", 0))
	}
	waitFor(t, func() bool { return !s.Purging() })
	for _, table := range []string{"message", "account", "purge"} {
		require.Zero(t, s.Rows(table), table)
	}
}

// furnish gives an account something of everything that has words of its own.
func furnish(t *testing.T, s *boltstore.Store, name event.Account) {
	t.Helper()
	b := message(fmt.Sprintf("%s-id", name), []byte("payload"), "bob")
	b.Account = name
	b.Messages[0].To = append(b.Messages[0].To, store.Inbox{Account: name})
	b.Record = &store.RecordUpdate{Data: append(make([]byte, 3000), []byte(string(name)+"-record")...)}
	b.States = []store.StateUpdate{{Conversation: event.ConversationID(name + "-talk"), Name: "pinned", Merge: store.MergeLast, Number: 1}}
	b.Idempotency = &store.Idempotency{ClientID: event.ClientMessageID(name + "-client"), Window: time.Hour, Max: 10}
	b.Begin = []store.Begin{{Incarnation: 7}}
	own := message(fmt.Sprintf("%s-own", name), nil, name)
	own.Messages[0].Key = string(name) + "-typing"
	b.Messages = append(b.Messages, own.Messages...)
	_, err := s.Commit(t.Context(), b)
	require.NoError(t, err)
}

// TestD8_DeletedRowsLeaveTheFile: whether what an account had is in memory, in the log or in the file when it is deleted.
func TestD8_DeletedRowsLeaveTheFile(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, string, *boltstore.Store) *boltstore.Store{
		"in memory": func(_ *testing.T, _ string, s *boltstore.Store) *boltstore.Store { return s },
		"in the file": func(t *testing.T, _ string, s *boltstore.Store) *boltstore.Store {
			require.NoError(t, s.Compact(t.Context()))
			return s
		},
		"in the log": func(t *testing.T, path string, s *boltstore.Store) *boltstore.Store {
			s.Crash()
			return open(t, path, boltstore.Config{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			s := open(t, path, boltstore.Config{})
			for _, a := range []event.Account{"ann", "ann2", "an"} {
				furnish(t, s, a)
			}
			s = prepare(t, path, s)
			r, err := s.Load(t.Context(), "ann")
			require.NoError(t, err)
			require.NoError(t, s.Delete(t.Context(), "ann", r.Revision))
			waitFor(t, func() bool { return !s.Purging() })
			for _, word := range []string{"ann-record", "ann-talk", "ann-client", "ann-typing", "ann-own"} {
				found, err := s.Reachable(word)
				require.NoError(t, err)
				require.False(t, found, word)
			}
			for _, a := range []event.Account{"ann2", "an"} {
				r, err := s.Load(t.Context(), a)
				require.NoError(t, err)
				require.Contains(t, string(r.Data), string(a)+"-record")
				cursors, err := s.Cursors(t.Context(), a)
				require.NoError(t, err)
				require.Len(t, cursors, 1)
			}
			info, err := s.Message(t.Context(), "ann-id")
			require.NoError(t, err, "bob holds it")
			require.Len(t, info.To, 2)
		})
	}
}
