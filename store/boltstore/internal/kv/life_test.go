package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/store"
)

// held is a disk on which calls of a kind do not return until they are let go.
func held(kind string) (d *fault, hold func(), release func()) {
	var gate atomic.Pointer[chan struct{}]
	d = newFault(nil)
	hold = func() {
		ch := make(chan struct{})
		gate.Store(&ch)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.before = func(is string) {
			if g := gate.Load(); is == kind && g != nil {
				<-*g
			}
		}
	}
	release = func() {
		if g := gate.Swap(nil); g != nil {
			close(*g)
		}
	}
	return d, hold, release
}

func put(ctx context.Context, db *DB, row string, size int) error {
	return db.Update(ctx, int64(size), func(w *Writer) error {
		p := Of(rows, []byte("a\x00"))
		w.Put(&p, []byte(row), bytes.Repeat([]byte("x"), size))
		return nil
	})
}

// Nothing that the disk does holds a caller beyond its context (I36).
func TestDB_NoCallWaitsLongerThanItsContext(t *testing.T) {
	for _, tt := range []struct{ name, kind string }{{"a sync of the log hangs", "sync"}, {"a commit of the flush hangs", "commit"}} {
		t.Run(tt.name, func(t *testing.T) {
			d, hold, release := held(tt.kind)
			db := open(t, tiny(filepath.Join(fast(t), "db"), d))
			require.NoError(t, put(context.Background(), db, "first", 10))
			hold()
			defer release()
			late := 0
			for _, call := range []func(ctx context.Context) error{
				func(ctx context.Context) error { return db.Checkpoint(ctx) },
				func(ctx context.Context) error { return db.Backup(ctx, func(*bolt.Tx) error { return nil }) },
				func(ctx context.Context) error { return put(ctx, db, "second", 900_000) },
				func(ctx context.Context) error { return put(ctx, db, "third", 900_000) },
				func(ctx context.Context) error { return put(ctx, db, "fourth", 900_000) },
				func(ctx context.Context) error { return put(ctx, db, "fifth", 10) },
				func(ctx context.Context) error { return db.Checkpoint(ctx) },
				func(ctx context.Context) error { return db.View(ctx, func(*Snapshot) error { return nil }) },
				func(ctx context.Context) error { db.Stats(); return nil },
				func(ctx context.Context) error { return db.Close(ctx) },
			} {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
				began := time.Now()
				if err := call(ctx); err != nil {
					late++
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				require.Less(t, time.Since(began), 3*time.Second)
				cancel()
			}
			require.Greater(t, late, 2)
			require.ErrorIs(t, put(context.Background(), db, "late", 10), store.ErrClosed)
			release()
			shut(t, db) // the second Close, which waits for the first
			require.NoError(t, db.Close(context.Background()))
			require.Zero(t, db.Stats().Waiting)
		})
	}
}

// Figures are at hand also while the disk hangs, and readers go on.
func TestDB_StatsWhileTheDiskHangs(t *testing.T) {
	d, hold, release := held("allocate")
	path := filepath.Join(fast(t), "db")
	db := open(t, tiny(path, d))
	require.NoError(t, put(context.Background(), db, "first", 10))
	hold()
	defer release()
	grows := make(chan error, 1)
	go func() {
		grows <- db.Update(context.Background(), 1, func(w *Writer) error { return w.Take(20<<20, false) })
	}()
	require.Eventually(t, func() bool {
		growing := !db.room.growing.TryLock()
		if !growing {
			db.room.growing.Unlock()
		}
		return growing
	}, 10*time.Second, time.Millisecond)
	told := make(chan Stats, 1)
	go func() {
		require.NoError(t, db.View(context.Background(), func(*Snapshot) error { return nil }))
		told <- db.Stats()
	}()
	select {
	case s := <-told:
		require.Positive(t, s.FileSize)
	case <-time.After(10 * time.Second):
		require.Fail(t, "Stats waits for the disk")
	}
	select {
	case err := <-grows:
		require.Fail(t, "the file did not have to be made longer", err)
	default:
	}
	release()
	require.NoError(t, <-grows)
	shut(t, db)
}

// A flush that cannot go on is told, and takes no more memory than two memtables and what one group adds.
func TestDB_MemoryIsBoundedWhileTheFlushFails(t *testing.T) {
	d := newFault(nil)
	db := open(t, tiny(filepath.Join(fast(t), "db"), d))
	d.set(func(kind string, _ int) (float64, error) {
		if kind == "commit" {
			return 0, syscall.ENOSPC
		}
		return 1, nil
	})
	var refused error
	n := 0
	for ; refused == nil; n++ {
		refused = put(context.Background(), db, fmt.Sprintf("%06d", n), 1000)
		require.Less(t, n, 10_000)
	}
	require.ErrorIs(t, refused, store.ErrFull)
	require.ErrorIs(t, refused, syscall.ENOSPC)
	st := db.Stats()
	require.ErrorIs(t, st.FlushError, syscall.ENOSPC)
	require.Positive(t, st.FlushFailures)
	require.Less(t, st.Memory, 3*tiny("", nil).Memory)
	require.ErrorIs(t, db.Checkpoint(context.Background()), syscall.ENOSPC)
	require.NoError(t, db.Stats().Failed)
	d.set(nil)
	require.Eventually(t, func() bool { return put(context.Background(), db, "again", 10) == nil }, 10*time.Second, 10*time.Millisecond)
	shut(t, db)
	require.NoError(t, db.Stats().Failed)
}

// A flush that fails for good while Close runs leaves what is not in the file in the log.
func TestClose_FlushFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
	}{{"disk full", syscall.ENOSPC}, {"disk broken", syscall.EIO}, {"page damaged", ErrCorrupt}} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(fast(t), "db")
			d := newFault(nil)
			db := open(t, tiny(path, d))
			require.NoError(t, put(context.Background(), db, "row", 10))
			d.set(func(kind string, _ int) (float64, error) {
				if kind == "commit" {
					return 0, tt.err
				}
				return 1, nil
			})
			require.ErrorIs(t, db.Close(context.Background()), tt.err)
			db = open(t, tiny(path, nil))
			require.NoError(t, db.View(context.Background(), func(s *Snapshot) error {
				p := Of(rows, []byte("a\x00"))
				v, err := s.Get(&p, []byte("row"))
				require.Len(t, v, 10)
				return err
			}))
			shut(t, db)
		})
	}
}

