package boltstore

import (
	"encoding/binary"
	"slices"
)

// placesMax is how long the places of a message may be that are kept in its own row: those of a few inboxes.
const placesMax = 200

// addMessage stores what the copies of a message share.
func (w *writer) addMessage(mid uint64, m *message, payload []byte, places []place) {
	encoded := w.buf[:0]
	for i := range places {
		if encoded = places[i].append(encoded); len(encoded) > placesMax {
			break
		}
	}
	if len(encoded) > placesMax {
		for i, row := range encodePlaces(places) {
			w.put(w.places, chunkKey(mid, uint32(i)), row)
		}
		encoded = encoded[:0]
	}
	w.buf = encoded
	row := w.addValue(m.appendHeader(w.scratch.space(rowMax)), payload, rowMax-len(encoded))
	w.put(w.messages.Bucket, numberKey(mid), w.lasting(append(row, encoded...)))
}

// hold has a message stay known, and returns its number; 0 if there is none.
func (w *writer) hold(key idKey) uint64 {
	mid, err := w.messageNumber(key)
	if err != nil || mid == 0 {
		return 0
	}
	refs, err := w.references(mid)
	if err != nil {
		return 0
	}
	refs.changes++
	w.put(w.refs.Bucket, numberKey(mid), refs.encode())
	return mid
}

// addValue appends data to a row, or stores it beside if the row would get longer than most.
func (w *writer) addValue(row, data []byte, most int) []byte {
	if len(row)+binary.MaxVarintLen32+len(data) <= most {
		return appendInline(row, data)
	}
	blob, n := w.next(w.blobs), uint32(0)
	for part := range slices.Chunk(slices.Clone(data), rowMax) {
		w.put(w.blobs, chunkKey(blob, n), part)
		n++
	}
	return appendBlob(row, len(data), blob)
}

// dropValue removes what addValue stored beside the row.
func (w *writer) dropValue(v *value) {
	if v.blob == 0 {
		return
	}
	for _, k := range keysWith(w.blobs, numberKey(v.blob)) {
		w.del(w.blobs, k)
	}
}

// release takes one inbox off a message. The payload goes with the last one, and the rest with the last message that
// changes it. If a row of it cannot be read, they all stay: that costs some room, but holds up nothing else.
func (w *writer) release(mid uint64) error {
	refs, err := w.references(mid)
	if err != nil { // what cannot be read stays
		w.s.meters.readFailures.Add(1)
		return w.err
	}
	refs.inboxes = max(refs.inboxes, 1) - 1
	return w.unreferenced(mid, refs)
}

// unreferenced notes who still needs a message, and removes what nobody does.
func (w *writer) unreferenced(mid uint64, refs references) error {
	key := numberKey(mid)
	if refs.inboxes > 0 {
		w.put(w.refs.Bucket, key, refs.encode())
		return w.err
	}
	m, err := w.message(mid)
	if err != nil {
		w.s.meters.readFailures.Add(1)
		return w.err
	}
	w.dropValue(&m.payload)
	if refs.changes > 0 {
		w.put(w.refs.Bucket, key, refs.encode())
		w.put(w.messages.Bucket, key, append(appendInline(m.appendHeader(nil), nil), m.places...))
		return w.err
	}
	w.forgetMessage(m.id, mid)
	if m.places == "" {
		for _, k := range keysWith(w.places, key) {
			w.del(w.places, k)
		}
	}
	w.del(w.refs.Bucket, key)
	w.del(w.messages.Bucket, key)
	if m.of == 0 {
		return w.err
	}
	of, err := w.references(m.of)
	if err != nil {
		return w.err
	}
	of.changes = max(of.changes, 1) - 1
	return w.unreferenced(m.of, of)
}
