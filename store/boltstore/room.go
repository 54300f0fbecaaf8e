package boltstore

import (
	"math"
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
	free := stats.FreePageN
	if s.backups.Load() == 0 { // otherwise the pending ones stay what they are until its end
		free += stats.PendingPageN
	}
	return room{disk: &s.disk, limit: s.fileLimit(), reserve: s.cfg.reserve(), high: tx.Size(), free: int64(free) * s.page}
}

// fileLimit is how long the file may become; negative: there is no bound.
func (s *Store) fileLimit() int64 {
	if s.cfg.MaxSize < 0 {
		return s.cfg.MaxSize
	}
	return s.cfg.MaxSize - int64(s.db.AllocSize) // the file grows in such steps
}

// take returns ErrFull if there is no room for need bytes, and reckons them otherwise. With spare, the reserve may be
// used.
func (r *room) take(need int64, spare bool) error {
	if !spare && !r.has(need) || spare && need > r.left(0) {
		return store.ErrFull
	}
	r.planned += need
	return nil
}

// has reports whether there is room for need bytes besides what is kept back.
func (r *room) has(need int64) bool {
	keep := r.reserve + r.pending
	return need <= r.left(keep) && !r.disk.below(r.planned+need+keep)
}

// left returns how many bytes fit into the file besides those that are planned and those to keep: at its end, or into its free
// pages. A row that is longer than rowMax, or a reader, may make the file longer although free pages are enough. Should that
// ever bring it to its bound, half of it must be free first.
func (r *room) left(keep int64) int64 {
	if r.limit < 0 {
		return math.MaxInt64
	}
	grows := r.limit - r.high - keep
	if r.high > r.limit {
		keep = max(r.high/2, keep)
	}
	return max(grows, r.free-keep) - r.planned
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
