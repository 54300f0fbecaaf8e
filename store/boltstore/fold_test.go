package boltstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

// tiny has everything folded and merged as soon as it is written, a row with each commit.
func tiny() boltstore.Config { return boltstore.Config{LockTimeout: -1}.WithLimits(1, 1, 2) }

// story is a sequence of steps, of which some may have failed, that can be told again to a store in memory.
type story struct {
	rnd  *rand.Rand
	sent int
}

var storyAccounts = []event.Account{"ann", "bob", "cat", "dan"}

// step is one step: what it does, to any store.
type step func(ctx context.Context, s store.Store) error

func (y *story) next() step {
	name := storyAccounts[y.rnd.IntN(len(storyAccounts))]
	switch n := y.rnd.IntN(20); {
	case n < 12:
		return y.send(name)
	case n < 15:
		through, limit := y.rnd.Uint64N(60), 1+y.rnd.IntN(20)
		return func(ctx context.Context, s store.Store) error {
			_, err := s.Trim(ctx, name, through, limit)
			return err
		}
	case n < 17:
		seqs := []uint64{y.rnd.Uint64N(60), y.rnd.Uint64N(60)}
		return func(ctx context.Context, s store.Store) error { _, err := s.Void(ctx, name, seqs); return err }
	case n < 18:
		b := store.Batch{Account: name, Now: start, Forget: []event.Incarnation{1}}
		return func(ctx context.Context, s store.Store) error { _, err := s.Commit(ctx, b); return err }
	case n < 19:
		list := []store.Cursor{{Account: name, Incarnation: 1, Seq: y.rnd.Uint64N(60)}}
		return func(ctx context.Context, s store.Store) error { return s.SaveCursors(ctx, list) }
	}
	return func(ctx context.Context, s store.Store) error {
		r, err := s.Load(ctx, name)
		if err != nil {
			return err
		}
		return s.Delete(ctx, name, r.Revision)
	}
}

func (y *story) send(name event.Account) step {
	y.sent++
	other := storyAccounts[y.rnd.IntN(len(storyAccounts))]
	to := []event.Account{name, other}
	if name == other {
		to = to[:1]
	}
	b := message(fmt.Sprint("m", y.sent), make([]byte, y.rnd.IntN(2000)), to...)
	b.Messages[0].Key = []string{"", "", "k"}[y.rnd.IntN(3)]
	b.Messages[0].Flags = event.Flags(y.rnd.IntN(2))
	b.Idempotency = &store.Idempotency{ClientID: event.ClientMessageID(fmt.Sprint("c", y.sent)), Window: time.Hour, Max: 1000}
	b.States = []store.StateUpdate{{Name: fmt.Sprint("s", y.rnd.IntN(3)), Number: uint64(y.sent), Value: make([]byte, y.rnd.IntN(6000))}}
	b.Begin = []store.Begin{{Incarnation: 1}}
	data := make([]byte, y.rnd.IntN(9000))
	return func(ctx context.Context, s store.Store) error {
		r, err := s.Load(ctx, name)
		if err != nil {
			return err
		}
		again := b
		again.Record = &store.RecordUpdate{Expect: r.Revision, Data: data}
		_, err = s.Commit(ctx, again)
		return err
	}
}

// picture is all that the contract lets one see of the story's accounts, but for revisions and epochs, which stores choose.
func picture(t *testing.T, s store.Store, sent int) []any {
	var all []any
	ctx := t.Context()
	for _, a := range storyAccounts {
		entries, head, err := readAll(ctx, s, a)
		require.NoError(t, err)
		head.Epoch &= 1<<32 - 1
		for i := range entries {
			if len(entries[i].Payload) == 0 {
				entries[i].Payload = nil
			}
		}
		record, err := s.Load(ctx, a)
		require.NoError(t, err)
		states, err := s.States(ctx, a, store.StateOptions{Limit: 99})
		require.NoError(t, err)
		counts, err := s.Conversations(ctx, a, store.ConversationOptions{Limit: 99})
		require.NoError(t, err)
		cursors, err := s.Cursors(ctx, a)
		require.NoError(t, err)
		all = append(all, fmt.Sprint(a, head, entries, len(record.Data), states, counts, cursors))
	}
	for i := range sent {
		info, err := s.Message(ctx, event.MessageID(fmt.Sprint("m", i+1)))
		for j := range info.To {
			info.To[j].Epoch &= 1<<32 - 1
		}
		all = append(all, fmt.Sprint(i, info, errors.Is(err, store.ErrNotFound)))
	}
	return all
}

