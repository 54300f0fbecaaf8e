package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// furnish gives an account something of everything that has words of its own.
func furnish(t *testing.T, s *boltstore.Store, name event.Account) {
	t.Helper()
	b := message(fmt.Sprintf("%s-id", name), []byte("payload"), "bob")
	b.Account = name
	b.Messages[0].To = append(b.Messages[0].To, store.Inbox{Account: name})
	b.Record = &store.RecordUpdate{Data: []byte(string(name) + "-record")}
	b.States = []store.StateUpdate{{Conversation: event.ConversationID(name + "-talk"), Name: "pinned", Merge: store.MergeLast, Number: 1}}
	b.Idempotency = &store.Idempotency{ClientID: event.ClientMessageID(name + "-client"), Window: time.Hour, Max: 10}
	_, err := s.Commit(t.Context(), b)
	require.NoError(t, err)
}

func remove(t *testing.T, s *boltstore.Store, name event.Account) {
	t.Helper()
	r, err := s.Load(t.Context(), name)
	require.NoError(t, err)
	require.NoError(t, s.Delete(t.Context(), name, r.Revision))
}

func swept(t *testing.T, s *boltstore.Store, words ...string) {
	t.Helper()
	for _, word := range words {
		require.Eventually(t, func() bool {
			found, err := s.Reachable(word)
			require.NoError(t, err)
			return !found
		}, 20*time.Second, time.Millisecond, word)
	}
}

// TestD8_DeletedRowsLeaveTheFile: what an account had is in older runs, in a newer one and in the journal when it is
// deleted.
func TestD8_DeletedRowsLeaveTheFile(t *testing.T) {
	for name, crash := range map[string]bool{"in use": false, "after a crash": true, "without a bound": false} {
		t.Run(name, func(t *testing.T) {
			path, cfg := newPath(t), boltstore.Config{}.WithLimits(1<<20, 16, 4)
			if name == "without a bound" {
				cfg.MaxSize = -1
			}
			s := open(t, path, cfg)
			words := []string{"ann-record", "ann-talk", "ann-client"}
			furnish(t, s, "ann")
			for i := range 3 {
				furnish(t, s, event.Account(fmt.Sprint("other", i)))
				require.NoError(t, s.Compact(context.Background()))
			}
			late := message("late", []byte("x"), "ann")
			late.Messages[0].Key = "ann-late"
			_, err := s.Commit(t.Context(), late)
			require.NoError(t, err)
			for _, word := range words {
				found, err := s.Reachable(word)
				require.NoError(t, err)
				require.True(t, found, word)
			}
			remove(t, s, "ann")
			if crash {
				s.Crash()
				s = open(t, path, cfg)
			}
			swept(t, s, append(words, "ann-late")...)
			require.Eventually(t, s.Swept, 20*time.Second, time.Millisecond)
			for i := range 3 {
				name := event.Account(fmt.Sprint("other", i))
				r, err := s.Load(t.Context(), name)
				require.NoError(t, err)
				require.Equal(t, string(name)+"-record", string(r.Data))
				states, err := s.States(t.Context(), name, store.StateOptions{Limit: 10})
				require.NoError(t, err)
				require.Len(t, states.States, 1)
			}
			page, err := s.Read(t.Context(), "bob", store.ReadOptions{Limit: 10})
			require.NoError(t, err)
			require.NotEmpty(t, page.Entries)
		})
	}
}

// TestD8_SweepsAreNotFrequent: a second deletion waits for the next sweep, which comes by itself.
func TestD8_SweepsAreNotFrequent(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{}.WithLimits(1<<20, 16, 4).WithSweep(time.Second))
	for _, name := range []event.Account{"ann", "cid"} {
		furnish(t, s, name)
	}
	require.NoError(t, s.Compact(context.Background()))
	remove(t, s, "ann")
	swept(t, s, "ann-record")
	began := time.Now()
	remove(t, s, "cid")
	swept(t, s, "cid-record")
	require.Greater(t, time.Since(began), time.Second/4, "not at once")
}

