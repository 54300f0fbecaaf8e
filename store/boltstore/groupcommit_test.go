package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/stretchr/testify/require"
)

var errDisk = errors.New("disk on fire")

// gate holds up what makes groups durable, until it is opened.
type gate struct {
	entered chan struct{} // gets a value when a group is to be written
	open    chan struct{}
	groups  int
}

func newGate(s *boltstore.Store) *gate {
	g := &gate{entered: make(chan struct{}, 100), open: make(chan struct{})}
	s.SetWrite(func(write func() error) error {
		g.groups++
		g.entered <- struct{}{}
		<-g.open
		return write()
	})
	return g
}

// ran waits until n operations were run, since the store was opened. One group runs while the one before is written.
func ran(t *testing.T, s *boltstore.Store, n uint64) {
	t.Helper()
	waitFor(t, func() bool { return s.Stats().Operations >= n })
}

// waitFor waits until ok. There is real I/O here, so that no synctest bubble can tell when all is quiet.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 20*time.Second, time.Millisecond)
}

func TestI5_CommitErrorFailsStore(t *testing.T) {
	for _, tt := range []struct {
		name    string
		visible bool // the new value is in the file all the same
	}{{"not written", false}, {"written", true}} {
		t.Run(tt.name, func(t *testing.T) {
			path := newPath(t)
			s := open(t, path, boltstore.Config{})
			_, err := s.Commit(t.Context(), message("first", nil, "ann"))
			require.NoError(t, err)
			s.SetWrite(func(write func() error) error {
				if tt.visible {
					require.NoError(t, write())
				}
				return errDisk
			})
			_, err = s.Commit(t.Context(), message("second", nil, "ann"))
			require.ErrorIs(t, err, store.ErrUnknownOutcome)
			require.ErrorIs(t, err, store.ErrFailed)
			require.ErrorIs(t, err, errDisk)
			<-s.Failed()

			s.SetWrite(func(write func() error) error { return write() }) // too late
			for name, err := range calls(t.Context(), s) {
				require.ErrorIs(t, err, store.ErrFailed, name)
				require.NotErrorIs(t, err, store.ErrUnknownOutcome, name)
			}
			closeStore(t, s)
			for name, err := range calls(t.Context(), s) {
				require.ErrorIs(t, err, store.ErrClosed, name)
			}

			s = open(t, path, boltstore.Config{LockTimeout: -1})
			all, _, err := readAll(t.Context(), s, "ann")
			require.NoError(t, err)
			require.Len(t, all, map[bool]int{false: 1, true: 2}[tt.visible])
		})
	}
}

// calls calls each method once and returns the errors.
func calls(ctx context.Context, s store.Store) map[string]error {
	errs := map[string]error{}
	_, errs["Load"] = s.Load(ctx, "ann")
	_, errs["Commit"] = s.Commit(ctx, message("third", nil, "ann"))
	_, errs["Message"] = s.Message(ctx, "first")
	_, errs["Read"] = s.Read(ctx, "ann", store.ReadOptions{Limit: 1})
	_, errs["States"] = s.States(ctx, "ann", store.StateOptions{Limit: 1})
	_, errs["Cursors"] = s.Cursors(ctx, "ann")
	errs["SaveCursors"] = s.SaveCursors(ctx, []store.Cursor{{Account: "ann", Incarnation: 1, Seq: 1}})
	errs["SaveCursors of none"] = s.SaveCursors(ctx, nil)
	_, errs["Trim"] = s.Trim(ctx, "ann", 1, 1)
	_, errs["Void"] = s.Void(ctx, "ann", []uint64{1})
	errs["Delete"] = s.Delete(ctx, "ann", 0)
	_, errs["Accounts"] = s.Accounts(ctx, "", 1)
	return errs
}

func TestI5_CommitErrorFailsAllThatWait(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	entered, fail := make(chan struct{}, 9), make(chan struct{})
	s.SetWrite(func(func() error) error {
		entered <- struct{}{}
		<-fail
		return errDisk
	})
	errs := make([]error, 30)
	var wg sync.WaitGroup
	send := func(i int) {
		wg.Go(func() { _, errs[i] = s.Commit(t.Context(), message(fmt.Sprint("m", i), nil, "ann")) })
	}
	send(0)
	<-entered
	for i := 1; i < len(errs); i++ {
		send(i)
	}
	ran(t, s, 2)
	waitFor(t, func() bool { return s.Stats().Waiting+int(s.Stats().Operations) == len(errs) })
	close(fail)
	wg.Wait()
	require.ErrorIs(t, errs[0], store.ErrUnknownOutcome)
	for i, err := range errs {
		require.ErrorIs(t, err, store.ErrFailed, "%d", i)
		require.Equal(t, i == 0, errors.Is(err, store.ErrUnknownOutcome), "%d: those that were not written did not happen", i)
	}
	require.Empty(t, entered, "one write was tried")
}

func TestS71_WaitingCallersShareAGroup(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	g := newGate(s)
	var wg sync.WaitGroup
	const senders = 200
	for i := range senders {
		wg.Go(func() {
			_, err := s.Commit(t.Context(), message(fmt.Sprint("m", i), nil, event.Account(fmt.Sprint("a", i)), "bob"))
			if err != nil {
				t.Error(err)
			}
		})
	}
	<-g.entered
	waitFor(t, func() bool { return s.Stats().Waiting+int(s.Stats().Operations) >= senders })
	close(g.open)
	wg.Wait()
	require.Less(t, g.groups, senders/2)
	all, head, err := readAll(t.Context(), s, "bob")
	require.NoError(t, err)
	require.Len(t, all, senders)
	require.EqualValues(t, senders, head.Seq)
}

