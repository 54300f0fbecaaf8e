package kv

import (
	"bytes"
	"sync/atomic"
)

// sources are where a snapshot reads rows: one or two memtables, and the file. They never change: a memtable that is begun, and a
// slice of a flush, replace them by others. A reader holds the ones that it began with, and what they refer to stays as long.
type sources struct {
	mem  [2]*memtable // active, frozen; the frozen one may be nil
	file *file        // nil while bbolt may change its map of the file
	refs atomic.Int64
}

// acquire returns the current sources, which must be released; nil once the DB is shut, which no call and no goroutine of it sees.
func (db *DB) acquire() *sources {
	for {
		v := db.current.Load()
		if v == nil {
			return nil
		}
		for n := v.refs.Load(); n > 0; n = v.refs.Load() {
			if v.refs.CompareAndSwap(n, n+1) {
				return v
			}
		}
	}
}

func (v *sources) release() {
	if v.refs.Add(-1) != 0 {
		return
	}
	if v.file != nil {
		v.file.release()
	}
	for _, m := range v.mem {
		if m != nil && m.refs.Add(-1) == 0 {
			m.done(m)
		}
	}
}

// withFile is acquire for readers of the file. If the current sources have none, it waits until bbolt has its map, and makes sources for
// this caller alone.
func (db *DB) withFile() (*sources, error) {
	v := db.acquire()
	if v.file != nil {
		return v, nil
	}
	defer v.release()
	f, err := db.openFileView()
	if err != nil {
		return nil, err
	}
	own := &sources{mem: v.mem, file: f}
	own.refs.Store(1)
	for _, m := range own.mem {
		if m != nil {
			m.refs.Add(1)
		}
	}
	return own, nil
}

// hideFile replaces the current sources by some without a read transaction: bbolt waits for all of them before it maps a file again.
func (db *DB) hideFile() {
	db.replacing.Lock()
	defer db.replacing.Unlock()
	if v := db.current.Load(); v != nil && v.file != nil {
		db.install(v.mem[0], v.mem[1], nil)
	}
}

// install replaces the current sources. The caller holds db.replacing.
func (db *DB) install(active, frozen *memtable, f *file) {
	v := &sources{mem: [2]*memtable{active, frozen}, file: f}
	v.refs.Store(1)
	if f != nil {
		f.refs.Add(1)
	}
	for _, m := range v.mem {
		if m != nil {
			m.refs.Add(1)
		}
	}
	if old := db.current.Swap(v); old != nil {
		old.release()
	}
}

// Snapshot is what one reader sees: whole groups, up to the one that was published when it began. One goroutine uses it.
type Snapshot struct {
	v   *sources
	seq uint64
	buf []byte
}

// Part is a part of a table: the rows whose keys begin with a prefix that no other part's prefix begins with. It remembers
// where memory has them, and belongs to one snapshot or writer.
type Part struct {
	prefix []byte // the table, and what the part's keys begin with
	looked bool
	found  [2]uint32 // in the memtables of the sources; 0: not there
	hash   uint64    // in the active one
}

// Of returns a part.
func Of(t Table, prefix []byte) Part {
	b := make([]byte, 1+len(prefix))
	b[0] = byte(t)
	copy(b[1:], prefix)
	return Part{prefix: b}
}

func (p *Part) table() Table { return Table(p.prefix[0]) }

// look finds a part in memory.
func (s *Snapshot) look(p *Part) {
	if p.looked {
		return
	}
	p.looked = true
	for i, m := range s.v.mem {
		if m == nil {
			continue
		}
		hash := m.hash(p.table(), p.prefix[1:])
		p.found[i] = m.find(p.table(), p.prefix[1:], hash)
		if i == 0 {
			p.hash = hash
		}
	}
}

// Get returns the value of a row of a part, nil if there is none. The value is the store's memory: it must not be changed, and is
// good as long as the snapshot. The error is ErrCorrupt, with a *Damage where the row is known.
func (s *Snapshot) Get(p *Part, row []byte) ([]byte, error) {
	s.look(p)
	for i, m := range s.v.mem {
		if p.found[i] == 0 {
			continue
		}
		if r := m.row(p.found[i], row); r != 0 {
			if value, gone, found := m.visible(r, s.seq); gone {
				return nil, nil
			} else if found {
				return value, nil
			}
		}
	}
	s.buf = append(append(s.buf[:0], p.prefix[1:]...), row...)
	return s.v.file.get(p.table(), s.buf)
}

