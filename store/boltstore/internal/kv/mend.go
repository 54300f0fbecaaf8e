package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// A page that makes no sense would keep the whole file from being opened. Where one bit is to blame, Open turns it back.
//
//  1. A page is proven if it makes sense, and all its rows have right checksums, or each page below begins and ends with
//     keys that it should have and rows that have right checksums.
//  2. Of a page that is not proven, and of those above it that are not, each bit is tried. It is turned back if that one, and no other,
//     makes its page proven. So what is damaged in two bits is left alone, and so is a reference that may be to either of two states.
//  3. A reference may make its page proven and be wrong: where a page was lost, one bit of a page above it may lead past it, to
//     a part of the tree. So a file whose references were mended must then make sense as a whole, by its list of free pages as well:
//     each page is in use or free. If it does not, or there is no list, references stay as they are. Any other bit that was turned
//     leaves the page with all that it referred to.
//  4. A list of free pages that is damaged is done without: bbolt finds free pages without it. It is damaged, and not the tree, if no
//     reference was mended and it makes no sense by itself, or says of no page in use that it is free.
//  5. All this happens to what is read. What is right is written at the end, one byte or one meta page at a time, in its place: the
//     file is as right as before if the process ends meanwhile. If the bit was wrong in what was read, and not on the disk, that writes
//     what is there.
//  6. The rows that say what the file is are mended as pages are, for all depends on them. Other rows are left to who asks for them.
//  7. It is told: by a line of the log, and by Stats.
const (
	maxMends     = 64
	maxMendPages = 16
)

// errMended is why a walk begins again.
var errMended = errors.New("mended")

// mender is a file as it would be with what was put right.
type mender struct {
	io.ReaderAt
	patches  []patch
	unsure   int             // patches that the whole walk must prove
	sureOnly bool            // it did not
	hopeless map[uint64]bool // pages that nothing could be done about
}

type patch struct {
	at   int64
	b    []byte
	sure bool
}

// ReadAt implements [io.ReaderAt].
func (m *mender) ReadAt(b []byte, at int64) (int, error) {
	n, err := m.ReaderAt.ReadAt(b, at)
	for _, p := range m.patches {
		if from, to := max(p.at, at), min(p.at+int64(len(p.b)), at+int64(n)); from < to {
			copy(b[from-at:to-at], p.b[from-p.at:])
		}
	}
	return n, err
}

// add changes what is read. It returns errMended.
func (m *mender) add(b []byte, at int64, sure bool) error {
	m.patches = append(m.patches, patch{at, bytes.Clone(b), sure})
	if !sure {
		m.unsure++
	}
	return errMended
}

// takeBack leaves references as they were.
func (m *mender) takeBack() {
	m.patches = slices.DeleteFunc(m.patches, func(p patch) bool { return !p.sure })
	m.unsure, m.sureOnly, m.hopeless = 0, true, nil
}

// write changes the file at path.
func (m *mender) write(d disk, path string) error {
	if len(m.patches) == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for i := 0; i < len(m.patches) && err == nil; i++ {
		if err = d.write(f, m.patches[i].b, m.patches[i].at); err == nil {
			err = d.sync(f)
		}
	}
	return errors.Join(err, f.Close())
}

// mend turns a bit back. It returns nil if there is none to turn.
func (c *checker) mend(s *span) error {
	m := c.mender
	if len(m.patches) >= maxMends || m.hopeless[s.id] {
		return nil
	}
	id := s.id
	for ; s != nil; s = s.up {
		if s.up != nil && s.id == s.up.id { // within the page of its parent
			continue
		}
		if s.id < 2 || s.id >= c.high {
			continue
		}
		block, err := c.read(s.id, min(maxMendPages, c.high-s.id))
		if err != nil {
			return err
		}
		block = bytes.Clone(block)
		if c.proven(s, block) {
			continue
		}
		if at, is := c.single(s, block); is {
			if sure := !refers(s, block, at); sure || !m.sureOnly {
				return m.add(block[at:at+1], int64(s.id)*c.page+int64(at), sure)
			}
		}
	}
	if m.hopeless == nil {
		m.hopeless = make(map[uint64]bool)
	}
	m.hopeless[id] = true
	return nil
}

// refers reports whether a byte of a page that makes sense is a part of a reference to another page.
func refers(s *span, block []byte, at int) bool {
	list, leaf, _, err := parse(block, nil)
	switch {
	case err != nil || leaf && s.bucket != "":
		return false
	case !leaf:
		at -= pageHeader
		return at >= 0 && at < len(list)*elementBytes && at%elementBytes >= elementBytes-8
	}
	end := pageHeader + len(list)*elementBytes
	for i := range list { // buckets: their values begin with their root pages
		start := end + len(list[i].key)
		if at >= start && at < start+8 {
			return true
		}
		end = start + len(list[i].value)
	}
	return false
}

