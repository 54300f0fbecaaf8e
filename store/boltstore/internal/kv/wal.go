package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// The write-ahead log is two files next to the bbolt file, one for each memtable. A file begins with a header, and holds one
// record for each group:
//
//		checksum 4 │ length 4 │ number of the memtable, masked 8 │ group 8 │ rows …
//
//	 1. A record is durable before its group is published, and the next one is written only then. So at most the last record of
//	    the log can be torn.
//	 2. Groups have no gaps: from the last one that was flushed, over the older file, to the end of the newer one. A record that
//	    is missing in between is damage, not an end. So is one with a mark behind it; see mark.
//	 3. A record's checksum begins with one of the log's random number, so that no payload can pass for a record: what a torn
//	    record, or an earlier use of the file, has left behind the end is looked at when the file is opened. Nor can a payload pass
//	    for the head of a record, since the number in it is masked with another part of the random number. Otherwise a client could
//	    write so many heads of long records that to look at each would take Open hours.
//	 4. A file is used again for the memtable after the next one, once its own was flushed. To write over old bytes changes
//	    no size, and needs no room on most file systems: they were zeros once, written ahead. On others see errNotWritten.
//	 5. Room for a group's record is made while the group runs, so that an operation whose rows do not fit is refused alone.
//	 6. The bbolt file says which log belongs to it, and whether it was closed. A clean Close removes the log.
type wal struct {
	disk   disk
	file   *os.File
	grown  *os.File // the same file for what makes it longer; see grow. Nil: it is only read
	salt   uint32   // of checksums
	mask   uint64   // of memtables' numbers
	number uint64   // memtable
	end    int64    // of the records; guarded by DB.writing
	last   int64    // where the last one begins that was found when the file was opened; 0: none was
	step   int64    // by which it grows

	// Guarded by DB.running.
	planned int64        // end of the records of the groups that ran
	size    int64        // of the file; all of it has been written
	refused time.Time    // when the disk had no room for more
	bytes   atomic.Int64 // size, for Stats
}

const (
	walStep      = 256 << 10 // least size: any operation that ends something fits, see cutBytes
	walMagic     = "mdlog\x00\x00\x05"
	walPage      = 4 << 10 // where records begin
	walIDBytes   = 16
	walHeader    = len(walMagic) + walIDBytes + 4
	recordHeader = 24
)

// walNames are what the files of the log have after the name of the bbolt file.
var walNames = [2]string{"-wal", "-wal2"}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type walID [walIDBytes]byte

// createWAL makes a file of the log, which must not be there.
func createWAL(d disk, path string, id walID, step int64) (*wal, error) {
	f, err := d.create(path)
	if err != nil {
		return nil, err
	}
	l := newWAL(d, f, id, step)
	if l.grown, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return nil, errors.Join(err, f.Close(), d.remove(path))
	}
	head := append([]byte(walMagic), id[:]...)
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	if err = d.write(f, append(head, make([]byte, walPage-len(head))...), 0); err == nil {
		l.size = walPage
		if err = l.extend(walPage + step); full(err) {
			err = l.extend(walPage + min(step, walStep))
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.close(), d.remove(path))
	}
	return l, nil
}

func newWAL(d disk, f *os.File, id walID, step int64) *wal {
	return &wal{
		disk: d, file: f, salt: crc32.Checksum(id[:], castagnoli), mask: binary.BigEndian.Uint64(id[:]), step: step, end: walPage, planned: walPage,
	}
}

