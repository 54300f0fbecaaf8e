package kv

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// file is the bbolt file as one read transaction sees it. Several goroutines use it at once: of a read transaction bbolt changes
// nothing but counters, which are atomic, once its buckets are open.
type file struct {
	specs   []TableSpec
	tx      *bolt.Tx
	buckets []*bolt.Bucket
	longs   *bolt.Bucket
	cursors [maxTables]sync.Pool
	refs    atomic.Int64
}

func (db *DB) openFileView() (*file, error) {
	tx, err := db.bolt.Begin(false)
	if err != nil {
		return nil, err
	}
	f := &file{specs: db.o.Tables, tx: tx, longs: tx.Bucket([]byte(bucketLong))}
	for i := range db.o.Tables {
		f.buckets = append(f.buckets, tx.Bucket([]byte(db.o.Tables[i].Name)))
	}
	f.refs.Store(1)
	return f, nil
}

func (f *file) release() {
	if f.refs.Add(-1) == 0 {
		_ = f.tx.Rollback() // of a read transaction it has no error but that it has ended
	}
}

func (f *file) cursor(t Table) *bolt.Cursor {
	if c, ok := f.cursors[t].Get().(*bolt.Cursor); ok {
		return c
	}
	return f.buckets[t].Cursor()
}

// get returns the value of a row, nil if there is none.
func (f *file) get(t Table, key []byte) ([]byte, error) {
	c := f.cursor(t)
	k, v, err := f.seek(c, t, key, func(k, v []byte) bool { return suspect(t, k, v, key) })
	if err == nil && string(k) == string(key) {
		v, err = f.open(t, key, v)
	} else {
		v = nil
	}
	if err == nil {
		f.cursors[t].Put(c) // not if bbolt has panicked
	}
	return v, err
}

// size returns the length of a row's value, 0 if there is none or it is damaged.
func (f *file) size(t Table, key []byte) int64 {
	c := f.cursor(t)
	k, v := c.Seek(key)
	f.cursors[t].Put(c)
	switch {
	case string(k) != string(key) || len(v) < rowHeader:
		return 0
	case v[4] == kindLong:
		n, _ := binary.Uvarint(v[rowHeader:])
		return int64(min(n, maxLong))
	}
	return int64(len(v))
}

// seek moves a cursor to the first row that is not below key. If that is another row, both neighbours of the gap are looked at, and
// a damaged one that doubt takes for the row, or that led the search astray, is an error.
func (f *file) seek(c *bolt.Cursor, t Table, key []byte, doubt func(k, v []byte) bool) (k, v []byte, err error) {
	k, v = c.Seek(key)
	if k != nil && string(k) == string(key) {
		return k, v, nil
	}
	if k != nil && (bytes.Compare(k, key) < 0 || f.damaged(c, t, k, v, key, doubt)) {
		return nil, nil, f.damage(t, key)
	}
	var before, value []byte
	if k == nil {
		before, value = c.Last()
	} else {
		before, value = c.Prev()
	}
	if before != nil && (bytes.Compare(before, key) >= 0 || f.damaged(c, t, before, value, key, doubt)) {
		return nil, nil, f.damage(t, key)
	}
	switch {
	case k == nil:
	case before == nil:
		c.First()
	default:
		c.Next()
	}
	return k, v, nil
}

// damaged reports whether a row next to where key should be is damaged so that key cannot be told to be missing. The cursor is at the
// row, before and after.
func (f *file) damaged(c *bolt.Cursor, t Table, k, v, key []byte, doubt func(k, v []byte) bool) bool {
	if intact(t, k, v) {
		return false
	}
	if doubt(k, v) {
		return true
	}
	// It may have led the search astray.
	astray := false
	if after, _ := c.Next(); after != nil {
		astray = bytes.Compare(k, after) >= 0
		c.Prev()
	}
	if before, _ := c.Prev(); before != nil {
		astray = astray || bytes.Compare(before, k) >= 0
		c.Next()
	} else {
		c.First()
	}
	return astray
}

// rows goes through the rows of a part in the file.
type fileRows struct {
	f      *file
	c      *bolt.Cursor
	table  Table
	prefix []byte // of the part
	within []byte // what all keys begin with

	key, value []byte // value as it is in the file; no key: there are no more
}

// rows begins at the first row of a part that is not below start and begins with prefix.
func (f *file) rows(t Table, part, prefix, start []byte) (*fileRows, error) {
	r := &fileRows{f: f, c: f.cursor(t), table: t, prefix: part, within: append(bytes.Clone(part), prefix...)}
	from := r.within
	if bytes.Compare(start, prefix) > 0 {
		from = append(bytes.Clone(part), start...)
	}
	k, v, err := f.seek(r.c, t, from, func(k, v []byte) bool {
		m := r.hidden(k, v)
		return m != nil && bytes.Compare(m, from) >= 0
	})
	if err != nil {
		return nil, err
	}
	return r, r.take(k, v)
}

func (r *fileRows) next() error { return r.take(r.c.Next()) }

func (r *fileRows) take(k, v []byte) error {
	if bytes.HasPrefix(k, r.within) {
		r.key, r.value = k, v
		return nil
	}
	r.key, r.value = nil, nil
	if m := r.hidden(k, v); m != nil {
		return r.f.damage(r.table, m)
	}
	return nil
}

// hidden returns the key under which a damaged row was one of those that are looked for, nil if it was none as far as is known.
func (r *fileRows) hidden(k, v []byte) []byte {
	if k == nil || intact(r.table, k, v) {
		return nil
	}
	if m := meant(r.table, k, v); bytes.HasPrefix(m, r.within) {
		return m
	}
	if n := len(r.within); len(k) > n {
		if m := append(bytes.Clone(r.within), k[n:]...); intact(r.table, m, v) {
			return m
		}
	}
	return nil
}

// done gives the cursor back.
func (r *fileRows) done() { r.f.cursors[r.table].Put(r.c) }

// fileNames goes through the keys of a table in the file.
type fileNames struct {
	c     *bolt.Cursor
	table Table
	name  []byte // nil: there are no more
}

// names begins at the first key after the given one. A damaged row counts under the key that it was written under, if that is known;
// so the walk begins a row early.
func (f *file) names(t Table, after []byte) *fileNames {
	n := &fileNames{c: f.buckets[t].Cursor(), table: t}
	if k, _ := n.c.Seek(after); k == nil {
		n.take(n.c.Last())
	} else if k, v := n.c.Prev(); k != nil {
		n.take(k, v)
	} else {
		n.take(n.c.First())
	}
	for n.name != nil && bytes.Compare(n.name, after) <= 0 {
		n.next()
	}
	return n
}

func (n *fileNames) next() { n.take(n.c.Next()) }

func (n *fileNames) take(k, v []byte) {
	if n.name = k; k == nil {
		return
	}
	if m := meant(n.table, k, v); m != nil {
		n.name = m
	}
}
