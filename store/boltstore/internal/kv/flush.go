package kv

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/manydevice/manydevice/internal/trace"
)

// The flush writes a frozen memtable to the file, in slices, each of them a transaction of bbolt.
//
//  1. A memtable is frozen when all its groups are durable or undone. The newest version of each row is written.
//  2. A slice is one transaction. If it finds no room or a page that makes no sense, it has changed nothing and is tried again,
//     after a pause unless fewer rows may fit. Any other error fails the DB: after a failed write or sync nothing is known of
//     what the disk has.
//  3. Commits go on meanwhile, into the next memtable. If that fills faster than this one is flushed, they are slowed down, so
//     that they seldom wait for all of the rest. Groups are refused only if the flush has failed and memory is taken twice over.
const (
	minSlice   = 1       // rows
	maxSlice   = 4096    // rows
	sliceBytes = 2 << 20 // of keys and values
	minBytes   = 64 << 10

	retryFirst = 50 * time.Millisecond
	retryLast  = 5 * time.Second

	triesClosing = 3 // after Close

	// How full the active memtable may be when the flush of the frozen one begins, and when it ends, before commits are slowed down.
	paceFrom = 0.05
	paceTo   = 0.95
	paceMost = 30 * time.Millisecond // for one group

	// How long a group waits at most for a flush because room is short.
	shortMost = 2 * time.Second
)

// flushing is how far the flush of a memtable has come.
type flushing struct {
	db    *DB
	m     *memtable
	table Table
	parts []uint32 // of the table, that are left
	row   uint32   // of the first of them, that is next; 0: its first
	rows  int64    // that were looked at
	done  bool
	most  int // rows of a slice: fewer after one that did not fit
	tried int // rows that the last slice might have
}

// flushAll is the flusher: it flushes memtables as they are frozen.
func (db *DB) flushAll() {
	defer db.flusher.Done()
	for m := range db.flushes {
		db.flush(m)
	}
}

func (db *DB) flush(m *memtable) {
	f := &flushing{db: db, m: m, parts: m.inOrder(0), most: maxSlice}
	began := time.Now()
	db.flushBegan.Store(began.UnixNano())
	tries := 0 // after Close
	for wait := retryFirst; !f.done; {
		err := f.slice()
		if err != nil && !retryable(err) {
			db.fail(fmt.Errorf("flush: %w", err)) // before flushSays wakes Close
		}
		if !full(err) || f.most == 1 {
			db.flushSays(err)
		}
		if err == nil {
			wait, f.most = retryFirst, min(2*f.most, maxSlice)
			continue
		}
		if full(err) && f.most > 1 {
			f.most = max(min(f.most, f.tried)/4, 1) // at once: it has written nothing
			continue
		}
		if !retryable(err) {
			return
		}
		db.stats.flushFailures.Add(1)
		db.o.Logger.Error("boltstore: flush failed, will be tried again", trace.Err(err))
		if tries == triesClosing {
			db.mu.Lock()
			db.gaveUp = true
			db.mu.Unlock()
			db.flushSays(err)
			return
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, retryLast)
		case <-db.life.Done():
			tries++
			time.Sleep(retryFirst)
		}
	}
	db.lastFlush.Store(int64(time.Since(began)))
	db.stats.flush(time.Since(began))
}

// flushSays notes how the last slice went, and wakes callers that wait for the flush.
func (db *DB) flushSays(err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.flushErr = err
	if err != nil || db.current.Load().mem[1] == nil {
		close(db.flushed)
		db.flushed = make(chan struct{})
	}
}

// retryable reports whether a slice that failed has left bbolt as it was.
func retryable(err error) bool {
	return !errors.Is(err, errHalf)
}

// errHalf: a transaction has failed after it has written what makes it count.
var errHalf = errors.New("boltstore: it is not known whether a transaction is durable")

// transact runs and commits a transaction of bbolt. The list of free pages, if it is to be written, needs pages next to each other.
// Where they are missing, f is called again, and the list is left out.
func (db *DB) transact(f func(*bolt.Tx) error) error {
	db.unlisted = false
	err := db.try(f)
	if full(err) && retryable(err) && !db.bolt.NoFreelistSync {
		db.unlisted = true
		err = db.try(f)
	}
	return err
}

