package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/manydevice/manydevice/store"
)

// Bounds of a group of operations that share one commit.
const (
	maxGroupOps   = 1024
	maxGroupBytes = 8 << 20
	maxYields     = 4
)

// op is one operation that waits for its commit, or is in one.
type op struct {
	run   func(*writer) error
	bytes int64

	state opState       // guarded by Store.mu
	group *group        // set with opTaken
	err   error         // set before opDone
	wake  chan struct{} // gets one value when the state becomes opLeads or opDone
}

type opState uint8

const (
	opQueued opState = iota
	opLeads          // first in the queue; its goroutine takes the next group
	opTaken
	opDone
)

// group are the operations of one commit.
type group struct {
	ops     []*op
	applied chan struct{} // closed when no operation of it is looked at any more, but for its result
}

// submit runs an operation in the next commit and waits for that. The goroutine of the first operation in the queue
// takes the group and commits it; the others sleep. If ctx ends before the operation was taken, it is not run. If it
// was, the outcome is unknown.
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
	if !s.leading {
		s.leading = true
		o.state = opLeads
		s.mu.Unlock()
		s.lead()
		return o.err
	}
	s.mu.Unlock()
	return s.wait(ctx, o)
}

func (s *Store) wait(ctx context.Context, o *op) error {
	select {
	case <-o.wake:
	case <-ctx.Done():
		if gone, err := s.abandon(ctx, o); gone {
			return err
		}
	}
	s.mu.Lock()
	leads := o.state == opLeads
	s.mu.Unlock()
	if leads {
		s.lead()
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
	if o.state == opLeads {
		s.promoteLocked()
	}
	s.mu.Unlock()
	return true, ctx.Err()
}

// promoteLocked makes the first in the queue the leader.
func (s *Store) promoteLocked() {
	if len(s.queue) == 0 {
		s.leading = false
		return
	}
	first := s.queue[0]
	first.state = opLeads
	first.wake <- struct{}{}
}

// lead takes one group, which begins with the caller's own operation, and leaves the rest of the queue to the next.
func (s *Store) lead() {
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
	for i, o := range done {
		o.state = opDone
		if i > 0 { // the first is the caller's
			o.wake <- struct{}{}
		}
	}
	s.promoteLocked()
}

// gather gives those who were just answered, and those who wait for the processor, a chance to join the group: until as
// many wait as the last group had, a few times at most. Who is alone is not held up.
func (s *Store) gather() {
	for range maxYields {
		s.mu.Lock()
		enough := len(s.queue) >= s.lastSize
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

// process runs the operations of a group and commits what they wrote. Its error is one after which nobody knows what is
// in the file; errors of single operations are in op.err.
func (s *Store) process(g *group) error {
	var tx *bolt.Tx
	written := false
	err := guard(func() (err error) {
		defer close(g.applied)
		if tx, err = s.db.Begin(true); err != nil {
			return err
		}
		written, err = s.apply(tx, g)
		return err
	})
	if err == nil && written {
		err = guard(func() error { return s.commit(tx) })
	}
	if tx != nil && (err != nil || !written) {
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

func (s *Store) apply(tx *bolt.Tx, g *group) (written bool, err error) {
	w := writer{room: newRoom(s, tx)}
	if w.buckets, err = openBuckets(tx); err != nil {
		return false, err
	}
	for _, o := range g.ops {
		before := w.dirty
		w.dirty = false
		o.err = o.run(&w)
		if w.err == nil && w.dirty && o.err != nil {
			w.err = o.err // it wrote a part
		}
		if w.err != nil {
			return true, w.err
		}
		w.dirty = w.dirty || before
	}
	err = w.flush()
	return w.dirty, err
}
