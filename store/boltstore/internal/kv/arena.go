package kv

import (
	"encoding/binary"
	"sync/atomic"
)

// arena is memory that is only added to, free of pointers, so that the garbage collector has nothing to follow in it. An offset
// is a number: of bytes, or of words that readers follow while one goroutine adds. Offset 0 is none.
//
//  1. What was written is never moved. Of what readers look at, only words that are links change.
//  2. A link is stored after everything that it leads to. So a goroutine that has loaded a link reads what it leads to without a lock.
type arena struct {
	slabs [maxSlabs][]byte
	words [maxWordSlabs]*wordSlab
	step  int // size of the first slabs of bytes; see slabSize

	// Only the goroutine that adds uses these.
	slab, used int // the slab that is added to, and how much of it is used
	next       int // word
	wordSlabs  int // that are used
	size       int64
}

type wordSlab [1 << wordBits]uint32

const (
	slabBits     = 22 // of an offset of bytes: the offset in its slab
	maxSlabs     = 1 << 10
	wordBits     = 15
	maxWordSlabs = 1 << 13
	largestSlab  = 1 << slabBits
	smallestSlab = 64 << 10
)

func newArena(limit int64) *arena {
	return &arena{step: int(min(max(limit/16, smallestSlab), largestSlab)), slab: -1}
}

// reset makes it empty, and keeps its slabs unless one of them was made for something larger than the others.
func (a *arena) reset() {
	for i := range a.slabs {
		if len(a.slabs[i]) > a.slabSize(i) {
			a.slabs[i] = nil
		}
	}
	a.slab, a.used, a.next, a.wordSlabs, a.size = -1, 0, 0, 0, 0
}

// slabSize is how large a slab is. After many of them they are larger, so that an operation that writes many times the limit
// finds offsets.
func (a *arena) slabSize(i int) int { return min(a.step<<min(i/64, slabBits), largestSlab) }

// full reports whether there is no offset left for what a large operation may write.
func (a *arena) full() bool {
	return a.slab > maxSlabs-64 || a.next > (maxWordSlabs-64)<<wordBits
}

// bytes makes room for n bytes and returns their offset.
func (a *arena) bytes(n int) (uint32, []byte) {
	if a.slab < 0 || a.used+n > len(a.slabs[a.slab]) {
		a.slab++
		if len(a.slabs[a.slab]) < n {
			a.slabs[a.slab] = make([]byte, max(a.slabSize(a.slab), n))
		}
		a.size += int64(len(a.slabs[a.slab]))
		a.used = 0
		if a.slab == 0 {
			a.used = 1
		}
	}
	at := a.used
	a.used += n
	return uint32(a.slab<<slabBits | at), a.slabs[a.slab][at : at+n : at+n]
}

// at returns the bytes from an offset on.
func (a *arena) at(offset uint32) []byte {
	return a.slabs[offset>>slabBits][offset&(1<<slabBits-1):]
}

// text stores a string of less than 64 KiB with its length.
func (a *arena) text(b []byte) uint32 {
	offset, to := a.bytes(2 + len(b))
	binary.LittleEndian.PutUint16(to, uint16(len(b)))
	copy(to[2:], b)
	return offset
}

func (a *arena) textAt(offset uint32) []byte {
	b := a.at(offset)
	n := 2 + int(binary.LittleEndian.Uint16(b))
	return b[2:n:n]
}

// link makes room for n words next to each other, all 0, and returns their offset.
func (a *arena) link(n int) uint32 {
	if a.next == 0 {
		a.next = 1
	}
	if a.next>>wordBits != (a.next+n-1)>>wordBits {
		a.next = (a.next>>wordBits + 1) << wordBits
	}
	offset := a.next
	a.next += n
	c := &a.words[offset>>wordBits]
	if *c == nil {
		*c = new(wordSlab)
	}
	if i := offset >> wordBits; i >= a.wordSlabs {
		a.wordSlabs = i + 1
		a.size += 4 << wordBits
	}
	clear((*c)[offset&(1<<wordBits-1):][:n])
	return uint32(offset)
}

// word returns a word.
func (a *arena) word(offset uint32) *uint32 {
	return &a.words[offset>>wordBits][offset&(1<<wordBits-1)]
}

func (a *arena) load(offset uint32) uint32 { return atomic.LoadUint32(a.word(offset)) }

func (a *arena) store(offset, value uint32) { atomic.StoreUint32(a.word(offset), value) }
