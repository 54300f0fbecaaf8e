package storetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

func marker(n uint64) store.StateUpdate {
	return store.StateUpdate{Conversation: "c1", Name: "read", Merge: store.MergeMax, Number: n}
}

func setting(value string) store.StateUpdate {
	return store.StateUpdate{Conversation: "c1", Name: "note", Merge: store.MergeLast, Value: []byte(value)}
}

var stateRules = []rule{
	{name: "state: none at first", check: func(f *fixture) {
		require.Empty(f.t, f.states("ann", store.StateOptions{}))
		f.send("bob", "ann")
		require.Empty(f.t, f.states("ann", store.StateOptions{}))
	}},
	{name: "state: S58 the higher number stays", check: func(f *fixture) {
		for _, c := range []struct{ set, want uint64 }{{100, 100}, {80, 100}, {100, 100}, {101, 101}, {0, 101}} {
			r := f.set("ann", marker(c.set))
			require.Equal(f.t, c.want, r.States[0].Number)
			require.EqualValues(f.t, c.want, f.number("ann"))
		}
	}},
	{name: "state: a marker of 0 exists", check: func(f *fixture) {
		f.set("ann", marker(0))
		require.Equal(f.t, []event.State{{Conversation: "c1", Name: "read"}}, f.states("ann", store.StateOptions{}))
	}},
	{name: "state: the newer setting stays", check: func(f *fixture) {
		for _, value := range []string{"one", "two", "one", "", strings.Repeat("v", store.MaxRecordBytes)} {
			r := f.set("ann", setting(value))
			require.Equal(f.t, value, string(r.States[0].Value))
			require.Equal(f.t, value, string(f.states("ann", store.StateOptions{})[0].Value))
		}
	}},
	{name: "state: I16 S59 concurrent markers end at the highest", check: checkMarkers},
	{name: "state: carries the sequence number of what set it", check: checkStateSeq},
	{name: "state: result names the registers in the batch's order", check: func(f *fixture) {
		f.set("ann", marker(5), setting("one"))
		r := f.set("ann", setting("two"), marker(3), marker(7), setting("three"))
		require.Len(f.t, r.States, 4)
		require.Equal(f.t, "read", r.States[1].Name)
		require.EqualValues(f.t, 7, f.register("read").Number)
		require.Equal(f.t, "three", string(f.register("note").Value), "updates of one batch are merged in order")
		require.Equal(f.t, "three", string(r.States[3].Value))
		require.EqualValues(f.t, 7, r.States[2].Number)
	}},
	{name: "state: one register again and again in a large batch", check: func(f *fixture) {
		var updates []store.StateUpdate
		for i := range 20 {
			u := setting("x")
			u.Name = fmt.Sprint("name-", i)
			updates = append(updates, u)
		}
		r := f.set("ann", append(updates, marker(1), marker(5), marker(3))...)
		for i, want := range []uint64{1, 5, 5} {
			require.Equal(f.t, want, r.States[20+i].Number)
		}
		require.EqualValues(f.t, 5, f.register("read").Number)
	}},
	{name: "state: OnlyIfChanged does nothing when nothing changes", check: checkOnlyIfChanged},
	{name: "state: pages, by conversation, newer than", check: checkStatePages},
	{name: "state: a cursor of no store is refused", check: func(f *fixture) {
		f.set("ann", marker(1))
		_, err := f.s.States(f.ctx, "ann", store.StateOptions{Limit: 1, Cursor: "nothing"})
		f.invalid(err, "cursor")
	}},
	{name: "state: belongs to one account", check: func(f *fixture) {
		f.set("ann", marker(5))
		f.set("an", marker(6))
		require.EqualValues(f.t, 5, f.number("ann"))
		require.EqualValues(f.t, 6, f.number("an"))
		require.Empty(f.t, f.states("anna", store.StateOptions{}))
	}},
}

// register returns Ann's register of the given name.
func (f *fixture) register(name string) event.State {
	f.t.Helper()
	list := f.states("ann", store.StateOptions{})
	i := slices.IndexFunc(list, func(s event.State) bool { return s.Name == name })
	require.GreaterOrEqual(f.t, i, 0, "no register %s", name)
	return list[i]
}

