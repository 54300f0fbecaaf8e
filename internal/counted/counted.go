// Package counted counts the calls of a store that fail, so that none does so without a trace.
package counted

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Counters are what is counted. They only rise.
type Counters struct {
	// Failures are calls that failed, also those that had no answer when the deadline of their context came. Those whose context
	// was cancelled are none, since the caller went away, nor are conflicts. What a store has to say about a call that it has
	// understood is no failure: that something is not there, was used before, or is one too many.
	Failures atomic.Uint64
	// Conflicts are commits that another one came before.
	Conflicts atomic.Uint64
}

func (c *Counters) count(err error) {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, store.ErrNotFound),
		errors.Is(err, store.ErrMismatch), errors.Is(err, store.ErrWindowFull):
	case errors.Is(err, store.ErrConflict):
		c.Conflicts.Add(1)
	default:
		c.Failures.Add(1)
	}
}

// Store is a store of which the calls that fail are counted.
type Store struct {
	store.Store
	*Counters
}

func after[T any](s Store, v T, err error) (T, error) {
	s.count(err)
	return v, err
}

// Load implements [store.Store], and so do the others.
func (s Store) Load(ctx context.Context, account event.Account) (store.Record, error) {
	v, err := s.Store.Load(ctx, account)
	return after(s, v, err)
}

func (s Store) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	v, err := s.Store.Commit(ctx, b)
	return after(s, v, err)
}

func (s Store) Message(ctx context.Context, id event.MessageID) (store.MessageInfo, error) {
	v, err := s.Store.Message(ctx, id)
	return after(s, v, err)
}

func (s Store) Read(ctx context.Context, account event.Account, o store.ReadOptions) (store.Page, error) {
	v, err := s.Store.Read(ctx, account, o)
	return after(s, v, err)
}

func (s Store) States(ctx context.Context, account event.Account, o store.StateOptions) (store.StatePage, error) {
	v, err := s.Store.States(ctx, account, o)
	return after(s, v, err)
}

func (s Store) Conversations(ctx context.Context, account event.Account, o store.ConversationOptions) (store.ConversationPage, error) {
	v, err := s.Store.Conversations(ctx, account, o)
	return after(s, v, err)
}

func (s Store) Cursors(ctx context.Context, account event.Account) ([]store.Cursor, error) {
	v, err := s.Store.Cursors(ctx, account)
	return after(s, v, err)
}

func (s Store) SaveCursors(ctx context.Context, cursors []store.Cursor) error {
	err := s.Store.SaveCursors(ctx, cursors)
	s.count(err)
	return err
}

func (s Store) Trim(ctx context.Context, account event.Account, through uint64, limit int) (store.Head, error) {
	v, err := s.Store.Trim(ctx, account, through, limit)
	return after(s, v, err)
}

func (s Store) Void(ctx context.Context, account event.Account, seqs []uint64) (store.Head, error) {
	v, err := s.Store.Void(ctx, account, seqs)
	return after(s, v, err)
}

func (s Store) Delete(ctx context.Context, account event.Account, expect store.Revision) error {
	err := s.Store.Delete(ctx, account, expect)
	s.count(err)
	return err
}

func (s Store) Accounts(ctx context.Context, after event.Account, limit int) ([]event.Account, error) {
	v, err := s.Store.Accounts(ctx, after, limit)
	s.count(err)
	return v, err
}
