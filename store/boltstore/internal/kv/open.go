package kv

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/manydevice/manydevice/store"
)

const (
	fileMode = 0o600
	mapBytes = 128 << 30 // of address space, from the start: bbolt replaces a map by a larger one only while no read transaction is open
	attempts = 10        // to make the file, while others try the same

	NewSuffix     = ".new.tmp-"     // of the name under which a file is made; a number follows; see temporaryName
	RestoreSuffix = ".restore.tmp-" // of the name under which a file is restored; a number follows

	bucketMeta  = "manydevice" // what the file says about itself
	bucketState = "state"      // one row, see state
	bucketLong  = "long"       // table, key of a row, number → chunk of a long value

	metaTable  = Table(254) // in checksums
	stateTable = Table(253)
)

// Open opens a file, or makes it. Its folder must be there.
func Open(o Options) (*DB, error) {
	began := time.Now()
	deadline := began.Add(o.LockTimeout)
	if err := o.locate(); err != nil {
		return nil, err
	}
	if err := ensure(&o, deadline); full(err) {
		return nil, fmt.Errorf("%w: to make %s: %w", store.ErrFull, filepath.Base(o.Path), err)
	} else if err != nil {
		return nil, err
	}
	in, err := inspect(&o, deadline, new(mender), stopAtFirst)
	if err != nil {
		return nil, err
	}
	db := newDB(o)
	if err := db.openFile(deadline); err != nil {
		return nil, err
	}
	if err := guard(func() error { return db.start(&in) }); err != nil {
		if full(err) {
			err = fmt.Errorf("%w: to open %s: %w", store.ErrFull, db.name(), err)
		}
		return nil, errors.Join(in.explain(err), db.undoOpen())
	}
	removeStale(o.Path, o.Logger)
	db.flusher.Add(1)
	go db.flushAll()
	if v := db.current.Load(); v.mem[1] != nil {
		db.flushes <- v.mem[1]
	}
	if in.rest {
		db.Go(db.scrub)
	}
	return db, nil
}

func newDB(o Options) *DB {
	db := &DB{
		o: o, disk: cmp.Or[disk](o.disk, system{}), limit: o.Memory / 2, write: (*wal).write,
		flushes: make(chan *memtable, 1), flushed: make(chan struct{}),
		failed: make(chan struct{}), released: make(chan struct{}),
	}
	db.arrived.L = &db.mu
	for i := range db.writers {
		db.writers[i] = &Writer{db: db}
	}
	db.unusable = sync.OnceFunc(func() { close(db.failed) })
	db.life, db.stop = context.WithCancel(context.Background())
	return db
}

// undoOpen closes what Open has opened.
func (db *DB) undoOpen() error {
	var err error
	if v := db.current.Swap(nil); v != nil {
		v.release()
	}
	for _, l := range db.logs {
		if l != nil {
			err = errors.Join(err, l.close())
		}
	}
	return errors.Join(err, db.closeFile())
}

// start reads what the file and its log say, and begins.
func (db *DB) start(in *inspection) error {
	if err := db.hardenMeta(); err != nil {
		return err
	}
	s, meta, err := readState(db.bolt)
	if err != nil {
		return err
	}
	before := make(map[string][]byte, len(meta))
	maps.Copy(before, meta)
	if err := db.o.Meta(meta); err != nil {
		return err
	}
	fresh := !s.open
	if err := db.openLogs(&s); err != nil {
		return err
	}
	var high int64
	if err := db.bolt.View(func(tx *bolt.Tx) error { high = tx.Size(); return nil }); err != nil {
		return err
	}
	if err := db.allot(high); err != nil {
		return err
	}
	err = db.transact(func(tx *bolt.Tx) error {
		db.listFree(true)
		b := tx.Bucket([]byte(bucketMeta))
		for k, v := range meta {
			if bytes.Equal(before[k], v) {
				continue
			}
			if err := b.Put([]byte(k), appendRow(nil, metaTable, []byte(k), kindWhole, v)); err != nil {
				return err
			}
		}
		return errors.Join(in.putBack(tx, db.o.Tables), putState(tx, s))
	})
	if err != nil {
		if !errors.Is(err, errHalf) {
			err = errors.Join(err, db.dropLogs(fresh))
		}
		return err
	}
	if in.rows+in.mends > 0 {
		db.stats.damaged.Add(uint64(in.rows + in.mends))
		db.o.Logger.Error("boltstore: the file is damaged", "rows", in.rows, "pages", in.mends, "mended", len(in.moved)+in.mends)
	}
	file, err := db.openFileView()
	if err != nil {
		return err
	}
	defer file.release()
	return db.recover(&s, file)
}

// hardenMeta makes the newest meta page durable. After a sync that failed it may be one that can be read and is not on the disk,
// and the next commit writes over the other one.
func (db *DB) hardenMeta() error {
	var id int
	if err := db.bolt.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		return err
	}
	b := make([]byte, db.page)
	at := int64(id%2) * db.page
	if _, err := db.fd.ReadAt(b, at); err != nil {
		return err
	}
	if err := db.disk.write(db.fd, b, at); err != nil {
		return err
	}
	return db.disk.sync(db.fd)
}

