package session

import (
	"encoding/binary"
	"iter"
)

// itemBytes is room for most items of packed lists.
const itemBytes = 256

// packed is a list that stays encoded, each item with its length before it, oldest first. Most steps add an item to the
// log or to the tombstones, and look at none.
type packed struct {
	count int
	old   []byte // as it was loaded; never changed
	added []byte // by this step
}

// add appends an item.
func (p *packed) add(item []byte) {
	if p.added == nil {
		p.added = make([]byte, 0, itemBytes)
	}
	p.added = append(binary.AppendUvarint(p.added, uint64(len(item))), item...)
	p.count++
}

// all yields the items, oldest first.
func (p *packed) all() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, part := range [...][]byte{p.old, p.added} {
			for len(part) > 0 {
				var item []byte
				if item, part = firstOf(part); !yield(item) {
					return
				}
			}
		}
	}
}

// firstOf splits the first item off. Nothing can be wrong with its length: check has looked at it.
func firstOf(part []byte) (item, rest []byte) {
	size, n := binary.Uvarint(part)
	return part[n : n+int(size)], part[n+int(size):]
}

// drop takes out the items for which fn returns true, and reports whether there were any.
func (p *packed) drop(fn func(item []byte) bool) bool {
	found := false
	for item := range p.all() {
		found = found || fn(item)
	}
	if !found {
		return false
	}
	var kept packed
	for item := range p.all() {
		if !fn(item) {
			kept.add(item)
		}
	}
	*p = kept
	return true
}

// limit drops the oldest items, so that at most n are left.
func (p *packed) limit(n int) {
	for ; p.count > n; p.count-- {
		if len(p.old) > 0 {
			_, p.old = firstOf(p.old)
		} else {
			_, p.added = firstOf(p.added)
		}
	}
}

func (p *packed) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.count))
	b = binary.AppendUvarint(b, uint64(len(p.old)+len(p.added)))
	return append(append(b, p.old...), p.added...)
}

// open reads a list that append wrote, without looking at the items, and returns what follows.
func (p *packed) open(data []byte) (rest []byte, ok bool) {
	count, n := binary.Uvarint(data)
	if n <= 0 {
		return nil, false
	}
	data = data[n:]
	size, n := binary.Uvarint(data)
	if n <= 0 || count > size || size > uint64(len(data)-n) {
		return nil, false
	}
	p.count, p.old = int(count), data[n:n+int(size)]
	return data[n+int(size):], true
}

// check decodes all items of a list that was loaded, so that nobody meets one later that cannot be decoded, and reports
// whether that was possible.
func (p *packed) check(read func(*decoder)) bool {
	all := decoder{rest: string(p.old)}
	n := 0
	for ; all.rest != "" && !all.bad; n++ {
		item := decoder{rest: all.string()}
		read(&item)
		all.bad = all.bad || item.bad || item.rest != ""
	}
	return !all.bad && n == p.count
}
