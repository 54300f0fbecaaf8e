package boltstore

import (
	"encoding/binary"
	"fmt"
	"math"
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
	if len(d.rest) != 0 && d.rest[0] < 0x80 { // as nearly all are
		v := d.rest[0]
		d.rest = d.rest[1:]
		return uint64(v)
	}
	return d.longUvarint()
}

func (d *decoder) longUvarint() uint64 {
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

// head is what every batch reads of an account and most write.
type head struct {
	epoch    uint32 // counts deletions, from 1
	seq      uint64 // newest ever appended
	trim     uint64
	entries  uint64 // left, without a key
	bytes    uint64 // sum of sizes of those left
	revision uint64 // last one given; also kept when the record is gone
	record   uint64 // revision of the record; 0: absent
	attempts uint64 // there are at most so many idempotency records, expired ones included
	oldest   uint64 // Unix milliseconds; none of them expires before
}

func (h *head) append(b []byte) []byte {
	for _, v := range [...]uint64{
		uint64(h.epoch), h.seq, h.trim, h.entries, h.bytes, h.revision, h.record, h.attempts, h.oldest,
	} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func (d *decoder) head() head {
	h := head{
		epoch: uint32(d.bounded(math.MaxUint32)), seq: d.uvarint(), trim: d.uvarint(), entries: d.bounded(math.MaxInt32),
		bytes: d.bounded(math.MaxInt64), revision: d.uvarint(), record: d.uvarint(),
		attempts: d.bounded(math.MaxInt32), oldest: d.uvarint(),
	}
	if h.epoch == 0 || h.trim > h.seq || h.record > h.revision {
		d.fail()
	}
	return h
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

// Bits that say which of an entry's rarer parts follow.
const (
	hasKey = 1 << iota
	hasClientID
	hasOrigin
	hasTargets
	hasAll   = 1<<iota - 1
	hasWidth = iota - 1 // bits
)

// has returns which of the rarer parts there are.
func (e *entry) has() (has uint64) {
	if e.key != "" {
		has |= hasKey
	}
	if e.clientID != "" {
		has |= hasClientID
	}
	if e.origin != "" {
		has |= hasOrigin
	}
	if len(e.targets) != 0 {
		has |= hasTargets
	}
	return has
}

func (e *entry) append(b []byte) []byte {
	b = appendMessageNumber(b, e.mid)
	has := e.has()
	b = binary.AppendUvarint(b, uint64(e.flags)<<hasWidth|has)
	b = binary.AppendUvarint(b, e.ordinal)
	b = binary.AppendUvarint(b, e.size)
	if has&hasKey != 0 {
		b = appendString(b, e.key)
	}
	if has&hasClientID != 0 {
		b = appendString(b, e.clientID)
	}
	if has&hasOrigin != 0 {
		b = appendString(b, e.origin)
	}
	if has&hasTargets != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.targets)))
		for _, t := range e.targets {
			b = binary.AppendUvarint(b, uint64(t))
		}
	}
	return b
}

func decodeEntry(row string) (entry, error) {
	d := decoder{rest: row}
	mid, flags := d.messageNumber(), d.bounded(math.MaxUint16<<hasWidth|hasAll)
	e := entry{
		mid: mid, flags: event.Flags(flags >> hasWidth), ordinal: d.uvarint(), size: d.bounded(store.MaxPayloadBytes),
	}
	has := flags & hasAll
	if has&hasKey != 0 {
		e.key = d.string()
	}
	if has&hasClientID != 0 {
		e.clientID = event.ClientMessageID(d.string())
	}
	if has&hasOrigin != 0 {
		e.origin = event.LoginID(d.string())
	}
	if has&hasTargets != 0 {
		e.targets = make([]event.Incarnation, d.bounded(store.MaxTargets))
		if len(e.targets) == 0 { // that would be for all devices
			d.fail()
		}
		for i := range e.targets {
			e.targets[i] = event.Incarnation(d.uvarint())
		}
	}
	return e, d.done("entry")
}

func millis(ms uint64) time.Time { return time.UnixMilli(int64(ms)).UTC() }

// encodeCount and decodeCount are about what a conversation has of entries that count as unread.
func encodeCount(counted uint64, uncounted []uint64) string {
	b := binary.AppendUvarint(make([]byte, 0, 32), counted)
	for _, n := range uncounted {
		b = binary.AppendUvarint(b, n)
	}
	return string(b)
}

func decodeCount(row string) (counted uint64, uncounted []uint64, err error) {
	d := decoder{rest: row}
	counted = d.uvarint()
	for d.rest != "" {
		uncounted = append(uncounted, d.uvarint())
	}
	return counted, uncounted, d.done("count")
}

// attempt is an idempotency record.
type attempt struct {
	digest  string // 32 bytes
	expires uint64 // Unix milliseconds
	id      event.MessageID
	placed  bool  // the acting account's own inbox got the first message
	place   place // then: where; without the account
}

func (a *attempt) encode() string {
	b := append(make([]byte, 0, 96), a.digest...)
	b = binary.AppendUvarint(b, a.expires)
	b = appendString(b, a.id)
	if a.placed {
		b = binary.AppendUvarint(b, uint64(a.place.epoch))
		b = binary.AppendUvarint(b, a.place.seq)
		b = binary.AppendUvarint(b, a.place.ordinal)
	}
	return string(b)
}

func decodeAttempt(row string) (attempt, error) {
	d := decoder{rest: row}
	a := attempt{digest: d.take(32), expires: d.uvarint(), id: event.MessageID(d.string())}
	if d.rest != "" {
		a.placed = true
		a.place = place{epoch: uint32(d.bounded(math.MaxUint32)), seq: d.uvarint(), ordinal: d.uvarint()}
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

func encodeCursor(c *store.Cursor) string {
	return string(binary.AppendUvarint(binary.AppendUvarint(nil, c.Seq), c.Sent))
}

func decodeCursor(row string) (store.Cursor, error) {
	d := decoder{rest: row}
	c := store.Cursor{Seq: d.uvarint(), Sent: d.uvarint()}
	return c, d.done("cursor")
}

// Cursors of StatePage name the last register of the page: its conversation, a line feed, which no identifier has, and
// its name.

func encodeStateCursor(key string) string { return strings.Replace(key, "\x00", "\n", 1) }

// decodeStateCursor returns what follows the tag in the register's key, nothing for the beginning.
func decodeStateCursor(s string) (string, bool) {
	if s == "" {
		return "", true
	}
	conversation, name, ok := strings.Cut(s, "\n")
	return conversation + "\x00" + name, ok
}