// told returns a store in memory to which the steps were told.
func told(t *testing.T, steps []step) store.Store {
	s := memstore.New(memstore.Config{})
	for _, next := range steps {
		require.NoError(t, next(t.Context(), s))
	}
	return s
}

// A commit fails, with and without having been written, at each place of a history in which every commit also folds or
// merges something. What was answered is there, what was not is there as a whole or not at all.
func TestI1_I2_I5_S69_CommitFailsAtAnyBoundary(t *testing.T) {
	const seed, commits = 11, 120
	for failAt := 1; failAt <= commits; failAt += 7 {
		for _, visible := range []bool{false, true} {
			path := newPath(t)
			s := open(t, path, tiny())
			n := 0
			s.SetCommit(func(tx *bolt.Tx) error {
				if n++; n < failAt {
					return tx.Commit()
				}
				if visible {
					require.NoError(t, tx.Commit())
				}
				return errDisk
			})
			y := &story{rnd: rand.New(rand.NewPCG(seed, uint64(failAt)))}
			var done []step
			var last step
			for {
				last = y.next()
				if err := last(t.Context(), s); err != nil {
					require.ErrorIs(t, err, store.ErrFailed)
					break
				}
				done = append(done, last)
			}
			closeStore(t, s)
			s = open(t, path, tiny())
			got := picture(t, s, y.sent)
			if with := append(done[:len(done):len(done)], last); !sameAs(t, got, done, y.sent) {
				require.Equal(t, picture(t, told(t, with), y.sent), got, "commit %d, visible %v", failAt, visible)
				done = with
			}
			for range 12 { // it is as good as new
				next := y.next()
				require.NoError(t, next(t.Context(), s))
				done = append(done, next)
			}
			require.NoError(t, s.Compact(t.Context()))
			require.Equal(t, picture(t, told(t, done), y.sent), picture(t, s, y.sent), "commit %d, visible %v", failAt, visible)
			closeStore(t, s)
		}
	}
}

func sameAs(t *testing.T, got []any, steps []step, sent int) bool {
	return fmt.Sprint(picture(t, told(t, steps), sent)) == fmt.Sprint(got)
}

// The process ends after any commit of a fold or merge, again and again: what is seen stays the same, and in the end
// everything is folded.
func TestS69_FoldsAndMergesBeginAnew(t *testing.T) {
	path := newPath(t)
	y := &story{rnd: rand.New(rand.NewPCG(3, 3))}
	var done []step
	for round := range 6 {
		s := open(t, path, boltstore.Config{})
		for range 25 {
			next := y.next()
			require.NoError(t, next(t.Context(), s))
			done = append(done, next)
		}
		s.Crash()
		want := picture(t, told(t, done), y.sent)
		finished := false
		for commits := 0; !finished; commits += 2 {
			s = open(t, path, tiny())
			n := 0
			s.SetCommit(func(tx *bolt.Tx) error {
				if n++; n > commits {
					return errDisk
				}
				return tx.Commit()
			})
			finished = s.Compact(t.Context()) == nil
			if finished {
				require.Zero(t, s.Journals())
			}
			closeStore(t, s)
			s = open(t, path, boltstore.Config{})
			require.Equal(t, want, picture(t, s, y.sent), "round %d, after %d commits", round, commits)
			closeStore(t, s)
		}
	}
}

func TestI29_CloseDuringAFold(t *testing.T) {
	path := newPath(t)
	cfg := boltstore.Config{}.WithLimits(16<<10, 1, 2)
	want := 0
	for range 5 {
		s := open(t, path, cfg)
		for range 300 {
			want++
			_, err := s.Commit(t.Context(), message(fmt.Sprint("m", want), nil, event.Account(fmt.Sprint("a", want%90)), "ann"))
			require.NoError(t, err)
		}
		closeStore(t, s)
		s = open(t, path, cfg)
		all, _, err := readAll(t.Context(), s, "ann")
		require.NoError(t, err)
		require.Len(t, all, want)
		closeStore(t, s)
	}
}

