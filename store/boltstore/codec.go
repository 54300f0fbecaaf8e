package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// corrupt is the error for a row that cannot be read.
func corrupt(what string) error { return fmt.Errorf("%w: bad %s", ErrCorrupt, what) }

// decoder reads a row. It never reads beyond it: the first read that would sets bad, and all later ones return zero.
// Strings that it returns share the memory of the row's string, which the caller made of the bytes in the file.
type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	var v uint64
	for i := range min(len(d.rest), binary.MaxVarintLen64) {
		c := d.rest[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.rest = d.rest[i+1:]
			return v
		}
	}
	d.fail()
	return 0
}

// bounded reads a number that is at most limit.
func (d *decoder) bounded(limit uint64) uint64 {
	v := d.uvarint()
	if v > limit {
		d.fail()
		return 0
	}
	return v
}

func (d *decoder) take(n int) string {
	if n > len(d.rest) {
		d.fail()
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) string() string { return d.take(int(d.bounded(math.MaxInt32))) }

func (d *decoder) fail() { d.rest, d.bad = "", true }

// done returns an error unless the whole row was read.
func (d *decoder) done(what string) error {
	if d.bad || d.rest != "" {
		return corrupt(what)
	}
	return nil
}

func appendString[S ~string](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// head is an account's row that every batch reads and most write.
type head struct {
	epoch    uint32 // counts deletions, from 1
	seq      uint64 // newest ever appended
	trim     uint64
	entries  uint64 // left, without a key
	bytes    uint64 // sum of sizes of those left
	attempts uint64 // idempotency records, expired ones included
	revision uint64 // last one given; also kept when the record is gone
	record   uint64 // revision of the record; 0: absent
}

func (h *head) encode() []byte {
	b := make([]byte, 0, 40)
	for _, v := range [...]uint64{
		uint64(h.epoch), h.seq, h.trim, h.entries, h.bytes, h.attempts, h.revision, h.record,
	} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeHead(row string) (head, error) {
	d := decoder{rest: row}
	h := head{
		epoch: uint32(d.bounded(math.MaxUint32)), seq: d.uvarint(), trim: d.uvarint(), entries: d.bounded(math.MaxInt32),
		bytes: d.bounded(math.MaxInt64), attempts: d.bounded(math.MaxInt32), revision: d.uvarint(), record: d.uvarint(),
	}
	if h.epoch == 0 || h.trim > h.seq || h.record > h.revision {
		d.fail()
	}
	return h, d.done("head")
}

// entry is what one inbox keeps of a message.
type entry struct {
	mid      uint64
	flags    event.Flags
	ordinal  uint64
	size     uint64 // of the payload
	key      string
	clientID event.ClientMessageID
	origin   event.LoginID
	targets  []event.Incarnation
}

func (e *entry) encode() []byte {
	b := make([]byte, 0, 24+len(e.key)+len(e.clientID)+len(e.origin)+10*len(e.targets))
	b = binary.AppendUvarint(b, e.mid)
	b = binary.AppendUvarint(b, uint64(e.flags))
	b = binary.AppendUvarint(b, e.ordinal)
	b = binary.AppendUvarint(b, e.size)
	b = appendString(b, e.key)
	b = appendString(b, e.clientID)
	b = appendString(b, e.origin)
	b = binary.AppendUvarint(b, uint64(len(e.targets)))
	for _, t := range e.targets {
		b = binary.AppendUvarint(b, uint64(t))
	}
	return b
}

func decodeEntry(row string) (entry, error) {
	d := decoder{rest: row}
	e := entry{
		mid: d.uvarint(), flags: event.Flags(d.bounded(math.MaxUint16)), ordinal: d.uvarint(),
		size: d.bounded(store.MaxPayloadBytes), key: d.string(),
		clientID: event.ClientMessageID(d.string()), origin: event.LoginID(d.string()),
	}
	if n := d.bounded(store.MaxTargets); n > 0 {
		e.targets = make([]event.Incarnation, n)
		for i := range e.targets {
			e.targets[i] = event.Incarnation(d.uvarint())
		}
	}
	return e, d.done("entry")
}

// message is what all copies of a message share. Its row changes once at most: the payload goes with the last copy.
type message struct {
	id           event.MessageID
	kind         event.Kind
	flags        event.Flags
	conversation event.ConversationID
	from         event.Account
	time         uint64 // Unix milliseconds
	expires      uint64 // Unix milliseconds plus one; 0: never
	of           uint64 // number of the message that it changes; 0: none
	payload      value
}

func newMessage(in *store.Message, now uint64) message {
	m := message{
		id: in.ID, kind: in.Kind, flags: in.Flags, conversation: in.Conversation, from: in.From, time: now,
	}
	if !in.Expires.IsZero() {
		m.expires = uint64(in.Expires.UnixMilli()) + 1
	}
	return m
}

// encodeHeader encodes all but the payload, which follows.
func (m *message) encodeHeader() []byte {
	b := make([]byte, 0, rowMax)
	b = appendString(b, m.id)
	b = appendString(b, m.kind)
	b = binary.AppendUvarint(b, uint64(m.flags))
	b = appendString(b, m.conversation)
	b = appendString(b, m.from)
	b = binary.AppendUvarint(b, m.time)
	b = binary.AppendUvarint(b, m.expires)
	return binary.AppendUvarint(b, m.of)
}

func decodeMessage(row string) (message, error) {
	d := decoder{rest: row}
	m := message{
		id: event.MessageID(d.string()), kind: event.Kind(d.string()), flags: event.Flags(d.bounded(math.MaxUint16)),
		conversation: event.ConversationID(d.string()), from: event.Account(d.string()),
		time: d.bounded(math.MaxInt64), expires: d.bounded(math.MaxInt64), of: d.uvarint(), payload: d.value(),
	}
	return m, d.done("message")
}

func (m *message) expiry() time.Time {
	if m.expires == 0 {
		return time.Time{}
	}
	return millis(m.expires - 1)
}

func millis(ms uint64) time.Time { return time.UnixMilli(int64(ms)).UTC() }

// references say who needs a message: inboxes that hold it, and messages that change it.
type references struct{ inboxes, changes uint64 }

func (r references) encode() []byte {
	return binary.BigEndian.AppendUint64(numberKey(r.inboxes), r.changes)
}

func decodeReferences(row []byte) (references, error) {
	if len(row) != 2*numberBytes {
		return references{}, corrupt("reference count")
	}
	return references{binary.BigEndian.Uint64(row), binary.BigEndian.Uint64(row[numberBytes:])}, nil
}

// encodeCount and decodeCount are about what a conversation has of entries that count as unread.
func encodeCount(counted uint64, uncounted []uint64) []byte {
	b := numberKey(counted)
	for _, n := range uncounted {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func decodeCount(row []byte) (counted uint64, uncounted []uint64, err error) {
	if len(row) == 0 || len(row)%numberBytes != 0 {
		return 0, nil, corrupt("count")
	}
	for b := row[numberBytes:]; len(b) > 0; b = b[numberBytes:] {
		uncounted = append(uncounted, binary.BigEndian.Uint64(b))
	}
	return binary.BigEndian.Uint64(row), uncounted, nil
}

// place is one inbox that got a message.
type place struct {
	account event.Account
	epoch   uint32
	seq     uint64
	ordinal uint64
}

func (p *place) append(b []byte) []byte {
	b = appendString(b, p.account)
	b = binary.AppendUvarint(b, uint64(p.epoch))
	b = binary.AppendUvarint(b, p.seq)
	return binary.AppendUvarint(b, p.ordinal)
}

func (d *decoder) place() place {
	return place{
		account: event.Account(d.string()), epoch: uint32(d.bounded(math.MaxUint32)), seq: d.uvarint(),
		ordinal: d.uvarint(),
	}
}

// encodePlaces cuts places into rows.
func encodePlaces(places []place) [][]byte {
	var rows [][]byte
	var b []byte
	for i := range places {
		b = places[i].append(b)
		if len(b) > rowMax-event.MaxIDBytes-3*binary.MaxVarintLen64 || i == len(places)-1 {
			rows = append(rows, b)
			b = nil
		}
	}
	return rows
}

func decodePlaces(row string) ([]place, error) {
	d := decoder{rest: row}
	var places []place
	for d.rest != "" {
		if p := d.place(); !d.bad {
			places = append(places, p)
		}
	}
	return places, d.done("place")
}

// attempt is an idempotency record.
type attempt struct {
	digest  string // 32 bytes
	expires uint64 // Unix milliseconds
	id      event.MessageID
	placed  bool  // the acting account's own inbox got the first message
	place   place // then: where
}

func (a *attempt) encode() []byte {
	b := append(make([]byte, 0, 96), a.digest...)
	b = binary.AppendUvarint(b, a.expires)
	b = appendString(b, a.id)
	if a.placed {
		b = a.place.append(b)
	}
	return b
}

func decodeAttempt(row string) (attempt, error) {
	d := decoder{rest: row}
	a := attempt{digest: d.take(32), expires: d.uvarint(), id: event.MessageID(d.string())}
	if d.rest != "" {
		a.placed, a.place = true, d.place()
	}
	return a, d.done("attempt")
}

// state is a register without its conversation and name, which the key holds.
type state struct {
	seq    uint64
	number uint64
	value  value
}

// encodeHeader encodes all but the value, which follows.
func (s *state) encodeHeader() []byte {
	b := make([]byte, 0, 32)
	b = binary.AppendUvarint(b, s.seq)
	return binary.AppendUvarint(b, s.number)
}

func decodeState(row string) (state, error) {
	d := decoder{rest: row}
	s := state{seq: d.uvarint(), number: d.uvarint(), value: d.value()}
	return s, d.done("register")
}

func decodeRecord(row string) (value, error) {
	d := decoder{rest: row}
	v := d.value()
	return v, d.done("record")
}

// value is a payload or the like: in its row, or in a blob.
type value struct {
	size   int
	blob   uint64 // 0: none
	inline string
}

func (d *decoder) value() value {
	n := d.bounded(2*store.MaxPayloadBytes + 1)
	v := value{size: int(n / 2)}
	if n%2 == 0 {
		v.inline = d.take(v.size)
	} else if v.blob = d.uvarint(); v.blob == 0 {
		d.fail()
	}
	return v
}

func appendInline(b, data []byte) []byte {
	return append(binary.AppendUvarint(b, 2*uint64(len(data))), data...)
}

func appendBlob(b []byte, size int, blob uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, 2*uint64(size)+1), blob)
}

func encodeCursor(c *store.Cursor) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, c.Seq), c.Sent)
}

func decodeCursor(row string) (store.Cursor, error) {
	d := decoder{rest: row}
	c := store.Cursor{Seq: d.uvarint(), Sent: d.uvarint()}
	return c, d.done("cursor")
}

// Cursors of StatePage name the last register of the page: its conversation, a line feed, which no identifier has, and
// its name.

func encodeStateCursor(key []byte) string {
	return string(bytes.Replace(key, []byte{0}, []byte{'\n'}, 1))
}

// decodeStateCursor returns what follows the tag in the register's key, nil for the beginning.
func decodeStateCursor(s string) ([]byte, bool) {
	if s == "" {
		return nil, true
	}
	conversation, name, ok := strings.Cut(s, "\n")
	return slices.Concat([]byte(conversation), []byte{0}, []byte(name)), ok
}
