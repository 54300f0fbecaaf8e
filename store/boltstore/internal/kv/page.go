package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// The format of bbolt's pages. Source: go.etcd.io/bbolt, internal/common: page.go, meta.go, inode.go.
const (
	pageHeader     = 16 // id 8, flags 2, count 2, overflow 4
	elementBytes   = 16 // leaf: flags 4, position 4, key size 4, value size 4; branch: position 4, key size 4, page 8
	bucketHeader   = 16 // root page 8, sequence 8
	metaBytes      = 64
	branchPage     = 0x01
	leafPage       = 0x02
	freelistPage   = 0x10
	bucketElement  = 0x01
	metaMagic      = 0xED0CDAED
	noFreelistPage = ^uint64(0)
	maxDepth       = 64
	manyFree       = 0xFFFF // count of a free list whose first number is the count
)

// HeadBytes is how much of a file IsHead looks at.
const HeadBytes = pageHeader + 4

// IsHead reports whether a file that begins with these HeadBytes bytes is one of bbolt's.
func IsHead(b []byte) bool { return binary.NativeEndian.Uint32(b[pageHeader:]) == metaMagic }

// pageReader reads pages of a file.
type pageReader struct {
	file io.ReaderAt
	page int64
	high uint64 // pages from here on are not in use

	block []byte // pages that were read at once, beginning with number start
	start uint64
	last  uint64 // page that was read last
}

// blockPages is how many pages are read at once where they are in order, as those of messages are. The map of the file is
// for random access, so that nothing else reads ahead.
const blockPages = 64

// read returns pages that follow each other. They are good until the next call.
func (r *pageReader) read(id, pages uint64) ([]byte, error) {
	size := uint64(r.page)
	from := (id - r.start) * size
	if id < r.start || from+pages*size > uint64(len(r.block)) {
		n := pages
		if id == r.last+1 {
			n = max(n, blockPages)
		}
		n = min(n, r.high-id)
		r.block = slices.Grow(r.block[:0], int(n*size))[:n*size]
		if _, err := r.file.ReadAt(r.block, int64(id*size)); err != nil {
			r.block = nil
			return nil, err
		}
		r.start, from = id, 0
	}
	r.last = id + pages - 1
	return r.block[from : from+pages*size], nil
}

// fileMeta is what a meta page says.
type fileMeta struct {
	root, freelist, high, tx uint64
	other                    bool // the other meta page is good as well
}

// newestMeta returns the meta page that counts.
func newestMeta(f io.ReaderAt, page int64) (fileMeta, error) {
	var newest fileMeta
	found := 0
	for i := range int64(2) {
		b := make([]byte, pageHeader+metaBytes)
		if _, err := f.ReadAt(b, i*page); err != nil {
			return newest, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		m := b[pageHeader:]
		if !metaIntact(m) {
			continue
		}
		order := binary.NativeEndian
		if tx := order.Uint64(m[48:]); found == 0 || tx > newest.tx {
			newest = fileMeta{root: order.Uint64(m[16:]), freelist: order.Uint64(m[32:]), high: order.Uint64(m[40:]), tx: tx}
		}
		found++
	}
	if found == 0 {
		return newest, fmt.Errorf("%w: no valid meta page", ErrCorrupt)
	}
	newest.other = found == 2
	return newest, nil
}

// element is one of a page: a row, a bucket, or what a branch says of a page below.
type element struct {
	flags      uint32
	key, value []byte
	child      uint64
}

// errPage says what is wrong with a page.
type errPage string

func (e errPage) Error() string { return string(e) }

// parse returns the elements of a page, which are its memory, and how many bytes are used. bbolt writes the headers of all
// elements, then keys and values, without gaps. So a header that differs from what it should be is seen; only the sizes of the
// last one are not.
func parse(page []byte, into []element) (list []element, leaf bool, used int, err error) {
	order := binary.NativeEndian
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	if flags != branchPage && flags != leafPage {
		return nil, false, 0, errPage("neither a branch nor a leaf")
	}
	leaf = flags == leafPage
	used = pageHeader + count*elementBytes
	if used > len(page) {
		return nil, leaf, 0, errPage("more elements than fit")
	}
	list = into[:0]
	for i := range count {
		at := pageHeader + i*elementBytes
		h := page[at : at+elementBytes]
		var e element
		pos, ksize, vsize := order.Uint32(h), order.Uint32(h[4:]), uint32(0)
		if leaf {
			e.flags, pos, ksize, vsize = order.Uint32(h), order.Uint32(h[4:]), order.Uint32(h[8:]), order.Uint32(h[12:])
		} else {
			e.child = order.Uint64(h[8:])
		}
		if int64(at)+int64(pos) != int64(used) || int64(used)+int64(ksize)+int64(vsize) > int64(len(page)) {
			return list, leaf, 0, errPage("elements do not follow each other")
		}
		e.key = page[used : used+int(ksize)]
		used += int(ksize)
		e.value = page[used : used+int(vsize)]
		used += int(vsize)
		list = append(list, e)
	}
	return list, leaf, used, nil
}

// lenient is parse for a page that may make no sense: it returns what is wrong, and the elements nevertheless. Where the page's kind or
// the number of elements is wrong, the first element tells: it leads to behind the headers.
func lenient(page []byte) (list []element, leaf bool, used int, reason string) {
	if len(page) < pageHeader {
		return nil, false, 0, "shorter than a page"
	}
	list, leaf, used, err := parse(page, nil)
	switch {
	case err == nil:
		return list, leaf, used, ""
	case len(page) < pageHeader+elementBytes:
		return nil, leaf, 0, err.Error()
	}
	list, leaf = within(page)
	order := binary.NativeEndian
	other := bytes.Clone(page)
	for _, kind := range [...]uint16{leafPage, branchPage} {
		first := order.Uint32(page[pageHeader:])
		if kind == leafPage {
			first = order.Uint32(page[pageHeader+4:])
		}
		order.PutUint16(other[8:], kind)
		order.PutUint16(other[10:], uint16(first/elementBytes))
		// A single element proves nothing: it has none to follow.
		if all, leaf, used, e := parse(other, nil); e == nil && (len(all) > 1 || len(all) > len(list)) {
			return all, leaf, used, err.Error()
		}
	}
	return list, leaf, 0, err.Error()
}

// within returns the elements that lie within a page.
func within(page []byte) (list []element, leaf bool) {
	order := binary.NativeEndian
	leaf = order.Uint16(page[8:]) != branchPage
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
	return list, leaf
}

var errStop = errors.New("enough")
