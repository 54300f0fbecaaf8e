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

// Stats is what a DB tells about itself.
type Stats struct {
	Operations, Commits, Flushes, FlushFailures uint64
	Damaged                                     uint64 // pages and rows that the walk in the background has found
	CommitTime, LastCommit, LongestCommit       time.Duration
	FlushTime                                   time.Duration
	StallTime                                   time.Duration // that commits were held up because memory filled faster than it was flushed
	Waiting                                     int           // operations in the queue
	Memory, MemoryLimit                         int64
	Flushing                                    bool
	FlushError                                  error // why the last slice of a flush has failed; nil: it has not
	Backups                                     int
	FileSize, FreeBytes, LogSize                int64
	Room, DiskRoom                              int64
	Failed                                      error
	Replayed                                    Replayed
}

// Stats returns figures that are at hand. It may be called at any time.
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
