package kv

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// OpenReadOnly opens a file that nobody writes to, to look at it: neither it nor its log is changed, and Update must not be
// called. All pages that make no sense are reported to found, and the error is the first of them: bbolt must not read such a file. With
// alone the file is taken to be complete, as a backup is, and its log is not looked for.
func OpenReadOnly(o Options, alone bool, found func(*PageDamage)) (*DB, error) {
	path, err := resolve(o.Path)
	if err != nil {
		return nil, err
	}
	o.Path = path
	if _, err := os.Stat(o.Path); err != nil {
		if errors.Is(err, fs.ErrNotExist) && HasLog(o.Path) {
			return nil, fmt.Errorf("%w: %w", ErrNoFile, err)
		}
		return nil, err
	}
	deadline := time.Now().Add(o.LockTimeout)
	var first error
	in, err := inspect(&o, deadline, nil, func(d *PageDamage) error {
		first = cmp.Or(first, error(d))
		found(d)
		return nil
	})
	if err = cmp.Or(first, err); err != nil {
		return nil, err
	}
	db := newDB(o)
	db.readOnly = true
	if db.bolt, db.fd, err = boltOpen(o.Path, &bolt.Options{Timeout: timeout(deadline), ReadOnly: true}); err != nil {
		return nil, err
	}
	db.page = int64(db.bolt.Info().PageSize)
	if err := guard(func() error { return db.look(alone) }); err != nil {
		return nil, errors.Join(in.explain(err), db.undoOpen())
	}
	db.log.Metas = in.metas
	db.room.mu.Lock()
	db.room.free = int64(in.free) * db.page
	db.room.mu.Unlock()
	return db, nil
}

// look is start for a file that is only read.
func (db *DB) look(alone bool) error {
	s, meta, err := readState(db.bolt)
	if err != nil {
		return err
	}
	if err := db.o.Meta(meta); err != nil {
		return err
	}
	db.id, db.log = s.id, LogState{Closed: !s.open, Memtable: s.number, Group: s.group}
	for i, suffix := range walNames {
		if alone || !s.open {
			break
		}
		l, err := openWAL(db.disk, db.o.Path+suffix, os.O_RDONLY, s.id, 0)
		if err != nil {
			return err
		}
		if l == nil {
			return fmt.Errorf("%w: %s", ErrNoLog, filepath.Base(db.o.Path+suffix))
		}
		db.logs[i] = l
	}
	file, err := db.openFileView()
	if err != nil {
		return err
	}
	defer file.release()
	if db.logs[0] != nil {
		return db.recover(&s, file)
	}
	db.published.Store(s.group)
	db.replacing.Lock()
	defer db.replacing.Unlock()
	db.install(db.memtable(s.number+1, 0), nil, file)
	db.measure(file.tx.Size(), 0)
	return nil
}

// HasLog reports whether there is a log next to where a file is or would be.
func HasLog(path string) bool {
	for _, suffix := range walNames {
		if _, err := os.Lstat(path + suffix); err == nil {
			return true
		}
	}
	return false
}

// LogState is what a file that is open for reading only says about its log.
type LogState struct {
	Closed   bool   // it was closed: no log belongs to it
	Memtable uint64 // that was flushed last
	Group    uint64 // of operations, that is in the file and was committed last
	Metas    bool   // both meta pages can be read
}

// Log returns what the file says about its log.
func (db *DB) Log() LogState { return db.log }
