package boltstore

import (
	"cmp"
	"errors"
	"log/slog"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// Config tunes a store. The zero value is valid.
type Config struct {
	// MaxSize bounds the file, in bytes. Zero means 64 GiB; negative means no bound; from 4 MiB to 128 TiB otherwise. Batches
	// that append are refused with [store.ErrFull] when they would leave less than the reserve, of free pages and of what the
	// file may still grow by, below MaxSize and on the disk. The reserve is 16 MiB, but at most a quarter of MaxSize, and
	// is allocated by Open. Twice MaxSize, at most 128 GiB, of the process's address space is taken for the file; not so on
	// Windows and on systems of 32 bits.
	MaxSize int64
	// Memory is how many bytes what was committed may take in memory before it is flushed to the file, about: half of it for
	// what is written to, half for what is being flushed. More of it makes for fewer writes where many accounts are used at
	// once, and for a longer replay after a crash. Zero means 128 MiB; from 1 MiB to 4 GiB otherwise. It is never more than an
	// eighth of MaxSize.
	Memory int64
	// LockTimeout is how long Open waits for another one to close the file. Zero means 5 s; negative means not at all; from
	// 1 ms to 100 years.
	LockTimeout time.Duration
	// NewIncarnation changes the epochs of all inboxes, once, during Open. Set it for the first Open of a file that was
	// put back from a copy by other means than [Restore].
	NewIncarnation bool
	// Logger gets the store's few lines: that it is open, what was left in the log, that room has run out or come back,
	// failures, and that it is closed. Lines that come again and again are folded into one that says how many it stands for.
	// No line has more of path than its last element. Nil discards them.
	Logger *slog.Logger

	memory int64 // not zero: in the place of Memory, without its bounds; for tests
}

const (
	defaultMaxSize     = 64 << 30
	defaultMemory      = 128 << 20
	defaultLockTimeout = 5 * time.Second
	minMaxSize         = 4 << 20
	maxMaxSize         = 128 << 40 // what a process can map
	minMemory          = 1 << 20
	maxMemory          = 4 << 30
	mostReserve        = 16 << 20
)

// Errors of Open, besides [store.ErrSchema].
var (
	// ErrLocked: the file is open elsewhere, in this process or another one.
	ErrLocked = kv.ErrLocked
	// ErrNotStore: the file is not one of this package's.
	ErrNotStore = kv.ErrNotStore
	// ErrOldSchema: the file is of a version before the first release, whose layout no release reads.
	ErrOldSchema = errors.New("boltstore: written before the first release")
	// ErrCorrupt: a page, a row or the log cannot be read. Any method may return it.
	ErrCorrupt = kv.ErrCorrupt
	// ErrNoLog: the file was not closed, and the log that has the rest of what was answered is not next to it.
	ErrNoLog = kv.ErrNoLog
	// ErrOtherLog: the log next to the file belongs to another file, or to an older copy of this one.
	ErrOtherLog = kv.ErrOtherLog
	// ErrNoFile: there is a log, and the file that it belongs to is missing.
	ErrNoFile = kv.ErrNoFile
)

func (c Config) withDefaults() Config {
	c.MaxSize = cmp.Or(c.MaxSize, defaultMaxSize)
	c.Memory = cmp.Or(c.Memory, defaultMemory)
	if c.MaxSize > 0 {
		c.Memory = min(c.Memory, c.MaxSize/8)
	}
	c.Memory = cmp.Or(c.memory, c.Memory)
	c.LockTimeout = cmp.Or(c.LockTimeout, defaultLockTimeout)
	if c.LockTimeout < 0 {
		c.LockTimeout = 1 // bbolt takes zero for ever
	}
	return c
}

func (c *Config) validate(path string) error {
	var check bounds.Check
	if path == "" {
		check.Add(&event.InvalidError{Field: "path", Reason: "empty"})
	}
	check.Bytes("MaxSize", c.MaxSize, minMaxSize, maxMaxSize, bounds.Zero|bounds.Negative)
	check.Bytes("Memory", c.Memory, minMemory, maxMemory, bounds.Zero)
	check.Duration("LockTimeout", c.LockTimeout, time.Millisecond, bounds.Longest, bounds.Zero|bounds.Negative)
	return check.Err()
}

// reserve is the room that batches may use only with Batch.Reserve.
func (c *Config) reserve() int64 {
	if c.MaxSize < 0 {
		return mostReserve
	}
	return min(mostReserve, c.MaxSize/4)
}
