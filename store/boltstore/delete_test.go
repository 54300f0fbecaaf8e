package boltstore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// buckets are those that hold something of messages.
var buckets = []string{"id", "message", "blob", "place", "ref"}

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

	// The first commit of the deletion is let through, those of the purge fail.
	commits := 0
	s.SetCommit(func(tx *bolt.Tx) error {
		if commits++; commits > 2 {
			return errDisk
		}
		return tx.Commit()
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
	require.Equal(t, entries/10, s.Rows("message"))
	_, err = s.Trim(t.Context(), "bob", 1<<40, 1<<30)
	require.NoError(t, err)
	for _, b := range buckets {
		require.Zero(t, s.Rows(b), b)
	}
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
	require.Positive(t, s.Rows("purge"))
	_, err := s.Message(t.Context(), "m999")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Message(t.Context(), "m990")
	require.NoError(t, err)
	close(g.open)
	waitFor(t, func() bool { return !s.Purging() })
	require.Zero(t, s.Rows("purge"))
}

func TestRemovalLeavesNoRows(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{}.WithLimits(1<<20, 512, 1))
	ctx := t.Context()
	for i := range 20 {
		b := message(fmt.Sprint("m", i), make([]byte, 700*i), "ann", "bob")
		b.Messages[0].Key = []string{"", "typing"}[i%2]
		_, err := s.Commit(ctx, b)
		require.NoError(t, err)
	}
	_, err := s.Void(ctx, "ann", []uint64{1, 2, 3, 3, 20, 99})
	require.NoError(t, err)
	_, err = s.Trim(ctx, "ann", 100, 100)
	require.NoError(t, err)
	require.Equal(t, 11, s.Rows("message"), "bob has ten and the last of a key")
	require.NoError(t, s.Delete(ctx, "bob", 0))
	for _, b := range append(buckets, "purge") {
		require.Zero(t, s.Rows(b), b)
	}
	require.NoError(t, s.Compact(ctx))
	require.Equal(t, 1, s.Rows("head"), "one block")
	require.Equal(t, 2, s.Rows("name"))
	_, err = s.Commit(ctx, message("last", nil, "ann"))
	require.NoError(t, err)
	require.NoError(t, s.Compact(ctx))
	require.Equal(t, 1, s.Runs())
	require.Equal(t, 1, s.Rows("run"), "the last entry: what removed ones left is gone")
	require.Zero(t, s.Journals())
}
