package kv

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
)

// logRecord is a record that was found.
type logRecord struct {
	number, group uint64
	rows          []byte
}

// logFile is a file of the log.
type logFile struct {
	suffix string
	bytes  []byte
	id     walID
	err    error // of the header
}

// readLogs reads all records that are whole, belong to the file, and are not in it. st is what the file says of its log; nil: that is
// lost. Then two logs that agree are taken for the file's.
func (s *salvager) readLogs(st *state) {
	if st != nil && !st.open {
		return // everything is in the file
	}
	var logs []logFile
	for _, suffix := range walNames {
		l, err := readLog(s.o.Path+suffix, suffix)
		switch {
		case errors.Is(err, fs.ErrNotExist) && st == nil: // it may have been closed
		case errors.Is(err, fs.ErrNotExist):
			s.lose(fmt.Errorf("%w: %s", ErrNoLog, suffix))
		case err != nil:
			s.lose(fmt.Errorf("log %s: %w", suffix, err))
		default:
			logs = append(logs, l)
		}
	}
	known := st != nil
	if !known && len(logs) == 2 && logs[0].err == nil && logs[1].err == nil && logs[0].id == logs[1].id {
		st = &state{id: logs[0].id}
	}
	var all []logRecord
	for _, l := range logs {
		switch {
		case st == nil, l.err == nil && l.id != st.id:
			s.lose(fmt.Errorf("log %s: %w", l.suffix, ErrOtherLog))
			continue
		case l.err != nil:
			s.lose(fmt.Errorf("log %s: %w", l.suffix, l.err))
		}
		all = append(all, l.records(st)...)
	}
	if st != nil {
		s.replay(st, known, all)
	}
}

// replay takes the rows of records.
func (s *salvager) replay(st *state, known bool, all []logRecord) {
	oldest, last := st.number, st.group
	if !known && len(all) > 0 { // the newest two memtables are not in the file, or are there in the log as a whole
		newest := slices.MaxFunc(all, func(a, b logRecord) int { return cmp.Compare(a.number, b.number) })
		oldest, last = max(newest.number, 2)-2, math.MaxUint64
	}
	slices.SortFunc(all, func(a, b logRecord) int { return cmp.Compare(a.group, b.group) })
	for _, r := range all {
		if r.number <= oldest {
			continue
		}
		if last < r.group-1 {
			s.lose(fmt.Errorf("%w: the log, groups %d to %d", ErrCorrupt, last+1, r.group-1))
		}
		last = r.group
		s.done.Log++
		err := decodeRows(r.rows, func(prefix, key, value []byte, gone bool) {
			s.log[string(prefix)+string(key)] = logRow{bytes.Clone(value), gone}
		})
		if err != nil {
			s.lose(fmt.Errorf("group %d: %w", r.group, err))
		}
	}
}

func readLog(path, suffix string) (logFile, error) {
	st, err := os.Stat(path)
	if err != nil {
		return logFile{}, err
	}
	if !st.Mode().IsRegular() { // to open a pipe would wait
		return logFile{}, fmt.Errorf("%w: no regular file", ErrNotStore)
	}
	f, err := os.Open(path)
	if err != nil {
		return logFile{}, err
	}
	defer f.Close() // it was only read
	l := logFile{suffix: suffix, bytes: make([]byte, st.Size())}
	if n, err := f.ReadAt(l.bytes, 0); atEnd(err) != nil {
		return l, err
	} else if l.bytes = l.bytes[:n]; n < walPage {
		return l, fmt.Errorf("%w: header of the log", ErrCorrupt)
	}
	l.id = walID(l.bytes[len(walMagic):])
	l.err = newWAL(system{}, f, l.id, 0).check(l.id)
	return l, nil
}

// records returns all records that are whole and later than what the file has. Behind a damaged one a whole one may follow anywhere.
func (l *logFile) records(st *state) (list []logRecord) {
	salt := newWAL(nil, nil, st.id, 0)
	for at := walPage; at+recordHeader <= len(l.bytes); {
		b := l.bytes[at:]
		size := int(binary.BigEndian.Uint32(b[4:]))
		number, group := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
		// A checksum is worked out only where there may be a record, so that each byte is read a few times at most.
		if size < recordHeader || size > len(b) || number-1 >= 1<<32 || group-1 >= 1<<56 || salt.sum(b[:size]) != binary.BigEndian.Uint32(b) {
			at++
			continue
		}
		if number > st.number && group > st.group && size > recordHeader {
			list = append(list, logRecord{number, group, b[recordHeader:size]})
		}
		at += size
	}
	return list
}
