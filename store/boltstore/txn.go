package boltstore

import (
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
)

// writer is the transaction of one group of operations. Each operation makes all its checks, returns an error if one
// fails, and only then writes: an operation that was refused leaves nothing behind that the others would commit. What
// operations write of accounts is collected, and goes into one record of the journal.
type writer struct {
	base
	room    room
	s       *Store
	keys    messageKeys
	issuers issuers
	epochs  epochs
	tx      *bolt.Tx
	hints   *hints // of the operation that runs; nil: none
	active  *layer
	frozen  *layer // nil: none

	*scratch
	now    uint64 // latest time of a batch, Unix milliseconds
	dirty  bool   // something was written
	rotate bool   // a new window is begun after this group
	sweep  uint64 // see wantSweep
	rows   int    // heads and rows of accounts that the group wrote
	idle   bool   // a slice of background work is wanted, whatever else the group does
	err    error  // first error of a write

	released map[uint64]bool // numbers of messages that the group removed
	after    []func()        // what is to be done once the group is durable, with Store.state held
}

func (w *writer) put(b *bolt.Bucket, key, value []byte) {
	w.dirty = true
	if w.err == nil {
		w.err = b.Put(key, value)
	}
}

func (w *writer) del(b *bolt.Bucket, key []byte) {
	w.dirty = true
	if w.err == nil {
		w.err = b.Delete(key)
	}
}

// next returns a number that the bucket never gave before.
func (w *writer) next(b *bolt.Bucket) uint64 {
	w.dirty = true
	if w.err != nil {
		return 0
	}
	var n uint64
	n, w.err = b.NextSequence()
	return n
}

// account returns the account. All operations of the group share it.
func (w *writer) account(name event.Account) (*account, error) {
	if a := w.byAcc[name]; a != nil {
		return a, nil
	}
	a := w.free()
	a.name, a.head, a.base = name, head{epoch: 1}, &w.base
	one := w.hints.of(name)
	w.hints.use(a, one, w.newest())
	if err := w.look(a, one); err != nil {
		return nil, err
	}
	w.keep(a)
	return a, nil
}

func (w *writer) keep(a *account) {
	w.byAcc[a.name] = a
	w.accts = append(w.accts, a)
}

// look finds the account's number, head and parts.
func (w *writer) look(a *account, one *hint) error {
	known := w.hints.seated(a, one, w.active)
	if !known {
		if a.index, known = w.active.find(a.name); known {
			a.seat = w.active.seat(a.index)
		}
	}
	if known {
		a.aid = a.seat.aid
	} else if w.frozen != nil {
		a.aid, known = w.frozen.named(a.name)
	}
	switch {
	case known && a.aid != a.hinted:
		a.looked, a.known = false, nil // the account is another one by now
	case !known && a.hinted != 0:
		a.aid = a.hinted
	case !known:
		var err error
		if a.aid, err = w.named(a.name); err != nil || a.aid == 0 {
			return err
		}
	}
	if w.parts(a) {
		return nil
	}
	s, err := a.slot()
	if err == nil && s.epoch == 0 {
		err = corrupt("head")
	}
	a.head = s.orEmpty()
	return err
}

func (s *slot) orEmpty() head {
	if s == nil {
		return head{}
	}
	return s.head
}

// parts finds what memory has of the account. The head is that of the newest.
func (w *writer) parts(a *account) bool {
	if a.seat == nil {
		a.seat, a.index = w.active.of(a.aid)
	}
	if a.seat != nil {
		a.head = a.seat.head
		a.parts = append(a.parts, w.active.memory(a.seat, a.index, false))
	}
	if w.frozen == nil {
		return a.seat != nil
	}
	if s, i := w.frozen.of(a.aid); s != nil {
		if a.seat == nil {
			a.head = s.head
		}
		a.parts = append(a.parts, w.frozen.memory(s, i, false))
	}
	return len(a.parts) != 0
}

// touch begins the changes of an account, and gives it a number if it has none.
func (w *writer) touch(a *account) {
	w.dirty = true
	if a.staged {
		return
	}
	a.staged, a.stage.aid = true, a.aid
	if a.aid == 0 {
		a.aid = w.next(w.names.Bucket)
		a.looked = true // there is nothing in the file
		a.stage.aid, a.stage.name = a.aid, a.name
	}
	a.parts = slices.Insert(a.parts, 0, memory{whole: &a.stage.part})
}

// set changes a row of an account; an empty value removes it.
func (w *writer) set(a *account, key, value string) {
	w.touch(a)
	a.stage.put(key, value)
}

// flush writes what the operations changed of accounts to the journal.
func (w *writer) flush() error {
	r := &w.log
	r.begin()
	for _, a := range w.accts {
		if a.staged {
			a.stage.head = a.head
			w.rows += 1 + a.stage.count()
			r.add(&a.stage)
		}
	}
	if w.err != nil || r.empty() {
		return w.err
	}
	journal, err := w.tx.CreateBucketIfNotExists(journalName(w.active.number))
	if err != nil {
		return err
	}
	journal.FillPercent = sequentialFill
	return r.write(journal)
}

// publish makes visible what the group did. Store.state is held.
func (w *writer) publish() {
	for _, a := range w.accts {
		switch {
		case a.staged && a.seat != nil:
			w.buf = w.active.publishAt(a.seat, a.index, a.name, &a.stage, w.buf)
		case a.staged:
			w.buf = w.active.publish(a.name, &a.stage, w.buf)
		}
	}
	for _, f := range w.after {
		f()
	}
}
