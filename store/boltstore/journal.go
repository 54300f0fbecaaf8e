package boltstore

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
)

// The journal of a window is a sequence of records, one for each commit that changed accounts. A record begins with its
// length and checksum, four bytes each, and is cut into chunks.

const recordHeader = 8

// Bits that say what follows in a delta.
const (
	hasName = 1 << iota
	isGone
	hasEntries
	hasRows
	hasAttempts
	hasAnything = 1<<iota - 1
)

// recordWriter encodes deltas. The key of a row that is the same as that of the row before it costs one byte: a message
// to a group changes the same row of each member.
type recordWriter struct {
	b    []byte
	last string // key
}

func (r *recordWriter) begin() {
	if cap(r.b) == 0 {
		r.b = make([]byte, recordHeader)
	}
	r.b, r.last = r.b[:recordHeader], ""
}

func (r *recordWriter) number(n uint64) { r.b = binary.AppendUvarint(r.b, n) }

func (r *recordWriter) add(d *delta) {
	r.number(d.aid)
	at := len(r.b)
	r.b = append(r.b, 0)
	if d.name != "" {
		r.b[at] |= hasName
		r.b = appendString(r.b, d.name)
	}
	if d.gone {
		r.b[at] |= isGone
	}
	r.b = d.head.append(r.b)
	if len(d.entries) != 0 {
		r.b[at] |= hasEntries
		r.number(uint64(len(d.entries)))
		for i := range d.entries {
			r.number(d.head.seq - d.entries[i].seq)
			r.b = appendString(r.b, d.entries[i].row)
		}
	}
	if len(d.rows) != 0 {
		r.b[at] |= hasRows
		r.number(uint64(len(d.rows)))
		for _, w := range d.rows {
			r.row(w.key, w.value)
		}
	}
	if n := d.attempts.len(); n != 0 {
		r.b[at] |= hasAttempts
		r.number(uint64(n))
		d.attempts.each(r.row)
	}
}

func (r *recordWriter) row(key, value string) {
	if key == r.last {
		r.number(0)
	} else {
		r.b = appendString(r.b, key)
		r.last = key
	}
	r.b = appendString(r.b, value)
}

func (r *recordWriter) empty() bool { return len(r.b) == recordHeader }

// write puts the record at the end of a journal. It must not be changed before the commit.
func (r *recordWriter) write(journal *bolt.Bucket) error {
	body := r.b[recordHeader:]
	binary.BigEndian.PutUint32(r.b, uint32(len(body)))
	binary.BigEndian.PutUint32(r.b[4:], crc32.Checksum(body, castagnoli()))
	for chunk := range slices.Chunk(r.b, rowMax) {
		n, err := journal.NextSequence()
		if err != nil {
			return err
		}
		if err := journal.Put(numberKey(n), chunk); err != nil {
			return err
		}
	}
	return nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// replay calls f with each delta of a journal, in order.
func replay(journal *bolt.Bucket, f func(*delta)) error {
	var record []byte
	missing := 0
	next := uint64(1)
	c := journal.Cursor()
	for k, chunk := c.First(); k != nil; k, chunk = c.Next() {
		if n, err := number(k, "journal key"); err != nil || n != next {
			return corrupt("journal: chunk missing")
		}
		next++
		if len(record) == 0 {
			if len(chunk) < recordHeader {
				return corrupt("journal: record header")
			}
			missing = recordHeader + int(binary.BigEndian.Uint32(chunk))
		}
		if missing -= len(chunk); missing < 0 {
			return corrupt("journal: chunk too long")
		}
		record = append(record, chunk...)
		if missing > 0 {
			continue
		}
		if err := decodeDeltas(record, f); err != nil {
			return err
		}
		record = record[:0]
	}
	if missing > 0 || next != journal.Sequence()+1 {
		return corrupt("journal: cut short")
	}
	return nil
}

func decodeDeltas(record []byte, f func(*delta)) error {
	body := record[recordHeader:]
	if crc32.Checksum(body, castagnoli()) != binary.BigEndian.Uint32(record[4:]) {
		return corrupt("journal: checksum")
	}
	d := decoder{rest: string(body)} // the strings of all deltas share it
	last := ""
	for d.rest != "" {
		next := d.delta(&last)
		if d.bad {
			break
		}
		f(next)
	}
	return d.done("journal record")
}

func (d *decoder) delta(last *string) *delta {
	n := &delta{aid: d.uvarint()}
	has := d.bounded(hasAnything)
	if has&hasName != 0 {
		n.name = event.Account(d.string())
	}
	n.gone = has&isGone != 0
	n.head = d.head()
	if has&hasEntries != 0 {
		n.entries = make([]logged, d.bounded(uint64(len(d.rest))))
		for i := range n.entries {
			n.entries[i] = logged{n.head.seq - d.bounded(n.head.seq), d.string()}
		}
	}
	if has&hasRows != 0 {
		n.rows = make([]row, d.bounded(uint64(len(d.rest))))
		for i := range n.rows {
			n.rows[i] = row{d.key(last), d.string()}
		}
	}
	if has&hasAttempts != 0 {
		count := d.bounded(uint64(len(d.rest)))
		for range count {
			key := d.key(last)
			n.attempts.put(key, d.string())
		}
	}
	return n
}

func (d *decoder) key(last *string) string {
	if k := d.string(); k != "" {
		*last = k
	}
	if *last == "" {
		d.fail()
	}
	return *last
}
