package kv

import (
	"encoding/binary"
	"fmt"
)

// freelist checks that each page is either in use or free.
func (c *checker) freelist(meta fileMeta) error {
	list, reason := c.listed(meta.freelist)
	damaged := reason != "" // by itself
	for i := 0; i < len(list) && reason == ""; i++ {
		if !c.use(list[i], 1) {
			reason = fmt.Sprintf("page %d is in use", list[i])
		}
	}
	if reason == "" && c.leaves { // else pages that leaves overflow into are not known
		for i := uint64(2); i < c.high && reason == ""; i++ {
			if c.seen[i/64]&(1<<(i%64)) == 0 {
				reason, damaged = fmt.Sprintf("page %d is neither in use nor free", i), true
			}
		}
	}
	switch {
	case reason == "":
		return nil
	case damaged && c.mender != nil && c.mender.unsure == 0:
		return c.mender.dropFreelist(&c.pageReader, meta)
	}
	return c.found(&PageDamage{Page: meta.freelist, Bucket: "(free pages)", Reason: reason})
}

// listed returns the list of free pages, or what is wrong with it.
func (c *checker) listed(id uint64) (list []uint64, reason string) {
	order := binary.NativeEndian
	page, reason := c.whole(&span{id: id})
	switch {
	case reason != "":
		return nil, reason
	case order.Uint16(page[8:]) != freelistPage || !c.use(id, uint64(len(page))/uint64(c.page)):
		return nil, "no list of free pages"
	}
	count, at := uint64(order.Uint16(page[10:])), uint64(pageHeader)
	if count == manyFree {
		count, at = order.Uint64(page[at:]), at+8
	}
	if count > (uint64(len(page))-at)/8 {
		return nil, "more free pages than fit"
	}
	last := uint64(1)
	for ; count > 0; count, at = count-1, at+8 {
		free := order.Uint64(page[at:])
		if free <= last || free >= c.high {
			return nil, fmt.Sprintf("page %d is out of order", free)
		}
		list, last = append(list, free), free
	}
	return list, ""
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
