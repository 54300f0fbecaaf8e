package kv

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// Rows go one way:
//
//	Update ─▶ group ─▶ memtable (active) ──full──▶ memtable (frozen) ──flush, in slices──▶ bbolt file
//	             └───▶ log (path-wal, path-wal2: one for each memtable)
//	View  ◀── snapshot: active, then frozen, then the file
//
//  1. A group is durable when its record in the log is. After a crash a memtable is rebuilt from its log.
//  2. A row of the active memtable hides one of the frozen memtable, and that hides the file's. So a flush that was interrupted,
//     or is repeated after a crash, changes nothing that readers see.
//  3. A flush writes the newest version of each row at its place in the file, in order. Its last slice says that the memtable
//     is in the file; from then on its log is void.
//  4. Between Open and Close only flushes commit in bbolt, with two syncs each. A slice that found no room or a damaged page is
//     tried again: the rows are in the log.
//
// Files: arena.go and memtable.go, wal.go, group.go and writer.go (commits), snapshot.go, file.go and row.go (reads), flush.go,
// room.go, open.go.

// DB is an open file. It is safe for concurrent use.
type DB struct {
	o        Options
	bolt     *bolt.DB
	fd       *os.File // of bolt
	grown    *os.File // the same file for what makes it longer; see grow. Nil: it is only read
	disk     disk
	page     int64 // bytes
	mapped   int64 // bytes of the file that bbolt has mapped from the start
	id       walID
	logs     [2]*wal                          // of memtables with even and odd numbers
	write    func(*wal, []byte, uint64) error // (*wal).write; tests have others
	replayed Replayed
	limit    int64 // bytes of a memtable
	readOnly bool
	log      LogState // as OpenReadOnly found it
	stats    meters
	room     room
	unlisted bool // there was no room for the list of free pages; see transact

	// running is held while a group runs, writing while one is written. Lock order: running, writing, replacing, mu or room.mu.
	running sync.Mutex
	seq     uint64 // group that ran last; guarded by running
	writers [2]*Writer
	writing sync.Mutex

	published atomic.Uint64          // group
	lost      atomic.Pointer[Writer] // a group that found no room, and is not undone yet

	replacing sync.Mutex // held to replace current
	current   atomic.Pointer[sources]
	spare     *arena // of a memtable that is over; guarded by mu

	flushes               chan *memtable // to the flusher; one at most
	flushed               chan struct{}  // closed and replaced when a memtable was flushed, or a flush has failed; guarded by mu
	progress              atomic.Int64   // rows of the frozen memtable that were flushed
	flushBegan, lastFlush atomic.Int64   // Unix nanoseconds; how long the last flush took

	life    context.Context // ends work in the background
	stop    context.CancelFunc
	flusher sync.WaitGroup

	failed   chan struct{} // closed by unusable
	unusable func()
	released chan struct{} // closed when the file is
	closeErr error

	mu       sync.Mutex
	arrived  sync.Cond // of the queue
	cause    error     // of the failure
	flushErr error     // of the last slice, if it failed
	gaveUp   bool      // the flusher has, after Close
	closing  bool
	users    int // calls and goroutines that run
	queue    []*op
	leading  bool // a goroutine takes a group from the queue, or is about to
	gathers  bool // and waits for more
	inWrite  bool // a group is being written
	lastSize int  // operations in the last group
	backups  int
}

// Failed is closed by a failure and by Close.
func (db *DB) Failed() <-chan struct{} { return db.failed }

// enter begins a call. Unless it returns an error, leave must follow.
func (db *DB) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.refusalLocked(); err != nil {
		return err
	}
	db.users++
	return nil
}

// Refusal is the error of new calls; nil while the DB is in use.
func (db *DB) Refusal() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.refusalLocked()
}

func (db *DB) refusalLocked() error {
	if db.closing {
		return store.ErrClosed
	}
	return db.failureLocked()
}

// failure is the error of all that follows a failure; nil while there was none.
func (db *DB) failure() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.failureLocked()
}

func (db *DB) failureLocked() error {
	if db.cause == nil {
		return nil
	}
	return fmt.Errorf("boltstore: %w after: %w", store.ErrFailed, db.cause)
}

func (db *DB) leave() {
	db.mu.Lock()
	db.users--
	last := db.closing && db.users == 0
	db.mu.Unlock()
	if last {
		go db.finish()
	}
}

// View calls f once, with a snapshot of what was published when View was called, or later. It waits for no operation. The error is
// f's, ctx's if that had ended before, store.ErrClosed, store.ErrFailed, or ErrCorrupt if f met a page that cannot be read.
func (db *DB) View(ctx context.Context, f func(*Snapshot) error) error {
	if err := db.enter(ctx); err != nil {
		return err
	}
	defer db.leave()
	var v *sources
	if err := guard(func() (err error) { v, err = db.withFile(); return err }); err != nil {
		return err
	}
	defer v.release()
	s := Snapshot{v: v, seq: db.published.Load()}
	return guard(func() error { return f(&s) })
}

// Go runs f in a goroutine that Close waits for. ctx ends when Close is called or the DB fails. It reports false if that is
// the case already.
func (db *DB) Go(f func(ctx context.Context)) bool {
	if db.enter(db.life) != nil {
		return false
	}
	go func() {
		defer db.leave()
		f(db.life)
	}()
	return true
}

// Close refuses new calls, waits for what runs, flushes what memory has, and closes the file. If ctx ends first, it returns
// its error, and the rest is done in the background. It may be called again.
func (db *DB) Close(ctx context.Context) error {
	db.mu.Lock()
	first := !db.closing
	last := first && db.users == 0
	db.closing = true
	db.mu.Unlock()
	db.unusable()
	db.stop()
	if last {
		go db.finish()
	}
	select {
	case <-db.released: // even if ctx is over as well
		return db.closeErr
	default:
	}
	select {
	case <-db.released:
		return db.closeErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish closes the file. It is called once, when the DB has no users left.
func (db *DB) finish() {
	began := time.Now()
	db.closeErr = db.shut()
	if db.closeErr != nil {
		db.o.Logger.Error("boltstore: close", "file", db.name(), trace.Err(db.closeErr))
	} else {
		db.o.Logger.Info("boltstore: closed", "file", db.name(), "commits", db.stats.commits.Load(), "took", time.Since(began))
	}
	close(db.released)
}

// fail makes all later calls fail.
func (db *DB) fail(cause error) {
	db.mu.Lock()
	first := db.cause == nil
	if first {
		db.cause = cause
	}
	db.mu.Unlock()
	if !first {
		return
	}
	db.unusable()
	db.stop()
	db.o.Logger.Error("boltstore: failed", "file", db.name(), trace.Err(cause))
}

// guard is recovered, also for faults of the mapped file, which the disk does not deliver.
func guard(f func() error) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return recovered(f)
}

// recovered turns a panic of f into an error: bbolt panics on pages that make no sense.
func recovered(f func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case error:
			err = fmt.Errorf("%w: %w", ErrCorrupt, p)
		default:
			err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
	}()
	return f()
}
