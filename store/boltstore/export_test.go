package boltstore

import (
	bolt "go.etcd.io/bbolt"
)

// Reserve is the room that a store with this configuration keeps back.
func (c Config) Reserve() int64 {
	c = c.withDefaults()
	return c.reserve()
}

// WithMemory returns the configuration with memtables that small.
func (c Config) WithMemory(bytes int64) Config {
	c.memory = bytes
	return c
}

// SetCommit replaces what commits transactions of the file, from the next flush on.
func (s *Store) SetCommit(f func(*bolt.Tx) error) { s.db.SetCommit(f) }

// Crash gives the store up as the end of the process would: nothing more is written, and the file is let go.
func (s *Store) Crash() { s.db.Crash() }

// Bolt is the file below.
func (s *Store) Bolt() *bolt.DB { return s.db.Bolt() }

// Purging reports whether rows of deleted accounts are being removed.
func (s *Store) Purging() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.purging
}
