package kv

import (
	"math"
	"sync"

	"github.com/manydevice/manydevice/store"
)

// room knows how much more fits into the bbolt file. What counts are blocks that the file has on the disk already: so what was
// accepted can be flushed whatever others do to the disk.
//
//		free pages + blocks beyond the last page in use  ≥  what memtables will need + what is kept back
//
//	 1. An operation that appends is refused unless that holds with it, after the file was made longer if need be and possible.
//	 2. What is kept back is for operations that end something, and half of it for the flush alone: it writes pages before it frees old ones.
type room struct {
	mu     sync.Mutex
	blocks int64 // size of the file
	high   int64 // end of the pages in use
	free   int64 // bytes of free pages
	active int64 // what the active memtable needs, as of the last operation that asked
	frozen int64 // what the rest of the frozen one needs
	failed bool  // the disk refused more blocks when it was asked last

	refused bool // an operation was, since pressed was called
}

// growStep is by how much the file is made longer at a time.
const growStep = 16 << 20

// sliceRoom is how much room a slice of a flush has if it can.
const sliceRoom = 64 << 20

// fits reports whether the file has room for what the active memtable needs.
func (db *DB) fits(active int64, spare bool) bool {
	r := &db.room
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = active
	keep := db.o.Reserve
	if spare {
		keep /= 2
	}
	need := active + r.frozen + keep
	if need <= r.left() {
		r.failed = false
		return true
	}
	step := int64(growStep)
	if db.o.MaxSize > 0 {
		step = max(db.page, min(step, db.o.MaxSize/64))
	}
	db.extendLocked(r.blocks+need-r.left()+step, need)
	if need <= r.left() {
		return true
	}
	r.refused = true
	return false
}

// pressed reports whether an operation was refused since it was asked last: what is in memory is flushed then, since it may
// remove rows, and need less room than was thought.
func (r *room) pressed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	refused := r.refused
	r.refused = false
	return refused
}

// left is how much of the file is not in use.
func (r *room) left() int64 { return r.free + max(0, r.blocks-r.high) }

// extendLocked makes the file longer, up to a size, as far as MaxSize and the disk allow. r.mu is held for as long as that
// takes: nobody can be accepted meanwhile.
func (db *DB) extendLocked(size, need int64) {
	r := &db.room
	size = (size + db.page - 1) / db.page * db.page
	if db.o.MaxSize > 0 {
		size = min(size, db.o.MaxSize/db.page*db.page)
	}
	for size > r.blocks {
		err := allocate(db.fd, r.blocks, size)
		if err == nil {
			r.blocks, r.failed = size, false
			return
		}
		r.failed = true
		least := r.blocks + need - r.left()
		if !full(err) || size <= least {
			return
		}
		size = max(least, r.blocks+(size-r.blocks)/2)
	}
}

// measure takes over what a transaction says about the file. frozen is what is left of the frozen memtable.
func (db *DB) measure(high, frozen int64) {
	stats := db.bolt.Stats()
	free := stats.FreePageN
	db.mu.Lock()
	if db.backups == 0 { // otherwise the pending ones stay what they are until its end
		free += stats.PendingPageN
	}
	db.mu.Unlock()
	r := &db.room
	r.mu.Lock()
	defer r.mu.Unlock()
	r.high, r.free, r.frozen = high, int64(free)*db.page, frozen
	r.blocks = max(r.blocks, high)
}

// pagesPerRow is how many pages a row of a slice may take, at most about: a leaf, what comes of it when it is split, and a share of
// the branches above.
const pagesPerRow = 4

// sliceRows is how many of the rows that are left a slice of a flush may have, so that the pages that it writes fit. The file is made
// longer for them if it can be.
func (db *DB) sliceRows(left int) int {
	r := &db.room
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := min(max(left, minSlice), maxSlice)
	want := min(int64(rows)*pagesPerRow*db.page, sliceRoom)
	if db.o.MaxSize > 0 {
		want = min(want, db.o.MaxSize/16)
	}
	if missing := want - r.left(); missing > 0 {
		db.extendLocked(r.blocks+missing, 0)
	}
	return int(min(max(r.left()/db.page/pagesPerRow, minSlice), int64(rows)))
}

// Room returns how many bytes may still be appended as far as MaxSize goes, and as far as the disk goes; -1: no bound, or not
// known. The reserve is left aside.
func (db *DB) Room() (file, disk int64) {
	r := &db.room
	r.mu.Lock()
	need := r.active + r.frozen + db.o.Reserve - r.left()
	blocks := r.blocks
	r.mu.Unlock()
	file, disk = -1, -1
	if db.o.MaxSize > 0 {
		file = max(0, db.o.MaxSize-blocks-need)
	}
	if free, known := statFree(db.o.Path); known {
		disk = max(0, min(free, math.MaxInt64/2)-need)
	}
	return file, disk
}

// crowded is the error of groups while the flush fails and memory is taken twice over.
func (db *DB) crowded() error {
	v := db.current.Load()
	if v == nil || v.tables[1] == nil || v.tables[0].size < 2*v.tables[0].limit {
		return nil
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.flushErr == nil {
		return nil
	}
	return &fullError{db.flushErr}
}

// fullError is ErrFull with the reason.
type fullError struct{ cause error }

func (e *fullError) Error() string {
	return "boltstore: " + store.ErrFull.Error() + ": " + e.cause.Error()
}

func (e *fullError) Unwrap() []error { return []error{store.ErrFull, e.cause} }
