package boltstore

import (
	"encoding/binary"
	"math/bits"
)

// blockHeads is how many heads share a row. Those of accounts that are in use take about 25 bytes each, so that a block
// is below rowMax: a fold of many accounts writes few pages.
const blockHeads = 32

// slot is what a file has of an account beside its rows. Epoch 0 says that there is none.
type slot struct {
	head
	folds
}

// block is a row of heads.
type block [blockHeads]slot

func (b *block) encode() []byte {
	out := make([]byte, 4, rowMax)
	for i := range b {
		if b[i].epoch == 0 {
			continue
		}
		binary.BigEndian.PutUint32(out, binary.BigEndian.Uint32(out)|1<<i)
		at := len(out)
		out = append(out, 0)
		out = b[i].head.append(out)
		out = binary.AppendUvarint(out, b[i].last)
		out = binary.AppendUvarint(out, b[i].bits)
		out[at] = byte(len(out) - at - 1) // 11 numbers of at most 10 bytes each
	}
	return out
}

// slots calls f with each encoded slot of a block.
func slots(value []byte, f func(i int, encoded string)) error {
	if len(value) < 4 {
		return corrupt("heads")
	}
	d := decoder{rest: string(value[4:])}
	present := binary.BigEndian.Uint32(value)
	for i := range blockHeads {
		if present&(1<<i) != 0 {
			f(i, d.short())
		}
	}
	return d.done("heads")
}

// short reads a string of less than 128 bytes.
func (d *decoder) short() string {
	n := d.take(1)
	if n == "" || n[0] >= 0x80 {
		d.fail()
		return ""
	}
	return d.take(int(n[0]))
}

func decodeSlot(encoded string) (slot, error) {
	d := decoder{rest: encoded}
	s := slot{head: d.head(), folds: folds{last: d.uvarint(), bits: d.uvarint()}}
	return s, d.done("head")
}

func decodeBlock(value []byte) (*block, error) {
	b := new(block)
	var bad error
	err := slots(value, func(i int, encoded string) {
		var err error
		if b[i], err = decodeSlot(encoded); err != nil {
			bad = err
		}
	})
	if err == nil {
		err = bad
	}
	return b, err
}

func blockKey(aid uint64) []byte { return numberKey(aid / blockHeads) }

// readSlot returns what the file has of an account.
func readSlot(heads *table, aid uint64) (slot, error) {
	value := heads.Get(blockKey(aid))
	if value == nil {
		return slot{}, nil
	}
	encoded, err := cutSlot(value, int(aid%blockHeads))
	if err != nil || encoded == nil {
		return slot{}, err
	}
	return decodeSlot(string(encoded))
}

// cutSlot finds one encoded slot of a block, nil if there is none, without a look at the others but for their length.
func cutSlot(value []byte, i int) ([]byte, error) {
	if len(value) < 4 {
		return nil, corrupt("heads")
	}
	present, rest := binary.BigEndian.Uint32(value), value[4:]
	if present&(1<<i) == 0 {
		return nil, nil
	}
	for before := bits.OnesCount32(present & (1<<i - 1)); ; before-- {
		if len(rest) == 0 || rest[0] >= 0x80 || len(rest) <= int(rest[0]) {
			return nil, corrupt("heads")
		}
		n := 1 + int(rest[0])
		if before == 0 {
			return rest[1:n], nil
		}
		rest = rest[n:]
	}
}
