package kv

import (
	"errors"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// inspection is what is known of a file before it is opened for writing.
type inspection struct {
	rest  bool // leaves were not looked at
	metas bool // both meta pages are good
}

// Inspect reports whether a file that nobody writes to is a store, and its pages make sense.
func Inspect(o Options) error {
	_, err := inspect(&o, time.Now().Add(o.LockTimeout), stopAtFirst)
	return err
}

// inspect looks at a file before it is opened for writing: first whether it is a store that is known, then whether its pages make
// sense. bbolt looks for free pages in a goroutine of its own when a file was not closed, and ends the process if a page is
// bad there. As long as inspect runs, nobody else can write.
func inspect(o *Options, deadline time.Time, found func(*PageDamage) error) (in inspection, err error) {
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
		if err := other(db, o); err != nil {
			return err
		}
		page := int64(db.Info().PageSize)
		meta, err := newestMeta(f, page)
		if err != nil {
			return err
		}
		in.metas = meta.other
		in.rest, err = checkFile(f, st.Size(), page, o.Tables, found)
		return err
	})
	return in, errors.Join(err, db.Close())
}

// other is the error for a file that is none of ours, or is of another version. What cannot be read is left to checkFile, which
// knows which page it is.
func other(db *bolt.DB, o *Options) error {
	var meta map[string][]byte
	err := guard(func() (err error) { _, meta, err = readState(db); return err })
	if err == nil && len(meta) > 0 && o.Meta != nil {
		err = o.Meta(meta)
	}
	if errors.Is(err, ErrCorrupt) {
		return nil
	}
	return err
}
