package pebble_test

import (
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/pebble"
	"github.com/manydevice/manydevice/bench/internal/rows"
)

// What a send does is tested in package rows, on all references.

var senders = []struct {
	name string
	over func(*pebble.DB) rows.Sender
}{
	{"a batch per send", func(db *pebble.DB) rows.Sender { return pebble.NewBatches(db) }},
	{"one committer", func(db *pebble.DB) rows.Sender { return pebble.NewCommitter(db) }},
}

func scene(t *testing.T) *lab.Scene {
	r, err := lab.NewRunner(lab.Smoke(), t.TempDir())
	require.NoError(t, err)
	s := r.Scene(t.Context())
	t.Cleanup(func() { require.NoError(t, errors.Join(s.Close(), r.Close())) })
	return s
}

// send sends messages of one account, several at once, and calls answered after each.
func send(t *testing.T, s rows.Sender, from string, n int, answered func(i int)) {
	var wg sync.WaitGroup
	const atOnce = 8
	for w := range atOnce {
		wg.Go(func() {
			for i := w; i < n; i += atOnce {
				if _, err := s.Send(rows.New(from, "ben", "c", strconv.Itoa(i), make([]byte, 512), uint64(i+1))); err != nil {
					t.Error(err)
				}
				answered(i)
			}
		})
	}
	wg.Wait()
}

// TestSend_IsDurable cuts the power right after answers: what is not synced by then is lost.
func TestSend_IsDurable(t *testing.T) {
	for _, v := range senders {
		t.Run(v.name, func(t *testing.T) {
			const dir, n = "db", 40
			fs := vfs.NewCrashableMem()
			db, err := pebble.Open(scene(t), pebble.Options{Memory: 1 << 20, FS: fs, Dir: dir})
			require.NoError(t, err)
			after := make([]vfs.FS, n)
			s := v.over(db)
			send(t, s, "ann", n, func(i int) { after[i] = fs.CrashClone(vfs.CrashCloneCfg{}) })
			for i, image := range after {
				db, err := pebble.Open(scene(t), pebble.Options{Memory: 1 << 20, FS: image, Dir: dir})
				require.NoError(t, err)
				res, err := v.over(db).Send(rows.New("ann", "ben", "c", strconv.Itoa(i), make([]byte, 512), n+1))
				require.NoError(t, err)
				require.True(t, res.Duplicate, "message %d was answered and is not there", i)
			}
		})
	}
}

func TestPay(t *testing.T) {
	for _, v := range senders {
		t.Run(v.name, func(t *testing.T) {
			db, err := pebble.Open(scene(t), pebble.Options{Memory: 1 << 20})
			require.NoError(t, err)
			s := v.over(db)
			send(t, s, "ann", 2000, func(int) {})
			require.Positive(t, db.Flushes(), "memtables are small")
			require.NoError(t, db.Pay())
			flushes := db.Flushes()
			require.NoError(t, db.Rest())
			require.Equal(t, flushes, db.Flushes(), "nothing is left")
			h, err := s.Head("ben")
			require.NoError(t, err)
			require.Equal(t, rows.Head{Seq: 2000, Entries: 2000, Bytes: 2000 * 512}, h)
		})
	}
}
