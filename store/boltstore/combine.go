package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/manydevice/manydevice/store"
)

// Bounds of a group of operations that share one commit.
const (
	maxGroupOps   = 1024
	maxGroupBytes = 8 << 20
	maxYields     = 4
	gatherShare   = 4
)

// op is one operation that waits for its commit, or is in one.
type op struct {
	run   func(*writer) error
	bytes int64

	state opState       // guarded by Store.mu
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

// group are the operations of one commit.
type group struct {
	ops     []*op
	applied chan struct{} // closed when no operation of it is looked at any more, but for its result
}

// submit runs an operation in the next commit and waits for that. Who finds nobody at work commits the next group on its
// own goroutine; if others wait by then, a goroutine goes on until nobody does. It need not be found among those that were
// just answered, which have much to do. If ctx ends before the operation was taken, it is not run. If it was, the outcome
// is unknown.
func (s *Store) submit(ctx context.Context, bytes int64, run func(*writer) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	o := &op{run: run, bytes: bytes, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	if s.cause != nil {
		err := s.refusalLocked()
		s.mu.Unlock()
		return err
	}
	s.queue = append(s.queue, o)
	leads := !s.leading
	s.leading = true
	s.mu.Unlock()
	if leads && s.lead() {
		s.mu.Lock()
		s.users++ // so that Close waits for it
		s.mu.Unlock()
		go func() {
			defer s.leave()
			for s.lead() {
			}
		}()
	}
	return s.wait(ctx, o)
}

// committing reports whether somebody commits now.
func (s *Store) committing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leading
}

func (s *Store) wait(ctx context.Context, o *op) error {
	select {
	case <-o.wake:
	case <-ctx.Done():
		if gone, err := s.abandon(ctx, o); gone {
			return err
		}
	}
	return o.err
}

// abandon ends the wait for an operation whose caller gave up. It reports false if the operation is done.
func (s *Store) abandon(ctx context.Context, o *op) (bool, error) {
	s.mu.Lock()
	switch o.state {
	case opDone:
		s.mu.Unlock()
		return false, nil
	case opTaken:
		s.mu.Unlock()
		<-o.group.applied // until then the caller's slices are in use
		s.mu.Lock()
		defer s.mu.Unlock()
		if o.state == opDone {
			return false, nil
		}
		return true, fmt.Errorf("boltstore: %w: %w", store.ErrUnknownOutcome, ctx.Err())
	}
	if i := slices.Index(s.queue, o); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	s.mu.Unlock()
	return true, ctx.Err()
}

// lead commits one group, and reports whether there is another one to commit. If not, whoever comes next leads.
func (s *Store) lead() bool {
	s.gather()
	g := s.take()
	err := s.process(g)
	if err != nil {
		s.fail(err)
		unknown := fmt.Errorf("boltstore: %w: %w: %w", store.ErrUnknownOutcome, store.ErrFailed, err)
		for _, o := range g.ops {
			o.err = unknown
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	done := g.ops
	if s.cause != nil {
		refusal := fmt.Errorf("boltstore: %w after: %w", store.ErrFailed, s.cause)
		for _, o := range s.queue {
			o.err = refusal
		}
		done = append(done, s.queue...)
		s.queue = nil
	}
	for _, o := range done {
		o.state = opDone
		o.wake <- struct{}{}
	}
	s.leading = len(s.queue) > 0
	return s.leading
}

// gather gives those who were just answered, and those who wait for the processor, a chance to join the group: until there
// are a quarter of what the last group had, a few times at most. The others get ready while this one is committed: to wait
// for more of them leaves the disk idle. Who is alone is not held up.
func (s *Store) gather() {
	for range maxYields {
		s.mu.Lock()
		enough := gatherShare*len(s.queue) >= s.lastSize
		s.mu.Unlock()
		if enough {
			return
		}
		runtime.Gosched()
	}
}

// take removes the next group from the queue.
func (s *Store) take() *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, int64(0)
	for n < len(s.queue) && n < maxGroupOps {
		if bytes += s.queue[n].bytes; n > 0 && bytes > maxGroupBytes {
			break
		}
		n++
	}
	g := &group{ops: slices.Clone(s.queue[:n]), applied: make(chan struct{})}
	s.queue = slices.Delete(s.queue, 0, n)
	s.lastSize = n
	for _, o := range g.ops {
		o.state, o.group = opTaken, g
	}
	return g
}

// process runs the operations of a group and commits what they wrote, with a slice of what is to be done in the
// background. Its error is one after which nobody knows what is in the file; errors of single operations are in op.err.
func (s *Store) process(g *group) error {
	var tx *bolt.Tx
	var w *writer
	var took time.Duration
	s.meters.operations.Add(uint64(len(g.ops)))
	err := guard(func() (err error) {
		defer close(g.applied)
		if tx, err = s.db.Begin(true); err != nil {
			return err
		}
		if w, err = s.writer(tx); err != nil {
			return err
		}
		return s.apply(w, g)
	})
	written := w != nil && w.dirty
	id := 0
	if err == nil && written {
		id = tx.ID()
		s.views.hold()
		defer s.views.letGo()
		began := time.Now()
		err = guard(func() error { return s.commit(tx) })
		took = time.Since(began)
	}
	s.meters.merging.Store(s.merge != nil)
	if err == nil && written {
		s.meters.committed(took)
		s.publish(w, id)
		return nil
	}
	if tx != nil {
		// After a failed commit this has been done already, or must be tried, since Close would wait for it.
		undo := guard(func() error {
			if err := tx.Rollback(); !errors.Is(err, berrors.ErrTxClosed) {
				return err
			}
			return nil
		})
		err = errors.Join(err, undo)
	}
	return err
}

func (s *Store) writer(tx *bolt.Tx) (*writer, error) {
	b, err := openBase(tx, s.windows)
	if err != nil {
		return nil, err
	}
	s.scratch.reset()
	w := &writer{
		scratch: &s.scratch, base: b, tx: tx, room: newRoom(s, tx), keys: s.keys, issuers: s.issuers, s: s, epochs: s.epochs, active: s.active, frozen: s.frozen, now: s.now,
	}
	if w.frozen != nil {
		w.room.pending = w.frozen.bytes
	}
	w.room.pending += w.active.bytes
	s.meters.looked(&w.room)
	return w, nil
}

func (s *Store) apply(w *writer, g *group) error {
	for _, o := range g.ops {
		before := w.dirty
		w.dirty = false
		o.err = o.run(w)
		if w.err == nil && w.dirty && o.err != nil {
			w.err = o.err // it wrote a part
		}
		if w.err != nil {
			return w.err
		}
		w.dirty = w.dirty || before
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := s.background(w); err != nil {
		return err
	}
	return w.err
}

// publish makes visible what was committed, and begins a new window if this one is full.
func (s *Store) publish(w *writer, id int) {
	s.now = w.now
	s.state.Lock()
	w.publish()
	full := (s.active.bytes >= s.limits.window || w.rotate) && s.frozen == nil
	if full {
		s.frozen, s.active = s.active, newLayer(s.active.number+1, s.limits.window)
	}
	s.published = id
	s.state.Unlock()
	if w.sweep != 0 {
		s.sweep = w.sweep
	}
	if full || w.sweep != 0 {
		s.signal()
	}
}
