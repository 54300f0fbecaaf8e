package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// Rows of deleted accounts are removed like this:
//
//  1. Delete raises the account's generation, which is a part of the keys of its rows, and puts the old one into the purge table.
//  2. Operations of their own go through the old generation's rows, some at a time, and say in the purge table how far they came.
//     Entries let go of their messages.
//  3. A row that cannot be read is removed unread. If there is no getting past it, the rest of the account waits, and is tried
//     again later. It holds up no other account.
const (
	// purgeRows is how many rows one operation removes at most; fewer if their keys are long.
	purgeRows = 512

	purgeAgain     = time.Second // after a failure, and twice as long after each other one
	purgeAgainMost = time.Minute
)

// Delete implements [store.Store]. The account is gone at once; its rows are removed in slices, the first one at once and the
// rest in the background, also after a restart.
func (s *Store) Delete(ctx context.Context, name event.Account, expect store.Revision) error {
	if err := store.CheckAccount(name); err != nil {
		return err
	}
	left := false
	err := s.update(ctx, 0, func(w *writer) (err error) {
		left, err = w.forget(name, expect)
		return err
	})
	if left {
		select {
		case s.deleted <- struct{}{}:
		default: // another one has said so
		}
	}
	return err
}

// forget raises the account's generation, and reports whether rows of the old one are left.
func (w *writer) forget(name event.Account, expect store.Revision) (left bool, err error) {
	a, err := w.account(name)
	if err != nil {
		return false, err
	}
	if store.Revision(a.head.record) != expect {
		return false, store.ErrConflict
	}
	old, was := a.head, a.is
	a.head = head{generation: old.generation + 1, revision: old.revision}
	a.is, a.touched = true, true
	a.rows.Set(tableAccount, string(name), generation(a.head.generation))
	if !was {
		return false, nil
	}
	key := append([]byte(name), generation(old.generation)...)
	part := purgePart
	w.Put(&part, key, []byte{purgeMark})
	more, stuck, err := w.purgeSlice(key)
	return more || stuck != nil, err
}

// Rows of the purge table have the part of the account's rows as their key, and then what comes after the mark as the last row
// that was removed.
var purgePart = kv.Of(tablePurge, nil)

const purgeMark = 1

// checkPurge makes sure that the rows to remove are no account's. A damaged row of the purge table may have another one's key.
func (w *writer) checkPurge(key []byte) error {
	name, generation, rest, ok := cutAccount(key)
	if !ok || len(rest) != 0 {
		return corrupt("key of the purge table")
	}
	a, err := w.account(name)
	if err == nil && a.head.generation <= generation {
		err = a.about(corrupt("row of the purge table: the account is in use"))
	}
	return err
}

// purgeSlice removes some rows of a deleted account, and reports whether there are more, and what it is stuck at, if it is.
func (w *writer) purgeSlice(key []byte) (more bool, stuck, err error) {
	if err := w.checkPurge(key); err != nil {
		return false, err, nil
	}
	purges := purgePart
	at, err := w.Get(&purges, key)
	if err != nil { // only the progress is lost
		if err := w.passOver(err); err != nil {
			return false, nil, err
		}
	} else if at == nil {
		return false, nil, nil
	}
	var last []byte
	if len(at) > 1 {
		last = bytes.Clone(at[1:])
	}
	var part kv.Part
	part.Set(tableAccount, "", key)
	gone := account{name: event.Account(key[:len(key)-1-generationBytes])} // for errors
	for n := 0; ; n++ {
		err := w.Scan(&part, nil, after(last), func(row, value []byte) (bool, error) {
			if more = n >= purgeRows || n > 0 && w.Filled(); more {
				return false, nil
			}
			n++
			last = append(last[:0], row...)
			w.Delete(&part, row)
			return true, w.purgeRow(&gone, row, value)
		})
		if err == nil {
			break
		}
		damaged, known := damagedRow(err, tableAccount, key, last)
		if err = gone.about(err); !known {
			stuck = err
			break
		}
		if err := w.passOver(err); err != nil {
			return false, nil, err
		}
		last = append(last[:0], damaged...)
		w.Delete(&part, last)
	}
	if stuck != nil && !errors.Is(stuck, ErrCorrupt) {
		return false, nil, stuck
	}
	if !more && stuck == nil {
		w.Delete(&purges, key)
		return false, nil, nil
	}
	w.value = append(append(w.value[:0], purgeMark), last...)
	w.Put(&purges, key, w.value)
	return more, stuck, nil
}

// purgeRow lets go of what a row of a deleted account holds.
func (w *writer) purgeRow(gone *account, row, value []byte) error {
	if !bytes.HasPrefix(row, entryRows) {
		return nil
	}
	e, err := decodeEntry(value)
	if err != nil {
		return w.passOver(gone.about(err))
	}
	return w.release(e.message)
}

// after is where a scan begins that goes on after a row; nil stands for before the first.
func after(row []byte) []byte {
	if row == nil {
		return nil
	}
	return append(bytes.Clone(row), 0)
}

// damagedRow returns the row of a part that a scan after last could not read, and false if it is not known which one that is.
func damagedRow(err error, t kv.Table, prefix, last []byte) ([]byte, bool) {
	d, ok := errors.AsType[*kv.Damage](err)
	if !ok || d.Table != tables[t].Name {
		return nil, false
	}
	row, ok := bytes.CutPrefix(d.Key, prefix)
	if !ok || len(row) == 0 || bytes.Compare(row, after(last)) <= 0 {
		return nil, false
	}
	return row, true
}

// purge removes the rows of deleted accounts, from Open to Close.
func (s *Store) purge(ctx context.Context) {
	wait := purgeAgain
	for {
		var again <-chan time.Time
		if s.purgeAll(ctx) {
			wait = purgeAgain
		} else {
			again, wait = time.After(wait), min(2*wait, purgeAgainMost)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.deleted:
		case <-again:
		}
	}
}

// purgeAll goes through all deleted accounts, and reports whether nothing is left to be done for them.
func (s *Store) purgeAll(ctx context.Context) bool {
	done := true
	for key := []byte(nil); ; {
		next, err := s.nextPurge(ctx, key)
		if err == nil && next == nil {
			return done
		}
		if err == nil {
			key, err = next, s.purgeAccount(ctx, next)
		}
		if err != nil {
			done = false
			s.workFailed(fmt.Errorf("remove rows of deleted accounts: %w", err))
		}
		if next == nil || ctx.Err() != nil {
			return done
		}
	}
}

// nextPurge returns the key of the purge table that follows, nil if there is none.
func (s *Store) nextPurge(ctx context.Context, last []byte) (next []byte, err error) {
	err = s.db.View(ctx, func(k *kv.Snapshot) error {
		part := purgePart
		err := k.Scan(&part, nil, after(last), func(row, _ []byte) (bool, error) {
			next = bytes.Clone(row)
			return false, nil
		})
		if row, ok := damagedRow(err, tablePurge, nil, last); ok {
			next, err = row, nil
		}
		return err
	})
	return next, err
}

// purgeAccount removes the rows of a deleted account.
func (s *Store) purgeAccount(ctx context.Context, key []byte) error {
	for {
		var more bool
		var stuck error
		err := s.update(ctx, 0, func(w *writer) (err error) {
			more, stuck, err = w.purgeSlice(key)
			return err
		})
		switch {
		case err != nil:
			return err
		case stuck != nil:
			return stuck
		case !more:
			return nil
		}
	}
}
