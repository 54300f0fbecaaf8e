package kv

import (
	"sync/atomic"
	"time"
)

// meters count what the DB does.
type meters struct {
	operations, commits, flushes, flushFailures atomic.Uint64
	damaged                                     atomic.Uint64 // pages and rows that the walk in the background has found
	commitTime, lastCommit, longest             atomic.Int64  // nanoseconds
	flushTime, stallTime                        atomic.Int64
}

func (m *meters) committed(took time.Duration) {
	m.commits.Add(1)
	m.commitTime.Add(int64(took))
	m.lastCommit.Store(int64(took))
	m.longest.Store(max(m.longest.Load(), int64(took)))
}

func (m *meters) stalled(took time.Duration) {
	m.stallTime.Add(int64(took))
}

func (m *meters) flush(took time.Duration) {
	m.flushes.Add(1)
	m.flushTime.Add(int64(took))
}

// Stats is what a DB tells about itself. Counters and times are sums since Open.
type Stats struct {
	Operations, Commits, Flushes, FlushFailures uint64        // operations that ran, groups that became durable, memtables, slices that failed
	Damaged                                     uint64        // pages and rows that Open, and the walk in the background, have found
	CommitTime, LastCommit, LongestCommit       time.Duration // of a group's record and its sync
	FlushTime                                   time.Duration // of memtables, from first slice to last
	StallTime                                   time.Duration // that commits were held up because memory filled faster than it was flushed
	Waiting                                     int           // operations in the queue
	Memory, MemoryLimit                         int64         // bytes that memtables take, and may take, about
	Flushing                                    bool          // a memtable is being flushed, or waits to be tried again
	FlushError                                  error         // why the last slice of a flush has failed; nil: it has not
	Backups                                     int           // that run
	FileSize, FreeBytes, LogSize                int64         // bytes: blocks of the bbolt file, its free pages, both files of the log
	Room, DiskRoom                              int64         // see DB.Room
	Failed                                      error         // see DB.Cause
	Replayed                                    Replayed
}

// Stats returns figures that are at hand, and asks the file system for free space. It may be called at any time, also after Close.
func (db *DB) Stats() Stats {
	m := &db.stats
	s := Stats{
		Operations: m.operations.Load(), Commits: m.commits.Load(), Flushes: m.flushes.Load(), FlushFailures: m.flushFailures.Load(),
		Damaged:    m.damaged.Load(),
		CommitTime: time.Duration(m.commitTime.Load()),
		LastCommit: time.Duration(m.lastCommit.Load()), LongestCommit: time.Duration(m.longest.Load()),
		FlushTime: time.Duration(m.flushTime.Load()), StallTime: time.Duration(m.stallTime.Load()),
		MemoryLimit: 2 * db.limit, Replayed: db.replayed,
	}
	if v := db.acquire(); v != nil {
		for _, t := range v.mem {
			if t != nil {
				s.Memory += t.taken.Load()
			}
		}
		s.Flushing = v.mem[1] != nil
		v.release()
	}
	db.mu.Lock()
	s.Waiting, s.Failed, s.FlushError, s.Backups = len(db.queue), db.cause, db.flushErr, db.backups
	db.mu.Unlock()
	db.room.mu.Lock()
	s.FileSize, s.FreeBytes = db.room.blocks, db.room.free
	db.room.mu.Unlock()
	for _, l := range db.logs {
		if l != nil { // not of a file that was closed and is open for reading only
			s.LogSize += l.bytes.Load()
		}
	}
	s.Room, s.DiskRoom = db.Room()
	return s
}
