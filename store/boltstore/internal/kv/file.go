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
	k, v, err := f.seek(c, t, key)
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

// seek has a cursor at the first row that is not below key. Where that is another one, both its neighbours are looked at. The
// cursor may be one row before it then, which has Next return the same.
func (f *file) seek(c *bolt.Cursor, t Table, key []byte) (k, v []byte, err error) {
	k, v = c.Seek(key)
	if k != nil && string(k) == string(key) {
		return k, v, nil
	}
	if k != nil && (bytes.Compare(k, key) < 0 || suspect(t, k, v, key)) {
		return nil, nil, f.damage(t, key)
	}
	var before, value []byte
	if k == nil {
		before, value = c.Last()
	} else {
		before, value = c.Prev()
	}
	if before != nil && (bytes.Compare(before, key) >= 0 || suspect(t, before, value, key)) {
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
	k, v, err := f.seek(r.c, t, from)
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
	if n := len(r.within); len(k) > n {
		// If it is damaged, it may be one of those that are looked for.
		if suspect(r.table, k, v, append(bytes.Clone(r.within), k[n:]...)) {
			return r.f.damage(r.table, append(bytes.Clone(r.within), k[n:]...))
		}
	}
	return nil
}

// done gives the cursor back.
func (r *fileRows) done() { r.f.cursors[r.table].Put(r.c) }
