package boltstore

import (
	"bytes"
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
	key, value []byte
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
	inputs := make([]input, len(m.in))
	for i := range inputs {
		old := w.runs.Bucket(m.in[i].key())
		if old == nil {
			return corrupt("run")
		}
		inputs[i].cursor = old.Cursor()
		inputs[i].key, inputs[i].value = inputs[i].cursor.Seek(m.next)
	}
	o := output{w: w, run: run}
	f := filter{w: w, last: m.last, now: s.now, inputs: inputs}
	for range n {
		key, value := least(inputs)
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

// least returns the row with the lowest key, the newest of several, and goes on in all runs that have one.
func least(inputs []input) (key, value []byte) {
	for i := range inputs {
		if in := &inputs[i]; in.key != nil && (key == nil || bytes.Compare(in.key, key) < 0) {
			key, value = in.key, in.value
		}
	}
	for i := range inputs {
		if in := &inputs[i]; in.key != nil && bytes.Equal(in.key, key) {
			in.key, in.value = in.cursor.Next()
		}
	}
	return key, value
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
	// Folds may have added newer ones meanwhile.
	i := slices.IndexFunc(s.windows, func(n window) bool { return n.last == m.out.last })
	windows := slices.Replace(slices.Clone(s.windows), i, i+len(m.in), m.out)
	w.after = append(w.after, func() { s.windows = windows })
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
	var keys [][]byte
	c := old.Cursor()
	for k, _ := c.First(); k != nil && len(keys) < n; k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		w.del(old, k)
	}
	if w.err != nil || len(keys) == n {
		return w.err
	}
	if m.old = m.old[1:]; len(m.old) == 0 {
		s.merge = nil
	}
	return w.runs.DeleteBucket(key)
}

// filter decides what a merge keeps.
type filter struct {
	w      *writer
	last   bool
	now    uint64
	inputs []input

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
	for i := range f.inputs {
		run := f.inputs[i].cursor.Bucket()
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
