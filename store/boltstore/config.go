package boltstore

import (
	"cmp"
	"errors"
	"log/slog"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
)

// Config tunes a store. The zero value is valid.
type Config struct {
	// MaxSize bounds the file, in bytes. Zero means 64 GiB; negative means no bound; from 4 MiB to 128 TiB otherwise. Batches
	// that append are refused with [store.ErrFull] when less than the reserve is left below it, in the file and in its
	// free pages together, or when the file system has less than the reserve free. The reserve is 2 % of MaxSize, at
	// least 16 MiB, but never more than a quarter of MaxSize; without a bound it is 16 MiB. Twice MaxSize, at most 128 GiB,
	// of the process's address space is taken for the file; not so on Windows and on systems of 32 bits.
	MaxSize int64
	// LockTimeout is how long Open waits for another one to close the file. Zero means 5 s; negative means not at all; from
	// 1 ms to 100 years.
	LockTimeout time.Duration
	// NewIncarnation changes the epochs of all inboxes, once, during Open. Set it for the first Open of a file that was
	// put back from a copy by other means than [Restore].
	NewIncarnation bool
	// Logger gets the store's few lines: its failure, and trouble with rows of deleted accounts. Nil discards them.
	Logger *slog.Logger

	limits *limits // nil: those of newLimits; others are for tests
}

const (
	defaultMaxSize     = 64 << 30
	defaultLockTimeout = 5 * time.Second
	minMaxSize         = 4 << 20
	maxMaxSize         = 128 << 40 // what a process can map
	minReserve         = 16 << 20
)

// Errors of Open, beside [store.ErrSchema].
var (
	// ErrLocked: the file is open elsewhere, in this process or another one.
	ErrLocked = errors.New("boltstore: file is in use")
	// ErrNotStore: the file is not one of this package's.
	ErrNotStore = errors.New("boltstore: not a store")
	// ErrOldSchema: the file is of a version before the first release, whose layout no release reads.
	ErrOldSchema = errors.New("boltstore: written before the first release")
	// ErrCorrupt: a page or row cannot be read. Any method may return it.
	ErrCorrupt = errors.New("boltstore: corrupt")
)

func (c Config) withDefaults() Config {
	c.MaxSize = cmp.Or(c.MaxSize, defaultMaxSize)
	c.LockTimeout = cmp.Or(c.LockTimeout, defaultLockTimeout)
	if c.LockTimeout < 0 {
		c.LockTimeout = 1 // bbolt takes zero for ever
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *Config) validate(path string) error {
	var check bounds.Check
	if path == "" {
		check.Add(&event.InvalidError{Field: "path", Reason: "empty"})
	}
	check.Bytes("MaxSize", c.MaxSize, minMaxSize, maxMaxSize, bounds.Zero|bounds.Negative)
	check.Duration("LockTimeout", c.LockTimeout, time.Millisecond, bounds.Longest, bounds.Zero|bounds.Negative)
	return check.Err()
}

// reserve is the room that batches may use only with Batch.Reserve.
func (c *Config) reserve() int64 {
	if c.MaxSize < 0 {
		return minReserve
	}
	return min(max(minReserve, c.MaxSize/50), c.MaxSize/4)
}
