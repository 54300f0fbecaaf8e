package raw

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

// RecordBytes is what a message of 512 bytes takes with what belongs to it: two accounts, conversation, message and client
// IDs, digest, times, and a place in two inboxes.
const RecordBytes = 640

// OpenBolt opens a file as fast as bbolt allows without giving up that commits are synced.
func OpenBolt(path string) (*bbolt.DB, error) {
	return bbolt.Open(path, 0o600, &bbolt.Options{
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: 1 << 30,
	})
}

func openIn(s *lab.Scene, buckets ...string) (*bbolt.DB, error) {
	path, err := s.File()
	if err != nil {
		return nil, err
	}
	db, err := OpenBolt(path)
	if err != nil {
		return nil, err
	}
	s.Cleanup(db.Close)
	return db, db.Update(func(tx *bbolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucket([]byte(b)); err != nil {
				return err
			}
		}
		return nil
	})
}

var journal = []byte("journal")

// Sequence is a file to which records are put one after another: what any layout over bbolt can do at best.
type Sequence struct {
	db       *bbolt.DB
	combiner *Combiner[[]byte]
	next     uint64
}

// NewSequence returns an empty one. It is closed with the scene.
func NewSequence(s *lab.Scene) (*Sequence, error) {
	db, err := openIn(s, string(journal))
	if err != nil {
		return nil, err
	}
	q := &Sequence{db: db}
	q.combiner = NewCombiner(0, q.apply)
	return q, nil
}

// Put returns when the record is durable. Those that wait at the same time share a commit.
func (q *Sequence) Put(record []byte) error { return q.combiner.Do(record) }

func (q *Sequence) apply(records [][]byte) error {
	return q.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(journal)
		b.FillPercent = 1 // nothing is ever put between two records
		for _, r := range records {
			q.next++
			if err := b.Put(binary.BigEndian.AppendUint64(nil, q.next), r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Count is how many records there are, as they are read back.
func (q *Sequence) Count() (n int, err error) {
	return n, q.db.View(func(tx *bbolt.Tx) error {
		n = tx.Bucket(journal).Stats().KeyN
		return nil
	})
}

// Size is the size of the file in bytes.
func (q *Sequence) Size() (int64, error) {
	info, err := os.Stat(q.db.Path())
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Scan copies out all records, each into memory of its own, and returns how many there were and their bytes.
func (q *Sequence) Scan() (n, size int, err error) {
	return n, size, q.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(journal).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			n++
			size += len(slices.Clone(v))
		}
		return nil
	})
}

// PutAll puts n records of a size, with few commits.
func (q *Sequence) PutAll(n, size int) error {
	const batch = 10_000
	for n > 0 {
		records := make([][]byte, min(n, batch))
		for i := range records {
			records[i] = make([]byte, size)
		}
		if err := q.apply(records); err != nil {
			return err
		}
		n -= len(records)
	}
	return nil
}

// BucketsWith returns the names of the buckets of a file that have a row whose key begins with a prefix.
func BucketsWith(db *bbolt.DB, prefix []byte) (names [][]byte, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if k, _ := b.Cursor().Seek(prefix); bytes.HasPrefix(k, prefix) {
				names = append(names, slices.Clone(name))
			}
			return nil
		})
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("no bucket has a row with %q", prefix)
	}
	return names, err
}
