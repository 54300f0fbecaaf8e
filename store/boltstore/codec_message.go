package boltstore

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// message is what all copies of a message share.
type message struct {
	id           event.MessageID
	kind         event.Kind
	flags        event.Flags
	conversation event.ConversationID
	from         event.Account
	time         uint64 // Unix milliseconds
	expires      uint64 // Unix milliseconds plus one; 0: never
	of           []byte // key of the message that it changes; empty: none
	inboxes      uint64 // that got it
	payload      []byte // if it is here
	apart        bool   // the payload is in a row of its own
	places       []byte // encoded; empty: they are in a row of their own
}

func newMessage(in *store.Message, now uint64) message {
	m := message{
		id: in.ID, kind: in.Kind, flags: in.Flags, conversation: in.Conversation, from: in.From, time: now,
		inboxes: uint64(len(in.To)),
	}
	if !in.Expires.IsZero() {
		m.expires = uint64(in.Expires.UnixMilli()) + 1
	}
	return m
}

func (m *message) append(b []byte) []byte {
	b = appendString(b, m.id)
	b = appendString(b, m.kind)
	b = binary.AppendUvarint(b, uint64(m.flags))
	b = appendString(b, m.conversation)
	b = appendString(b, m.from)
	b = binary.AppendUvarint(b, m.time)
	b = binary.AppendUvarint(b, m.expires)
	b = appendString(b, m.of)
	b = binary.AppendUvarint(b, m.inboxes)
	if m.apart {
		b = binary.AppendUvarint(b, 1)
	} else {
		b = append(binary.AppendUvarint(b, 2*uint64(len(m.payload))), m.payload...)
	}
	return append(b, m.places...)
}

func decodeMessage(row []byte) (message, error) {
	d := decoder{rest: row}
	m := message{
		id: event.MessageID(d.string()), kind: event.Kind(d.string()), flags: event.Flags(d.bounded(math.MaxUint16)),
		conversation: event.ConversationID(d.string()), from: event.Account(d.string()),
		time: d.bounded(math.MaxInt64), expires: d.bounded(math.MaxInt64), of: d.bytes(),
		inboxes: d.bounded(store.MaxInboxes),
	}
	switch n := d.bounded(2 * store.MaxPayloadBytes); {
	case n == 1:
		m.apart = true
	case n%2 == 1:
		d.fail()
	default:
		m.payload = d.take(int(n / 2))
	}
	m.places, d.rest = d.rest, nil
	return m, d.done("message")
}

// messageCut says what is where in the row of a message.
type messageCut struct {
	texts   [5][2]int // ID, kind, conversation, sender, message that it changes: where they begin and end
	numbers [4]uint64 // flags, time, expiry, inboxes
	payload [2]int
}

// cutMessage looks through the row of a message, for a reader that makes one string of what is before the payload. It
// returns false if the payload is not there, or the row cannot be read: decodeMessage knows what to make of it.
func cutMessage(row []byte) (c messageCut, ok bool) {
	at, texts, numbers := 0, 0, 0
	for _, text := range [...]bool{true, true, false, true, true, false, false, true, false} { // in the order of message.append
		n, width := uint64(0), 1
		if at < len(row) && row[at] < 0x80 {
			n = uint64(row[at])
		} else if n, width = binary.Uvarint(row[at:]); width <= 0 {
			return c, false
		}
		at += width
		switch {
		case !text:
			c.numbers[numbers] = n
			numbers++
		case n > uint64(len(row)-at):
			return c, false
		default:
			c.texts[texts] = [2]int{at, at + int(n)}
			texts++
			at += int(n)
		}
	}
	for i, most := range [...]uint64{math.MaxUint16, math.MaxInt64, math.MaxInt64, store.MaxInboxes} {
		if c.numbers[i] > most {
			return c, false
		}
	}
	n, width := binary.Uvarint(row[at:])
	if width <= 0 || n%2 != 0 || n/2 > min(uint64(len(row)-at-width), store.MaxPayloadBytes) {
		return c, false
	}
	c.payload = [2]int{at + width, at + width + int(n/2)}
	return c, true
}

// fill puts what decodeMessage would find into an entry. Its strings become parts of header, which is what is before the
// payload.
func (c *messageCut) fill(e *event.Entry, header string) {
	text := func(i int) string { return header[c.texts[i][0]:c.texts[i][1]] }
	e.ID, e.Kind = event.MessageID(text(0)), event.Kind(text(1))
	e.Conversation, e.From = event.ConversationID(text(2)), event.Account(text(3))
	e.Time, e.Expires = millis(c.numbers[1]), expiry(c.numbers[2])
}

func (m *message) fill(e *event.Entry) {
	e.ID, e.Kind, e.Conversation, e.From = m.id, m.kind, m.conversation, m.from
	e.Time, e.Expires = millis(m.time), expiry(m.expires)
}

// expiry is the time that message.expires stands for.
func expiry(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return millis(n - 1)
}

// references count what needs a message: inboxes that hold it, and messages that change it.
type references struct{ inboxes, changes uint64 }

func (r references) append(b []byte) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, r.inboxes), r.changes)
}

func decodeReferences(row []byte) (references, error) {
	d := decoder{rest: row}
	r := references{inboxes: d.uvarint(), changes: d.uvarint()}
	return r, d.done("reference count")
}

// place is one inbox that got a message.
type place struct {
	account    event.Account
	generation uint32
	seq        uint64
	ordinal    uint64
}

func (p *place) append(b []byte) []byte {
	b = appendString(b, p.account)
	b = binary.AppendUvarint(b, uint64(p.generation))
	b = binary.AppendUvarint(b, p.seq)
	return binary.AppendUvarint(b, p.ordinal)
}

func decodePlaces(row []byte) ([]place, error) {
	d := decoder{rest: row}
	var places []place
	for len(d.rest) != 0 {
		p := place{
			account: event.Account(d.string()), generation: uint32(d.bounded(math.MaxUint32)), seq: d.uvarint(), ordinal: d.uvarint(),
		}
		if !d.bad {
			places = append(places, p)
		}
	}
	return places, d.done("place")
}
