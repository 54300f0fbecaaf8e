package boltstore

import (
	"context"
	"errors"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// writer is what one operation does. It makes all its checks first, returns an error if one fails, and then writes; what it wrote is
// undone if something that cannot be read turns up only then. Operations run one at a time, and use one writer after another:
// nothing is kept from one to the next but memory.
type writer struct {
	*kv.Writer
	s      *Store
	accts  []*account                 // in order of first use
	byName map[event.Account]*account // once there are many
	pool   []*account

	row, value   []byte // for keys and values
	conversation []byte
	inboxes      []place
	message      stored
	passed       []error // rows that were passed over
}

const (
	// manyAccounts is from how many accounts on an operation finds them by a map.
	manyAccounts = 16
	// What one operation has used, and the next one finds: a message to a group of some hundreds.
	keptAccounts = 1024
	keptBytes    = 1 << 20
)

// update runs an operation in the next group. bytes is what it writes, about.
func (s *Store) update(ctx context.Context, bytes int64, run func(*writer) error) error {
	var passed []error
	err := s.db.Update(ctx, bytes, func(k *kv.Writer) error {
		w := &s.writer
		w.Writer = k
		defer func() {
			passed = w.passed
			w.reset()
		}()
		if err := run(w); err != nil {
			return err
		}
		w.putHeads()
		return nil
	})
	for _, p := range passed { // here, since the goroutine that commits calls no logger
		s.damaged(p)
	}
	s.damaged(err)
	return err
}

// passOver notes a row that cannot be read, so that the operation goes on without it. Other errors are returned.
func (w *writer) passOver(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	w.passed = append(w.passed, err)
	return nil
}

// reset lets go of what the operation used.
func (w *writer) reset() {
	w.Writer, w.byName, w.passed = nil, nil, nil
	w.accts = w.accts[:0]
	if len(w.pool) > keptAccounts {
		w.pool, w.accts, w.inboxes = nil, nil, nil
	}
	clear(w.inboxes)
	if cap(w.row)+cap(w.value) > keptBytes {
		w.row, w.value = nil, nil
	}
}

// account returns an account. It is looked up once in an operation.
func (w *writer) account(name event.Account) (*account, error) {
	if w.byName != nil {
		if a := w.byName[name]; a != nil {
			return a, nil
		}
	} else {
		for _, a := range w.accts {
			if a.name == name {
				return a, nil
			}
		}
	}
	a := w.free()
	if err := a.find(&w.Snapshot, name); err != nil {
		return nil, err
	}
	w.keep(a)
	return a, nil
}

// free returns an account that is not in use.
func (w *writer) free() *account {
	n := len(w.accts)
	if n == len(w.pool) {
		w.pool = append(w.pool, new(account))
	}
	return w.pool[n]
}

func (w *writer) keep(a *account) {
	w.accts = append(w.accts, a)
	if w.byName != nil {
		w.byName[a.name] = a
	} else if len(w.accts) > manyAccounts {
		w.byName = make(map[event.Account]*account)
		for _, a := range w.accts {
			w.byName[a.name] = a
		}
	}
}

// putHeads writes the heads that changed.
func (w *writer) putHeads() {
	for _, a := range w.accts {
		if a.touched {
			w.value = a.head.append(w.value[:0], a.sum)
			w.Put(&a.headPart, nil, w.value)
		}
	}
}

// set changes a row of an account. The account has a head from now on.
func (w *writer) set(a *account, row, value []byte) {
	if !a.is {
		a.is, a.touched = true, true
	}
	w.Put(&a.rows, row, value)
}

// unset removes a row of an account.
func (w *writer) unset(a *account, row []byte) {
	if a.is {
		w.Delete(&a.rows, row)
	}
}
