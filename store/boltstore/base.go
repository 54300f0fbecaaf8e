package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
)

// errStale: what a reader got from memory is older than what it finds in the file. It looks again.
var errStale = errors.New("boltstore: stale")

// base is the file as one transaction sees it, with the windows that the reader knows of.
type base struct {
	names, heads, ids, messages, refs table
	blobs, places, purge, meta, runs  *bolt.Bucket

	windows []window // newest first
	opened  []table  // of windows, as they are needed
	missing error    // for what should be there
}

// openBase opens the buckets of a transaction: those in which rows of accounts are found first, then the others.
func openBase(tx *bolt.Tx, windows []window) (base, error) {
	b := base{windows: windows, missing: errMissing}
	err := b.openAccounts(tx)
	if err == nil {
		err = b.openOthers(tx)
	}
	return b, err
}

type opening struct {
	name string
	to   **bolt.Bucket
}

func openAll(tx *bolt.Tx, list ...opening) error {
	for _, f := range list {
		if *f.to = tx.Bucket([]byte(f.name)); *f.to == nil {
			return corrupt("bucket " + f.name)
		}
	}
	return nil
}

func (b *base) openAccounts(tx *bolt.Tx) error {
	return openAll(tx, opening{bucketNames, &b.names.Bucket}, opening{bucketHeads, &b.heads.Bucket}, opening{bucketRuns, &b.runs})
}

func (b *base) openOthers(tx *bolt.Tx) error {
	err := openAll(tx,
		opening{bucketIDs, &b.ids.Bucket}, opening{bucketMessages, &b.messages.Bucket},
		opening{bucketBlobs, &b.blobs}, opening{bucketPlaces, &b.places}, opening{bucketRefs, &b.refs.Bucket},
		opening{bucketPurge, &b.purge}, opening{bucketMeta, &b.meta},
	)
	if err != nil {
		return err
	}
	for _, s := range [...]*bolt.Bucket{b.messages.Bucket, b.blobs, b.places, b.refs.Bucket, b.ids.Bucket} {
		s.FillPercent = sequentialFill
	}
	return nil
}

// run returns the rows of a window.
func (b *base) run(i int) (*table, error) {
	if b.opened == nil {
		b.opened = make([]table, len(b.windows))
	}
	t := &b.opened[i]
	if t.Bucket == nil {
		if t.Bucket = b.runs.Bucket(b.windows[i].key()); t.Bucket == nil {
			return nil, b.missing
		}
	}
	return t, nil
}

// named returns the number of an account that the file knows, 0 if it does not.
func (b *base) named(name event.Account) (uint64, error) {
	v := b.names.Get([]byte(name))
	if v == nil {
		return 0, nil
	}
	return number(v, "account number")
}

// account is one account as a transaction sees it: its head, and where its rows are.
type account struct {
	name  event.Account
	aid   uint64 // 0: the account has no rows yet
	head  head
	parts []memory // newest first
	seat  *seat    // in the window that is written; nil: none, or not known
	index uint32   // of the seat
	base  *base

	place  slot   // in the file
	looked bool   // place is known
	hinted uint64 // number that the file has for the name; 0: not known
	known  []row  // some rows as the file has them

	staged bool  // the operations of a group changed something
	stage  delta // what they changed
}

// slot returns what the file has of the account.
func (a *account) slot() (*slot, error) {
	if !a.looked {
		s, err := readSlot(&a.base.heads, a.aid)
		if err != nil {
			return nil, err
		}
		a.place, a.looked = s, true
	}
	return &a.place, nil
}

// each calls f with the runs that the account may have rows in, newest first, until it returns false.
func (a *account) each(f func(run *bolt.Bucket) (bool, error)) error {
	return a.eachRun(func(t *table) (bool, error) { return f(t.Bucket) })
}

func (a *account) eachRun(f func(run *table) (bool, error)) error {
	s, err := a.slot()
	if err != nil {
		return err
	}
	for i, w := range a.base.windows {
		if !s.in(w) {
			continue
		}
		run, err := a.base.run(i)
		if err != nil {
			return err
		}
		if more, err := f(run); err != nil || !more {
			return err
		}
	}
	return nil
}

// get returns the value of a row, empty if there is none.
func (a *account) get(key string) (string, error) {
	for i := range a.parts {
		if v, ok := a.parts[i].get(key); ok {
			return v, nil
		}
	}
	for _, r := range a.known {
		if r.key == key {
			return r.value, nil
		}
	}
	return a.below(key)
}

// below returns the value of a row in the file.
func (a *account) below(key string) (string, error) {
	if a.aid == 0 {
		return "", nil
	}
	value := ""
	full := runKey(a.aid, key)
	err := a.eachRun(func(run *table) (bool, error) {
		v := run.Get(full)
		value = string(v)
		return v == nil, nil
	})
	return value, err
}

