package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

func small(h *Harness) string { return unless(h.Small != nil, "Harness.Small is not set") }

func smallDurable(h *Harness) string {
	return cmp.Or(durable(h), small(h))
}

func givesBack(h *Harness) string {
	return cmp.Or(small(h), unless(!h.KeepsRoom, "Harness.KeepsRoom is set"))
}

func ownDisk(h *Harness) string { return unless(h.Disk != nil, "Harness.Disk is not set") }

var fullRules = []rule{
	{name: "full: S70 refused before any change, the reserve is left, room heals", skip: small, check: checkFull},
	{name: "full: to the last byte, ends and removals work", skip: small, check: func(f *fixture) {
		f = f.small()
		f.begin("ann", 1)
		f.fillUp("full")
		f.works()
		f.heals()
	}},
	{name: "full: the reserve is for what asks for it, and has an end", skip: small, check: func(f *fixture) {
		f = f.small()
		f.begin("ann", 1)
		f.fillUp("full")
		m := f.message("ann", "ann")
		m.Payload = nil
		f.refused(f.batch("ann", m), store.ErrFull)
		err := f.until(64<<20, 16<<10, true, "ann")
		require.ErrorIs(f.t, err, store.ErrFull, "the reserve has no end")
		f.heals()
	}},
	{name: "full: what needs no room is told as ever", skip: small, check: checkFullOrder},
	{name: "full: an emptied store takes what it took first", skip: givesBack, check: checkEmptied},
	{name: "full: as it was after it is opened again", skip: smallDurable, check: func(f *fixture) {
		f = f.small()
		f.begin("ann", 1)
		f.fillUp("full")
		head := f.head("full")
		for _, restart := range f.restarts() {
			restart()
			require.Equal(f.t, head, f.head("full"))
			require.ErrorIs(f.t, f.until(8<<20, 64<<10, false, "full"), store.ErrFull)
			f.works()
			head = f.head("full")
		}
		f.heals()
	}},
	{name: "disk: S70 filled by others: full until there is room, and not failed", skip: ownDisk, check: func(f *fixture) {
		s, fill, free := f.h.Disk(f.t)
		f = newFixture(f.t, f.h, s)
		f.begin("ann", 1)
		for range 2 {
			f.fill("full", 50)
			before := f.head("full")
			fill()
			// A log that is allocated ahead may take some.
			require.ErrorIs(f.t, f.until(64<<20, 256<<10, false, "full"), store.ErrFull)
			require.GreaterOrEqual(f.t, f.head("full").Seq, before.Seq)
			f.works()
			if f.h.Capabilities.Durable {
				for _, restart := range f.restarts() {
					restart()
					f.works()
				}
			}
			free()
			f.heals()
		}
	}},
}

// small returns a fixture with a store that is soon full.
func (f *fixture) small() *fixture { return newFixture(f.t, f.h, f.h.Small(f.t)) }

// begin creates cursors.
func (f *fixture) begin(account event.Account, devices ...event.Incarnation) {
	f.t.Helper()
	b := f.batch(account)
	for _, d := range devices {
		b.Begin = append(b.Begin, store.Begin{Incarnation: d})
	}
	f.commit(b)
}