// single turns back the only bit that makes a page proven, and returns where it is.
func (c *checker) single(s *span, block []byte) (at int, is bool) {
	var turned byte
	pages := min(maxMendPages, 1+int(binary.NativeEndian.Uint32(block[12:]))) // that may matter: of others only the number can be wrong
	for i := range block[:min(len(block), pages*int(c.page))] {
		for bit := range 8 {
			block[i] ^= 1 << bit
			ok := c.proven(s, block)
			block[i] ^= 1 << bit
			switch {
			case !ok:
			case is:
				return 0, false
			default:
				at, turned, is = i, 1<<bit, true
			}
		}
	}
	if is {
		block[at] ^= turned
	}
	return at, is
}

// proven reports whether a page, which block begins with, is what it should be. Of one without elements nothing says so.
func (c *checker) proven(s *span, block []byte) bool {
	order := binary.NativeEndian
	pages := int64(order.Uint32(block[12:])) + 1
	if order.Uint64(block) != s.id || pages > int64(len(block))/c.page {
		return false
	}
	list, leaf, _, reason := c.elements(block[:pages*c.page], c.trial)
	c.trial = list
	if reason != "" || len(list) == 0 || s.order(list, leaf) != "" {
		return false
	}
	switch {
	case !leaf:
		for _, next := range s.children(list) {
			if !c.fits(&next) {
				return false
			}
		}
		return true
	case s.bucket == "":
		return c.provenBuckets(s, list)
	}
	return c.provenRows(s.bucket, list)
}

func (c *checker) provenRows(bucket string, list []element) bool {
	t, known := c.tables[bucket]
	for i := range list {
		if list[i].flags != 0 || known && !intact(t, list[i].key, list[i].value) {
			return false
		}
	}
	return true
}

func (c *checker) provenBuckets(s *span, list []element) bool {
	buckets, err := s.bucketsOf(list, func(reason string) error { return errPage(reason) })
	if err != nil {
		return false
	}
	found := 0
	for i := range buckets {
		b := &buckets[i]
		if _, known := c.tables[b.bucket]; known {
			found++
		}
		if b.inline == nil {
			if !c.fits(&b.span) {
				return false
			}
			continue
		}
		rows, reason := b.within(b.inline)
		if reason != "" || !c.provenRows(b.bucket, rows) {
			return false
		}
	}
	return found == len(c.tables)
}

// fits reports whether a page is one that a page above may refer to: it has the keys that it should have, and the first and
// the last of the rows below it have right checksums.
func (c *checker) fits(s *span) bool {
	page, reason := c.whole(s)
	if reason != "" {
		return false
	}
	list, leaf, _, reason := c.elements(page, nil)
	if reason != "" || s.order(list, leaf) != "" {
		return false
	}
	if !leaf {
		children := s.children(list)
		return c.fits(&children[0]) && c.fits(&children[len(children)-1])
	}
	if len(list) > 1 {
		list = []element{list[0], list[len(list)-1]}
	}
	return c.provenRows(s.bucket, list)
}

// mendMeta turns a bit of a meta page back whose checksum is wrong.
func (m *mender) mendMeta(c *pageReader) error {
	for id := range uint64(2) {
		page, err := c.read(id, 1)
		if err != nil {
			return err
		}
		if meta := page[pageHeader : pageHeader+metaBytes]; len(m.patches) < maxMends && !metaIntact(meta) {
			for i := range 8 * len(meta) {
				meta[i/8] ^= 1 << (i % 8)
				if metaIntact(meta) {
					return m.add(meta[i/8:i/8+1], int64(id)*c.page+pageHeader+int64(i/8), true)
				}
				meta[i/8] ^= 1 << (i % 8)
			}
		}
	}
	return nil
}

func metaIntact(m []byte) bool {
	return binary.NativeEndian.Uint32(m) == metaMagic && binary.NativeEndian.Uint64(m[metaBytes-8:]) == metaSum(m)
}

func metaSum(m []byte) uint64 {
	h := fnv.New64a()
	h.Write(m[:metaBytes-8]) // never fails
	return h.Sum64()
}

// dropFreelist says in the newest meta page that there is no list of free pages.
func (m *mender) dropFreelist(c *pageReader, meta fileMeta) error {
	page, err := c.read(meta.tx%2, 1)
	if err != nil {
		return err
	}
	b := page[pageHeader : pageHeader+metaBytes]
	if !metaIntact(b) || binary.NativeEndian.Uint64(b[48:]) != meta.tx {
		return fmt.Errorf("%w: the newest meta page is not where it should be", ErrCorrupt)
	}
	binary.NativeEndian.PutUint64(b[32:], noFreelistPage)
	binary.NativeEndian.PutUint64(b[metaBytes-8:], metaSum(b))
	return m.add(b, int64(meta.tx%2)*c.page+pageHeader, true)
}
