package kv

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
)

// memtable holds the rows that were committed since it was begun and are not in the file yet, each in the versions that
// readers may still want.
//
//		slots (hash of table and prefix) → part ──┬─ tower ─→ row ─→ row ─→ …       a skip list of the part's rows, in order
//		                                          └─ the part before it, of the same table
//		row → newest version → version before it → …
//
//	 1. One goroutine adds. Others read meanwhile without a lock.
//	 2. A version belongs to a group, and versions of a row are linked from the newest group to the oldest. A reader takes the
//	    first whose group is not after its snapshot.
//	 3. What a row costs does not depend on the other parts, and on its own part by the logarithm of its rows only.
type memtable struct {
	*arena
	number  uint64 // rises by one from memtable to memtable
	limit   int64  // bytes that it takes, about
	seed    maphash.Seed
	slots   atomic.Pointer[slots]
	parts   int                      // in slots
	last    [maxTables]atomic.Uint32 // newest part of each table
	sorted  [maxTables]sortedParts   // as of the last call of inOrder
	rows    int                      // for the progress of a flush
	grows   int64                    // bytes that the file grows by when this is flushed, about
	frees   int64                    // bytes of rows that were removed while weighs was set
	weighs  bool                     // room is short: what is removed counts
	removed bool                     // rows were removed when weighs was not set
	newest  uint64                   // group that is durable; guarded by DB.writing
	refs    atomic.Int64             // sources that have it
	taken   atomic.Int64             // size, for Stats
	mu      sync.Mutex               // guards sorted
	done    func(*memtable)          // called when refs are 0
}

// slots are an open hash table of parts. It is replaced by a larger one when half of it is full.
type slots []uint32

// sortedParts are parts in order of their prefixes, up to the newest one when that was asked for.
type sortedParts struct {
	newest uint32
	list   []uint32
}

// Words of a part.
const (
	partHash   = iota // what its slot follows from
	partPrefix        // offset of table and prefix
	partTower         // link to the tower: its height, and links to the first row of each level
	partRows          // how many rows were added; only for the goroutine that adds
	partBefore        // part of the same table that was added before; 0: none
	partWords
)

// Words of a row. Its own tower follows.
const (
	rowKey     = iota // offset of the key without the part's prefix
	rowVersion        // link to the newest version; 0: what added it was undone
	rowTower
)

// A version begins with its group 8, the version before it 4, and the length of the value 4, of which the highest bit says
// that the row was removed. Then there is room for what a row of the file begins with, so that a flush need not copy values.
const (
	versionHeader = 16 + rowHeader
	goneBit       = 1 << 31
)

const (
	maxTables  = 16
	maxHeight  = 12
	firstSlots = 1 << 10
)

// newMemtable returns an empty memtable with slots for the given number of parts.
func newMemtable(number uint64, limit int64, a *arena, parts int) *memtable {
	m := &memtable{arena: a, number: number, limit: limit, seed: maphash.MakeSeed()}
	n := firstSlots
	for n < 2*parts && 8*int64(n) < limit/4 {
		n *= 2
	}
	s := make(slots, n)
	m.size += 4 * int64(n)
	m.slots.Store(&s)
	return m
}

// full reports whether it takes all the memory that it may.
func (m *memtable) full() bool { return m.size > m.limit || m.arena.full() }

// empty reports whether nothing was added. Any goroutine may ask.
func (m *memtable) empty() bool {
	for t := range m.last {
		if m.last[t].Load() != 0 {
			return false
		}
	}
	return true
}

func (m *memtable) hash(t Table, prefix []byte) uint64 {
	return maphash.Bytes(m.seed, prefix) + uint64(t)*0x9e3779b97f4a7c15
}

// find returns a part, 0 if there is none.
func (m *memtable) find(t Table, prefix []byte, hash uint64) uint32 {
	s := *m.slots.Load()
	mask := uint32(len(s) - 1)
	for i := uint32(hash) & mask; ; i = (i + 1) & mask {
		p := atomic.LoadUint32(&s[i])
		if p == 0 || m.is(p, t, prefix, hash) {
			return p
		}
	}
}

