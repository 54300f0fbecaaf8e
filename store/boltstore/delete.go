package boltstore

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// purgeRows is how many rows of deleted accounts one operation removes at most.
const purgeRows = 512

// Delete implements [store.Store]. The account is gone at once; its rows are removed in slices, the first one at once and the
// rest in the background, also after a restart.
func (s *Store) Delete(ctx context.Context, name event.Account, expect store.Revision) error {
	if err := store.CheckAccount(name); err != nil {
		return err
	}
	more := false
	err := s.update(ctx, 0, func(w *writer) (err error) {
		more, err = w.forget(name, expect)
		return err
	})
	if more {
		s.startPurge()
	}
	return err
}

// forget raises the account's generation, and reports whether rows of the old one are left.
func (w *writer) forget(name event.Account, expect store.Revision) (bool, error) {
	a, err := w.account(name)
	if err != nil {
		return false, err
	}
	if store.Revision(a.head.record) != expect {
		return false, store.ErrConflict
	}
	old := purged{name: name, head: a.head}
	was := a.is
	a.head = head{generation: old.generation + 1, revision: old.revision}
	a.is, a.touched = true, true
	a.rows.Set(tableAccount, string(name), generation(a.head.generation))
	if !was {
		return false, nil
	}
	return w.purgeSlice(&old)
}

// purged is a deleted account some of whose rows are still there.
type purged struct {
	name event.Account
	head
}

var purgePart = kv.Of(tablePurge, nil)

func (p *purged) key() []byte { return append([]byte(p.name), generation(p.generation)...) }

func decodePurged(key, row []byte) (p purged, err error) {
	n := len(key) - 5
	if n < 1 || key[n] != 0 {
		return p, corrupt("purge key")
	}
	p.name = event.Account(key[:n])
	p.head, err = decodeHead(row)
	if err == nil && p.generation != binary.BigEndian.Uint32(key[n+1:]) {
		err = corrupt("purge key")
	}
	return p, err
}

// purgeSlice removes some rows of a deleted account, those of entries first with what they hold of messages, and reports whether
// there are more.
func (w *writer) purgeSlice(p *purged) (bool, error) {
	a := &account{name: p.name, head: p.head, kv: &w.Snapshot, is: true}
	a.rows.Set(tableAccount, string(p.name), generation(p.generation))
	rows, err := w.trimAccount(a, a.head.seq, purgeRows)
	if err != nil {
		return false, err
	}
	more := a.head.trim < a.head.seq
	if !more {
		err := a.scan(nil, nil, func(key, _ []byte) (bool, error) {
			if more = rows >= purgeRows; !more {
				rows++
				w.unset(a, key)
			}
			return !more, nil
		})
		if err != nil {
			return false, err
		}
	}
	part := purgePart
	if !more {
		w.Delete(&part, p.key())
		return false, nil
	}
	w.value = a.head.append(w.value[:0])
	w.Put(&part, p.key(), w.value)
	return true, nil
}

// startPurge sees to it that the rows of deleted accounts go. One goroutine does it, and ends when there are none.
func (s *Store) startPurge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.purging {
		s.again = true
		return
	}
	s.purging = s.db.Go(s.purgeAll)
}

func (s *Store) purgeAll(ctx context.Context) {
	for {
		done := false
		err := s.update(ctx, 0, func(w *writer) error {
			done = true
			part := purgePart
			var next purged
			err := w.Scan(&part, nil, nil, func(key, row []byte) (_ bool, err error) {
				done = false
				next, err = decodePurged(key, row)
				return false, err
			})
			if err != nil || done {
				return err
			}
			_, err = w.purgeSlice(&next)
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
