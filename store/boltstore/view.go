package boltstore

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
)

// view is what a reader sees: a transaction, and of each account that it asks for what memory holds. Memory is asked after
// the transaction began and is never ahead of it. It may be behind, for the moment between a commit and its publication:
// what it lacks then is not seen yet. If it refers to something that is not in the file any more, the reader begins anew.
type view struct {
	base
	s           *Store
	transaction *bolt.Tx
	turn        uint64   // see views
	tx          int      // number of the transaction
	whole       bool     // all buckets are open
	recent      *account // that was asked for last; nil: none
}

// staleFor is how long a publication may take to follow its commit: far longer than a goroutine that is ready to run ever
// waits for a processor. It bounds the search for something that is not there.
const staleFor = 30 * time.Second

// view runs f in a short read transaction, and again if what it found did not fit together. What f returns must be copies.
func (s *Store) view(ctx context.Context, f func(*view) error) error {
	return s.viewAccounts(ctx, func(v *view) error {
		if !v.whole {
			if err := v.openOthers(v.transaction); err != nil {
				return err
			}
			v.whole = true
		}
		return f(v)
	})
}

// viewAccounts is view without the buckets of messages.
func (s *Store) viewAccounts(ctx context.Context, f func(*view) error) error {
	var began time.Time
	for {
		if err := s.enter(ctx); err != nil {
			return err
		}
		err := guard(func() error { return s.look(f) })
		s.leave()
		switch {
		case err != errStale: // which is never wrapped
			return err
		case began.IsZero():
			began = time.Now()
		case time.Since(began) > staleFor:
			return corrupt("reference to what is not there")
		}
		runtime.Gosched()
	}
}

// look runs f in a view, which is kept for others if all went well.
func (s *Store) look(f func(*view) error) error {
	v, turn := s.views.take()
	if v == nil {
		tx, err := s.db.Begin(false)
		if err != nil {
			return err
		}
		v = &view{s: s, transaction: tx, turn: turn}
	}
	kept := false
	defer func() {
		if !kept {
			_ = v.transaction.Rollback() // it has no other error than that it is over
		}
	}()
	if v.names.Bucket == nil {
		if err := s.open(v); err != nil {
			return err
		}
	}
	err := f(v)
	kept = err == nil && s.views.give(v)
	return err
}

// open opens the buckets of a new view, unless it is older than what memory has.
func (s *Store) open(v *view) error {
	s.state.RLock()
	v.tx, v.windows = s.published, s.windows
	s.state.RUnlock()
	switch id := v.transaction.ID(); {
	case v.tx > id:
		return errStale
	case v.tx == id:
		v.missing = errMissing
	default:
		v.missing = errStale
	}
	return v.openAccounts(v.transaction)
}

// account returns the account as it is. Most callers ask for the same one again: the view is the same only if nothing was
// committed in between.
func (v *view) account(name event.Account) (*account, error) {
	if a := v.recent; a != nil && a.name == name {
		return a, nil
	}
	a, err := v.lookUp(name)
	if err == nil {
		a.name = event.Account(strings.Clone(string(name))) // which is the caller's
		v.recent = a
	}
	return a, err
}

func (v *view) lookUp(name event.Account) (*account, error) {
	a := &account{name: name, head: head{epoch: 1}, base: &v.base}
	s := v.s
	s.state.RLock()
	fresh := s.published == v.tx
	known := s.numberLocked(a)
	if known {
		s.partsLocked(a)
	}
	s.state.RUnlock()
	if !fresh {
		return nil, errStale
	}
	if !known {
		var err error
		if a.aid, err = v.named(name); err != nil || a.aid == 0 {
			return a, err
		}
		s.state.RLock()
		fresh = s.published == v.tx
		s.partsLocked(a)
		s.state.RUnlock()
		if !fresh {
			return nil, errStale
		}
	}
	if len(a.parts) != 0 {
		return a, nil
	}
	sl, err := a.slot()
	if err != nil {
		return nil, err
	}
	if sl.epoch == 0 || sl.last > v.newest() {
		return nil, v.missing
	}
	a.head = sl.head
	return a, nil
}

// newest is the last window of the journal that is in a run.
func (b *base) newest() uint64 { return newest(b.windows) }

func newest(windows []window) uint64 {
	if len(windows) == 0 {
		return 0
	}
	return windows[0].last
}

func (s *Store) layersLocked() [2]*layer { return [...]*layer{s.active, s.frozen} }

// number finds an account's number in memory.
func (s *Store) number(a *account) bool {
	s.state.RLock()
	defer s.state.RUnlock()
	return s.numberLocked(a)
}

// numberLocked is number for who holds state.
func (s *Store) numberLocked(a *account) bool {
	for _, l := range s.layersLocked() {
		if l != nil {
			if aid, ok := l.named(a.name); ok {
				a.aid = aid
				return true
			}
		}
	}
	return false
}

// partsLocked copies what memory has of the account.
func (s *Store) partsLocked(a *account) {
	for _, l := range s.layersLocked() {
		if l == nil {
			continue
		}
		if s, i := l.of(a.aid); s != nil {
			if len(a.parts) == 0 {
				a.head = s.head
			}
			a.parts = append(a.parts, l.memory(s, i, true))
		}
	}
}

// known returns the issuers that the store knows.
func (v *view) known() issuers {
	v.s.state.RLock()
	defer v.s.state.RUnlock()
	return v.s.issuers
}

// freshNames returns the first n names after a given one of accounts that the file does not know yet.
func (v *view) freshNames(after event.Account, n int) ([]event.Account, error) {
	var names []event.Account
	v.s.state.RLock()
	fresh := v.s.published == v.tx
	for _, l := range v.s.layersLocked() {
		if l != nil {
			for i := range l.fresh {
				if name := l.freshName(i); name > after {
					names = append(names, name)
				}
			}
		}
	}
	v.s.state.RUnlock()
	if !fresh {
		return nil, errStale
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(n, len(names))], nil
}

// errMissing: something refers to what is not there.
var errMissing = corrupt("reference to what is not there")

// guard turns a panic of f into an error: bbolt panics on pages that make no sense, and reading the mapped file faults
// if the disk does not deliver.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
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
