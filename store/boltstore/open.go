package boltstore

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// Open opens the store in the file path, which is made if it is not there; its folder must be. A file is made under another
// name first, so that no process finds half a store. Next to it are two files of the log, path-wal and path-wal2, which
// Close removes. All faults of cfg are reported at once. Other errors are [ErrLocked], [ErrNotStore], [ErrCorrupt], [ErrNoLog],
// [ErrOtherLog], [ErrNoFile], [ErrBackup], [ErrOldSchema], [store.ErrSchema], and those of the file system.
func Open(path string, cfg Config) (*Store, error) {
	if err := cfg.validate(path); err != nil {
		return nil, fmt.Errorf("boltstore: config: %w", err)
	}
	s, err := open(path, cfg.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("boltstore: open: %w", err)
	}
	return s, nil
}

func open(path string, cfg Config) (*Store, error) {
	began := time.Now()
	if backup, err := isBackup(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if backup {
		return nil, fmt.Errorf("%w: make a store of it with Restore, or mdfile restore", ErrBackup)
	}
	s := &Store{cfg: cfg, path: path, log: trace.New(cfg.Logger), deleted: make(chan struct{}, 1)}
	s.writer.s = s
	var m meta
	db, err := kv.Open(kv.Options{
		Path: path, Tables: tables, Memory: cfg.Memory, MaxSize: cfg.MaxSize, Reserve: cfg.reserve(), LockTimeout: cfg.LockTimeout,
		Logger: s.log, Meta: func(rows map[string][]byte) (err error) { m, err = readMeta(rows, cfg.NewIncarnation); return err },
	})
	if err != nil {
		s.log.Close()
		if errors.Is(err, ErrCorrupt) {
			err = fmt.Errorf("%w (what is readable can be saved: mdfile salvage)", err)
		}
		return nil, err
	}
	s.db = db
	s.epochs, s.keys = epochs(m.incarnation), messageKeys{event.NewIssuer(m.key)}
	s.info = store.Info{
		Incarnation: m.incarnation, IDKey: m.key,
		Capabilities: store.Capabilities{Durable: true, AtomicSend: true, UniformOrder: true, Dense: true},
	}
	s.opened(began)
	s.db.Go(s.purge)
	return s, nil
}

// meta is what a file says about itself.
type meta struct {
	incarnation uint32
	key         event.IDKey
}

// readMeta reads what a file says about itself. A new one says nothing yet. With renew the epochs of all inboxes change.
func readMeta(rows map[string][]byte, renew bool) (meta, error) {
	var m meta
	if len(rows) == 0 {
		key := event.NewIDKey()
		secret := key.Reveal()
		rows[metaSchema] = binary.BigEndian.AppendUint32(nil, schemaVersion)
		rows[metaIncarnation] = binary.BigEndian.AppendUint32(nil, newIncarnation(0))
		rows[metaSecret] = secret[:]
	}
	v := rows[metaSchema]
	if len(v) != 4 {
		return m, corrupt("schema version")
	}
	switch n := binary.BigEndian.Uint32(v); {
	case n > schemaVersion:
		return m, fmt.Errorf("%w: schema %d, this one knows up to %d", store.ErrSchema, n, schemaVersion)
	case n < schemaVersion:
		return m, fmt.Errorf("%w: schema %d", ErrOldSchema, n)
	}
	incarnation, secret := rows[metaIncarnation], rows[metaSecret]
	if len(incarnation) != 4 || len(secret) != secretBytes {
		return m, corrupt("incarnation or secret")
	}
	m.incarnation = binary.BigEndian.Uint32(incarnation)
	m.key = event.IDKeyOf([secretBytes]byte(secret))
	if m.incarnation == 0 {
		return m, corrupt("incarnation")
	}
	if renew {
		m.incarnation = newIncarnation(m.incarnation)
		rows[metaIncarnation] = binary.BigEndian.AppendUint32(nil, m.incarnation)
	}
	return m, nil
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

func (s *Store) name() string { return filepath.Base(s.path) }
