package kv

import "github.com/manydevice/manydevice/store"

// Writer is what an operation sees and changes. It sees what it wrote itself, and what the operations before it did.
//
//  1. Each change is a version of the group in the memtable, and a row in the group's record for the log.
//  2. A list of what to undo goes along: an operation that fails, and a group that finds no room on the disk, leave nothing.
type Writer struct {
	Snapshot
	db     *DB
	active *memtable
	log    *wal // of the active memtable
	record recordWriter
	undo   []undone
	after  []func()
}

// undone is the version that a row had before it was changed.
type undone struct{ row, version uint32 }

// mark is a place to which a writer can go back.
type mark struct {
	undo, record, after int
	grows               int64
}

func (w *Writer) mark() mark {
	return mark{len(w.undo), len(w.record.b), len(w.after), w.active.grows}
}

func (w *Writer) back(to mark) {
	for i := len(w.undo) - 1; i >= to.undo; i-- {
		w.active.store(w.undo[i].row+rowVersion, w.undo[i].version)
	}
	w.undo, w.after, w.active.grows = w.undo[:to.undo], w.after[:to.after], to.grows
	w.record.b = w.record.b[:to.record]
	w.record.last = w.record.last[:0]
}

// Put sets a row. It keeps neither slice. An empty value is not allowed.
func (w *Writer) Put(p *Part, row, value []byte) { w.change(p, row, value, false) }

// Delete removes a row. It is no error if there is none.
func (w *Writer) Delete(p *Part, row []byte) { w.change(p, row, nil, true) }

func (w *Writer) change(p *Part, row, value []byte, gone bool) {
	w.look(p)
	m := w.active
	if p.found[0] == 0 {
		p.found[0] = m.addPart(p.table(), p.prefix[1:], p.hash)
	}
	r, added := m.addRow(p.found[0], row)
	before := m.put(r, w.seq, value, gone)
	if added && !gone {
		m.grows += w.db.growth(p.table(), len(p.prefix)+len(row)+len(value))
	}
	w.undo = append(w.undo, undone{r, before})
	w.record.row(p.prefix, row, value, gone)
}

// growth is by how much the file grows, about, when a row is new to it: its bytes, what bbolt and the checksum add, and, where
// rows come in no order, the room that split pages leave.
func (db *DB) growth(t Table, bytes int) int64 {
	n := int64(bytes + 16 + rowHeader)
	if bytes > longValue {
		n += n / 16
	}
	if db.o.Tables[t].Fill < 1 {
		n += n / 2
	}
	return n + n/16
}

// Take takes room for bytes of rows, keys included, or returns store.ErrFull. spare: the reserve may be used. An operation that
// takes none may write what makes room and what is small: trims, cursors.
func (w *Writer) Take(bytes int64, spare bool) error {
	if !w.db.fits(w.active.grows+bytes+bytes/2, spare) {
		return store.ErrFull
	}
	return nil
}

// After has f called once the group of the operation is durable and published, on the goroutine that commits, if the
// operation succeeds. f must be short.
func (w *Writer) After(f func()) { w.after = append(w.after, f) }
