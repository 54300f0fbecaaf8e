package boltstore

import (
	"encoding/binary"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// perform does what a batch says, after all checks.
func (w *writer) perform(b *store.Batch, p *plan) (store.Result, error) {
	a := p.account
	var r store.Result
	if b.Record != nil {
		a.touched = true
		a.head.revision++
		a.head.record = a.head.revision
		w.value = append(append(w.value[:0], recordMark), b.Record.Data...)
		w.set(a, recordRow, w.value)
		r.Revision = store.Revision(a.head.record)
	}
	for _, i := range b.Forget {
		w.row = cursorRow(w.row[:0], i)
		w.unset(a, w.row)
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
			r.Messages[i].To[j] = w.s.epochs.place(&places[j])
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
		return r, w.addAttempt(b, p, own, placed)
	}
	return r, nil
}

// putStates stores the registers that changed, each once, as the last update leaves it.
func (w *writer) putStates(a *account, states []register) {
	for i := range states {
		st := &states[i]
		if st.changed {
			st.Seq = a.head.seq
		}
		if st.later || !st.changed {
			continue
		}
		w.row = stateRow(w.row[:0], st.Conversation, st.Name)
		row := state{seq: st.Seq, number: st.Number, value: st.Value}
		w.value = row.append(w.value[:0])
		w.set(a, w.row, w.value)
	}
}

// deliver appends a message to its inboxes. The message that it changes is held before copies of that are removed. The
// places are those of this message until the next call.
func (w *writer) deliver(in *store.Message, key []byte, now uint64) ([]place, error) {
	m := newMessage(in, now)
	if in.Of != "" {
		of := w.s.keys.key(nil, in.Of)
		if held, err := w.hold(of); err != nil {
			return nil, err
		} else if held {
			m.of = of
		}
	}
	places := w.inboxes[:0]
	for i := range in.To {
		p, err := w.append(key, in, &in.To[i])
		if err != nil {
			return nil, err
		}
		places = append(places, p)
	}
	w.inboxes = places
	w.addMessage(key, &m, in.Payload, places)
	return places, nil
}

// append appends one copy, and removes those that it replaces.
func (w *writer) append(key []byte, in *store.Message, to *store.Inbox) (place, error) {
	a, err := w.account(to.Account)
	if err != nil {
		return place{}, err
	}
	a.touched = true
	e := entry{message: key, flags: in.Flags | to.Flags, size: uint64(len(in.Payload)), key: in.Key, targets: to.Targets}
	if to.Account == in.From {
		e.clientID, e.origin = in.ClientID, in.Origin
	}
	counts := e.flags&event.FlagUnread != 0
	successor := to.Replaces.Seq != 0 && to.Replaces.Epoch == w.s.epochs.of(a.head.generation)
	if err := w.replace(a, &e, in, to, successor); err != nil {
		return place{}, err
	}
	if counts {
		if e.ordinal, err = w.count(a, in.Conversation); err != nil {
			return place{}, err
		}
	}
	if e.ordinal != 0 {
		w.conversation = append(w.conversation[:0], in.Conversation...)
		e.countedIn = w.conversation
	}
	a.head.seq++
	a.head.bytes += e.size + entryBytes
	if in.Key == "" {
		a.head.entries++
	} else {
		w.row, w.value = keyRow(w.row[:0], in.Key), binary.AppendUvarint(w.value[:0], a.head.seq)
		w.set(a, w.row, w.value)
	}
	w.row, w.value = entryRow(w.row[:0], a.head.seq), e.append(w.value[:0])
	w.set(a, w.row, w.value)
	return place{account: to.Account, generation: a.head.generation, seq: a.head.seq, ordinal: e.ordinal}, nil
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
		if old.message == nil {
			continue
		}
		if successor && len(to.Targets) == 0 && e.targets == nil {
			e.targets = old.targets
		}
		heir := successor && !in.Uncount && e.flags&event.FlagUnread == 0 && string(old.countedIn) == string(in.Conversation)
		if heir && old.ordinal > 0 {
			e.ordinal, e.flags = old.ordinal, e.flags|event.FlagUnread
			continue
		}
		if err := w.uncount(a, &old); err != nil {
			return err
		}
	}
	return nil
}

// count returns the next ordinal of a conversation.
func (w *writer) count(a *account, c event.ConversationID) (uint64, error) {
	n, uncounted, err := a.countOf(c)
	if err != nil {
		return 0, err
	}
	w.putCount(a, c, n+1, uncounted)
	return n + 1, nil
}

func (w *writer) putCount(a *account, c event.ConversationID, counted uint64, uncounted []uint64) {
	w.row, w.value = countRow(w.row[:0], c), appendCount(w.value[:0], counted, uncounted)
	w.set(a, w.row, w.value)
}

// uncount takes an entry out of the count of its conversation, if it counts.
func (w *writer) uncount(a *account, e *entry) error {
	if e.ordinal == 0 {
		return nil
	}
	c := event.ConversationID(e.countedIn)
	n, uncounted, err := a.countOf(c)
	if err != nil {
		return err
	}
	w.putCount(a, c, n, store.Uncount(uncounted, e.ordinal))
	return nil
}

// begin creates the cursors of new devices.
func (w *writer) begin(a *account, devices []store.Begin) error {
	for _, d := range devices {
		w.row = cursorRow(w.row[:0], d.Incarnation)
		if have, err := a.get(w.row); err != nil || have != nil {
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
		w.value = appendCursor(w.value[:0], &store.Cursor{Seq: seq})
		w.set(a, w.row, w.value)
	}
	return nil
}
