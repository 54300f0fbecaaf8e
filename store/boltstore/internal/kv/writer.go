package kv

import (
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/store"
)

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
	tier   tier      // of the operation that runs
	adds   int       // rows that it has added, less those that it has removed
	began  savepoint // of the group
	start  savepoint // of the operation that runs
}

// undone is the version that a row had before it was changed.
type undone struct{ row, version uint32 }

// savepoint is a state of a group that a writer can go back to.
type savepoint struct {
	undo, record int
	grows, frees int64
}

// begin makes it empty. Memory that a large group took is not kept: see arena.reset.
func (w *Writer) begin() {
	most := int(min(w.db.limit/4, maxGroupBytes))
	if cap(w.record.b) > most {
		w.record.b = nil
	}
	if 8*cap(w.undo) > most {
		w.undo = nil
	}
	w.undo = w.undo[:0]
	w.record.begin()
}

func (w *Writer) savepoint() savepoint {
	return savepoint{len(w.undo), len(w.record.b), w.active.grows, w.active.frees}
}

func (w *Writer) back(to savepoint) {
	for i := len(w.undo) - 1; i >= to.undo; i-- {
		w.active.store(w.undo[i].row+rowVersion, w.undo[i].version)
	}
	w.undo = w.undo[:to.undo]
	w.active.grows, w.active.frees = to.grows, to.frees
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
	switch {
	case !gone:
		w.adds++
	case m.weighs:
		m.frees += w.weight(p, row)
	default:
		m.removed = true
	}
	if gone {
		w.adds--
	}
	if p.found[0] == 0 {
		p.found[0] = m.addPart(p.table(), p.prefix[1:], p.hash)
	}
	r := m.addRow(p.found[0], row)
	before := m.put(r, w.seq, value, gone)
	m.grows += w.db.change(m, p.table(), len(p.prefix)-1+len(row), before, value, gone)
	w.undo = append(w.undo, undone{r, before})
	w.record.row(p.prefix, row, value, gone)
}

// Take takes room for bytes of rows, keys included, or returns store.ErrFull. spare: half of the reserve may be used. An operation
// that takes none may use three quarters of it, for what makes room and what is small: trims, cursors. It is called before the
// operation writes.
func (w *Writer) Take(bytes int64, spare bool) error {
	w.tier = forAppends
	if spare {
		w.tier = forEnds
	}
	if !w.db.fits(w.active.grows+bytes+bytes/4, w.tier) {
		return store.ErrFull
	}
	return nil
}

// cutBytes is how much an operation writes before it is cut, if it can be. The smallest log has room for several of them.
const cutBytes = walStep / 8

// Filled says that the operation has written as much as one should. What is left is another operation's, if the work can be cut.
func (w *Writer) Filled() bool { return len(w.record.b)-w.start.record >= cutBytes }

// errLogFull: the log has no room for an operation. It may have some once its memtable is flushed.
var errLogFull = errors.New("the log")

// admit returns store.ErrFull if there is no room for what an operation has done, in the log or in the file.
func (w *Writer) admit() error {
	before := w.start
	if len(w.record.b) == before.record {
		return nil
	}
	need := int64(len(w.record.b))
	if w.tier == forAppends {
		need += w.log.step / 4
	}
	if err := w.log.room(need); full(err) {
		return &fullError{fmt.Errorf("%w: %w", errLogFull, err)}
	} else if err != nil {
		w.db.fail(err)
		return w.db.failure()
	}
	if w.tier == forRest && w.adds > 0 && w.active.grows > before.grows && !w.db.fits(w.active.grows, forRest) {
		return store.ErrFull
	}
	return nil
}

// weight is about how many bytes of the file a row takes that is about to be removed.
func (w *Writer) weight(p *Part, row []byte) (n int64) {
	_ = recovered(func() error { // a page that cannot be read has no weight
		w.look(p)
		for i, m := range w.v.mem {
			if p.found[i] == 0 {
				continue
			}
			if r := m.row(p.found[i], row); r != 0 {
				value, gone, found := m.visible(r, w.seq)
				if found && gone {
					return nil
				}
				if found && m != w.active { // what is in the active one alone leaves it, and never comes to the file
					n = int64(len(value))
					return nil
				}
			}
		}
		w.buf = append(append(w.buf[:0], p.prefix[1:]...), row...)
		n = w.v.file.size(p.table(), w.buf)
		return nil
	})
	return n
}
