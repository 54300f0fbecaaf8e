package kv

import (
	"errors"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// disk is what a DB asks of the operating system where that may fail while the DB is in use. Tests replace it.
type disk interface {
	// write writes to a file. Its error leaves open how much of b was written.
	write(f *os.File, b []byte, at int64) error
	// sync returns when what was written to a file is durable, and its size.
	sync(f *os.File) error
	// allocate gives a file blocks from its end up to a size, which it then has. If it fails, the file may have a part of them.
	allocate(f *os.File, from, size int64) error
	truncate(f *os.File, size int64) error
	create(path string) (*os.File, error)
	remove(path string) error
	// syncDir makes the name of a file durable, or that it is gone.
	syncDir(path string) error
	// commit commits a transaction of bbolt, which does its own writing.
	commit(tx *bolt.Tx) error
}

// system is the real disk.
type system struct{}

func (system) write(f *os.File, b []byte, at int64) error {
	_, err := f.WriteAt(b, at)
	return err
}

func (system) sync(f *os.File) error                       { return datasync(f) }
func (system) allocate(f *os.File, from, size int64) error { return allocate(f, from, size) }
func (system) truncate(f *os.File, size int64) error       { return f.Truncate(size) }
func (system) remove(path string) error                    { return os.Remove(path) }
func (system) commit(tx *bolt.Tx) error                    { return tx.Commit() }

func (system) create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
}

func (system) syncDir(path string) error { return SyncDir(filepath.Dir(path)) }

// grow gives a file blocks from its end up to a size, and makes them durable. If it fails, the file is as long as before.
// zeros: they are written as well, so that a later write changes nothing but them.
//
// f must be opened for this alone. The system tells once for each time that a file is opened that a write to it has failed: a sync that
// runs while a commit does would else be told of the commit's failure in its place, and the commit pass for durable.
func grow(d disk, f *os.File, from, size int64, zeros bool) error {
	err := d.allocate(f, from, size)
	if errors.Is(err, errors.ErrUnsupported) {
		zeros, err = true, nil
	}
	if zeros {
		b := make([]byte, min(1<<20, size-from))
		for at := from; at < size && err == nil; at += int64(len(b)) {
			err = d.write(f, b[:min(int64(len(b)), size-at)], at)
		}
	}
	if err == nil {
		err = d.sync(f)
	}
	if err != nil {
		return errors.Join(err, d.truncate(f, from))
	}
	return nil
}
