package store

import (
	"time"

	"github.com/manydevice/manydevice/event"
)

// Observed is implemented by stores that tell how they are. It is an optional interface: a wrapper passes it on.
type Observed interface {
	// Stats returns figures that are at hand: it reads no data, waits for no write, and may be called at any time, also after
	// a failure and after Close. It may be called concurrently.
	Stats() Stats
}

// Stats is what a store tells about itself. What a kind of store does not have is 0. Numbers are read one after another, while
// others go on.
type Stats struct {
	// Counters. They only rise, since the store was opened.
	Operations   uint64        // batches and other writes that were looked at, whether or not they changed anything
	Commits      uint64        // groups that were made durable. Each holds one operation or more
	CommitTime   time.Duration // of all commits together, from the write to the sync
	Refused      uint64        // operations that ended with ErrFull
	WindowFull   uint64        // operations that ended with ErrWindowFull
	Flushes      uint64        // memtables that were written to the file
	FlushTime    time.Duration // of all flushes together
	StallTime    time.Duration // that commits were held up because memory filled faster than it was flushed
	WorkFailures uint64        // work in the background that failed, and parts of flushes that did; ReadFailures are apart
	ReadFailures uint64        // reads that ended with an error of the file, and rows that were passed over for one
	LogFailures  uint64        // log lines that the host's handler did not take: it returned an error, panicked, or was too slow

	// Gauges. They are as of now, or of the last group.
	LastCommit    time.Duration // how long the last commit took
	LongestCommit time.Duration // how long the longest commit took, since the store was opened
	Waiting       int           // operations that wait for the next group
	Memory        int64         // bytes that memtables take, about
	MemoryLimit   int64         // bytes of Memory at which new writes have to wait for a flush
	Flushing      bool          // a memtable is being flushed
	LogSize       int64         // bytes of the write-ahead log
	Backups       int           // backups that run
	FileSize      int64         // bytes of the file
	FreeBytes     int64         // of FileSize, in pages that can be used again
	Reserve       int64         // bytes that are kept back for what ends something, and for work in the background
	// Room is how many bytes may still be appended before ErrFull, as far as the file's bound and free pages go, and DiskRoom
	// as far as the file system goes. Both leave Reserve aside. 0: appends are refused now. -1: there is no bound, or it is
	// not known.
	Room, DiskRoom int64
	// IdempotencyFill is how far the account that came nearest to its bound of idempotency records within the last minute or
	// two has filled it: 1 is full, and IdempotencyAccount is that account.
	IdempotencyFill    float64
	IdempotencyAccount event.Account
	// Failed is why the store can no longer be used; nil while it can. See Store.Failed.
	Failed error
}