func checkMarkers(f *fixture) {
	const writers, each = 4, 10
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				n := uint64((j*7+i*3)%each*writers + i)
				r, err := f.s.Commit(f.ctx, store.Batch{Account: "ann", Now: f.now, States: []store.StateUpdate{marker(n)}})
				if err == nil && r.States[0].Number < n {
					err = fmt.Errorf("set %d, is %d", n, r.States[0].Number)
				}
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	wg.Wait()
	require.NoError(f.t, errors.Join(errs...))
	require.Equal(f.t, writers*each-1, f.number("ann"))
}

func checkStateSeq(f *fixture) {
	require.Zero(f.t, f.set("ann", marker(1)).States[0].Seq, "an empty inbox has head 0")
	list := f.fill("ann", 2)
	require.Equal(f.t, list[1], f.set("ann", marker(2)).States[0].Seq, "without entries: the head")

	b := f.batch("ann", f.message("ann", "ann"), f.message("ann", "bob", "ann"), f.message("ann", "bob"))
	b.States = []store.StateUpdate{marker(3), setting("one")}
	r := f.commit(b)
	own := r.Messages[1].To[1].Seq
	require.Equal(f.t, own, r.States[0].Seq, "the last entry of the batch in the own inbox")
	require.Equal(f.t, own, r.States[1].Seq)
	require.Equal(f.t, own, f.register("read").Seq)

	f.fill("ann", 1)
	require.Equal(f.t, own, f.set("ann", marker(3), setting("one")).States[0].Seq, "what does not change keeps its number")
	require.Equal(f.t, own, f.register("note").Seq)
	f.trim("ann", f.head("ann").Seq, 100)
	require.Equal(f.t, f.head("ann").Seq, f.set("ann", marker(4)).States[0].Seq, "also when all entries are gone")
}

func checkOnlyIfChanged(f *fixture) {
	rev := f.record("ann", 0, "one")
	f.set("ann", marker(5), setting("one"))
	b := f.batch("ann", f.message("ann", "ann", "bob"))
	b.OnlyIfChanged = true
	b.Record = &store.RecordUpdate{Expect: rev, Data: []byte("two")}
	b.Idempotency = idempotency("phone", "x")
	b.States = []store.StateUpdate{marker(4), setting("one")}
	r := f.commit(b)
	require.True(f.t, r.Unchanged)
	require.Empty(f.t, r.Messages)
	require.Len(f.t, r.States, 2)
	require.EqualValues(f.t, 5, r.States[0].Number)
	require.Equal(f.t, rev, r.Revision)
	require.Equal(f.t, "one", string(f.load("ann").Data))
	require.Zero(f.t, f.head("ann").Seq)
	require.Zero(f.t, f.head("bob").Seq)
	f.gone(b.Messages[0].ID)

	stale := b
	stale.Record = &store.RecordUpdate{Expect: rev + 1}
	f.refused(stale, store.ErrConflict) // the record is checked first

	b.States = []store.StateUpdate{marker(4), setting("two")}
	r = f.commit(b)
	require.False(f.t, r.Unchanged)
	require.False(f.t, r.Duplicate, "a batch that did nothing was remembered")
	require.Equal(f.t, "two", string(f.load("ann").Data))
	require.Len(f.t, f.all("ann"), 1)
	require.EqualValues(f.t, 5, f.register("read").Number)
	require.Zero(f.t, f.register("read").Seq)
	require.Equal(f.t, f.head("ann").Seq, f.register("note").Seq)
}

func checkStatePages(f *fixture) {
	var want []event.State
	for _, conversation := range []event.ConversationID{"", "c", "c1", "c10", "c2", "\u00e9"} {
		for _, name := range []string{"_x", "a", "ab", "b"} {
			seq := f.fill("ann", 1)[0]
			f.set("ann", store.StateUpdate{Conversation: conversation, Name: name, Number: seq})
			want = append(want, event.State{Conversation: conversation, Name: name, Number: seq, Seq: seq})
		}
	}
	all := f.states("ann", store.StateOptions{})
	require.ElementsMatch(f.t, want, all)
	require.Equal(f.t, all, f.states("ann", store.StateOptions{}), "the order is fixed")
	for _, conversation := range []event.ConversationID{"c", "c1", "c10", "c2", "c3"} {
		for _, newer := range []uint64{0, 1, want[9].Seq, want[len(want)-1].Seq} {
			var some []event.State
			for _, s := range want {
				if s.Conversation == conversation && s.Seq > newer {
					some = append(some, s)
				}
			}
			got := f.states("ann", store.StateOptions{Conversation: conversation, Newer: newer})
			require.ElementsMatch(f.t, some, got, "%s %d", conversation, newer)
		}
	}
	newer := f.states("ann", store.StateOptions{Newer: want[9].Seq})
	require.ElementsMatch(f.t, want[10:], newer)
	for _, limit := range []int{len(want), len(want) + 1} {
		page, err := f.s.States(f.ctx, "ann", store.StateOptions{Limit: limit})
		require.NoError(f.t, err)
		require.Len(f.t, page.States, len(want))
		require.Empty(f.t, page.Next, "limit %d", limit)
	}
}

