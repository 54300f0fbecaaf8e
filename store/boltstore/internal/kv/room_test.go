package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/store"
)

// append writes a message of a size as boltstore does: a head, an entry, the message.
func appendMessage(db *DB, account string, n, size int, spare bool) error {
	return db.Update(context.Background(), int64(size), func(w *Writer) error {
		if err := w.Take(int64(size)+200, spare); err != nil {
			return err
		}
		h, e, m := Of(heads, []byte(account+"\x00")), Of(rows, []byte(account+"\x00")), messagePart(n)
		key := binary.BigEndian.AppendUint64(nil, uint64(n))
		w.Put(&h, nil, bytes.Repeat(key, 4))
		w.Put(&e, append([]byte("e"), key...), bytes.Repeat(key, 6))
		v := bytes.Repeat(fmt.Appendf(nil, "%d,", n), size/2+1)[:size]
		if size <= 980 {
			w.Put(&m, []byte("m"), v)
		} else {
			w.Put(&m, []byte("m"), key)
			w.Put(&m, []byte("p"), v)
		}
		return nil
	})
}

func messagePart(n int) Part {
	return Of(bodies, binary.BigEndian.AppendUint64([]byte{1, 1, 2, 3, 4}, uint64(n)))
}

// trimMessages removes messages from one to below another, in slices.
func trimMessages(db *DB, account string, from, to int) error {
	for from < to {
		end := min(from+500, to)
		if err := db.Update(context.Background(), 100, func(w *Writer) error {
			e := Of(rows, []byte(account+"\x00"))
			for n := from; n < end; n++ {
				m := messagePart(n)
				w.Delete(&e, append([]byte("e"), binary.BigEndian.AppendUint64(nil, uint64(n))...))
				w.Delete(&m, []byte("m"))
				if v, err := w.Get(&m, []byte("p")); err != nil {
					return err
				} else if v != nil {
					w.Delete(&m, []byte("p"))
				}
			}
			h := Of(heads, []byte(account+"\x00"))
			w.Put(&h, nil, binary.BigEndian.AppendUint64([]byte("trim"), uint64(end)))
			return nil
		}); err != nil {
			return err
		}
		from = end
	}
	return nil
}

func cursor(db *DB, n int) error {
	return db.Update(context.Background(), 50, func(w *Writer) error {
		p := Of(rows, fmt.Appendf(nil, "device%05d\x00", n%3000))
		w.Put(&p, []byte("c"), fmt.Appendf(nil, "cursor %d", n))
		return nil
	})
}

// mounted is a small file system in memory; what fills it is another program's.
func mounted(t *testing.T, megabytes int) string {
	dir := t.TempDir()
	if err := mountMemory(dir, megabytes); err != nil {
		t.Skipf("needs to mount a file system in memory: %v", err)
	}
	t.Cleanup(func() { _ = unmount(dir) })
	return dir
}

