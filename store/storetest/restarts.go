package storetest

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

var reopenRules = []rule{
	{name: "reopen: I1 S69 everything is as it was", skip: durable, check: checkReopen},
	{name: "reopen: I3 S33 numbers go on after trim-to-empty", skip: durable, check: func(f *fixture) {
		for _, restart := range f.restarts() {
			m := f.message("ann", "ann")
			m.Flags = event.FlagUnread
			last := f.commit(f.batch("ann", m)).Messages[0].To[0]
			f.trim("ann", last.Seq, math.MaxInt)
			before := f.head("ann")
			restart()
			require.Equal(f.t, before, f.head("ann"))
			m.ID = f.issuer.Issue()
			next := f.commit(f.batch("ann", m)).Messages[0].To[0]
			require.Greater(f.t, next.Seq, last.Seq)
			require.Equal(f.t, last.Ordinal+1, next.Ordinal)
			require.Equal(f.t, last.Epoch, next.Epoch)
			f.void("ann", next.Seq)
			restart()
			require.Equal(f.t, next.Seq, f.head("ann").Seq)
		}
	}},
	{name: "reopen: I11 S49 a retry after a restart is known", skip: durable, check: func(f *fixture) {
		for i, restart := range f.restarts() {
			b := f.named(idempotency("phone", event.ClientMessageID(fmt.Sprint(i)), 7))
			first := f.commit(b)
			restart()
			f.duplicate(b, first)
			b.Idempotency = idempotency("phone", event.ClientMessageID(fmt.Sprint(i)), 8)
			b.Messages[0].ID = f.issuer.Issue()
			f.refused(b, store.ErrMismatch)
		}
	}},
	{name: "reopen: a deleted account stays deleted, with its epoch", skip: durable, check: func(f *fixture) {
		for _, restart := range f.restarts() {
			f.fill("ann", 20)
			f.set("ann", marker(3))
			epoch := f.head("ann").Epoch
			rev := f.record("ann", 0, "one")
			require.NoError(f.t, f.s.Delete(f.ctx, "ann", rev))
			restart()
			require.Equal(f.t, store.Head{Epoch: epoch + 1}, f.head("ann"))
			require.Equal(f.t, store.Record{}, f.load("ann"))
			require.Empty(f.t, f.all("ann"))
			require.Empty(f.t, f.states("ann", store.StateOptions{}))
			require.Empty(f.t, f.accounts(10))
			require.NotEqual(f.t, rev, f.record("ann", 0, "two"))
			require.NoError(f.t, f.s.Delete(f.ctx, "ann", f.load("ann").Revision))
		}
	}},
	{name: "reopen: I1 what was answered while the store closed is there", skip: durable, check: checkCloseRace},
}

func checkReopen(f *fixture) {
	for i, restart := range f.restarts() {
		ann, bob := event.Account(fmt.Sprint("ann", i)), event.Account(fmt.Sprint("bob", i))
		b := f.batch(ann, f.message(ann, ann, bob), f.message(ann, bob), f.message(ann, ann))
		b.Messages[0].Key, b.Messages[0].Flags = "k", event.FlagUnread
		b.Messages[0].ClientID, b.Messages[0].Origin = "client-1", event.NewLoginID()
		b.Messages[0].To[0].Targets = []event.Incarnation{3, 4}
		b.Messages[1].Expires = f.now.Add(time.Hour)
		b.Record = &store.RecordUpdate{Data: []byte("one")}
		b.States = []store.StateUpdate{marker(5), setting("v")}
		f.commit(b)
		f.save(store.Cursor{Account: ann, Incarnation: 3, Seq: 1, Sent: 2}, store.Cursor{Account: ann, Incarnation: 4})
		f.void(ann, f.fill(ann, 2)[0])
		look := func() []any {
			seen := []any{f.s.Info(), f.load(ann), f.states(ann, store.StateOptions{}), f.cursors(ann), f.accounts(2)}
			for _, a := range []event.Account{ann, bob} {
				seen = append(seen, f.head(a), f.all(a))
			}
			for _, m := range b.Messages {
				info := f.info(m.ID)
				info.Time = info.Time.UTC()
				seen = append(seen, info)
			}
			return seen
		}
		before := look()
		restart()
		require.Equal(f.t, before, look())
		restart()
		require.Equal(f.t, before, look())
		newer := f.message(ann, ann)
		newer.Key = "k"
		f.commit(f.batch(ann, newer))
		require.NotContains(f.t, ids(f.all(ann)), b.Messages[0].ID, "keys are known after a restart")
		f.trim(bob, math.MaxUint64, 10)
		f.gone(b.Messages[0].ID)
	}
}

func checkCloseRace(f *fixture) {
	const writers = 4
	sent := make([][]event.MessageID, writers)
	errs := make([]error, writers)
	s := f.s
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for {
				m := f.message("ann", "ann", "bob")
				if _, errs[i] = s.Commit(f.ctx, f.batch("ann", m)); errs[i] != nil {
					return
				}
				sent[i] = append(sent[i], m.ID)
			}
		})
	}
	for f.head("ann").Entries < 10 {
		f.page("bob", store.ReadOptions{Limit: 5})
	}
	f.s = f.h.Reopen(f.t, s)
	wg.Wait()
	answered := 0
	ann := f.all("ann")
	for i := range writers {
		require.True(f.t, errors.Is(errs[i], store.ErrClosed) || errors.Is(errs[i], store.ErrUnknownOutcome), "%v", errs[i])
		answered += len(sent[i])
		for _, id := range sent[i] {
			require.Contains(f.t, ids(ann), id)
		}
	}
	require.LessOrEqual(f.t, answered, len(ann))
	require.LessOrEqual(f.t, len(ann), answered+writers, "at most one unanswered message of each writer")
	if f.h.Capabilities.AtomicSend {
		require.Equal(f.t, ids(ann), ids(f.all("bob")))
	}
}
