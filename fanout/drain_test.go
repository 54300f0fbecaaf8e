package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// TestK20_2_AfterAnOrderlyStopNothingCountsAsSentAgain: what comes to devices that are away, before, while and after an engine is
// replaced in good order, was never sent to them. What they had on their connection and did not acknowledge was.
func TestK20_2_AfterAnOrderlyStopNothingCountsAsSentAgain(t *testing.T) {
	for name, drains := range map[string]bool{"drain and close": true, "close alone": false} {
		t.Run(name, func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				a := w.ready("ann", "reads", "is away", "does not acknowledge")
				a[1].leave()
				a[2].HoldAcks(true)
				w.feed("ann", 0, 10)
				w.until("all are sent", func() bool { return len(a[0].texts()) == 10 && len(a[2].texts()) == 10 })
				a[0].acked()
				unsaved, sent := a[2].Save(), 15
				unsaved.State.Position = nil // it asks the engine for its place
				if drains {
					sent = 10
					require.NoError(w.t, w.r.Drain(context.Background(), session.DrainRequest{Over: time.Second, Back: time.Millisecond}))
				}
				w.feed("ann", 10, 15) // others were still there
				if !drains {
					w.until("all are sent", func() bool { return len(a[0].texts()) == 15 && len(a[2].texts()) == 15 })
					a[0].acked()
				}
				w.restart()
				w.feed("ann", 15, 20)
				a[2].Restore(unsaved)
				a[2].HoldAcks(false)
				for _, d := range a {
					d.online()
					d.acked()
				}
				require.EqualValues(w.t, 0, a[0].Redelivered())
				require.EqualValues(w.t, 0, a[1].Redelivered())
				require.EqualValues(w.t, sent, w.r.Stats().Redelivered, "those that were sent and not acknowledged")
				require.Equal(w.t, numbers(0, 20), a[0].texts())
				require.Equal(w.t, numbers(0, 20), a[1].texts())
			})
		})
	}
}

// After a crash it is not known what was sent, so that all counts that may have been: what was committed before it. Later on,
// and on devices that are new since, nothing does.
func TestK20_2_AfterACrashWhatMayHaveBeenSentCounts(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.acked()
		d.leave()
		w.feed("ann", 0, 10)
		w.crash()
		time.Sleep(2 * time.Minute) // clocks may differ by one
		w.feed("ann", 10, 20)
		later := w.login("ann", "a2")
		w.feed("ann", 20, 30)
		d.online()
		d.acked()
		later.online()
		later.acked()
		require.EqualValues(w.t, 10, w.r.Stats().Redelivered)
		w.feed("ann", 30, 40)
		w.fence("ann")
		require.EqualValues(w.t, 10, w.r.Stats().Redelivered)
		d.leave()
		w.feed("ann", 40, 50)
		w.restart()
		d.online()
		d.acked()
		require.Zero(w.t, w.r.Stats().Redelivered, "an orderly end leaves nothing in doubt")
		require.Equal(w.t, numbers(0, 50), d.texts())
	})
}

// TestK20_1_WhatIsPendingIsWrittenBeforeClientsAreSentAway: cursors and receipts are on disk when the first client is told, and
// what comes up meanwhile when Drain returns.
func TestK20_1_WhatIsPendingIsWrittenBeforeClientsAreSentAway(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		b := w.ready("bob", "b1")[0]
		a := w.ready("ann", "a1", "a2")
		w.flush()
		id := w.send(b, "x", "ann").ID
		w.fence("ann", "bob")
		for _, d := range a {
			d.acked()
		}
		var mu sync.Mutex
		var seen []uint64
		watch := taking()
		watch.onClose = func() {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, w.cursor(a[0]).Seq, w.register("ann", "c1", fanout.DeliveredRegister("bob", w.head("ann").Epoch)))
		}
		c := w.login("cid", "c1")
		_, err := w.r.Attach(context.Background(), fanout.AttachRequest{Account: "cid", Login: c.Login(), Token: c.Token()}, watch)
		require.NoError(w.t, err)
		want := a[0].Position().Seq
		require.Less(w.t, w.cursor(a[0]).Seq, want)
		require.NoError(w.t, w.r.Drain(context.Background(), session.DrainRequest{Over: 10 * time.Second}))
		mu.Lock()
		defer mu.Unlock()
		require.Len(w.t, seen, 2)
		require.Equal(w.t, want, seen[0])
		require.Positive(w.t, seen[1], "the receipt of %s", id)
	})
}

// slowStore is a store of which each commit takes a while, as many as there are at once.
type slowStore struct {
	store.Store
	each                           atomic.Int64 // how long
	commits, saves, sleeping, most atomic.Int64
}

func (s *slowStore) nap(ctx context.Context) error {
	each := time.Duration(s.each.Load())
	if each == 0 {
		return nil
	}
	for now := s.sleeping.Add(1); ; {
		if most := s.most.Load(); now <= most || s.most.CompareAndSwap(most, now) {
			break
		}
	}
	defer s.sleeping.Add(-1)
	select {
	case <-time.After(each):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slowStore) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	s.commits.Add(1)
	if err := s.nap(ctx); err != nil {
		return store.Result{}, err
	}
	return s.Store.Commit(ctx, b)
}

func (s *slowStore) SaveCursors(ctx context.Context, all []store.Cursor) error {
	s.saves.Add(1)
	if err := s.nap(ctx); err != nil {
		return err
	}
	return s.Store.SaveCursors(ctx, all)
}

