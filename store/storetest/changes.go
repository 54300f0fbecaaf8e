package storetest

import (
	"fmt"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// unread sends an unread message of conversation c1 from bob to ann and himself.
func (f *fixture) unread() store.Placed {
	m := f.message("bob", "ann", "bob")
	m.Conversation, m.To[0].Flags, m.Payload = "c1", event.FlagUnread, []byte(strings.Repeat("secret ", 400))
	return f.commit(f.batch("bob", m)).Messages[0]
}

// change is a message that changes another one in all its inboxes.
func (f *fixture) change(of store.Placed, key string) store.Message {
	m := f.message("bob")
	m.Conversation, m.Of, m.Key = "c1", of.ID, key
	for _, p := range of.To {
		m.To = append(m.To, store.Inbox{Account: p.Account, Replaces: event.Position{Epoch: p.Epoch, Seq: p.Seq}})
	}
	return m
}

var changeRules = []rule{
	{name: "change: C18 an edit takes the place of the message", check: func(f *fixture) {
		first, other := f.unread(), f.unread()
		edit := f.change(first, "edit")
		placed := f.commit(f.batch("bob", edit)).Messages[0]
		require.EqualValues(f.t, 1, placed.To[0].Ordinal, "its place in the count")
		all := f.all("ann")
		require.Equal(f.t, []event.MessageID{other.ID, edit.ID}, ids(all))
		require.Equal(f.t, event.FlagUnread, all[1].Flags)
		require.EqualValues(f.t, 1, all[1].Ordinal)
		require.Zero(f.t, f.all("bob")[1].Flags, "it did not count there")
		require.Equal(f.t, store.Conversation{Conversation: "c1", Counted: 2}, f.count("ann", "c1"))

		again := f.change(first, "edit")
		f.commit(f.batch("bob", again))
		all = f.all("ann")
		require.Equal(f.t, []event.MessageID{other.ID, again.ID}, ids(all), "an edit of an edit")
		require.EqualValues(f.t, 1, all[1].Ordinal)
		f.gone(edit.ID)
	}},
	{name: "change: C18 what is changed stays known as long as the change", check: func(f *fixture) {
		first := f.unread()
		edit := f.change(first, "edit")
		f.commit(f.batch("bob", edit))
		require.Equal(f.t, plain(first.To), plain(f.info(first.ID).To))
		again := f.change(edit2(first, edit.ID), "edit")
		f.commit(f.batch("bob", again))
		require.Equal(f.t, plain(first.To), plain(f.info(first.ID).To), "also if the change was changed")
		for _, a := range []event.Account{"ann", "bob"} {
			f.info(first.ID)
			f.trim(a, f.head(a).Seq, 10)
		}
		f.gone(first.ID)
		f.gone(edit.ID)
		f.gone(again.ID)
		require.Zero(f.t, f.head("ann").Bytes)
	}},
	{name: "change: C18 a recall takes the message and its edits out of the count", check: func(f *fixture) {
		f.unread()
		first, second := f.unread(), f.unread()
		f.commit(f.batch("bob", f.change(second, "edit")))
		for _, p := range []store.Placed{first, second} {
			recall := f.change(p, "recall "+string(p.ID))
			recall.Uncount, recall.Drop = true, "edit"
			f.commit(f.batch("bob", recall))
		}
		require.Equal(f.t, store.Conversation{Conversation: "c1", Counted: 3, Uncounted: []uint64{2, 3}}, f.count("ann", "c1"))
		require.Len(f.t, f.all("ann"), 3)
		for _, e := range f.all("ann")[1:] {
			require.Zero(f.t, e.Ordinal)
			require.Zero(f.t, e.Flags)
		}
	}},
	{name: "change: a change goes to the devices that have the message", check: func(f *fixture) {
		m := f.message("ann", "ann")
		m.To[0].Targets = []event.Incarnation{7, 9}
		first := f.commit(f.batch("ann", m)).Messages[0]
		edit := f.change(first, "edit")
		f.commit(f.batch("ann", edit))
		require.Equal(f.t, []event.Incarnation{7, 9}, f.all("ann")[0].Targets)
		own := f.change(first, "edit")
		own.To[0].Targets = []event.Incarnation{7}
		f.commit(f.batch("ann", own))
		require.Equal(f.t, []event.Incarnation{7}, f.all("ann")[0].Targets, "unless it names its own")
		plain := f.message("ann", "ann")
		plain.Key = "edit"
		f.commit(f.batch("ann", plain))
		require.Empty(f.t, f.all("ann")[0].Targets, "a key alone makes no successor")
	}},
	{name: "change: one that counts itself, or in another conversation, takes no place in the count", check: func(f *fixture) {
		first, second := f.unread(), f.unread()
		counts := f.change(first, "")
		counts.To[0].Flags = event.FlagUnread
		placed := f.commit(f.batch("bob", counts)).Messages[0]
		require.EqualValues(f.t, 3, placed.To[0].Ordinal)
		require.Equal(f.t, store.Conversation{Conversation: "c1", Counted: 3, Uncounted: []uint64{1}}, f.count("ann", "c1"))
		elsewhere := f.change(second, "")
		elsewhere.Conversation = "c2"
		placed = f.commit(f.batch("bob", elsewhere)).Messages[0]
		require.Zero(f.t, placed.To[0].Ordinal)
		require.Equal(f.t, store.Conversation{Conversation: "c1", Counted: 3, Uncounted: []uint64{1, 2}}, f.count("ann", "c1"))
		require.Zero(f.t, f.count("ann", "c2").Counted)
		all := f.all("ann")
		require.Equal(f.t, []event.MessageID{counts.ID, elsewhere.ID}, ids(all))
		require.Zero(f.t, all[1].Flags)
	}},
	{name: "change: of all that it replaces, one place in the count is taken over", check: func(f *fixture) {
		first := f.unread()
		keyed := f.message("bob", "ann")
		keyed.Conversation, keyed.Key, keyed.To[0].Flags = "c1", "k", event.FlagUnread
		f.commit(f.batch("bob", keyed))
		placed := f.commit(f.batch("bob", f.change(first, "k"))).Messages[0]
		require.EqualValues(f.t, 1, placed.To[0].Ordinal)
		require.Equal(f.t, store.Conversation{Conversation: "c1", Counted: 2, Uncounted: []uint64{2}}, f.count("ann", "c1"))
	}},
	{name: "change: a message that is not known changes nothing", check: func(f *fixture) {
		first := f.unread()
		stranger := f.change(store.Placed{ID: "nobody", To: first.To}, "")
		stranger.To[0].Replaces.Epoch++
		stranger.To[1].Replaces.Seq = 99
		f.commit(f.batch("bob", stranger))
		require.Equal(f.t, []event.MessageID{first.ID, stranger.ID}, ids(f.all("ann")), "a place of another epoch")
		require.Equal(f.t, []event.MessageID{first.ID, stranger.ID}, ids(f.all("bob")), "a place without an entry")
	}},
}

// edit2 is a change under another name, in the places of the message that it changes.
func edit2(p store.Placed, id event.MessageID) store.Placed { return store.Placed{ID: id, To: p.To} }

var countRules = []rule{
	{name: "count: C17 none at first", check: func(f *fixture) {
		require.Empty(f.t, f.counts("ann", store.ConversationOptions{}))
		f.send("bob", "ann")
		require.Empty(f.t, f.counts("ann", store.ConversationOptions{}))
	}},
	{name: "count: C17 every conversation, in pages", check: func(f *fixture) {
		want := map[event.ConversationID]uint64{}
		for i := range 25 {
			m := f.message("bob", "ann")
			m.Conversation = event.ConversationID(fmt.Sprint("c", i%7))
			if i%7 == 3 {
				m.Conversation += " and more" // sorts between c3 and c30
			}
			m.To[0].Flags = event.FlagUnread
			f.commit(f.batch("bob", m))
			want[m.Conversation]++
		}
		for _, limit := range []int{1, 2, 7, 100} {
			got := map[event.ConversationID]uint64{}
			for _, c := range f.counts("ann", store.ConversationOptions{Limit: limit}) {
				require.NotContains(f.t, got, c.Conversation)
				got[c.Conversation] = c.Counted
			}
			require.Equal(f.t, want, got, "limit %d", limit)
		}
		require.EqualValues(f.t, 4, f.count("ann", "c1").Counted)
		require.Zero(f.t, f.count("ann", "c3").Counted, "a name that begins alike")
		f.trim("ann", f.head("ann").Seq, 100)
		require.Equal(f.t, store.Conversation{Conversation: "c1", Counted: 4}, f.count("ann", "c1"), "trimming changes nothing")
	}},
	{name: "count: voided and superseded entries are taken out", check: func(f *fixture) {
		for range 3 {
			m := f.message("bob", "ann")
			m.Conversation, m.Key, m.To[0].Flags = "c1", "k", event.FlagUnread
			f.commit(f.batch("bob", m))
		}
		require.Equal(f.t, store.Conversation{Conversation: "c1", Counted: 3, Uncounted: []uint64{1, 2}}, f.count("ann", "c1"))
		f.void("ann", f.head("ann").Seq, 77)
		require.Equal(f.t, []uint64{1, 2, 3}, f.count("ann", "c1").Uncounted)
	}},
	{name: "count: what was taken out is bounded, the lowest are forgotten", check: func(f *fixture) {
		seqs := []uint64{}
		for range store.MaxUncounted + 5 {
			seqs = append(seqs, f.unread().To[0].Seq)
		}
		f.void("ann", seqs...)
		got := f.count("ann", "c1").Uncounted
		require.Len(f.t, got, store.MaxUncounted)
		require.EqualValues(f.t, 6, got[0])
	}},
	{name: "count: bad options", check: func(f *fixture) {
		_, err := f.s.Conversations(f.ctx, "ann", store.ConversationOptions{})
		f.invalid(err, "limit")
		_, err = f.s.Conversations(f.ctx, "", store.ConversationOptions{Limit: 1})
		f.invalid(err, "account")
		_, err = f.s.Conversations(f.ctx, "ann", store.ConversationOptions{Limit: 1, Conversation: "\n"})
		f.invalid(err, "conversation")
	}},
}
