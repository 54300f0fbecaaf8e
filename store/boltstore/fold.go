package boltstore

import (
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
)

// folding turns a window of the journal into a run. Its slices are parts of commits, so that nothing has to be undone: if
// the process ends in between, the journal is still there, and the fold begins anew.
type folding struct {
	layer *layer
	order []uint64        // account numbers
	fresh []event.Account // names of new accounts
	done  int             // of both
	size  uint64          // bytes of rows written
	delta delta           // of the account that is written
}

func newFolding(l *layer) *folding {
	f := &folding{layer: l, order: slices.Sorted(maps.Keys(l.byAid))}
	for i := range l.fresh {
		f.fresh = append(f.fresh, l.freshName(i))
	}
	slices.Sort(f.fresh)
	f.fresh = slices.Compact(f.fresh)
	return f
}

func (f *folding) total() int { return len(f.order) + len(f.fresh) }

func (f *folding) window() window {
	return window{first: f.layer.number, last: f.layer.number, size: f.size + 1}
}

// slice writes at least n more rows, or all that are left.
func (f *folding) slice(w *writer, s *Store, n int) error {
	run, err := w.runs.CreateBucketIfNotExists(f.window().key())
	if err != nil {
		return err
	}
	o := output{w: w, run: run}
	run.FillPercent = sequentialFill
	heads, d := headWriter{w: w}, &f.delta
	for f.done < len(f.order) && o.rows < n {
		f.layer.collect(d, f.order[f.done])
		s, err := heads.slot(d.aid)
		if err != nil {
			return err
		}
		if !d.gone || w.purge.Get(numberKey(d.aid)) != nil { // else nobody looks for its rows any more
			f.write(&o, d, s.last != 0)
		}
		f.done++
		if d.gone {
			*s = slot{}
			continue
		}
		s.head = d.head
		s.add(f.layer.number)
	}
	heads.flush()
	for f.done >= len(f.order) && f.done < f.total() && o.rows < n {
		name := f.fresh[f.done-len(f.order)]
		aid, _ := f.layer.named(name)
		w.put(w.names.Bucket, []byte(name), numberKey(aid))
		f.done++
		o.rows++
	}
	f.size += o.size
	if f.done == f.total() && w.err == nil {
		w.err = f.finish(w, s, run)
	}
	return w.err
}

// write writes the rows of one account. With older ones in the file removed rows have to be written too.
func (f *folding) write(o *output, d *delta, older bool) {
	var dead []uint64
	after := d.head.trim
	i, _ := d.find(string(rune(tagEntry)))
	for _, r := range d.rows[:i] {
		if r.key[0] == tagDead {
			seq, err := number(r.key[1:], "removed entry")
			dead = append(dead, seq)
			if err != nil || seq <= after || len(d.entries) != 0 && seq >= d.entries[0].seq {
				continue
			}
		}
		o.row(d.aid, r, older)
	}
	for _, e := range d.entries {
		if _, gone := slices.BinarySearch(dead, e.seq); !gone && e.seq > after {
			o.entry(d.aid, e)
		}
	}
	o.endEntries()
	for _, r := range d.rows[i:] {
		o.row(d.aid, r, older)
	}
}

// finish makes the run one that is read, and drops the journal.
func (f *folding) finish(w *writer, s *Store, run *bolt.Bucket) error {
	next := f.window()
	if err := run.SetSequence(next.size); err != nil {
		return err
	}
	if err := w.tx.DeleteBucket(journalName(f.layer.number)); err != nil {
		return err
	}
	w.after = append(w.after, func() {
		s.frozen, s.windows = nil, slices.Insert(slices.Clone(s.windows), 0, next)
		s.meters.folds.Add(1)
	})
	s.fold = nil
	return nil
}

// output writes rows of accounts to a run, in order.
type output struct {
	w    *writer
	run  *bolt.Bucket
	rows int
	size uint64

	aid   uint64 // of the row of entries that is not written yet
	first uint64 // number of its first entry
	last  uint64
	buf   []byte
}

func (o *output) put(key, value []byte) {
	o.w.put(o.run, key, value)
	o.rows++
	o.size += uint64(len(key) + len(value))
}

// row writes a row; one that is removed only if there may be older ones.
func (o *output) row(aid uint64, r row, older bool) {
	if r.value != "" || older {
		o.put(runKey(aid, r.key), []byte(r.value))
	}
}

// entry adds an entry to a row of them.
func (o *output) entry(aid uint64, e logged) {
	if len(o.buf) != 0 && len(o.buf)+len(e.row)+numberBytes > rowMax {
		o.endEntries()
	}
	if len(o.buf) == 0 {
		o.aid, o.first, o.last = aid, e.seq, e.seq
	}
	o.buf = appendEntry(o.buf, e.seq-o.last, e.row)
	o.last = e.seq
}

func (o *output) endEntries() {
	if len(o.buf) != 0 {
		o.put(append(entryPrefix(o.aid), numberKey(o.first)...), slices.Clone(o.buf))
		o.buf = o.buf[:0]
	}
}

// headWriter changes heads, in order of account numbers, and writes each block once.
type headWriter struct {
	w       *writer
	number  uint64
	current *block
}

func (h *headWriter) slot(aid uint64) (*slot, error) {
	if h.current == nil || h.number != aid/blockHeads {
		h.flush()
		h.number, h.current = aid/blockHeads, new(block)
		if value := h.w.heads.Get(blockKey(aid)); value != nil {
			var err error
			if h.current, err = decodeBlock(value); err != nil {
				return nil, err
			}
		}
	}
	return &h.current[aid%blockHeads], nil
}

func (h *headWriter) flush() {
	if h.current != nil {
		h.w.put(h.w.heads.Bucket, numberKey(h.number), h.current.encode())
		h.current = nil
	}
}