func (m *memtable) is(p uint32, t Table, prefix []byte, hash uint64) bool {
	if *m.word(p + partHash) != uint32(hash) {
		return false
	}
	b := m.prefix(p)
	return b[0] == byte(t) && string(b[1:]) == string(prefix)
}

// prefix returns the table and the prefix of a part.
func (m *memtable) prefix(p uint32) []byte { return m.textAt(*m.word(p + partPrefix)) }

// addPart adds a part that is not there.
func (m *memtable) addPart(t Table, prefix []byte, hash uint64) uint32 {
	if s := *m.slots.Load(); 2*(m.parts+1) > len(s) {
		m.grow(s)
	}
	m.parts++
	p := m.link(partWords)
	offset, to := m.bytes(3 + len(prefix))
	binary.LittleEndian.PutUint16(to, uint16(1+len(prefix)))
	to[2] = byte(t)
	copy(to[3:], prefix)
	*m.word(p + partHash), *m.word(p + partPrefix) = uint32(hash), offset
	*m.word(p + partTower) = m.tower(1)
	*m.word(p + partBefore) = m.last[t].Load()
	m.last[t].Store(p)
	s := *m.slots.Load()
	insert(s, p, uint32(hash))
	return p
}

// tower returns a new tower.
func (m *memtable) tower(height int) uint32 {
	offset := m.link(1 + height)
	*m.word(offset) = uint32(height)
	return offset
}

func insert(s slots, p, hash uint32) {
	mask := uint32(len(s) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if s[i] == 0 {
			atomic.StoreUint32(&s[i], p)
			return
		}
	}
}

func (m *memtable) grow(old slots) {
	s := make(slots, 4*len(old))
	for _, p := range old {
		if p != 0 {
			insert(s, p, *m.word(p + partHash))
		}
	}
	m.slots.Store(&s)
	m.size += 4 * int64(len(s)-len(old))
}

func (m *memtable) key(row uint32) []byte { return m.textAt(*m.word(row + rowKey)) }

// seek returns the first row of a part that is not below key, 0 if there is none. prev gets the links that lead there, if it
// is not nil.
func (m *memtable) seek(part uint32, key []byte, prev *[maxHeight]uint32) uint32 {
	tower := m.load(part + partTower)
	level := int(*m.word(tower)) - 1
	links := tower + 1 // offset of the links of the row before; of the part at first
	var next uint32    // as it was when it was compared: another row may come before it meanwhile
	for ; level >= 0; level-- {
		for {
			next = m.load(links + uint32(level))
			if next == 0 || bytes.Compare(m.key(next), key) >= 0 {
				break
			}
			links = next + rowTower
		}
		if prev != nil {
			prev[level] = links + uint32(level)
		}
	}
	return next
}

// after returns the row that follows.
func (m *memtable) after(row uint32) uint32 { return m.load(row + rowTower) }

// row returns a row of a part, 0 if there is none.
func (m *memtable) row(part uint32, key []byte) uint32 {
	r := m.seek(part, key, nil)
	if r == 0 || string(m.key(r)) != string(key) {
		return 0
	}
	return r
}

// addRow returns a row of a part, and adds it if it is not there.
func (m *memtable) addRow(part uint32, key []byte) (row uint32) {
	var prev [maxHeight]uint32
	if r := m.seek(part, key, &prev); r != 0 && string(m.key(r)) == string(key) {
		return r
	}
	m.rows++
	*m.word(part + partRows)++
	if m.raise(part) {
		m.seek(part, key, &prev)
	}
	height := 1
	for top := int(*m.word(m.load(part + partTower))); height < top && rand.Uint32()&3 == 0; {
		height++
	}
	r := m.link(rowTower + height)
	*m.word(r + rowKey) = m.text(key)
	for level := range uint32(height) {
		*m.word(r + rowTower + level) = m.load(prev[level])
	}
	for level := range uint32(height) {
		m.store(prev[level], r)
	}
	return r
}

