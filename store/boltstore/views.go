package boltstore

import (
	"sync"

	bolt "go.etcd.io/bbolt"
)

// views keeps read transactions that nobody uses at the moment, with their buckets open, for those who read next: to begin
// one costs several times what most readers do in it. None is kept while a commit writes: what the next commit may use
// again, and whether the map may grow, depends on those that are open.
type views struct {
	mu    sync.Mutex
	idle  []*view
	turn  uint64 // counts commits; a view of an earlier turn is not kept
	holds bool   // a commit writes
	ended bool
}

// keepViews is how many are kept: more than processors that read at the same time make no difference.
const keepViews = 8

// take returns a view that shows what is published, or nil and the turn that a new one belongs to.
func (vs *views) take() (*view, uint64) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	n := len(vs.idle)
	if n == 0 {
		return nil, vs.turn
	}
	v := vs.idle[n-1]
	vs.idle[n-1] = nil
	vs.idle = vs.idle[:n-1]
	return v, vs.turn
}

// give takes a view back and reports whether it is kept; if not, the caller ends it.
func (vs *views) give(v *view) bool {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if v.turn != vs.turn || vs.holds || vs.ended || len(vs.idle) == keepViews {
		return false
	}
	vs.idle = append(vs.idle, v)
	return true
}

// hold ends all views that nobody uses, and has none kept until letGo.
func (vs *views) hold() {
	vs.mu.Lock()
	vs.turn++
	vs.holds = true
	idle := vs.idle
	vs.idle = nil
	vs.mu.Unlock()
	endAll(idle)
}

// letGo says that the commit is over and published.
func (vs *views) letGo() {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.turn++
	vs.holds = false
}

// end ends all views that nobody uses, for good.
func (vs *views) end() {
	vs.mu.Lock()
	vs.ended = true
	idle := vs.idle
	vs.idle = nil
	vs.mu.Unlock()
	endAll(idle)
}

func endAll(idle []*view) {
	for _, v := range idle {
		_ = v.transaction.Rollback() // of a read transaction it has no error but that it has ended
	}
}

// table is a bucket in which rows are looked up one by one, with a cursor that is made once.
type table struct {
	*bolt.Bucket
	cursor *bolt.Cursor
}

// Get is as in [bolt.Bucket], but that nested buckets are values.
func (t *table) Get(key []byte) []byte {
	if t.cursor == nil {
		t.cursor = t.Cursor()
	}
	if k, v := t.cursor.Seek(key); string(k) == string(key) {
		return v
	}
	return nil
}
