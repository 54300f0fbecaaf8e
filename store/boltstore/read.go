package boltstore

import (
	"bytes"
	"context"
	"errors"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// Bounds of one read transaction, whatever the caller asked for: pages are cut short there.
const (
	maxPageEntries = 16_384
	maxPageBytes   = 64 << 20
	scanNames      = 1024
)

// Load implements [store.Store].
func (s *Store) Load(ctx context.Context, name event.Account) (store.Record, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Record{}, err
	}
	var r store.Record
	err := s.view(ctx, func(v *view) error {
		r = store.Record{}
		a, err := v.account(name)
		if err != nil || a.head.record == 0 {
			return err
		}
		row, err := a.get(recordRow)
		if err != nil {
			return err
		}
		data, err := decodeRecord(row)
		r.Revision = store.Revision(a.head.record)
		r.Data = bytes.Clone(data)
		return a.about(err)
	})
	if err != nil {
		return store.Record{}, err
	}
	return r, nil
}

// Read implements [store.Store]. There is one copy of everything, so that Known has no effect. With NoBodies, MaxBytes
// counts entries without their payload. A page has at most 16,384 entries and ends after 64 MiB.
func (s *Store) Read(ctx context.Context, name event.Account, o store.ReadOptions) (store.Page, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Page{}, err
	}
	if err := o.Validate(); err != nil {
		return store.Page{}, err
	}
	var page store.Page
	err := s.view(ctx, func(v *view) error {
		page = store.Page{Entries: o.Into[:0]}
		a, err := v.account(name)
		if err != nil {
			return err
		}
		page.Head = s.epochs.head(&a.head)
		page.Through = max(o.After, page.Head.Seq)
		switch {
		case o.Limit == 0:
			page.Through = o.After
			return nil
		case !a.is:
			return nil
		}
		return v.fill(&page, a, &o)
	})
	if err != nil {
		return store.Page{}, err
	}
	return page, nil
}

// Message implements [store.Store].
func (s *Store) Message(ctx context.Context, id event.MessageID) (store.MessageInfo, error) {
	var info store.MessageInfo
	err := s.view(ctx, func(v *view) error {
		if id == "" {
			return store.ErrNotFound
		}
		var m stored
		m.set(s.keys, v.Snapshot, s.keys.key(nil, id))
		there, err := m.find()
		if err != nil {
			return err
		}
		if !there {
			return store.ErrNotFound
		}
		places, err := m.placesOf()
		if err != nil {
			return err
		}
		held, err := v.held(&m, places)
		if err != nil {
			return err
		}
		if !held {
			return store.ErrNotFound
		}
		info = store.MessageInfo{
			ID: m.id, Kind: m.kind, Flags: m.flags, Conversation: m.conversation, From: m.from, Time: millis(m.time),
			To: make([]store.Place, len(places)),
		}
		for i := range places {
			info.To[i] = s.epochs.place(&places[i])
		}
		return nil
	})
	return info, err
}

// held reports whether any inbox still holds a message, or any message that changes it is there. A message has a row
// until neither is the case, which is later than it should be only while entries of deleted accounts wait to be removed.
func (v *view) held(m *stored, places []place) (bool, error) {
	if !v.purging() {
		return true, nil
	}
	refs, err := m.references()
	if err != nil || refs.changes > 0 {
		return err == nil, err
	}
	for i := range places {
		row, e := v.entryAt(&places[i])
		if row != nil {
			return true, nil
		}
		err = errors.Join(err, e) // another inbox may know
	}
	return false, err
}

// purging reports whether rows of deleted accounts may be left.
func (v *view) purging() (some bool) {
	part := purgePart
	err := v.Scan(&part, nil, nil, func(_, _ []byte) (bool, error) {
		some = true
		return false, nil
	})
	return some || err != nil
}

// entryAt returns the entry at a place, nil if it was removed.
func (v *view) entryAt(p *place) ([]byte, error) {
	a, err := v.account(p.account)
	if err != nil || a.head.generation != p.generation {
		return nil, err
	}
	return a.entry(p.seq)
}

// Cursors implements [store.Store]. They are in order of incarnations.
func (s *Store) Cursors(ctx context.Context, name event.Account) ([]store.Cursor, error) {
	if err := store.CheckAccount(name); err != nil {
		return nil, err
	}
	var cursors []store.Cursor
	err := s.view(ctx, func(v *view) error {
		cursors = nil
		a, err := v.account(name)
		if err != nil {
			return err
		}
		return a.scan([]byte{tagCursor}, nil, func(key, row []byte) (bool, error) {
			i, err := number(key[1:], "cursor key")
			if err != nil {
				return false, err
			}
			c, err := decodeCursor(row)
			c.Account, c.Incarnation = name, event.Incarnation(i)
			cursors = append(cursors, c)
			return true, a.about(err)
		})
	})
	if err != nil {
		return nil, err
	}
	return cursors, nil
}

// Accounts implements [store.Store]. The order is that of the names' bytes. An account whose head is damaged is one of them.
func (s *Store) Accounts(ctx context.Context, after event.Account, limit int) ([]event.Account, error) {
	if err := store.CheckLimit(limit); err != nil {
		return nil, err
	}
	var list []event.Account
	for {
		n := min(limit-len(list), scanNames)
		var names [][]byte
		var used []event.Account
		err := s.view(ctx, func(v *view) (err error) {
			if names, err = v.Prefixes(tableHead, []byte(after), n); err != nil {
				return err
			}
			used = nil
			for _, name := range names {
				a, err := v.account(event.Account(name))
				if errors.Is(err, ErrCorrupt) || err == nil && (a.head.record != 0 || a.head.seq != 0) {
					used = append(used, event.Account(name))
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		list = append(list, used...)
		if len(names) < n || len(list) == limit {
			return list, nil
		}
		after = event.Account(names[len(names)-1])
	}
}

// view is what a reader sees.
type view struct {
	*kv.Snapshot
	s *Store
}

// account returns an account.
func (v *view) account(name event.Account) (*account, error) {
	a := new(account)
	return a, a.find(v.Snapshot, name)
}

// view runs f with what was published when it was called, or later. What f returns must be copies.
func (s *Store) view(ctx context.Context, f func(*view) error) error {
	err := s.db.View(ctx, func(k *kv.Snapshot) error { return f(&view{Snapshot: k, s: s}) })
	s.damaged(err)
	return err
}
