package raw

import (
	"slices"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/rows"
)

// Log is a log on disk with all that a send looks up in memory: heads, counts, idempotency records. It reads nothing from disk, orders
// nothing and forgets everything when it is closed, so it is a bound and no design.
type Log struct {
	*Grouped
	append  func(records [][]byte) error
	rows    map[string][]byte
	records [][]byte // of a group: one for each message
	record  []byte
}

var _ rows.Sender = (*Log)(nil)

// NewLog returns an empty one. append makes records durable: that of a Sequence or a File.
func NewLog(appendAll func(records [][]byte) error) *Log {
	l := &Log{append: appendAll, rows: make(map[string][]byte), record: make([]byte, RecordBytes)}
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
func (l *Log) Get(key []byte) ([]byte, error) { return l.rows[string(key)], nil }

// Put implements rows.Map. What belongs to a message is one record, whose size is that of all of it.
func (l *Log) Put(key, value []byte) error {
	switch key[0] {
	case rows.TableMessages:
		l.records = append(l.records, l.record)
	case rows.TableEntries:
	default:
		l.rows[string(key)] = slices.Clone(value)
	}
	return nil
}

// Head implements rows.Sender. Nothing is sent meanwhile.
func (l *Log) Head(account string) (rows.Head, error) { return new(rows.Work).Head(l, account) }

// Count implements rows.Sender. Nothing is sent meanwhile.
func (l *Log) Count(account, conversation string) (uint64, error) {
	return new(rows.Work).Count(l, account, conversation)
}
