package boltstore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// corrupt is the error for a row that cannot be read.
func corrupt(what string) error { return fmt.Errorf("%w: bad %s", ErrCorrupt, what) }

// decoder reads a row. It never reads beyond it: the first read that would sets bad, and all later ones return zero. Bytes that
// it returns are the row's memory; strings are copies.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	if len(d.rest) != 0 && d.rest[0] < 0x80 { // as nearly all are
		v := d.rest[0]
		d.rest = d.rest[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
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

func (d *decoder) take(n int) []byte {
	if n > len(d.rest) {
		d.fail()
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) bytes() []byte { return d.take(int(d.bounded(math.MaxInt32))) }

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) fail() { d.rest, d.bad = nil, true }

// done returns an error unless the whole row was read.
func (d *decoder) done(what string) error {
	if d.bad || len(d.rest) != 0 {
		return corrupt(what)
	}
	return nil
}

func appendString[S ~string | ~[]byte](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// head is what every batch reads of an account and most write.
type head struct {
	generation uint32 // counts deletions, from 1
	seq        uint64 // newest ever appended
	trim       uint64
	entries    uint64 // left, without a key
	bytes      uint64 // sum of sizes of those left
	revision   uint64 // last one given; also kept when the record is gone
	record     uint64 // revision of the record; 0: absent
	attempts   uint64 // upper bound of the number of idempotency records, expired ones included
	recount    uint64 // Unix milliseconds; if there are too many of them, they are counted from then on
}

// append encodes the head of an account whose name has this checksum.
func (h *head) append(b []byte, sum uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, sum)
	for _, v := range [...]uint64{
		uint64(h.generation), h.seq, h.trim, h.entries, h.bytes, h.revision, h.record, h.attempts, h.recount,
	} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// nameSum is what a head has of its account's name, so that it is taken for no other's.
func nameSum(name []byte) uint32 { return crc32.Checksum(name, castagnoli) }

const nameSumBytes = 4

// decodeHead decodes the head of an account whose name has this checksum.
func decodeHead(row []byte, sum uint32) (head, error) {
	d := decoder{rest: row}
	if have := d.take(nameSumBytes); d.bad || binary.BigEndian.Uint32(have) != sum {
		return head{}, corrupt("head: not this account's")
	}
	h := head{
		generation: uint32(d.bounded(math.MaxUint32)), seq: d.uvarint(), trim: d.uvarint(), entries: d.bounded(math.MaxInt32),
		bytes: d.bounded(math.MaxInt64), revision: d.uvarint(), record: d.uvarint(),
		attempts: d.bounded(math.MaxInt32), recount: d.uvarint(),
	}
	if h.generation == 0 || h.trim > h.seq || h.record > h.revision {
		d.fail()
	}
	return h, d.done("head")
}

// entry is what one inbox keeps of a message.
type entry struct {
	message   []byte // key
	flags     event.Flags
	ordinal   uint64 // 0: it does not count as unread
	countedIn []byte // conversation of the count, so that it is taken out without a look at the message; nothing if ordinal is 0
	size      uint64 // of the payload
	key       string
	clientID  event.ClientMessageID
	origin    event.LoginID
	targets   []event.Incarnation
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
	b = appendString(b, e.message)
	has := e.has()
	b = binary.AppendUvarint(b, uint64(e.flags)<<hasWidth|has)
	b = binary.AppendUvarint(b, e.ordinal)
	if e.ordinal != 0 {
		b = appendString(b, e.countedIn)
	}
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

func decodeEntry(row []byte) (entry, error) {
	d := decoder{rest: row}
	message, flags := d.bytes(), d.bounded(math.MaxUint16<<hasWidth|hasAll)
	e := entry{message: message, flags: event.Flags(flags >> hasWidth), ordinal: d.uvarint()}
	if e.ordinal != 0 {
		e.countedIn = d.bytes()
	}
	e.size = d.bounded(store.MaxPayloadBytes)
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
	if len(e.message) == 0 {
		d.fail()
	}
	return e, d.done("entry")
}

func millis(ms uint64) time.Time { return time.UnixMilli(int64(ms)).UTC() }

// appendCount and decodeCount are about what a conversation has of entries that count as unread.
func appendCount(b []byte, counted uint64, uncounted []uint64) []byte {
	b = binary.AppendUvarint(b, counted)
	for _, n := range uncounted {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func decodeCount(row []byte) (counted uint64, uncounted []uint64, err error) {
	d := decoder{rest: row}
	counted = d.uvarint()
	for len(d.rest) != 0 {
		uncounted = append(uncounted, d.uvarint())
	}
	return counted, uncounted, d.done("count")
}

// attempt is an idempotency record.
type attempt struct {
	digest  []byte // 32 bytes
	expires uint64 // Unix milliseconds
	id      event.MessageID
	placed  bool  // the acting account's own inbox got the first message
	place   place // then: where; without the account
}

const digestBytes = 32

func (a *attempt) append(b []byte) []byte {
	b = append(b, a.digest...)
	b = binary.AppendUvarint(b, a.expires)
	b = appendString(b, a.id)
	if a.placed {
		b = binary.AppendUvarint(b, uint64(a.place.generation))
		b = binary.AppendUvarint(b, a.place.seq)
		b = binary.AppendUvarint(b, a.place.ordinal)
	}
	return b
}

func decodeAttempt(row []byte) (attempt, error) {
	d := decoder{rest: row}
	a := attempt{digest: d.take(digestBytes), expires: d.uvarint(), id: event.MessageID(d.string())}
	if len(d.rest) != 0 {
		a.placed = true
		a.place = place{generation: uint32(d.bounded(math.MaxUint32)), seq: d.uvarint(), ordinal: d.uvarint()}
	}
	return a, d.done("idempotency record")
}

// attemptExpiry reads only when an idempotency record expires.
func attemptExpiry(row []byte) (uint64, error) {
	d := decoder{rest: row}
	d.take(digestBytes)
	at := d.uvarint()
	if d.bad {
		return 0, corrupt("idempotency record")
	}
	return at, nil
}

// state is a register without its conversation and name, which the key holds.
type state struct {
	seq    uint64
	number uint64
	value  []byte
}

func (s *state) append(b []byte) []byte {
	b = binary.AppendUvarint(b, s.seq)
	b = binary.AppendUvarint(b, s.number)
	return append(b, s.value...)
}

func decodeState(row []byte) (state, error) {
	d := decoder{rest: row}
	s := state{seq: d.uvarint(), number: d.uvarint()}
	s.value, d.rest = d.rest, nil
	return s, d.done("register")
}

// A record has a byte before it, since no row is empty.
const recordMark = 1

func decodeRecord(row []byte) ([]byte, error) {
	if len(row) == 0 || row[0] != recordMark {
		return nil, corrupt("record")
	}
	return row[1:], nil
}

func appendCursor(b []byte, c *store.Cursor) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, c.Seq), c.Sent)
}

func decodeCursor(row []byte) (store.Cursor, error) {
	d := decoder{rest: row}
	c := store.Cursor{Seq: d.uvarint(), Sent: d.uvarint()}
	return c, d.done("cursor")
}

// Cursors of StatePage name the last register of the page: its conversation, a line feed, which no identifier has, and
// its name.

func encodeStateCursor(key []byte) string { return strings.Replace(string(key), "\x00", "\n", 1) }

// decodeStateCursor returns what follows the tag in the register's key, nothing for the beginning.
func decodeStateCursor(s string) (string, bool) {
	if s == "" {
		return "", true
	}
	conversation, name, ok := strings.Cut(s, "\n")
	return conversation + "\x00" + name, ok
}
