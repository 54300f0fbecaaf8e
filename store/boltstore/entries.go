package boltstore

import (
	"bytes"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// holder is where an account has entries: a part in memory, or a run.
type holder struct {
	part  *part
	run   *bolt.Bucket
	first uint64 // lowest sequence number of a run
}

// holders returns where entries after a sequence number may be, oldest first.
func (a *account) holders(after uint64) ([]holder, error) {
	var list []holder
	reached := false
	for i := range a.parts {
		p := a.parts[i].part()
		if len(p.entries) == 0 {
			continue
		}
		list = append(list, holder{part: p})
		if reached = p.entries[0].seq <= after+1; reached {
			break
		}
	}
	if !reached && a.aid != 0 {
		err := a.each(func(run *bolt.Bucket) (bool, error) {
			first, ok, err := firstEntry(run, a.aid)
			if err != nil || !ok {
				return err == nil, err
			}
			list = append(list, holder{run: run, first: first})
			return first > after+1, nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Reverse(list)
	return list, nil
}

func entryPrefix(aid uint64) []byte { return append(numberKey(aid), tagEntry) }

func firstEntry(run *bolt.Bucket, aid uint64) (uint64, bool, error) {
	prefix := entryPrefix(aid)
	k, _ := run.Cursor().Seek(prefix)
	if !bytes.HasPrefix(k, prefix) {
		return 0, false, nil
	}
	seq, err := number(k[len(prefix):], "entries key")
	return seq, true, err
}

// walk calls f with the account's entries after a sequence number, in order, until f returns false.
func (a *account) walk(after uint64, f func(e logged) (bool, error)) error {
	after = max(after, a.head.trim)
	if after >= a.head.seq {
		return nil
	}
	list, err := a.holders(after)
	if err != nil {
		return err
	}
	dead, err := a.dead(after)
	if err != nil {
		return err
	}
	more := true
	one := func(e logged) (bool, error) {
		if e.seq <= after {
			return true, nil
		}
		if len(dead) != 0 {
			if _, gone := slices.BinarySearch(dead, e.seq); gone {
				return true, nil
			}
		}
		var err error
		more, err = f(e)
		return more, err
	}
	for i := range list {
		if err := list[i].walk(a.aid, after, one); err != nil || !more {
			return err
		}
	}
	return nil
}

func (h *holder) walk(aid, after uint64, f func(e logged) (bool, error)) error {
	if h.run != nil {
		return walkRun(h.run, aid, after+1, f)
	}
	i, _ := h.part.after(after + 1)
	for _, e := range h.part.entries[i:] {
		if more, err := f(e); err != nil || !more {
			return err
		}
	}
	return nil
}

// walkRun calls f with the entries of a run, beginning with the row that a sequence number is in.
func walkRun(run *bolt.Bucket, aid, from uint64, f func(e logged) (bool, error)) error {
	c := run.Cursor()
	prefix := entryPrefix(aid)
	key := append(bytes.Clone(prefix), numberKey(from)...)
	k, v := c.Seek(key)
	if !bytes.Equal(k, key) {
		before, value := c.Last, []byte(nil)
		if k != nil {
			before = c.Prev
		}
		if k, value = before(); !bytes.HasPrefix(k, prefix) {
			k, v = c.Seek(key)
		} else {
			v = value
		}
	}
	more := true
	one := func(e logged) (bool, error) {
		var err error
		more, err = f(e)
		return more, err
	}
	for ; bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if err := entriesOf(k, v, one); err != nil || !more {
			return err
		}
	}
	return nil
}

// dead returns the numbers after a given one of entries that were removed before their time, in order.
func (a *account) dead(after uint64) ([]uint64, error) {
	if a.head.entries == a.head.seq-a.head.trim { // all are there
		return nil, nil
	}
	var list []uint64
	err := a.scan(string(rune(tagDead)), deadRow(after), func(key, _ string) (bool, error) {
		seq, err := number(key[1:], "removed entry")
		list = append(list, seq)
		return true, err
	})
	return list, err
}

// entry returns the entry with a sequence number, empty if it is not there any more.
func (a *account) entry(seq uint64) (string, error) {
	if seq <= a.head.trim || seq > a.head.seq {
		return "", nil
	}
	if gone, err := a.get(deadRow(seq)); err != nil || gone != "" {
		return "", err
	}
	for i := range a.parts {
		if row, ok := a.parts[i].part().entry(seq); ok {
			return row, nil
		}
	}
	row := ""
	err := a.each(func(run *bolt.Bucket) (bool, error) {
		first, ok, err := firstEntry(run, a.aid)
		if err != nil || !ok || first > seq {
			return err == nil, err
		}
		return false, walkRun(run, a.aid, seq, func(e logged) (bool, error) {
			if e.seq == seq {
				row = e.row
			}
			return e.seq < seq, nil
		})
	})
	return row, err
}
