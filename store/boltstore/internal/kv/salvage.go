package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Salvage reads what can be read of a file that cannot be opened.
//
//  1. It begins at the root as bbolt does, but goes on where a page makes no sense: with the elements that do.
//  2. Pages that no branch leads to any longer are looked at only if the list of free pages says that they are in use. Without it
//     they cannot be told from those of older states, whose rows have right checksums as well.
//  3. The log is read over that, all records that are whole, in their order. That those of rows that are in the file already are
//     among them does no harm: the last ones count.

// Salvaged is what Salvage has found.
type Salvaged struct {
	Meta map[string][]byte // what the file says about itself
	Rows int               // that could be read
	Lost int               // pages, rows and groups of the log that could not
	Log  int               // groups of the log that could be read
}

// Salvage calls row with all rows that can be read, in no order, each once, and lost with what cannot. What row gets is its own.
// With alone the log is not looked at. The error is that of a file in which nothing can be found.
func Salvage(o Options, alone bool, lost func(error), row func(t Table, key, value []byte) error) (Salvaged, error) {
	path, err := resolve(o.Path)
	if err != nil {
		return Salvaged{}, err
	}
	o.Path = path
	// While it is open no other process can write. A file that bbolt refuses here is refused to all.
	db, _, err := boltOpen(path, &bolt.Options{Timeout: timeout(time.Now().Add(o.LockTimeout)), ReadOnly: true})
	if errors.Is(err, ErrLocked) {
		return Salvaged{}, err
	}
	s := salvager{o: &o, lost: lost, log: make(map[string]logRow), tables: sumTables(o.Tables)}
	s.done.Meta = make(map[string][]byte)
	if !alone {
		s.readLogs()
	}
	err = s.pages(row)
	if err == nil {
		err = s.rest(row)
	}
	if db != nil {
		err = errors.Join(err, db.Close())
	}
	return s.done, err
}

type logRow struct {
	value []byte
	gone  bool
}

type salvager struct {
	o      *Options
	tables map[string]Table
	lost   func(error)
	log    map[string]logRow // table and key → the last version
	longs  map[string][]byte // chunks
	owners []fileRow         // rows with long values
	done   Salvaged

	pageReader
	seen []uint64
}

func (s *salvager) lose(err error) {
	s.done.Lost++
	s.lost(err)
}

// pages goes through the file.
func (s *salvager) pages(row func(t Table, key, value []byte) error) error {
	f, err := os.Open(s.o.Path)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	page := int64(os.Getpagesize())
	meta, err := newestMeta(f, page)
	if err != nil {
		return err
	}
	if have := uint64(st.Size() / page); meta.high > have {
		s.lose(fmt.Errorf("%w: the file was cut short: %d pages of %d are there", ErrCorrupt, have, meta.high))
		meta.high = have
	}
	s.pageReader = pageReader{file: f, page: page, high: meta.high}
	s.seen = make([]uint64, meta.high/64+1)
	s.longs = make(map[string][]byte)
	if err := s.tree(span{id: meta.root}, row); err != nil {
		return err
	}
	if err := s.unreached(meta.freelist, row); err != nil {
		return err
	}
	return s.long(row)
}

