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
	parts := make(map[event.Account][]uint32) // generations
	var messages [][]byte
	err := m.db.View(ctx, func(k *kv.Snapshot) error {
		err := k.All(tableAccount, func(key, _ []byte, _ error) error {
			if n, g, _, ok := cutAccount(key); ok {
				if list := parts[n]; len(list) == 0 || list[len(list)-1] != g {
					parts[n] = append(list, g)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = k.All(tableHead, func(key, _ []byte, _ error) error {
			if _, there := parts[event.Account(key)]; !there {
				parts[event.Account(key)] = nil
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = k.All(tablePurge, func(key, _ []byte, _ error) error {
			if name, g, _, ok := cutAccount(key); ok {
				m.deleted[name] = max(m.deleted[name], g)
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = k.All(tableMessage, func(key, _ []byte, _ error) error {
			if n := len(key) - 1; n > 0 && (len(messages) == 0 || !bytes.Equal(messages[len(messages)-1], key[:n])) {
				messages = append(messages, bytes.Clone(key[:n]))
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = k.All(tableReference, func(key, _ []byte, _ error) error {
			messages = append(messages, bytes.Clone(key))
			return nil
		})
		slices.SortFunc(messages, bytes.Compare)
		messages = slices.CompactFunc(messages, bytes.Equal)
		return err
	})
	if err != nil {
		return err
	}
	for names := range slices.Chunk(slices.Sorted(maps.Keys(parts)), mendSlice) {
		err := m.db.Update(ctx, 0, func(w *kv.Writer) (err error) {
			for i := 0; i < len(names) && err == nil; i++ {
				err = m.account(w, names[i], parts[names[i]])
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	changes, err := m.changes(ctx)
	if err != nil {
		return err
	}
	for again := true; again; {
		again = false
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
				return err
			}
		}
	}
	return nil
}

// account counts what an account has, and removes what makes no sense without what was lost.
func (m *mender) account(w *kv.Writer, name event.Account, generations []uint32) error {
	var a account
	if err := a.find(&w.Snapshot, name); err != nil || !a.is {
		a.is, a.head = true, head{generation: max(m.deleted[name]+1, slices.Max(append(generations, 1)))}
		a.rows.Set(tableAccount, string(name), generation(a.head.generation))
	}
	for _, g := range generations {
		if g != a.head.generation {
			if err := m.drop(w, kv.Of(tableAccount, append([]byte(name), generation(g)...)), kv.Of(tablePurge, nil), append([]byte(name), generation(g)...)); err != nil {
				return err
			}
		}
	}
	h := a.head
	h.entries, h.bytes, h.record, h.attempts, h.oldest = 0, 0, 0, 0, math.MaxUint64
	first := uint64(0)
	keys := make(map[string]uint64)
	var gone [][]byte
	err := w.Scan(&a.rows, nil, nil, func(row, value []byte) (bool, error) {
		ok := true
		switch row[0] {
		case tagEntry:
			var seq uint64
			var e entry
			if seq, e, ok = m.entry(w, &a, row, value); ok {
				h.seq = max(h.seq, seq)
				if first == 0 {
					first = seq
				}
				h.bytes += e.size + entryBytes
				if e.key == "" {
					h.entries++
				} else {
					keys[e.key] = seq
				}
				m.done.Entries++
			}
		case tagAttempt:
			t, err := decodeAttempt(value)
			if ok = err == nil; ok {
				h.attempts++
				h.oldest = min(h.oldest, t.expires)
			}
		case tagRecord:
			h.revision = max(h.revision, 1)
			h.record = h.revision
			if a.head.record != 0 {
				h.record = a.head.record
			}
		case tagCursor:
			c, err := decodeCursor(value)
			ok, h.seq = err == nil, max(h.seq, c.Seq)
		case tagState:
			st, err := decodeState(value)
			ok, h.seq = err == nil, max(h.seq, st.seq)
		case tagKey:
			ok = false
		}
		if !ok {
			gone = append(gone, bytes.Clone(row))
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, row := range gone {
		w.Delete(&a.rows, row)
		if row[0] != tagKey {
			m.done.Dropped++
		}
	}
	for key, seq := range keys {
		w.Put(&a.rows, keyRow(nil, key), binary.AppendUvarint(nil, seq))
	}
	switch {
	case first > 0 && (h.trim >= first || a.head.seq == 0):
		h.trim = first - 1
	case a.head.seq == 0: // it was lost, or has never had an entry
		h.trim = h.seq
	}
	if h.attempts == 0 {
		h.oldest = 0
	}
	m.done.Accounts++
	w.Put(&a.headPart, nil, h.append(nil, a.sum))
	return nil
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