// try is transact without the second try.
func (db *DB) try(f func(*bolt.Tx) error) error {
	var tx *bolt.Tx
	id := 0
	err := guard(func() (err error) {
		if tx, err = db.bolt.Begin(true); err != nil {
			return err
		}
		id = tx.ID()
		db.bolt.MaxSize = db.room.bound()
		return f(tx)
	})
	if err != nil {
		if tx != nil {
			_ = guard(tx.Rollback)
		}
		return err
	}
	if int64(db.bolt.MaxSize) > db.mapped {
		db.hideFile()
	}
	if err = guard(func() error { return db.disk.commit(tx) }); err == nil {
		return nil
	}
	_ = guard(tx.Rollback) // unless it is over
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		err = fmt.Errorf("%w: %w", syscall.ENOSPC, err)
	}
	var now int
	if lost := guard(func() error {
		return db.bolt.View(func(tx *bolt.Tx) error { now = tx.ID(); return nil })
	}); lost != nil || now >= id {
		return errors.Join(errHalf, err, lost)
	}
	return err
}

// slice writes the next rows, or leaves f where it was.
func (f *flushing) slice() error {
	db := f.db
	rows, size := db.sliceSize(f.m.rows - int(f.rows))
	f.tried = min(rows, f.most)
	before := *f
	err := db.transact(func(tx *bolt.Tx) error {
		*f = before
		s := sliceWriter{db: db, tx: tx, longs: tx.Bucket([]byte(bucketLong))}
		s.longs.FillPercent = 1 // chunks of a value follow each other
		if err := f.write(&s, f.tried, size); err != nil {
			return err
		}
		db.listFree(f.done)
		if f.done {
			return putState(tx, state{id: db.id, open: true, number: f.m.number, group: f.m.newest})
		}
		return nil
	})
	if err == nil {
		db.progress.Store(f.rows)
		left := max(0, f.m.grows-f.m.grows*f.rows/int64(max(f.m.rows, 1)))
		if f.done {
			left = 0
		}
		err = db.show(f.done, left)
	}
	if err != nil {
		*f = before
	}
	return err
}

// show makes what a slice wrote visible to readers, so that the pages that it replaced become free.
func (db *DB) show(done bool, left int64) error {
	db.replacing.Lock()
	defer db.replacing.Unlock()
	file, err := db.openFileView()
	if err != nil {
		return err
	}
	defer file.release()
	v := db.current.Load()
	frozen := v.mem[1]
	if done {
		frozen = nil
	}
	db.install(v.mem[0], frozen, file)
	db.measure(file.tx.Size(), left)
	return nil
}

// write puts rows of the memtable into the transaction.
func (f *flushing) write(s *sliceWriter, rows, size int) error {
	bytes := 0
	for rows > 0 && bytes < size {
		if len(f.parts) == 0 {
			if f.table++; int(f.table) == len(f.db.o.Tables) {
				f.done = true
				return nil
			}
			f.parts = f.m.inOrder(f.table)
			continue
		}
		part := f.parts[0]
		s.begin(f.table, f.m.prefix(part)[1:])
		if f.row == 0 {
			f.row = f.m.load(f.m.load(part+partTower) + 1)
		}
		for f.row != 0 && rows > 0 && bytes < size {
			key := s.key(f.m.key(f.row))
			v, gone, found := f.m.fileRow(f.row, f.m.newest, f.table, key)
			if found {
				rows--
				bytes += len(key) + len(v)
				if err := s.put(key, v, gone); err != nil {
					return err
				}
			}
			f.rows++
			f.row = f.m.after(f.row)
		}
		if f.row == 0 {
			f.parts = f.parts[1:]
		}
	}
	return nil
}

// sliceWriter writes rows to the file.
type sliceWriter struct {
	db     *DB
	tx     *bolt.Tx
	bucket *bolt.Bucket
	longs  *bolt.Bucket
	table  Table
	full   []byte // key
	prefix int
	long   bool // some rows of the part may have long values in the file
}

// begin goes on with another part.
func (s *sliceWriter) begin(t Table, prefix []byte) {
	if s.bucket == nil || s.table != t {
		s.bucket = s.tx.Bucket([]byte(s.db.o.Tables[t].Name))
		s.bucket.FillPercent = s.db.o.Tables[t].Fill
		s.table = t
	}
	s.full, s.prefix = append(s.full[:0], prefix...), len(prefix)
	s.long = hasLong(s.longs, t, prefix)
}

func (s *sliceWriter) key(row []byte) []byte {
	s.full = append(s.full[:s.prefix], row...)
	return s.full
}

func (s *sliceWriter) put(key, v []byte, gone bool) error {
	if s.long {
		if old := s.bucket.Get(key); len(old) >= rowHeader && old[4] == kindLong {
			if err := dropLong(s.longs, s.table, key); err != nil {
				return err
			}
		}
	}
	switch {
	case gone:
		return s.bucket.Delete(key)
	case len(v)-rowHeader <= longValue:
		return s.bucket.Put(key, v)
	}
	about, err := putLong(s.longs, s.table, key, v[rowHeader:])
	if err != nil {
		return err
	}
	return s.bucket.Put(key, appendRow(nil, s.table, key, kindLong, about))
}
