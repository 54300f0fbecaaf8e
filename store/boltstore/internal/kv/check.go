package kv

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
)

// bbolt's pages have no checksums, and bbolt believes what they say: it may end the process on one that makes no sense, and write
// over pages in use if the list of free ones is wrong. So the pages are walked through before it opens a file for writing.
//
//  1. Each page is where and what it says, is in use once, and is as long as what it holds.
//  2. Keys rise within a page and from page to page, and a branch has the first key of each page below. (bbolt could do
//     with less, but writes it so.) A key or page number of a branch that is not what it was breaks this.
//  3. If the file has a list of free pages, each page is either in use or in it, and not both. A reference that has come to lead
//     to an older state of a page, which is whole and in its place, breaks this alone. So the list is written with
//     commits where it is short enough; see listFree.
//  4. What is left are keys that kept their order, and values: for those each row has a checksum.
//
// A file that was not closed, or is at most smallFile, is walked through as a whole. Of a larger one that was closed the leaves are
// left to a walk in the background, see scrub.
const smallFile = 1 << 30

// PageDamage is the error for a page that makes no sense. It keeps a file from being opened.
type PageDamage struct {
	Page   uint64
	Bucket string // empty: not known, or none
	From   []byte // the keys that should be there begin with this one, if it is known,
	To     []byte // and end before this one; nil: not known, or there is no end
	Reason string
}

func (d *PageDamage) Error() string {
	s := fmt.Sprintf("%v: page %d", ErrCorrupt, d.Page)
	if d.Bucket != "" {
		s += fmt.Sprintf(" of %s", d.Bucket)
	}
	if d.From != nil {
		s += fmt.Sprintf(", keys from %q", d.From)
		if d.To != nil {
			s += fmt.Sprintf(" to before %q", d.To)
		}
	}
	return s + ": " + d.Reason
}

// Unwrap returns ErrCorrupt.
func (d *PageDamage) Unwrap() error { return ErrCorrupt }

// checker walks through the pages of a file.
type checker struct {
	pageReader
	tables  map[string]Table                    // of checksums, by bucket
	only    map[string]bool                     // buckets that are looked at; nil: all
	buckets map[string]bool                     // that are there
	seen    []uint64                            // pages in use; nil: of a slice of a walk
	leaves  bool                                // are read as well
	found   func(*PageDamage) error             // an error ends the walk
	mender  *mender                             // nil: damage is only told
	leaf    func(s *span, list []element) error // nil: rows are not looked at

	// For a walk in slices.
	from []byte // it begins with this key
	left int    // pages that it may still read; 0: no bound
	next []byte // where the next slice begins; nil: at the end
	list []element

	trial []element // memory of proven
}

func stopAtFirst(d *PageDamage) error { return d }

// newChecker returns a checker for all of a file.
func newChecker(f io.ReaderAt, page int64, high uint64, tables []TableSpec) *checker {
	return &checker{
		tables: sumTables(tables), buckets: make(map[string]bool), pageReader: pageReader{file: f, page: page, high: high}, seen: make([]uint64, high/64+1), leaves: true, found: stopAtFirst,
	}
}

// checkFile walks through a file that nobody writes to. closed: it was closed, as far as is known. It reports whether leaves are
// left to be looked at, and how many pages nothing leads to.
func checkFile(f io.ReaderAt, size, page int64, meta fileMeta, closed bool, o *Options, m *mender, found func(*PageDamage) error,
	rows func(s *span, t Table, list []element) error,
) (rest bool, free uint64, err error) {
	if meta.high > uint64(size/page) {
		return false, 0, fmt.Errorf("%w: the file was cut short: %d pages of %d are there", ErrCorrupt, size/page, meta.high)
	}
	c := newChecker(f, page, meta.high, o.Tables)
	c.found, c.mender = found, m
	proof := m != nil && m.unsure > 0
	c.leaves = !closed || size <= cmp.Or(o.small, smallFile) || proof
	c.leaf = func(s *span, list []element) error {
		if t, known := c.tables[s.bucket]; known {
			return rows(s, t, list)
		}
		return nil
	}
	root := span{id: meta.root}
	if err := c.tree(&root); err != nil {
		return false, 0, err
	}
	for name := range c.tables {
		if !c.buckets[name] {
			if err := c.bad(&root, fmt.Sprintf("bucket %q is missing", name)); err != nil {
				return false, 0, err
			}
		}
	}
	free = meta.high - 2
	for _, word := range c.seen {
		free -= uint64(bits.OnesCount64(word))
	}
	switch {
	case meta.freelist != noFreelistPage:
		err = c.freelist(meta)
	case proof:
		err = fmt.Errorf("%w: no list of free pages proves a mended page", ErrCorrupt)
	}
	return !c.leaves, free, err
}

// sumTables are the tables that rows' checksums begin with.
func sumTables(tables []TableSpec) map[string]Table {
	all := map[string]Table{bucketMeta: metaTable, bucketState: stateTable, bucketLong: longTable}
	for i := range tables {
		all[tables[i].Name] = Table(i)
	}
	return all
}

func (c *checker) bad(s *span, reason string) error {
	if c.mender != nil {
		if err := c.mend(s); err != nil {
			return err
		}
	}
	return c.found(&PageDamage{
		Page: s.id, Bucket: s.bucket, From: bytes.Clone(s.from), To: bytes.Clone(s.to), Reason: reason,
	})
}

// tree checks a page and those below it.
func (c *checker) tree(s *span) error {
	if c.left == 1 {
		c.next = bytes.Clone(s.from)
		return errStop
	}
	c.left = max(0, c.left-1)
	list, leaf, reason := c.load(s)
	if reason != "" {
		return c.bad(s, reason)
	}
	if reason := s.order(list, leaf); reason != "" {
		if err := c.bad(s, reason); err != nil || !leaf {
			return err
		}
	}
	switch {
	case !leaf:
		return c.below(s, list)
	case s.bucket == "":
		return c.directory(s, list)
	}
	return c.rows(s, list)
}