var cursorRules = []rule{
	{name: "cursor: none at first", check: func(f *fixture) { require.Empty(f.t, f.cursors("ann")) }},
	{name: "cursor: I9 the maximum stays, of each part", check: func(f *fixture) {
		for _, c := range []struct{ seq, sent, wantSeq, wantSent uint64 }{
			{5, 7, 5, 7}, {3, 9, 5, 9}, {8, 2, 8, 9}, {8, 3, 8, 9}, {1, 9, 8, 9}, {0, 0, 8, 9},
		} {
			f.save(store.Cursor{Account: "ann", Incarnation: 1, Seq: c.seq, Sent: c.sent})
			require.Equal(f.t, map[event.Incarnation]store.Cursor{
				1: {Account: "ann", Incarnation: 1, Seq: c.wantSeq, Sent: c.wantSent},
			}, f.cursors("ann"))
		}
	}},
	{name: "cursor: of many accounts at once", check: func(f *fixture) {
		var list []store.Cursor
		for i := range 50 {
			account := event.Account(fmt.Sprint("account-", i))
			list = append(list,
				store.Cursor{Account: account, Incarnation: 1, Seq: uint64(i), Sent: uint64(i)},
				store.Cursor{Account: account, Incarnation: 1 << 63, Seq: 1, Sent: 2},
				store.Cursor{Account: account, Incarnation: 1, Seq: 3, Sent: 3}, // twice in one call
			)
		}
		f.save(list...)
		f.save()
		for i := range 50 {
			got := f.cursors(event.Account(fmt.Sprint("account-", i)))
			require.Len(f.t, got, 2)
			require.EqualValues(f.t, max(i, 3), got[1].Seq)
			require.EqualValues(f.t, 2, got[1<<63].Sent)
		}
		last := store.Cursor{Account: "account-0", Incarnation: 1, Seq: 99, Sent: 99}
		require.NoError(f.t, f.s.SaveCursors(f.ctx, append(slices.Repeat(list[:10], 120), last)))
		require.Equal(f.t, last, f.cursors("account-0")[1])
	}},
	{name: "cursor: one of an account that is not there leaves the others", check: func(f *fixture) {
		f.save(store.Cursor{Account: "bob", Incarnation: 1, Seq: 1})
		require.NoError(f.t, f.s.SaveCursors(f.ctx, []store.Cursor{
			{Account: "ann", Incarnation: 1, Seq: 2}, {Account: "bob", Incarnation: 2, Seq: 2}, {Account: "bob", Incarnation: 1, Seq: 2},
		}))
		require.Empty(f.t, f.cursors("ann"))
		require.EqualValues(f.t, 2, f.cursors("bob")[1].Seq)
	}},
	{name: "cursor: void unless begun, also after it was forgotten", check: func(f *fixture) {
		late := store.Cursor{Account: "ann", Incarnation: 1, Seq: 5, Sent: 5}
		require.NoError(f.t, f.s.SaveCursors(f.ctx, []store.Cursor{late}))
		require.Empty(f.t, f.cursors("ann"))
		require.Empty(f.t, f.accounts(10), "it makes no account either")
		f.save(late)
		b := f.batch("ann")
		b.Forget = []event.Incarnation{1}
		f.commit(b)
		require.NoError(f.t, f.s.SaveCursors(f.ctx, []store.Cursor{late}))
		require.Empty(f.t, f.cursors("ann"))
	}},
	{name: "cursor: S42 a new device begins at the head, less what it asks for", check: checkBegin},
	{name: "cursor: At is a place at most at the head and not before the trim position", check: func(f *fixture) {
		list := f.fill("ann", 6)
		f.trim("ann", list[1], 10)
		b := f.batch("ann")
		b.Begin = []store.Begin{
			{Incarnation: 1, At: list[3]}, {Incarnation: 2, At: list[5] + 7}, {Incarnation: 3, At: list[0]},
			{Incarnation: 4, At: list[5], Back: 1}, {Incarnation: 5, At: list[2], Back: 1},
		}
		f.commit(b)
		got := f.cursors("ann")
		require.Equal(f.t, list[3], got[1].Seq)
		require.Equal(f.t, list[5], got[2].Seq, "beyond the head")
		require.Equal(f.t, f.head("ann").Trim, got[3].Seq, "before the trim position")
		require.Equal(f.t, list[4], got[4].Seq, "the lower of At and Back")
		require.Equal(f.t, list[2], got[5].Seq)
	}},
	{name: "cursor: one that is there already stays", check: func(f *fixture) {
		f.fill("ann", 5)
		f.save(store.Cursor{Account: "ann", Incarnation: 1, Seq: 2, Sent: 3})
		b := f.batch("ann")
		b.Begin = []store.Begin{{Incarnation: 1}, {Incarnation: 2}, {Incarnation: 2, Back: 3}}
		f.commit(b)
		got := f.cursors("ann")
		require.Equal(f.t, store.Cursor{Account: "ann", Incarnation: 1, Seq: 2, Sent: 3}, got[1])
		require.Equal(f.t, f.head("ann").Seq, got[2].Seq)
	}},
	{name: "cursor: a device begins only if the batch is applied", check: func(f *fixture) {
		f.fill("ann", 2)
		b := f.batch("ann")
		b.Begin, b.Record = []store.Begin{{Incarnation: 1}}, &store.RecordUpdate{Expect: 9}
		f.refused(b, store.ErrConflict)
		b.Record, b.OnlyIfChanged = nil, true
		require.True(f.t, f.commit(b).Unchanged)
		require.Empty(f.t, f.cursors("ann"))
	}},
	{name: "cursor: S51 forgotten with the device", check: func(f *fixture) {
		f.save(store.Cursor{Account: "ann", Incarnation: 1, Seq: 5}, store.Cursor{Account: "ann", Incarnation: 2, Seq: 6},
			store.Cursor{Account: "ann", Incarnation: 3, Seq: 7}, store.Cursor{Account: "bob", Incarnation: 1, Seq: 8})
		b := f.batch("ann")
		b.Forget = []event.Incarnation{1, 3, 9}
		f.commit(b)
		require.Equal(f.t, map[event.Incarnation]store.Cursor{
			2: {Account: "ann", Incarnation: 2, Seq: 6},
		}, f.cursors("ann"))
		require.Len(f.t, f.cursors("bob"), 1)
	}},
	{name: "cursor: forgotten only if the batch is applied", check: func(f *fixture) {
		f.save(store.Cursor{Account: "ann", Incarnation: 1, Seq: 5})
		b := f.batch("ann")
		b.Forget, b.Record = []event.Incarnation{1}, &store.RecordUpdate{Expect: 9}
		f.refused(b, store.ErrConflict)
		require.Len(f.t, f.cursors("ann"), 1)
	}},
}

