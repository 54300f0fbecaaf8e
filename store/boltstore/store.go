package boltstore

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Store is a store in one file. Use [Open]. It is safe for concurrent use.
type Store struct {
	info   store.Info
	cfg    Config
	db     *bolt.DB
	page   int64 // bytes
	disk   diskSpace
	commit func(*bolt.Tx) error // (*bolt.Tx).Commit, but for tests

	failed   chan struct{} // closed when cause is set
	released chan struct{} // closed when the file is
	stop     context.CancelFunc
	purge    context.Context // ends the purge of deleted accounts

	mu       sync.Mutex
	cause    error // of the failure
	closing  bool
	users    int // calls and purges that run
	purging  bool
	again    bool // another purge is wanted after the one that runs
	queue    []*op
	leading  bool // somebody takes groups from the queue
	lastSize int  // operations in the last group
	closeErr error
}

var _ store.Store = (*Store)(nil)

// Info implements [store.Store].
func (s *Store) Info() store.Info { return s.info }

// Failed implements [store.Store].
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Close implements [store.Store]. What runs or waits goes on to its end; new calls are refused. If ctx ends first, Close
// returns its error, and the file is closed as soon as the last call returns. It may be called again.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	last := !s.closing && s.users == 0
	s.closing = true
	s.mu.Unlock()
	s.stop()
	if last {
		s.release()
	}
	select {
	case <-s.released: // even if ctx is over as well
		return s.closeErr
	default:
	}
	select {
	case <-s.released:
		return s.closeErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter begins a call. Unless it returns an error, leave must follow.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusalLocked(); err != nil {
		return err
	}
	s.users++
	return nil
}

// refusalLocked is the error of new calls; nil while the store is in use.
func (s *Store) refusalLocked() error {
	switch {
	case s.closing:
		return store.ErrClosed
	case s.cause != nil:
		return fmt.Errorf("boltstore: %w after: %w", store.ErrFailed, s.cause)
	}
	return nil
}

func (s *Store) leave() {
	s.mu.Lock()
	s.users--
	last := s.closing && s.users == 0
	s.mu.Unlock()
	if last {
		s.release()
	}
}

// release closes the file. It is called once, by whoever finds that nobody uses the store any more.
func (s *Store) release() {
	s.mu.Lock()
	healthy := s.cause == nil
	s.mu.Unlock()
	if healthy {
		// With the list of free pages in the file the next Open needs not look for them. It does without it as well.
		s.db.NoFreelistSync = false
		err := guard(func() error { return s.db.Update(func(*bolt.Tx) error { return nil }) })
		if err != nil {
			s.cfg.Logger.Warn("boltstore: list of free pages not saved", slog.Any("error", err))
		}
	}
	if err := s.db.Close(); err != nil {
		s.closeErr = fmt.Errorf("boltstore: close: %w", err)
	}
	close(s.released)
}

// fail makes all later calls fail.
func (s *Store) fail(cause error) {
	s.mu.Lock()
	first := s.cause == nil
	if first {
		s.cause = cause
	}
	s.mu.Unlock()
	if !first {
		return
	}
	close(s.failed)
	s.stop()
	s.cfg.Logger.Error("boltstore: failed", slog.Any("error", cause))
}

// view runs f in a short read transaction. What f returns must be copies.
func (s *Store) view(ctx context.Context, f func(*buckets) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	return guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			b, err := openBuckets(tx)
			if err != nil {
				return err
			}
			return f(&b)
		})
	})
}

// guard turns a panic of f into an error: bbolt panics on pages that make no sense, and reading the mapped file faults
// if the disk does not deliver.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
	}()
	return f()
}

func (s *Store) epoch(account uint32) event.Epoch {
	return event.Epoch(s.info.Incarnation)<<32 | event.Epoch(account)
}

// head returns what callers see of an account's head.
func (s *Store) head(h *head) store.Head {
	return store.Head{
		Epoch: s.epoch(h.epoch), Seq: h.seq, Trim: h.trim, Entries: int(h.entries), Bytes: int64(h.bytes),
	}
}

// place returns what callers see of a place.
func (s *Store) place(p *place) store.Place {
	return store.Place{Account: p.account, Epoch: s.epoch(p.epoch), Seq: p.seq, Ordinal: p.ordinal}
}