func TestRefusedOperationLeavesNothingInASharedGroup(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	g := newGate(s)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = s.Commit(t.Context(), message("hold", nil, "ann")) })
	<-g.entered
	var errs [3]error
	for i, b := range []store.Batch{message("good", nil, "bob"), message("bad", nil, "bob"), message("good2", nil, "bob")} {
		if i == 1 {
			b.Record = &store.RecordUpdate{Expect: 99}
			b.Idempotency = &store.Idempotency{ClientID: "x", Window: time.Hour, Max: 1}
			b.States = []store.StateUpdate{{Name: "s", Number: 1}}
		}
		wg.Go(func() { _, errs[i] = s.Commit(t.Context(), b) })
	}
	waitFor(t, func() bool { return s.Stats().Waiting+int(s.Stats().Operations) == 4 })
	close(g.open)
	wg.Wait()
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], store.ErrConflict)
	require.NoError(t, errs[2])
	require.LessOrEqual(t, g.groups, 3)
	all, head, err := readAll(t.Context(), s, "bob")
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.EqualValues(t, 2, head.Seq)
	states, err := s.States(t.Context(), "bob", store.StateOptions{Limit: 9})
	require.NoError(t, err)
	require.Empty(t, states)
	_, err = s.Message(t.Context(), "bad")
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestContextEndsWhileQueued(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	g := newGate(s)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, _ = s.Commit(t.Context(), message("hold", nil, "ann")) })
	<-g.entered
	wg.Go(func() { _, _ = s.Commit(t.Context(), message("next", nil, "ann")) }) // runs meanwhile
	ran(t, s, 2)
	var errs [8]error
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for i := range errs {
		done.Go(func() { _, errs[i] = s.Commit(ctx, message(fmt.Sprint("gone", i), nil, "ann")) })
	}
	waitFor(t, func() bool { return s.Stats().Waiting == len(errs) })
	cancel()
	done.Wait() // although the write does not end
	for _, err := range errs {
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, store.ErrUnknownOutcome)
	}
	require.Zero(t, s.Stats().Waiting)
	close(g.open)
	wg.Wait()
	_, err := s.Commit(t.Context(), message("later", nil, "ann"))
	require.NoError(t, err, "somebody leads again")
	all, _, err := readAll(t.Context(), s, "ann")
	require.NoError(t, err)
	require.Len(t, all, 3)
}

func TestContextEndsInTheGroup(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	g := newGate(s)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, _ = s.Commit(t.Context(), message("hold", nil, "ann")) })
	<-g.entered
	ctx, cancel := context.WithCancel(t.Context())
	var first, second error
	var gone sync.WaitGroup
	wg.Go(func() { _, first = s.Commit(t.Context(), message("first", nil, "ann")) }) // it leads the next group
	ran(t, s, 2)
	gone.Go(func() { _, second = s.Commit(ctx, message("second", nil, "ann")) })
	waitFor(t, func() bool { return s.Stats().Waiting == 1 })
	g.open <- struct{}{}
	<-g.entered
	ran(t, s, 3)
	cancel()
	gone.Wait()
	require.ErrorIs(t, second, context.Canceled)
	require.ErrorIs(t, second, store.ErrUnknownOutcome)
	require.NotErrorIs(t, second, store.ErrFailed)
	close(g.open)
	wg.Wait()
	require.NoError(t, first)
	_, err := s.Commit(t.Context(), message("last", nil, "ann"))
	require.NoError(t, err)
	_, err = s.Message(t.Context(), "second")
	require.NoError(t, err, "this time it happened")
}

func TestI29_CloseFinishesWhatWaits(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	g := newGate(s)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.Commit(t.Context(), message(fmt.Sprint("m", i), nil, "ann")) })
	}
	<-g.entered
	waitFor(t, func() bool { return s.Stats().Waiting+int(s.Stats().Operations) >= len(errs) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Close(ctx), context.Canceled, "it does not wait longer than ctx")
	_, err := s.Load(t.Context(), "ann")
	require.ErrorIs(t, err, store.ErrClosed)
	close(g.open)
	wg.Wait()
	closeStore(t, s)
	closeStore(t, s)

	s = open(t, path, boltstore.Config{LockTimeout: -1})
	for i, err := range errs {
		if err != nil {
			require.ErrorIs(t, err, store.ErrClosed, "it came too late")
			continue
		}
		_, err := s.Message(t.Context(), event.MessageID(fmt.Sprint("m", i)))
		require.NoError(t, err)
	}
}

// Callers that give up at any moment, also just when it is their turn to commit, hold up nobody.
func TestContextEndsAtAnyMoment(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	var wg sync.WaitGroup
	outcomes := make([][3]int, 16) // done, not done, unknown
	for i := range outcomes {
		wg.Go(func() {
			for n := range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n*37%100)*20*time.Microsecond)
				_, err := s.Commit(ctx, message(fmt.Sprint("m", i, "-", n), nil, "ann"))
				cancel()
				switch {
				case err == nil:
					outcomes[i][0]++
				case errors.Is(err, store.ErrUnknownOutcome):
					outcomes[i][2]++
				case errors.Is(err, context.DeadlineExceeded):
					outcomes[i][1]++
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var sum [3]int
	for _, o := range outcomes {
		for k := range sum {
			sum[k] += o[k]
		}
	}
	t.Log("done, not done, unknown:", sum)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := s.Commit(ctx, message("last", nil, "ann"))
	require.NoError(t, err)
	_, head, err := readAll(t.Context(), s, "ann")
	require.NoError(t, err)
	require.GreaterOrEqual(t, head.Entries, sum[0]+1)
	require.LessOrEqual(t, head.Entries, sum[0]+sum[2]+1)
	require.EqualValues(t, head.Entries, head.Seq)
}
