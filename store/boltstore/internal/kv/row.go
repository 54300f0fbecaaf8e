package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

// A row in the file is its key and a checksum over table, key and the rest; a kind; and the value, or what is said of a long one.
//
//  1. No value leaves the file unless its checksum is right for its key and table.
//  2. A row is reported missing only if both its neighbours leave no doubt. A damaged key that kept its order lies where the row
//     belongs, so that a search for the row meets it as a neighbour; see meant. One that lost its order is met by every search
//     that it led astray: a binary search ends at the element that misled it.
//  3. A damaged row stays where it is, and is an error for readers that need it. Only Open moves rows, whose damaged key it can
//     tell; see putBack.
const (
	rowHeader = 5 // checksum 4, kind 1
	kindWhole = 0
	kindLong  = 1 // the value is in bucketLong, cut into chunks; its length follows here

	// longValue is how long a value may be that is kept in its row. bbolt does not split a page of four rows, so that longer
	// ones would need many free pages side by side.
	longValue = 2 << 10
	maxLong   = 1 << 30
)

// ChunkBytes is how much of a long value is in one row: four rows fit into a page of 4 KiB.
const ChunkBytes = 960

// Damage is the error for a row that cannot be read.
type Damage struct {
	Table  string
	Key    []byte // nil: not known
	Reason string // empty: its checksum is not right
}

func (d *Damage) Error() string {
	s := fmt.Sprintf("%v: table %s, row", ErrCorrupt, d.Table)
	if d.Key != nil {
		s += fmt.Sprintf(" %q", d.Key)
	}
	if d.Reason != "" {
		s += ": " + d.Reason
	}
	return s
}

// Unwrap returns ErrCorrupt.
func (d *Damage) Unwrap() error { return ErrCorrupt }

func rowSum(t Table, key, rest []byte) uint32 {
	sum := crc32.Update(uint32(t), castagnoli, key)
	return crc32.Update(sum, castagnoli, rest)
}

// appendRow encodes what the file has of a row besides its key.
func appendRow(b []byte, t Table, key []byte, kind byte, value []byte) []byte {
	at := len(b)
	b = append(append(b, 0, 0, 0, 0, kind), value...)
	binary.BigEndian.PutUint32(b[at:], rowSum(t, key, b[at+4:]))
	return b
}

// intact reports whether a row is as it was written, under a key.
func intact(t Table, key, v []byte) bool {
	return len(v) >= rowHeader && rowSum(t, key, v[4:]) == binary.BigEndian.Uint32(v)
}

// meant returns the key that a row was written under, nil if that cannot be told. It is not k if the row is whole under a key
// that differs from k in one bit, or in one bit of its length.
func meant(t Table, k, v []byte) []byte {
	if intact(t, k, v) {
		return k
	}
	other := bytes.Clone(k)
	for i := range other {
		for bit := range 8 {
			other[i] ^= 1 << bit
			if intact(t, other, v) {
				return other
			}
			other[i] ^= 1 << bit
		}
	}
	all := append(other, v...)
	for bit := 0; 1<<bit < len(k); bit++ {
		n := len(k) ^ 1<<bit
		if n > len(k) { // the value would begin later, and what follows is not known
			continue
		}
		for end := n + rowHeader; end <= len(all); end++ {
			if intact(t, all[:n], all[n:end]) {
				return all[:n]
			}
		}
	}
	return nil
}

// suspect reports whether a row that is found under k is another key's.
func suspect(t Table, k, v, other []byte) bool {
	return !intact(t, k, v) && (intact(t, other, v) || bytes.Equal(meant(t, k, v), other))
}

// chunkKey is the key of the chunks of a long value, without their number. The last four bytes of a chunk's key are the number, so
// that it is clear which row it belongs to.
func chunkKey(t Table, key []byte) []byte { return append([]byte{byte(t)}, key...) }

// open returns the value of a row.
func (f *file) open(t Table, key, v []byte) ([]byte, error) {
	if !intact(t, key, v) {
		return nil, f.damage(t, key)
	}
	if v[4] == kindWhole {
		return v[rowHeader:], nil
	}
	return f.long(t, key, v)
}

func (f *file) damage(t Table, key []byte) error {
	return &Damage{Table: f.specs[t].Name, Key: bytes.Clone(key)}
}

// long puts a long value together.
func (f *file) long(t Table, key, v []byte) ([]byte, error) {
	size, n := binary.Uvarint(v[rowHeader:])
	if n <= 0 || v[4] != kindLong || size > maxLong {
		return nil, f.damage(t, key)
	}
	value := make([]byte, 0, size)
	chunk := chunkKey(t, key)
	c := f.longs.Cursor()
	next := uint32(0)
	for k, data := c.Seek(binary.BigEndian.AppendUint32(chunk, 0)); k != nil && uint64(len(value)) < size; k, data = c.Next() {
		if bytes.HasPrefix(k, chunk) && len(k) != len(chunk)+4 {
			continue // another row's, whose key begins with this one's
		}
		if want := binary.BigEndian.AppendUint32(chunk, next); !bytes.Equal(k, want) || !intact(longTable, k, data) {
			break
		}
		value = append(value, data[rowHeader:]...)
		next++
	}
	if uint64(len(value)) != size {
		return nil, f.damage(t, key)
	}
	return value, nil
}

// longTable stands for bucketLong in checksums.
const longTable = Table(255)

// putLong writes a long value in chunks, and returns what its row says.
func putLong(longs *bolt.Bucket, t Table, key, value []byte) ([]byte, error) {
	chunk := chunkKey(t, key)
	for n := 0; n*ChunkBytes < len(value); n++ {
		k := binary.BigEndian.AppendUint32(chunk, uint32(n))
		data := value[n*ChunkBytes : min((n+1)*ChunkBytes, len(value))]
		if err := longs.Put(k, appendRow(nil, longTable, k, kindWhole, data)); err != nil {
			return nil, err
		}
	}
	return binary.AppendUvarint(nil, uint64(len(value))), nil
}

// dropLong removes the chunks of a value.
func dropLong(longs *bolt.Bucket, t Table, key []byte) error {
	chunk := chunkKey(t, key)
	for n := uint32(0); ; n++ {
		k := binary.BigEndian.AppendUint32(chunk, n)
		if longs.Get(k) == nil {
			return nil
		}
		if err := longs.Delete(k); err != nil {
			return err
		}
	}
}

// hasLong reports whether rows of a part have long values.
func hasLong(longs *bolt.Bucket, t Table, prefix []byte) bool {
	chunk := chunkKey(t, prefix)
	k, _ := longs.Cursor().Seek(chunk)
	return bytes.HasPrefix(k, chunk)
}