// openWAL opens a file of the log; nil if it is not there.
func openWAL(d disk, path string, flag int, id walID, step int64) (*wal, error) {
	switch st, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular(): // to open a pipe would wait
		return nil, fmt.Errorf("%w: %s is no regular file", ErrNotStore, filepath.Base(path))
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	l := newWAL(d, f, id, step)
	if err = l.check(id); err == nil && flag != os.O_RDONLY {
		l.grown, err = os.OpenFile(path, flag, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

func (l *wal) close() error {
	err := l.file.Close()
	if l.grown != nil {
		err = errors.Join(err, l.grown.Close())
	}
	return err
}

func (l *wal) check(id walID) error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	l.size = info.Size()
	l.bytes.Store(l.size)
	head := make([]byte, walHeader)
	if _, err := l.file.ReadAt(head, 0); err != nil {
		return fmt.Errorf("%w: header of the log: %w", ErrCorrupt, err)
	}
	body := head[:walHeader-4]
	switch {
	case !bytes.HasPrefix(head, []byte(walMagic)) || crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(head[len(body):]):
		return fmt.Errorf("%w: header of the log", ErrCorrupt)
	case [walIDBytes]byte(body[len(walMagic):]) != id:
		return ErrOtherLog
	}
	return nil
}

// unusedWAL reports whether a file of the log has nothing in it but its header, or what there is of that.
func unusedWAL(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close() // it was only read
	zeros, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(walPage); ; {
		n, err := f.ReadAt(b, at)
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false, nil
		}
		if at += int64(n); err != nil {
			return true, atEnd(err)
		}
	}
}

// begin gives the file to a memtable.
func (l *wal) begin(number uint64) { l.number, l.end, l.planned = number, walPage, walPage }

// extend fills the file with zeros up to a size.
func (l *wal) extend(size int64) error {
	if err := grow(l.disk, l.grown, l.size, size, true); err != nil {
		return err
	}
	l.size = size
	l.bytes.Store(size)
	return nil
}

// walPause is for how long the disk is not asked again for more after it had no room. To ask costs about as much as a record.
const walPause = 50 * time.Millisecond

// room makes room for the record of a group, of that many bytes, and the mark behind it. Its error leaves the log as it was.
func (l *wal) room(bytes int64) error {
	end := l.planned + bytes + recordHeader
	if end <= l.size {
		return nil
	}
	if time.Since(l.refused) < walPause {
		return syscall.ENOSPC
	}
	err := l.extend(end + l.step)
	if full(err) {
		l.refused = time.Now()
		err = l.extend(end)
	}
	return err
}

// cramped reports whether the log is nearly full and the disk has no room for more.
func (l *wal) cramped() bool { return full(l.room(l.step / 2)) }

// full reports whether an error says that the disk is full.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// write writes a record, for which there must be room, and returns when it is durable.
func (l *wal) write(record []byte, group uint64) error {
	l.head(record, group)
	if err := l.disk.write(l.file, record, l.end); err != nil {
		if full(err) { // not all of it was written: it is no record
			return fmt.Errorf("%w: %w", errNotWritten, err)
		}
		return err
	}
	l.end += int64(len(record))
	if err := l.disk.sync(l.file); err != nil {
		return err
	}
	l.mark(group)
	return nil
}

// mark writes a record without rows behind a durable one, without a sync. The next record is written over it. A record that cannot be
// read and has a mark behind it is damaged, not torn. After a loss of power the mark may be missing.
func (l *wal) mark(group uint64) {
	var b [recordHeader]byte
	l.head(b[:], group)
	_ = l.disk.write(l.file, b[:], l.end) // it only helps
}

// head fills in the head of a record.
func (l *wal) head(record []byte, group uint64) {
	binary.BigEndian.PutUint32(record[4:], uint32(len(record)))
	binary.BigEndian.PutUint64(record[8:], l.number^l.mask)
	binary.BigEndian.PutUint64(record[16:], group)
	binary.BigEndian.PutUint32(record, l.sum(record))
}

// errNotWritten: a record is not in the log. Some file systems need room to write over what is there.
var errNotWritten = errors.New("boltstore: no room for a record of the log")

func (l *wal) sum(record []byte) uint32 { return crc32.Update(l.salt, castagnoli, record[4:]) }

// harden makes the last record that was found durable. If a sync has failed before, it may be one that can be read and is not
// on the disk, and the next record would follow nothing.
func (l *wal) harden() error {
	if l.last == 0 {
		return nil
	}
	b := make([]byte, l.end-l.last)
	if _, err := l.file.ReadAt(b, l.last); err != nil {
		return err
	}
	if err := l.disk.write(l.file, b, l.last); err != nil {
		return err
	}
	return l.disk.sync(l.file)
}

// record reads the record at a place; nil if there is none that is whole.
func (l *wal) record(at int64) (number, group uint64, rows []byte, err error) {
	head := make([]byte, recordHeader)
	if _, err := l.file.ReadAt(head, at); err != nil {
		return 0, 0, nil, atEnd(err)
	}
	size := int64(binary.BigEndian.Uint32(head[4:]))
	number = binary.BigEndian.Uint64(head[8:]) ^ l.mask
	if size < recordHeader || size > l.size-at || number>>32 != 0 { // so many memtables take a life of centuries
		return 0, 0, nil, nil
	}
	b := make([]byte, size)
	if _, err := l.file.ReadAt(b, at); err != nil {
		return 0, 0, nil, atEnd(err)
	}
	if l.sum(b) != binary.BigEndian.Uint32(b) {
		return 0, 0, nil, nil
	}
	return number, binary.BigEndian.Uint64(b[16:]), b[recordHeader:], nil
}

func atEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// cut reports whether a file of the log ends before the record that follows, which its header announces, or where one must have room.
func (l *wal) cut(number, group uint64) (bool, error) {
	head := make([]byte, recordHeader)
	if n, err := l.file.ReadAt(head, l.end); n < recordHeader {
		return true, atEnd(err)
	}
	return binary.BigEndian.Uint64(head[8:])^l.mask == number && binary.BigEndian.Uint64(head[16:]) == group &&
		int64(binary.BigEndian.Uint32(head[4:])) > l.size-l.end, nil
}

// after reports whether a whole record of the memtable for a later group follows somewhere after a place: then what is there is damaged.
func (l *wal) after(at int64, number, group uint64) (bool, error) {
	const span = 1 << 20
	want := binary.BigEndian.AppendUint64(nil, number^l.mask)
	buf := make([]byte, span+recordHeader)
	for ; at < l.size; at += span {
		n, err := l.file.ReadAt(buf, at)
		if err = atEnd(err); err != nil {
			return false, err
		}
		for i := 8; i < n; i++ {
			j := bytes.Index(buf[i:n], want)
			if j < 0 {
				break
			}
			i += j
			got, g, rows, err := l.record(at + int64(i) - 8)
			if err != nil {
				return false, err
			}
			if rows != nil && got == number && g > group {
				return true, nil
			}
		}
	}
	return false, nil
}
