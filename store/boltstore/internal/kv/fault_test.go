package kv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store"
)

// faultCase is a kind of call to the disk that fails, how, and whether the DB may go on.
type faultCase struct {
	kind string
	err  error
	part float64 // of the call that is done nevertheless
	runs bool    // the DB goes on
	last int     // call of the kind that fails at the latest
	step int     // from one run to the next
}

var faultCases = []faultCase{
	{"write", syscall.EIO, 0, false, 120, 9},
	{"write", syscall.EIO, 0.5, false, 120, 9},
	{"write", syscall.ENOSPC, 0, true, 120, 5},
	{"write", syscall.ENOSPC, 0.5, true, 120, 5},
	{"write", syscall.EDQUOT, 0.9, true, 120, 5},
	{"sync", syscall.EIO, 0, false, 120, 9},
	{"sync", syscall.EIO, 1, false, 120, 9},
	{"sync", syscall.ENOSPC, 0, false, 120, 9},
	{"allocate", syscall.ENOSPC, 0, true, 9, 1},
	{"allocate", syscall.EDQUOT, 0, true, 9, 1},
	{"allocate", syscall.EIO, 0, true, 9, 1}, // nothing is lost by it
	{"zeros", syscall.ENOSPC, 0.3, true, 4, 1},
	{"zeros", syscall.EIO, 0.3, true, 4, 1},
	{"commit", syscall.ENOSPC, 0, true, 12, 1},
	{"commit", syscall.EDQUOT, 0, true, 12, 1},
	{"commit", syscall.ENOSPC, 1, false, 12, 1},
	{"commit", syscall.EIO, 0, true, 12, 1},
	{"commit", syscall.EIO, 1, false, 12, 1},
	{"commit", fmt.Errorf("%w: a page", ErrCorrupt), 0, true, 12, 1},
}

func (c faultCase) String() string { return fmt.Sprintf("%s %.0f%% %v", c.kind, 100*c.part, c.err) }

func TestFaults_AtEveryCall(t *testing.T) {
	seed, _ := seeded(t)
	for _, c := range faultCases {
		t.Run(c.String(), func(t *testing.T) {
			var told [3]int
			failed, runs := 0, 0
			for k := 1; k <= c.last; k += rounds(max(c.last/4, 1), c.step) {
				for _, streak := range []int{1, 6} {
					n, bad := faultRun(t, seed, c, k, streak)
					for i := range told {
						told[i] += n[i]
					}
					runs++
					if bad {
						failed++
					}
				}
			}
			t.Logf("%d runs, %d failed the DB; operations: %d acknowledged, %d refused, %d unknown", runs, failed, told[acked], told[refused], told[unknown])
			if c.runs {
				require.Zero(t, failed)
			} else {
				require.Positive(t, failed)
			}
		})
	}
}

// faultRun has the calls from the k-th on fail, a number of them, and reports what was told and whether the DB has failed.
func faultRun(t *testing.T, seed uint64, c faultCase, k, streak int) ([3]int, bool) {
	path := filepath.Join(fast(t), "db")
	newFile(t, path)
	d := newFault(func(kind string, n int) (float64, error) {
		if kind == c.kind && n >= k && n < k+streak {
			return c.part, c.err
		}
		return 1, nil
	})
	p := newTape(t, d, path)
	h := newHistory(seed+uint64(k), 3)
	h.now = p.now
	name := fmt.Sprintf("%v, call %d, %d times", c, k, streak)
	db, err := Open(tiny(path, p))
	if err != nil { // the fault was in Open: it may be tried again
		require.False(t, errors.Is(err, ErrNoLog) || errors.Is(err, ErrOtherLog), "%s: %v", name, err)
		if full(c.err) && c.runs {
			require.ErrorIs(t, err, store.ErrFull, name)
		}
		d.set(nil)
		db = open(t, tiny(path, p))
	}
	stop := func(err error) bool { return !errors.Is(err, store.ErrFull) }
	h.run(db, 70, stop)
	d.set(nil)
	time.Sleep(2 * roomPause)
	_ = db.Checkpoint(context.Background()) // so that a flush that fails has done so
	bad := db.Stats().Failed != nil
	if !bad { // it goes on by itself
		require.NoError(t, h.check(db, p.now()), name)
		h.run(db, 5, func(err error) bool { require.NoError(t, err, name); return true })
		require.NoError(t, h.check(db, p.now()), name)
	}
	copied := filepath.Join(filepath.Dir(path), "copy")
	copyFiles(t, path, copied)
	if err := db.Close(context.Background()); !bad {
		require.NoError(t, err, name)
	}
	for _, from := range []string{path, copied} { // closed as far as that goes, and killed before
		again, err := Open(tiny(from, nil))
		require.NoError(t, err, name)
		require.NoError(t, h.check(again, p.now()), name)
		require.NoError(t, h.do(context.Background(), again, 0), name)
		h.writers[0].ops = h.writers[0].ops[:len(h.writers[0].ops)-1]
		shut(t, again)
	}
	return h.outcomes(), bad
}

func copyFiles(t *testing.T, from, to string) {
	for _, name := range append([]string{""}, walNames[:]...) {
		require.NoError(t, os.RemoveAll(to+name))
		b, err := os.ReadFile(from + name)
		if err == nil {
			require.NoError(t, os.WriteFile(to+name, b, 0o600))
		}
	}
}

// After a sync that failed, what was written can be read and may not be on the disk. Then it is opened, written to, and power is lost.
func TestFaults_SyncFailsThenReopenThenLossOfPower(t *testing.T) {
	seed, rnd := seeded(t)
	images := 0
	for _, kind := range []string{"sync", "commit"} {
		for k := 3; k < 40; k += rounds(9, 4) {
			n := k
			if kind == "commit" {
				n = k/4 + 1
			}
			images += powerAfterFault(t, seed, rnd, kind, n)
		}
	}
	t.Logf("%d images", images)
	require.Greater(t, images, 100)
}

func powerAfterFault(t *testing.T, seed uint64, rnd *rand.Rand, kind string, k int) int {
	path := filepath.Join(fast(t), "db")
	newFile(t, path)
	d := newFault(func(is string, n int) (float64, error) {
		if is == kind && n == k {
			return 1, errIO
		}
		return 1, nil
	})
	p := newTape(t, d, path)
	h := newHistory(seed+uint64(k), 2)
	h.now = p.now
	for range 2 {
		db, err := Open(tiny(path, p))
		if err != nil {
			continue
		}
		h.run(db, 60, always)
		_ = db.Close(context.Background()) // it has failed, or closes
	}
	o := tiny(filepath.Join(fast(t), "image"), nil)
	n, err := imagesOf(t, h, p, rnd, map[string]float64{"sync": 0.05, "commit": 0.2}[kind], o, nil)
	require.NoError(t, err, "%s %d", kind, k)
	return n
}