// TestK20_1_CommitsAreShared: cursors of all accounts that owe nothing are one call, those of the others another one, and receipts
// of many accounts are committed at once.
func TestK20_1_CommitsAreShared(t *testing.T) {
	inMemory(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		const n = 200
		st := &slowStore{Store: w.inner}
		w.stop()
		w.inner = st
		w.openStore()
		w.start()
		w.ready("bob", "b1")
		var all []*device
		for i := range n {
			all = append(all, w.ready(event.Account(fmt.Sprint("ann", i)), "a1")...)
		}
		for _, text := range []string{"told at once", "told a second later"} {
			for _, d := range all {
				w.host("bob", text, d.account)
			}
			w.until("acked", func() bool {
				for _, d := range all {
					if n, _, _, _ := d.attachment().Window(); n > 0 || !slices.Contains(d.texts(), text) {
						return false
					}
				}
				return true
			})
		}
		st.each.Store(int64(100 * time.Millisecond))
		saves, commits, begin := st.saves.Load(), st.commits.Load(), time.Now()
		require.NoError(w.t, w.r.Flush(context.Background()))
		require.Less(w.t, time.Since(begin), time.Second, "20 s one after another")
		require.EqualValues(w.t, n, st.commits.Load()-commits)
		require.GreaterOrEqual(w.t, st.most.Load(), int64(50))
		require.LessOrEqual(w.t, st.saves.Load()-saves, int64(2))
		st.each.Store(0)
	})
}

// TestK20_1_ADrainIsBounded: with a store that takes its time, or does not answer at all, clients are told half way at the
// latest, and Drain returns a second after Over at the latest, or with its context.
func TestK20_1_ADrainIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		over, limit  time.Duration // limit: of the context
		told, within time.Duration
	}{
		"over 10 s":        {10 * time.Second, time.Hour, 5 * time.Second, 10 * time.Second},
		"at once":          {0, time.Hour, 500 * time.Millisecond, 1500 * time.Millisecond},
		"the context ends": {time.Minute, 40 * time.Second, 30 * time.Second, 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
				d := w.ready("ann", "a1")[0]
				w.fence("ann")
				gate := make(chan struct{})
				never := w.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Wait: gate})
				ctx, cancel := context.WithTimeout(context.Background(), c.limit)
				defer cancel()
				begin, done := time.Now(), make(chan error, 1)
				go func() { done <- w.r.Drain(ctx, session.DrainRequest{Over: c.over}) }()
				require.Equal(w.t, event.Shutdown, d.closed().Reason)
				require.InDelta(w.t, c.told, time.Since(begin), float64(100*time.Millisecond))
				require.ErrorIs(w.t, <-done, context.DeadlineExceeded)
				require.InDelta(w.t, c.within, time.Since(begin), float64(100*time.Millisecond))
				never()
				close(gate)
				want := d.Position().Seq
				w.restart() // Close does what is left
				require.Equal(w.t, want, w.cursor(d).Seq)
			})
		})
	}
}

// One account whose receipts cannot be written holds up its own cursors only.
func TestK20_1_OneAccountsReceiptsHoldUpNoOthersCursors(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		b := w.ready("bob", "b1")[0]
		a, c := w.ready("ann", "a1")[0], w.ready("cid", "c1")[0]
		w.flush()
		before := w.cursor(a).Seq
		heal := w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Times: -1, Err: errAway})
		w.send(b, "x", "ann", "cid")
		w.send(b, "y", "ann")
		w.send(b, "z", "cid")
		w.fence("ann", "bob", "cid")
		for _, d := range []*device{a, c} {
			d.acked()
		}
		w.until("acked by b1", func() bool { return b.Answered() })
		want := map[*device]uint64{b: b.Position().Seq, c: c.Position().Seq}
		require.ErrorIs(w.t, w.r.Flush(context.Background()), errAway)
		require.Equal(w.t, before, w.cursor(a).Seq)
		for d, seq := range want {
			require.GreaterOrEqual(w.t, w.cursor(d).Seq, seq, d.id)
		}
		heal()
		w.flush()
		require.Equal(w.t, a.Position().Seq, w.cursor(a).Seq)
	})
}

// One account whose receipts hang does not hold up the cursors of those that owe nothing.
func TestK20_1_CursorsOfWhoOwesNothingWaitForNoReceipts(t *testing.T) {
	inMemory(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		b := w.ready("bob", "b1")[0]
		a, c := w.ready("ann", "a1")[0], w.ready("cid", "c1")[0]
		w.flush()
		gate := make(chan struct{})
		defer w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Times: -1, Wait: gate})()
		defer close(gate)
		w.send(b, "x", "ann")
		w.fence("ann", "bob", "cid")
		a.acked()
		c.acked()
		want := c.Position().Seq
		require.Less(w.t, w.cursor(c).Seq, want)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(w.t, w.r.Flush(ctx), context.DeadlineExceeded)
		require.Equal(w.t, want, w.cursor(c).Seq)
	})
}

// TestK20_1_AnAttachIsToldWhenToComeAgain, whether the node drains, the registry is closed, or the router, too.
func TestK20_1_AnAttachIsToldWhenToComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", fanout.Config{})
		d := w.ready("ann", "a1")[0]
		come := func(least time.Duration) {
			_, err := w.r.Attach(context.Background(), fanout.AttachRequest{Account: "ann", Login: d.Login(), Token: d.Token()}, newHostConn(nil))
			stopping, ok := errors.AsType[*session.StoppingError](err)
			require.True(t, ok, "%v", err)
			require.GreaterOrEqual(t, stopping.RetryAfter, least)
			require.LessOrEqual(t, stopping.RetryAfter, least+time.Second)
		}
		require.NoError(t, w.r.Drain(context.Background(), session.DrainRequest{Back: time.Minute}))
		come(time.Minute)
		time.Sleep(10 * time.Second)
		require.NoError(t, w.reg.Close(context.Background()))
		come(50 * time.Second)
		require.NoError(t, w.r.Close(context.Background()))
		come(50 * time.Second)
	})
}
