package kv

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// All calls f with all rows of a table, in order, with the error of those that cannot be read, until f returns an error. What f gets
// is good as long as the snapshot. It gathers the keys that are in memory first: it is for tools.
func (s *Snapshot) All(t Table, f func(key, value []byte, err error) error) error {
	later := make(map[string]logRow)
	for i := len(s.v.mem) - 1; i >= 0; i-- {
		m := s.v.mem[i]
		if m == nil {
			continue
		}
		for _, part := range m.inOrder(t) {
			for r := m.seek(part, nil, nil); r != 0; r = m.after(r) {
				if v, gone, found := m.visible(r, s.seq); found {
					later[string(m.prefix(part)[1:])+string(m.key(r))] = logRow{v, gone}
				}
			}
		}
	}
	keys := slices.Sorted(maps.Keys(later))
	memory := func(below []byte) error {
		for len(keys) > 0 && (below == nil || keys[0] <= string(below)) {
			k := keys[0]
			keys = keys[1:]
			if r := later[k]; !r.gone {
				if err := f([]byte(k), r.value, nil); err != nil {
					return err
				}
			}
		}
		return nil
	}
	c := s.v.file.buckets[t].Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := memory(k); err != nil {
			return err
		}
		if _, newer := later[string(k)]; newer {
			continue
		}
		value, err := s.v.file.open(t, k, v)
		if err := f(k, value, err); err != nil {
			return err
		}
	}
	return memory(nil)
}

// copySlice is how many bytes of rows one transaction of Copy writes.
const copySlice = 8 << 20

// Copy writes all rows into a new file, whose pages are full, and which says that it was closed. A row that cannot be read ends it.
func (db *DB) Copy(ctx context.Context, to string) error {
	return Make(to, db.o.Tables, func(out *bolt.DB) error {
		return db.View(ctx, func(s *Snapshot) error {
			w := copier{out: out, tables: db.o.Tables}
			if err := w.about(s.v.file.tx, db.id); err != nil {
				return err
			}
			for t := range db.o.Tables {
				err := s.All(Table(t), func(key, value []byte, err error) error {
					if err == nil {
						err = ctx.Err()
					}
					if err != nil {
						return err
					}
					return w.put(Table(t), key, value)
				})
				if err != nil {
					return errors.Join(err, w.end())
				}
			}
			return w.commit()
		})
	})
}

type copier struct {
	out    *bolt.DB
	tables []TableSpec
	tx     *bolt.Tx
	bytes  int
}

// about copies what the file says about itself.
func (w *copier) about(from *bolt.Tx, id walID) error {
	return w.out.Update(func(tx *bolt.Tx) error {
		to := tx.Bucket([]byte(bucketMeta))
		err := from.Bucket([]byte(bucketMeta)).ForEach(func(k, v []byte) error { return to.Put(bytes.Clone(k), bytes.Clone(v)) })
		return errors.Join(err, putState(tx, state{id: id}))
	})
}

func (w *copier) put(t Table, key, value []byte) (err error) {
	if w.tx == nil {
		if w.tx, err = w.out.Begin(true); err != nil {
			return err
		}
		for i := range w.tables {
			w.tx.Bucket([]byte(w.tables[i].Name)).FillPercent = 1
		}
		w.tx.Bucket([]byte(bucketLong)).FillPercent = 1
	}
	key = bytes.Clone(key)
	row := appendRow(nil, t, key, kindWhole, value)
	if len(value) > longValue {
		about, err := putLong(w.tx.Bucket([]byte(bucketLong)), t, key, value)
		if err != nil {
			return err
		}
		row = appendRow(nil, t, key, kindLong, about)
	}
	if err := w.tx.Bucket([]byte(w.tables[t].Name)).Put(key, row); err != nil {
		return err
	}
	if w.bytes += len(key) + len(value); w.bytes > copySlice {
		return w.commit()
	}
	return nil
}

func (w *copier) commit() error {
	if w.tx == nil {
		return nil
	}
	tx := w.tx
	w.tx, w.bytes = nil, 0
	return tx.Commit()
}

func (w *copier) end() error {
	if w.tx == nil {
		return nil
	}
	return w.tx.Rollback()
}

// Make makes a file with empty tables under a temporary name, calls f to fill it, and gives it its name. That name and those of
// its log must be free.
func Make(path string, tables []TableSpec, f func(*bolt.DB) error) (err error) {
	if err := Vacant(path); err != nil {
		return err
	}
	temp, err := makeEmpty(path, tables, time.Now().Add(time.Second))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp))
		}
	}()
	db, _, err := boltOpen(temp, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	if err := errors.Join(guard(func() error { return f(db) }), db.Close()); err != nil {
		return err
	}
	return Publish(temp, path)
}

// Vacant returns an error if there is something of that name, or a log that would become its log.
func Vacant(path string) error {
	for _, suffix := range append([]string{""}, walNames[:]...) {
		switch _, err := os.Lstat(path + suffix); {
		case err == nil:
			return &fs.PathError{Op: "make", Path: path + suffix, Err: fs.ErrExist}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// Publish gives a file its name, unless there is one of that name already.
func Publish(temp, path string) error {
	err := os.Link(temp, path) // which does not replace what another one has just made
	switch {
	case err == nil:
		err = os.Remove(temp)
	case errors.Is(err, fs.ErrExist):
	default: // a file system without links
		if err = Vacant(path); err == nil {
			err = os.Rename(temp, path)
		}
	}
	return errors.Join(err, system{}.syncDir(path))
}
