package storetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

var errInjected = errors.New("injected")

func newFaulty(t *testing.T) *storetest.Faulty {
	f := storetest.WithFaults(memstore.New(memstore.Config{}))
	t.Cleanup(func() { require.NoError(t, f.Close(context.Background())) })
	return f
}

func record(account event.Account, expect store.Revision) store.Batch {
	return store.Batch{
		Account: account, Now: time.UnixMilli(1), Record: &store.RecordUpdate{Expect: expect, Data: []byte("one")},
	}
}

// TestFaulty_Suite shows that the wrapper changes nothing when no fault is injected.
func TestFaulty_Suite(t *testing.T) {
	storetest.TestStore(t, storetest.Harness{
		Open: func(*testing.T) store.Store {
			return storetest.WithFaults(memstore.New(memstore.Config{}))
		},
		Capabilities: store.Capabilities{AtomicSend: true, UniformOrder: true, Dense: true, Shared: true},
	})
}

func TestFaulty_Before(t *testing.T) {
	f := newFaulty(t)
	f.Inject(storetest.Fault{Method: storetest.Commit, Err: errInjected})
	_, err := f.Commit(t.Context(), record("ann", 0))
	require.ErrorIs(t, err, errInjected)
	r, err := f.Load(t.Context(), "ann")
	require.NoError(t, err)
	require.Zero(t, r.Revision, "the fault came before any effect")
	_, err = f.Commit(t.Context(), record("ann", 0))
	require.NoError(t, err, "one call alone is hit")
	require.Equal(t, 2, f.Calls(storetest.Commit))
	require.Equal(t, 1, f.Calls(storetest.Load))
	require.Zero(t, f.Calls(storetest.Read))
}

func TestFaulty_LostAnswer(t *testing.T) {
	f := newFaulty(t)
	f.Inject(storetest.LostAnswer())
	result, err := f.Commit(t.Context(), record("ann", 0))
	require.ErrorIs(t, err, store.ErrUnknownOutcome)
	require.Empty(t, result)
	r, err := f.Load(t.Context(), "ann")
	require.NoError(t, err)
	require.NotZero(t, r.Revision, "it happened all the same")
}

func TestFaulty_Choice(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault storetest.Fault
		calls []event.Account
		hit   []bool
	}{
		{
			name:  "the third call",
			fault: storetest.Fault{Skip: 2}, calls: []event.Account{"a", "b", "c", "d"}, hit: []bool{false, false, true, false},
		},
		{
			name:  "two calls after the first",
			fault: storetest.Fault{Skip: 1, Times: 2}, calls: []event.Account{"a", "b", "c", "d"},
			hit: []bool{false, true, true, false},
		},
		{
			name:  "all calls",
			fault: storetest.Fault{Times: -1}, calls: []event.Account{"a", "b", "c"}, hit: []bool{true, true, true},
		},
		{
			name:  "the second call of one account",
			fault: storetest.Fault{Account: "b", Skip: 1}, calls: []event.Account{"a", "b", "a", "b", "b"},
			hit: []bool{false, false, false, true, false},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaulty(t)
			c.fault.Method, c.fault.Err = storetest.Load, errInjected
			f.Inject(c.fault)
			for i, account := range c.calls {
				_, err := f.Load(t.Context(), account)
				require.Equal(t, c.hit[i], errors.Is(err, errInjected), "call %d: %v", i, err)
			}
		})
	}
}

func TestFaulty_EveryMethod(t *testing.T) {
	calls := map[storetest.Method]func(ctx context.Context, s store.Store) error{
		storetest.Load:    func(ctx context.Context, s store.Store) error { _, err := s.Load(ctx, "ann"); return err },
		storetest.Commit:  func(ctx context.Context, s store.Store) error { _, err := s.Commit(ctx, record("ann", 0)); return err },
		storetest.Message: func(ctx context.Context, s store.Store) error { _, err := s.Message(ctx, "id"); return err },
		storetest.Read: func(ctx context.Context, s store.Store) error {
			_, err := s.Read(ctx, "ann", store.ReadOptions{})
			return err
		},
		storetest.States: func(ctx context.Context, s store.Store) error {
			_, err := s.States(ctx, "ann", store.StateOptions{Limit: 1})
			return err
		},
		storetest.Conversations: func(ctx context.Context, s store.Store) error {
			_, err := s.Conversations(ctx, "ann", store.ConversationOptions{Limit: 1})
			return err
		},
		storetest.Cursors:     func(ctx context.Context, s store.Store) error { _, err := s.Cursors(ctx, "ann"); return err },
		storetest.SaveCursors: func(ctx context.Context, s store.Store) error { return s.SaveCursors(ctx, nil) },
		storetest.Trim:        func(ctx context.Context, s store.Store) error { _, err := s.Trim(ctx, "ann", 1, 1); return err },
		storetest.Void:        func(ctx context.Context, s store.Store) error { _, err := s.Void(ctx, "ann", nil); return err },
		storetest.Delete:      func(ctx context.Context, s store.Store) error { return s.Delete(ctx, "bob", 0) },
		storetest.Accounts:    func(ctx context.Context, s store.Store) error { _, err := s.Accounts(ctx, "", 1); return err },
	}
	for method, call := range calls {
		t.Run(string(method), func(t *testing.T) {
			f := newFaulty(t)
			remove := f.Inject(storetest.Fault{Method: method, Times: -1, Err: errInjected})
			require.ErrorIs(t, call(t.Context(), f), errInjected)
			remove()
			require.NotErrorIs(t, call(t.Context(), f), errInjected)
			require.Equal(t, 2, f.Calls(method))
			f.Break()
			require.ErrorIs(t, call(t.Context(), f), store.ErrFailed)
		})
	}
}

func TestFaulty_Wait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t)
		release, reached := make(chan struct{}), 0
		f.Inject(storetest.Fault{Method: storetest.Commit, Wait: release, Reached: func() { reached++ }})
		done := make(chan error)
		go func() {
			_, err := f.Commit(t.Context(), record("ann", 0))
			done <- err
		}()
		synctest.Wait()
		require.Equal(t, 1, reached)
		r, err := f.Load(t.Context(), "ann")
		require.NoError(t, err)
		require.Zero(t, r.Revision, "held before any effect")
		close(release)
		require.NoError(t, <-done)

		f.Inject(storetest.Fault{Method: storetest.Commit, After: true, Wait: make(chan struct{})})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = f.Commit(ctx, record("bob", 0))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		r, err = f.Load(t.Context(), "bob")
		require.NoError(t, err)
		require.NotZero(t, r.Revision, "held after its effect")
	})
}

func TestFaulty_Break(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := storetest.WithFaults(memstore.New(memstore.Config{}))
		f := storetest.WithFaults(inner)
		inner.Break()
		inner.Break()
		<-f.Failed()
		_, err := f.Load(t.Context(), "ann")
		require.ErrorIs(t, err, store.ErrFailed)
		require.NoError(t, f.Close(t.Context()))
		_, err = f.Load(t.Context(), "ann")
		require.ErrorIs(t, err, store.ErrFailed)
	})
}