// A kill between the making of the log and the first commit of Open leaves a log that no file knows.
func TestOpen_KilledWhileTheLogIsMade(t *testing.T) {
	for n := 1; n <= 14; n++ {
		path := filepath.Join(fast(t), "db")
		newFile(t, path)
		left := n
		d := newFault(nil)
		d.set(func(string, int) (float64, error) {
			if left--; left < 0 {
				return 0, errors.New("killed")
			}
			return 1, nil
		})
		db, err := Open(tiny(path, d))
		if err == nil {
			_ = db.Close(context.Background())
		}
		db = open(t, tiny(path, nil))
		require.NoError(t, put(context.Background(), db, "row", 10))
		shut(t, db)
	}
}

func TestDB_HugeOperation(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	o := tiny(path, nil)
	o.MaxSize = 1 << 30
	db := open(t, o)
	const many, each = 100_000, 1000 // 100 MB
	err := db.Update(context.Background(), many*each, func(w *Writer) error {
		if err := w.Take(many*each, false); err != nil {
			return err
		}
		p := Of(rows, []byte("a\x00"))
		v := make([]byte, each)
		for n := range many {
			v[0] = byte(n)
			w.Put(&p, fmt.Appendf(nil, "%06d", n), v)
		}
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, put(context.Background(), db, "next", 10))
	require.NoError(t, db.Checkpoint(context.Background()))
	require.Less(t, db.Stats().Memory, 2*o.Memory)
	crash(t, path)
	shut(t, db)
	uncrash(t, path)
	db = open(t, o)
	count := 0
	require.NoError(t, db.View(context.Background(), func(s *Snapshot) error {
		p := Of(rows, []byte("a\x00"))
		return s.Scan(&p, nil, nil, func(row, v []byte) (bool, error) { count++; return true, nil })
	}))
	require.Equal(t, many+1, count)
	shut(t, db)
}

func TestDB_APanicUndoesItsOperationOnly(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	db := open(t, tiny(path, nil))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := db.Update(context.Background(), 10, func(w *Writer) error {
				p := Of(rows, []byte("a\x00"))
				w.Put(&p, fmt.Appendf(nil, "%02d", i), []byte("v"))
				if i%2 == 1 {
					panic("no")
				}
				return nil
			})
			require.Equal(t, i%2 == 1, err != nil)
		})
	}
	wg.Wait()
	has := func() (n int) {
		require.NoError(t, db.View(context.Background(), func(s *Snapshot) error {
			p := Of(rows, []byte("a\x00"))
			return s.Scan(&p, nil, nil, func(row, v []byte) (bool, error) { n++; return true, nil })
		}))
		return n
	}
	require.Equal(t, 25, has())
	require.NoError(t, db.Checkpoint(context.Background()))
	require.Equal(t, 25, has())
	shut(t, db)
	db = open(t, tiny(path, nil))
	require.Equal(t, 25, has())
	shut(t, db)
}

