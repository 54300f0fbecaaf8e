package kv

import (
	"errors"
	"math"
	"sync"
	"time"

	"github.com/manydevice/manydevice/store"
)

// room knows how much more fits into the bbolt file. What counts are blocks that the file has on the disk already: so what was
// accepted can be flushed whatever others do to the disk.
//
//		free pages + blocks beyond the last page in use  ≥  what memtables will need + what is kept back
//
//	 1. An append, and an operation that adds more rows than it removes, is admitted only if that holds with it, after the file was
//	    made longer if need be and possible. What only removes or replaces rows is admitted whatever the file has.
//	 2. What is kept back depends on the operation: an append leaves all of it, one that ends something leaves half, any other one
//	    that adds rows leaves a quarter. That quarter is the flush's: it writes pages before it frees old ones.
//	 3. bbolt may use no more than the blocks that the file has. So it never makes the file longer, and never finds the disk full
//	    while it writes. A slice that needs more fails before it has written anything.
//	 4. What memtables will need is an estimate, and what they will free is not counted. So when room gets short, memtables
//	    are flushed when they are small: at the end the file itself says what there is.
type room struct {
	growing sync.Mutex // held while the file is made longer, and by who decides by its size; taken before mu

	mu     sync.Mutex
	blocks int64 // size of the file
	high   int64 // end of the pages in use
	free   int64 // bytes of free pages
	active int64 // what the active memtable needs, as of the last operation that asked
	frozen int64 // what the rest of the frozen one needs

	starved time.Time // when an operation was refused last
	tight   bool      // the disk had no more blocks when it was asked last
	refused time.Time
}

// tier is how much of what is kept back an operation leaves.
type tier uint8

const (
	forAppends tier = iota // all
	forEnds                // half: operations with spare
	forRest                // a quarter: operations that did not take room
)

const (
	growStep  = 16 << 20 // by which the file is made longer at most
	leastStep = 1 << 20

	openPages = 16 // that opening may need

	// sliceRoom is how much room a slice of a flush has if it can.
	sliceRoom = 64 << 20
	// pagesPerRow is how many pages a row of a slice may take: a leaf, what comes of it when it is split, and a share of the
	// branches above.
	pagesPerRow = 4

	// shortFlush is what a memtable must hold, in bytes of the file, to be flushed because room is short.
	shortFlush = 256 << 10
	// starvedFor is for how long after a refusal it counts what operations remove.
	starvedFor = 10 * time.Second
	// roomPause is for how long the disk is not asked for more blocks after it had none.
	roomPause = 50 * time.Millisecond
)

// used is how much of the file is in use.
func (r *room) used() int64 { return max(0, r.high-r.free) }

// left is how much of the file is not in use. bbolt leaves two pages at its end.
func (r *room) left(page int64) int64 { return r.free + max(0, r.blocks-r.high-2*page) }

// fits reports whether the file has room for what the active memtable needs.
func (db *DB) fits(active int64, t tier) bool {
	r := &db.room
	r.growing.Lock()
	defer r.growing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = active
	need := active + r.frozen + db.o.Reserve>>t
	if over := r.used() + need - db.o.MaxSize; t == forAppends && db.o.MaxSize > 0 && r.blocks > db.o.MaxSize && over > 0 {
		r.starved = time.Now()
		return false // the file is longer than it may be: what it has is for what makes room
	}
	missing := need - r.left(db.page)
	if missing <= 0 {
		return true
	}
	db.extendLocked(missing, max(leastStep, r.used()/8))
	if need <= r.left(db.page) {
		return true
	}
	r.starved = time.Now()
	return false
}

// extendLocked makes the file longer, by what is missing and a step if MaxSize and the disk allow. The caller holds both locks. r.mu is
// let go while the disk works, so that others can read the figures.
func (db *DB) extendLocked(missing, step int64) {
	r := &db.room
	if r.tight && time.Since(r.refused) < roomPause {
		return
	}
	step = min(step, growStep)
	most := int64(math.MaxInt64)
	if db.o.MaxSize > 0 {
		step = min(step, db.o.MaxSize/64)
		most = db.o.MaxSize / db.page * db.page
	}
	start := max(r.blocks, r.high)
	least := min(most, (start+missing+db.page-1)/db.page*db.page)
	for _, size := range []int64{min(most, least+step/db.page*db.page), least} {
		if size <= r.blocks {
			return
		}
		from := r.blocks
		r.mu.Unlock()
		err := grow(db.disk, db.grown, from, size, false)
		r.mu.Lock()
		if err == nil {
			r.blocks, r.tight = size, false
			return
		}
		r.tight, r.refused = true, time.Now()
		if !full(err) {
			return
		}
	}
}

// allot finds out which blocks the file has. A copy of it may have holes, for which the disk has blocks now or they do not
// count.
func (db *DB) allot(high int64) error {
	st, err := db.fd.Stat()
	if err != nil {
		return err
	}
	db.room.high, db.room.blocks = high, max(high, st.Size()/db.page*db.page)
	if err := db.disk.allocate(db.fd, 0, db.room.blocks); full(err) {
		db.room.blocks = high
	} else if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	db.measure(high, 0)
	db.room.mu.Lock()
	defer db.room.mu.Unlock()
	if missing := openPages*db.page - db.room.left(db.page); missing > 0 {
		db.extendLocked(missing, 0) // no other goroutine has the DB yet, so that growing is not needed
	}
	return nil
}

// bound is how long bbolt may make the file.
func (r *room) bound() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(min(r.blocks, math.MaxInt))
}

