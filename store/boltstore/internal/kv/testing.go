package kv

import (
	"errors"

	bolt "go.etcd.io/bbolt"
)

// What tests of the package above need.

// SetCommit replaces what commits slices of the flush, from the next flush on.
func (db *DB) SetCommit(f func(*bolt.Tx) error) {
	db.running.Lock()
	defer db.running.Unlock()
	db.disk = committer{db.disk, f}
}

type committer struct {
	disk
	f func(*bolt.Tx) error
}

func (c committer) commit(tx *bolt.Tx) error { return c.f(tx) }

// Crash gives the DB up as the end of the process would: nothing more is written, and the files are let go.
func (db *DB) Crash() {
	db.fail(errors.New("crash for a test"))
	db.mu.Lock()
	last := !db.closing && db.users == 0
	db.closing = true
	db.mu.Unlock()
	if last {
		go db.finish()
	}
	<-db.released
}

// Bolt is the file.
func (db *DB) Bolt() *bolt.DB { return db.bolt }

// SetWrite calls f in place of what makes groups durable, which f is given, from the next group on.
func (db *DB) SetWrite(f func(write func() error) error) {
	db.writing.Lock()
	defer db.writing.Unlock()
	db.write = func(l *wal, record []byte, group uint64) error {
		return f(func() error { return l.write(record, group) })
	}
}
