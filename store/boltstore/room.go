package boltstore

import (
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/store"
)

// rowBytes is what a row takes beside what callers put into it, about.
const rowBytes = 128

// statAge is how long an answer of the file system is good for.
const statAge = time.Second

// diskSpace remembers how much room the file system has. Only the goroutine that commits uses it.
type diskSpace struct {
	path   string
	stat   func(path string) (free int64, ok bool)
	asked  time.Time
	free   int64
	known  bool
	always bool // ask each time; for tests
}

// below reports whether the file system is known to have less than need.
func (d *diskSpace) below(need int64) bool {
	if now := time.Now(); d.always || d.asked.IsZero() || now.Sub(d.asked) >= statAge {
		d.free, d.known = d.stat(d.path)
		d.asked = now
	}
	return d.known && d.free < need
}

// room tells whether an operation of a group still fits. It reckons with pages: a group writes each page that it changes
// anew, and pages that it frees can be used only by later groups.
type room struct {
	disk    *diskSpace
	limit   int64 // of the file; negative: none
	reserve int64
	high    int64 // end of the used part of the file
	free    int64 // bytes in free pages below it
	planned int64 // what the group's operations need
	pending int64 // what is to be folded needs about so much
}

func newRoom(s *Store, tx *bolt.Tx) room {
	stats := s.db.Stats()
	limit := s.cfg.MaxSize
	if limit > 0 {
		limit -= int64(s.db.AllocSize) // the file grows in such steps
	}
	free := stats.FreePageN
	if s.backups.Load() == 0 { // otherwise the pending ones stay what they are until its end
		free += stats.PendingPageN
	}
	return room{disk: &s.disk, limit: limit, reserve: s.cfg.reserve(), high: tx.Size(), free: int64(free) * s.page}
}

// take returns ErrFull if there is no room for need bytes, and reckons them otherwise. With spare, the reserve may be
// used.
func (r *room) take(need int64, spare bool) error {
	keep := r.reserve + r.pending
	if spare {
		keep = 0
	}
	total := r.planned + need
	if !r.grows(total+keep) && !r.reuses(total, keep) {
		return store.ErrFull
	}
	if !spare && r.disk.below(total+keep) {
		return store.ErrFull
	}
	r.planned = total
	return nil
}

// grows reports whether the file may become so much longer.
func (r *room) grows(n int64) bool { return r.limit < 0 || r.high+n <= r.limit }

// reuses reports whether free pages are enough. A row that is longer than rowMax, or a reader, may make the file longer
// all the same. Should that ever bring it to its bound, half of it must be free first.
func (r *room) reuses(n, keep int64) bool {
	if r.high > r.limit {
		keep = max(r.high/2, keep)
	}
	return r.free >= n+keep
}

// size is how many bytes a batch stores, about.
func size(b *store.Batch) int64 {
	n := int64(0)
	if b.Record != nil {
		n += stored(b.Record.Data)
	}
	for i := range b.States {
		n += stored(b.States[i].Value) + rowBytes
	}
	for i := range b.Messages {
		m := &b.Messages[i]
		n += stored(m.Payload) + int64(len(m.To)+1)*rowBytes
	}
	return n
}

// stored is how many bytes a value takes with the keys and headers of its chunks.
func stored(data []byte) int64 { return int64(len(data) + len(data)/16) }

// pages is how many pages a batch may write beside the bytes: ends of the buckets that grow in order, and for each entry
// that is replaced the rows of its message.
func pages(b *store.Batch) int64 {
	n := 12
	for i := range b.Messages {
		m := &b.Messages[i]
		n += 2
		for j := range m.To {
			if m.Key != "" || m.Drop != "" || m.To[j].Replaces.Seq != 0 {
				n += 4
			}
		}
	}
	return int64(n)
}
