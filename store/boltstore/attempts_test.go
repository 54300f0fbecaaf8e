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

// named returns a batch that is known by a name for a minute.
func named(a event.Account, n int, now time.Time, most int) store.Batch {
	return store.Batch{Account: a, Now: now, Idempotency: &store.Idempotency{
		Device: "phone", ClientID: event.ClientMessageID(fmt.Sprintf("c%06d", n*7919%100_003)), Window: time.Minute, Max: most,
	}}
}

// attempts counts an account's idempotency records in the file.
func attempts(t *testing.T, s *boltstore.Store, a event.Account) (n int) {
	require.NoError(t, s.Compact(t.Context()))
	require.NoError(t, s.Bolt().View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("account")).ForEach(func(k, _ []byte) error {
			if bytes.HasPrefix(k, []byte(a+"\x00\x00\x00\x00\x01i")) {
				n++
			}
			return nil
		})
	}))
	return n
}

// Expired idempotency records do not stay until their window is full: as new ones come, old ones go, in any order of names.
func TestExpiredAttemptsGo(t *testing.T) {
	for _, memory := range []int64{0, 64 << 10} {
		s := open(t, newPath(t), boltstore.Config{}.WithMemory(memory))
		now, most := start, 0
		for n := range 1500 {
			now = now.Add(time.Second) // so that 60 are not expired
			_, err := s.Commit(t.Context(), named("ann", n, now, 16_384))
			require.NoError(t, err)
			if n%250 == 249 {
				most = max(most, attempts(t, s, "ann"))
			}
		}
		require.Less(t, most, 60*3)
		require.GreaterOrEqual(t, attempts(t, s, "ann"), 60)
		for n := 1500 - 59; n < 1500; n++ {
			r, err := s.Commit(t.Context(), named("ann", n, now, 16_384))
			require.NoError(t, err)
			require.True(t, r.Duplicate, "%d is not expired", n)
		}
	}
}

// Removed records stay in memory until it is flushed, before all those that come if names rise. The hand gets past them a few at a time.
func TestExpiredAttemptsGo_PastManyThatAreGone(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	now := start
	for n := range 6000 {
		now = now.Add(time.Second) // so that 60 are not expired
		b := named("ann", 0, now, 16_384)
		b.Idempotency.ClientID = event.ClientMessageID(fmt.Sprintf("c%06d", n))
		_, err := s.Commit(t.Context(), b)
		require.NoError(t, err)
	}
	require.Less(t, attempts(t, s, "ann"), 60*8)
}

// A window that is full is counted once until the next one expires, and makes room by then.
func TestFullWindowOfAttempts(t *testing.T) {
	const most = 50
	s := open(t, newPath(t), boltstore.Config{})
	for n := range most {
		_, err := s.Commit(t.Context(), named("ann", n, start.Add(time.Duration(n)*time.Second), most))
		require.NoError(t, err)
	}
	full := start.Add(most * time.Second)
	for range 3 {
		_, err := s.Commit(t.Context(), named("ann", 999, full, most))
		require.ErrorIs(t, err, store.ErrWindowFull)
	}
	require.EqualValues(t, 3, s.Stats().WindowFull)
	commits := s.Stats().Commits
	_, err := s.Commit(t.Context(), named("ann", 999, full, most))
	require.ErrorIs(t, err, store.ErrWindowFull)
	require.Equal(t, commits, s.Stats().Commits, "nothing is written for a refusal")

	for i := range 10 { // the first ones expire
		now := start.Add(time.Minute + time.Duration(i)*time.Second)
		_, err := s.Commit(t.Context(), named("ann", 1000+i, now, most))
		require.NoError(t, err)
		_, err = s.Commit(t.Context(), named("ann", 2000+i, now, most))
		require.ErrorIs(t, err, store.ErrWindowFull)
		require.LessOrEqual(t, attempts(t, s, "ann"), most)
	}
	_, err = s.Commit(t.Context(), named("ann", 3000, start.Add(time.Hour), most))
	require.NoError(t, err)
	require.Equal(t, 1, attempts(t, s, "ann"), "all of them were counted, and had expired")
	// An account has its own times: another one's clock does not matter.
	_, err = s.Commit(t.Context(), named("bob", 1, start, 1))
	require.NoError(t, err)
	_, err = s.Commit(t.Context(), named("cid", 1, start.Add(1000*time.Hour), 1))
	require.NoError(t, err)
	_, err = s.Commit(t.Context(), named("bob", 2, start, 1))
	require.ErrorIs(t, err, store.ErrWindowFull)
}

// The count is kept by an operation that is refused, also where it finds some that have expired and still too many that have not:
// after a host has lowered the bound.
func TestRefusalKeepsItsCount(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	for n := range 40 {
		_, err := s.Commit(t.Context(), named("ann", n, start.Add(time.Duration(n)*time.Second), 1000))
		require.NoError(t, err)
	}
	now := start.Add(time.Minute + 5*time.Second)
	_, err := s.Commit(t.Context(), named("ann", 999, now, 10))
	require.ErrorIs(t, err, store.ErrWindowFull)
	require.Equal(t, 34, attempts(t, s, "ann"))
	commits := s.Stats().Commits
	_, err = s.Commit(t.Context(), named("ann", 999, now, 10))
	require.ErrorIs(t, err, store.ErrWindowFull)
	require.Equal(t, commits, s.Stats().Commits)
}

// A full window slides on as its records expire: it is counted again for a handful of them at a time, which costs few refusals, and
// never holds more than it may.
func TestFullWindowOfAttempts_Slides(t *testing.T) {
	const most = 1280
	s := open(t, newPath(t), boltstore.Config{})
	now := start
	accepted := 0
	for n := range 3 * most {
		if now = now.Add(time.Millisecond); n == most {
			now = start.Add(time.Minute)
		}
		switch _, err := s.Commit(t.Context(), named("ann", n, now, most)); {
		case err == nil:
			accepted++
		default:
			require.ErrorIs(t, err, store.ErrWindowFull)
		}
		if n == 2*most {
			require.LessOrEqual(t, attempts(t, s, "ann"), most)
			now = start.Add(2 * time.Minute)
		}
	}
	require.Greater(t, accepted, 3*most*99/100)
}

// BenchmarkFullWindow is a commit of an account whose window is full and slides, for two bounds.
func BenchmarkFullWindow(b *testing.B) {
	for _, most := range []int{1000, 16_384} {
		b.Run(fmt.Sprint(most), func(b *testing.B) {
			s := open(b, newPath(b), boltstore.Config{})
			now, n := start, 0
			commit := func() {
				n++
				now = now.Add(time.Millisecond)
				batch := named("ann", n, now, most)
				batch.Idempotency.Window = time.Duration(most-2) * time.Millisecond
				_, err := s.Commit(b.Context(), batch)
				if err != nil {
					require.ErrorIs(b, err, store.ErrWindowFull)
				}
			}
			for range most {
				commit()
			}
			for b.Loop() {
				commit()
			}
		})
	}
}
