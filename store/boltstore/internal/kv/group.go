package kv

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/manydevice/manydevice/store"
)

// Group commit. Operations that wait at the same time share one record of the log and one sync.
//
//	queue ──take──▶ run: against the memtable ──▶ write: record, sync ──▶ publish, answer
//	                 one group at a time            one group at a time
//
//  1. The next group runs while the one before is written. It sees what that one did, and is written after it, so that it is
//     never durable without it.
//  2. A caller that finds no leader leads: it runs the next group, on its own goroutine. If its context may end, another goroutine
//     leads for it, since a disk can take any time. If operations wait once the group has run, a new goroutine leads the next one.
//     There is no timer: a lone operation is not held up.
//  3. An operation that finds no room is refused and undone, alone. If the log has none because of others of the group, the operation
//     is put off instead: it runs again as the first one of the next group. A whole group is undone only if the disk has no room to write
//     over old bytes of the log; so is the group that ran meanwhile, before another one runs.

// Bounds of a group.
const (
	maxGroupOps   = 1024
	maxGroupBytes = 8 << 20
	maxYields     = 4
	gatherShare   = 4
)

// op is an operation that waits for its group, or is in one.
type op struct {
	run   func(*Writer) error
	bytes int64

	state opState       // guarded by DB.mu
	group *group        // set with opTaken
	err   error         // set before opDone
	wake  chan struct{} // gets one value when the state becomes opDone
}

type opState uint8

const (
	opQueued opState = iota
	opTaken
	opDone
)

// group are the operations of one record of the log.
type group struct {
	ops []*op
	ran chan struct{} // closed when the operations have run
}

// Update runs an operation in the next group, and returns the operation's error, or the group's, once the group is durable. bytes is
// about how much it writes; groups are bounded by it, and 0 is allowed. run is called by one goroutine at a time,
// and again if the log had no room for the operation and others together; what it did before is undone then. It counts as not called
// if ctx ends while the operation is in the queue. If ctx ends later, the error is store.ErrUnknownOutcome. An
// operation that returns an error has changed nothing. The error is store.ErrClosed after Close, and store.ErrFailed after a failure.
func (db *DB) Update(ctx context.Context, bytes int64, run func(*Writer) error) error {
	if err := db.enter(ctx); err != nil {
		return err
	}
	defer db.leave()
	o := &op{run: run, bytes: bytes, wake: make(chan struct{}, 1)}
	db.mu.Lock()
	if db.cause != nil {
		err := db.refusalLocked()
		db.mu.Unlock()
		return err
	}
	db.queue = append(db.queue, o)
	leads := !db.leading
	db.leading = true
	if db.gathers && gatherShare*len(db.queue) >= db.lastSize {
		db.arrived.Signal()
	}
	db.mu.Unlock()
	switch {
	case leads && ctx.Done() == nil:
		db.lead()
	case leads:
		db.behind(db.lead)
	}
	return db.wait(ctx, o)
}

// behind runs f on another goroutine, which Close waits for. The caller is a user of the DB.
func (db *DB) behind(f func()) {
	db.mu.Lock()
	db.users++
	db.mu.Unlock()
	go func() {
		defer db.leave()
		f()
	}()
}

func (db *DB) wait(ctx context.Context, o *op) error {
	select {
	case <-o.wake:
	case <-ctx.Done():
		if gone, err := db.abandon(ctx, o); gone {
			return err
		}
	}
	return o.err
}

// abandon ends the wait for an operation whose caller gave up. It reports false if the operation is done.
func (db *DB) abandon(ctx context.Context, o *op) (bool, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for o.state == opTaken {
		g := o.group
		db.mu.Unlock()
		<-g.ran // until then the caller's slices are in use
		db.mu.Lock()
		if o.state == opTaken && o.group == g {
			return true, fmt.Errorf("boltstore: %w: %w", store.ErrUnknownOutcome, ctx.Err())
		}
	}
	if o.state == opDone {
		return false, nil
	}
	if i := slices.Index(db.queue, o); i >= 0 {
		db.queue = slices.Delete(db.queue, i, i+1)
	}
	return true, ctx.Err()
}

// lead runs a group and writes it.
func (db *DB) lead() {
	db.running.Lock()
	db.makeWay()
	g := db.take()
	w, err := db.runGroup(g)
	db.writing.Lock()
	if lost := db.lost.Swap(nil); lost != nil { // invariant 3
		if w != nil {
			db.undoGroup(w)
		}
		db.undoGroup(lost)
		w, err = nil, errors.Join(err, errLost)
	}
	if err == nil {
		err = db.failure() // nothing is written after a failure
	}
	db.running.Unlock()
	db.passOn()
	if w != nil && err == nil {
		err = db.writeGroup(w)
	}
	db.mu.Lock()
	db.inWrite = false
	db.arrived.Signal()
	db.mu.Unlock()
	db.writing.Unlock()
	db.answer(g, err)
}

