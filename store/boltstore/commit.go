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
	need := cost(&b, int64(s.db.Info().PageSize))
	var result store.Result
	err := s.submit(ctx, need, func(w *writer) error {
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
	expired [][]byte      // keys of attempts to remove, without account number and tag
	states  []event.State // registers that change
	seqless []bool        // which of states change
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
		p.answer = &store.Result{Unchanged: true, States: p.states}
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
	if len(b.Messages) == 0 && b.Record == nil && len(b.States) == 0 {
		need = 0
	}
	return p, w.room.take(need, b.Reserve)
}
