package boltstore

import (
	"context"
	"fmt"
	"math"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// purgeRows is how many entries of deleted accounts one commit removes at most.
const purgeRows = 512

// Delete implements [store.Store]. The account is gone at once; its entries are removed in slices, the first one at once
// and the rest in the background, also after a restart. What else its rows held is written over in the background within
// about two hours, if there is room for it.
func (s *Store) Delete(ctx context.Context, name event.Account, expect store.Revision) error {
	if err := store.CheckAccount(name); err != nil {
		return err
	}
	more := false
	err := s.submit(ctx, 0, func(w *writer) (err error) {
		more, err = w.forget(name, expect)
		return err
	})
	if more {
		s.startPurge()
	}
	return err
}

// forget gives the account a new number, and so an empty set of rows, and reports whether some of the old ones are left.
func (w *writer) forget(name event.Account, expect store.Revision) (bool, error) {
	old, err := w.account(name)
	if err != nil {
		return false, err
	}
	if store.Revision(old.head.record) != expect {
		return false, store.ErrConflict
	}
	a := w.free()
	a.name, a.head, a.base = name, head{epoch: old.head.epoch + 1, revision: old.head.revision}, &w.base
	w.keep(a)
	w.touch(a)
	if old.aid == 0 {
		return false, w.err
	}
	old.name = ""
	if err := w.dropLong(old); err != nil {
		return false, err
	}
	return w.purgeSlice(old)
}

// dropLong drops what a deleted account's record and registers have beside their rows.
func (w *writer) dropLong(a *account) error {
	record, err := a.get(recordRow())
	if err != nil {
		return err
	}
	if v, err := decodeRecord(record); err == nil { // what cannot be read stays, as in release
		w.dropValue(&v)
	} else if record != "" {
		w.s.meters.readFailures.Add(1)
	}
	return a.scan(string(rune(tagState)), "", func(_, row string) (bool, error) {
		if st, err := decodeState(row); err == nil {
			w.dropValue(&st.value)
		} else {
			w.s.meters.readFailures.Add(1)
		}
		return w.err == nil, w.err
	})
}

// purged returns a deleted account whose entries are still there.
func (w *writer) purged(key, value []byte) (*account, error) {
	aid, err := number(key, "purge key")
	if err != nil {
		return nil, err
	}
	d := decoder{rest: string(value)}
	a := w.free()
	a.aid, a.head, a.base = aid, d.head(), &w.base
	if err := d.done("purge"); err != nil {
		return nil, err
	}
	left := a.head
	w.parts(a)
	a.head = left
	a.place, a.looked = slot{folds: folds{last: math.MaxUint64, bits: math.MaxUint64}}, true // wherever they are
	w.accts = append(w.accts, a)
	return a, nil
}

// purgeSlice releases the messages of some entries of a deleted account, and reports whether there are more. Its rows
// stay where they are until a sweep: nobody knows its number any more.
func (w *writer) purgeSlice(a *account) (bool, error) {
	if _, err := w.trimAccount(a, a.head.seq, purgeRows); err != nil {
		return false, err
	}
	w.touch(a)
	a.stage.gone = true
	if a.head.trim >= a.head.seq {
		w.del(w.purge, numberKey(a.aid))
		w.wantSweep()
		return false, w.err
	}
	w.put(w.purge, numberKey(a.aid), a.head.append(nil))
	return true, w.err
}

// startPurge sees to it that the rows of deleted accounts go. One goroutine does it, and ends when there are none.
func (s *Store) startPurge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusalLocked() != nil {
		return
	}
	if s.purging {
		s.again = true
		return
	}
	s.purging = true
	s.users++ // so that Close waits for it
	go s.purgeAll()
}

func (s *Store) purgeAll() {
	defer s.leave()
	for {
		done := false
		err := s.submit(s.life, 0, func(w *writer) error {
			key, value := w.purge.Cursor().First()
			if done = key == nil; done {
				return nil
			}
			a, err := w.purged(key, value)
			if err != nil {
				return err
			}
			_, err = w.purgeSlice(a)
			return err
		})
		if err != nil {
			s.workFailed(fmt.Errorf("remove rows of deleted accounts: %w", err))
		}
		s.mu.Lock()
		if err != nil || done && !s.again {
			s.purging = false
			s.mu.Unlock()
			return
		}
		s.again = false
		s.mu.Unlock()
	}
}
