package storetest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

var accountRules = []rule{
	{name: "delete: everything goes, the epoch goes up by one", check: checkDelete},
	{name: "delete: only with the expected revision", check: func(f *fixture) {
		first := f.record("ann", 0, "one")
		second := f.record("ann", first, "two")
		f.fill("ann", 2)
		before := f.head("ann")
		for _, expect := range []store.Revision{0, first, second + 1} {
			require.ErrorIs(f.t, f.s.Delete(f.ctx, "ann", expect), store.ErrConflict)
		}
		require.Equal(f.t, before, f.head("ann"))
		require.Equal(f.t, second, f.load("ann").Revision)
		require.ErrorIs(f.t, f.s.Delete(f.ctx, "bob", second), store.ErrConflict)
		require.NoError(f.t, f.s.Delete(f.ctx, "ann", second))
		require.ErrorIs(f.t, f.s.Delete(f.ctx, "ann", second), store.ErrConflict)
	}},
	{name: "delete: of an inbox without a record, again and again", check: func(f *fixture) {
		epoch := f.head("ann").Epoch
		for range 3 {
			require.Equal(f.t, epoch, f.send("ann", "ann").To[0].Epoch)
			require.NoError(f.t, f.s.Delete(f.ctx, "ann", 0))
			epoch++
			require.Equal(f.t, store.Head{Epoch: epoch}, f.head("ann"))
		}
	}},
	{name: "delete: leaves other accounts alone", check: func(f *fixture) {
		p := f.send("ann", "ann", "bob", "an", "anna")
		bob := f.head("bob")
		require.NoError(f.t, f.s.Delete(f.ctx, "ann", 0))
		require.Equal(f.t, bob, f.head("bob"))
		for _, a := range []event.Account{"bob", "an", "anna"} {
			require.Equal(f.t, "payload", string(f.all(a)[0].Payload))
		}
		require.Equal(f.t, plain(p.To), plain(f.info(p.ID).To))
		for _, a := range []event.Account{"bob", "an", "anna"} {
			require.NoError(f.t, f.s.Delete(f.ctx, a, 0))
		}
		f.gone(p.ID)
		require.Empty(f.t, f.accounts(10))
	}},
	{name: "delete: what was changed goes with the change", check: func(f *fixture) {
		first := f.unread()
		edit := f.change(first, "")
		f.commit(f.batch("bob", edit))
		other := f.commit(f.batch("ann", f.message("ann", "ann"))).Messages[0]
		of := f.message("bob", "bob")
		of.Of = other.ID
		f.commit(f.batch("bob", of))
		for _, a := range []event.Account{"ann", "bob"} {
			f.info(other.ID)
			require.NoError(f.t, f.s.Delete(f.ctx, a, 0))
		}
		for _, id := range []event.MessageID{first.ID, edit.ID, other.ID, of.ID} {
			f.gone(id)
		}
	}},
	{name: "delete: of a long inbox", check: func(f *fixture) {
		var last event.MessageID
		for range 20 {
			b := f.batch("ann")
			for range 200 {
				b.Messages = append(b.Messages, f.message("ann", "ann"))
			}
			last = f.commit(b).Messages[199].ID
		}
		require.NoError(f.t, f.s.Delete(f.ctx, "ann", 0))
		require.Equal(f.t, store.Head{Epoch: f.head("ann").Epoch}, f.head("ann"))
		require.Empty(f.t, f.page("ann", store.ReadOptions{Limit: 10}).Entries)
		f.fill("ann", 2)
		require.Len(f.t, f.all("ann"), 2, "nothing of before comes back")
		require.NotEqual(f.t, last, f.all("ann")[1].ID)
	}},
	{name: "accounts: paged in a fixed order", check: checkAccounts},
	{name: "accounts: names of every form", check: func(f *fixture) {
		names := []event.Account{
			"a", "A", "a/b", "a|b", "a ", " ", "\u00e9", "日本", "0", event.Account(strings.Repeat("x", event.MaxIDBytes)),
		}
		for _, a := range names {
			f.record(a, 0, "record of "+string(a))
			f.fill(a, 1)
		}
		require.ElementsMatch(f.t, names, f.accounts(3))
		for _, a := range names {
			require.Equal(f.t, "record of "+string(a), string(f.load(a).Data))
		}
	}},
}

