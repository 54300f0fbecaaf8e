package boltstore

import (
	"encoding/binary"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// perform does what a batch says, after all checks. Its errors are those of the file.
func (s *Store) perform(w *writer, b *store.Batch, p *plan) (store.Result, error) {
	a := p.account
	var r store.Result
	w.touch(a)
	if b.Record != nil {
		if err := w.putRecord(a, b.Record.Data); err != nil {
			return r, err
		}
		r.Revision = store.Revision(a.head.record)
	}
	for _, i := range b.Forget {
		w.set(a, cursorRow(i), "")
	}
	r.Messages = store.NewPlaced(b.Messages)
	var own place
	placed := false
	for i := range b.Messages {
		places, err := w.deliver(&b.Messages[i], p.keys[i], uint64(b.Now.UnixMilli()))
		if err != nil {
			return r, err
		}
		r.Messages[i].ID = b.Messages[i].ID
		for j := range places {
			r.Messages[i].To[j] = w.epochs.place(&places[j])
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
		w.addAttempt(b, p, own, placed)
	}
	return r, w.err
}

func (w *writer) putRecord(a *account, data []byte) error {
	old, err := a.get(recordRow())
	if err != nil {
		return err
	}
	if v, err := decodeRecord(old); err == nil {
		w.dropValue(&v)
	} else if old != "" { // else there was none
		w.s.meters.readFailures.Add(1)
	}
	a.head.revision++
	a.head.record = a.head.revision
	w.set(a, recordRow(), string(w.addValue(nil, data, inlineMax)))
	return nil
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
		key := stateRow(st.Conversation, st.Name)
		if done[key] {
			continue
		}
		done[key] = true
		w.dropValue(&st.stored)
		row := state{seq: st.Seq, number: st.Number}
		w.set(a, key, string(w.addValue(row.encodeHeader(), st.Value, inlineMax)))
	}
}

// forgetAttempts removes the expired idempotency records that were found when they were counted.
func (w *writer) forgetAttempts(p *plan) {
	w.touch(p.account)
	for _, key := range p.forgets {
		w.set(p.account, key, "")
	}
	p.account.head.attempts, p.account.head.oldest = p.attempts, p.oldest
}

func (w *writer) addAttempt(b *store.Batch, p *plan, own place, placed bool) {
	i, a := b.Idempotency, p.account
	if p.oldest != 0 { // they were counted
		w.forgetAttempts(p)
		p.again = false
	}
	t := attempt{
		digest: string(i.Digest[:]), expires: uint64(b.Now.UnixMilli() + i.Window.Milliseconds()),
		placed: placed, place: own,
	}
	if len(b.Messages) != 0 {
		t.id = b.Messages[0].ID
	}
	w.set(a, p.attempt, t.encode())
	if a.head.attempts == 0 || t.expires < a.head.oldest {
		a.head.oldest = t.expires
	}
	if !p.again {
		a.head.attempts++
	}
}

// deliver appends a message to its inboxes. The message that it changes is held before copies of that are removed. The
// places are those of this message until the next call.
func (w *writer) deliver(in *store.Message, key idKey, now uint64) ([]place, error) {
	mid, of := w.nameMessage(key), uint64(0)
	if in.Of != "" {
		of = w.hold(w.keys.key(in.Of))
	}
	places := w.inboxes[:0]
	for i := range in.To {
		p, err := w.append(mid, in, &in.To[i])
		if err != nil {
			return nil, err
		}
		places = append(places, p)
	}
	w.inboxes = places
	m := newMessage(in, now)
	m.of = of
	w.addMessage(mid, &m, in.Payload, places)
	return places, w.err
}

// append appends one copy, and removes those that it replaces.
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
	counts := e.flags&event.FlagUnread != 0
	successor := to.Replaces.Seq != 0 && to.Replaces.Epoch == w.epochs.of(a.head.epoch)
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
		w.set(a, keyRow(in.Key), string(binary.AppendUvarint(nil, a.head.seq)))
	}
	w.buf = e.append(w.buf[:0])
	a.stage.entries = append(a.stage.entries, logged{a.head.seq, string(w.buf)})
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
		seq, err := a.keyed(key)
		if err != nil {
			return err
		}
		if seq != 0 {
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

// keyed returns the number of the entry with a coalesce key, 0 if there is none.
func (a *account) keyed(key string) (uint64, error) {
	v, err := a.get(keyRow(key))
	if err != nil || v == "" {
		return 0, err
	}
	d := decoder{rest: v}
	seq := d.uvarint()
	return seq, d.done("key")
}

// count returns the next ordinal of a conversation.
func (w *writer) count(a *account, c event.ConversationID) (uint64, error) {
	key := countRow(c)
	n, uncounted, err := a.counted(key)
	if err != nil {
		return 0, err
	}
	w.set(a, key, encodeCount(n+1, uncounted))
	return n + 1, nil
}

// uncount takes an entry out of the count of its conversation; ordinal 0 stands for one that did not count.
func (w *writer) uncount(a *account, c event.ConversationID, ordinal uint64) error {
	if ordinal == 0 {
		return nil
	}
	key := countRow(c)
	n, uncounted, err := a.counted(key)
	if err != nil {
		return err
	}
	w.set(a, key, encodeCount(n, store.Uncount(uncounted, ordinal)))
	return nil
}

func (a *account) counted(key string) (uint64, []uint64, error) {
	row, err := a.get(key)
	if err != nil || row == "" {
		return 0, nil, err
	}
	return decodeCount(row)
}

// begin creates the cursors of new devices.
func (w *writer) begin(a *account, devices []store.Begin) error {
	for _, d := range devices {
		key := cursorRow(d.Incarnation)
		if have, err := a.get(key); err != nil || have != "" {
			if err != nil {
				return err
			}
			continue
		}
		seq := a.head.seq - min(d.Back, a.head.seq)
		if d.At != 0 {
			seq = min(seq, d.At)
		}
		seq = max(seq, a.head.trim)
		w.set(a, key, encodeCursor(&store.Cursor{Seq: seq}))
	}
	return w.err
}
