package boltstore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// merging makes one run of several that follow each other. What is not needed any more is left out: rows that a newer one
// takes the place of, entries that were removed or trimmed, expired idempotency records, all rows of deleted accounts.
type merging struct {
	in   []window // newest first
	last bool     // there is no older run, so that removed rows need not be known any more
	out  window
	next []byte   // key with which it goes on
	old  []window // runs that are merged, whose rows wait to be removed
}

// mergeable reports whether there are so many runs that some should be merged.
func (s *Store) mergeable() bool { return len(s.windows) > s.limits.runs }

// startMerge chooses the runs to merge: the newest ones, as far as each is not larger than all newer ones together, so
// that a row is not written again and again.
func (s *Store) startMerge(w *writer) error {
	n, sum := 0, uint64(0)
	for n < len(s.windows) && (n < 2 || s.windows[n].size <= sum) {
		sum += s.windows[n].size
		n++
	}
	return s.mergeNewest(w, n)
}

// mergeNewest begins to merge the newest n runs.
func (s *Store) mergeNewest(w *writer, n int) error {
	in := slices.Clone(s.windows[:n])
	m := &merging{in: in, last: n == len(s.windows), out: window{first: in[n-1].first, last: in[0].last}, next: []byte{0}}
	if _, err := w.runs.CreateBucket(m.out.key()); err != nil {
		return err
	}
	w.dirty = true
	s.merge = m
	return nil
}

// dropRows is how many rows are removed in the time that one takes to be merged.
const dropRows = 2

// input is one of the runs, at a row.
type input struct {
	cursor     *bolt.Cursor
	age        int // 0: the newest
	key, value []byte
}

// inputs are those that have a row, in order of it; of the same rows the newest is first.
type inputs []input

// add puts one where it belongs.
func (q *inputs) add(in input) {
	if in.key == nil {
		return
	}
	i, _ := slices.BinarySearchFunc(*q, in, func(a, b input) int {
		return cmp.Or(bytes.Compare(a.key, b.key), cmp.Compare(a.age, b.age))
	})
	*q = slices.Insert(*q, i, in)
}

// next returns the lowest row, the newest of several, and goes on in all runs that have one; nil if there is none.
func (q *inputs) next() (key, value []byte) {
	if len(*q) == 0 {
		return nil, nil
	}
	key, value = (*q)[0].key, (*q)[0].value
	for len(*q) != 0 && bytes.Equal((*q)[0].key, key) {
		in := (*q)[0]
		*q = slices.Delete(*q, 0, 1)
		in.key, in.value = in.cursor.Next()
		q.add(in)
	}
	return key, value
}

// slice writes or leaves out at least n more rows, or all that are left.
func (m *merging) slice(w *writer, s *Store, n int) error {
	if len(m.old) != 0 {
		return m.drop(w, s, n*dropRows)
	}
	run := w.runs.Bucket(m.out.key())
	if run == nil {
		return corrupt("run that is being built")
	}
	run.FillPercent = sequentialFill
	f := filter{w: w, last: m.last, now: s.now}
	var rows inputs
	for i := range m.in {
		old := w.runs.Bucket(m.in[i].key())
		if old == nil {
			return corrupt("run")
		}
		in := input{cursor: old.Cursor(), age: i}
		in.key, in.value = in.cursor.Seek(m.next)
		rows.add(in)
		f.runs = append(f.runs, old)
	}
	o := output{w: w, run: run}
	for range n {
		key, value := rows.next()
		if key == nil {
			o.endEntries()
			m.out.size += o.size
			return m.finish(w, s, run)
		}
		if err := f.row(&o, key, value); err != nil {
			return err
		}
		m.next = append(append(m.next[:0], key...), 0)
	}
	o.endEntries()
	m.out.size += o.size
	w.dirty = true
	return w.err
}

