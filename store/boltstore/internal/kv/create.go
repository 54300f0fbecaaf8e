package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ensure makes the file if there is none.
func ensure(o *Options, deadline time.Time) error {
	for n := 0; ; n++ {
		if _, err := os.Stat(o.Path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, suffix := range walNames {
			if _, err := os.Lstat(o.Path + suffix); err == nil {
				return fmt.Errorf("%w: %s", ErrNoFile, filepath.Base(o.Path+suffix))
			}
		}
		err := create(o, deadline)
		if err == nil || n == attempts || errors.Is(err, ErrLocked) || full(err) {
			return err
		}
		if _, lost := os.Stat(filepath.Dir(o.Path)); lost != nil {
			return err
		}
	}
}

// create makes an empty file under another name and then gives it its own, unless another one has made it meanwhile.
func create(o *Options, deadline time.Time) (err error) {
	temp, err := makeEmpty(o.Path, o.Tables, deadline)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temp)) }()
	if err := os.Link(temp, o.Path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(filepath.Dir(o.Path))
}

// makeEmpty makes a file with empty tables, under a name of its own that follows from the one that it will have.
func makeEmpty(path string, tables []TableSpec, deadline time.Time) (temp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+NewSuffix+"*")
	if err != nil {
		return "", err
	}
	temp = f.Name()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp))
		}
	}()
	if err := f.Close(); err != nil {
		return temp, err
	}
	db, _, err := boltOpen(temp, &bolt.Options{Timeout: timeout(deadline), NoFreelistSync: true})
	if err != nil {
		return temp, err
	}
	err = guard(func() error {
		return db.Update(func(tx *bolt.Tx) error {
			names := []string{bucketMeta, bucketState, bucketLong}
			for i := range tables {
				names = append(names, tables[i].Name)
			}
			for _, name := range names {
				if _, err := tx.CreateBucket([]byte(name)); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return temp, errors.Join(err, db.Close())
}

// SyncDir makes a new name in a folder durable. Windows cannot do that and does not need it.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
