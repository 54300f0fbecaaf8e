package boltstore

import (
	"bytes"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// buckets are the buckets of one transaction.
type buckets struct {
	names, accounts, ids, messages, blobs, places, refs, purge *bolt.Bucket
}

func openBuckets(tx *bolt.Tx) (buckets, error) {
	var b buckets
	for _, f := range [...]struct {
		name string
		to   **bolt.Bucket
	}{
		{bucketNames, &b.names}, {bucketAccounts, &b.accounts}, {bucketIDs, &b.ids}, {bucketMessages, &b.messages},
		{bucketBlobs, &b.blobs}, {bucketPlaces, &b.places}, {bucketRefs, &b.refs}, {bucketPurge, &b.purge},
	} {
		if *f.to = tx.Bucket([]byte(f.name)); *f.to == nil {
			return buckets{}, corrupt("bucket " + f.name)
		}
	}
	for _, s := range [...]*bolt.Bucket{b.messages, b.blobs, b.places, b.refs} {
		s.FillPercent = sequentialFill
	}
	return b, nil
}

// account is one account as a transaction sees it.
type account struct {
	name  event.Account
	aid   uint64 // 0: the account has no rows yet
	head  head
	dirty bool // the head must be written
}

// find returns the account's number and head; number 0 if it was never written.
func (b *buckets) find(name event.Account) (account, error) {
	a := account{name: name, head: head{epoch: 1}}
	v := b.names.Get([]byte(name))
	if v == nil {
		return a, nil
	}
	var err error
	if a.aid, err = number(v, "account number"); err != nil {
		return a, err
	}
	row := b.accounts.Get(headKey(a.aid))
	if row == nil {
		return a, corrupt("head")
	}
	a.head, err = decodeHead(string(row))
	return a, err
}

// writer is the transaction of one group of operations. Each operation makes all its checks, returns an error if one
// fails, and only then writes: an operation that was refused leaves nothing behind that the others would commit.
type writer struct {
	buckets
	room room

	accts []*account // in order of first use
	byAcc map[event.Account]*account
	dirty bool  // something was written
	err   error // first error of a write
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
	a, err := w.find(name)
	if err != nil {
		return nil, err
	}
	if w.byAcc == nil {
		w.byAcc = make(map[event.Account]*account)
	}
	w.byAcc[name] = &a
	w.accts = append(w.accts, &a)
	return &a, nil
}

// touch marks the head to be written, and gives the account a number if it has none.
func (w *writer) touch(a *account) {
	a.dirty, w.dirty = true, true
	if a.aid == 0 {
		a.aid = w.next(w.names)
		w.put(w.names, []byte(a.name), numberKey(a.aid))
	}
}

// flush writes the heads.
func (w *writer) flush() error {
	for _, a := range w.accts {
		if a.dirty {
			w.put(w.accounts, headKey(a.aid), a.head.encode())
			a.dirty = false
		}
	}
	return w.err
}

// scan calls f with the rows whose keys begin with prefix, from the first one that is not below start, until f returns
// false. Keys come without the prefix. f must keep neither slice and must not write.
func scan(b *bolt.Bucket, prefix, start []byte, f func(rest, value []byte) (bool, error)) error {
	c := b.Cursor()
	for k, v := c.Seek(start); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if more, err := f(k[len(prefix):], v); err != nil || !more {
			return err
		}
	}
	return nil
}

