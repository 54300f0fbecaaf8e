package boltstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

const (
	fileMode  = 0o600
	newSuffix = ".new"             // of the name under which a file is made
	mapBytes  = 2 * defaultMaxSize // of address space, from the start: a larger map has to wait until nobody reads
	growBytes = 16 << 20
	attempts  = 10 // to make the file, while others try the same
)

// Open opens the store in the file path, which is made if it is not there; its folder must be. A file is made under the
// name path.new first, so that there is never half a store; one that was left there by a crash is used or replaced. All
// faults of cfg are reported at once. Other errors are [ErrLocked], [ErrNotStore], [ErrCorrupt], [store.ErrSchema], and
// those of the file system.
func Open(path string, cfg Config) (*Store, error) {
	if err := cfg.validate(path); err != nil {
		return nil, fmt.Errorf("boltstore: config: %w", err)
	}
	cfg = cfg.withDefaults()
	s, err := open(path, cfg)
	if err != nil {
		return nil, fmt.Errorf("boltstore: open: %w", err)
	}
	return s, nil
}

func open(path string, cfg Config) (*Store, error) {
	deadline := time.Now().Add(cfg.LockTimeout)
	if err := ensure(path, deadline); err != nil {
		return nil, err
	}
	if err := inspect(path, deadline); err != nil {
		return nil, err
	}
	db, err := openFile(path, &cfg, deadline)
	if err != nil {
		return nil, err
	}
	s := newStore(path, cfg, db)
	waiting := false
	if err := guard(func() (err error) { waiting, err = s.start(); return err }); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if s.frozen != nil || s.sweep != 0 || s.mergeable() {
		s.signal()
	}
	s.users++ // so that Close waits for it
	go s.maintain()
	if waiting {
		s.startPurge()
	}
	return s, nil
}

func newStore(path string, cfg Config, db *bolt.DB) *Store {
	s := &Store{
		cfg: cfg, db: db, page: int64(db.Info().PageSize), commit: (*bolt.Tx).Commit,
		disk:   diskSpace{path: path, stat: statFree},
		limits: newLimits(&cfg), wake: make(chan struct{}, 1),
		failed: make(chan struct{}), released: make(chan struct{}),
	}
	s.unusable = sync.OnceFunc(func() { close(s.failed) })
	s.life, s.stop = context.WithCancel(context.Background())
	s.info.Capabilities = store.Capabilities{Durable: true, AtomicSend: true, UniformOrder: true, Dense: true}
	return s
}

// start reads what the store is and what is left of the journal, and reports whether entries of deleted accounts wait to
// be removed.
func (s *Store) start() (waiting bool, err error) {
	if s.cfg.NewIncarnation {
		if err := s.db.Update(renew); err != nil {
			return false, err
		}
	}
	if err := s.db.Update(dropUnfinished); err != nil && !errors.Is(err, errNothing) {
		return false, err
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		m, err := readMeta(tx)
		if err != nil {
			return err
		}
		s.info.Incarnation, s.info.Secret = m.incarnation, m.secret
		s.epochs, s.keys = epochs(m.incarnation), messageKeys{event.NewIssuer(m.secret)}
		b, err := openBase(tx, nil)
		if err != nil {
			return err
		}
		if v := b.meta.Get([]byte(metaSweep)); v != nil {
			if s.sweep, err = number(v, "sweep"); err != nil {
				return err
			}
		}
		if s.issuers, err = readIssuers(&b); err != nil {
			return err
		}
		k, _ := b.purge.Cursor().First()
		waiting = k != nil
		s.published = tx.ID()
		return s.recover(tx, &b)
	})
	return waiting, err
}

// recover reads the windows and the journal. The older of two journals is that of a window that was being folded.
func (s *Store) recover(tx *bolt.Tx, b *base) error {
	var err error
	if s.windows, err = readWindows(b.runs); err != nil {
		return err
	}
	next := uint64(1)
	if len(s.windows) != 0 {
		next = s.windows[0].last + 1
	}
	s.active = newLayer(next, s.limits.window)
	prefix := []byte(prefixJournal)
	c := tx.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		n, err := number(k[len(prefix):], "journal")
		if err != nil || n < next || n > next+1 {
			return corrupt("journal")
		}
		if n > next {
			s.frozen, s.active = s.active, newLayer(n, s.limits.window)
		}
		one := tx.Bucket(k)
		if one == nil {
			return corrupt("journal")
		}
		var scratch []byte
		if err := replay(one, func(d *delta) { scratch = s.active.publish(d.name, d, scratch) }); err != nil {
			return err
		}
	}
	return nil
}

// errNothing has a transaction end without a commit.
var errNothing = errors.New("boltstore: nothing to do")

// dropUnfinished removes runs that were not complete, or not removed to the end, when the process ended.
func dropUnfinished(tx *bolt.Tx) error {
	runs := tx.Bucket([]byte(bucketRuns))
	if runs == nil {
		return corrupt("bucket " + bucketRuns)
	}
	result := errNothing
	for _, k := range keysWith(runs, nil) {
		w, err := decodeWindow(k, runs.Bucket(k))
		if err != nil {
			return err
		}
		if w.size != 0 {
			continue
		}
		if err := runs.DeleteBucket(k); err != nil {
			return err
		}
		result = nil
	}
	return result
}

