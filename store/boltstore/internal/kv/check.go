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
	"time"

	bolt "go.etcd.io/bbolt"
)

// Inspect is inspect for a file that nobody has opened, if it can be locked within a time.
func Inspect(path string, lock time.Duration) error { return inspect(path, time.Now().Add(lock)) }

// inspect looks at a file before it is opened for writing, whether its pages make sense. bbolt looks for free pages in a
// goroutine of its own when a file was not closed, and ends the process if a page is bad there. As long as inspect runs,
// nobody else can write.
func inspect(path string, deadline time.Time) error {
	if st, err := os.Stat(path); err != nil {
		return err
	} else if st.Size() == 0 {
		return fmt.Errorf("%w: empty file", ErrNotStore)
	}
	db, _, err := boltOpen(path, &bolt.Options{Timeout: timeout(deadline), ReadOnly: true})
	if err != nil {
		return err
	}
	err = guard(func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close() // it was only read
		st, err := f.Stat()
		if err != nil {
			return err
		}
		return checkFile(f, st.Size(), int64(db.Info().PageSize))
	})
	return errors.Join(err, db.Close())
}

// The format of bbolt's pages. Source: go.etcd.io/bbolt, internal/common: page.go, meta.go, inode.go.
const (
	pageHeader     = 16 // id 8, flags 2, count 2, overflow 4
	elementBytes   = 16 // leaf: flags 4, position 4, key size 4, value size 4; branch: position 4, key size 4, page 8
	bucketHeader   = 16 // root page 8, sequence 8
	metaBytes      = 64
	branchPage     = 0x01
	leafPage       = 0x02
	bucketElement  = 0x01
	metaMagic      = 0xED0CDAED
	noFreelistPage = ^uint64(0)
	maxDepth       = 64
)

// checker walks through the pages of a file.
type checker struct {
	file io.ReaderAt
	page int64
	high uint64 // pages from here on are not in use
	seen []uint64

	block []byte // pages that were read at once, beginning with number start
	start uint64
	last  uint64 // page that was read last
}

// blockPages is how many pages are read at once where they are in order, as those of messages are. The map of the file is
// for random access, so that nothing else reads ahead.
const blockPages = 64

// read returns pages that follow each other. They are good until the next call.
func (c *checker) read(id, pages uint64) ([]byte, error) {
	size := uint64(c.page)
	from := (id - c.start) * size
	if id < c.start || from+pages*size > uint64(len(c.block)) {
		n := pages
		if id == c.last+1 {
			n = max(n, blockPages)
		}
		n = min(n, c.high-id)
		c.block = slices.Grow(c.block[:0], int(n*size))[:n*size]
		if _, err := c.file.ReadAt(c.block, int64(id*size)); err != nil {
			c.block = nil
			return nil, err
		}
		c.start, from = id, 0
	}
	c.last = id + pages - 1
	return c.block[from : from+pages*size], nil
}

// checkFile reports whether the file is as long as it says, and, if it does not hold the list of free pages, whether all
// pages in use can be read.
func checkFile(f io.ReaderAt, size, page int64) error {
	root, freelist, high, err := newestMeta(f, page)
	if err != nil {
		return err
	}
	if high > uint64(size/page) {
		return fmt.Errorf("%w: file cut short", ErrCorrupt)
	}
	if freelist != noFreelistPage {
		return nil // the file was closed, and bbolt does not look at all pages
	}
	c := &checker{file: f, page: page, high: high, seen: make([]uint64, high/64+1)}
	return c.walk(root, 0)
}

func newestMeta(f io.ReaderAt, page int64) (root, freelist, high uint64, err error) {
	var newest uint64
	found := false
	for i := range int64(2) {
		b := make([]byte, pageHeader+metaBytes)
		if _, err := f.ReadAt(b, i*page); err != nil {
			return 0, 0, 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		m := b[pageHeader:]
		h := fnv.New64a()
		h.Write(m[:metaBytes-8]) // never fails
		order := binary.NativeEndian
		if order.Uint32(m) != metaMagic || order.Uint64(m[56:]) != h.Sum64() {
			continue
		}
		if tx := order.Uint64(m[48:]); !found || tx > newest {
			newest, found = tx, true
			root, freelist, high = order.Uint64(m[16:]), order.Uint64(m[32:]), order.Uint64(m[40:])
		}
	}
	if !found {
		return 0, 0, 0, fmt.Errorf("%w: no valid meta page", ErrCorrupt)
	}
	return root, freelist, high, nil
}

func (c *checker) bad(id uint64) error { return fmt.Errorf("%w: page %d", ErrCorrupt, id) }

// walk checks a page and those below it.
func (c *checker) walk(id uint64, depth int) error {
	below, err := c.check(id, depth)
	if err != nil {
		return err
	}
	for _, next := range below {
		if err := c.walk(next, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// check reads one page with what it overflows into, and returns the pages that it refers to.
func (c *checker) check(id uint64, depth int) ([]uint64, error) {
	order := binary.NativeEndian
	if id < 2 || id >= c.high || depth > maxDepth {
		return nil, c.bad(id)
	}
	page, err := c.read(id, 1)
	if err != nil {
		return nil, errors.Join(c.bad(id), err)
	}
	head := page[:pageHeader]
	flags, count := order.Uint16(head[8:]), int64(order.Uint16(head[10:]))
	pages := uint64(order.Uint32(head[12:])) + 1
	if order.Uint64(head) != id || pages > c.high-id || flags != branchPage && flags != leafPage {
		return nil, c.bad(id)
	}
	for i := id; i < id+pages; i++ {
		if c.seen[i/64]&(1<<(i%64)) != 0 {
			return nil, c.bad(id) // twice in use
		}
		c.seen[i/64] |= 1 << (i % 64)
	}
	size := int64(pages) * c.page
	if pageHeader+count*elementBytes > size || flags == branchPage && count == 0 {
		return nil, c.bad(id)
	}
	if size > c.page {
		if page, err = c.read(id, pages); err != nil {
			return nil, errors.Join(c.bad(id), err)
		}
	}
	below, ok := elements(page, int(count), flags == leafPage)
	if !ok {
		return nil, c.bad(id)
	}
	return below, nil
}

// elements returns the pages that a page refers to, and false if it does not hold what it says.
func elements(page []byte, count int, leaf bool) (below []uint64, ok bool) {
	order := binary.NativeEndian
	var last []byte
	for i := range count {
		at := pageHeader + i*elementBytes
		e := page[at : at+elementBytes]
		flags, pos, ksize, vsize := order.Uint32(e), order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		if !leaf {
			pos, ksize, vsize = order.Uint32(e), order.Uint32(e[4:]), 0
			below = append(below, order.Uint64(e[8:]))
		}
		start := int64(at) + int64(pos)
		end := start + int64(ksize) + int64(vsize)
		if end > int64(len(page)) || pos < elementBytes {
			return nil, false
		}
		key := page[start : start+int64(ksize)]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return nil, false
		}
		last = key
		if leaf && flags&bucketElement != 0 {
			value := page[end-int64(vsize) : end]
			if vsize < bucketHeader {
				return nil, false
			}
			if root := order.Uint64(value); root != 0 {
				below = append(below, root)
			} else if vsize < bucketHeader+pageHeader {
				return nil, false
			}
		}
	}
	return below, true
}