// Scan calls f with the rows of a part that begin with prefix, in order, from the first that is not below start, until f
// returns false. Keys come whole, without the part's prefix. What f gets is good as long as the snapshot. f may change rows of
// the part, which the scan may then see or not.
func (s *Snapshot) Scan(p *Part, prefix, start []byte, f func(row, value []byte) (bool, error)) error {
	s.look(p)
	var list [2]memRows
	mem := list[:0]
	for i, m := range s.v.mem {
		if p.found[i] == 0 {
			continue
		}
		r := memRows{m: m, seq: s.seq, prefix: prefix}
		from := prefix
		if bytes.Compare(start, prefix) > 0 {
			from = start
		}
		if r.take(m.seek(p.found[i], from, nil)); r.key != nil {
			mem = append(mem, r)
		}
	}
	below, err := s.v.file.rows(p.table(), p.prefix[1:], prefix, start)
	if err != nil {
		return err
	}
	more := true
	for more && err == nil {
		more, err = s.step(p, mem, below, f)
	}
	if err == nil {
		below.done()
	}
	return err
}

// step calls f with the next row. It returns false at the end.
func (s *Snapshot) step(p *Part, mem []memRows, below *fileRows, f func(row, value []byte) (bool, error)) (bool, error) {
	var key, value []byte
	gone, inFile := false, false
	for i := range mem { // the newer one of equals counts
		if r := &mem[i]; r.key != nil && (key == nil || bytes.Compare(r.key, key) < 0) {
			key, value, gone = r.key, r.value, r.gone
		}
	}
	if below.key != nil {
		if k := below.key[len(p.prefix)-1:]; key == nil || bytes.Compare(k, key) < 0 {
			key, inFile = k, true
		}
	}
	if key == nil {
		return false, nil
	}
	if inFile {
		var err error
		if value, err = below.f.open(p.table(), below.key, below.value); err != nil {
			return false, err
		}
	}
	more := true
	var err error
	if inFile || !gone {
		more, err = f(key, value)
	}
	if err != nil || !more {
		return false, err
	}
	for i := range mem {
		if r := &mem[i]; r.key != nil && bytes.Equal(r.key, key) {
			r.take(r.m.after(r.row))
		}
	}
	if below.key != nil && bytes.Equal(below.key[len(p.prefix)-1:], key) {
		err = below.next()
	}
	return true, err
}

// memRows goes through the rows of a part in a memtable.
type memRows struct {
	m      *memtable
	seq    uint64
	prefix []byte

	row        uint32
	key, value []byte
	gone       bool
}

// take stops at the first row from this one on that the reader sees.
func (r *memRows) take(row uint32) {
	r.key = nil
	for ; row != 0; row = r.m.after(row) {
		key := r.m.key(row)
		if !bytes.HasPrefix(key, r.prefix) {
			return
		}
		var found bool
		if r.value, r.gone, found = r.m.visible(row, r.seq); found {
			r.row, r.key = row, key
			return
		}
	}
}

// Prefixes returns copies of the first n prefixes of a table's parts that come after the given one, in order. It is for tables
// whose parts have one row each, with an empty key.
func (s *Snapshot) Prefixes(t Table, after []byte, n int) ([][]byte, error) {
	var lists [2][]uint32
	for i, m := range s.v.mem {
		if m == nil {
			continue
		}
		list := m.inOrder(t)
		lists[i] = list[searchParts(m, list, after):]
	}
	names := s.v.file.names(t, after)
	var found [][]byte
	for len(found) < n {
		least := names.name
		for i, m := range s.v.mem {
			if len(lists[i]) == 0 {
				continue
			}
			if b := m.prefix(lists[i][0])[1:]; least == nil || bytes.Compare(b, least) < 0 {
				least = b
			}
		}
		if least == nil {
			break
		}
		p := Of(t, least)
		if s.has(&p, bytes.Equal(names.name, least)) {
			found = append(found, p.prefix[1:])
		}
		for i, m := range s.v.mem {
			if len(lists[i]) != 0 && bytes.Equal(m.prefix(lists[i][0])[1:], p.prefix[1:]) {
				lists[i] = lists[i][1:]
			}
		}
		if bytes.Equal(names.name, p.prefix[1:]) {
			names.next()
		}
	}
	return found, nil
}

// has reports whether a part's only row is there. A damaged one is: a reader that asks for it gets the error.
func (s *Snapshot) has(p *Part, inFile bool) bool {
	s.look(p)
	for i, m := range s.v.mem {
		if p.found[i] == 0 {
			continue
		}
		if r := m.row(p.found[i], nil); r != 0 {
			if _, gone, found := m.visible(r, s.seq); found {
				return !gone
			}
		}
	}
	return inFile
}

// searchParts returns where the parts after a prefix begin.
func searchParts(m *memtable, list []uint32, after []byte) int {
	low, high := 0, len(list)
	for low < high {
		mid := (low + high) / 2
		if bytes.Compare(m.prefix(list[mid])[1:], after) > 0 {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// Set makes p another part, whose prefix is prefix and rest. It keeps neither, and uses the memory that p has.
func (p *Part) Set(t Table, prefix string, rest []byte) {
	*p = Part{prefix: append(append(append(p.prefix[:0], byte(t)), prefix...), rest...)}
}
