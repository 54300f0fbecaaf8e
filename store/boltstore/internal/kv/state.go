package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// state is what the file says about its log.
type state struct {
	id     walID  // of the log that belongs to it
	open   bool   // it was not closed: rows may be in the log only
	number uint64 // memtable that was flushed last
	group  uint64 // last one that is in the file
}

func putState(tx *bolt.Tx, s state) error {
	b := append(make([]byte, 0, walIDBytes+17), s.id[:]...)
	if s.open {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, s.number), s.group)
	key := []byte(bucketState)
	return tx.Bucket(key).Put(key, appendRow(nil, stateTable, key, kindWhole, b))
}

// readState returns what the file says about its log and about itself.
func readState(db *bolt.DB) (s state, meta map[string][]byte, err error) {
	err = db.View(func(tx *bolt.Tx) error {
		var about about
		for _, name := range [...]string{bucketMeta, bucketState} {
			b := tx.Bucket([]byte(name))
			if b == nil {
				continue
			}
			about.has(name)
			if err := b.ForEach(func(k, v []byte) error { about.row(name, k, v); return nil }); err != nil {
				return err
			}
		}
		s, meta, err = about.read()
		return err
	})
	return s, meta, err
}

// about gathers the rows in which a file says what it is.
type about struct {
	ours, later bool // buckets that are there
	meta        []fileRow
	state       []byte
}

func (a *about) has(bucket string) {
	a.ours = a.ours || bucket == bucketMeta
	a.later = a.later || bucket == bucketState
}

func (a *about) row(bucket string, k, v []byte) {
	switch {
	case bucket == bucketMeta:
		a.meta = append(a.meta, fileRow{metaTable, bytes.Clone(k), bytes.Clone(v)})
	case bucket == bucketState && string(k) == bucketState:
		a.state = bytes.Clone(v)
	case bucket == bucketState:
		a.state = []byte{} // its only row has another key
	}
}

func (a *about) read() (s state, meta map[string][]byte, err error) {
	switch {
	case !a.ours && !a.later:
		return s, nil, fmt.Errorf("%w: some other program's file", ErrNotStore)
	case !a.ours:
		return s, nil, fmt.Errorf("%w: what the file says about itself is missing", ErrCorrupt)
	}
	meta = make(map[string][]byte)
	for _, r := range a.meta {
		switch {
		case intact(metaTable, r.key, r.value):
			meta[string(r.key)] = r.value[rowHeader:]
		case !a.later: // a layout before this one
			meta[string(r.key)] = r.value
		default:
			return s, meta, fmt.Errorf("%w: what the file says about itself: %q", ErrCorrupt, r.key)
		}
	}
	if !a.later || a.state == nil {
		return s, meta, nil // Meta knows an earlier layout; or it is new
	}
	v := a.state
	if !intact(stateTable, []byte(bucketState), v) || len(v) != rowHeader+walIDBytes+17 {
		return s, meta, fmt.Errorf("%w: state of the log", ErrCorrupt)
	}
	v = v[rowHeader:]
	s.id, s.open = walID(v[:walIDBytes]), v[walIDBytes] != 0
	s.number, s.group = binary.BigEndian.Uint64(v[walIDBytes+1:]), binary.BigEndian.Uint64(v[walIDBytes+9:])
	return s, meta, nil
}