// TestRunsAreMergedThoughNobodyCommits: a file may have been closed, or its process may have ended, before that was done.
func TestRunsAreMergedThoughNobodyCommits(t *testing.T) {
	const many, few = 20, 3
	path := newPath(t)
	s := open(t, path, boltstore.Config{}.WithLimits(1<<20, 512, many))
	for i := range many - 1 {
		_, err := s.Commit(t.Context(), message(fmt.Sprint("m", i), nil, "ann"))
		require.NoError(t, err)
		require.NoError(t, s.Compact(t.Context()))
	}
	require.Greater(t, s.Runs(), few)
	closeStore(t, s)
	s = open(t, path, boltstore.Config{}.WithLimits(1<<20, 512, few))
	require.Eventually(t, func() bool { return s.Runs() <= few }, 20*time.Second, time.Millisecond)
	all, _, err := readAll(t.Context(), s, "ann")
	require.NoError(t, err)
	require.Len(t, all, many-1)
}

// TestCompact_WhileOthersWrite: what comes in meanwhile is not waited for.
func TestCompact_WhileOthersWrite(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{}.WithLimits(64<<10, 16, 2))
	const sends = 400
	var sent atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := range sends {
			if _, err := s.Commit(t.Context(), message(fmt.Sprint("m", n), nil, "ann", event.Account(fmt.Sprint("a", n)))); err != nil {
				t.Error(err)
			}
			sent.Add(1)
		}
	})
	for sent.Load() < sends {
		require.NoError(t, s.Compact(t.Context()))
	}
	wg.Wait()
	require.NoError(t, s.Compact(t.Context()))
	bytes, accounts := s.Memory()
	require.Zero(t, bytes)
	require.Zero(t, accounts)
	require.LessOrEqual(t, s.Runs(), 2)
	all, _, err := readAll(t.Context(), s, "ann")
	require.NoError(t, err)
	require.Len(t, all, sends)
}

// TestCompact_Ends with what it was told: by its context, or by the end of the store.
func TestCompact_Ends(t *testing.T) {
	fill := func(t *testing.T) *boltstore.Store {
		s := open(t, newPath(t), boltstore.Config{}.WithLimits(1<<20, 1, 2))
		for i := range 200 {
			_, err := s.Commit(t.Context(), message(fmt.Sprint("m", i), nil, event.Account(fmt.Sprint("a", i))))
			require.NoError(t, err)
		}
		return s
	}
	t.Run("context", func(t *testing.T) {
		s := fill(t)
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		s.SetCommit(func(tx *bolt.Tx) error {
			if n++; n == 20 {
				cancel()
			}
			return tx.Commit()
		})
		require.Equal(t, context.Canceled, s.Compact(ctx))
		require.NoError(t, s.Compact(t.Context()), "the rest is done later")
		require.Zero(t, s.Journals())
	})
	t.Run("close", func(t *testing.T) {
		s := fill(t)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := s.Compact(t.Context()); err != nil && !errors.Is(err, store.ErrClosed) {
					t.Error(err)
				}
			})
		}
		closeStore(t, s)
		wg.Wait()
		require.ErrorIs(t, s.Compact(t.Context()), store.ErrClosed)
	})
}

// TestI27_RunsAreBounded: the more there are the more each commit merges, though the background rests.
func TestI27_RunsAreBounded(t *testing.T) {
	const senders, each, idle = 32, 200, 3
	s := open(t, newPath(t), boltstore.Config{}.WithLimits(8<<10, 8, idle))
	var most atomic.Int64
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for n := range each {
				b := message(fmt.Sprint("m", i, "-", n), nil, event.Account(fmt.Sprint("a", i, "-", n)), event.Account(fmt.Sprint("b", i)))
				if _, err := s.Commit(t.Context(), b); err != nil {
					t.Error(err)
				}
				most.Store(max(most.Load(), int64(s.Runs())))
			}
		})
	}
	wg.Wait()
	require.Greater(t, most.Load(), int64(idle))
	require.LessOrEqual(t, most.Load(), int64(idle+48))
	t.Log(most.Load(), "runs")
	require.NoError(t, s.Compact(t.Context()))
	for i := range senders {
		all, _, err := readAll(t.Context(), s, event.Account(fmt.Sprint("b", i)))
		require.NoError(t, err)
		require.Len(t, all, each)
	}
}
