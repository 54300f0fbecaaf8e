package boltstore

import (
	"cmp"
	"slices"
	"strings"

	"github.com/manydevice/manydevice/event"
)

// row is one row of an account, without the account's number. An empty value says that it was removed.
type row struct{ key, value string }

// logged is an entry of an inbox.
type logged struct {
	seq uint64
	row string
}

// part is some of what an account has, in order. Its slices are never changed in place but for being appended to, so that
// readers may keep them.
type part struct {
	entries  []logged   // by sequence number
	rows     []row      // by key; all but entries and attempts
	attempts attemptSet // only the goroutine that commits looks at them
}

// delta is what an operation, a commit or a window changed of an account.
type delta struct {
	part
	aid  uint64
	name event.Account // set where the account got its number
	head head
	gone bool // the account was deleted, its name has another number
}

// count is how many rows there are.
func (p *part) count() int { return len(p.entries) + len(p.rows) + p.attempts.len() }

func (p *part) find(key string) (int, bool) {
	return slices.BinarySearchFunc(p.rows, key, func(r row, key string) int { return strings.Compare(r.key, key) })
}

func (p *part) get(key string) (string, bool) {
	if key[0] == tagAttempt {
		return p.attempts.get(key)
	}
	if i, ok := p.find(key); ok {
		return p.rows[i].value, true
	}
	return "", false
}

// put sets a row of a part that no reader knows.
func (p *part) put(key, value string) {
	if key[0] == tagAttempt {
		p.attempts.put(key, value)
		return
	}
	i, ok := p.find(key)
	if !ok {
		p.rows = slices.Insert(p.rows, i, row{key: key})
	}
	p.rows[i].value = value
}

// with returns the rows whose keys begin with prefix, from the first one that is not below start.
func (p *part) with(prefix, start string) []row {
	if prefix[0] == tagAttempt {
		return p.attempts.sorted()
	}
	i, _ := p.find(start)
	n := i
	for n < len(p.rows) && strings.HasPrefix(p.rows[n].key, prefix) {
		n++
	}
	return p.rows[i:n]
}

// entry returns the entry with a sequence number.
func (p *part) entry(seq uint64) (string, bool) {
	i, ok := p.after(seq)
	if !ok {
		return "", false
	}
	return p.entries[i].row, true
}

func (p *part) after(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(p.entries, seq, func(e logged, seq uint64) int { return cmp.Compare(e.seq, seq) })
}

// absorb adds a newer part, which it does not keep. Rows are copied first, since readers may look at the old ones.
func (p *part) absorb(n *part) {
	p.entries = append(p.entries, n.entries...)
	if len(n.rows) != 0 {
		p.rows = mergeRows(p.rows, n.rows)
	}
	n.attempts.each(p.attempts.put)
}

// mergeRows returns the rows of both in a new slice; the newer one of the same key stays.
func mergeRows(older, newer []row) []row {
	merged := make([]row, 0, len(older)+len(newer))
	for len(older) != 0 && len(newer) != 0 {
		c := strings.Compare(older[0].key, newer[0].key)
		if c < 0 {
			merged = append(merged, older[0])
			older = older[1:]
			continue
		}
		if c == 0 {
			older = older[1:]
		}
		merged = append(merged, newer[0])
		newer = newer[1:]
	}
	return append(append(merged, older...), newer...)
}
