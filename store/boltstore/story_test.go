package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

// tiny has everything flushed as soon as it is written, in slices.
func tiny() boltstore.Config { return boltstore.Config{LockTimeout: -1}.WithMemory(2) }

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

// A write of the log fails, with and without having been written, at each place of a history. What was answered is there, what was not
// is there as a whole or not at all.
func TestI1_I2_I5_S69_WriteFailsAtAnyBoundary(t *testing.T) {
	const seed, writes = 11, 120
	for failAt := 1; failAt <= writes; failAt += 7 {
		for _, visible := range []bool{false, true} {
			path := newPath(t)
			cfg := []boltstore.Config{{}, tiny()}[failAt%2]
			s := open(t, path, cfg)
			n := 0
			s.SetWrite(func(write func() error) error {
				if n++; n < failAt {
					return write()
				}
				if visible {
					require.NoError(t, write())
				}
				return errDisk
			})
			y := &story{rnd: rand.New(rand.NewPCG(seed, uint64(failAt)))}
			done, last := y.tell(t, s)
			closeStore(t, s)
			s = open(t, path, cfg)
			got := picture(t, s, y.sent)
			if with := append(done[:len(done):len(done)], last); !sameAs(t, got, done, y.sent) {
				require.Equal(t, picture(t, told(t, with), y.sent), got, "write %d, visible %v", failAt, visible)
				done = with
			}
			for range 12 { // it is as good as new
				next := y.next()
				require.NoError(t, next(t.Context(), s))
				done = append(done, next)
			}
			require.NoError(t, s.Compact(t.Context()))
			require.Equal(t, picture(t, told(t, done), y.sent), picture(t, s, y.sent), "write %d, visible %v", failAt, visible)
			closeStore(t, s)
		}
	}
}

// tell has steps done until one fails, and returns those that were done and that one.
func (y *story) tell(t *testing.T, s store.Store) (done []step, last step) {
	for {
		last = y.next()
		if err := last(t.Context(), s); err != nil {
			require.ErrorIs(t, err, store.ErrFailed)
			return done, last
		}
		done = append(done, last)
	}
}

func sameAs(t *testing.T, got []any, steps []step, sent int) bool {
	return fmt.Sprint(picture(t, told(t, steps), sent)) == fmt.Sprint(got)
}

// The process ends after any slice of a flush, again and again: what is seen stays the same, and in the end all is in the file.
func TestS69_FlushesBeginAnew(t *testing.T) {
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
		for slices := 0; !finished; slices++ {
			s = open(t, path, boltstore.Config{})
			n := 0
			s.SetCommit(func(tx *bolt.Tx) error {
				if n++; n > slices {
					return errDisk
				}
				return tx.Commit()
			})
			finished = s.Compact(t.Context()) == nil
			s.Crash()
			s = open(t, path, boltstore.Config{})
			require.Equal(t, want, picture(t, s, y.sent), "round %d, after %d slices", round, slices)
			s.Crash()
		}
	}
}

// A long history, with memory of any size, and with the file opened again now and then, shows what memory shows.
func TestS69_AnyHistory(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, memory := range []int64{2, 64 << 10, 1 << 20} {
		rnd := rand.New(rand.NewPCG(seed, uint64(memory)))
		path, cfg := newPath(t), boltstore.Config{}.WithMemory(memory)
		y := &story{rnd: rnd}
		s, model := open(t, path, cfg), told(t, nil)
		for n := range 400 {
			next := y.next()
			require.NoError(t, next(t.Context(), s), "%d", n)
			require.NoError(t, next(t.Context(), model), "%d", n)
			switch rnd.IntN(40) {
			case 0:
				closeStore(t, s)
				s = open(t, path, cfg)
			case 1:
				s.Crash()
				s = open(t, path, cfg)
			case 2:
				require.NoError(t, s.Compact(t.Context()))
			case 3, 4:
				require.Equal(t, picture(t, model, y.sent), picture(t, s, y.sent), "%d", n)
			}
		}
		require.Equal(t, picture(t, model, y.sent), picture(t, s, y.sent))
	}
}
