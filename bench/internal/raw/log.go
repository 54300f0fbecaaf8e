package raw

import (
	"errors"
	"hash/maphash"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/rows"
)

// Log is a log on disk with all that a send looks up in memory: heads, counts, idempotency records. It reads nothing from disk, orders
// nothing and forgets everything when it is closed, so it is a bound and no design.
type Log struct {
	*Grouped
	append  func(records [][]byte) error
	seed    maphash.Seed
	rows    map[uint64]row // by a hash of the key
	records [][]byte       // of a group: one for each message
	record  []byte
}

var _ rows.Sender = (*Log)(nil)

// row is a value. Neither it nor its key has a pointer: millions of them would otherwise have the garbage collector work for both
// sides of a line.
type row struct {
	size  int8
	value [maxValue]byte
}

const maxValue = 56 // of what is looked up

// NewLog returns an empty one. append makes records durable: that of a Sequence or a File.
func NewLog(appendAll func(records [][]byte) error) *Log {
	l := &Log{append: appendAll, seed: maphash.MakeSeed(), rows: make(map[uint64]row), record: make([]byte, RecordBytes)}
	l.Grouped = NewGrouped(0, l.group)
	return l
}

// NewSequenceLog returns one over a Sequence. It is closed with the scene.
func NewSequenceLog(s *lab.Scene) (*Log, error) {
	q, err := NewSequence(s)
	if err != nil {
		return nil, err
	}
	return NewLog(q.apply), nil
}

// NewFileLog returns one over a File. It is closed with the scene.
func NewFileLog(s *lab.Scene) (*Log, error) {
	f, err := NewFile(s)
	if err != nil {
		return nil, err
	}
	return NewLog(f.apply), nil
}

func (l *Log) group(work func(rows.Map) error) error {
	l.records = l.records[:0]
	if err := work(l); err != nil {
		return err
	}
	return l.append(l.records)
}

// Get implements rows.Map.
func (l *Log) Get(key []byte) ([]byte, error) {
	r := l.rows[maphash.Bytes(l.seed, key)]
	return r.value[:r.size], nil
}

// Put implements rows.Map. What belongs to a message is one record, whose size is that of all of it.
func (l *Log) Put(key, value []byte) error {
	switch key[0] {
	case rows.TableMessages:
		l.records = append(l.records, l.record)
	case rows.TableEntries:
	default:
		if len(value) > maxValue {
			return errors.New("value is too large")
		}
		r := row{size: int8(len(value))}
		copy(r.value[:], value)
		l.rows[maphash.Bytes(l.seed, key)] = r
	}
	return nil
}

// Head implements rows.Sender. Nothing is sent meanwhile.
func (l *Log) Head(account string) (rows.Head, error) { return new(rows.Work).Head(l, account) }

// Count implements rows.Sender. Nothing is sent meanwhile.
func (l *Log) Count(account, conversation string) (uint64, error) {
	return new(rows.Work).Count(l, account, conversation)
}
