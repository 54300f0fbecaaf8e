// Package memstore is a [store.Store] in memory. Everything is gone when the process ends, which its capabilities say:
// it is for tests, for single processes that keep nothing, and as the plainest example of the contract.
//
// # Payloads
//
// A payload is kept once, as the slice that [store.Store.Commit] got, and pages return that same slice. Nobody may change
// it afterwards. All else is copied on the way in and on the way out.
//
// # Concurrency
//
// A store is safe for concurrent use, and several engines with leases may use one. One lock guards it all; it is never held longer
// than one batch, page or trim takes in memory.
package memstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Config tunes a store. The zero value is valid: no bound.
type Config struct {
	// MaxBytes bounds what inboxes hold: every payload once, and 64 bytes for each entry. A batch that would go beyond it
	// gets [store.ErrFull]. Zero or negative: no bound. More than 1 PiB counts as that. Records, registers and cursors do not
	// count.
	MaxBytes int64
	// Reserve is how far batches with [store.Batch.Reserve] may go beyond MaxBytes. Zero means a sixteenth of MaxBytes;
	// negative means not at all; more than 1 PiB counts as that.
	Reserve int64
}

const mostBytes = 1 << 50 // more than there is, and far from an overflow

// Store is a store in memory. Use [New].
type Store struct {
	store.Claims
	info    store.Info
	maximum int64 // 0: no bound
	reserve int64
	failed  chan struct{} // closed by Close alone: memory does not fail

	mu       sync.Mutex
	closed   bool
	revision store.Revision // last one given to any record; never used twice, also after Delete
	bytes    int64          // what Config.MaxBytes bounds
	accounts map[event.Account]*account
	order    []*account // by index: the fixed order of Accounts
	messages map[event.MessageID]*message
}

var _ store.Store = (*Store)(nil)

// New returns an empty store with a random incarnation and ID key. It starts nothing, so that Close is not needed to
// free it.
func New(cfg Config) *Store {
	var b [4]byte
	rand.Read(b[:])
	s := &Store{
		info: store.Info{
			Incarnation:  max(binary.BigEndian.Uint32(b[:]), 1),
			IDKey:        event.NewIDKey(),
			Capabilities: store.Capabilities{AtomicSend: true, UniformOrder: true, Dense: true, Shared: true},
		},
		maximum:  min(max(cfg.MaxBytes, 0), mostBytes),
		reserve:  min(max(cmp.Or(cfg.Reserve, cfg.MaxBytes/16), 0), mostBytes),
		failed:   make(chan struct{}),
		accounts: make(map[event.Account]*account),
		messages: make(map[event.MessageID]*message),
	}
	return s
}

// Info implements [store.Store].
func (s *Store) Info() store.Info { return s.info }

// Failed implements [store.Store]. Memory does not fail, so only Close closes the channel.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Close implements [store.Store]. It drops everything and never waits. It may be called again.
func (s *Store) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.failed)
	}
	s.accounts, s.order, s.messages, s.bytes = nil, nil, nil, 0
	return nil
}

// lock takes the lock if ctx still runs and the store is open. The caller unlocks unless there is an error.
func (s *Store) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	return nil
}

// Load implements [store.Store].
func (s *Store) Load(ctx context.Context, name event.Account) (store.Record, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Record{}, err
	}
	if err := s.lock(ctx); err != nil {
		return store.Record{}, err
	}
	defer s.mu.Unlock()
	a := s.accounts[name]
	if a == nil || a.revision == 0 {
		return store.Record{}, nil
	}
	return store.Record{Data: slices.Clone(a.record), Revision: a.revision}, nil
}

// Delete implements [store.Store]. It takes time in proportion to the entries that the inbox holds.
func (s *Store) Delete(ctx context.Context, name event.Account, expect store.Revision) error {
	if err := store.CheckAccount(name); err != nil {
		return err
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	var have store.Revision
	if a := s.accounts[name]; a != nil {
		have = a.revision
	}
	if have != expect {
		return store.ErrConflict
	}
	a := s.accountLocked(name)
	for i := range a.inbox.entries {
		if m := a.inbox.entries[i].message; m != nil {
			s.releaseLocked(m)
		}
	}
	*a = account{name: name, index: a.index, epoch: a.epoch + 1}
	return nil
}

// Accounts implements [store.Store]. The order is that of their first use. After an account that the store never saw, it
// begins anew.
func (s *Store) Accounts(ctx context.Context, after event.Account, limit int) ([]event.Account, error) {
	if err := store.CheckLimit(limit); err != nil {
		return nil, err
	}
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	next := 0
	if a := s.accounts[after]; a != nil {
		next = a.index + 1
	}
	var list []event.Account
	for _, a := range s.order[next:] {
		if len(list) == limit {
			break
		}
		if a.revision != 0 || a.inbox.seq != 0 {
			list = append(list, a.name)
		}
	}
	return list, nil
}

// accountLocked returns the account, which is made if it is not there.
func (s *Store) accountLocked(name event.Account) *account {
	a := s.accounts[name]
	if a == nil {
		a = &account{name: name, index: len(s.order), epoch: 1}
		s.accounts[name] = a
		s.order = append(s.order, a)
	}
	return a
}

func (s *Store) epoch(account uint32) event.Epoch {
	return event.Epoch(s.info.Incarnation)<<32 | event.Epoch(account)
}

func (s *Store) headLocked(a *account) store.Head {
	if a == nil {
		return store.Head{Epoch: s.epoch(1)}
	}
	b := &a.inbox
	return store.Head{Epoch: s.epoch(a.epoch), Seq: b.seq, Trim: b.trim, Entries: b.unkeyed, Bytes: b.bytes}
}
