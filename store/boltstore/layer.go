package boltstore

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/manydevice/manydevice/event"
)

// layer is a window of the journal in memory. Nearly all of it is free of pointers, so that the collector has nothing to
// look at in it: what accounts have is kept as records in long strings, each with the distance to the account's record
// before. An account with many records gets a part instead, in which they are found faster.
type layer struct {
	number uint64
	seats  [][]seat                 // of accounts; each but the last is full
	byAid  map[uint64]uint32        // account number → seat
	byName map[uint64]uint32        // hash of the name → seat, of accounts that came by name
	other  map[event.Account]uint32 // names whose hash another one has
	fresh  []uint32                 // seats of accounts that got their number in this window
	parts  map[uint32]*part         // of busy accounts, by seat
	seed   maphash.Seed
	bytes  int64 // of memory, about

	attempts bloom // idempotency records that the layer has: nearly always none is there of the name that is asked for
	records
	tail strings.Builder // the chunk that is written to
}

// seat is what a layer has of an account beside its records.
type seat struct {
	head   head
	aid    uint64
	name   uint64 // position; 0: not known
	newest uint64 // position of the newest record; 0: none
	count  uint32 // of records
	gone   bool
	busy   bool // its records are in layer.parts
}

// records are chunks of memory that are only added to. A position is a chunk's number times chunkBytes and an offset.
type records struct {
	full []string
	last string
}

const (
	chunkBytes = 256 << 10
	seatsEach  = 1024
	// busyRecords is how many records of an account are looked through one by one.
	busyRecords = 32
	// seatMemory and busyMemory are what an account and a row of a busy one take, about, with the maps that they are in.
	seatMemory = 200
	busyMemory = 64
	// attemptMemory is how much of a window there is for each word of the filter of idempotency records: they are 200 bytes
	// apart at least, with what goes with them.
	attemptMemory = 512
)

// newLayer returns a layer that will take so many bytes, about.
func newLayer(number uint64, bytes int64) *layer {
	l := &layer{
		number: number, byAid: make(map[uint64]uint32), byName: make(map[uint64]uint32), parts: make(map[uint32]*part),
		seed: maphash.MakeSeed(), attempts: newBloom(bytes / attemptMemory),
	}
	l.tail.Grow(chunkBytes)
	l.tail.WriteByte(0) // so that no record has position 0
	return l
}

func (r *records) at(position uint64) string {
	chunk, offset := position/chunkBytes, position%chunkBytes
	if chunk == uint64(len(r.full)) {
		return r.last[offset:]
	}
	return r.full[chunk][offset:]
}

func (l *layer) empty() bool { return len(l.byAid) == 0 }

func (l *layer) seat(i uint32) *seat { return &l.seats[i/seatsEach][i%seatsEach] }

// of returns what the layer has of an account, nil if nothing.
func (l *layer) of(aid uint64) (*seat, uint32) {
	if i, ok := l.byAid[aid]; ok {
		return l.seat(i), i
	}
	return nil, 0
}

// named returns the number of an account, if the layer knows it by name.
func (l *layer) named(name event.Account) (uint64, bool) {
	if i, ok := l.find(name); ok {
		return l.seat(i).aid, true
	}
	return 0, false
}

func (l *layer) find(name event.Account) (uint32, bool) {
	if i, ok := l.other[name]; ok {
		return i, true
	}
	i, ok := l.byName[hashOf(l, name)]
	return i, ok && l.nameOf(i) == name
}

func hashOf(l *layer, name event.Account) uint64 { return maphash.String(l.seed, string(name)) }

func (l *layer) nameOf(i uint32) event.Account {
	s := l.seat(i)
	if s.name == 0 {
		return ""
	}
	d := decoder{rest: l.at(s.name)}
	return event.Account(d.string())
}

func (l *layer) freshName(i int) event.Account { return l.nameOf(l.fresh[i]) }

// publish adds what a commit did to an account. The layer keeps nothing of d but strings.
func (l *layer) publish(name event.Account, d *delta, scratch []byte) []byte {
	s, i := l.of(d.aid)
	if s == nil {
		s, i = l.add(d.aid)
	}
	return l.publishAt(s, i, name, d, scratch)
}

func (l *layer) publishAt(s *seat, i uint32, name event.Account, d *delta, scratch []byte) []byte {
	if name != "" && s.name == 0 {
		scratch = appendString(scratch[:0], name)
		s.name = l.write(scratch)
		l.name(name, i)
	}
	if d.name != "" {
		l.fresh = append(l.fresh, i)
	}
	s.head, s.gone = d.head, s.gone || d.gone
	d.attempts.each(func(key, _ string) { l.attempts.add(l.attempt(s.aid, key)) })
	if s.busy {
		l.parts[i].absorb(&d.part)
		l.bytes += d.size()
		return scratch
	}
	for j := range d.entries {
		e := &d.entries[j]
		scratch = appendString(append(binary.AppendUvarint(l.back(scratch, s), 0), uvarint(e.seq)...), e.row)
		s.newest = l.write(scratch)
	}
	for _, r := range d.rows {
		scratch = l.row(scratch, s, r.key, r.value)
	}
	d.attempts.each(func(key, value string) { scratch = l.row(scratch, s, key, value) })
	l.last = l.tail.String()
	if s.count > busyRecords {
		p := l.records.part(s.newest)
		s.busy, l.parts[i] = true, p
		l.bytes += p.size()
	}
	return scratch
}

// attempt is the hash of an idempotency record.
func (l *layer) attempt(aid uint64, key string) uint64 {
	return maphash.String(l.seed, key) ^ aid*0x9e3779b97f4a7c15
}