func checkDelete(f *fixture) {
	b := f.batch("ann", f.message("ann", "ann", "bob"))
	b.Messages[0].Flags = event.FlagUnread
	b.Messages[0].Key = "k"
	b.Record = &store.RecordUpdate{Data: []byte("one")}
	b.States = []store.StateUpdate{marker(5)}
	b.Idempotency = idempotency("phone", "x")
	first := f.commit(b)
	f.save(store.Cursor{Account: "ann", Incarnation: 1, Seq: 1}, store.Cursor{Account: "bob", Incarnation: 1, Seq: 1})
	epoch := f.head("ann").Epoch
	require.NoError(f.t, f.s.Delete(f.ctx, "ann", first.Revision))

	require.Equal(f.t, store.Record{}, f.load("ann"))
	require.Equal(f.t, store.Head{Epoch: epoch + 1}, f.head("ann"))
	require.Empty(f.t, f.all("ann"))
	require.Empty(f.t, f.states("ann", store.StateOptions{}))
	require.Empty(f.t, f.cursors("ann"))
	require.Len(f.t, f.cursors("bob"), 1)
	require.Equal(f.t, []event.Account{"bob"}, f.accounts(10))
	require.Len(f.t, f.all("bob"), 1)

	again := f.batch("ann", f.message("ann", "ann"))
	again.Messages[0].Flags = event.FlagUnread
	again.Messages[0].Key = "k"
	again.Record = &store.RecordUpdate{Data: []byte("two")}
	again.States = []store.StateUpdate{marker(2)}
	again.Idempotency = idempotency("phone", "x", 9)
	r := f.commit(again)
	require.False(f.t, r.Duplicate)
	require.NotEqual(f.t, first.Revision, r.Revision)
	require.EqualValues(f.t, 2, r.States[0].Number)
	require.Equal(f.t, epoch+1, r.Messages[0].To[0].Epoch)
	require.EqualValues(f.t, 1, r.Messages[0].To[0].Ordinal)
	require.Len(f.t, f.all("ann"), 1)
	require.Len(f.t, f.all("bob"), 1)
}

func checkAccounts(f *fixture) {
	require.Empty(f.t, f.accounts(5))
	var names []event.Account
	for i := range 9 {
		names = append(names, event.Account(fmt.Sprint("account-", i*7%9)))
	}
	for i, a := range names {
		if i%2 == 0 {
			f.record(a, 0, "one")
		} else {
			f.send("nobody", a)
		}
	}
	all := f.accounts(100)
	require.ElementsMatch(f.t, names, all, "the acting account of a send has neither record nor inbox")
	for limit := 1; limit <= 10; limit++ {
		require.Equal(f.t, all, f.accounts(limit), "limit %d", limit)
	}
	for i, a := range all {
		page, err := f.s.Accounts(f.ctx, a, 2)
		require.NoError(f.t, err)
		require.Equal(f.t, all[i+1:min(i+3, len(all))], append([]event.Account{}, page...))
	}
	require.NoError(f.t, f.s.Delete(f.ctx, all[3], f.load(all[3]).Revision))
	page, err := f.s.Accounts(f.ctx, all[3], 1)
	require.NoError(f.t, err)
	require.Equal(f.t, all[4:5], page, "paging goes on after an account that was deleted meanwhile")
	require.NotContains(f.t, f.accounts(2), all[3])
	i := slices.IndexFunc(all, func(a event.Account) bool { return a != all[3] && f.load(a).Revision == 0 })
	f.trim(all[i], f.head(all[i]).Seq, 10)
	require.Contains(f.t, f.accounts(2), all[i], "an inbox that was trimmed to nothing is still one")
}