func checkBegin(f *fixture) {
	begin := func(back uint64, messages ...store.Message) uint64 {
		next := event.Incarnation(len(f.cursors("ann")) + 1)
		b := f.batch("ann", messages...)
		b.Begin = []store.Begin{{Incarnation: next, Back: back}}
		f.commit(b)
		c := f.cursors("ann")[next]
		require.LessOrEqual(f.t, c.Sent, c.Seq, "nothing was sent to a new device")
		return c.Seq
	}
	require.Zero(f.t, begin(0), "in an empty inbox")
	require.Zero(f.t, begin(7))
	list := f.fill("ann", 5)
	require.Equal(f.t, list[4], begin(0))
	require.Equal(f.t, list[2], begin(2))
	require.Less(f.t, begin(5), list[0])
	require.Less(f.t, begin(math.MaxUint64), list[0])
	begin(0, f.message("ann", "ann"), f.message("ann", "bob", "ann"))
	require.Equal(f.t, f.head("ann").Seq, f.cursors("ann")[7].Seq, "the head as the batch leaves it")
	f.trim("ann", list[3], 10)
	require.GreaterOrEqual(f.t, begin(1000), f.head("ann").Trim, "not before the trim position")
	require.Less(f.t, f.cursors("ann")[8].Seq, list[4])
	require.Empty(f.t, f.cursors("bob"))
}