// openLogs opens the log of a file that was not closed, or makes one.
func (db *DB) openLogs(s *state) error {
	step := min(max(db.limit/16, walStep), 4<<20)
	if !s.open {
		return db.newLogs(s, step)
	}
	db.id = s.id
	for i, suffix := range walNames {
		l, err := openWAL(db.disk, db.o.Path+suffix, os.O_RDWR, s.id, step)
		if err != nil {
			return err
		}
		if l == nil {
			return fmt.Errorf("%w: %s", ErrNoLog, filepath.Base(db.o.Path+suffix))
		}
		db.logs[i] = l
	}
	return nil
}

// newLogs makes the log of a file that was closed or is new. A log that is there is removed if it is the file's own, of which only
// the removal was missing, or if it was made by an Open that did not come further.
func (db *DB) newLogs(s *state, step int64) error {
	var over []string // removed only if nothing speaks against any of them
	for _, suffix := range walNames {
		path := db.o.Path + suffix
		l, err := openWAL(db.disk, path, os.O_RDWR, s.id, step)
		if err != nil {
			if unused, e := unusedWAL(path); e != nil || !unused {
				return errors.Join(err, e)
			}
		} else if l == nil {
			continue
		} else if err := l.close(); err != nil {
			return err
		}
		over = append(over, path)
	}
	for _, path := range over {
		if err := db.disk.remove(path); err != nil {
			return err
		}
	}
	rand.Read(db.id[:])
	s.id, s.open = db.id, true
	for i, suffix := range walNames {
		l, err := createWAL(db.disk, db.o.Path+suffix, db.id, step)
		if err != nil {
			return errors.Join(err, db.dropLogs(true))
		}
		db.logs[i] = l
	}
	return db.disk.syncDir(db.o.Path)
}

// dropLogs closes the log and removes it, if Open has made it and has failed then.
func (db *DB) dropLogs(fresh bool) (err error) {
	for i, l := range db.logs {
		if fresh && l != nil {
			db.logs[i] = nil
			err = errors.Join(err, l.close(), db.disk.remove(db.o.Path+walNames[i]))
		}
	}
	return err
}

// openFile opens a file that was inspected, for writing.
func (db *DB) openFile(deadline time.Time) (err error) {
	o := &bolt.Options{Timeout: timeout(deadline), NoFreelistSync: true, FreelistType: bolt.FreelistMapType}
	if strconv.IntSize == 64 && runtime.GOOS != "windows" && !db.o.remap { // where the file would grow with the map
		o.InitialMmapSize = mapBytes
		if db.o.MaxSize > 0 {
			o.InitialMmapSize = int(min(mapBytes, 2*db.o.MaxSize))
		}
	}
	db.mapped = int64(o.InitialMmapSize)
	db.bolt, db.fd, err = boltOpen(db.o.Path, o)
	if err != nil {
		return err
	}
	if db.grown, err = os.OpenFile(db.o.Path, os.O_RDWR, 0); err != nil {
		return errors.Join(err, db.bolt.Close())
	}
	db.page = int64(db.bolt.Info().PageSize)
	db.bolt.AllocSize = int(db.page)
	return nil
}

func (db *DB) closeFile() error {
	err := db.bolt.Close()
	if db.grown != nil {
		err = errors.Join(err, db.grown.Close())
	}
	return err
}

// boltOpen is bolt.Open with errors of ours, also for its panics, and the file that it uses.
func boltOpen(path string, o *bolt.Options) (*bolt.DB, *os.File, error) {
	var file *os.File
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		file = f
		return f, err
	}
	var db *bolt.DB
	panicked := true
	err := guard(func() (err error) {
		db, err = bolt.Open(path, fileMode, o)
		panicked = false
		return err
	})
	if panicked && file != nil {
		err = errors.Join(err, file.Close()) // which gives up the lock
	}
	switch {
	case err == nil:
		return db, file, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, nil, ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, nil, fmt.Errorf("%w: %w", ErrNotStore, err)
	case errors.Is(err, berrors.ErrChecksum):
		return nil, nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	case errors.Is(err, syscall.ENOMEM):
		return nil, nil, fmt.Errorf("no room for the file in the address space of the process, %d bytes are needed (ulimit -v): %w",
			max(o.InitialMmapSize, 0), err)
	}
	return nil, nil, err
}

// timeout is what is left until the deadline, for bbolt, which takes zero for ever.
func timeout(deadline time.Time) time.Duration { return max(time.Until(deadline), 1) }

// Settle says in a file that it was closed: one that was made by Backup is complete, and no log belongs to it.
func Settle(o Options) error {
	deadline := time.Now().Add(o.LockTimeout)
	if _, err := inspect(&o, deadline, nil, stopAtFirst); err != nil {
		return err
	}
	db := newDB(o)
	if err := db.openFile(deadline); err != nil {
		return err
	}
	err := guard(func() error {
		s, meta, err := readState(db.bolt)
		if err == nil {
			err = o.Meta(meta)
		}
		if err != nil {
			return err
		}
		s.open = false
		return db.bolt.Update(func(tx *bolt.Tx) error { return putState(tx, s) })
	})
	return errors.Join(err, db.closeFile())
}
