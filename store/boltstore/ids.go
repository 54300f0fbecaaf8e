package boltstore

import (
	"encoding/binary"
	"maps"
	"math"

	"github.com/manydevice/manydevice/event"
)

// A message is found by its ID without an index. An ID of the engine is sealed; opened, it is a random number of whoever
// issued it, and a counter. The store numbers issuers as they come, and a message's number is that of its issuer and how far
// the counter has come. So messages that one issuer made one after another are neighbours in the bucket of messages, and
// those of the newest issuer are at its end. Any other ID, as hosts may make them, has a row in the bucket of IDs that leads
// to a number from the bucket's sequence, which is that of issuer 0.
const (
	counterBits = 40 // of a message number; the others are the issuer's
	maxIssuers  = 1<<(64-counterBits) - 1
	// counterSlack is how far below the counter that came first others may be, which were issued earlier and come later.
	counterSlack = 1 << 16
	// highUnknown is the highest number of an issuer whose messages nobody has looked at.
	highUnknown = math.MaxUint64
)

// issuer is one of those whose messages came to the store.
type issuer struct {
	number uint64 // from 1
	base   uint64 // counter that stands for 0
	high   uint64 // no message has a higher number; only for the goroutine that commits
}

// issuers are those that the store knows, by their random numbers. A map is not changed once readers have it.
type issuers map[uint32]*issuer

// appendMessageNumber encodes its two parts, which are small.
func appendMessageNumber(b []byte, n uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, n>>counterBits), n&(1<<counterBits-1))
}

func (d *decoder) messageNumber() uint64 {
	return d.bounded(maxIssuers)<<counterBits | d.bounded(1<<counterBits-1)
}

// idKey is what is to be known of a message ID to find the message.
type idKey struct {
	id      event.MessageID
	sealed  bool
	issuer  uint32
	counter uint64
}

// messageKeys opens message IDs.
type messageKeys struct{ issuer *event.Issuer }

func (k messageKeys) key(id event.MessageID) idKey {
	n, ok := k.issuer.Open(id)
	return idKey{id: id, sealed: ok, issuer: binary.BigEndian.Uint32(n[:]), counter: binary.BigEndian.Uint64(n[4:])}
}

// number returns the number that a message with this ID has, and its issuer; false if the bucket of IDs has to know.
func (l issuers) number(key idKey) (uint64, *issuer, bool) {
	i := l[key.issuer]
	if i == nil || !key.sealed {
		return 0, nil, false
	}
	count := key.counter - i.base // around the end of the counter as well
	return i.number<<counterBits | count, i, count < 1<<counterBits
}

// messageNumber returns the number of the message with this ID, 0 if there is none.
func (b *base) messageNumber(l issuers, key idKey) (uint64, error) {
	if n, _, ok := l.number(key); ok {
		if b.messages.Get(numberKey(n)) == nil {
			return 0, nil
		}
		return n, nil
	}
	row := b.ids.Get(idRow(key.id))
	if row == nil {
		return 0, nil
	}
	return number(row, "message number")
}

// messageNumber is as for readers, with what this group has changed, and without a look for what is newer than all.
func (w *writer) messageNumber(key idKey) (uint64, error) {
	if n, i, ok := w.issuers.number(key); ok && n > i.high {
		return 0, nil
	}
	return w.base.messageNumber(w.issuers, key)
}

// used reports whether a message ID must not be given to another message. That of one whose last copy this group has removed
// is given only by a later group: until this one is published, readers take its number for the old message.
func (w *writer) used(key idKey) (bool, error) {
	if n, _, ok := w.issuers.number(key); ok && w.released[n] {
		return true, nil
	}
	n, err := w.messageNumber(key)
	return n != 0, err
}

// nameMessage gives a message the number that its ID leads to from now on.
func (w *writer) nameMessage(key idKey) uint64 {
	w.dirty = true
	if key.sealed && w.issuers[key.issuer] == nil && len(w.issuers) < w.s.limits.issuers {
		w.addIssuer(key)
	}
	n, i, ok := w.issuers.number(key)
	if ok {
		if i.high != highUnknown {
			i.high = max(i.high, n)
		}
		return n
	}
	n = w.next(w.messages.Bucket)
	w.put(w.ids.Bucket, idRow(key.id), numberKey(n))
	return n
}

// addIssuer has the store know an issuer of whom a first message came.
func (w *writer) addIssuer(key idKey) {
	known := maps.Clone(w.issuers)
	i := &issuer{number: uint64(len(known)) + 1, base: key.counter - counterSlack}
	known[key.issuer] = i
	w.issuers = known
	w.put(w.ids.Bucket, issuerRow(key.issuer), append(numberKey(i.number), numberKey(i.base)...))
	w.after = append(w.after, func() { w.s.issuers = known })
}

// forgetMessage has the ID of a message lead nowhere. That of an issuer does so once there is no message.
func (w *writer) forgetMessage(id event.MessageID, n uint64) {
	if n>>counterBits == 0 {
		w.del(w.ids.Bucket, idRow(id))
		return
	}
	if w.released == nil {
		w.released = make(map[uint64]bool)
	}
	w.released[n] = true
}

// Rows of the bucket of IDs.
const (
	idTag     = "\x01" // message ID → message number
	issuerTag = "\x02" // random number of an issuer → its number and its counter's base
)

func idRow(id event.MessageID) []byte { return append([]byte(idTag), id...) }

func issuerRow(issuer uint32) []byte { return binary.BigEndian.AppendUint32([]byte(issuerTag), issuer) }

// readIssuers returns all issuers of a file.
func readIssuers(b *base) (issuers, error) {
	all := make(issuers)
	taken := make(map[uint64]bool)
	prefix := []byte(issuerTag)
	err := scan(b.ids.Bucket, prefix, prefix, func(key, row []byte) (bool, error) {
		if len(key) != 4 || len(row) != 2*numberBytes {
			return false, corrupt("issuer")
		}
		i := &issuer{number: binary.BigEndian.Uint64(row), base: binary.BigEndian.Uint64(row[numberBytes:]), high: highUnknown}
		if i.number == 0 || i.number > maxIssuers || taken[i.number] {
			return false, corrupt("issuer")
		}
		all[binary.BigEndian.Uint32(key)], taken[i.number] = i, true
		return true, nil
	})
	for n := range uint64(len(all)) { // a new one gets the next number
		if err == nil && !taken[n+1] {
			err = corrupt("issuer")
		}
	}
	last, _ := b.messages.Cursor().Last()
	if err == nil && len(last) == numberBytes && binary.BigEndian.Uint64(last)>>counterBits > uint64(len(all)) {
		err = corrupt("issuer")
	}
	return all, err
}
