package boltstore

import (
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

var (
	sharedRow     = []byte{messageShared}
	payloadRow    = []byte{messagePayload}
	referencesRow = []byte{messageReferences}
	toRow         = []byte{messageTo}
)

// stored is a message as it is in the store.
type stored struct {
	kv   *kv.Snapshot
	part kv.Part
	key  []byte
	message
}

// find looks a message up, and reports whether it is there.
func (m *stored) find(s *kv.Snapshot, key []byte) (bool, error) {
	m.kv, m.key = s, key
	m.part.Set(tableMessage, "", key)
	row, err := s.Get(&m.part, sharedRow)
	if err == nil && row != nil {
		m.message, err = decodeMessage(row)
	}
	if err != nil {
		return false, fmt.Errorf("message %x: %w", key, err)
	}
	return row != nil, nil
}

// about says which message an error is about.
func (m *stored) about(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("message %q: %w", m.id, err)
}

// references returns who needs the message.
func (m *stored) references() (references, error) {
	row, err := m.kv.Get(&m.part, referencesRow)
	if err != nil {
		return references{}, m.about(err)
	}
	if row == nil {
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
		if row, err = m.kv.Get(&m.part, toRow); err != nil {
			return nil, m.about(err)
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
	var p kv.Part
	p.Set(tableMessage, "", key)
	row, err := w.Get(&p, sharedRow)
	return row != nil, err
}

// addMessage stores what the copies of a message share.
func (w *writer) addMessage(key []byte, m *message, payload []byte, places []place) {
	var p kv.Part
	p.Set(tableMessage, "", key)
	w.row = w.row[:0]
	for i := range places {
		w.row = places[i].append(w.row)
	}
	if len(w.row) > inlinePlaces {
		w.Put(&p, toRow, w.row)
	} else {
		m.places = w.row
	}
	if len(payload) > inlinePayload {
		w.Put(&p, payloadRow, payload)
		m.apart = true
	} else {
		m.payload = payload
	}
	w.value = m.append(w.value[:0])
	w.Put(&p, sharedRow, w.value)
}

// hold has a message stay known, and reports whether there is one.
func (w *writer) hold(key []byte) (bool, error) {
	var m stored
	if there, err := m.find(&w.Snapshot, key); err != nil || !there {
		return false, w.passOver(err)
	}
	refs, err := m.references()
	if err != nil {
		return false, w.passOver(err)
	}
	refs.changes++
	w.value = refs.append(w.value[:0])
	w.Put(&m.part, referencesRow, w.value)
	return true, nil
}

// passOver counts a row that cannot be read, and goes on without it.
func (w *writer) passOver(err error) error {
	if err == nil {
		return nil
	}
	w.s.damaged(err)
	return nil
}

// release takes one inbox off a message. The payload goes with the last one, and the rest with the last message that
// changes it. If a row of it cannot be read, they all stay: that costs some room, but holds up nothing else.
func (w *writer) release(key []byte) error {
	var m stored
	there, err := m.find(&w.Snapshot, key)
	if err == nil && !there {
		err = errMissing
	}
	if err != nil {
		return w.passOver(err)
	}
	refs, err := m.references()
	if err != nil {
		return w.passOver(err)
	}
	refs.inboxes = max(refs.inboxes, 1) - 1
	return w.unreferenced(&m, refs)
}

// unreferenced notes who still needs a message, and removes what nobody does.
func (w *writer) unreferenced(m *stored, refs references) error {
	w.value = refs.append(w.value[:0])
	if refs.inboxes > 0 {
		w.Put(&m.part, referencesRow, w.value)
		return nil
	}
	if m.apart {
		w.Delete(&m.part, payloadRow)
	}
	if refs.changes > 0 {
		w.Put(&m.part, referencesRow, w.value)
		m.payload, m.apart = nil, false
		w.value = m.append(w.value[:0])
		w.Put(&m.part, sharedRow, w.value)
		return nil
	}
	w.Delete(&m.part, sharedRow)
	w.Delete(&m.part, referencesRow)
	if len(m.places) == 0 {
		w.Delete(&m.part, toRow)
	}
	if len(m.of) == 0 {
		return nil
	}
	var of stored
	there, err := of.find(&w.Snapshot, m.of)
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

// conversationOf returns the conversation of a message.
func (w *writer) conversationOf(key []byte) (event.ConversationID, error) {
	var m stored
	there, err := m.find(&w.Snapshot, key)
	if err == nil && !there {
		err = fmt.Errorf("message %x: %w", key, errMissing)
	}
	return m.conversation, err
}