// tree reads a page, as far as it makes sense, and those below it.
func (s *salvager) tree(at span, row func(t Table, key, value []byte) error) error {
	if at.id < 2 || at.id >= s.high || at.depth > maxDepth || s.seen[at.id/64]&(1<<(at.id%64)) != 0 {
		s.lose(&PageDamage{Page: at.id, Bucket: at.bucket, From: at.from, To: at.to, Reason: "no such page, or read before"})
		return nil
	}
	s.seen[at.id/64] |= 1 << (at.id % 64)
	page, err := s.read(at.id, 1)
	if err == nil {
		if over := uint64(binary.NativeEndian.Uint32(page[12:])); over != 0 && over < min(s.high-at.id, 1<<20) {
			page, err = s.read(at.id, over+1)
			for i := at.id + 1; i <= at.id+over; i++ {
				s.seen[i/64] |= 1 << (i % 64)
			}
		}
	}
	if err != nil {
		s.lose(&PageDamage{Page: at.id, Bucket: at.bucket, From: at.from, To: at.to, Reason: err.Error()})
		return nil
	}
	page = bytes.Clone(page)
	list, leaf, reason := lenient(page)
	if reason == "" {
		reason = at.order(list, leaf)
	}
	if reason != "" {
		s.lose(&PageDamage{Page: at.id, Bucket: at.bucket, From: at.from, To: at.to, Reason: reason})
	}
	if leaf && at.bucket != "" {
		return s.leaf(at.bucket, list, reason == "", row)
	}
	for i := range list {
		e := &list[i]
		next := span{id: e.child, bucket: at.bucket, from: e.key, to: at.to, depth: at.depth + 1}
		if i+1 < len(list) {
			next.to = list[i+1].key
		}
		if leaf { // of the root bucket
			_, known := s.tables[string(e.key)]
			if !known || len(e.value) < bucketHeader {
				s.lose(&PageDamage{Page: at.id, Reason: fmt.Sprintf("%q is no bucket", e.key)})
				continue
			}
			next = span{id: binary.NativeEndian.Uint64(e.value), bucket: string(e.key), depth: at.depth + 1}
			if next.id == 0 {
				inner, _, reason := lenient(e.value[bucketHeader:])
				if reason != "" {
					s.lose(&PageDamage{Page: at.id, Bucket: next.bucket, Reason: reason})
				}
				if err := s.leaf(next.bucket, inner, reason == "", row); err != nil {
					return err
				}
				continue
			}
		}
		if err := s.tree(next, row); err != nil {
			return err
		}
	}
	return nil
}

// lenient is parse for a page that may make no sense: it returns the elements that lie within it, and what is wrong.
func lenient(page []byte) (list []element, leaf bool, reason string) {
	if len(page) < pageHeader {
		return nil, false, "shorter than a page"
	}
	list, leaf, _, err := parse(page, nil)
	if err == nil {
		return list, leaf, ""
	}
	order := binary.NativeEndian
	leaf = order.Uint16(page[8:]) != branchPage
	list = nil
	for i := range min(int(order.Uint16(page[10:])), (len(page)-pageHeader)/elementBytes) {
		at := pageHeader + i*elementBytes
		h := page[at:]
		e := element{child: order.Uint64(h[8:])}
		pos, ksize, vsize := order.Uint32(h), order.Uint32(h[4:]), uint32(0)
		if leaf {
			e.child, e.flags, pos, ksize, vsize = 0, order.Uint32(h), order.Uint32(h[4:]), order.Uint32(h[8:]), order.Uint32(h[12:])
		}
		start := int64(at) + int64(pos)
		middle, end := start+int64(ksize), start+int64(ksize)+int64(vsize)
		if ksize == 0 || pos < elementBytes || end > int64(len(page)) {
			continue
		}
		e.key, e.value = page[start:middle], page[middle:end]
		list = append(list, e)
	}
	return list, leaf, err.Error()
}

// leaf hands out rows whose checksum is right. What a page that makes no sense has for a key may be a part of a value, which no
// report may show: sound says that keys are keys.
func (s *salvager) leaf(bucket string, list []element, sound bool, row func(t Table, key, value []byte) error) error {
	t, known := s.tables[bucket]
	if !known {
		return nil
	}
	for i := range list {
		k, v := list[i].key, list[i].value
		m := meant(t, k, v)
		if m == nil || !intact(t, m, v) {
			if m == nil && sound {
				m = k
			}
			s.lose(&Damage{Table: bucket, Key: bytes.Clone(m)})
			continue
		}
		k = m
		switch {
		case t == metaTable:
			s.done.Meta[string(k)] = bytes.Clone(v[rowHeader:])
		case t == stateTable:
		case t == longTable:
			s.longs[string(k)] = bytes.Clone(v[rowHeader:])
		case v[4] == kindLong:
			s.owners = append(s.owners, fileRow{t, bytes.Clone(k), bytes.Clone(v)})
		default:
			if err := s.out(t, bytes.Clone(k), bytes.Clone(v[rowHeader:]), row); err != nil {
				return err
			}
		}
	}
	return nil
}

// out hands out a row of the file, unless the log has a later version.
func (s *salvager) out(t Table, key, value []byte, row func(t Table, key, value []byte) error) error {
	if _, later := s.log[string(byte(t))+string(key)]; later {
		return nil
	}
	s.done.Rows++
	return row(t, key, value)
}

