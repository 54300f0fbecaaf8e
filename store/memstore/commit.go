package memstore

import (
	"context"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Commit implements [store.Store]. A message ID that an inbox still holds is refused with an [*event.InvalidError].
func (s *Store) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	if err := b.Validate(); err != nil {
		return store.Result{}, err
	}
	var few [1]*message
	messages := few[:0]
	for i := range b.Messages { // before the lock, which is everybody's
		messages = append(messages, newMessage(&b.Messages[i], b.Now.UnixMilli()))
	}
	placed := store.NewPlaced(b.Messages)
	if err := s.lock(ctx); err != nil {
		return store.Result{}, err
	}
	defer s.mu.Unlock()
	if r, done, err := s.checkLocked(&b); done || err != nil {
		return r, err
	}
	return s.applyLocked(&b, messages, placed), nil
}

// checkLocked makes all checks of a batch in their order. It reports whether the result is known without doing anything.
func (s *Store) checkLocked(b *store.Batch) (store.Result, bool, error) {
	a := s.accounts[b.Account]
	if a == nil {
		a = &account{} // not made before it is known that the batch is applied
	}
	if i := b.Idempotency; i != nil {
		first, err := a.window.check(i, b.Now.UnixMilli())
		if err != nil {
			return store.Result{}, false, err
		}
		if first != nil {
			return first.result(), true, nil
		}
	}
	if b.Record != nil && b.Record.Expect != a.revision {
		return store.Result{}, false, store.ErrConflict
	}
	if b.OnlyIfChanged && !changes(a, b.States) {
		r := store.Result{Unchanged: true, States: current(a, b.States)}
		if b.Record != nil {
			r.Revision = a.revision
		}
		return r, true, nil
	}
	return store.Result{}, false, s.roomLocked(b)
}

func changes(a *account, updates []store.StateUpdate) bool {
	for i := range updates {
		if _, changed := a.merged(&updates[i]); changed {
			return true
		}
	}
	return false
}

// current returns copies of registers that are all there.
func current(a *account, updates []store.StateUpdate) []event.State {
	var states []event.State
	for i := range updates {
		state, _ := a.merged(&updates[i])
		state.Value = slices.Clone(state.Value)
		states = append(states, state)
	}
	return states
}

func (s *Store) roomLocked(b *store.Batch) error {
	var need int64
	for i := range b.Messages {
		m := &b.Messages[i]
		if _, ok := s.messages[m.ID]; ok {
			return &event.InvalidError{Field: "message ID", Reason: "used before"}
		}
		need += int64(len(m.Payload)) + int64(len(m.To))*entryBytes
	}
	if s.maximum == 0 || need == 0 {
		return nil
	}
	limit := s.maximum
	if b.Reserve {
		limit += s.reserve
	}
	if s.bytes+need > limit {
		return store.ErrFull
	}
	return nil
}

// applyLocked does what the batch says, with what was made for its messages before. Nothing in it can fail.
func (s *Store) applyLocked(b *store.Batch, messages []*message, placed []store.Placed) store.Result {
	a := s.accountLocked(b.Account)
	r := store.Result{Messages: placed}
	if b.Record != nil {
		s.revision++
		a.revision, a.record = s.revision, slices.Clone(b.Record.Data)
		r.Revision = a.revision
	}
	if len(b.Forget) != 0 {
		a.cursors = slices.DeleteFunc(a.cursors, func(c store.Cursor) bool {
			return slices.Contains(b.Forget, c.Incarnation)
		})
	}
	for i, m := range messages {
		s.appendLocked(m, &b.Messages[i])
		placed[i].ID = m.id
		copy(placed[i].To, m.to)
	}
	for _, d := range b.Begin {
		a.begin(d)
	}
	for i := range b.States {
		r.States = append(r.States, a.update(&b.States[i], a.inbox.seq))
	}
	if b.Idempotency != nil {
		a.window.add(b, r.Messages)
	}
	return r
}