// stuff has another program's file take all that is free but a number of bytes.
func stuff(t *testing.T, dir string, leave int64) {
	f, err := os.OpenFile(filepath.Join(dir, "other"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer f.Close()
	for {
		free, _ := statFree(dir)
		if free <= leave {
			return
		}
		n, err := f.Write(make([]byte, min(1<<20, free-leave)))
		if err != nil || n == 0 {
			return
		}
	}
}

func unstuff(t *testing.T, dir string) {
	require.NoError(t, os.Remove(filepath.Join(dir, "other")))
}

// fill appends until there is no room, and returns the number after the last.
func fill(t *testing.T, db *DB, from int, size func(n int) int) int {
	for n := from; ; n++ {
		if err := appendMessage(db, "ann", n, size(n), false); err != nil {
			require.ErrorIs(t, err, store.ErrFull)
			require.NoError(t, db.Stats().Failed)
			if db.Stats().Flushing { // on a slow machine: what it frees counts once it is done
				require.NoError(t, db.Checkpoint(context.Background()))
				if appendMessage(db, "ann", n, size(n), false) == nil {
					continue
				}
			}
			return n
		}
		require.Less(t, n-from, 1_000_000)
	}
}

func size(n int) func(int) int { return func(int) int { return n } }

func TestRoom_AnotherProgramFillsTheDisk(t *testing.T) {
	dir := mounted(t, 48)
	path := filepath.Join(dir, "db")
	o := options(path)
	o.Memory, o.MaxSize = 1<<20, -1
	db := open(t, o)
	ctx := context.Background()
	for n := range 2000 {
		require.NoError(t, appendMessage(db, "ann", n, 500, false))
	}
	stuff(t, dir, 0)
	next := fill(t, db, 2000, size(500))
	t.Logf("%d appends on the full disk", next-2000)

	// All but appends goes on, over many flushes.
	flushes, refused := db.Stats().Flushes, 0
	for n := range 20_000 {
		require.NoError(t, cursor(db, n))
		if n%50 == 0 {
			require.NoError(t, appendMessage(db, "ann", 1_000_000+n, 500, true), "%d, with spare", n)
			if err := appendMessage(db, "ann", next, 5000, false); err != nil { // a flush may show some room
				require.ErrorIs(t, err, store.ErrFull)
				refused++
			}
		}
	}
	require.Greater(t, db.Stats().Flushes, flushes+1)
	require.NoError(t, db.Checkpoint(ctx))
	require.Greater(t, refused, 300)

	// What is removed makes room, though the disk has none.
	require.NoError(t, trimMessages(db, "ann", 0, next))
	again := fill(t, db, next, size(500))
	t.Logf("%d appends after a trim", again-next)
	require.Greater(t, again-next, (next*7)/10) // the cursors and what was sent with spare have stayed

	// So does the other program.
	unstuff(t, dir)
	time.Sleep(2 * roomPause)
	for n := range 2000 {
		require.NoError(t, appendMessage(db, "ann", again+n, 500, false))
	}
	require.NoError(t, db.Stats().Failed)
	require.Nil(t, db.Stats().FlushError)

	// Close on the full disk, and open again with and without room for a log.
	stuff(t, dir, 0)
	fill(t, db, again+2000, size(500))
	shut(t, db)
	stuff(t, dir, 0)
	_, err := Open(o)
	require.ErrorIs(t, err, store.ErrFull)
	require.NoFileExists(t, path+"-wal")
	stuff(t, dir, 0)
	unstuff(t, dir)
	stuff(t, dir, 600<<10)
	db = open(t, o)
	stuff(t, dir, 0)
	require.ErrorIs(t, appendMessage(db, "ann", again+9000, 50_000, false), store.ErrFull)
	require.NoError(t, trimMessages(db, "ann", next, again+2000))
	fill(t, db, again+10_000, size(500))
	shut(t, db)
}

func TestRoom_OpensOnAFullDiskAfterACrash(t *testing.T) {
	dir := mounted(t, 48)
	path := filepath.Join(dir, "db")
	o := options(path)
	o.Memory, o.MaxSize = 1<<20, -1
	db := open(t, o)
	for n := range 2000 {
		require.NoError(t, appendMessage(db, "ann", n, 500, false))
	}
	stuff(t, dir, 0)
	next := fill(t, db, 2000, size(500))
	unstuff(t, dir)
	o.Path = path + "2"
	copyFiles(t, path, o.Path)
	stuff(t, dir, 0)
	again := open(t, o)
	require.NoError(t, trimMessages(again, "ann", 0, next))
	require.Greater(t, fill(t, again, next, size(500))-next, next*8/10)
	shut(t, again)
	unstuff(t, dir)
	shut(t, db)
}

func TestRoom_AnEmptiedFileTakesWhatItTookAtFirst(t *testing.T) {
	for _, tt := range []struct {
		name string
		max  int64
		size func(n int) int
	}{
		{"100 B", 8 << 20, size(100)},
		{"5 KB", 8 << 20, size(5000)},
		{"mixed to 200 KB", 16 << 20, func(n int) int { return []int{100, 700, 5000, 30_000, 200_000}[n%5] }},
		{"1 MiB", 32 << 20, size(1 << 20)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(fast(t), "db")
			o := options(path)
			o.Memory, o.MaxSize, o.Reserve = 2<<20, tt.max, tt.max/8
			db := open(t, o)
			first, next := 0, 0
			for round := range 4 {
				from := next
				next = fill(t, db, from, tt.size)
				if round == 0 {
					first = next
				}
				st, err := os.Stat(path)
				require.NoError(t, err)
				require.LessOrEqual(t, st.Size(), tt.max)
				bytes := 0
				for n := from; n < next; n++ {
					bytes += tt.size(n)
				}
				t.Logf("round %d: %d appends, %.0f %% of the first, payloads %.0f %% of MaxSize", round, next-from, 100*float64(next-from)/float64(first), 100*float64(bytes)/float64(tt.max))
				require.GreaterOrEqual(t, next-from, first*9/10)
				require.NoError(t, trimMessages(db, "ann", from, next))
				if round == 2 {
					shut(t, db)
					db = open(t, o)
				}
			}
			shut(t, db)
		})
	}
}

func TestRoom_CursorsStayWithinMaxSize(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	o := options(path)
	o.Memory, o.MaxSize, o.Reserve = 1<<20, 8<<20, 2<<20
	db := open(t, o)
	fill(t, db, 0, size(500))
	refused := 0
	for n := range 40_000 {
		err := db.Update(context.Background(), 50, func(w *Writer) error {
			p := Of(rows, fmt.Appendf(nil, "new-device%05d\x00", n))
			w.Put(&p, []byte("c"), bytes.Repeat([]byte{byte(n)}, 60))
			return nil
		})
		if err != nil {
			require.ErrorIs(t, err, store.ErrFull)
			refused++
		}
	}
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.LessOrEqual(t, st.Size(), o.MaxSize)
	require.NoError(t, db.Checkpoint(context.Background()))
	t.Logf("%d of 40000 new cursors refused", refused)
	require.NoError(t, trimMessages(db, "ann", 0, 500))
	shut(t, db)
}

func TestRoom_OfAFreshFile(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	o := options(path)
	o.Memory, o.MaxSize, o.Reserve = 64<<20, 64<<30, 16<<20
	db := open(t, o)
	require.NoError(t, appendMessage(db, "ann", 1, 500, false))
	total := int64(0)
	for _, name := range []string{"", walNames[0], walNames[1]} {
		st, err := os.Stat(path + name)
		require.NoError(t, err)
		t.Logf("db%s: %d KiB", name, st.Size()>>10)
		total += st.Size()
	}
	require.Less(t, total, int64(32<<20))
	shut(t, db)
}

// What a transaction needs beyond the blocks of the file it is refused before it has written anything.
func TestRoom_BboltStaysWithinTheBlocks(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	db := open(t, tiny(path, nil))
	before, err := os.Stat(path)
	require.NoError(t, err)
	err = db.transact(func(tx *bolt.Tx) error {
		for n := range 10_000 {
			if err := tx.Bucket([]byte("account")).Put(fmt.Appendf(nil, "%06d", n), make([]byte, 900)); err != nil {
				return err
			}
		}
		return nil
	})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.True(t, retryable(err))
	after, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, before.Size(), after.Size())
	require.NoError(t, appendMessage(db, "ann", 1, 500, false))
	shut(t, db)
}

