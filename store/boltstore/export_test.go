package boltstore

import (
	"bytes"
	"context"

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

// SetWrite has f called in the place of what makes groups durable, from the next one on. f is given that.
func (s *Store) SetWrite(f func(write func() error) error) { s.db.SetWrite(f) }

// Crash gives the store up as the end of the process would: nothing more is written, and the file is let go.
func (s *Store) Crash() { s.db.Crash() }

// Bolt is the file below.
func (s *Store) Bolt() *bolt.DB { return s.db.Bolt() }

// Purging reports whether rows of deleted accounts are left.
func (s *Store) Purging() bool {
	next, err := s.nextPurge(context.Background(), nil)
	return err != nil || next != nil
}

// Rows counts the rows of a table in the file, once all that was written is there.
func (s *Store) Rows(table string) (n int) {
	_ = s.Compact(context.Background())
	err := s.Bolt().View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(table)).ForEach(func(_, _ []byte) error { n++; return nil })
	})
	if err != nil {
		return -1
	}
	return n
}

// Reachable reports whether a word is in a key or value of the file that any bucket leads to, once all that was written is there.
func (s *Store) Reachable(word string) (found bool, err error) {
	if err := s.Compact(context.Background()); err != nil {
		return false, err
	}
	err = s.Bolt().View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				found = found || bytes.Contains(k, []byte(word)) || bytes.Contains(v, []byte(word))
				return nil
			})
		})
	})
	return found, err
}

// HighWater is the end of the used part of the file.
func (s *Store) HighWater() (n int64) {
	_ = s.Compact(context.Background())
	_ = s.Bolt().View(func(tx *bolt.Tx) error { n = tx.Size(); return nil })
	return n
}
