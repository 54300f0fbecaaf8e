package boltstore

import (
	"context"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// entryBytes is what an entry counts for besides its payload; see [event.Entry.Size].
const entryBytes = 64

// sliceRows is how many entries or cursors one operation of Trim, Void or SaveCursors changes at most, so that others
// are not held up for long. It changes fewer if their rows are long.
const sliceRows = 512

// Trim implements [store.Store]. Many entries are removed in several commits.
func (s *Store) Trim(ctx context.Context, name event.Account, through uint64, limit int) (store.Head, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Head{}, err
	}
	if err := store.CheckLimit(limit); err != nil {
		return store.Head{}, err
	}
	for {
		var after head
		removed := 0
		n := min(limit, sliceRows)
		err := s.update(ctx, 0, func(w *writer) (err error) {
			after, removed, err = w.trim(name, through, n)
			return err
		})
		if err != nil {
			return store.Head{}, err
		}
		limit -= removed
		if limit == 0 || after.trim >= min(through, after.seq) {
			return s.epochs.head(&after), nil
		}
	}
}

func (w *writer) trim(name event.Account, through uint64, limit int) (head, int, error) {
	a, err := w.account(name)
	if err != nil {
		return head{}, 0, err
	}
	removed, err := w.trimAccount(a, through, limit)
	return a.head, removed, err
}

// trimAccount removes the oldest entries of an inbox up to a number, at most limit of them, and returns how many.
func (w *writer) trimAccount(a *account, through uint64, limit int) (int, error) {
	through = min(through, a.head.seq)
	removed := 0
	err := a.walk(0, through, func(seq uint64, row []byte) (bool, error) {
		if removed == limit || removed > 0 && w.Filled() {
			through = seq - 1
			return false, nil
		}
		removed++
		_, err := w.drop(a, seq, row)
		return true, err
	})
	if err != nil || through <= a.head.trim {
		return 0, err
	}
	a.head.trim, a.touched = through, true
	return removed, nil
}

// Void implements [store.Store]. Many entries are removed in several commits.
func (s *Store) Void(ctx context.Context, name event.Account, seqs []uint64) (store.Head, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Head{}, err
	}
	var after head
	for {
		n := 0
		err := s.update(ctx, 0, func(w *writer) error {
			a, err := w.account(name)
			if err != nil {
				return err
			}
			n = len(seqs)
			if a.is {
				for n = 0; n < len(seqs) && n < sliceRows && !w.Filled(); n++ {
					if err := w.void(a, seqs[n]); err != nil {
						return err
					}
				}
			}
			after = a.head
			return nil
		})
		if err != nil {
			return store.Head{}, err
		}
		if seqs = seqs[n:]; len(seqs) == 0 {
			return s.epochs.head(&after), nil
		}
	}
}

// remove takes an entry out of an inbox before its time and returns it as it was. A number without an entry is skipped:
// then it has no message.
func (w *writer) remove(a *account, seq uint64) (entry, error) {
	row, err := a.entry(seq)
	if err != nil || row == nil {
		return entry{}, err
	}
	return w.drop(a, seq, row)
}

// drop removes an entry, and updates the head, the row of its key and the references of its message. The count is left to the caller.
func (w *writer) drop(a *account, seq uint64, row []byte) (entry, error) {
	e, err := decodeEntry(row)
	if err == nil && (a.head.bytes < e.size+entryBytes || e.key == "" && a.head.entries == 0) {
		err = corrupt("count of entries")
	}
	if err != nil {
		return entry{}, a.about(fmt.Errorf("entry %d: %w", seq, err))
	}
	a.touched = true
	a.head.bytes -= e.size + entryBytes
	if e.key == "" {
		a.head.entries--
	} else if have, err := a.keyed(e.key); err != nil {
		return entry{}, err
	} else if have == seq {
		w.row = keyRow(w.row[:0], e.key)
		w.unset(a, w.row)
	}
	w.row = entryRow(w.row[:0], seq)
	w.unset(a, w.row)
	return e, w.release(e.message)
}

// void removes an entry and takes it out of the count of its conversation.
func (w *writer) void(a *account, seq uint64) error {
	old, err := w.remove(a, seq)
	if err != nil {
		return err
	}
	return w.uncount(a, &old)
}

// SaveCursors implements [store.Store]. Many cursors are saved in several commits; if one fails, the earlier ones stay.
func (s *Store) SaveCursors(ctx context.Context, cursors []store.Cursor) error {
	for i := range cursors {
		if err := cursors[i].Validate(); err != nil {
			return err
		}
	}
	if len(cursors) == 0 {
		return s.db.View(ctx, func(*kv.Snapshot) error { return nil })
	}
	for n := 0; len(cursors) > 0; cursors = cursors[n:] {
		err := s.update(ctx, 0, func(w *writer) error {
			for n = 0; n < len(cursors) && n < sliceRows && !w.Filled(); n++ {
				if err := w.saveCursor(&cursors[n]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// saveCursor merges a cursor by maximum, if it is there.
func (w *writer) saveCursor(c *store.Cursor) error {
	a, err := w.account(c.Account)
	if err != nil {
		return err
	}
	w.row = cursorRow(w.row[:0], c.Incarnation)
	row, err := a.get(w.row)
	if err != nil || row == nil { // never begun, or forgotten
		return err
	}
	old, err := decodeCursor(row)
	if err != nil {
		return a.about(err)
	}
	next := *c
	next.Seq, next.Sent = max(next.Seq, old.Seq), max(next.Sent, old.Sent)
	if next.Seq != old.Seq || next.Sent != old.Sent {
		w.value = appendCursor(w.value[:0], &next)
		w.set(a, w.row, w.value)
	}
	return nil
}