// unreached reads pages in use to which nothing leads.
func (s *salvager) unreached(id uint64, row func(t Table, key, value []byte) error) error {
	if id == noFreelistPage || s.done.Lost == 0 {
		return nil
	}
	c := newChecker(s.file, s.page, s.high, s.o.Tables)
	c.leaves = false
	if err := c.freelist(fileMeta{freelist: id}); err != nil {
		s.lose(err)
		return nil
	}
	for i := uint64(2); i < s.high; i++ {
		if (c.seen[i/64]|s.seen[i/64])&(1<<(i%64)) != 0 {
			continue
		}
		page, err := s.read(i, 1)
		if err != nil || binary.NativeEndian.Uint64(page) != i || binary.NativeEndian.Uint16(page[8:]) != leafPage {
			continue
		}
		list, _, reason := lenient(bytes.Clone(page))
		if bucket := s.bucketOf(list); bucket != "" {
			s.seen[i/64] |= 1 << (i % 64)
			if err := s.leaf(bucket, list, reason == "", row); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucketOf returns the bucket whose rows these are: the checksum says so.
func (s *salvager) bucketOf(list []element) string {
	for i := range list {
		for bucket, t := range s.tables {
			if intact(t, list[i].key, list[i].value) {
				return bucket
			}
		}
	}
	return ""
}

// long puts long values together.
func (s *salvager) long(row func(t Table, key, value []byte) error) error {
	for _, o := range s.owners {
		size, _ := binary.Uvarint(o.value[rowHeader:])
		chunk := chunkKey(o.t, o.key)
		var value []byte
		for n := uint32(0); uint64(len(value)) < size; n++ {
			data, ok := s.longs[string(binary.BigEndian.AppendUint32(slices.Clone(chunk), n))]
			if !ok || len(data) == 0 {
				break
			}
			value = append(value, data...)
		}
		if uint64(len(value)) != size {
			s.lose(&Damage{Table: s.o.Tables[o.t].Name, Key: o.key, Reason: "a chunk of the value is damaged or missing"})
			continue
		}
		if err := s.out(o.t, o.key, value, row); err != nil {
			return err
		}
	}
	return nil
}

// rest hands out the rows of the log.
func (s *salvager) rest(row func(t Table, key, value []byte) error) error {
	for k, r := range s.log {
		if r.gone {
			continue
		}
		s.done.Rows++
		if err := row(Table(k[0]), []byte(k[1:]), r.value); err != nil {
			return err
		}
	}
	return nil
}

// logRecord is a record that was found.
type logRecord struct {
	number, group uint64
	rows          []byte
}

// readLogs reads all records that are whole.
func (s *salvager) readLogs() {
	var all []logRecord
	for _, suffix := range walNames {
		records, err := s.readLog(s.o.Path + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.lose(fmt.Errorf("log %s: %w", suffix, err))
		}
		all = append(all, records...)
	}
	slices.SortFunc(all, func(a, b logRecord) int { return int(int64(a.group - b.group)) })
	for i, r := range all {
		if i > 0 && r.group > all[i-1].group+1 {
			s.lose(fmt.Errorf("%w: the log, groups %d to %d", ErrCorrupt, all[i-1].group+1, r.group-1))
		}
		s.done.Log++
		err := decodeRows(r.rows, func(prefix, key, value []byte, gone bool) {
			s.log[string(prefix)+string(key)] = logRow{bytes.Clone(value), gone}
		})
		if err != nil {
			s.lose(fmt.Errorf("group %d: %w", r.group, err))
		}
	}
}

// readLog reads the records of one file of the log: those of the memtable that the first one belongs to.
func (s *salvager) readLog(path string) ([]logRecord, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	if len(b) < walPage {
		return nil, fmt.Errorf("%w: header", ErrCorrupt)
	}
	id := walID(b[len(walMagic):][:walIDBytes])
	l := newWAL(system{}, f, id, 0)
	err = l.check(id)
	l.size = int64(len(b))
	var list []logRecord
	for at := int64(walPage); at+recordHeader <= l.size; {
		number, group, rows, e := l.record(at)
		if e != nil || rows == nil {
			at++ // damaged, or the end: a whole one may follow
			if e == nil && allZero(b[at:min(at+walPage, l.size)]) {
				at += walPage - 1
			}
			continue
		}
		if len(list) > 0 && number < list[0].number { // left over
			break
		}
		if len(list) > 0 && number > list[0].number { // the first one was damaged, and what was found was left over
			list = nil
		}
		if len(rows) > 0 {
			list = append(list, logRecord{number, group, rows})
		}
		at += int64(recordHeader + len(rows))
	}
	return list, err
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
