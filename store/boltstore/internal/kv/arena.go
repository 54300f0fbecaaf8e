package kv

import (
	"encoding/binary"
	"sync/atomic"
)

// arena is memory that is only added to, free of pointers, so that the garbage collector has nothing to follow in it. A place
// is a number: of bytes, or of words that readers follow while one goroutine adds. Place 0 is none.
//
//  1. What was written is never moved. Only words that are links change.
//  2. A link is stored after all that it leads to. So who has loaded a link may read what it leads to without a lock.
type arena struct {
	chunks [maxChunks][]byte
	words  [maxWordChunks]*wordChunk
	limit  int64 // bytes that it has again after reset, about
	step   int   // size of the first chunks of bytes; see chunkSize

	// Only the goroutine that adds uses these.
	chunk, used int // the chunk that is added to, and how much of it is used
	next        int // word
	wordChunks  int // that are used
	size        int64
}

type wordChunk [1 << wordBits]uint32

const (
	chunkBits     = 22 // of a place of bytes: the offset in its chunk
	maxChunks     = 1 << 10
	wordBits      = 15
	maxWordChunks = 1 << 13
	largestChunk  = 1 << chunkBits
	smallestChunk = 64 << 10
)

func newArena(limit int64) *arena {
	return &arena{limit: limit, step: int(min(max(limit/16, smallestChunk), largestChunk)), chunk: -1}
}

// reset makes it empty. It keeps the memory that it takes up to its limit, and gives back the rest, and chunks that were made for
// something larger than the others: one large operation, or a flush that failed for a while, costs no memory from then on.
func (a *arena) reset() {
	kept := int64(0)
	for i := range a.chunks {
		if kept += int64(len(a.chunks[i])); kept > a.limit || len(a.chunks[i]) > a.chunkSize(i) {
			a.chunks[i] = nil
		}
	}
	clear(a.words[min(max(1, a.limit/2>>(wordBits+2)), maxWordChunks):]) // the words of small rows take half as much as the rest
	a.chunk, a.used, a.next, a.wordChunks, a.size = -1, 0, 0, 0, 0
}

// chunkSize is how large a chunk is. After many of them they are larger, so that an operation that writes many times the limit
// finds places.
func (a *arena) chunkSize(i int) int { return min(a.step<<min(i/64, chunkBits), largestChunk) }

// full reports whether there is no place left for what a large operation may write.
func (a *arena) full() bool {
	return a.chunk > maxChunks-64 || a.next > (maxWordChunks-64)<<wordBits
}

// bytes makes room for n bytes and returns their place.
func (a *arena) bytes(n int) (uint32, []byte) {
	if a.chunk < 0 || a.used+n > len(a.chunks[a.chunk]) {
		a.chunk++
		if len(a.chunks[a.chunk]) < n {
			a.chunks[a.chunk] = make([]byte, max(a.chunkSize(a.chunk), n))
		}
		a.size += int64(len(a.chunks[a.chunk]))
		a.used = 0
		if a.chunk == 0 {
			a.used = 1
		}
	}
	at := a.used
	a.used += n
	return uint32(a.chunk<<chunkBits | at), a.chunks[a.chunk][at : at+n : at+n]
}

// at returns the bytes from a place on.
func (a *arena) at(place uint32) []byte {
	return a.chunks[place>>chunkBits][place&(1<<chunkBits-1):]
}

// text stores a string of less than 64 KiB with its length.
func (a *arena) text(b []byte) uint32 {
	place, to := a.bytes(2 + len(b))
	binary.LittleEndian.PutUint16(to, uint16(len(b)))
	copy(to[2:], b)
	return place
}

func (a *arena) textAt(place uint32) []byte {
	b := a.at(place)
	n := 2 + int(binary.LittleEndian.Uint16(b))
	return b[2:n:n]
}

// link makes room for n words next to each other, all 0, and returns their place.
func (a *arena) link(n int) uint32 {
	if a.next == 0 {
		a.next = 1
	}
	if a.next>>wordBits != (a.next+n-1)>>wordBits {
		a.next = (a.next>>wordBits + 1) << wordBits
	}
	place := a.next
	a.next += n
	c := &a.words[place>>wordBits]
	if *c == nil {
		*c = new(wordChunk)
	}
	if i := place >> wordBits; i >= a.wordChunks {
		a.wordChunks = i + 1
		a.size += 4 << wordBits
	}
	clear((*c)[place&(1<<wordBits-1):][:n])
	return uint32(place)
}

// word returns a word.
func (a *arena) word(place uint32) *uint32 {
	return &a.words[place>>wordBits][place&(1<<wordBits-1)]
}

func (a *arena) load(place uint32) uint32 { return atomic.LoadUint32(a.word(place)) }

func (a *arena) store(place, value uint32) { atomic.StoreUint32(a.word(place), value) }
