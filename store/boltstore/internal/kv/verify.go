package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/internal/trace"
)

// Verify reads all pages and rows of a file that is in use, in slices: each has a read transaction of its own, so that pages that
// are replaced meanwhile can be used again. What it sees is the file; rows that are in memory only are in the log, which was read
// when the file was opened, or was written since.

// Verified is what Verify has looked at.
type Verified struct{ Pages, Rows, Damaged int }

// Verification is what Verify shall do.
type Verification struct {
	// Report is called with each *PageDamage and *Damage that is found.
	Report func(error)
	// Row is called with the rows that are not damaged, with their value, or the beginning of a long one; nil: it is not. What
	// it gets is good until it returns. No transaction is open meanwhile.
	Row func(t Table, key, value []byte)
	// Pace is called after each slice with how long it took, and may wait; nil: there is no pause.
	Pace func(ctx context.Context, took time.Duration)
}

// verifyPages is how many pages a slice has, about.
const verifyPages = 1024

// Verify reads everything. Its error is ctx's, or that of a file that cannot be read at all; damage is only reported.
func (db *DB) Verify(ctx context.Context, v Verification) (Verified, error) {
	if err := db.enter(ctx); err != nil {
		return Verified{}, err
	}
	defer db.leave()
	r := verifier{db: db, v: v, pages: make(map[uint64]bool)}
	for {
		began := time.Now()
		more, err := r.slice()
		if err != nil || !more {
			return r.done, err
		}
		r.handOut()
		if v.Pace != nil {
			v.Pace(ctx, time.Since(began))
		}
		if err := errors.Join(ctx.Err(), db.refusal()); err != nil {
			return r.done, err
		}
	}
}

// verifier is how far Verify has come.
type verifier struct {
	db    *DB
	v     Verification
	table int // index of the bucket
	from  []byte
	pages map[uint64]bool // that were reported
	done  Verified

	found []error
	rows  []fileRow
}

type fileRow struct {
	t          Table
	key, value []byte
}

// buckets are those with rows of ours, in the order in which they are looked at.
func (db *DB) buckets() []string {
	list := []string{bucketMeta, bucketState}
	for i := range db.o.Tables {
		list = append(list, db.o.Tables[i].Name)
	}
	return append(list, bucketLong)
}

// slice looks at the next pages. It reports false once all were looked at.
func (r *verifier) slice() (more bool, err error) {
	buckets := r.db.buckets()
	if r.table == len(buckets) {
		return false, nil
	}
	f, err := r.db.openFileView()
	if err != nil {
		return false, err
	}
	defer f.release()
	err = guard(func() error {
		name := buckets[r.table]
		b := f.tx.Bucket([]byte(name))
		if b == nil {
			return r.page(&PageDamage{Bucket: name, Reason: "missing"})
		}
		c := newChecker(r.db.fd, r.db.page, uint64(f.tx.Size()/r.db.page), r.db.o.Tables)
		c.seen, c.found, c.from, c.left = nil, r.page, r.from, verifyPages
		c.leaf = func(_ *span, list []element) error { return r.leaf(f, c.tables[name], list) }
		if root := uint64(b.RootPage()); root != 0 {
			err = stopped(c.tree(&span{id: root, bucket: name}))
		} else {
			err = r.inline(f, b, c.tables[name])
		}
		r.done.Pages += verifyPages - c.left
		if r.from = c.next; r.from == nil {
			r.table++
		}
		return err
	})
	if errors.Is(err, ErrCorrupt) { // bbolt itself does not go on here
		r.found = append(r.found, err)
		r.table, r.from, err = r.table+1, nil, nil
	}
	return true, err
}

func (r *verifier) inline(f *file, b *bolt.Bucket, t Table) error {
	var list []element
	err := b.ForEach(func(k, v []byte) error {
		list = append(list, element{key: k, value: v})
		return nil
	})
	return errors.Join(err, r.leaf(f, t, list))
}

func (r *verifier) page(d *PageDamage) error {
	if !r.pages[d.Page] {
		r.pages[d.Page] = true
		r.found = append(r.found, d)
	}
	return nil
}

// leaf looks at rows.
func (r *verifier) leaf(f *file, t Table, list []element) error {
	for i := range list {
		e := &list[i]
		if bytes.Compare(e.key, r.from) < 0 {
			continue
		}
		r.done.Rows++
		if d := f.check(t, e.key, e.value); d != nil {
			r.found = append(r.found, d)
		} else if r.v.Row != nil && int(t) < len(r.db.o.Tables) {
			r.rows = append(r.rows, fileRow{t, bytes.Clone(e.key), bytes.Clone(e.value[rowHeader:])})
		}
	}
	return nil
}

// check looks at a row, with what it has elsewhere.
func (f *file) check(t Table, key, v []byte) error {
	d := &Damage{Table: tableName(f.specs, t), Key: bytes.Clone(key)}
	switch {
	case !intact(t, key, v):
		if m := meant(t, key, v); m != nil {
			d.Reason = fmt.Sprintf("its key should be %q", m)
		}
		return d
	case t == longTable:
		if err := f.owned(key); err != nil {
			d.Reason = err.Error()
			return d
		}
	case v[4] == kindLong:
		if _, err := f.long(t, key, v); err != nil {
			d.Reason = "a chunk of the value is damaged or missing"
			return d
		}
	}
	return nil
}

// owned reports whether a chunk of a long value belongs to a row.
func (f *file) owned(key []byte) error {
	n := len(key) - 4
	if n < 1 || int(key[0]) >= len(f.buckets) {
		return errPage("chunk of a value of no table")
	}
	row, t := key[1:n], Table(key[0])
	v := f.buckets[t].Get(row)
	switch {
	case v == nil:
		return errPage("chunk of a value whose row is missing")
	case !intact(t, row, v):
		return nil // which is reported for itself
	}
	size, _ := binary.Uvarint(v[rowHeader:])
	if v[4] != kindLong || uint64(binary.BigEndian.Uint32(key[n:]))*ChunkBytes >= size {
		return errPage("chunk of a value that is over")
	}
	return nil
}

// tableName is what rows' errors say.
func tableName(specs []TableSpec, t Table) string {
	switch t {
	case metaTable:
		return bucketMeta
	case stateTable:
		return bucketState
	case longTable:
		return bucketLong
	}
	return specs[t].Name
}

// handOut tells of what a slice has found.
func (r *verifier) handOut() {
	for _, err := range r.found {
		r.done.Damaged++
		if r.v.Report != nil {
			r.v.Report(err)
		}
	}
	for _, row := range r.rows {
		r.v.Row(row.t, row.key, row.value)
	}
	clear(r.rows)
	r.found, r.rows = nil, slices.Delete(r.rows, 0, len(r.rows))
}

// scrubShare is which part of its time the walk in the background works.
const scrubShare = 10

// scrub looks at what Open has left out, in the background, with a long pause after each slice. It goes through the file once.
func (db *DB) scrub(ctx context.Context) {
	began := time.Now()
	done, err := db.Verify(ctx, Verification{
		Report: func(err error) {
			db.stats.damaged.Add(1)
			db.o.Logger.Error("boltstore: the file is damaged", trace.Err(err))
		},
		Pace: func(ctx context.Context, took time.Duration) {
			select {
			case <-time.After(scrubShare * took):
			case <-ctx.Done():
			}
		},
	})
	if err == nil {
		db.o.Logger.Info("boltstore: the file was looked through", "pages", done.Pages, "damaged", done.Damaged, "took", time.Since(began))
	}
}
