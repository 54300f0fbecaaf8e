package boltstore

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// purgeRows is how many rows of deleted accounts one commit removes at most.
const purgeRows = 512

// Delete implements [store.Store]. The account is gone at once; its rows are removed in slices, the first one at once and
// the rest in the background, also after a restart.
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

// forget gives the account a new, empty set of rows, and reports whether some of the old ones are left.
func (w *writer) forget(name event.Account, expect store.Revision) (bool, error) {
	a, err := w.account(name)
	if err != nil {
		return false, err
	}
	if store.Revision(a.head.record) != expect {
		return false, store.ErrConflict
	}
	old := a.aid
	a.aid = 0
	a.head = head{epoch: a.head.epoch + 1, revision: a.head.revision}
	w.touch(a)
	if old == 0 {
		return false, w.err
	}
	w.put(w.purge, numberKey(old), nil)
	done, err := w.purgeSlice(old)
	return !done, err
}

// purgeSlice removes some rows of a deleted account, and reports whether that were the last.
func (w *writer) purgeSlice(aid uint64) (bool, error) {
	type row struct {
		key   []byte
		mid   uint64 // of an entry
		value value  // of a record or register
	}
	rows := make([]row, 0, purgeRows)
	prefix := numberKey(aid)
	more := false
	err := scan(w.accounts, prefix, prefix, func(rest, v []byte) (bool, error) {
		if len(rest) == 0 {
			return false, corrupt("row")
		}
		if len(rows) == purgeRows {
			more = true
			return false, nil
		}
		r := row{key: slices.Concat(prefix, rest)}
		switch rest[0] { // what cannot be read stays, as in release
		case tagEntry:
			if e, err := decodeEntry(string(v)); err == nil {
				r.mid = e.mid
			}
		case tagRecord:
			if old, err := decodeRecord(string(v)); err == nil {
				r.value = old
			}
		case tagState:
			if st, err := decodeState(string(v)); err == nil {
				r.value = st.value
			}
		}
		rows = append(rows, r)
		return true, nil
	})
	if err != nil {
		return false, err
	}
	for _, r := range rows {
		w.del(w.accounts, r.key)
		w.dropValue(&r.value)
		if r.mid != 0 {
			if err := w.release(r.mid); err != nil {
				return false, err
			}
		}
	}
	if !more {
		w.del(w.purge, prefix)
	}
	return !more, w.err
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
		err := s.submit(s.purge, 0, func(w *writer) error {
			key, _ := w.purge.Cursor().First()
			if done = key == nil; done {
				return nil
			}
			aid, err := number(key, "purge key")
			if err != nil {
				return err
			}
			_, err = w.purgeSlice(aid)
			return err
		})
		if errors.Is(err, ErrCorrupt) {
			s.cfg.Logger.Error("boltstore: rows of deleted accounts stay", slog.Any("error", err))
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
