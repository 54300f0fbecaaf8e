package boltstore

import (
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// perform does what a batch says, after all checks. Its errors are those of the file.
func (s *Store) perform(w *writer, b *store.Batch, p *plan) (store.Result, error) {
	a := p.account
	var r store.Result
	w.touch(a)
	if err := w.forgetAttempts(a, p.expired); err != nil {
		return r, err
	}
	if b.Record != nil {
		w.putRecord(a, b.Record.Data)
		r.Revision = store.Revision(a.head.record)
	}
	for _, i := range b.Forget {
		w.del(w.accounts, cursorKey(a.aid, i))
	}
	if len(b.Messages) != 0 {
		r.Messages = make([]store.Placed, len(b.Messages))
	}
	var own place
	placed := false
	for i := range b.Messages {
		places, err := w.deliver(&b.Messages[i], uint64(b.Now.UnixMilli()))
		if err != nil {
			return r, err
		}
		r.Messages[i] = store.Placed{ID: b.Messages[i].ID, To: make([]store.Place, len(places))}
		for j := range places {
			r.Messages[i].To[j] = s.place(&places[j])
			if i == 0 && places[j].account == b.Account {
				own, placed = places[j], true
			}
		}
	}
	if err := w.begin(a, b.Begin); err != nil {
		return r, err
	}
	w.putStates(a, p.states)
	r.States = p.result()
	if b.Idempotency != nil {
		w.addAttempt(a, b, own, placed)
	}
	return r, w.err
}

func (w *writer) putRecord(a *account, data []byte) {
	key := recordKey(a.aid)
	if old, err := decodeRecord(string(w.accounts.Get(key))); err == nil { // else there was none
		w.dropValue(&old)
	}
	a.head.revision++
	a.head.record = a.head.revision
	w.put(w.accounts, key, w.addValue(nil, data))
}

// putStates stores the registers that changed, each once, as the last update leaves it.
func (w *writer) putStates(a *account, states []register) {
	done := make(map[string]bool, len(states))
	for i := range slices.Backward(states) {
		st := &states[i]
		if !st.changed {
			continue
		}
		st.Seq = a.head.seq
		key := stateKey(a.aid, st.Conversation, st.Name)
		if done[string(key)] {
			continue
		}
		done[string(key)] = true
		w.dropValue(&st.stored)
		row := state{seq: st.Seq, number: st.Number}
		w.put(w.accounts, key, w.addValue(row.encodeHeader(), st.Value))
	}
}

func (w *writer) forgetAttempts(a *account, expired [][]byte) error {
	for _, rest := range expired {
		_, name, err := splitExpiryKey(rest)
		if err != nil {
			return err
		}
		w.del(w.accounts, append(tagKeyFor(a.aid, tagExpiry, len(rest)), rest...))
		w.del(w.accounts, append(tagKeyFor(a.aid, tagIdempotency, len(name)), name...))
		a.head.attempts--
	}
	return w.err
}

func (w *writer) addAttempt(a *account, b *store.Batch, own place, placed bool) {
	i := b.Idempotency
	t := attempt{
		digest: string(i.Digest[:]), expires: uint64(b.Now.UnixMilli() + i.Window.Milliseconds()),
		placed: placed, place: own,
	}
	if len(b.Messages) != 0 {
		t.id = b.Messages[0].ID
	}
	name := attemptKey(a.aid, i.Device, i.ClientID)
	w.put(w.accounts, name, t.encode())
	w.put(w.accounts, expiryKey(a.aid, t.expires, name[prefixBytes:]), nil)
	a.head.attempts++
}

// deliver appends a message to its inboxes.
func (w *writer) deliver(in *store.Message, now uint64) ([]place, error) {
	mid := w.addMessage(in, now)
	places := make([]place, len(in.To))
	for i := range in.To {
		var err error
		if places[i], err = w.append(mid, in, &in.To[i]); err != nil {
			return nil, err
		}
	}
	for i, row := range encodePlaces(places) {
		w.put(w.places, chunkKey(mid, uint32(i)), row)
	}
	return places, w.err
}

// append appends one copy, and removes the one that it supersedes.
func (w *writer) append(mid uint64, in *store.Message, to *store.Inbox) (place, error) {
	a, err := w.account(to.Account)
	if err != nil {
		return place{}, err
	}
	w.touch(a)
	e := entry{mid: mid, flags: in.Flags | to.Flags, size: uint64(len(in.Payload)), key: in.Key, targets: to.Targets}
	if to.Account == in.From {
		e.clientID, e.origin = in.ClientID, in.Origin
	}
	if in.Key != "" {
		if err := w.supersede(a, in.Key); err != nil {
			return place{}, err
		}
	}
	if e.flags&event.FlagUnread != 0 {
		if e.ordinal, err = w.count(a, in.Conversation); err != nil {
			return place{}, err
		}
	}
	a.head.seq++
	a.head.bytes += e.size + entryBytes
	if in.Key == "" {
		a.head.entries++
	} else {
		w.put(w.accounts, coalesceKey(a.aid, in.Key), numberKey(a.head.seq))
	}
	w.put(w.accounts, entryKey(a.aid, a.head.seq), e.encode())
	return place{account: to.Account, epoch: a.head.epoch, seq: a.head.seq, ordinal: e.ordinal}, w.err
}

// count returns the next ordinal of a conversation.
func (w *writer) count(a *account, c event.ConversationID) (uint64, error) {
	key, n := ordinalKey(a.aid, c), uint64(0)
	if v := w.accounts.Get(key); v != nil {
		var err error
		if n, err = number(v, "ordinal"); err != nil {
			return 0, err
		}
	}
	w.put(w.accounts, key, numberKey(n+1))
	return n + 1, w.err
}

func (w *writer) supersede(a *account, key string) error {
	v := w.accounts.Get(coalesceKey(a.aid, key))
	if v == nil {
		return nil
	}
	seq, err := number(v, "key")
	if err != nil {
		return err
	}
	return w.remove(a, seq)
}

// remove takes an entry out of an inbox. A number without an entry is skipped.
func (w *writer) remove(a *account, seq uint64) error {
	key := entryKey(a.aid, seq)
	row := w.accounts.Get(key)
	if row == nil {
		return nil
	}
	e, err := decodeEntry(string(row))
	if err != nil {
		return err
	}
	if a.head.bytes < e.size+entryBytes || e.key == "" && a.head.entries == 0 {
		return corrupt("count of entries")
	}
	w.touch(a)
	a.head.bytes -= e.size + entryBytes
	if e.key == "" {
		a.head.entries--
	} else if k := coalesceKey(a.aid, e.key); string(w.accounts.Get(k)) == string(numberKey(seq)) {
		w.del(w.accounts, k)
	}
	w.del(w.accounts, key)
	return w.release(e.mid)
}

// begin creates the cursors of new devices.
func (w *writer) begin(a *account, devices []store.Begin) error {
	for _, d := range devices {
		key := cursorKey(a.aid, d.Incarnation)
		if w.accounts.Get(key) != nil {
			continue
		}
		seq := max(a.head.trim, a.head.seq-min(d.Back, a.head.seq))
		w.put(w.accounts, key, encodeCursor(&store.Cursor{Seq: seq}))
	}
	return w.err
}

// saveCursor merges a cursor by maximum, if it is there.
func (w *writer) saveCursor(c *store.Cursor) error {
	a, err := w.account(c.Account)
	if err != nil {
		return err
	}
	if a.aid == 0 {
		return nil
	}
	key := cursorKey(a.aid, c.Incarnation)
	row := w.accounts.Get(key)
	if row == nil {
		return nil // never begun, or forgotten
	}
	old, err := decodeCursor(string(row))
	if err != nil {
		return err
	}
	next := *c
	next.Seq, next.Sent = max(next.Seq, old.Seq), max(next.Sent, old.Sent)
	if next.Seq == old.Seq && next.Sent == old.Sent {
		return nil
	}
	w.put(w.accounts, key, encodeCursor(&next))
	return w.err
}
