package kv

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Recovery reads into memtables again what the log has and the file has not.

// recover reads the log into memory.
func (db *DB) recover(s *state, file *file) error {
	began := time.Now()
	first := db.memtable(s.number+1, 0)
	first.newest = s.group
	group, rows := s.group, 0
	n, err := db.replay(first, s.number, &group)
	if err != nil {
		return err
	}
	rows += n
	second := db.memtable(s.number+2, 0)
	second.newest = group
	if n, err = db.replay(second, s.number, &group); err != nil {
		return err
	}
	rows += n
	first.taken.Store(first.size)
	second.taken.Store(second.size)
	db.seq = group
	db.published.Store(group)
	for _, m := range []*memtable{second, first} { // the last record of all
		if !m.empty() && !db.readOnly {
			if err := db.logs[m.number%2].harden(); err != nil {
				return err
			}
			break
		}
	}
	db.replacing.Lock()
	defer db.replacing.Unlock()
	if second.empty() {
		db.install(first, nil, file)
	} else {
		db.room.frozen = first.grows
		db.install(second, first, file)
	}
	db.measure(file.tx.Size(), db.room.frozen)
	if !db.readOnly {
		db.fits(db.current.Load().mem[0].grows, forAppends) // so that what is kept back has blocks from now on, if the disk has any
	}
	db.replayed = Replayed{Rows: rows, Took: time.Since(began)}
	return nil
}

// Replayed is what Open has read of the log.
type Replayed struct {
	Rows int
	Took time.Duration
}

// replay reads a memtable's file of the log into it. flushed is the memtable that was flushed last, and group the last one that
// is known.
func (db *DB) replay(m *memtable, flushed uint64, group *uint64) (rows int, err error) {
	l := db.logs[m.number%2]
	l.begin(m.number)
	for {
		number, g, body, err := l.record(l.end)
		if err != nil {
			return rows, err
		}
		if number > flushed+2 {
			return rows, fmt.Errorf("%w: the file is older than its log: a copy, or a meta page is damaged", ErrCorrupt)
		}
		if len(body) == 0 || number != m.number {
			break // the end, or the mark after the last record
		}
		if g != *group+1 {
			return rows, fmt.Errorf("%w: the log: group %d follows %d", ErrCorrupt, g, *group)
		}
		err = decodeRows(body, func(prefix, key, value []byte, gone bool) {
			m.replay(db, g, prefix, key, value, gone)
			rows++
		})
		if err != nil {
			return rows, err
		}
		*group, m.newest = g, g
		l.last, l.end = l.end, l.end+int64(recordHeader+len(body))
		l.planned = l.end
	}
	if cut, err := l.cut(m.number, *group+1); err != nil || cut {
		return rows, errors.Join(err, fmt.Errorf("%w: the log was cut short after group %d", ErrCorrupt, *group))
	}
	if lost, err := l.after(l.end, m.number, *group); err != nil || lost {
		return rows, errors.Join(err, fmt.Errorf("%w: the log, after group %d", ErrCorrupt, *group))
	}
	return rows, nil
}

// replay adds a row of the log.
func (m *memtable) replay(db *DB, group uint64, prefix, key, value []byte, gone bool) {
	t := Table(prefix[0])
	if int(t) >= len(db.o.Tables) {
		panic("table " + strconv.Itoa(int(t)) + " in the log")
	}
	hash := m.hash(t, prefix[1:])
	p := m.find(t, prefix[1:], hash)
	if p == 0 {
		p = m.addPart(t, prefix[1:], hash)
	}
	r := m.addRow(p, key)
	before := m.put(r, group, value, gone)
	m.grows += db.change(m, t, len(prefix)-1+len(key), before, value, gone)
}
