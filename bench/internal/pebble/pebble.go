// Package pebble is a store on cockroachdb/pebble that does the work of a durable send, as package rows describes it. It has two ways
// to commit: Batches, a batch for each send and pebble's own group commit, which is how most programs use it; and Committer, which
// makes one batch of all that waits.
//
// # What was tuned
//
// Both have the same options. They began as those that CockroachDB runs with, and each was tried on the work of the bench (50,000
// accounts, 1,024 senders, two cores):
//
//   - memtables of half of Options.Memory (64 MiB) in place of 4 MiB, and four of them before writes stop: fewer and larger flushes,
//     and no stall while one goes on;
//   - a block cache of Options.Memory (128 MiB) in place of 8 MiB, besides the memtables, which pebble takes out of the same
//     sum. Heads, counts and filters of all accounts fit. Without it a send takes half as much again of the CPU (44 µs, not 28);
//   - bloom filters of 10 bits a key on all levels, the last too: the record of a new client message ID is never there, and each
//     look-up of one would read a block of every level;
//   - compactions of level 0 from 2 sublevels on, and no stop of writes for level 0 below 1,000: a run pays the debt in the end,
//     so that stalls meanwhile gain nothing;
//   - up to two compactions at once, on two cores;
//   - files of 16 MiB and more in place of 2 MiB, and a first level of 256 MiB in place of 64 MiB: less to do for the same bytes. Blocks
//     of 8 KiB: rows are looked up one by one;
//   - no compression: what chats carry is often encrypted, while the payload of the bench would be squeezed to nothing;
//   - syncs of the log at least 300 µs apart while 16 sends or more wait for one, so that more of them share it (40,000 a second
//     and not 31,000 with 64 senders, 53,000 and not 40,000 with 1,024). A lone sender waits for nothing but its own sync;
//   - the newest format of files.
//
// Nothing is tuned that makes a commit less durable: each Send waits for a sync of the log that has it, and WALBytesPerSync is as it
// comes (off).
package pebble

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/rows"
)

// Options tune a DB. The zero value is valid.
type Options struct {
	Memory int64  // bytes of the block cache, and twice those of a memtable, of which there may be four; 0: 128 MiB
	FS     vfs.FS // where the files are, for tests; nil: the system's
	Dir    string // of the files; empty: a new folder of the scene
}

const defaultMemory = 128 << 20

// DB is a database. It is safe for concurrent use.
type DB struct {
	db      *pebble.DB
	waiting atomic.Int64 // sends that wait for a sync
}

// Open opens a database, new if there is none, which is closed with the scene.
func Open(s *lab.Scene, o Options) (*DB, error) {
	var err error
	if o.Dir == "" {
		if o.Dir, err = s.Dir(); err != nil {
			return nil, err
		}
	}
	d := new(DB)
	tuned := d.options(cmp.Or(o.Memory, defaultMemory))
	tuned.FS = o.FS
	if d.db, err = pebble.Open(o.Dir, tuned); err != nil {
		return nil, err
	}
	s.Cleanup(d.db.Close)
	return d, nil
}

func (d *DB) options(memory int64) *pebble.Options {
	const memtables, atOnce = 4, 2
	o := &pebble.Options{
		CacheSize:                   memory + memtables*memory/2,
		MemTableSize:                uint64(memory) / 2,
		MemTableStopWritesThreshold: memtables,
		WALMinSyncInterval:          d.syncInterval,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000,
		LBaseMaxBytes:               256 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, atOnce },
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      quiet{},
	}
	for i := range o.Levels {
		o.Levels[i].BlockSize = 8 << 10
		o.Levels[i].IndexBlockSize = 256 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.TargetFileSizes[0] = 16 << 20
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	return o
}

// syncInterval is how far apart syncs are at least.
func (d *DB) syncInterval() time.Duration {
	const crowd, interval = 16, 300 * time.Microsecond
	if d.waiting.Load() < crowd {
		return 0
	}
	return interval
}

// quiet drops what pebble logs, except what it would end the process for.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// Pay flushes what is in memory and returns when no flush and no compaction is left to do.
func (d *DB) Pay() error {
	if err := d.db.Flush(); err != nil {
		return err
	}
	return d.Rest()
}

// Rest returns when no flush and no compaction goes on, and none follows.
func (d *DB) Rest() error {
	const (
		pause = time.Millisecond
		calm  = 5 // readings: one compaction leads to the next
		limit = 10 * time.Minute
	)
	quiet := 0
	for from := time.Now(); time.Since(from) < limit; time.Sleep(pause) {
		m := d.db.Metrics()
		if m.Flush.NumInProgress+m.Compact.NumInProgress > 0 {
			quiet = 0
		} else if quiet++; quiet == calm {
			return nil
		}
	}
	return errors.New("pebble: compactions do not end")
}

// Flushes is how many memtables were written out so far.
func (d *DB) Flushes() int64 { return d.db.Metrics().Flush.Count }

// view reads rows. It has no snapshot: each row is as of its own Get.
type view struct {
	db *pebble.DB
	// value is memory that Get uses again, so that what pebble holds can be let go of at once.
	value []byte
}

func (v *view) Get(key []byte) ([]byte, error) {
	found, closer, err := v.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v.value = append(v.value[:0], found...)
	return v.value, closer.Close()
}

// writer reads the database and writes a batch.
type writer struct {
	view
	batch *pebble.Batch
}

func (w *writer) Put(key, value []byte) error { return w.batch.Set(key, value, nil) }

// Head reads the head of an inbox.
func (d *DB) Head(account string) (rows.Head, error) {
	return new(rows.Work).Head(&writer{view: view{db: d.db}}, account)
}

// Count reads how many messages of a conversation an account has got.
func (d *DB) Count(account, conversation string) (uint64, error) {
	return new(rows.Work).Count(&writer{view: view{db: d.db}}, account, conversation)
}