// A list of more than a few free pages needs pages next to each other. The file has reached its bound, and what is free are two pages here
// and there. How far the end of the file is used differs from run to run.
func TestRoom_TheListOfFreePagesCanBeLeftOut(t *testing.T) {
	for range 3 {
		fragmented(t)
	}
}

func fragmented(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	o := options(path)
	o.Memory, o.MaxSize, o.Reserve = 4<<20, 32<<20, 4<<20
	db := open(t, o)
	ctx := context.Background()
	row := func(n int) Part { return Of(bodies, binary.BigEndian.AppendUint64([]byte{9}, uint64(n))) }
	put := func(n int, spare bool) error {
		return db.Update(ctx, 2030, func(w *Writer) error {
			p := row(n)
			if err := w.Take(2230, spare); err != nil {
				return err
			}
			w.Put(&p, []byte("m"), bytes.Repeat([]byte{byte(n)}, 2030)) // two of them take two pages
			return nil
		})
	}
	remove := func(list ...int) error {
		return db.Update(ctx, 100, func(w *Writer) error {
			for _, n := range list {
				p := row(n)
				w.Delete(&p, []byte("m"))
			}
			return nil
		})
	}
	rows := 0
	for refused := 0; refused < 40; {
		if put(rows, refused >= 20) == nil {
			rows++
			continue
		}
		refused++
		require.NoError(t, db.Checkpoint(ctx))
	}
	// As long as a reader sees them, pages cannot be used again. So all of the file comes in use.
	hold, held := make(chan struct{}), make(chan struct{})
	go func() { _ = db.View(ctx, func(*Snapshot) error { close(held); <-hold; return nil }) }()
	<-held
	for n := 0; n < rows; n += 8 {
		_ = remove(n) // in the end there is no room for that
	}
	require.Error(t, db.Checkpoint(ctx))
	close(hold)
	works := func() bool { return db.Stats().FlushError == nil }
	require.Eventually(t, works, 20*time.Second, 10*time.Millisecond)
	for n := 0; n+1 < rows; n += 4 {
		require.NoError(t, remove(n, n+1))
	}
	require.NoError(t, db.Checkpoint(ctx))
	db.Crash()
	db = open(t, o)
	for n := range rows {
		require.NoError(t, remove(n))
	}
	shut(t, db)
}