// source is a sequence of rows in order of their keys.
type source struct {
	rows   []row
	cursor *bolt.Cursor
	prefix []byte // account number and what else all keys begin with

	key, value string
	done       bool
}

func (s *source) next() {
	if s.cursor == nil {
		if s.done = len(s.rows) == 0; !s.done {
			s.key, s.value = s.rows[0].key, s.rows[0].value
			s.rows = s.rows[1:]
		}
		return
	}
	s.take(s.cursor.Next())
}

func (s *source) take(k, v []byte) {
	if s.done = !bytes.HasPrefix(k, s.prefix); !s.done {
		s.key, s.value = string(k[numberBytes:]), string(v)
	}
}

// scan calls f with the account's rows whose keys begin with prefix, from the first one that is not below start, until f
// returns false.
func (a *account) scan(prefix, start string, f func(key, value string) (bool, error)) error {
	sources, err := a.sources(prefix, max(prefix, start))
	if err != nil {
		return err
	}
	for {
		var least *source
		for _, s := range sources { // newest first, so that the first of equals is the one that counts
			if !s.done && (least == nil || s.key < least.key) {
				least = s
			}
		}
		if least == nil {
			return nil
		}
		key, value := least.key, least.value
		for _, s := range sources {
			if !s.done && s.key == key {
				s.next()
			}
		}
		if value == "" {
			continue
		}
		if more, err := f(key, value); err != nil || !more {
			return err
		}
	}
}

func (a *account) sources(prefix, start string) ([]*source, error) {
	var list []*source
	for i := range a.parts {
		if rows := a.parts[i].part().with(prefix, start); len(rows) != 0 {
			s := &source{rows: rows}
			s.next()
			list = append(list, s)
		}
	}
	if a.aid == 0 {
		return list, nil
	}
	err := a.each(func(run *bolt.Bucket) (bool, error) {
		s := &source{cursor: run.Cursor(), prefix: runKey(a.aid, prefix)}
		s.take(s.cursor.Seek(runKey(a.aid, start)))
		if !s.done {
			list = append(list, s)
		}
		return true, nil
	})
	return list, err
}

// message returns what the copies of a message share.
func (b *base) message(mid uint64) (message, error) {
	row := b.messages.Get(numberKey(mid))
	if row == nil {
		return message{}, b.missing
	}
	return decodeMessage(string(row))
}

// references returns who needs a message.
func (b *base) references(mid uint64) (references, error) {
	if row := b.refs.Get(numberKey(mid)); row != nil {
		return decodeReferences(string(row))
	}
	m, err := b.message(mid)
	return references{inboxes: m.inboxes}, err
}

// value returns a copy of a value; nil if it is empty.
func (b *base) value(v *value) ([]byte, error) {
	if v.size == 0 {
		return nil, nil
	}
	if v.blob == 0 {
		return []byte(v.inline), nil
	}
	data := make([]byte, 0, v.size)
	prefix := numberKey(v.blob)
	err := scan(b.blobs, prefix, prefix, func(_, part []byte) (bool, error) {
		data = append(data, part...)
		return len(data) < v.size, nil
	})
	if err == nil && len(data) != v.size {
		err = b.missing
	}
	return data, err
}

// scan calls f with the rows of a bucket whose keys begin with prefix, from the first one that is not below start, until
// f returns false. Keys come without the prefix. f must keep neither slice and must not write.
func scan(b *bolt.Bucket, prefix, start []byte, f func(rest, value []byte) (bool, error)) error {
	c := b.Cursor()
	for k, v := c.Seek(start); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if more, err := f(k[len(prefix):], v); err != nil || !more {
			return err
		}
	}
	return nil
}

// keysWith returns copies of the keys that begin with prefix.
func keysWith(b *bolt.Bucket, prefix []byte) [][]byte {
	var keys [][]byte
	c := b.Cursor()
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// A row of entries holds some that follow each other: for each the distance to the one before, and its encoding. The first
// one's number is in the key.

func appendEntry(b []byte, distance uint64, row string) []byte {
	return appendString(binary.AppendUvarint(b, distance), row)
}

// entriesOf calls f with the entries of a row, until it returns false.
func entriesOf(key, value []byte, f func(e logged) (bool, error)) error {
	if len(key) != 2*numberBytes+1 {
		return corrupt("entries key")
	}
	seq := binary.BigEndian.Uint64(key[prefixBytes:])
	d := decoder{rest: string(value)}
	for d.rest != "" {
		seq += d.uvarint()
		e := logged{seq, d.string()}
		if d.bad {
			break
		}
		if more, err := f(e); err != nil || !more {
			return err
		}
	}
	return d.done("entries")
}
