package boltstore

import (
	"context"
	"errors"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Commit implements [store.Store]. A message ID that an inbox still holds is refused with an [*event.InvalidError].
func (s *Store) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	if err := b.Validate(); err != nil {
		return store.Result{}, err
	}
	c := &struct { // one piece
		plan
		result store.Result
		key    [1][]byte
		bytes  [16]byte
	}{plan: plan{need: size(&b)}}
	p := &c.plan
	p.keys = c.key[:0]
	for i := range b.Messages {
		to := c.bytes[:0]
		if i > 0 {
			to = nil
		}
		p.keys = append(p.keys, s.keys.key(to, b.Messages[i].ID))
	}
	err := s.update(ctx, p.need, func(w *writer) error {
		*p = plan{need: p.need, keys: p.keys, room: p.room}
		err := w.check(&b, p)
		if err != nil || p.refusal != nil {
			return err
		}
		if p.answer == nil {
			c.result, err = w.perform(&b, p)
			return err
		}
		c.result = *p.answer
		return nil
	})
	s.logRoom(p.room)
	if p.refusal != nil { // whatever became of what the operation noted
		err = p.refusal
	}
	if errors.Is(err, store.ErrWindowFull) {
		s.meters.windowFull.Add(1)
	}
	if err != nil {
		return store.Result{}, err
	}
	return c.result, nil
}

// plan is what is known of a batch before it is performed.
type plan struct {
	need     int64    // bytes of rows, at most about
	keys     [][]byte // of the messages
	account  *account
	answer   *store.Result // not nil: this is the result, and nothing is to be done
	refusal  error         // not nil: this is the result, and what was counted is kept
	again    bool          // the idempotency record takes the place of an expired one
	forgets  [][]byte      // keys of expired idempotency records to remove
	attempts uint64        // if there are any: how many are left then
	recount  uint64        // and from when on they are counted again
	states   []register    // one for each of Batch.States
	room     roomChange    // for the log
}

// register is one register after an update.
type register struct {
	event.State
	changed bool // by this or an earlier update of the batch
	later   bool // another update of the batch follows
}

// check makes all checks of a batch in their order, and writes nothing.
func (w *writer) check(b *store.Batch, p *plan) error {
	a, err := w.account(b.Account)
	if err != nil {
		return err
	}
	p.account = a
	if b.Idempotency != nil {
		if err := w.checkAttempt(b, p); err != nil || p.answer != nil || p.refusal != nil {
			return err
		}
	}
	if b.Record != nil && b.Record.Expect != store.Revision(a.head.record) {
		return store.ErrConflict
	}
	changed, err := w.mergeStates(b, p)
	if err != nil {
		return err
	}
	if b.OnlyIfChanged && !changed {
		p.answer = &store.Result{Unchanged: true, States: p.result()}
		if b.Record != nil {
			p.answer.Revision = store.Revision(a.head.record)
		}
		return nil
	}
	for _, key := range p.keys {
		if used, err := w.known(key); err != nil {
			return err
		} else if used {
			return &event.InvalidError{Field: "message ID", Reason: "used before"}
		}
	}
	if len(b.Messages) == 0 && b.Record == nil && len(b.States) == 0 && b.Idempotency == nil {
		return nil // nothing that stays
	}
	room, err := w.take(p.need, b.Reserve)
	if room != (roomChange{}) {
		p.room = room
	}
	return err
}

// mergeStates finds out what becomes of the registers that the batch names, and reports whether any changes.
func (w *writer) mergeStates(b *store.Batch, p *plan) (bool, error) {
	if len(b.States) == 0 {
		return false, nil
	}
	changes := false
	latest := newLatest(b.States)
	p.states = make([]register, len(b.States))
	for i := range b.States {
		u, old := &b.States[i], register{}
		j, known := latest.before(i)
		if known {
			old = p.states[j]
			p.states[j].later = true
		} else {
			var err error
			old.State, known, err = p.account.register(u.Conversation, u.Name)
			if err != nil {
				return false, err
			}
		}
		var before *event.State
		if known {
			before = &old.State
		}
		next, changed := store.Merge(before, *u)
		p.states[i] = register{State: next, changed: old.changed || changed}
		changes = changes || changed
	}
	return changes, nil
}

// latest finds earlier updates of the same register in a batch. Nearly all batches have few, which need no map.
type latest struct {
	updates []store.StateUpdate
	many    map[registerName]int
}

type registerName struct {
	conversation event.ConversationID
	name         string
}

const fewUpdates = 8

func newLatest(updates []store.StateUpdate) latest {
	l := latest{updates: updates}
	if len(updates) > fewUpdates {
		l.many = make(map[registerName]int, len(updates))
	}
	return l
}

// before returns the last update of a register before update i. It is called for one after another.
func (l *latest) before(i int) (j int, ok bool) {
	u := &l.updates[i]
	if l.many != nil {
		name := registerName{u.Conversation, u.Name}
		j, ok = l.many[name]
		l.many[name] = i
		return j, ok
	}
	for j = i - 1; j >= 0; j-- {
		if l.updates[j].Name == u.Name && l.updates[j].Conversation == u.Conversation {
			return j, true
		}
	}
	return 0, false
}

// result returns copies of the registers in the order of Batch.States.
func (p *plan) result() []event.State {
	if len(p.states) == 0 {
		return nil
	}
	states := make([]event.State, len(p.states))
	for i := range p.states {
		states[i] = p.states[i].State
		states[i].Value = slices.Clone(states[i].Value)
	}
	return states
}
