package boltstore

import (
	"fmt"

	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

var (
	sharedRow  = []byte{messageShared}
	payloadRow = []byte{messagePayload}
	toRow      = []byte{messageTo}
)

// stored is a message as it is in the store.
type stored struct {
	kv   *kv.Snapshot
	keys messageKeys
	part kv.Part
	refs kv.Part // row of the references
	key  []byte
	message
	hasRefs bool // its references have a row
}

// set makes m another message, of which nothing is known yet.
func (m *stored) set(keys messageKeys, s *kv.Snapshot, key []byte) {
	*m = stored{kv: s, keys: keys, part: m.part, refs: m.refs, key: key}
	m.part.Set(tableMessage, "", key)
	m.refs.Set(tableReference, "", key)
}

// row returns a row of the message, nil if there is none.
func (m *stored) row(name []byte) ([]byte, error) {
	row, err := m.kv.Get(&m.part, name)
	return row, m.about(err)
}

// find looks the message up, and reports whether it is there.
func (m *stored) find() (bool, error) {
	row, err := m.row(sharedRow)
	if err != nil || row == nil {
		return false, err
	}
	m.message, err = decodeMessage(row)
	return true, m.about(err)
}

// load is find for a message that something refers to.
func (m *stored) load() error {
	there, err := m.find()
	if err == nil && !there {
		err = m.about(errMissing)
	}
	return err
}

// about says which message an error is about.
func (m *stored) about(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("message %q: %w", m.keys.id(m.key), err)
}

// references returns what needs the message.
func (m *stored) references() (references, error) {
	row, err := m.kv.Get(&m.refs, nil)
	if err != nil {
		return references{}, m.about(err)
	}
	if m.hasRefs = row != nil; !m.hasRefs {
		return references{inboxes: m.inboxes}, nil
	}
	r, err := decodeReferences(row)
	return r, m.about(err)
}

// placesOf returns the inboxes that got the message.
func (m *stored) placesOf() ([]place, error) {
	row := m.places
	if len(row) == 0 {
		var err error
		if row, err = m.row(toRow); err != nil {
			return nil, err
		}
		if row == nil {
			return nil, m.about(errMissing)
		}
	}
	places, err := decodePlaces(row)
	return places, m.about(err)
}

// errMissing: something refers to what is not there.
var errMissing = corrupt("reference to what is not there")

// known reports whether there is a message with a key.
func (w *writer) known(key []byte) (bool, error) {
	w.message.set(w.s.keys, &w.Snapshot, key)
	row, err := w.message.row(sharedRow)
	return row != nil, err
}

// addMessage stores what the copies of a message share.
func (w *writer) addMessage(key []byte, m *message, payload []byte, places []place) {
	w.message.set(w.s.keys, &w.Snapshot, key)
	p := &w.message.part
	w.row = w.row[:0]
	for i := range places {
		w.row = places[i].append(w.row)
	}
	if len(w.row) > inlinePlaces {
		w.Put(p, toRow, w.row)
	} else {
		m.places = w.row
	}
	if len(payload) > inlinePayload {
		w.Put(p, payloadRow, payload)
		m.apart = true
	} else {
		m.payload = payload
	}
	w.value = m.append(w.value[:0])
	w.Put(p, sharedRow, w.value)
}

// hold keeps a message known as long as another one changes it, and reports whether it is there.
func (w *writer) hold(key []byte) (bool, error) {
	m := &w.message
	m.set(w.s.keys, &w.Snapshot, key)
	if there, err := m.find(); err != nil || !there {
		return false, w.passOver(err)
	}
	refs, err := m.references()
	if err != nil {
		return false, w.passOver(err)
	}
	refs.changes++
	w.value = refs.append(w.value[:0])
	w.Put(&m.refs, nil, w.value)
	return true, nil
}

// release takes one inbox off a message. The payload goes with the last inbox, and the rest with the last message that changes it.
// What cannot be read stays: that costs some room, but holds up nothing else.
func (w *writer) release(key []byte) error {
	m := &w.message
	m.set(w.s.keys, &w.Snapshot, key)
	if err := m.load(); err != nil {
		return w.passOver(err)
	}
	refs, err := m.references()
	if err != nil {
		return w.passOver(err)
	}
	refs.inboxes = max(refs.inboxes, 1) - 1
	return w.unreferenced(m, refs)
}

// unreferenced notes what still needs a message, and removes what nothing needs.
func (w *writer) unreferenced(m *stored, refs references) error {
	w.value = refs.append(w.value[:0])
	if refs.inboxes > 0 {
		w.Put(&m.refs, nil, w.value)
		return nil
	}
	if m.apart {
		w.Delete(&m.part, payloadRow)
	}
	if refs.changes > 0 {
		w.Put(&m.refs, nil, w.value)
		m.payload, m.apart = nil, false
		w.value = m.append(w.value[:0])
		w.Put(&m.part, sharedRow, w.value)
		return nil
	}
	w.Delete(&m.part, sharedRow)
	if m.hasRefs {
		w.Delete(&m.refs, nil)
	}
	if len(m.places) == 0 {
		w.Delete(&m.part, toRow)
	}
	if len(m.of) == 0 {
		return nil
	}
	var of stored
	of.set(w.s.keys, &w.Snapshot, m.of)
	there, err := of.find()
	if err != nil || !there {
		return w.passOver(err)
	}
	left, err := of.references()
	if err != nil {
		return w.passOver(err)
	}
	left.changes = max(left.changes, 1) - 1
	return w.unreferenced(&of, left)
}