// raise gives a part a higher tower if it has many rows for its own.
func (m *memtable) raise(part uint32) bool {
	tower := m.load(part + partTower)
	height := int(*m.word(tower))
	if height == maxHeight || *m.word(part + partRows) < 1<<(2*height) {
		return false
	}
	higher := m.tower(min(height+2, maxHeight))
	for level := range uint32(height) {
		*m.word(higher + 1 + level) = m.load(tower + 1 + level)
	}
	m.store(part+partTower, higher)
	return true
}

// put adds a version of a row, and returns the one that was the newest before.
func (m *memtable) put(row uint32, seq uint64, value []byte, gone bool) (before uint32) {
	before = m.load(row + rowVersion)
	older := before
	if older != 0 && m.seq(older) == seq {
		older = binary.LittleEndian.Uint32(m.at(older)[8:]) // no snapshot sees the one of the same group
	}
	offset, b := m.bytes(versionHeader + len(value))
	n := uint32(len(value))
	if gone {
		n |= goneBit
	}
	binary.LittleEndian.PutUint64(b, seq)
	binary.LittleEndian.PutUint32(b[8:], older)
	binary.LittleEndian.PutUint32(b[12:], n)
	copy(b[versionHeader:], value)
	m.store(row+rowVersion, offset)
	return before
}

// holds returns how long the value of a version is, and false if there is none: no version, or one that says that the row was removed.
func (m *memtable) holds(version uint32) (bytes int, is bool) {
	if version == 0 {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(m.at(version)[12:])
	return int(n &^ goneBit), n&goneBit == 0
}

func (m *memtable) seq(version uint32) uint64 { return binary.LittleEndian.Uint64(m.at(version)) }

// visible returns what a row holds as of a group. There may be nothing, or that it was removed.
func (m *memtable) visible(row uint32, seq uint64) (value []byte, gone, found bool) {
	for v := m.load(row + rowVersion); v != 0; {
		b := m.at(v)
		if binary.LittleEndian.Uint64(b) <= seq {
			n := binary.LittleEndian.Uint32(b[12:])
			end := versionHeader + n&^goneBit
			return b[versionHeader:end:end], n&goneBit != 0, true
		}
		v = binary.LittleEndian.Uint32(b[8:])
	}
	return nil, false, false
}

// fileRow makes what the file has of a row: visible's value with its checksum before it. Only a flush may call it.
func (m *memtable) fileRow(row uint32, seq uint64, t Table, key []byte) (v []byte, gone, found bool) {
	for offset := m.load(row + rowVersion); offset != 0; {
		b := m.at(offset)
		if binary.LittleEndian.Uint64(b) <= seq {
			n := binary.LittleEndian.Uint32(b[12:])
			if n&goneBit != 0 {
				return nil, true, true
			}
			v := b[versionHeader-rowHeader : versionHeader+n : versionHeader+n]
			v[4] = kindWhole
			binary.BigEndian.PutUint32(v, rowSum(t, key, v[4:]))
			return v, false, true
		}
		offset = binary.LittleEndian.Uint32(b[8:])
	}
	return nil, false, false
}

// inOrder returns the parts of a table in order of their prefixes. Nobody changes the list.
func (m *memtable) inOrder(t Table) []uint32 {
	newest := m.last[t].Load()
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.sorted[t]
	if newest == s.newest || newest == 0 {
		return s.list
	}
	var fresh []uint32
	for p := newest; p != s.newest && p != 0; p = *m.word(p + partBefore) {
		fresh = append(fresh, p)
	}
	slices.SortFunc(fresh, m.compare)
	merged := make([]uint32, 0, len(s.list)+len(fresh))
	old := s.list
	for len(old) != 0 && len(fresh) != 0 {
		if m.compare(old[0], fresh[0]) < 0 {
			merged, old = append(merged, old[0]), old[1:]
		} else {
			merged, fresh = append(merged, fresh[0]), fresh[1:]
		}
	}
	s.newest, s.list = newest, append(append(merged, old...), fresh...)
	return s.list
}

func (m *memtable) compare(a, b uint32) int { return bytes.Compare(m.prefix(a), m.prefix(b)) }
