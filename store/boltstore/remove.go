package boltstore

import (
	"context"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// entryBytes is what an entry counts for beside its payload; see [event.Entry.Size].
const entryBytes = 64

// sliceRows is how many entries or cursors one operation of Trim, Void or SaveCursors changes at most, so that others
// are not held up for long.
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
		err := s.submit(ctx, 0, func(w *writer) (err error) {
			after, removed, err = w.trim(name, through, n)
			return err
		})
		limit -= removed
		if err != nil || limit == 0 || after.trim >= min(through, after.seq) {
			return s.head(&after), err
		}
	}
}

func (w *writer) trim(name event.Account, through uint64, limit int) (head, int, error) {
	a, err := w.account(name)
	if err != nil || a.aid == 0 {
		return a.orEmpty(), 0, err
	}
	through = min(through, a.head.seq)
	var seqs []uint64
	prefix := tagKeyFor(a.aid, tagEntry, 0)
	err = scan(w.accounts, prefix, prefix, func(rest, _ []byte) (bool, error) {
		seq, err := number(rest, "entry key")
		if err != nil || seq > through {
			return false, err
		}
		if len(seqs) == limit {
			through = seq - 1
			return false, nil
		}
		seqs = append(seqs, seq)
		return true, nil
	})
	if err != nil {
		return head{}, 0, err
	}
	for _, seq := range seqs {
		if _, err := w.remove(a, seq); err != nil {
			return head{}, 0, err
		}
	}
	if through > a.head.trim {
		w.touch(a)
		a.head.trim = through
	}
	return a.head, len(seqs), w.err
}

func (a *account) orEmpty() head {
	if a == nil {
		return head{}
	}
	return a.head
}

// Void implements [store.Store]. Many entries are removed in several commits.
func (s *Store) Void(ctx context.Context, name event.Account, seqs []uint64) (store.Head, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Head{}, err
	}
	var after head
	for {
		n := min(len(seqs), sliceRows)
		err := s.submit(ctx, 0, func(w *writer) error {
			a, err := w.account(name)
			if err != nil {
				return err
			}
			if a.aid != 0 {
				for _, seq := range seqs[:n] {
					if err := w.void(a, seq); err != nil {
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
			return s.head(&after), nil
		}
	}
}

// void removes an entry and takes it out of the count of its conversation.
func (w *writer) void(a *account, seq uint64) error {
	old, err := w.remove(a, seq)
	if err != nil {
		return err
	}
	return w.uncount(a, old.conversation, old.ordinal)
}

// SaveCursors implements [store.Store]. Many cursors are saved in several commits; if one fails, the earlier ones stay.
func (s *Store) SaveCursors(ctx context.Context, cursors []store.Cursor) error {
	for i := range cursors {
		if err := cursors[i].Validate(); err != nil {
			return err
		}
	}
	if len(cursors) == 0 {
		if err := s.enter(ctx); err != nil {
			return err
		}
		s.leave()
	}
	for part := range slices.Chunk(cursors, sliceRows) {
		err := s.submit(ctx, 0, func(w *writer) error {
			for i := range part {
				if err := w.saveCursor(&part[i]); err != nil {
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