// load reads a page with what it overflows into. It returns its elements, or what is wrong with it.
func (c *checker) load(s *span) (list []element, leaf bool, reason string) {
	page, reason := c.whole(s)
	if reason != "" {
		return nil, false, reason
	}
	if !c.use(s.id, uint64(len(page))/uint64(c.page)) {
		return nil, false, "in use twice"
	}
	list, leaf, rest, reason := c.elements(page, c.list)
	c.list = list
	if n := len(list); reason == "" && leaf && s.bucket != "" && n > 0 {
		if k := c.lastKey(s.bucket, &list[n-1], rest); k != nil {
			reason = fmt.Sprintf("key %q is of another length", k)
		}
	}
	if reason != "" {
		list = nil
	}
	return list, leaf, reason
}

// whole reads a page with what it overflows into, or says why it cannot be.
func (c *checker) whole(s *span) (page []byte, reason string) {
	if s.id < 2 || s.id >= c.high {
		return nil, "beyond the pages in use"
	}
	if s.depth > maxDepth {
		return nil, "too deep"
	}
	page, err := c.read(s.id, 1)
	if err != nil {
		return nil, err.Error()
	}
	order := binary.NativeEndian
	pages := uint64(order.Uint32(page[12:])) + 1
	switch {
	case order.Uint64(page) != s.id:
		return nil, fmt.Sprintf("says that it is page %d", order.Uint64(page))
	case pages > c.high-s.id:
		return nil, "longer than the file"
	case pages == 1:
		return page, ""
	}
	if page, err = c.read(s.id, pages); err != nil {
		return nil, err.Error()
	}
	return page, ""
}

// elements returns what is in a page that was read whole, or what is wrong with it. It uses the memory of into.
func (c *checker) elements(page []byte, into []element) (list []element, leaf bool, rest []byte, reason string) {
	list, leaf, used, err := parse(page, into)
	switch {
	case err != nil:
		return list, leaf, nil, err.Error()
	case (int64(used)-1)/c.page+1 != int64(len(page))/c.page:
		return list, leaf, nil, "not as long as what it holds"
	}
	return list, leaf, page[used:], ""
}

// lastKey returns the key that the last row of a page should have if only the length of its key is wrong, nil if that is not so. The
// others' lengths show by themselves.
func (c *checker) lastKey(bucket string, e *element, rest []byte) []byte {
	t, known := c.tables[bucket]
	if !known || intact(t, e.key, e.value) {
		return nil
	}
	all := slices.Concat(e.key, e.value, rest)
	for bit := range 31 {
		n := len(e.key) ^ 1<<bit
		if end := n + len(e.value); n > 0 && end <= len(all) && intact(t, all[:n], all[n:end]) {
			return all[:n]
		}
	}
	return nil
}

// use notes that pages are in use, and reports false if some are already.
func (c *checker) use(id, pages uint64) bool {
	if c.seen == nil {
		return true
	}
	for i := id; i < id+pages; i++ {
		if c.seen[i/64]&(1<<(i%64)) != 0 {
			return false
		}
		c.seen[i/64] |= 1 << (i % 64)
	}
	return true
}

// below goes on with the pages that a branch refers to.
func (c *checker) below(s *span, list []element) error {
	children := s.children(list)
	for i := range children {
		next := &children[i]
		if c.from != nil && next.to != nil && bytes.Compare(next.to, c.from) <= 0 {
			continue
		}
		if i > 0 && !c.leaves && c.isLeaf(children[0].id) { // all pages below a branch are as deep
			if next.id < 2 || next.id >= c.high || !c.use(next.id, 1) {
				if err := c.bad(next, "beyond the pages in use, or in use twice"); err != nil {
					return err
				}
			}
			continue
		}
		if err := c.tree(next); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) isLeaf(id uint64) bool {
	if id < 2 || id >= c.high {
		return false
	}
	page, err := c.read(id, 1)
	return err == nil && binary.NativeEndian.Uint16(page[8:]) == leafPage
}

// directory goes on with the buckets that a leaf of the root bucket has.
func (c *checker) directory(s *span, list []element) error {
	buckets, err := s.bucketsOf(list, func(reason string) error { return c.bad(s, reason) })
	if err != nil {
		return err
	}
	for i := range buckets {
		b := &buckets[i]
		c.buckets[b.bucket] = true
		switch {
		case c.only != nil && !c.only[b.bucket]:
			continue
		case b.inline == nil:
			err = c.tree(&b.span)
		default:
			err = c.inline(&b.span, b.inline)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inline checks a small bucket, which is in the page of its parent.
func (c *checker) inline(s *span, page []byte) error {
	list, reason := s.within(page)
	if reason != "" {
		return c.bad(s, reason)
	}
	return c.rows(s, list)
}

// rows looks at the rows of a leaf.
func (c *checker) rows(s *span, list []element) error {
	for i := range list {
		if list[i].flags != 0 {
			if err := c.bad(s, fmt.Sprintf("row %q is marked as a bucket", list[i].key)); err != nil {
				return err
			}
		}
	}
	if own := s.bucket == bucketMeta || s.bucket == bucketState; own && c.mender != nil && !c.provenRows(s.bucket, list) {
		if err := c.mend(s); err != nil {
			return err
		}
	}
	if c.leaf == nil {
		return nil
	}
	return c.leaf(s, list)
}

// stopped turns the end of a slice into no error.
func stopped(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}
