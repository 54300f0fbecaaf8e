package kv

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Salvage reads what can be read of a file that cannot be opened.
//
//  1. It begins at the root as bbolt does, but goes on where a page makes no sense: with the elements that do.
//  2. A leaf that has other keys than it should is read, since its rows have checksums, but stays to be read by whom it belongs to.
//  3. Pages that no branch leads to any longer are looked at only if the list of free pages says that they are in use. Without it
//     they cannot be told from those of older states, whose rows have right checksums as well.
//  4. The log is read over that, if it is the file's: all records that are whole and not in the file, in their order.
//  5. Before all that, bits are turned back as Open would do it, in what is read: the file stays as it is. See mend.go.

// Salvaged is what Salvage has found.
type Salvaged struct {
	Meta map[string][]byte // what the file says about itself
	Rows int               // that could be read
	Lost int               // pages, rows and groups of the log that could not
	Log  int               // groups of the log that could be read
}

// Salvage calls row with all rows that can be read, in no order, each once, and lost with what cannot. What row gets is its own.
// With alone the log is not looked at. o.Meta is called before, with what the file says about itself as far as it can be read. The
// error is that of a file in which nothing can be found.
func Salvage(o Options, alone bool, lost func(error), row func(t Table, key, value []byte) error) (Salvaged, error) {
	path, err := resolve(o.Path)
	if err != nil {
		return Salvaged{}, err
	}
	o.Path = path
	if st, err := os.Stat(path); err != nil {
		return Salvaged{}, err
	} else if !st.Mode().IsRegular() { // to open a pipe would wait
		return Salvaged{}, fmt.Errorf("%w: no regular file", ErrNotStore)
	}
	// While it is open no other process can write. A file that bbolt refuses here is refused to all.
	db, _, err := boltOpen(path, &bolt.Options{Timeout: timeout(time.Now().Add(o.LockTimeout)), ReadOnly: true})
	if errors.Is(err, ErrLocked) {
		return Salvaged{}, err
	}
	s := salvager{o: &o, lost: lost, log: make(map[string]logRow), longs: make(map[string][]byte), tables: sumTables(o.Tables)}
	s.done.Meta = make(map[string][]byte)
	s.page = int64(os.Getpagesize())
	if db != nil {
		s.page = int64(db.Info().PageSize)
	}
	err = s.pages(alone, row)
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

// pages goes through the file, after its log.
func (s *salvager) pages(alone bool, row func(t Table, key, value []byte) error) error {
	f, err := os.Open(s.o.Path)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	meta, err := newestMeta(f, s.page)
	if err != nil {
		return err
	}
	if !meta.other {
		s.lose(fmt.Errorf("%w: a meta page; the other one may be of an earlier state", ErrCorrupt))
	}
	file := &mender{ReaderAt: f}
	// What that says of the file is found again below.
	_, _ = inspectPages(file, st.Size(), s.page, s.o, file, func(*PageDamage) error { return nil })
	if meta, err = newestMeta(file, s.page); err != nil {
		return err
	}
	if have := uint64(st.Size() / s.page); meta.high > have {
		s.lose(fmt.Errorf("%w: the file was cut short: %d pages of %d are there", ErrCorrupt, have, meta.high))
		meta.high = have
	}
	s.file, s.high = file, meta.high
	s.seen = make([]uint64, meta.high/64+1)
	log, err := s.about(meta.root)
	if err != nil {
		return err
	}
	if !alone {
		s.readLogs(log)
	}
	if err := s.tree(span{id: meta.root}, row); err != nil {
		return err
	}
	if err := s.unreached(meta.freelist, row); err != nil {
		return err
	}
	return s.long(row)
}

// about returns what the file says about its log, nil if that cannot be read. Its error is that of a file that is none of ours, or of
// another version.
func (s *salvager) about(root uint64) (*state, error) {
	var about about
	whole := true
	c := newChecker(s.file, s.page, s.high, s.o.Tables)
	c.only = map[string]bool{bucketMeta: true, bucketState: true}
	c.found = func(*PageDamage) error { whole = false; return nil }
	c.leaf = func(at *span, list []element) error {
		for i := range list {
			about.row(at.bucket, list[i].key, list[i].value)
		}
		return nil
	}
	_ = c.tree(&span{id: root}) // found and leaf have no errors
	for name := range c.buckets {
		about.has(name)
	}
	st, meta, err := about.read()
	if len(meta) > 0 && s.o.Meta != nil && (err == nil || errors.Is(err, ErrCorrupt)) {
		if e := s.o.Meta(meta); !errors.Is(e, ErrCorrupt) {
			err = cmp.Or(e, err)
		}
	}
	switch {
	case err == nil && about.state != nil:
		return &st, nil
	case err != nil && whole && !errors.Is(err, ErrCorrupt):
		return nil, err
	}
	return nil, nil
}

// spanPages is how many pages are read at least: what a page overflows into follows it, whatever it says.
const spanPages = 4

// load reads a page with what it overflows into, as far as it makes sense, and returns what is wrong with it. The elements are memory
// of their own.
func (s *salvager) load(id uint64) (list []element, leaf bool, pages uint64, reason string) {
	head, err := s.read(id, 1)
	if err != nil {
		return nil, false, 1, err.Error()
	}
	over := uint64(binary.NativeEndian.Uint32(head[12:]))
	n := max(over+1, spanPages)
	if over >= blockPages {
		n = spanPages
	}
	page, err := s.read(id, min(n, s.high-id))
	if err != nil {
		return nil, false, 1, err.Error()
	}
	page = bytes.Clone(page)
	list, leaf, used, reason := lenient(page)
	pages = uint64(max(used, 1)-1)/uint64(s.page) + 1
	switch {
	case reason != "":
	case binary.NativeEndian.Uint64(page) != id:
		reason = fmt.Sprintf("says that it is page %d", binary.NativeEndian.Uint64(page))
	case pages != over+1:
		reason = "not as long as what it holds"
	}
	return list, leaf, min(pages, over+1), reason // of what is in doubt others may have need
}

func (s *salvager) wasRead(id uint64) bool { return s.seen[id/64]&(1<<(id%64)) != 0 }

func (s *salvager) note(id, pages uint64) {
	for i := id; i < min(id+pages, s.high); i++ {
		s.seen[i/64] |= 1 << (i % 64)
	}
}

// fits reports whether any of a page's keys is one that should be there.
func (s *span) fits(list []element) bool {
	return slices.ContainsFunc(list, func(e element) bool {
		return bytes.Compare(e.key, s.from) >= 0 && (s.to == nil || bytes.Compare(e.key, s.to) < 0)
	})
}

// tree reads a page, as far as it makes sense, and those below it.
func (s *salvager) tree(at span, row func(t Table, key, value []byte) error) error {
	lose := func(reason string) {
		s.lose(&PageDamage{Page: at.id, Bucket: at.bucket, From: at.from, To: at.to, Reason: reason})
	}
	if at.id < 2 || at.id >= s.high || at.depth > maxDepth || s.wasRead(at.id) {
		lose("no such page, or read before")
		return nil
	}
	list, leaf, pages, reason := s.load(at.id)
	if reason == "" {
		reason = at.order(list, leaf)
	}
	if reason != "" {
		lose(reason)
	}
	if at.from == nil || at.fits(list) {
		s.note(at.id, pages)
	} else if !leaf || at.bucket == "" {
		return nil
	}
	switch {
	case !leaf:
		return s.below(at, list, row)
	case at.bucket == "":
		return s.directory(at, list, row)
	}
	return s.leaf(at.bucket, list, reason == "", row)
}

// below goes on with the pages that a branch refers to.
func (s *salvager) below(at span, list []element, row func(t Table, key, value []byte) error) error {
	for i := range list {
		next := span{id: list[i].child, bucket: at.bucket, from: list[i].key, to: at.to, depth: at.depth + 1}
		if i+1 < len(list) {
			next.to = list[i+1].key
		}
		if err := s.tree(next, row); err != nil {
			return err
		}
	}
	return nil
}

// directory goes on with the buckets that a leaf of the root bucket has.
func (s *salvager) directory(at span, list []element, row func(t Table, key, value []byte) error) error {
	for i := range list {
		e := &list[i]
		_, known := s.tables[string(e.key)]
		if !known || len(e.value) < bucketHeader {
			s.lose(&PageDamage{Page: at.id, Reason: fmt.Sprintf("%.20q is no bucket", e.key)})
			continue
		}
		next := span{id: binary.NativeEndian.Uint64(e.value), bucket: string(e.key), depth: at.depth + 1}
		var err error
		if next.id != 0 {
			err = s.tree(next, row)
		} else {
			inner, _, _, reason := lenient(e.value[bucketHeader:])
			if reason != "" {
				s.lose(&PageDamage{Page: at.id, Bucket: next.bucket, Reason: reason})
			}
			err = s.leaf(next.bucket, inner, reason == "", row)
		}
		if err != nil {
			return err
		}
	}
	return nil
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
		if !intact(t, k, v) {
			m := meant(t, k, v)
			if m == nil || !intact(t, m, v) { // its length may be wrong
				if !sound {
					k = nil
				}
				s.lose(&Damage{Table: bucket, Key: bytes.Clone(k)})
				continue
			}
			k = m
		}
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
		if head, err := s.read(i, 1); err != nil || binary.NativeEndian.Uint64(head) != i {
			continue
		}
		list, leaf, pages, reason := s.load(i)
		if bucket := s.bucketOf(list); leaf && bucket != "" {
			s.note(i, pages)
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
			part, ok := s.longs[string(binary.BigEndian.AppendUint32(slices.Clone(chunk), n))]
			if !ok || len(part) == 0 {
				break
			}
			value = append(value, part...)
		}
		if uint64(len(value)) != size {
			s.lose(&Damage{Table: s.o.Tables[o.t].Name, Key: o.key, Reason: "a part of the value is damaged or missing"})
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
