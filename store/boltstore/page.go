package boltstore

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Entries of a page share blocks of memory: a page takes few allocations, and a caller that keeps one of its entries keeps a block
// of each kind, not the page.
const (
	textBlock = 4 << 10  // of what messages have besides their payload
	bodyBlock = 16 << 10 // of payloads; those of more than a quarter of it have memory of their own
)

// pageReader composes entries. What it returns shares no memory with the store.
type pageReader struct {
	v      *view
	a      *account
	bodies bool
	left   uint64 // how many entries may still come
	text   strings.Builder
	body   []byte

	message stored
}

// fill puts entries into a page.
func (v *view) fill(page *store.Page, a *account, o *store.ReadOptions) error {
	limit, most := min(o.Limit, maxPageEntries), maxPageBytes
	if o.MaxBytes > 0 {
		most = min(o.MaxBytes, most)
	}
	size := 0
	left := min(uint64(limit), a.head.seq-min(o.After, a.head.seq))
	r := pageReader{v: v, a: a, bodies: !o.NoBodies, left: left}
	return a.walk(o.After, func(seq uint64, row []byte) (bool, error) {
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
		*e = event.Entry{Seq: seq}
		if err := r.entry(e, row); err != nil {
			return false, a.about(fmt.Errorf("entry %d: %w", seq, err))
		}
		r.left = max(r.left, 1) - 1
		size += e.Size()
		return true, nil
	})
}

// entry composes what callers see of an entry.
func (r *pageReader) entry(out *event.Entry, row []byte) error {
	e, err := decodeEntry(row)
	if err != nil {
		return err
	}
	out.Flags, out.ClientID, out.Origin, out.Targets, out.Key, out.Ordinal = e.flags, e.clientID, e.origin, e.targets, e.key, e.ordinal
	m := &r.message
	m.set(r.v.s.keys, r.v.Snapshot, e.message)
	shared, err := m.row(sharedRow)
	if err == nil && shared == nil {
		err = m.about(errMissing)
	}
	if err != nil {
		return err
	}
	c, ok := cutMessage(shared)
	if !ok {
		return r.apart(out, shared, e.size)
	}
	c.fill(out, r.keepText(shared[:c.payload[0]]))
	return r.payload(out, shared[c.payload[0]:c.payload[1]], e.size)
}

func (r *pageReader) payload(out *event.Entry, payload []byte, size uint64) error {
	switch {
	case !r.bodies:
	case uint64(len(payload)) != size:
		return r.message.about(corrupt("payload"))
	case len(payload) != 0:
		out.Payload = r.keepBody(payload)
	}
	return nil
}

// apart is entry for a message whose payload is not in the same row.
func (r *pageReader) apart(out *event.Entry, row []byte, size uint64) error {
	m, err := decodeMessage(row)
	if err != nil {
		return r.message.about(err)
	}
	m.fill(out)
	if !r.bodies {
		return nil
	}
	payload, err := r.message.row(payloadRow)
	if err != nil {
		return err
	}
	return r.payload(out, payload, size)
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