// errLost: the group before found no room, and this one had seen what it did.
var errLost = fmt.Errorf("boltstore: %w: the disk", store.ErrFull)

// passOn starts a goroutine that leads if operations wait.
func (db *DB) passOn() {
	db.mu.Lock()
	db.inWrite = true
	db.leading = len(db.queue) > 0
	leads := db.leading
	db.mu.Unlock()
	if leads {
		db.behind(db.lead)
	}
}

// take removes the next group from the queue. Callers that were just answered need a moment to come back, so it waits for a
// quarter of them: while the group before is written, and then for a few turns of the scheduler.
func (db *DB) take() *group {
	db.mu.Lock()
	db.gathers = true
	for db.inWrite && gatherShare*len(db.queue) < db.lastSize {
		db.arrived.Wait()
	}
	db.gathers = false
	for range maxYields {
		if gatherShare*len(db.queue) >= db.lastSize {
			break
		}
		db.mu.Unlock()
		runtime.Gosched()
		db.mu.Lock()
	}
	defer db.mu.Unlock()
	n, bytes := 0, int64(0)
	for n < len(db.queue) && n < maxGroupOps {
		if bytes += db.queue[n].bytes; n > 0 && bytes > maxGroupBytes {
			break
		}
		n++
	}
	g := &group{ops: slices.Clone(db.queue[:n]), ran: make(chan struct{})}
	db.queue = slices.Delete(db.queue, 0, n)
	db.lastSize = n
	for _, o := range g.ops {
		o.state, o.group = opTaken, g
	}
	return g
}

// runGroup runs the operations of a group. It returns no writer if there is nothing to write.
func (db *DB) runGroup(g *group) (w *Writer, err error) {
	defer close(g.ran)
	if lost := db.lost.Swap(nil); lost != nil {
		db.undoGroup(lost)
	}
	if err := db.crowded(); err != nil {
		return nil, err
	}
	v, err := db.withFile()
	if err != nil {
		return nil, err
	}
	defer v.release()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	w = db.writer(v)
	for i, o := range g.ops {
		w.start = w.savepoint()
		w.tier, w.adds = forRest, 0
		if o.err = recovered(func() error { return o.run(w) }); o.err == nil {
			o.err = w.admit()
		}
		if o.err != nil {
			w.back(w.start)
		}
		if !w.record.empty() && errors.Is(o.err, errLogFull) {
			db.putOff(g, i)
			break
		}
	}
	db.stats.operations.Add(uint64(len(g.ops)))
	w.active.taken.Store(w.active.size)
	if w.record.empty() {
		db.seq--
		return nil, nil
	}
	w.log.planned += int64(len(w.record.b))
	return w, nil
}

// putOff makes the operations of a group from one on the first ones of the next group, before which the log is begun anew if need be.
func (db *DB) putOff(g *group, from int) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, o := range g.ops[from:] {
		o.state, o.group = opQueued, nil
	}
	db.queue = append(g.ops[from:len(g.ops):len(g.ops)], db.queue...)
	g.ops = g.ops[:from:from]
}

// writer begins the next group.
func (db *DB) writer(v *sources) *Writer {
	db.seq++
	w := db.writers[db.seq%2]
	w.Snapshot = Snapshot{v: v, seq: db.seq, buf: w.buf}
	w.active = v.mem[0]
	w.begin()
	w.log = db.logs[w.active.number%2]
	w.began = w.savepoint()
	return w
}

// writeGroup makes a group durable and publishes it.
func (db *DB) writeGroup(w *Writer) error {
	began := time.Now()
	if err := db.write(w.log, w.record.b, w.seq); err != nil {
		if errors.Is(err, errNotWritten) {
			db.lost.Store(w)
			return fmt.Errorf("boltstore: %w: the disk: %w", store.ErrFull, err)
		}
		return db.broken(err)
	}
	db.stats.committed(time.Since(began))
	w.active.newest = w.seq
	db.published.Store(w.seq)
	return nil
}

// broken fails the DB, and returns what the operations of a group get that may or may not be durable.
func (db *DB) broken(err error) error {
	db.fail(err)
	return fmt.Errorf("boltstore: %w: %w: %w", store.ErrUnknownOutcome, store.ErrFailed, err)
}

// undoGroup takes back what a group did that could not be written. The caller holds running, and the group is not being written.
func (db *DB) undoGroup(w *Writer) {
	w.log.planned -= int64(len(w.record.b))
	w.back(w.began)
	db.seq = db.published.Load()
}

// answer tells the operations of a group what became of them.
func (db *DB) answer(g *group, err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, o := range g.ops {
		if err != nil && o.err == nil {
			o.err = err
		}
	}
	done := g.ops
	if db.cause != nil {
		for _, o := range db.queue {
			o.err = db.failureLocked()
		}
		done = append(done, db.queue...)
		db.queue = nil
	}
	for _, o := range done {
		o.state = opDone
		o.wake <- struct{}{}
	}
}
