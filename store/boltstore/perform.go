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
		places, err := s.deliver(w, &b.Messages[i], uint64(b.Now.UnixMilli()))
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
func (s *Store) deliver(w *writer, in *store.Message, now uint64) ([]place, error) {
	mid := w.addMessage(in, now)
	places := make([]place, len(in.To))
	for i := range in.To {
		var err error
		if places[i], err = w.append(mid, in, &in.To[i], s.epoch); err != nil {
			return nil, err
		}
	}
	for i, row := range encodePlaces(places) {
		w.put(w.places, chunkKey(mid, uint32(i)), row)
	}
	return places, w.err
}

// append appends one copy, and removes those that it replaces.
func (w *writer) append(mid uint64, in *store.Message, to *store.Inbox, epoch func(uint32) event.Epoch) (place, error) {
	a, err := w.account(to.Account)
	if err != nil {
		return place{}, err
	}
	w.touch(a)
	e := entry{mid: mid, flags: in.Flags | to.Flags, size: uint64(len(in.Payload)), key: in.Key, targets: to.Targets}
	if to.Account == in.From {
		e.clientID, e.origin = in.ClientID, in.Origin
	}
	counts := e.flags&event.FlagUnread != 0
	successor := to.Replaces.Seq != 0 && to.Replaces.Epoch == epoch(a.head.epoch)
	if err := w.replace(a, &e, in, to, successor); err != nil {
		return place{}, err
	}
	if counts {
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

// replace removes the entries that e takes the place of. A successor takes over what it has to.
func (w *writer) replace(a *account, e *entry, in *store.Message, to *store.Inbox, successor bool) error {
	var seqs []uint64
	if successor {
		seqs = append(seqs, to.Replaces.Seq)
	}
	for _, key := range [...]string{in.Key, in.Drop} {
		if key == "" {
			continue
		}
		if v := w.accounts.Get(coalesceKey(a.aid, key)); v != nil {
			seq, err := number(v, "key")
			if err != nil {
				return err
			}
			seqs = append(seqs, seq)
		}
	}
	for _, seq := range seqs {
		old, err := w.remove(a, seq)
		if err != nil {
			return err
		}
		if old.mid == 0 {
			continue
		}
		if successor && len(to.Targets) == 0 && e.targets == nil {
			e.targets = old.targets
		}
		heir := successor && !in.Uncount && e.flags&event.FlagUnread == 0 && old.conversation == in.Conversation
		if heir && old.ordinal > 0 {
			e.ordinal, e.flags = old.ordinal, e.flags|event.FlagUnread
			continue
		}
		if err := w.uncount(a, old.conversation, old.ordinal); err != nil {
			return err
		}
	}
	return nil
}

// count returns the next ordinal of a conversation.
func (w *writer) count(a *account, c event.ConversationID) (uint64, error) {
	n, uncounted, err := w.counted(a, c)
	if err != nil {
		return 0, err
	}
	w.put(w.accounts, ordinalKey(a.aid, c), encodeCount(n+1, uncounted))
	return n + 1, w.err
}

// uncount takes an entry out of the count of its conversation; ordinal 0 stands for one that did not count.
func (w *writer) uncount(a *account, c event.ConversationID, ordinal uint64) error {
	if ordinal == 0 {
		return nil
	}
	n, uncounted, err := w.counted(a, c)
	if err != nil {
		return err
	}
	w.put(w.accounts, ordinalKey(a.aid, c), encodeCount(n, store.Uncount(uncounted, ordinal)))
	return w.err
}

func (w *writer) counted(a *account, c event.ConversationID) (uint64, []uint64, error) {
	row := w.accounts.Get(ordinalKey(a.aid, c))
	if row == nil {
		return 0, nil, nil
	}
	return decodeCount(row)
}

// removed is an entry that was, and its conversation if it counted as unread.
type removed struct {
	entry
	conversation event.ConversationID
}

// remove takes an entry out of an inbox and returns it as it was. A number without an entry is skipped: then it has no
// message.
func (w *writer) remove(a *account, seq uint64) (removed, error) {
	key := entryKey(a.aid, seq)
	row := w.accounts.Get(key)
	if row == nil {
		return removed{}, nil
	}
	e, err := decodeEntry(string(row))
	if err != nil {
		return removed{}, err
	}
	if a.head.bytes < e.size+entryBytes || e.key == "" && a.head.entries == 0 {
		return removed{}, corrupt("count of entries")
	}
	old := removed{entry: e}
	if e.ordinal > 0 {
		m, err := w.message(e.mid)
		if err != nil {
			return removed{}, err
		}
		old.conversation = m.conversation
	}
	w.touch(a)
	a.head.bytes -= e.size + entryBytes
	if e.key == "" {
		a.head.entries--
	} else if k := coalesceKey(a.aid, e.key); string(w.accounts.Get(k)) == string(numberKey(seq)) {
		w.del(w.accounts, k)
	}
	w.del(w.accounts, key)
	return old, w.release(e.mid)
}

// begin creates the cursors of new devices.
func (w *writer) begin(a *account, devices []store.Begin) error {
	for _, d := range devices {
		key := cursorKey(a.aid, d.Incarnation)
		if w.accounts.Get(key) != nil {
			continue
		}
		seq := a.head.seq - min(d.Back, a.head.seq)
		if d.At != 0 {
			seq = min(seq, d.At)
		}
		seq = max(seq, a.head.trim)
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
