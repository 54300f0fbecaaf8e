package boltstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// A sweep ends in the group that wants another one, whose mark stays: an account was deleted after the merge had passed it.
func TestD8_SweepThatIsWantedAgainStays(t *testing.T) {
	s := openInternal(t)
	marked := func() (marked bool) {
		require.NoError(t, s.db.View(func(tx *bolt.Tx) error {
			marked = tx.Bucket([]byte(bucketMeta)).Get([]byte(metaSweep)) != nil
			return nil
		}))
		return marked
	}
	group := func(after time.Time, want bool) {
		require.NoError(t, s.submit(t.Context(), 0, func(w *writer) error {
			s.sweepAfter = after
			if want {
				a, err := w.account("ann")
				if err != nil {
					return err
				}
				w.touch(a)
				w.wantSweep()
			}
			w.idle = !time.Now().Before(after)
			return w.err
		}))
	}
	for _, want := range []bool{false, true} {
		for range 2 { // runs
			sendInternal(t, s, time.Now().String())
			require.NoError(t, s.Compact(t.Context()))
		}
		group(time.Now().Add(time.Hour), true) // so that nobody begins it yet
		require.NoError(t, s.Compact(t.Context()))
		group(time.Time{}, want) // does all of it: there are few rows
		require.Equal(t, 1, s.Runs())
		require.Equal(t, want, marked())
	}
}