// measure takes over what a transaction says about the file. frozen is what is left of the frozen memtable.
func (db *DB) measure(high, frozen int64) {
	r := &db.room
	r.mu.Lock()
	defer r.mu.Unlock()
	r.high, r.frozen = high, frozen
	db.countFreeLocked()
}

// countFreeLocked counts the free pages. As long as a backup runs, those that were replaced since it began are not among them.
func (db *DB) countFreeLocked() {
	stats := db.bolt.Stats()
	free := stats.FreePageN
	db.mu.Lock()
	if db.backups == 0 {
		free += stats.PendingPageN
	}
	db.mu.Unlock()
	db.room.free = int64(free) * db.page
}

// Squeezed reports whether pages that a backup keeps from being used again are missing: soon there is no room for what ends something.
func (db *DB) Squeezed() bool {
	r := &db.room
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := int64(db.bolt.Stats().PendingPageN) * db.page
	return kept > db.o.Reserve/8 && r.left(db.page)-r.active-r.frozen < db.o.Reserve*5/8
}

// sliceSize is how many of the rows that are left a slice of a flush may have, and how many bytes, so that the pages that it
// writes fit. The file is made longer for them if it can be.
func (db *DB) sliceSize(left int) (rows, bytes int) {
	r := &db.room
	r.growing.Lock()
	defer r.growing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	rows = min(max(left, minSlice), maxSlice)
	// All pages in use at most are written again, and what the rows add.
	want := min(int64(rows)*pagesPerRow*db.page, r.used()+2*sliceBytes, sliceRoom)
	if db.o.MaxSize > 0 {
		want = min(want, db.o.MaxSize/16)
	}
	if missing := want - r.left(db.page); missing > 0 {
		db.extendLocked(missing, 0)
	}
	// What the last slice has replaced comes free after the next one only.
	room := max(0, r.left(db.page)-int64(db.bolt.Stats().PendingPageN)*db.page)
	if room < r.used()+2*sliceBytes {
		rows = int(min(max(room/db.page/pagesPerRow, minSlice), int64(rows)))
	}
	return rows, int(min(max(room/4, minBytes), sliceBytes))
}

// short makes room for what waits, and compares the room that is left for appends with the active memtable. flush: it should be
// flushed, so that the file says what there is. wait: appends may be refused until that is done.
func (db *DB) short(m *memtable, waiting int64) (flush, wait bool) {
	r := &db.room
	r.growing.Lock()
	defer r.growing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	least := int64(shortFlush)
	if db.o.MaxSize > 0 {
		least = min(least, db.o.MaxSize/64)
	}
	need := m.grows + r.frozen + db.o.Reserve
	if missing := need + 2*waiting + 2*least - r.left(db.page); missing > 0 { // ask the disk before an append has to
		db.extendLocked(missing, max(leastStep, r.used()/8))
	}
	left := r.left(db.page) - need
	switch {
	case r.tight:
	case db.o.MaxSize > 0:
		left += max(0, db.o.MaxSize-r.blocks)
	default:
		left = math.MaxInt64
	}
	if db.o.MaxSize > 0 && r.blocks > db.o.MaxSize { // what it has beyond that is not for appends
		left = min(left, db.o.MaxSize-r.used()-need)
	}
	wait = left < 2*least
	m.weighs = wait || time.Since(r.starved) < starvedFor
	flush = m.grows+m.frees > max(left, least) || m.weighs && (m.removed || m.frees > least)
	return flush, wait || flush
}

// change is by how much more the file grows when a memtable is flushed that has another version of a row. A row counts as new to the
// file as long as the memtable has a value of it: one that comes and goes within a memtable counts for nothing.
func (db *DB) change(m *memtable, t Table, key int, before uint32, value []byte, gone bool) (n int64) {
	if bytes, is := m.holds(before); is {
		n -= db.growth(t, key, bytes)
	}
	if !gone {
		n += db.growth(t, key, len(value))
	}
	return n
}

// growth is by how much the file grows, about, when a row is new to it. TestRoom_EstimatesHold has the figures.
func (db *DB) growth(t Table, key, value int) int64 {
	n := int64(0)
	if value > longValue { // chunks count whole: what is left of a page after the last is seldom used
		n = int64((value+ChunkBytes-1)/ChunkBytes) * db.inPages(5+key+ChunkBytes)
		if db.o.Tables[t].Fill < 1 {
			n += n / 4
		}
		value = 4
	}
	row := db.inPages(key + value)
	if fill := db.o.Tables[t].Fill; fill < 1 { // rows come in no order, and pages are split
		row = max(row, int64(float64(key+value+elementBytes+rowHeader)/min(fill, 0.65)))
	}
	n += row
	return n + n/20 // branches
}

// inPages is how much a row takes of pages that have as many of them as fit.
func (db *DB) inPages(bytes int) int64 {
	n := int64(bytes + elementBytes + rowHeader)
	if fit := (db.page - pageHeader) / n; fit > 0 {
		return db.page / fit
	}
	return (n + db.page - 1) / db.page * db.page
}

// Room returns how many bytes may still be appended as far as MaxSize goes, and as far as the disk goes; -1: no bound, or not
// known. What is kept back is left aside.
func (db *DB) Room() (file, disk int64) {
	r := &db.room
	r.mu.Lock()
	need := r.active + r.frozen + db.o.Reserve - r.left(db.page)
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
	if v.mem[1] == nil || v.mem[0].size < 2*v.mem[0].limit {
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
