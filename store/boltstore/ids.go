package boltstore

import (
	"encoding/binary"
	"math/bits"

	"github.com/manydevice/manydevice/event"
)

// idsEach is how many message IDs share a row. Those that one issuer made one after another are neighbours, and come in
// one after another as well, so that a commit of a thousand messages changes a few dozen rows.
const idsEach = 32

// messageKeys finds message IDs in the bucket of IDs.
type messageKeys struct{ issuer *event.Issuer }

// idKey says where the number of a message is found by its ID: at a place in a row that it shares, or, if no issuer of
// this store made it, in a row of its own.
type idKey struct {
	row    string
	place  uint8
	shared bool
}

func (k messageKeys) key(id event.MessageID) idKey {
	n, ok := k.issuer.Open(id)
	if !ok {
		return idKey{row: "\x01" + string(id)}
	}
	var row [1 + len(n)]byte
	last := copy(row[1:], n[:])
	place := row[last] % idsEach
	row[last] -= place
	return idKey{row: string(row[:]), place: place, shared: true}
}

// idRow is a row of message IDs: the numbers of messages by place, 0 where there is none.
type idRow struct {
	numbers [idsEach]uint64
	changed bool
}

// append encodes the row: a bit for each place that is taken, and of each number how far it is from the one before.
func (r *idRow) append(b []byte) []byte {
	at, taken, last := len(b), uint32(0), uint64(0)
	b = append(b, 0, 0, 0, 0)
	for i, n := range r.numbers {
		if n != 0 {
			taken |= 1 << i
			b = binary.AppendVarint(b, int64(n-last))
			last = n
		}
	}
	binary.BigEndian.PutUint32(b[at:], taken)
	return b
}

func decodeIDs(row []byte) (r idRow, err error) {
	if len(row) < 4 {
		return r, corrupt("message IDs")
	}
	last, rest := uint64(0), row[4:]
	for taken := binary.BigEndian.Uint32(row); taken != 0; taken &= taken - 1 {
		step, width := binary.Varint(rest)
		if width <= 0 || step == -int64(last) {
			return r, corrupt("message IDs")
		}
		last += uint64(step)
		rest = rest[width:]
		r.numbers[bits.TrailingZeros32(taken)] = last
	}
	if len(rest) != 0 {
		err = corrupt("message IDs")
	}
	return r, err
}

// messageNumber returns the number of a message, 0 if there is none with this ID.
func (b *base) messageNumber(key idKey) (uint64, error) {
	row := b.ids.Get([]byte(key.row))
	if row == nil {
		return 0, nil
	}
	if !key.shared {
		return number(row, "message number")
	}
	r, err := decodeIDs(row)
	return r.numbers[key.place], err
}

// messageNumber is as for readers, with what this group has changed.
func (w *writer) messageNumber(key idKey) (uint64, error) {
	if !key.shared {
		return w.base.messageNumber(key)
	}
	r, err := w.idRow(key)
	if err != nil {
		return 0, err
	}
	return r.numbers[key.place], nil
}

// idRow returns a row that all operations of the group share.
func (w *writer) idRow(key idKey) (*idRow, error) {
	if r := w.idRows[key.row]; r != nil {
		return r, nil
	}
	r := new(idRow)
	if row := w.ids.Get([]byte(key.row)); row != nil {
		var err error
		if *r, err = decodeIDs(row); err != nil {
			return nil, err
		}
	}
	w.idRows[key.row] = r
	return r, nil
}

// setMessageNumber has an ID lead to a message; 0: to none any more.
func (w *writer) setMessageNumber(key idKey, mid uint64) {
	if !key.shared {
		if mid == 0 {
			w.del(w.ids.Bucket, []byte(key.row))
		} else {
			w.put(w.ids.Bucket, []byte(key.row), numberKey(mid))
		}
		return
	}
	r, err := w.idRow(key)
	if err != nil {
		if w.err == nil {
			w.err = err
		}
		return
	}
	w.dirty = true
	if !r.changed {
		r.changed = true
		w.idOrder = append(w.idOrder, key.row)
	}
	r.numbers[key.place] = mid
}

// writeIDs writes the rows of IDs that the group changed.
func (w *writer) writeIDs() {
	for _, key := range w.idOrder {
		row := w.idRows[key]
		if row.numbers == [idsEach]uint64{} {
			w.del(w.ids.Bucket, []byte(key))
			continue
		}
		w.put(w.ids.Bucket, []byte(key), w.lasting(row.append(w.scratch.space(idsEach*binary.MaxVarintLen64))))
	}
}