func (m *merging) finish(w *writer, s *Store, run *bolt.Bucket) error {
	w.dirty = true
	m.out.size++
	if err := run.SetSequence(m.out.size); err != nil {
		return err
	}
	for _, old := range m.in {
		if err := w.runs.Bucket(old.key()).SetSequence(0); err != nil {
			return err
		}
	}
	out, n := m.out, len(m.in)
	w.after = append(w.after, func() { // folds may have added newer ones meanwhile
		i := slices.IndexFunc(s.windows, func(w window) bool { return w.last == out.last })
		s.windows = slices.Replace(slices.Clone(s.windows), i, i+n, out)
		s.meters.merges.Add(1)
	})
	m.old = m.in
	if m.last {
		w.swept(s, m.out.last)
	}
	return w.err
}

// drop removes n rows of runs that were merged. bbolt would look at all rows of a bucket that is dropped as a whole.
func (m *merging) drop(w *writer, s *Store, n int) error {
	w.dirty = true
	key := m.old[0].key()
	old := w.runs.Bucket(key)
	if old == nil {
		return corrupt("run that was merged")
	}
	c := old.Cursor()
	k, _ := c.Last() // from the end, where the rest of a page need not move up
	for ; k != nil && n > 0 && w.err == nil; n-- {
		w.err = c.Delete()
		k, _ = c.Prev()
	}
	if w.err != nil || k != nil {
		return w.err
	}
	if m.old = m.old[1:]; len(m.old) == 0 {
		s.merge = nil
	}
	return w.runs.DeleteBucket(key)
}

// filter decides what a merge keeps.
type filter struct {
	w    *writer
	last bool
	now  uint64
	runs []*bolt.Bucket

	aid  uint64
	gone bool // the account
	trim uint64
	dead []uint64 // entries, rising
}

func (f *filter) row(o *output, key, value []byte) error {
	if len(key) < prefixBytes {
		return corrupt("row")
	}
	aid, tag := binary.BigEndian.Uint64(key), key[numberBytes]
	if aid != f.aid {
		o.endEntries()
		if err := f.account(aid, f.aid == 0); err != nil {
			return err
		}
	}
	if f.gone {
		return nil
	}
	if tag == tagEntry {
		return entriesOf(key, value, func(e logged) (bool, error) {
			if _, dead := slices.BinarySearch(f.dead, e.seq); !dead && e.seq > f.trim {
				o.entry(aid, e)
			}
			return true, nil
		})
	}
	o.endEntries()
	keep := len(value) != 0 || !f.last
	switch {
	case tag == tagDead:
		seq, err := number(key[prefixBytes:], "removed entry")
		if err != nil {
			return err
		}
		if n := len(f.dead); n == 0 || seq > f.dead[n-1] { // they come in order, and before the entries
			f.dead = append(f.dead, seq)
		}
		keep = !f.last && seq > f.trim
	case tag == tagAttempt && len(value) != 0:
		t, err := decodeAttempt(string(value))
		if err != nil {
			return err
		}
		if t.expires <= f.now {
			value, keep = nil, !f.last
		}
	}
	if keep {
		o.put(bytes.Clone(key), bytes.Clone(value))
	}
	return nil
}

// account looks at what is known of the account that the next rows belong to. Of the first one of a slice some rows may
// have been in the slice before.
func (f *filter) account(aid uint64, first bool) error {
	s, err := readSlot(&f.w.heads, aid)
	if err != nil {
		return err
	}
	f.aid, f.trim, f.dead, f.gone = aid, s.trim, f.dead[:0], false
	if s.epoch == 0 {
		f.gone = f.w.purge.Get(numberKey(aid)) == nil
	}
	if f.gone || !first {
		return nil
	}
	prefix := append(numberKey(aid), tagDead)
	for _, run := range f.runs {
		err := scan(run, prefix, prefix, func(rest, _ []byte) (bool, error) {
			seq, err := number(rest, "removed entry")
			f.dead = append(f.dead, seq)
			return true, err
		})
		if err != nil {
			return err
		}
	}
	slices.Sort(f.dead)
	return nil
}
