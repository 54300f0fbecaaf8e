package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// Verify looks for damage in three walks:
//
//	pages and rows   as they are in the file: that pages make sense, and rows have their checksums
//	accounts         as readers see them: that rows can be decoded, heads agree with their rows, entries' messages are there
//	messages         that are in the file: that they agree with the inboxes that hold them
//
//  1. No walk keeps anything from being changed. An account, and a message with its inboxes, are looked at in one snapshot each, so that
//     what is found wrong is wrong, whatever goes on meanwhile.
//  2. What one walk has found, the next ones may meet again: a damaged row is reported once, by its key.

// Verified is what a Verify has looked at.
type Verified struct {
	Pages    int // of the file
	Rows     int // of the file
	Accounts int
	Messages int
	Findings int
}

// Verify reads the whole store and calls report with all that is wrong, one finding at a time. The store stays in use: it may take
// minutes for a large file, reads all of it from the disk, and slows others down as any reader does. The error is ctx's, or that
// of a store that is closed or has failed; damage is no error.
func (s *Store) Verify(ctx context.Context, report func(Finding)) (Verified, error) {
	v := verifier{s: s, report: report, seen: make(map[string]bool)}
	if err := v.all(ctx); err != nil {
		return v.done, fmt.Errorf("boltstore: verify: %w", err)
	}
	return v.done, nil
}

type verifier struct {
	s      *Store
	report func(Finding)
	seen   map[string]bool // rows that were reported
	done   Verified

	parts    [][]byte // of accounts' rows that the walk through the file has met and not looked at yet
	messages [][]byte // likewise
	last     []byte   // part that was met last
	lastKey  []byte   // message that was met last
}

// verifyNames is how many accounts are listed at a time.
const verifyNames = 256

func (v *verifier) found(f Finding) {
	key := ""
	if f.Key != nil && f.Kind != FindingPage {
		key = f.Table + "\x00" + string(f.Key)
	}
	if key != "" && len(v.seen) < 1<<20 {
		if v.seen[key] {
			return
		}
		v.seen[key] = true
	}
	v.done.Findings++
	v.report(f)
}

