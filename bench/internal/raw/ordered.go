package raw

import (
	"slices"

	"go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/rows"
)

// Ordered keeps messages in bbolt under keys that are ordered by account, which is how such a file is laid out at first thought. A
// commit takes all sends that wait.
type Ordered struct {
	*Grouped
	db *bbolt.DB
}

var _ rows.Sender = (*Ordered)(nil)

// tables are the buckets, by the letter that their keys begin with.
const tables = string(rune(rows.TableMessages)) + string(rune(rows.TableEntries)) + string(rune(rows.TableHeads)) +
	string(rune(rows.TableCounts)) + string(rune(rows.TableSent))

// NewOrdered returns an empty file. It is closed with the scene.
func NewOrdered(s *lab.Scene) (*Ordered, error) {
	var names []string
	for _, t := range tables {
		names = append(names, string(t))
	}
	db, err := openIn(s, names...)
	if err != nil {
		return nil, err
	}
	o := &Ordered{db: db}
	o.Grouped = NewGrouped(0, o.group)
	return o, nil
}

// group does the work of sends in one transaction.
func (o *Ordered) group(work func(rows.Map) error) error {
	return o.db.Update(func(tx *bbolt.Tx) error { return work(newBuckets(tx)) })
}

// Head implements rows.Sender.
func (o *Ordered) Head(account string) (h rows.Head, err error) {
	return h, o.db.View(func(tx *bbolt.Tx) error {
		h, err = new(rows.Work).Head(newBuckets(tx), account)
		return err
	})
}

// Count implements rows.Sender.
func (o *Ordered) Count(account, conversation string) (n uint64, err error) {
	return n, o.db.View(func(tx *bbolt.Tx) error {
		n, err = new(rows.Work).Count(newBuckets(tx), account, conversation)
		return err
	})
}

// buckets are the tables within a transaction.
type buckets [len(tables)]*bbolt.Bucket

func newBuckets(tx *bbolt.Tx) *buckets {
	var b buckets
	for i := range tables {
		b[i] = tx.Bucket([]byte{tables[i]})
	}
	return &b
}

func (b *buckets) of(key []byte) *bbolt.Bucket {
	for i := range tables {
		if tables[i] == key[0] {
			return b[i]
		}
	}
	return nil
}

// Get implements rows.Map.
func (b *buckets) Get(key []byte) ([]byte, error) { return b.of(key).Get(key[1:]), nil }

// Put implements rows.Map. bbolt keeps values until the transaction ends.
func (b *buckets) Put(key, value []byte) error { return b.of(key).Put(key[1:], slices.Clone(value)) }