// ensure makes the file if there is none.
func ensure(path string, deadline time.Time) error {
	for n := 0; ; n++ {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		err := create(path, deadline)
		if err == nil || n == attempts || errors.Is(err, ErrLocked) {
			return err
		}
		if _, lost := os.Stat(filepath.Dir(path)); lost != nil {
			return err
		}
	}
}

// create makes a whole store under another name and then gives it its own. Several may do so at once: whoever opens the
// new file finds it either whole or empty, since it is locked in between, and only one can rename it.
func create(path string, deadline time.Time) error {
	temp := path + newSuffix
	db, err := boltOpen(temp, &bolt.Options{Timeout: timeout(deadline), NoFreelistSync: true})
	if _, outside := errors.AsType[*fs.PathError](err); outside || errors.Is(err, ErrLocked) {
		return err
	}
	if err != nil {
		// A crash left something that is no file of bbolt. Only one that nobody has locked comes here.
		return errors.Join(err, os.Remove(temp))
	}
	err = guard(func() error { return db.Update(initialise) })
	if err := errors.Join(err, db.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if _, err := os.Stat(path); err == nil {
		return os.Remove(temp) // another one was faster
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a new name in a folder durable. Windows cannot do that and does not need it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openFile opens a file that was inspected, for writing.
func openFile(path string, cfg *Config, deadline time.Time) (*bolt.DB, error) {
	o := &bolt.Options{Timeout: timeout(deadline), NoFreelistSync: true, FreelistType: bolt.FreelistMapType}
	if strconv.IntSize == 64 && runtime.GOOS != "windows" { // where the file would grow with the map
		o.InitialMmapSize = mapBytes
		if cfg.MaxSize > 0 {
			o.InitialMmapSize = int(min(mapBytes, 2*cfg.MaxSize)) // twice: what makes room may go beyond it
		}
	}
	db, err := boltOpen(path, o)
	if err != nil {
		return nil, err
	}
	db.AllocSize = growBytes
	if cfg.MaxSize > 0 {
		db.AllocSize = int(min(growBytes, cfg.MaxSize/64))
	}
	return db, nil
}

// boltOpen is bolt.Open with errors of ours, also for its panics.
func boltOpen(path string, o *bolt.Options) (*bolt.DB, error) {
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
		return db, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", ErrNotStore, err)
	case errors.Is(err, berrors.ErrChecksum):
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil, err
}

// timeout is what is left until the deadline, for bbolt, which takes zero for ever.
func timeout(deadline time.Time) time.Duration { return max(time.Until(deadline), 1) }

// initialise makes an empty store in an empty file. One that is a store already stays as it is.
func initialise(tx *bolt.Tx) error {
	if tx.Bucket([]byte(bucketMeta)) != nil {
		return nil
	}
	for _, name := range allBuckets {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	var secret [secretBytes]byte
	rand.Read(secret[:])
	b := tx.Bucket([]byte(bucketMeta))
	return errors.Join(
		b.Put([]byte(metaSchema), binary.BigEndian.AppendUint32(nil, schemaVersion)),
		b.Put([]byte(metaIncarnation), binary.BigEndian.AppendUint32(nil, newIncarnation(0))),
		b.Put([]byte(metaSecret), secret[:]),
	)
}

// newIncarnation returns a random number that is neither zero nor the old one. It does not count up: two copies of one
// file must not come to the same.
func newIncarnation(old uint32) uint32 {
	for {
		var b [4]byte
		rand.Read(b[:])
		if n := binary.BigEndian.Uint32(b[:]); n != 0 && n != old {
			return n
		}
	}
}

// renew changes the epochs of all inboxes.
func renew(tx *bolt.Tx) error {
	m, err := readMeta(tx)
	if err != nil {
		return err
	}
	next := binary.BigEndian.AppendUint32(nil, newIncarnation(m.incarnation))
	return tx.Bucket([]byte(bucketMeta)).Put([]byte(metaIncarnation), next)
}

// meta is what a file says about itself.
type meta struct {
	incarnation uint32
	secret      [secretBytes]byte
}

func readMeta(tx *bolt.Tx) (meta, error) {
	var m meta
	b := tx.Bucket([]byte(bucketMeta))
	if b == nil {
		return m, fmt.Errorf("%w: some other program's file", ErrNotStore)
	}
	v := b.Get([]byte(metaSchema))
	if len(v) != 4 {
		return m, corrupt("schema version")
	}
	switch n := binary.BigEndian.Uint32(v); {
	case n > schemaVersion:
		return m, fmt.Errorf("%w: schema %d, this one knows up to %d", store.ErrSchema, n, schemaVersion)
	case n < schemaVersion:
		return m, fmt.Errorf("%w: schema %d", ErrOldSchema, n)
	}
	incarnation, secret := b.Get([]byte(metaIncarnation)), b.Get([]byte(metaSecret))
	if len(incarnation) != 4 || len(secret) != secretBytes {
		return m, corrupt("incarnation or secret")
	}
	m.incarnation = binary.BigEndian.Uint32(incarnation)
	copy(m.secret[:], secret)
	if m.incarnation == 0 {
		return m, corrupt("incarnation")
	}
	return m, nil
}
