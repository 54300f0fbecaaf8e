package boltstore

import (
	"context"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
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
		row, err := a.get(recordRow())
		if err != nil {
			return err
		}
		data, err := decodeRecord(row)
		if err != nil {
			return err
		}
		r.Revision = store.Revision(a.head.record)
		r.Data, err = v.value(&data)
		return err
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
		case a.aid == 0:
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
		mid, err := v.messageNumber(v.known(), s.keys.key(id))
		if err != nil {
			return err
		}
		if mid == 0 {
			return store.ErrNotFound
		}
		m, err := v.message(mid)
		if err != nil {
			return err
		}
		places, err := v.placesOf(mid, &m)
		if err != nil {
			return err
		}
		held, err := v.held(mid, places)
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

func (b *base) placesOf(mid uint64, m *message) ([]place, error) {
	if m.places != "" {
		return decodePlaces(m.places)
	}
	var all []place
	prefix := numberKey(mid)
	err := scan(b.places, prefix, prefix, func(_, row []byte) (bool, error) {
		places, err := decodePlaces(string(row))
		all = append(all, places...)
		return true, err
	})
	return all, err
}

// held reports whether any inbox still holds a message, or any message that changes it is there. A message has a row
// until neither is the case, which is later than it should be only while entries of deleted accounts wait to be removed.
func (v *view) held(mid uint64, places []place) (bool, error) {
	if k, _ := v.purge.Cursor().First(); k == nil {
		return true, nil
	}
	if refs, err := v.references(mid); err != nil || refs.changes > 0 {
		return err == nil, err
	}
	for i := range places {
		a, err := v.account(places[i].account)
		if err != nil {
			return false, err
		}
		if a.head.epoch != places[i].epoch || a.aid == 0 {
			continue
		}
		if row, err := a.entry(places[i].seq); err != nil || row != "" {
			return err == nil, err
		}
	}
	return false, nil
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
		return a.scan(string(rune(tagCursor)), "", func(key, row string) (bool, error) {
			i, err := number(key[1:], "cursor key")
			if err != nil {
				return false, err
			}
			c, err := decodeCursor(row)
			c.Account, c.Incarnation = name, event.Incarnation(i)
			cursors = append(cursors, c)
			return true, err
		})
	})
	if err != nil {
		return nil, err
	}
	return cursors, nil
}

// Accounts implements [store.Store]. The order is that of the names' bytes.
func (s *Store) Accounts(ctx context.Context, after event.Account, limit int) ([]event.Account, error) {
	if err := store.CheckLimit(limit); err != nil {
		return nil, err
	}
	var list []event.Account
	for {
		n := min(limit-len(list), scanNames)
		var names, used []event.Account
		err := s.view(ctx, func(v *view) (err error) {
			if names, err = v.someNames(after, n); err != nil {
				return err
			}
			used = nil
			for _, name := range names {
				a, err := v.account(name)
				if err != nil {
					return err
				}
				if a.head.record != 0 || a.head.seq != 0 {
					used = append(used, name)
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
		after = names[len(names)-1]
	}
}

// someNames returns the first n names after a given one, out of memory and file.
func (v *view) someNames(after event.Account, n int) ([]event.Account, error) {
	names, err := v.freshNames(after, n)
	if err != nil {
		return nil, err
	}
	seen := 0
	err = scan(v.names.Bucket, nil, append([]byte(after), 0), func(name, _ []byte) (bool, error) {
		names = append(names, event.Account(name))
		seen++
		return seen < n, nil
	})
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(n, len(names))], err
}
