package kv

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// inspection is what is known of a file before it is opened for writing.
type inspection struct {
	rest  bool   // leaves were not looked at
	metas bool   // both meta pages are good
	free  uint64 // pages that nothing leads to; too many if there is a rest

	mends int       // bits and lists of free pages that were put right
	rows  int       // damaged ones that were met
	moved []fileRow // those of them whose key is damaged, and was another one
}

// maxMoved is how many rows are put right by Open at most.
const maxMoved = 10_000

// gather counts damaged rows.
func (in *inspection) gather(_ *span, t Table, list []element) error {
	for i := range list {
		k, v := list[i].key, list[i].value
		if intact(t, k, v) {
			continue
		}
		in.rows++
		if m := meant(t, k, v); len(m) == len(k) && len(in.moved) < maxMoved {
			in.moved = append(in.moved, fileRow{t, bytes.Clone(k), bytes.Clone(v)})
		}
	}
	return nil
}

// putBack puts rows whose key was damaged to where they belong. The checksum says what the key was. As long as such a row keeps its order
// a search for it meets it; a row that is added next to it would end that.
func (in *inspection) putBack(tx *bolt.Tx, tables []TableSpec) error {
	for _, r := range in.moved {
		b := tx.Bucket([]byte(tableName(tables, r.t)))
		if err := b.Delete(r.key); err != nil {
			return err
		}
		if m := meant(r.t, r.key, r.value); b.Get(m) == nil { // else there is a later version
			if err := b.Put(m, r.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// explain returns an error of a file that was opened with more to it, if the file was found to be of an earlier state.
func (in *inspection) explain(err error) error {
	if !in.metas && (errors.Is(err, ErrNoLog) || errors.Is(err, ErrOtherLog)) {
		return fmt.Errorf("%w: a meta page is damaged, and the other one is of an earlier state: %w", ErrCorrupt, err)
	}
	return err
}

// Inspect returns an error unless a file is a store whose pages make sense. The file must not be open for writing: else the error is
// ErrLocked, after Options.LockTimeout.
func Inspect(o Options) error {
	_, err := inspect(&o, time.Now().Add(o.LockTimeout), nil, stopAtFirst)
	return err
}

// inspect looks at a file before it is opened for writing: first whether it is a store that is known, then whether its pages make
// sense. bbolt looks for free pages in a goroutine of its own when a file was not closed, and ends the process if a page is
// bad there. As long as inspect runs, nobody else can write. With a mender it puts right what it can.
func inspect(o *Options, deadline time.Time, m *mender, found func(*PageDamage) error) (in inspection, err error) {
	if st, err := os.Stat(o.Path); err != nil {
		return in, err
	} else if !st.Mode().IsRegular() {
		return in, fmt.Errorf("%w: no regular file", ErrNotStore)
	} else if st.Size() == 0 {
		return in, fmt.Errorf("%w: empty file", ErrNotStore)
	}
	db, _, err := boltOpen(o.Path, &bolt.Options{Timeout: timeout(deadline), ReadOnly: true})
	if err != nil {
		return in, err
	}
	err = guard(func() error {
		f, err := os.Open(o.Path)
		if err != nil {
			return err
		}
		defer f.Close() // it was only read
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if m != nil {
			m.ReaderAt = f
		}
		if in, err = inspectPages(f, st.Size(), int64(db.Info().PageSize), o, m, found); err != nil || m == nil {
			return err
		}
		return m.write(cmp.Or[disk](o.disk, system{}), o.Path)
	})
	return in, errors.Join(err, db.Close())
}

// inspectPages walks through a file; again and again as long as the mender puts something right.
func inspectPages(f io.ReaderAt, size, page int64, o *Options, m *mender, found func(*PageDamage) error) (in inspection, err error) {
	for {
		tell := found
		if m != nil {
			if f = m; m.unsure > 0 {
				tell = stopAtFirst
			}
		}
		in, err = inspectOnce(f, size, page, o, m, tell)
		switch {
		case errors.Is(err, errMended):
		case err != nil && m != nil && m.unsure > 0:
			m.takeBack()
		default:
			if m != nil {
				in.mends = len(m.patches)
			}
			return in, err
		}
	}
}

func inspectOnce(f io.ReaderAt, size, page int64, o *Options, m *mender, found func(*PageDamage) error) (in inspection, err error) {
	meta, err := newestMeta(f, page)
	if err != nil {
		return in, err
	}
	in.metas = meta.other
	closed, err := known(f, page, meta, o)
	if err != nil {
		return in, err
	}
	if m != nil && !in.metas {
		if err := m.mendMeta(&pageReader{file: f, page: page, high: meta.high}); err != nil {
			return in, err
		}
	}
	in.rest, in.free, err = checkFile(f, size, page, meta, closed, o, m, found, in.gather)
	return in, err
}

// known returns an error for a file that is none of ours, or is of another version, and whether the file was closed. What cannot be
// read is left to checkFile, which knows which page it is. bbolt is not asked: of a page that makes no sense it makes pointers that
// end the process.
func known(f io.ReaderAt, page int64, meta fileMeta, o *Options) (closed bool, err error) {
	var about about
	c := newChecker(f, page, meta.high, o.Tables)
	c.only = map[string]bool{bucketMeta: true, bucketState: true}
	c.leaf = func(s *span, list []element) error {
		for i := range list {
			about.row(s.bucket, list[i].key, list[i].value)
		}
		return nil
	}
	if err := c.tree(&span{id: meta.root}); err != nil {
		return false, nil
	}
	for name := range c.buckets {
		about.has(name)
	}
	s, rows, err := about.read()
	if err == nil && len(rows) > 0 && o.Meta != nil {
		err = o.Meta(rows)
	}
	if errors.Is(err, ErrCorrupt) {
		return false, nil
	}
	return !s.open, err
}
