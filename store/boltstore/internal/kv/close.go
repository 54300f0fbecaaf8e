package kv

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

func (db *DB) name() string { return filepath.Base(db.o.Path) }

// shut closes the files. The DB has no users by then.
//
//  1. Both memtables are flushed, then the file says that it was closed, and only then the log is removed.
//  2. If a flush does not succeed, or the DB has failed, the file stays as a crash would leave it, and the log with it.
//  3. bbolt, which has the lock, is closed last.
func (db *DB) shut() error {
	var err error
	if db.failure() == nil && !db.readOnly {
		if err = db.flushRest(); err == nil {
			err = db.seal()
		}
	}
	healthy := err == nil && db.failure() == nil && !db.readOnly
	close(db.flushes)
	db.flusher.Wait()
	db.replacing.Lock()
	v := db.current.Swap(nil)
	db.replacing.Unlock()
	v.release()
	for i, l := range db.logs {
		if l == nil { // of a file that was closed, and is open for reading only
			continue
		}
		err = errors.Join(err, l.close())
		if healthy {
			err = errors.Join(err, db.disk.remove(db.o.Path+walNames[i]))
		}
	}
	if healthy {
		err = errors.Join(err, db.disk.syncDir(db.o.Path))
	}
	if e := db.closeFile(); e != nil { // last: from then on another one may open the file, and make a log of its own
		err = errors.Join(err, fmt.Errorf("boltstore: close: %w", e))
	}
	return err
}

// flushRest flushes both memtables.
func (db *DB) flushRest() error {
	for {
		v := db.current.Load()
		db.mu.Lock()
		ch, err, gaveUp := db.flushed, db.flushErr, db.gaveUp
		db.mu.Unlock()
		switch {
		case gaveUp:
			return fmt.Errorf("boltstore: close: flush: %w", err)
		case db.failure() != nil: // the file must not say that it was closed
			return db.failure()
		case v.mem[1] != nil:
			if db.current.Load() == v {
				<-ch
			}
		case v.mem[0].empty():
			return nil
		default:
			db.running.Lock()
			db.rotate()
			db.running.Unlock()
		}
	}
}

// seal says in the file that it was closed. With the list of free pages in the file the next Open needs not look for them.
func (db *DB) seal() error {
	m := db.current.Load().mem[0]
	return db.transact(func(tx *bolt.Tx) error {
		db.bolt.NoFreelistSync = db.unlisted
		return putState(tx, state{id: db.id, number: m.number - 1, group: db.published.Load()})
	})
}

// Checkpoint flushes all that was published before it was called. The error is ctx's, store.ErrClosed, store.ErrFailed, or
// store.ErrFull with the reason while a flush does not get on.
func (db *DB) Checkpoint(ctx context.Context) error {
	if err := db.enter(ctx); err != nil {
		return err
	}
	defer db.leave()
	goal := uint64(0) // memtable
	for {
		db.mu.Lock()
		ch, err := db.flushed, db.flushErr
		db.mu.Unlock()
		if failure := db.failure(); failure != nil {
			return failure
		}
		v := db.current.Load()
		if goal == 0 {
			goal = v.mem[0].number
		}
		switch {
		case v.mem[0].number > goal && v.mem[1] == nil, v.mem[0].number > goal+1, v.mem[1] == nil && v.mem[0].empty():
			return nil
		case err != nil:
			return &fullError{err}
		case v.mem[1] != nil:
			if db.current.Load() != v {
				continue
			}
			select {
			case <-ch:
			case <-ctx.Done():
				return ctx.Err()
			case <-db.life.Done():
			}
		default:
			if err := db.freeze(ctx, goal); err != nil {
				return err
			}
		}
	}
}

// freeze begins a new memtable if the active one has a number and none is frozen. It waits for groups that run, on another
// goroutine, as ctx may end before.
func (db *DB) freeze(ctx context.Context, number uint64) error {
	done := make(chan struct{})
	db.behind(func() {
		defer close(done)
		db.running.Lock()
		defer db.running.Unlock()
		if v := db.current.Load(); v.mem[1] == nil && v.mem[0].number == number {
			db.rotate()
		}
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Backup calls f with a transaction of the file that has all that was published before it was called. As long as f runs, pages
// that the transaction needs are not used again.
func (db *DB) Backup(ctx context.Context, f func(tx *bolt.Tx) error) error {
	if err := db.enter(ctx); err != nil {
		return err
	}
	defer db.leave()
	db.mu.Lock()
	db.backups++
	db.mu.Unlock()
	defer func() {
		db.mu.Lock()
		db.backups--
		db.mu.Unlock()
		db.room.mu.Lock()
		defer db.room.mu.Unlock()
		db.countFreeLocked() // no flush may be due that would show what is free again
	}()
	if err := db.Checkpoint(ctx); err != nil {
		return err
	}
	var tx *bolt.Tx
	if err := guard(func() (err error) { tx, err = db.bolt.Begin(false); return err }); err != nil {
		return err
	}
	return errors.Join(guard(func() error { return f(tx) }), tx.Rollback())
}