func (v *verifier) all(ctx context.Context) error {
	done, err := v.s.db.Verify(ctx, kv.Verification{
		Report: func(err error) { v.found(v.s.keys.findingOf(err)) },
		Row:    v.row,
	})
	v.done.Pages, v.done.Rows = done.Pages, done.Rows
	if err != nil {
		return err
	}
	if err := v.accounts(ctx); err != nil {
		return err
	}
	for _, part := range v.parts {
		if err := v.owned(ctx, part); err != nil {
			return err
		}
	}
	for _, key := range v.messages {
		if err := v.message(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// row notes to whom a row of the file belongs.
func (v *verifier) row(t kv.Table, key, _ []byte) {
	switch t {
	case tableAccount:
		_, part, ok := cutAccount(key)
		switch {
		case !ok:
			v.found(Finding{Kind: FindingRow, Table: tables[t].Name, Key: bytes.Clone(key), Err: corrupt("account key")})
		case !bytes.Equal(part, v.last):
			v.last = append(v.last[:0], part...)
			v.parts = append(v.parts, bytes.Clone(part))
		}
	case tableMessage:
		if n := len(key) - 1; n > 0 && !bytes.Equal(key[:n], v.lastKey) {
			v.lastKey = append(v.lastKey[:0], key[:n]...)
			v.messages = append(v.messages, bytes.Clone(key[:n]))
		}
	}
}

// accounts looks at all accounts.
func (v *verifier) accounts(ctx context.Context) error {
	for after := []byte(nil); ; {
		var names [][]byte
		err := v.s.db.View(ctx, func(k *kv.Snapshot) (err error) {
			names, err = k.Prefixes(tableHead, after, verifyNames)
			return err
		})
		if err != nil {
			return err
		}
		for _, name := range names {
			err := v.s.db.View(ctx, func(k *kv.Snapshot) error {
				c := accountCheck{view: view{Snapshot: k, s: v.s}, found: v.found}
				return c.check(event.Account(name))
			})
			if err != nil {
				return err
			}
			v.done.Accounts++
		}
		if len(names) < verifyNames {
			return nil
		}
		after = names[len(names)-1]
	}
}

// accountCheck looks at one account, in one snapshot.
type accountCheck struct {
	view
	found func(Finding)
	name  event.Account
	a     *account
	have  head // as its rows say
	keys  map[string]uint64
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
	c.have.oldest = math.MaxUint64
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
		t, err := decodeAttempt(value)
		if err == nil && bytes.IndexByte(rest, 0) < 0 {
			err = corrupt("key of an idempotency record")
		}
		c.have.attempts++
		c.have.oldest = min(c.have.oldest, t.expires)
		return bad(err)
	case tagKey:
		d := decoder{rest: value}
		seq := d.uvarint()
		if c.keys == nil {
			c.keys = make(map[string]uint64)
		}
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
	if c.have.attempts > 0 && h.oldest > c.have.oldest {
		wrong("oldest idempotency record", h.oldest, c.have.oldest)
	}
	for key, seq := range c.keys {
		row, err := c.a.entry(seq)
		e := entry{}
		if err == nil && row != nil {
			e, err = decodeEntry(row)
		}
		if err == nil && e.key != key {
			c.say(FindingMissing, seq, keyRow(nil, key), fmt.Errorf("key: %w", errMissing))
		}
	}
}

// owned looks whether the owner of rows of the file still has them.
func (v *verifier) owned(ctx context.Context, part []byte) error {
	return v.s.db.View(ctx, func(k *kv.Snapshot) error {
		name := event.Account(part[:len(part)-5])
		var a account
		if err := a.find(k, name); err != nil {
			return unlessCorrupt(err) // which was reported
		}
		if a.is && a.head.generation == binary.BigEndian.Uint32(part[len(part)-4:]) {
			return nil
		}
		purge := purgePart
		if waits, err := k.Get(&purge, part); err != nil || waits != nil {
			return unlessCorrupt(err)
		}
		rows := kv.Of(tableAccount, part)
		n, first := 0, []byte(nil)
		err := k.Scan(&rows, nil, nil, func(key, _ []byte) (bool, error) {
			if n++; n == 1 {
				first = append(bytes.Clone(part), key...)
			}
			return true, nil
		})
		if n > 0 {
			v.found(Finding{
				Kind: FindingLeft, Table: tables[tableAccount].Name, Key: first, Account: name,
				Err: fmt.Errorf("%d rows of an account that was deleted, or whose head is missing", n),
			})
		}
		return unlessCorrupt(err)
	})
}

// message looks at a message of the file.
func (v *verifier) message(ctx context.Context, key []byte) error {
	err := v.s.db.View(ctx, func(k *kv.Snapshot) error {
		var m stored
		m.set(v.s.keys, k, key)
		there, err := m.find()
		if err != nil {
			v.found(v.ofMessage(FindingRow, &m, err))
			return unlessCorrupt(err)
		}
		if !there {
			return v.remains(k, &m)
		}
		holders, whole, err := v.holders(k, &m)
		if err == nil {
			var refs references
			refs, err = m.references()
			if err == nil && whole && refs.inboxes != holders {
				v.found(v.ofMessage(FindingCount, &m, fmt.Errorf("held by %d inboxes, but counts %d", holders, refs.inboxes)))
			}
			if err == nil && whole && holders == 0 && refs.changes == 0 {
				v.found(v.ofMessage(FindingLeft, &m, errors.New("no inbox holds it, and no message changes it")))
			}
		}
		if err != nil {
			v.found(v.ofMessage(FindingRow, &m, err))
		}
		return unlessCorrupt(err)
	})
	v.done.Messages++
	return err
}

func (v *verifier) ofMessage(kind FindingKind, m *stored, err error) Finding {
	f := Finding{Kind: kind, Table: tables[tableMessage].Name, Message: v.s.keys.id(m.key), Key: append(bytes.Clone(m.key), messageShared), Err: err}
	if d, ok := errors.AsType[*kv.Damage](err); ok {
		f.Key = d.Key
	}
	return f
}

// remains reports rows of a message whose first one is missing.
func (v *verifier) remains(k *kv.Snapshot, m *stored) error {
	err := k.Scan(&m.part, nil, nil, func(row, _ []byte) (bool, error) {
		f := v.ofMessage(FindingLeft, m, errors.New("the rest of the message is missing"))
		f.Key = append(bytes.Clone(m.key), row...)
		v.found(f)
		return true, nil
	})
	return unlessCorrupt(err)
}

// holders counts the inboxes that hold a message, also those of deleted accounts whose rows are still there. whole: all of them
// could be read.
func (v *verifier) holders(k *kv.Snapshot, m *stored) (n uint64, whole bool, err error) {
	places, err := m.placesOf()
	if err != nil {
		return 0, false, err
	}
	whole = true
	var rows kv.Part
	for i := range places {
		p := &places[i]
		rows.Set(tableAccount, string(p.account), generation(p.generation))
		row, err := k.Get(&rows, entryRow(nil, p.seq))
		if err != nil {
			whole = false
			continue
		}
		if row == nil {
			continue
		}
		if e, err := decodeEntry(row); err == nil && bytes.Equal(e.message, m.key) {
			n++
		}
	}
	return n, whole, nil
}