// However much comes in, memory holds two windows at most, and what one group adds to them.
func TestI27_MemoryOfTheJournalIsBounded(t *testing.T) {
	const window = 32 << 10
	s := open(t, newPath(t), boltstore.Config{}.WithLimits(window, 1, 4))
	var most atomic.Int64
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for n := range 60 {
				b := message(fmt.Sprint("m", i, "-", n), nil, event.Account(fmt.Sprint("a", i, "-", n)), "ann")
				b.Record = &store.RecordUpdate{Data: make([]byte, 1000)}
				if _, err := s.Commit(t.Context(), b); err != nil {
					t.Error(err)
				}
				bytes, _ := s.Memory()
				for old := most.Load(); bytes > old && !most.CompareAndSwap(old, bytes); old = most.Load() {
				}
			}
		})
	}
	wg.Wait()
	const group = 32 * 2500 // bytes that one commit of all of them adds, at most
	require.LessOrEqual(t, most.Load(), int64(2*window+2*group))
	require.Greater(t, s.Runs(), 1)
	require.NoError(t, s.Compact(t.Context()))
	bytes, accounts := s.Memory()
	require.Zero(t, accounts, "nothing is kept of accounts that are not in use")
	require.Zero(t, bytes)
}

func TestS70_FoldsAreMadeFromTheReserve(t *testing.T) {
	path := newPath(t)
	cfg := boltstore.Config{MaxSize: 8 << 20}
	s := open(t, path, cfg)
	n := 0
	for ; ; n++ {
		b := message(fmt.Sprint("m", n), make([]byte, 3000), event.Account(fmt.Sprint("a", n)), "ann")
		if _, err := s.Commit(t.Context(), b); err != nil {
			require.ErrorIs(t, err, store.ErrFull)
			break
		}
	}
	require.NoError(t, s.Compact(t.Context()))
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.LessOrEqual(t, st.Size(), int64(8<<20))
	all, _, err := readAll(t.Context(), s, "ann")
	require.NoError(t, err)
	require.Len(t, all, n)
}

// journalOf changes the only journal of a file that a crash left.
func journalOf(t *testing.T, path string, change func(b *bolt.Bucket) error) {
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		k, _ := tx.Cursor().Seek([]byte("journal"))
		return change(tx.Bucket(k))
	}))
	require.NoError(t, db.Close())
}

func TestCorruptJournal(t *testing.T) {
	key := binary.BigEndian.AppendUint64(nil, 2)
	for name, change := range map[string]func(b *bolt.Bucket) error{
		"chunk missing": func(b *bolt.Bucket) error { return b.Delete(key) },
		"cut short":     func(b *bolt.Bucket) error { k, _ := b.Cursor().Last(); return b.Delete(k) },
		"a bit": func(b *bolt.Bucket) error {
			v := bytes.Clone(b.Get(key))
			v[13] ^= 4 // how many entries there are
			return b.Put(key, v)
		},
		"length": func(b *bolt.Bucket) error {
			v := bytes.Clone(b.Get(key))
			v[3] ^= 4
			return b.Put(key, v)
		},
		"chunk too many": func(b *bolt.Bucket) error {
			return b.Put(binary.BigEndian.AppendUint64(nil, b.Sequence()+1), []byte("something else"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			s := open(t, path, boltstore.Config{})
			for i := range 10 {
				_, err := s.Commit(t.Context(), message(fmt.Sprint("m", i), nil, "ann"))
				require.NoError(t, err)
			}
			s.Crash()
			journalOf(t, path, func(*bolt.Bucket) error { return nil })
			closeStore(t, open(t, path, boltstore.Config{}))
			journalOf(t, path, change)
			_, err := boltstore.Open(path, boltstore.Config{})
			require.ErrorIs(t, err, boltstore.ErrCorrupt)
		})
	}
}