// until sends messages until one is refused, and returns why. It ends without an error after that many bytes of payloads.
func (f *fixture) until(total, size int, reserve bool, account event.Account) error {
	for range max(total/max(size, 1), 1) {
		b := f.batch(account, f.message(account, account))
		b.Messages[0].Payload, b.Reserve = make([]byte, size), reserve
		if _, err := f.s.Commit(f.ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// fillUp fills a store until not even the smallest message finds room.
func (f *fixture) fillUp(account event.Account) {
	f.t.Helper()
	require.ErrorIs(f.t, f.until(100<<20, store.MaxPayloadBytes/2, false, account), store.ErrFull,
		"100 MiB went into a store that should hold 64 MiB at most")
	for _, size := range []int{128 << 10, 16 << 10, 2 << 10, 256, 0} {
		require.ErrorIs(f.t, f.until(64<<20, size, false, account), store.ErrFull)
	}
}

// works checks that what ends something works in a full store, and that the store has not failed.
func (f *fixture) works() {
	f.t.Helper()
	for range 20 {
		b := f.batch("ann", f.message("ann", "ann"))
		b.Record = &store.RecordUpdate{Expect: f.load("ann").Revision, Data: make([]byte, 1000)}
		b.States = []store.StateUpdate{marker(f.head("ann").Seq + 1)}
		b.Reserve = true
		f.commit(b)
	}
	seq := f.head("ann").Seq
	require.NoError(f.t, f.s.SaveCursors(f.ctx, []store.Cursor{{Account: "ann", Incarnation: 1, Seq: seq, Sent: seq}}))
	require.Equal(f.t, seq, f.cursors("ann")[1].Seq)
	f.void("ann", seq)
	f.trim("ann", seq, 5)
	f.trim("full", f.head("full").Trim+1, 1)
	require.NoError(f.t, f.s.Delete(f.ctx, "ann", f.load("ann").Revision))
	f.begin("ann", 1)
	require.NotEmpty(f.t, f.page("full", store.ReadOptions{Limit: 1, After: f.head("full").Trim}).Entries)
	f.notFailed()
}

func (f *fixture) notFailed() {
	f.t.Helper()
	select {
	case <-f.s.Failed():
		require.Fail(f.t, "the store has failed")
	default:
	}
}

// heals empties the inbox that was filled, and checks that a large message finds room soon: what knows of free space may be a
// second old, and may make some in the background.
func (f *fixture) heals() {
	f.t.Helper()
	f.trim("full", math.MaxUint64, math.MaxInt)
	f.trim("ann", math.MaxUint64, math.MaxInt)
	var err error
	require.Eventually(f.t, func() bool {
		err = f.until(1, store.MaxPayloadBytes/2, false, "full")
		return err == nil
	}, 10*time.Second, 50*time.Millisecond)
	require.NoError(f.t, err)
	f.notFailed()
}

// checkFull fills a small store with large messages and looks at one batch that is refused.
func checkFull(f *fixture) {
	f = f.small()
	rev := f.record("ann", 0, "one")
	require.ErrorIs(f.t, f.until(100<<20, store.MaxPayloadBytes/2, false, "full"), store.ErrFull)
	require.Positive(f.t, f.head("full").Entries)

	b := f.batch("ann", f.message("ann", "ann"))
	b.Messages[0].Payload = make([]byte, store.MaxPayloadBytes/2)
	b.Record = &store.RecordUpdate{Expect: rev, Data: []byte("two")}
	b.States = []store.StateUpdate{marker(5)}
	b.Idempotency = idempotency("phone", "x")
	b.Begin = []store.Begin{{Incarnation: 1}}
	f.refused(b, store.ErrFull)
	require.Equal(f.t, store.Record{Data: []byte("one"), Revision: rev}, f.load("ann"))
	require.Empty(f.t, f.states("ann", store.StateOptions{}))
	require.Empty(f.t, f.cursors("ann"))

	end := f.batch("ann", f.message("ann", "ann"))
	end.Record = &store.RecordUpdate{Expect: rev, Data: []byte("ended")}
	end.Idempotency = idempotency("phone", "x")
	end.Reserve = true
	require.False(f.t, f.commit(end).Duplicate, "a refused batch was remembered")
	f.save(store.Cursor{Account: "ann", Incarnation: 1, Seq: 1})
	require.Len(f.t, f.cursors("ann"), 1)
	require.Len(f.t, f.page("ann", store.ReadOptions{Limit: 1}).Entries, 1)
	f.heals()
}

// checkFullOrder looks at batches that come to a full store and are answered before room is looked at.
func checkFullOrder(f *fixture) {
	f = f.small()
	named := f.named(idempotency("phone", "x"))
	named.Record = &store.RecordUpdate{Data: []byte("one")}
	named.States = []store.StateUpdate{marker(5)}
	first := f.commit(named)
	f.fillUp("full")
	f.duplicate(named, first)
	f.duplicate(f.named(idempotency("phone", "x")), first)
	f.refused(f.named(idempotency("phone", "x", 1)), store.ErrMismatch)
	full := f.named(idempotency("phone", "y"))
	i := *full.Idempotency
	full.Idempotency, i.Max = &i, 1
	f.refused(full, store.ErrWindowFull)
	stale := f.batch("ann", f.message("ann", "ann"))
	stale.Record = &store.RecordUpdate{Expect: first.Revision + 9}
	f.refused(stale, store.ErrConflict)
	same := f.batch("ann", f.message("ann", "ann"))
	same.OnlyIfChanged, same.States = true, []store.StateUpdate{marker(4)}
	require.True(f.t, f.commit(same).Unchanged)
	used := f.batch("ann", f.message("ann", "ann"))
	used.Messages[0].ID = first.Messages[0].ID
	_, err := f.s.Commit(f.ctx, used)
	require.Error(f.t, err)
	require.False(f.t, errors.Is(err, store.ErrFull), "a used message ID will not do either when there is room")
}

// checkEmptied fills a store, empties it in each of the ways there are, and fills it again.
func checkEmptied(f *fixture) {
	for _, size := range []int{60_000, 100} {
		f := f.small()
		first, err := f.crowd(size)
		require.NoError(f.t, err)
		require.Positive(f.t, first)
		for _, c := range []struct {
			name  string
			empty func(account event.Account)
		}{
			{"trim", func(a event.Account) { f.trim(a, math.MaxUint64, math.MaxInt) }},
			{"void", func(a event.Account) {
				var list []uint64
				for _, e := range f.page(a, store.ReadOptions{Limit: math.MaxInt, NoBodies: true}).Entries {
					list = append(list, e.Seq)
				}
				f.void(a, list...)
			}},
			{"delete", func(a event.Account) { require.NoError(f.t, f.s.Delete(f.ctx, a, 0)) }},
			{"trim", func(a event.Account) { f.trim(a, math.MaxUint64, math.MaxInt) }},
		} {
			for i := range crowdAccounts {
				c.empty(crowdName(i))
			}
			var n int
			var failed error
			require.Eventually(f.t, func() bool { // rows may be removed in the background
				more, err := f.crowd(size)
				n, failed = n+more, errors.Join(failed, err)
				return failed != nil || n >= first*9/10
			}, 10*time.Second, 100*time.Millisecond, "%s: messages of %d bytes, %d at first", c.name, size, first)
			require.NoError(f.t, failed)
		}
	}
}

// crowdAccounts is how many inboxes crowd fills: several, so that not one of them alone is long.
const crowdAccounts = 5

func crowdName(i int) event.Account { return event.Account(fmt.Sprint("crowd-", i)) }

// crowd fills the store with messages of one size, some in each batch, and returns how many found room. It does not fail the
// test, so that goroutines may call it.
func (f *fixture) crowd(size int) (n int, err error) {
	for i := 0; ; i++ {
		account := crowdName(i % crowdAccounts)
		b := f.batch(account)
		for range max(1, min(500, (128<<10)/size)) {
			m := f.message(account, account)
			m.Payload = make([]byte, size)
			b.Messages = append(b.Messages, m)
		}
		if _, err := f.s.Commit(f.ctx, b); errors.Is(err, store.ErrFull) {
			return n, nil
		} else if err != nil {
			return n, err
		}
		n += len(b.Messages)
	}
}
