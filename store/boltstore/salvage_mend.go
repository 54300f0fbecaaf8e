package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// mender makes what rows say of each other true.
type mender struct {
	db      *kv.DB
	done    *Salvaged
	holders map[string]uint64        // inboxes that hold a message
	places  map[string][]place       // of messages that do not know their inboxes any longer
	deleted map[event.Account]uint32 // the last generation of an account that was deleted and whose rows are still being removed
}

func (m *mender) mend(ctx context.Context) error {
	generations, messages, err := m.gather(ctx)
	if err != nil {
		return err
	}
	for names := range slices.Chunk(slices.Sorted(maps.Keys(generations)), mendSlice) {
		err := m.db.Update(ctx, 0, func(w *kv.Writer) (err error) {
			for i := 0; i < len(names) && err == nil; i++ {
				err = m.account(w, names[i], generations[names[i]])
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	changes, err := m.changes(ctx)
	for again := err == nil; again && err == nil; {
		again, err = m.round(ctx, messages, changes)
	}
	return err
}

// round looks at all messages, and reports whether some are gone, which may be what others were kept for.
func (m *mender) round(ctx context.Context, messages [][]byte, changes map[string]uint64) (again bool, err error) {
	m.done.Messages = 0
	for keys := range slices.Chunk(messages, mendSlice) {
		err := m.db.Update(ctx, 0, func(w *kv.Writer) error {
			for _, key := range keys {
				gone, err := m.message(w, key, changes)
				if err != nil {
					return err
				}
				again = again || gone
			}
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	return again, nil
}

// gather returns the generations that accounts have rows of, none for an account that has a head alone, and the keys of messages.
func (m *mender) gather(ctx context.Context) (generations map[event.Account][]uint32, messages [][]byte, err error) {
	generations = make(map[event.Account][]uint32)
	note := func(t kv.Table, key []byte) {
		switch t {
		case tableAccount:
			if name, g, _, ok := cutAccount(key); ok {
				if list := generations[name]; len(list) == 0 || list[len(list)-1] != g {
					generations[name] = append(list, g)
				}
			}
		case tableHead:
			generations[event.Account(key)] = nil // this table comes first
		case tablePurge:
			if name, g, _, ok := cutAccount(key); ok {
				m.deleted[name] = max(m.deleted[name], g)
			}
		case tableMessage:
			if n := len(key) - 1; n > 0 {
				messages = append(messages, bytes.Clone(key[:n]))
			}
		case tableReference:
			messages = append(messages, bytes.Clone(key))
		}
	}
	err = m.db.View(ctx, func(k *kv.Snapshot) error {
		for t := range tables {
			err := k.All(kv.Table(t), func(key, _ []byte, _ error) error {
				note(kv.Table(t), key)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	slices.SortFunc(messages, bytes.Compare)
	return generations, slices.CompactFunc(messages, bytes.Equal), err
}

// account counts what an account has, and removes what makes no sense without what was lost.
func (m *mender) account(w *kv.Writer, name event.Account, generations []uint32) error {
	var a account
	if err := a.find(&w.Snapshot, name); err != nil || !a.is {
		a.is, a.head = true, head{generation: max(m.deleted[name]+1, slices.Max(append(generations, 1)))}
		a.rows.Set(tableAccount, string(name), generation(a.head.generation))
	}
	for _, g := range generations {
		if g == a.head.generation {
			continue
		}
		key := append([]byte(name), generation(g)...)
		if err := m.drop(w, kv.Of(tableAccount, key), kv.Of(tablePurge, nil), key); err != nil {
			return err
		}
	}
	c := accountCount{head: a.head, keys: make(map[string]uint64)}
	c.entries, c.bytes, c.record, c.attempts, c.recount = 0, 0, 0, 0, math.MaxUint64
	err := w.Scan(&a.rows, nil, nil, func(row, value []byte) (bool, error) {
		if !m.row(w, &a, &c, row, value) {
			c.gone = append(c.gone, bytes.Clone(row))
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, row := range c.gone {
		w.Delete(&a.rows, row)
		if row[0] != tagKey { // those that hold are written again
			m.done.Dropped++
		}
	}
	for key, seq := range c.keys {
		w.Put(&a.rows, keyRow(nil, key), binary.AppendUvarint(nil, seq))
	}
	switch {
	case c.first > 0 && (c.trim >= c.first || a.head.seq == 0):
		c.trim = c.first - 1
	case a.head.seq == 0: // it was lost, or has never had an entry
		c.trim = c.seq
	}
	if c.attempts == 0 {
		c.recount = 0
	}
	m.done.Accounts++
	w.Put(&a.headPart, nil, c.append(nil, a.sum))
	return nil
}

// accountCount is what the rows of an account say.
type accountCount struct {
	head
	first uint64            // entry; 0: there is none
	keys  map[string]uint64 // coalesce keys of entries
	gone  [][]byte          // rows to remove
}

// row counts a row of an account, and reports whether it can be kept.
func (m *mender) row(w *kv.Writer, a *account, c *accountCount, row, value []byte) bool {
	switch row[0] {
	case tagEntry:
		seq, e, ok := m.entry(w, a, row, value)
		if !ok {
			return false
		}
		c.seq = max(c.seq, seq)
		if c.first == 0 {
			c.first = seq
		}
		c.bytes += e.size + entryBytes
		if e.key == "" {
			c.entries++
		} else {
			c.keys[e.key] = seq
		}
		m.done.Entries++
	case tagAttempt:
		t, err := decodeAttempt(value)
		if err != nil {
			return false
		}
		c.attempts++
		c.recount = min(c.recount, t.expires)
	case tagRecord:
		c.revision = max(c.revision, 1)
		c.record = c.revision
		if a.head.record != 0 {
			c.record = a.head.record
		}
	case tagCursor:
		cursor, err := decodeCursor(value)
		c.seq = max(c.seq, cursor.Seq)
		return err == nil
	case tagState:
		st, err := decodeState(value)
		c.seq = max(c.seq, st.seq)
		return err == nil
	case tagKey:
		return false
	}
	return true
}

// entry reports whether an entry can be kept: its message is whole.
func (m *mender) entry(w *kv.Writer, a *account, row, value []byte) (seq uint64, e entry, ok bool) {
	seq, err := number(row[1:], "entry key")
	if err == nil {
		e, err = decodeEntry(value)
	}
	if err != nil || seq <= a.head.trim {
		return seq, e, false
	}
	var s stored
	s.set(messageKeys{}, &w.Snapshot, e.message)
	s.key = nil // errors need no name
	there, err := s.find()
	if err != nil || !there || s.fits(e.size) != nil {
		return seq, e, false
	}
	m.holders[string(e.message)]++
	if _, err := s.placesOf(); err != nil {
		m.places[string(e.message)] = append(m.places[string(e.message)],
			place{account: a.name, generation: a.head.generation, seq: seq, ordinal: e.ordinal})
	}
	return seq, e, true
}

// drop removes all rows of a part, and the row that says that they are to go.
func (m *mender) drop(w *kv.Writer, part, purge kv.Part, key []byte) error {
	var rows [][]byte
	err := w.Scan(&part, nil, nil, func(row, _ []byte) (bool, error) {
		rows = append(rows, bytes.Clone(row))
		return true, nil
	})
	for _, row := range rows {
		w.Delete(&part, row)
		m.done.Dropped++
	}
	w.Delete(&purge, key)
	return err
}

// changes counts, for each message, the messages that change it.
func (m *mender) changes(ctx context.Context) (map[string]uint64, error) {
	n := make(map[string]uint64)
	err := m.db.View(ctx, func(k *kv.Snapshot) error {
		return k.All(tableMessage, func(key, value []byte, _ error) error {
			if key[len(key)-1] == messageShared {
				if msg, err := decodeMessage(value); err == nil && len(msg.of) > 0 {
					n[string(msg.of)]++
				}
			}
			return nil
		})
	})
	return n, err
}

// message counts who needs a message, and removes one that nothing needs. It reports whether one went that had changed another.
func (m *mender) message(w *kv.Writer, key []byte, changes map[string]uint64) (gone bool, err error) {
	var s stored
	s.set(messageKeys{}, &w.Snapshot, key)
	s.key = key
	there, err := s.find()
	if unlessCorrupt(err) != nil {
		return false, err
	}
	holders := m.holders[string(key)]
	n := changes[string(key)]
	if there && holders+n > 0 {
		m.done.Messages++
		refs := references{inboxes: holders, changes: n}
		w.Put(&s.refs, nil, refs.append(nil))
		if places := m.places[string(key)]; len(places) > 0 {
			var row []byte
			for i := range places {
				row = places[i].append(row)
			}
			w.Put(&s.part, toRow, row)
		}
		return false, nil
	}
	if there && len(s.of) > 0 {
		gone = true
		changes[string(s.of)]--
	}
	w.Delete(&s.refs, nil)
	return gone, m.drop(w, s.part, kv.Of(tablePurge, nil), nil)
}
