package kv

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// freelist checks that each page is either in use or free.
func (c *checker) freelist(id uint64) error {
	s := span{id: id, bucket: "(free pages)"}
	order := binary.NativeEndian
	if id < 2 || id >= c.high {
		return c.bad(s, "beyond the pages in use")
	}
	head, err := c.read(id, 1)
	if err != nil {
		return c.bad(s, err.Error())
	}
	pages := uint64(order.Uint32(head[12:])) + 1
	if order.Uint64(head) != id || order.Uint16(head[8:]) != freelistPage || pages > c.high-id || !c.use(id, pages) {
		return c.bad(s, "no list of free pages")
	}
	page, err := c.read(id, pages)
	if err != nil {
		return c.bad(s, err.Error())
	}
	page = slices.Clone(page)
	count, at := uint64(order.Uint16(page[10:])), uint64(pageHeader)
	if count == manyFree {
		count, at = order.Uint64(page[at:]), at+8
	}
	if count > (uint64(len(page))-at)/8 {
		return c.bad(s, "more free pages than fit")
	}
	last := uint64(1)
	for ; count > 0; count, at = count-1, at+8 {
		free := order.Uint64(page[at:])
		if free <= last || free >= c.high || !c.use(free, 1) {
			return c.bad(s, fmt.Sprintf("page %d is in use or out of order", free))
		}
		last = free
	}
	if !c.leaves {
		return nil // pages that leaves overflow into are not known
	}
	for i := uint64(2); i < c.high; i++ {
		if c.seen[i/64]&(1<<(i%64)) == 0 {
			return c.bad(s, fmt.Sprintf("page %d is neither in use nor free", i))
		}
	}
	return nil
}

// maxListed is how many free pages are listed with the last commit of a flush at most, 2 MiB of numbers after the 64 MiB of a
// memtable, and fewListed with any other: a list is sorted each time. Nor are they listed where room is short. A clean Close writes
// any list that there is room for.
const (
	maxListed = 256 << 10
	fewListed = 2 << 10
)

// listFree says whether the transaction that runs writes the list of free pages.
func (db *DB) listFree(last bool) {
	s := db.bolt.Stats()
	n, most := s.FreePageN+s.PendingPageN, fewListed
	if last {
		most = maxListed
	}
	db.room.mu.Lock()
	tight := db.room.left(db.page) < int64(64*n)
	db.room.mu.Unlock()
	db.bolt.NoFreelistSync = db.unlisted || tight || n > most
}
