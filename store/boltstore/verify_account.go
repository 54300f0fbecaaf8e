package boltstore

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// accountCheck looks at one account, in one snapshot.
type accountCheck struct {
	view
	found func(Finding)
	name  event.Account
	a     *account
	have  head              // as its rows say
	keys  map[string]uint64 // rows of keys: the entries that they name
	keyed map[string]uint64 // entries that have a key
}

func (c *accountCheck) say(kind FindingKind, seq uint64, key []byte, err error) {
	f := Finding{Kind: kind, Account: c.name, Seq: seq, Err: err}
	if key != nil {
		f.Table, f.Key = tables[tableAccount].Name, append(append([]byte(c.name), generation(c.a.head.generation)...), key...)
	}
	c.found(f)
}

func (c *accountCheck) check(name event.Account) error {
	c.name = name
	a, err := c.account(name)
	c.a = a
	if err != nil {
		c.found(Finding{Kind: FindingRow, Table: tables[tableHead].Name, Key: []byte(name), Account: name, Err: err})
		return unlessCorrupt(err)
	}
	c.keys, c.keyed = make(map[string]uint64), make(map[string]uint64)
	whole, err := c.rows()
	if err != nil || !whole {
		return err
	}
	c.compare()
	return nil
}

// rows goes through all rows of the account, and past damaged ones. It reports whether all could be read.
func (c *accountCheck) rows() (whole bool, err error) {
	whole = true
	for start := []byte(nil); ; {
		var last []byte
		err := c.a.scan(nil, start, func(key, value []byte) (bool, error) {
			last = append(last[:0], key...)
			if err := c.row(key, value); err != nil {
				return false, err
			}
			return true, nil
		})
		if err == nil {
			return whole, nil
		}
		d, ok := errors.AsType[*kv.Damage](err)
		if !ok {
			return false, unlessCorrupt(err)
		}
		whole = false
		key := bytes.TrimPrefix(d.Key, append([]byte(c.name), generation(c.a.head.generation)...))
		c.say(FindingRow, 0, bytes.Clone(key), err)
		next := append(bytes.Clone(key), 0)
		if bytes.Compare(next, start) <= 0 || bytes.Compare(key, last) < 0 {
			return false, nil
		}
		start = next
	}
}

func unlessCorrupt(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return nil
	}
	return err
}

// row looks at one row.
func (c *accountCheck) row(key, value []byte) error {
	bad := func(err error) error {
		if err != nil {
			c.say(FindingRow, 0, bytes.Clone(key), err)
		}
		return nil
	}
	rest := key[1:]
	switch key[0] {
	case tagCursor:
		_, err := number(rest, "cursor key")
		if err == nil {
			_, err = decodeCursor(value)
		}
		return bad(err)
	case tagEntry:
		return c.entry(key, value)
	case tagAttempt:
		_, err := decodeAttempt(value)
		if err == nil && bytes.IndexByte(rest, 0) < 0 {
			err = corrupt("key of an idempotency record")
		}
		c.have.attempts++
		return bad(err)
	case tagKey:
		d := decoder{rest: value}
		seq := d.uvarint()
		c.keys[string(rest)] = seq
		return bad(d.done("key"))
	case tagCount:
		_, _, err := decodeCount(value)
		return bad(err)
	case tagRecord:
		c.have.record = 1
		_, err := decodeRecord(value)
		return bad(err)
	case tagState:
		st, err := decodeState(value)
		if err == nil && (bytes.IndexByte(rest, 0) < 0 || st.seq > c.a.head.seq) {
			err = corrupt("register")
		}
		return bad(err)
	case tagHand:
		return nil
	}
	return bad(corrupt("kind of a row"))
}

// entry looks at an entry, and at its message.
func (c *accountCheck) entry(key, value []byte) error {
	seq, err := number(key[1:], "entry key")
	if err != nil {
		c.say(FindingRow, 0, bytes.Clone(key), err)
		return nil
	}
	e, err := decodeEntry(value)
	switch {
	case err != nil:
		c.say(FindingRow, seq, bytes.Clone(key), err)
		return nil
	case seq > c.a.head.seq || seq <= c.a.head.trim:
		c.say(FindingLeft, seq, bytes.Clone(key), fmt.Errorf("the inbox has entries %d to %d", c.a.head.trim+1, c.a.head.seq))
		return nil
	}
	if e.key == "" {
		c.have.entries++
	} else {
		c.keyed[e.key] = seq
	}
	c.have.bytes += e.size + entryBytes
	var m stored
	m.set(c.s.keys, c.Snapshot, e.message)
	there, err := m.find()
	if err == nil && !there {
		c.found(Finding{Kind: FindingMissing, Account: c.name, Message: c.s.keys.id(e.message), Seq: seq, Err: errMissing})
		return nil
	}
	if err == nil {
		err = m.fits(e.size)
	}
	if err == nil {
		err = c.placed(&m, seq)
	}
	if err != nil {
		c.found(Finding{Kind: FindingRow, Account: c.name, Message: c.s.keys.id(e.message), Seq: seq, Err: err})
	}
	return unlessCorrupt(err)
}

// fits reports whether a message has a payload of that many bytes.
func (m *stored) fits(size uint64) error {
	have := m.payload
	if m.apart {
		var err error
		if have, err = m.row(payloadRow); err != nil {
			return err
		}
	}
	if uint64(len(have)) != size {
		return m.about(corrupt(fmt.Sprintf("payload: %d bytes instead of %d", len(have), size)))
	}
	return nil
}

// placed reports whether a message says that it is where it was found.
func (c *accountCheck) placed(m *stored, seq uint64) error {
	places, err := m.placesOf()
	if err != nil {
		return err
	}
	for i := range places {
		if p := &places[i]; p.account == c.name && p.seq == seq && p.generation == c.a.head.generation {
			return nil
		}
	}
	return m.about(corrupt("list of inboxes"))
}

// compare compares what the head says with what there is.
func (c *accountCheck) compare() {
	h := &c.a.head
	wrong := func(what string, says, have uint64) {
		if says != have {
			c.say(FindingCount, 0, nil, fmt.Errorf("head: %s: %d, but there are %d", what, says, have))
		}
	}
	wrong("entries", h.entries, c.have.entries)
	wrong("bytes", h.bytes, c.have.bytes)
	wrong("record", min(h.record, 1), c.have.record)
	if h.attempts < c.have.attempts { // it may say more
		wrong("idempotency records", h.attempts, c.have.attempts)
	}
	for key, seq := range c.keys {
		if c.keyed[key] != seq {
			c.say(FindingMissing, seq, keyRow(nil, key), fmt.Errorf("entry of a key: %w", errMissing))
		}
	}
	for key, seq := range c.keyed {
		if c.keys[key] != seq {
			c.say(FindingMissing, seq, keyRow(nil, key), fmt.Errorf("key of an entry: %w", errMissing))
		}
	}
}