// Only operations that failed have been in a memtable when it is flushed; the groups go on without a gap.
func TestDB_FlushOfAMemtableWithoutAGroup(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	db := open(t, tiny(path, nil))
	require.NoError(t, put(context.Background(), db, "1", 10))
	require.NoError(t, db.Checkpoint(context.Background()))
	require.Error(t, db.Update(context.Background(), 1, func(w *Writer) error {
		p := Of(rows, []byte("a\x00"))
		w.Put(&p, []byte("2"), []byte("v"))
		return errors.New("no")
	}))
	require.NoError(t, db.Checkpoint(context.Background()))
	require.NoError(t, put(context.Background(), db, "3", 10))
	crash(t, path)
	shut(t, db)
	uncrash(t, path)
	db = open(t, tiny(path, nil))
	shut(t, db)
}

func TestDB_ScanWhileItsOperationRemovesTheRows(t *testing.T) {
	db := open(t, tiny(filepath.Join(fast(t), "db"), nil))
	for n := range 3000 {
		require.NoError(t, put(context.Background(), db, fmt.Sprintf("%06d", n), 100))
	}
	seen := 0
	require.NoError(t, db.Update(context.Background(), 1, func(w *Writer) error {
		p := Of(rows, []byte("a\x00"))
		return w.Scan(&p, nil, nil, func(row, _ []byte) (bool, error) {
			seen++
			w.Delete(&p, row)
			return true, nil
		})
	}))
	require.Equal(t, 3000, seen)
	require.NoError(t, db.View(context.Background(), func(s *Snapshot) error {
		p := Of(rows, []byte("a\x00"))
		return s.Scan(&p, nil, nil, func([]byte, []byte) (bool, error) { return false, errors.New("a row") })
	}))
	shut(t, db)
}

func TestDB_CheckpointsAtOnceBesideTraffic(t *testing.T) {
	before := runtime.NumGoroutine()
	h := newHistory(1, 3)
	path := filepath.Join(fast(t), "db")
	db := open(t, tiny(path, nil))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 20 {
				require.NoError(t, db.Checkpoint(context.Background()))
				require.NoError(t, db.Backup(context.Background(), func(*bolt.Tx) error { return nil }))
			}
		})
	}
	h.run(db, 300, always)
	wg.Wait()
	require.NoError(t, h.check(db, 0))
	shut(t, db)
	require.ErrorIs(t, db.Checkpoint(context.Background()), store.ErrClosed)
	require.ErrorIs(t, db.View(context.Background(), func(*Snapshot) error { return nil }), store.ErrClosed)
	for began := time.Now(); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		require.Less(t, time.Since(began), 5*time.Second, "a goroutine is left")
	}
}

// A payload that looks like a record of the log is none, also behind a record that a loss of power has torn.
func TestWAL_APayloadCannotForgeARecord(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	db := open(t, tiny(path, nil))
	require.NoError(t, put(context.Background(), db, "1", 10))
	m, end := db.current.Load().mem[0], db.logs[1].end
	require.EqualValues(t, 1, m.number)
	forged := make([]byte, recordHeader, 200)
	forged = append(forged, 0, 3, 4, 1, 'a', 0, '9', 1, 'x')
	binary.BigEndian.PutUint32(forged[4:], uint32(len(forged)))
	binary.BigEndian.PutUint64(forged[8:], m.number^db.logs[1].mask)
	binary.BigEndian.PutUint64(forged[16:], 7)
	binary.BigEndian.PutUint32(forged, crc32.Checksum(forged[4:], castagnoli))
	require.NoError(t, db.Update(context.Background(), 1, func(w *Writer) error {
		p := Of(rows, []byte("a\x00"))
		w.Put(&p, []byte("2"), bytes.Repeat(forged, 20))
		return nil
	}))
	behind := db.logs[1].end
	crash(t, path)
	shut(t, db)
	uncrash(t, path)
	f, err := os.OpenFile(path+walNames[1], os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{1, 2, 3, 4}, end)
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, recordHeader), behind) // the mark, which says that it was durable
	require.NoError(t, errors.Join(err, f.Close()))
	db = open(t, tiny(path, nil))
	shut(t, db)
}