func uvarint(n uint64) []byte { return binary.AppendUvarint(nil, n) }

// back begins a record of an account.
func (l *layer) back(scratch []byte, s *seat) []byte {
	s.count++
	return binary.AppendUvarint(scratch[:0], s.newest)
}

func (l *layer) row(scratch []byte, s *seat, key, value string) []byte {
	scratch = appendString(appendString(l.back(scratch, s), key), value)
	s.newest = l.write(scratch)
	return scratch
}

// write adds a record and returns its position.
func (l *layer) write(record []byte) uint64 {
	if l.tail.Len()+len(record) > chunkBytes {
		l.full = append(l.full, l.tail.String())
		l.tail = strings.Builder{}
		l.tail.Grow(chunkBytes)
	}
	position := uint64(len(l.full))*chunkBytes + uint64(l.tail.Len())
	l.tail.Write(record)
	l.last = l.tail.String()
	l.bytes += int64(len(record))
	return position
}

func (l *layer) add(aid uint64) (*seat, uint32) {
	n := len(l.seats)
	if n == 0 || len(l.seats[n-1]) == seatsEach {
		l.seats = append(l.seats, make([]seat, 0, seatsEach))
		n++
	}
	l.seats[n-1] = append(l.seats[n-1], seat{aid: aid})
	i := uint32((n-1)*seatsEach + len(l.seats[n-1]) - 1)
	l.byAid[aid] = i
	l.bytes += seatMemory
	return l.seat(i), i
}

// name has a name lead to a seat.
func (l *layer) name(name event.Account, i uint32) {
	hash := hashOf(l, name)
	if j, ok := l.byName[hash]; ok && l.nameOf(j) != name {
		if l.other == nil {
			l.other = make(map[event.Account]uint32)
		}
		l.other[event.Account(strings.Clone(string(name)))] = i
		return
	}
	l.byName[hash] = i
}

// each calls f with the account's records, newest first, until it returns false. Of an entry the key is empty.
func (r *records) each(newest uint64, f func(key string, seq uint64, value string) bool) {
	for newest != 0 {
		d := decoder{rest: r.at(newest)}
		newest = d.uvarint()
		key, seq := d.string(), uint64(0)
		if key == "" {
			seq = d.uvarint()
		}
		if !f(key, seq, d.string()) {
			return
		}
	}
}

// part returns the account's records in order.
func (r *records) part(newest uint64) *part {
	p := &part{}
	r.each(newest, func(key string, seq uint64, value string) bool {
		switch {
		case key == "":
			p.entries = append(p.entries, logged{seq, value})
		default:
			if _, newer := p.get(key); !newer {
				p.put(key, value)
			}
		}
		return true
	})
	slices.Reverse(p.entries)
	return p
}

// size is the memory that a busy account's part takes, about.
func (p *part) size() int64 {
	n := 0
	for i := range p.entries {
		n += busyMemory + len(p.entries[i].row)
	}
	for i := range p.rows {
		n += busyMemory + len(p.rows[i].key) + len(p.rows[i].value)
	}
	p.attempts.each(func(key, value string) { n += 2*busyMemory + len(key) + len(value) })
	return int64(n)
}

// memory is what a layer has of an account, as it was when it was looked up.
type memory struct {
	records
	newest uint64
	whole  *part  // of a busy account, or once it was needed
	layer  *layer // nil: of a reader
	aid    uint64
}

// part returns all of it in order.
func (m *memory) part() *part {
	if m.whole == nil {
		m.whole = m.records.part(m.newest)
	}
	return m.whole
}

func (m *memory) get(key string) (value string, ok bool) {
	if m.layer != nil && key[0] == tagAttempt && !m.layer.attempts.has(m.layer.attempt(m.aid, key)) {
		return "", false
	}
	if m.whole != nil {
		return m.whole.get(key)
	}
	m.records.each(m.newest, func(k string, _ uint64, v string) bool {
		if ok = k == key; ok {
			value = v
		}
		return !ok
	})
	return value, ok
}

// memory returns what the layer has of an account. Readers get a copy of what changes; idempotency records are not for
// them.
func (l *layer) memory(s *seat, i uint32, reader bool) memory {
	m := memory{records: l.records, newest: s.newest}
	if s.busy {
		m.whole = l.parts[i]
		if reader {
			m.whole = &part{entries: m.whole.entries, rows: m.whole.rows}
		}
	}
	if !reader {
		m.layer, m.aid = l, s.aid
	}
	return m
}

// collect makes d all that the layer has of an account, with idempotency records among the other rows. It uses the slices
// that d has.
func (l *layer) collect(d *delta, aid uint64) {
	s, i := l.of(aid)
	d.aid, d.head, d.gone = aid, s.head, s.gone
	d.entries, d.rows = d.entries[:0], d.rows[:0]
	if s.busy {
		p := l.parts[i]
		d.entries = append(d.entries, p.entries...)
		d.rows = append(append(d.rows, p.rows...), p.attempts.sorted()...)
		sortRows(d.rows)
		return
	}
	l.each(s.newest, func(key string, seq uint64, value string) bool {
		if key == "" {
			d.entries = append(d.entries, logged{seq, value})
		} else {
			d.rows = append(d.rows, row{key, value})
		}
		return true
	})
	slices.Reverse(d.entries)
	sortRows(d.rows) // it leaves the newest of a key first
	d.rows = slices.CompactFunc(d.rows, func(a, b row) bool { return a.key == b.key })
}

func sortRows(rows []row) {
	slices.SortStableFunc(rows, func(a, b row) int { return strings.Compare(a.key, b.key) })
}
