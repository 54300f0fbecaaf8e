package kv

import (
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The flush writes a frozen memtable to the file, in slices, each of them a transaction of bbolt.
//
//  1. A memtable is frozen when all its groups are durable or undone. The newest version of each row is written.
//  2. A slice is done as a whole or not at all, and may be tried again: for want of room, or because a page cannot be read. It
//     never fails a group. Only when bbolt does not know what it has written does the DB fail.
//  3. Commits go on meanwhile, into the next memtable. As that fills faster than this one is flushed, they are slowed down, so
//     that none has to wait for the whole rest.
const (
	minSlice   = 16      // rows
	maxSlice   = 4096    // rows
	sliceBytes = 2 << 20 // of keys and values

	retryFirst = 50 * time.Millisecond
	retryLast  = 5 * time.Second

	// The active memtable may be so full when the flush of the frozen one begins, and when it is done.
	paceFrom = 0.05
	paceTo   = 0.95
	paceMost = 30 * time.Millisecond
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
}

// makeWay waits while memory is full, begins a new memtable if the active one is, and slows commits down. It holds running.
func (db *DB) makeWay() {
	v := db.current.Load()
	if v == nil || db.life.Err() != nil {
		return
	}
	active, frozen := v.tables[0], v.tables[1]
	if active.full() && frozen != nil {
		began := time.Now()
		db.awaitFlush(active)
		db.stats.stalled(time.Since(began))
		if v = db.current.Load(); v == nil {
			return
		}
		frozen = v.tables[1]
	}
	switch {
	case frozen == nil && (active.full() || !active.empty() && db.room.pressed()):
		db.rotate()
	case frozen != nil:
		if d := db.behind(active, frozen); d > 0 {
			db.stats.stalled(d)
			time.Sleep(d)
		}
	}
}

// behind returns for how long the flush would have to go on alone to be as far as the active memtable allows.
func (db *DB) behind(active, frozen *memtable) time.Duration {
	fill := float64(active.size) / float64(active.limit)
	done := float64(db.progress.Load()) / float64(max(frozen.rows, 1))
	ahead := fill - paceFrom - (paceTo-paceFrom)*done
	if ahead <= 0 {
		return 0
	}
	whole := time.Duration(db.lastFlush.Load())
	if began := db.flushBegan.Load(); done > 0.05 && began != 0 {
		whole = max(whole, time.Duration(float64(time.Now().UnixNano()-began)/done))
	}
	return min(time.Duration(ahead/(paceTo-paceFrom)*float64(whole)), paceMost)
}

// awaitFlush waits until the frozen memtable is flushed, or has failed to be and the active one may still grow.
func (db *DB) awaitFlush(active *memtable) {
	for {
		db.mu.Lock()
		ch, bad := db.flushed, db.flushErr != nil
		db.mu.Unlock()
		if bad || db.current.Load().tables[1] == nil {
			return
		}
		select {
		case <-ch:
		case <-db.life.Done():
			return
		}
	}
}

// rotate freezes the active memtable, once all its groups are durable or undone, and begins another one. It holds running, and
// no memtable is frozen.
func (db *DB) rotate() {
	db.writing.Lock()
	if lost := db.lost.Swap(nil); lost != nil {
		db.undoGroup(lost)
	}
	db.writing.Unlock()
	db.versions.Lock()
	defer db.versions.Unlock()
	v := db.current.Load()
	old := v.tables[0]
	next := db.memtable(old.number+1, old.parts)
	next.newest = old.newest
	db.logs[next.number%2].begin(next.number)
	db.progress.Store(0)
	db.room.mu.Lock()
	db.room.frozen = old.grows
	db.room.active = 0
	db.room.mu.Unlock()
	db.install(next, old, v.file)
	db.flushes <- old
}

// memtable makes an empty one.
func (db *DB) memtable(number uint64, parts int) *memtable {
	db.mu.Lock()
	a := db.spare
	db.spare = nil
	db.mu.Unlock()
	if a == nil {
		a = newArena(db.limit)
	} else {
		a.reset()
	}
	m := newMemtable(number, db.limit, a, parts)
	m.done = func(m *memtable) {
		db.mu.Lock()
		defer db.mu.Unlock()
		db.spare = m.arena
	}
	return m
}

// flushAll is the flusher: it flushes memtables as they are frozen.
func (db *DB) flushAll() {
	defer db.flusher.Done()
	for m := range db.flushes {
		db.flush(m)
	}
}

func (db *DB) flush(m *memtable) {
	f := &flushing{db: db, m: m, parts: m.inOrder(0)}
	began := time.Now()
	db.flushBegan.Store(began.UnixNano())
	for wait := retryFirst; !f.done; {
		at := *f
		err := f.slice()
		db.flushSays(err)
		if err == nil {
			wait = retryFirst
			continue
		}
		*f = at
		if !retryable(err) {
			db.fail(fmt.Errorf("flush: %w", err))
			return
		}
		db.stats.flushFailures.Add(1)
		db.o.Log.Error("boltstore: flush failed, will be tried again", "error", err)
		select {
		case <-time.After(wait):
			wait = min(2*wait, retryLast)
		case <-db.life.Done():
			return
		}
	}
	db.lastFlush.Store(int64(time.Since(began)))
	db.stats.flush(time.Since(began))
}

// flushSays notes how the last slice went, and wakes who waits for the flush.
func (db *DB) flushSays(err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.flushErr = err
	if err != nil || db.current.Load().tables[1] == nil {
		close(db.flushed)
		db.flushed = make(chan struct{})
	}
}

// retryable reports whether a slice that failed has left bbolt as it was.
func retryable(err error) bool { return full(err) || errors.Is(err, ErrCorrupt) }

// slice writes the next rows.
func (f *flushing) slice() error {
	db := f.db
	rows := db.sliceRows(f.m.rows - int(f.rows))
	var tx *bolt.Tx
	err := guard(func() (err error) {
		if tx, err = db.bolt.Begin(true); err != nil {
			return err
		}
		s := sliceWriter{db: db, tx: tx, longs: tx.Bucket([]byte(bucketLong))}
		if err := f.write(&s, rows); err != nil {
			return err
		}
		if f.done {
			return putState(tx, state{id: db.id, open: true, number: f.m.number, group: f.m.newest})
		}
		return nil
	})
	if err == nil {
		db.listFree()
		err = guard(func() error { return db.commit(tx) })
	}
	if err != nil {
		if tx != nil {
			_ = guard(tx.Rollback) // after a failed commit this has been done
		}
		return err
	}
	db.progress.Store(f.rows)
	left := max(0, f.m.grows-f.m.grows*f.rows/int64(max(f.m.rows, 1)))
	if f.done {
		left = 0
	}
	return db.show(f.done, left)
}

// show has readers see what a slice wrote, so that pages that it replaced come free.
func (db *DB) show(done bool, left int64) error {
	db.versions.Lock()
	defer db.versions.Unlock()
	file, err := db.openFileView()
	if err != nil {
		return err
	}
	defer file.release()
	v := db.current.Load()
	frozen := v.tables[1]
	if done {
		frozen = nil
	}
	db.install(v.tables[0], frozen, file)
	db.measure(file.tx.Size(), left)
	return nil
}

// write puts rows of the memtable into the transaction.
func (f *flushing) write(s *sliceWriter, rows int) error {
	bytes := 0
	for rows > 0 && bytes < sliceBytes {
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
		for f.row != 0 && rows > 0 && bytes < sliceBytes {
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
