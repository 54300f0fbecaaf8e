package boltstore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Entries of a page share blocks of memory: a page takes few allocations, and who keeps one of its entries keeps a block
// of each kind, not the page.
const (
	textBlock = 4 << 10  // of what messages have beside their payload
	bodyBlock = 16 << 10 // of payloads; those of more than a quarter of it have memory of their own
)

// pageReader composes entries. What it returns shares no memory with the file.
type pageReader struct {
	v      *view
	bodies bool
	left   uint64 // so many entries are to come at most
	text   strings.Builder
	body   []byte

	// Messages are read in order of rising numbers, and often next to each other.
	cursor *bolt.Cursor
	key    [numberBytes]byte
	last   uint64
}

// fill puts entries into a page.
func (v *view) fill(page *store.Page, a *account, o *store.ReadOptions) error {
	limit, most := min(o.Limit, maxPageEntries), maxPageBytes
	if o.MaxBytes > 0 {
		most = min(o.MaxBytes, most)
	}
	size := 0
	left := min(uint64(limit), a.head.seq-min(o.After, a.head.seq))
	r := pageReader{v: v, bodies: !o.NoBodies, left: left, cursor: v.messages.Cursor()}
	return a.walk(o.After, func(l logged) (bool, error) {
		n := len(page.Entries)
		if n == limit || size >= most {
			page.Through = page.Entries[n-1].Seq
			return false, nil
		}
		if page.Entries == nil {
			page.Entries = make([]event.Entry, 0, min(r.left, 256))
		}
		page.Entries = slices.Grow(page.Entries, 1)[:n+1]
		e := &page.Entries[n]
		*e = event.Entry{Seq: l.seq}
		if err := r.entry(e, l.row); err != nil {
			return false, err
		}
		r.left = max(r.left, 1) - 1
		size += e.Size()
		return true, nil
	})
}

// entry composes what callers see of an entry.
func (r *pageReader) entry(out *event.Entry, row string) error {
	e, err := decodeEntry(row)
	if err != nil {
		return err
	}
	message := r.message(e.mid)
	if message == nil {
		return r.v.missing
	}
	out.Flags, out.ClientID, out.Origin, out.Targets, out.Key, out.Ordinal = e.flags, e.clientID, e.origin, e.targets, e.key, e.ordinal
	c, ok := cutMessage(message)
	if !ok {
		return r.apart(out, string(message), e.size)
	}
	c.fill(out, r.keepText(message[:c.payload[0]]))
	payload := message[c.payload[0]:c.payload[1]]
	switch {
	case !r.bodies:
	case uint64(len(payload)) != e.size:
		return r.dropped()
	case len(payload) != 0:
		out.Payload = r.keepBody(payload)
	}
	return nil
}

// apart is entry for a message whose payload is not in its row.
func (r *pageReader) apart(out *event.Entry, row string, size uint64) error {
	m, err := decodeMessage(row)
	if err != nil {
		return err
	}
	m.fill(out)
	if !r.bodies {
		return nil
	}
	if uint64(m.payload.size) != size {
		return r.dropped()
	}
	out.Payload, err = r.v.value(&m.payload)
	return err
}

// dropped is the error for a payload that is not there any more: memory is behind, and still has an entry that has been
// replaced.
func (r *pageReader) dropped() error { return r.v.missing }

// message returns the row of a message, nil if there is none.
func (r *pageReader) message(mid uint64) []byte {
	var k, row []byte
	binary.BigEndian.PutUint64(r.key[:], mid)
	if r.last != 0 && mid == r.last+1 {
		k, row = r.cursor.Next()
	}
	if !bytes.Equal(k, r.key[:]) {
		k, row = r.cursor.Seek(r.key[:])
	}
	if r.last = mid; !bytes.Equal(k, r.key[:]) {
		return nil
	}
	return row
}

func (r *pageReader) keepText(b []byte) string {
	if r.text.Cap()-r.text.Len() < len(b) {
		r.text = strings.Builder{}
		r.text.Grow(r.block(len(b), textBlock))
	}
	at := r.text.Len()
	r.text.Write(b)
	return r.text.String()[at:]
}

func (r *pageReader) keepBody(b []byte) []byte {
	if len(b) > bodyBlock/4 {
		return bytes.Clone(b)
	}
	if cap(r.body)-len(r.body) < len(b) {
		r.body = make([]byte, 0, r.block(len(b), bodyBlock))
	}
	at := len(r.body)
	r.body = append(r.body, b...)
	return r.body[at:len(r.body):len(r.body)]
}

// block is the size of a block that begins with n bytes: room for as much of each entry to come, within most.
func (r *pageReader) block(n, most int) int {
	return max(n, int(min(uint64(n)*max(r.left, 1), uint64(most))))
}
