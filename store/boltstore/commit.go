package boltstore

import (
	"bytes"
	"context"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// expireStep is how many expired attempts a new one removes: more than one, so that a backlog of them shrinks.
const expireStep = 4

// Commit implements [store.Store]. A message ID that an inbox still holds is refused with an [*event.InvalidError].
func (s *Store) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	if err := b.Validate(); err != nil {
		return store.Result{}, err
	}
	bytes := size(&b)
	need := bytes + pages(&b)*s.page
	var result store.Result
	err := s.submit(ctx, bytes, func(w *writer) error {
		p, err := s.check(w, &b, need)
		if err != nil {
			return err
		}
		if p.answer == nil {
			result, err = s.perform(w, &b, p)
			return err
		}
		result = *p.answer
		return nil
	})
	if err != nil {
		return store.Result{}, err
	}
	return result, nil
}

// plan is what the checks of a batch found out.
type plan struct {
	account *account
	answer  *store.Result // not nil: this is the result, and nothing is to be done
	expired [][]byte      // expiry keys of attempts to remove, without account number and tag
	states  []register    // one for each of Batch.States
}

// register is one register after an update.
type register struct {
	event.State
	stored  value // before the batch
	changed bool  // by this or an earlier update of the batch
}

// check makes all checks of a batch in their order, and writes nothing.
func (s *Store) check(w *writer, b *store.Batch, need int64) (*plan, error) {
	a, err := w.account(b.Account)
	if err != nil {
		return nil, err
	}
	p := &plan{account: a}
	if b.Idempotency != nil {
		if err := s.checkAttempt(w, b, p); err != nil || p.answer != nil {
			return p, err
		}
	}
	if b.Record != nil && b.Record.Expect != store.Revision(a.head.record) {
		return nil, store.ErrConflict
	}
	changed, err := w.mergeStates(b, p)
	if err != nil {
		return nil, err
	}
	if b.OnlyIfChanged && !changed {
		p.answer = &store.Result{Unchanged: true, States: p.result()}
		if b.Record != nil {
			p.answer.Revision = store.Revision(a.head.record)
		}
		return p, nil
	}
	for i := range b.Messages {
		if w.ids.Get([]byte(b.Messages[i].ID)) != nil {
			return nil, &event.InvalidError{Field: "message ID", Reason: "used before"}
		}
	}
	if len(b.Messages) == 0 && b.Record == nil && len(b.States) == 0 && b.Idempotency == nil {
		return p, nil // nothing that stays
	}
	return p, w.room.take(need, b.Reserve)
}

// checkAttempt looks for an earlier batch of the same name. If there is none it chooses what to forget for the new one.
func (s *Store) checkAttempt(w *writer, b *store.Batch, p *plan) error {
	aid, now := p.account.aid, uint64(b.Now.UnixMilli())
	name := attemptKey(aid, b.Idempotency.Device, b.Idempotency.ClientID)
	var own []byte
	if row := w.accounts.Get(name); row != nil {
		first, err := decodeAttempt(string(row))
		if err != nil {
			return err
		}
		if now < first.expires {
			if first.digest != string(b.Idempotency.Digest[:]) {
				return store.ErrMismatch
			}
			p.answer = s.repeated(&first)
			return nil
		}
		own = expiryKey(aid, first.expires, name[prefixBytes:])[prefixBytes:]
		p.expired = append(p.expired, own)
	}
	prefix, most := tagKeyFor(aid, tagExpiry, 0), int(p.account.head.attempts)
	err := scan(w.accounts, prefix, prefix, func(rest, _ []byte) (bool, error) {
		expires, _, err := splitExpiryKey(rest)
		if err != nil || expires > now || len(p.expired) >= expireStep && most-len(p.expired) < b.Idempotency.Max {
			return false, err
		}
		if !bytes.Equal(rest, own) {
			p.expired = append(p.expired, bytes.Clone(rest))
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	if most-len(p.expired) >= b.Idempotency.Max {
		return store.ErrWindowFull
	}
	return nil
}

// repeated is the result for a batch that was here before.
func (s *Store) repeated(first *attempt) *store.Result {
	r := &store.Result{Duplicate: true}
	if first.id != "" {
		placed := store.Placed{ID: first.id}
		if first.placed {
			placed.To = []store.Place{s.place(&first.place)}
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
		key := stateKey(p.account.aid, u.Conversation, u.Name)
		j, known := latest[string(key)]
		if known {
			old = p.states[j]
		} else {
			var err error
			old.State, old.stored, known, err = w.register(key, u.Conversation, u.Name)
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
		latest[string(key)] = i
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
