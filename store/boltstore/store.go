package boltstore

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Store is a store in one file. Use [Open]. It is safe for concurrent use.
type Store struct {
	store.Claims
	info   store.Info
	epochs epochs
	keys   messageKeys
	cfg    Config
	db     *bolt.DB
	page   int64 // bytes
	limits limits
	disk   diskSpace
	commit func(*bolt.Tx) error // (*bolt.Tx).Commit, but for tests

	failed   chan struct{} // closed by unusable, when cause is set or the store is being closed
	unusable func()        // closes failed; it may be called again
	released chan struct{} // closed when the file is
	stop     context.CancelFunc
	backups  atomic.Int32    // that run
	life     context.Context // ends work in the background
	wake     chan struct{}   // gets a value when there is work for maintain

	// What the journal holds, in memory, and the runs. Only the goroutine that commits changes it, under the lock, so that
	// it may look without.
	state     sync.RWMutex
	active    *layer   // of the window that is written to
	frozen    *layer   // of the one before, until it is folded; nil: none
	windows   []window // newest first
	issuers   issuers
	published int // number of the transaction up to which all this is

	views views

	// Only the goroutine that commits uses these.
	fold    *folding
	merge   *merging
	owed    int // rows that commits are behind with merging, times mergeShare
	scratch scratch
	now     uint64 // latest time of any batch, Unix milliseconds
	sweep   uint64 // window up to which runs have to become one, see wantSweep; 0: none
	// sweepAfter is when the next sweep may be done.
	sweepAfter time.Time

	mu       sync.Mutex
	cause    error // of the failure
	closing  bool
	users    int    // calls and purges that run
	calls    uint64 // so far
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
	s.unusable()
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
	s.calls++
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
	s.views.end() // what is written now may need a larger map, which waits for all that read
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
	s.unusable()
	s.stop()
	s.cfg.Logger.Error("boltstore: failed", slog.Any("error", cause))
}

// epochs turns what the file has of places and heads into what callers see; it is the store's incarnation.
type epochs uint32

func (e epochs) of(account uint32) event.Epoch { return event.Epoch(e)<<32 | event.Epoch(account) }

// head returns what callers see of an account's head.
func (e epochs) head(h *head) store.Head {
	return store.Head{
		Epoch: e.of(h.epoch), Seq: h.seq, Trim: h.trim, Entries: int(h.entries), Bytes: int64(h.bytes),
	}
}

// place returns what callers see of a place.
func (e epochs) place(p *place) store.Place {
	return store.Place{Account: p.account, Epoch: e.of(p.epoch), Seq: p.seq, Ordinal: p.ordinal}
}