// newMessage makes what the copies of a message will share.
func newMessage(in *store.Message, now int64) *message {
	m := &message{
		id: in.ID, kind: in.Kind, flags: in.Flags, conversation: in.Conversation, clientID: in.ClientID, from: in.From,
		origin: in.Origin, key: in.Key, time: now, payload: in.Payload, refs: len(in.To),
	}
	if m.to = m.slots[:]; len(in.To) > 1 {
		m.to = make([]store.Place, len(in.To))
	}
	if !in.Expires.IsZero() {
		m.mayExpire, m.expires = true, in.Expires.UnixMilli()
	}
	return m
}

// appendLocked puts a message into its inboxes.
func (s *Store) appendLocked(m *message, in *store.Message) {
	if in.Of != "" {
		if m.of = s.messages[in.Of]; m.of != nil {
			m.of.holds++
		}
	}
	s.messages[m.id] = m
	s.bytes += int64(len(m.payload)) + int64(len(in.To))*entryBytes
	for i := range in.To {
		m.to[i] = s.deliverLocked(m, in, &in.To[i])
	}
}

// deliverLocked appends one copy, and removes those that it replaces.
func (s *Store) deliverLocked(m *message, in *store.Message, to *store.Inbox) store.Place {
	a := s.accountLocked(to.Account)
	box := &a.inbox
	e := entry{seq: box.seq + 1, message: m, flags: m.flags | to.Flags, targets: slices.Clone(to.Targets)}
	counts := e.flags&event.FlagUnread != 0
	successor := to.Replaces.Seq != 0 && to.Replaces.Epoch == s.epoch(a.epoch)
	replaced := box.replaced(in, to, successor)
	for _, seq := range replaced {
		old := box.punch(seq)
		if old.message == nil {
			continue
		}
		if successor && len(to.Targets) == 0 && e.targets == nil {
			e.targets = old.targets
		}
		heir := successor && !in.Uncount && e.flags&event.FlagUnread == 0 && old.message.conversation == m.conversation
		if heir && old.ordinal > 0 {
			e.ordinal, e.flags = old.ordinal, e.flags|event.FlagUnread
		} else {
			a.uncount(old.message.conversation, old.ordinal)
		}
		s.releaseLocked(old.message)
	}
	if len(replaced) > 0 { // else there is no new hole; the oldest entry is in no cache
		box.tidy()
	}
	if counts {
		e.ordinal = a.next(m.conversation)
	}
	box.seq++
	box.push(e)
	return store.Place{Account: a.name, Epoch: s.epoch(a.epoch), Seq: e.seq, Ordinal: e.ordinal}
}

// replaced returns the numbers of the entries that a message takes the place of.
func (b *inbox) replaced(in *store.Message, to *store.Inbox, successor bool) []uint64 {
	var seqs []uint64
	if successor {
		seqs = append(seqs, to.Replaces.Seq)
	}
	for _, key := range [...]string{in.Key, in.Drop} {
		if key == "" {
			continue
		}
		if seq, ok := b.keys[key]; ok {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// removedLocked accounts for an entry that left its inbox; one without a message was none.
func (s *Store) removedLocked(e entry) {
	if e.message != nil {
		s.releaseLocked(e.message)
	}
}

// releaseLocked takes one inbox off a message. The payload goes with the last one, and what is known of the message with
// the last one of those that change it.
func (s *Store) releaseLocked(m *message) {
	s.bytes -= entryBytes
	m.refs--
	if m.refs == 0 {
		s.bytes -= int64(len(m.payload))
		m.payload = nil
		s.forgetLocked(m)
	}
}

func (s *Store) forgetLocked(m *message) {
	for ; m != nil && m.refs == 0 && m.holds == 0; m = m.of {
		delete(s.messages, m.id)
		if m.of != nil {
			m.of.holds--
		}
	}
}