// keysWith returns copies of the keys that begin with prefix.
func keysWith(b *bolt.Bucket, prefix []byte) [][]byte {
	var keys [][]byte
	c := b.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// addMessage stores what the copies of a message share, and returns its number.
func (w *writer) addMessage(in *store.Message, now uint64) uint64 {
	mid := w.next(w.messages)
	m := newMessage(in, now)
	if in.Of != "" {
		m.of = w.hold(in.Of)
	}
	w.put(w.messages, numberKey(mid), w.addValue(m.encodeHeader(), in.Payload))
	w.put(w.ids, []byte(in.ID), numberKey(mid))
	w.put(w.refs, numberKey(mid), references{inboxes: uint64(len(in.To))}.encode())
	return mid
}

// hold has a message stay known, and returns its number; 0 if there is none.
func (w *writer) hold(id event.MessageID) uint64 {
	mid, err := number(w.ids.Get([]byte(id)), "message number")
	if err != nil {
		return 0
	}
	refs, err := decodeReferences(w.refs.Get(numberKey(mid)))
	if err != nil {
		return 0
	}
	refs.changes++
	w.put(w.refs, numberKey(mid), refs.encode())
	return mid
}

// addValue appends data to a row, or stores it beside if the row would get too long.
func (w *writer) addValue(row, data []byte) []byte {
	if len(row)+binary.MaxVarintLen32+len(data) <= rowMax {
		return appendInline(row, data)
	}
	blob, n := w.next(w.blobs), uint32(0)
	for part := range slices.Chunk(bytes.Clone(data), rowMax) {
		w.put(w.blobs, chunkKey(blob, n), part)
		n++
	}
	return appendBlob(row, len(data), blob)
}

// dropValue removes what addValue stored beside the row.
func (w *writer) dropValue(v *value) {
	if v.blob == 0 {
		return
	}
	for _, k := range keysWith(w.blobs, numberKey(v.blob)) {
		w.del(w.blobs, k)
	}
}

// value returns a copy of a value; nil if it is empty.
func (b *buckets) value(v *value) ([]byte, error) {
	if v.size == 0 {
		return nil, nil
	}
	if v.blob == 0 {
		return []byte(v.inline), nil
	}
	data := make([]byte, 0, v.size)
	prefix := numberKey(v.blob)
	err := scan(b.blobs, prefix, prefix, func(_, part []byte) (bool, error) {
		data = append(data, part...)
		return len(data) < v.size, nil
	})
	if err == nil && len(data) != v.size {
		err = corrupt("blob")
	}
	return data, err
}

// register returns a copy of a register, and false if there is none.
func (b *buckets) register(key []byte, c event.ConversationID, name string) (event.State, value, bool, error) {
	row := b.accounts.Get(key)
	if row == nil {
		return event.State{}, value{}, false, nil
	}
	s, err := decodeState(string(row))
	if err != nil {
		return event.State{}, value{}, false, err
	}
	data, err := b.value(&s.value)
	return event.State{Conversation: c, Name: name, Number: s.number, Value: data, Seq: s.seq}, s.value, true, err
}

// message returns what the copies of a message share.
func (b *buckets) message(mid uint64) (message, error) {
	row := b.messages.Get(numberKey(mid))
	if row == nil {
		return message{}, corrupt("message number")
	}
	return decodeMessage(string(row))
}

// release takes one inbox off a message. The payload goes with the last one, and the rest with the last message that
// changes it. If a row of it cannot be read, they all stay: that costs some room, but holds up nothing else.
func (w *writer) release(mid uint64) error {
	refs, err := decodeReferences(w.refs.Get(numberKey(mid)))
	if err != nil {
		return w.err
	}
	refs.inboxes = max(refs.inboxes, 1) - 1
	return w.unreferenced(mid, refs)
}

// unreferenced notes who still needs a message, and removes what nobody does.
func (w *writer) unreferenced(mid uint64, refs references) error {
	key := numberKey(mid)
	if refs.inboxes > 0 {
		w.put(w.refs, key, refs.encode())
		return w.err
	}
	m, err := w.message(mid)
	if err != nil {
		return w.err
	}
	w.dropValue(&m.payload)
	if refs.changes > 0 {
		w.put(w.refs, key, refs.encode())
		w.put(w.messages, key, appendInline(m.encodeHeader(), nil))
		return w.err
	}
	if v := w.ids.Get([]byte(m.id)); string(v) == string(key) {
		w.del(w.ids, []byte(m.id))
	}
	for _, k := range keysWith(w.places, key) {
		w.del(w.places, k)
	}
	w.del(w.refs, key)
	w.del(w.messages, key)
	if m.of == 0 {
		return w.err
	}
	of, err := decodeReferences(w.refs.Get(numberKey(m.of)))
	if err != nil {
		return w.err
	}
	of.changes = max(of.changes, 1) - 1
	return w.unreferenced(m.of, of)
}
