package boltstore

import (
	"bytes"
	"context"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"
)

// NewSuffix is what the name of a file ends with while it is made.
const NewSuffix = newSuffix

// Reserve is the room that a store with this configuration keeps back.
func (c Config) Reserve() int64 {
	c = c.withDefaults()
	return c.reserve()
}

// WithLimits returns the configuration with other bounds: bytes of memory of a window, rows that are folded or merged
// at a time, and runs after which some are merged.
func (c Config) WithLimits(window int64, step, runs int) Config {
	c.limits = &limits{window: window, step: step, runs: runs, sweep: sweepEvery, issuers: numberedIssuers}
	return c
}

// Memory is what the journal takes in memory, about, and how many accounts it has.
func (s *Store) Memory() (bytes int64, accounts int) {
	s.state.RLock()
	defer s.state.RUnlock()
	for _, l := range s.layersLocked() {
		if l != nil {
			bytes += l.bytes
			accounts += len(l.byAid)
		}
	}
	return bytes, accounts
}

// Runs is how many runs there are.
func (s *Store) Runs() int {
	s.state.RLock()
	defer s.state.RUnlock()
	return len(s.windows)
}

// SetCommit replaces what commits transactions, from the next commit on, on the goroutine that commits.
func (s *Store) SetCommit(f func(*bolt.Tx) error) {
	set := func(*writer) error { s.commit = f; return nil }
	if s.submit(context.Background(), 0, set) != nil { // nobody commits any more
		_ = set(nil)
	}
}

// Pace has f told of each commit: the time since the one before ended, and whether it folded or merged rows.
func (s *Store) Pace(f func(took time.Duration, slice bool)) {
	last, done := time.Now(), s.progress()
	s.SetCommit(func(tx *bolt.Tx) error {
		before := done
		done = s.progress()
		err := tx.Commit()
		now := time.Now()
		f(now.Sub(last), done != before)
		last = now
		return err
	})
}

// progress changes with each slice. It is for the goroutine that commits, or when nobody does.
func (s *Store) progress() (p [3]int) {
	if s.fold != nil {
		p[0] = 1 + s.fold.done
	}
	if m := s.merge; m != nil {
		p[1], p[2] = 1+int(m.out.size), len(m.old)
	}
	return p
}

// Swept reports whether no sweep is wanted, as the file has it.
func (s *Store) Swept() bool {
	swept := false
	err := s.db.View(func(tx *bolt.Tx) error {
		swept = tx.Bucket([]byte(bucketMeta)).Get([]byte(metaSweep)) == nil
		return nil
	})
	return err == nil && swept
}

// SetFree replaces what tells how many bytes the file system has left, and has it asked each time.
func (s *Store) SetFree(free func() int64) {
	s.disk.always = true
	s.disk.stat = func(string) (int64, bool) { return free(), true }
}

// Crash gives the store up as the end of the process would: nothing more is written, and the file is let go.
func (s *Store) Crash() {
	s.fail(errors.New("crash for a test"))
	s.mu.Lock()
	last := !s.closing && s.users == 0
	s.closing = true
	s.mu.Unlock()
	if last {
		s.release()
	}
	<-s.released
}

// HighWater is the end of the used part of the file.
func (s *Store) HighWater() int64 {
	var n int64
	if err := s.db.View(func(tx *bolt.Tx) error { n = tx.Size(); return nil }); err != nil {
		return -1
	}
	return n
}

// Rows counts the rows of a bucket and of those in it.
func (s *Store) Rows(bucket string) int {
	n := 0
	if err := s.db.View(func(tx *bolt.Tx) error { return countRows(tx.Bucket([]byte(bucket)), &n) }); err != nil {
		return -1
	}
	return n
}

// Journals counts the windows whose records are in the file.
func (s *Store) Journals() int {
	n := 0
	if err := s.db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
			if bytes.HasPrefix(name, []byte(prefixJournal)) {
				n++
			}
			return nil
		})
	}); err != nil {
		return -1
	}
	return n
}

func countRows(b *bolt.Bucket, n *int) error {
	return b.ForEach(func(k, v []byte) error {
		if v == nil {
			if in := b.Bucket(k); in != nil {
				return countRows(in, n)
			}
		}
		*n++
		return nil
	})
}

// Waiting is how many operations wait for a group.
func (s *Store) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Update changes the file behind the store's back.
func (s *Store) Update(f func(*bolt.Tx) error) error { return s.db.Update(f) }

// StartPurge does what Open does when rows of deleted accounts wait.
func (s *Store) StartPurge() { s.startPurge() }

// Purging reports whether rows of deleted accounts are being removed.
func (s *Store) Purging() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.purging
}

// Written is how many bytes were allocated for pages by all transactions, which is about what was written.
func (s *Store) Written() int64 {
	stats := s.db.Stats()
	return stats.TxStats.GetPageAlloc()
}

// Reachable reports whether a word is in a key or value that any bucket leads to.
func (s *Store) Reachable(word string) (found bool, err error) {
	var walk func(b *bolt.Bucket) error
	walk = func(b *bolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			found = found || bytes.Contains(k, []byte(word)) || bytes.Contains(v, []byte(word))
			if v == nil {
				return walk(b.Bucket(k))
			}
			return nil
		})
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return walk(b) })
	})
	return found, err
}

// WithSweep returns the configuration, after WithLimits, with another least time between two sweeps.
func (c Config) WithSweep(d time.Duration) Config {
	c.limits.sweep = d
	return c
}
