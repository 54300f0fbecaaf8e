package boltstore

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Commit implements [store.Store]. A message ID that an inbox still holds, or held a moment ago, is refused
// with an [*event.InvalidError].
func (s *Store) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	if err := b.Validate(); err != nil {
		return store.Result{}, err
	}
	c := &struct { // one piece
		plan
		result store.Result
		key    [1]idKey
	}{plan: plan{need: size(&b)}}
	p := &c.plan
	p.keys = c.key[:0]
	for i := range b.Messages {
		p.keys = append(p.keys, s.keys.key(b.Messages[i].ID))
	}
	bytes := p.need
	p.need += pages(&b) * s.page
	if i := b.Idempotency; i != nil {
		p.attempt = attemptRow(i.Device, i.ClientID)
	}
	var known *hints
	if s.committing() {
		known = s.hints(ctx, &b, p.attempt)
	} // else it is this goroutine that commits, most likely, and it looks things up as it needs them
	err := s.submit(ctx, bytes, func(w *writer) error {
		w.hints = known
		defer func() { w.hints = nil }()
		err := w.check(&b, p)
		if err != nil {
			return err
		}
		if p.answer == nil {
			c.result, err = s.perform(w, &b, p)
			return err
		}
		c.result = *p.answer
		return nil
	})
	s.logRoom(p.room)
	if err == nil {
		return c.result, nil
	}
	if errors.Is(err, store.ErrWindowFull) {
		s.meters.windowFull.Add(1)
	}
	if p.oldest != 0 && errors.Is(err, store.ErrWindowFull) {
		// So that the next one is refused without counting.
		err = errors.Join(err, s.submit(ctx, 0, func(w *writer) error { return w.recount(b.Account) }))
	}
	return store.Result{}, err
}

// recount sets how many idempotency records an account has.
func (w *writer) recount(name event.Account) error {
	a, err := w.account(name)
	if err != nil || a.aid == 0 {
		return err
	}
	p := plan{account: a}
	if err := p.expire(w.now, math.MaxUint64); err != nil {
		return err
	}
	w.forgetAttempts(&p)
	return w.err
}

// plan is what is known of a batch before it is performed.
type plan struct {
	need     int64   // bytes of the file, at most
	keys     []idKey // of message IDs
	account  *account
	attempt  string        // key of the idempotency record; empty: none
	answer   *store.Result // not nil: this is the result, and nothing is to be done
	again    bool          // the idempotency record takes the place of an expired one
	forgets  []string      // keys of expired idempotency records to remove
	attempts uint64        // if there are any: how many are left then
	oldest   uint64        // and when the next one expires
	states   []register    // one for each of Batch.States
	room     roomChange    // for the log
}

// register is one register after an update.
type register struct {
	event.State
	stored  value // before the batch
	changed bool  // by this or an earlier update of the batch
}

// check makes all checks of a batch in their order, and writes nothing.
func (w *writer) check(b *store.Batch, p *plan) error {
	a, err := w.account(b.Account)
	if err != nil {
		return err
	}
	p.account = a
	w.now = max(w.now, uint64(b.Now.UnixMilli()))
	if b.Idempotency != nil {
		if err := w.checkAttempt(b, p); err != nil || p.answer != nil {
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
		if used, err := w.used(key); err != nil {
			return err
		} else if used {
			return &event.InvalidError{Field: "message ID", Reason: "used before"}
		}
	}
	if len(b.Messages) == 0 && b.Record == nil && len(b.States) == 0 && b.Idempotency == nil {
		return nil // nothing that stays
	}
	p.room, err = w.take(p.need, b.Reserve)
	return err
}

// checkAttempt looks for an earlier batch of the same name. If there is none it sees to it that there is room for one.
func (w *writer) checkAttempt(b *store.Batch, p *plan) error {
	h, now := &p.account.head, uint64(b.Now.UnixMilli())
	row, err := p.account.get(p.attempt)
	if err != nil {
		return err
	}
	if row != "" {
		first, err := decodeAttempt(row)
		if err != nil {
			return err
		}
		if now < first.expires {
			if first.digest != string(b.Idempotency.Digest[:]) {
				return store.ErrMismatch
			}
			p.answer = w.repeated(b.Account, &first)
			return nil
		}
		p.again = true
	}
	w.s.meters.filled(b.Account, h.attempts, b.Idempotency.Max)
	if h.attempts < uint64(b.Idempotency.Max) {
		return nil
	}
	if now < h.oldest {
		return store.ErrWindowFull
	}
	return p.expire(now, uint64(b.Idempotency.Max))
}

// expire finds the expired idempotency records of an account that has as many as it may have, or more: those that a
// merge of runs has dropped still count.
func (p *plan) expire(now, most uint64) error {
	p.oldest = math.MaxUint64
	err := p.account.scan(string(rune(tagAttempt)), "", func(key, value string) (bool, error) {
		t, err := decodeAttempt(value)
		if t.expires <= now {
			p.forgets = append(p.forgets, key)
		} else {
			p.attempts++
			p.oldest = min(p.oldest, t.expires)
		}
		return true, err
	})
	if err == nil && p.attempts >= most {
		err = store.ErrWindowFull
	}
	return err
}

// repeated is the result for a batch that was here before.
func (w *writer) repeated(name event.Account, first *attempt) *store.Result {
	r := &store.Result{Duplicate: true}
	if first.id != "" {
		placed := store.Placed{ID: first.id}
		if first.placed {
			own := first.place
			own.account = name
			placed.To = []store.Place{w.epochs.place(&own)}
		}
		r.Messages = []store.Placed{placed}
	}
	return r
}

// mergeStates finds out what becomes of the registers that the batch names, and reports whether any changes.
func (w *writer) mergeStates(b *store.Batch, p *plan) (bool, error) {
	if len(b.States) == 0 {
		return false, nil
	}
	changes := false
	latest := make(map[string]int, len(b.States)) // by key, in p.states
	p.states = make([]register, len(b.States))
	for i := range b.States {
		u, old := &b.States[i], register{}
		key := stateRow(u.Conversation, u.Name)
		j, known := latest[key]
		if known {
			old = p.states[j]
		} else {
			var err error
			old.State, old.stored, known, err = p.account.register(key, u.Conversation, u.Name)
			if err != nil {
				return false, err
			}
		}
		var before *event.State
		if known {
			before = &old.State
		}
		next, changed := store.Merge(before, *u)
		p.states[i] = register{State: next, stored: old.stored, changed: old.changed || changed}
		latest[key] = i
		changes = changes || changed
	}
	return changes, nil
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
