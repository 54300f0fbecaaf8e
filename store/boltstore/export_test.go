package boltstore

import (
	"errors"

	bolt "go.etcd.io/bbolt"
)

// NewSuffix is what the name of a file ends with while it is made.
const NewSuffix = newSuffix

// Reserve is the room that a store with this configuration keeps back.
func (c Config) Reserve() int64 {
	c = c.withDefaults()
	return c.reserve()
}

// SetCommit replaces what commits transactions.
func (s *Store) SetCommit(f func(*bolt.Tx) error) { s.commit = f }

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

// Rows counts the rows of a bucket.
func (s *Store) Rows(bucket string) int {
	n := -1
	if err := s.db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket([]byte(bucket)).Stats().KeyN
		return nil
	}); err != nil {
		return -1
	}
	return n
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
