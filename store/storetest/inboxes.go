package storetest

import (
	"bytes"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

var inboxRules = []rule{
	{name: "inbox: one that was never written is empty", check: func(f *fixture) {
		p := f.page("ann", store.ReadOptions{Limit: 10})
		require.Empty(f.t, p.Entries)
		require.Equal(f.t, store.Head{Epoch: p.Head.Epoch}, p.Head)
		require.Equal(f.t, f.s.Info().Incarnation, uint32(p.Head.Epoch>>32))
		require.Equal(f.t, p.Head.Epoch, f.send("ann", "ann").To[0].Epoch, "the first entry begins no new epoch")
	}},
	{name: "inbox: every field comes back", check: checkFields},
	{name: "inbox: I3 sequence numbers strictly increase", check: func(f *fixture) {
		var last uint64
		for range 4 {
			for _, seq := range f.fill("ann", 3) {
				require.Greater(f.t, seq, last)
				last = seq
			}
			require.Equal(f.t, last, f.head("ann").Seq)
			f.send("bob", "bob")
		}
		require.Len(f.t, f.all("ann"), 12)
	}},
	{name: "inbox: I3 sequence numbers are dense", skip: dense,
		check: func(f *fixture) {
			require.Equal(f.t, []uint64{1, 2, 3}, f.fill("ann", 3))
			f.trim("ann", 3, 10)
			require.Equal(f.t, []uint64{4}, f.fill("ann", 1))
			f.void("ann", 4)
			require.Equal(f.t, []uint64{5, 6}, f.fill("ann", 2))
			f.void("ann", 6)
			require.Equal(f.t, []uint64{7}, f.fill("ann", 1))
		}},
	{name: "inbox: I3 refused batches use no sequence number", skip: dense,
		check: func(f *fixture) {
			f.fill("ann", 1)
			b := f.batch("ann", f.message("ann", "ann"))
			b.Record = &store.RecordUpdate{Expect: 77}
			f.refused(b, store.ErrConflict)
			require.Equal(f.t, []uint64{2}, f.fill("ann", 1))
		}},
	{name: "inbox: head is kept, not derived", check: checkHead},
	{name: "inbox: S57 a newer entry supersedes the one with its key", check: checkSupersede},
	{name: "inbox: S57 a flood under one key stays one entry", check: func(f *fixture) {
		keep := f.send("ann", "ann")
		for range 10 {
			b := f.batch("ann")
			for range 20 {
				m := f.message("ann", "ann")
				m.Key = "read\n\nc1"
				b.Messages = append(b.Messages, m)
			}
			f.commit(b)
		}
		list := f.all("ann")
		require.Len(f.t, list, 2)
		require.Equal(f.t, keep.ID, list[0].ID)
		require.Equal(f.t, f.head("ann").Seq, list[1].Seq)
		require.Equal(f.t, 1, f.head("ann").Entries, "keyed entries are not counted")
	}},
	{name: "inbox: ordinals count what is unread in each conversation", check: checkOrdinals},
	{name: "inbox: I4 an entry never changes", check: func(f *fixture) {
		f.fill("ann", 3)
		before := f.all("ann")
		f.now = f.now.Add(time.Hour)
		for range 5 {
			f.send("bob", "ann", "bob")
		}
		f.void("ann", before[1].Seq)
		after := f.all("ann")
		require.Equal(f.t, before[0], after[0])
		require.Equal(f.t, before[2], after[1])
	}},
	{name: "inbox: what is returned and what was passed in are copies", check: checkCopies},
}

func checkFields(f *fixture) {
	m := store.Message{
		ID: f.issuer.Issue(), Kind: "x.y-z_1", Flags: event.FlagReceipts, Conversation: "Straße 1", ClientID: "client-1",
		From: "ann", Origin: event.NewLoginID(), Key: strings.Repeat("k", store.MaxKeyBytes),
		Expires: f.now.Add(time.Hour), Payload: bytes.Repeat([]byte{0, 255}, 3000),
		To: []store.Inbox{
			{Account: "ann", Targets: []event.Incarnation{1 << 60, 2}},
			{Account: "bob", Flags: event.FlagUnread},
		},
	}
	placed := f.commit(f.batch("ann", m)).Messages[0]
	require.Equal(f.t, m.ID, placed.ID)
	want := event.Entry{
		Seq: placed.To[0].Seq, Kind: m.Kind, Flags: event.FlagReceipts, Conversation: m.Conversation, ID: m.ID,
		ClientID: m.ClientID, From: m.From, Origin: m.Origin, Targets: m.To[0].Targets, Key: m.Key, Time: f.now.UTC(),
		Expires: m.Expires.UTC(), Payload: m.Payload,
	}
	require.Equal(f.t, []event.Entry{want}, f.all("ann"))
	want.Seq, want.Ordinal = placed.To[1].Seq, 1
	want.Flags, want.Targets = event.FlagReceipts|event.FlagUnread, nil
	want.ClientID, want.Origin = "", "" // I23: nobody else's business
	require.Equal(f.t, []event.Entry{want}, f.all("bob"))

	least := store.Message{ID: f.issuer.Issue(), Kind: "m", From: "ann", To: []store.Inbox{{Account: "cat"}}}
	placed = f.commit(f.batch("ann", least)).Messages[0]
	require.Equal(f.t, []event.Entry{{
		Seq: placed.To[0].Seq, Kind: "m", ID: least.ID, From: "ann", Time: f.now.UTC(),
	}}, f.all("cat"))

	largest := f.message("ann", "dan")
	largest.Payload = bytes.Repeat([]byte("abcdefgh"), store.MaxPayloadBytes/8)
	f.commit(f.batch("ann", largest))
	require.Equal(f.t, largest.Payload, f.all("dan")[0].Payload)
}

func checkHead(f *fixture) {
	size := int64((&event.Entry{Payload: []byte("payload")}).Size())
	list := f.fill("ann", 4)
	epoch := f.head("ann").Epoch
	want := store.Head{Epoch: epoch, Seq: list[3], Entries: 4, Bytes: 4 * size}
	require.Equal(f.t, want, f.head("ann"))

	m := f.message("ann", "ann")
	m.Key, m.Payload = "k", nil
	want.Seq = f.commit(f.batch("ann", m)).Messages[0].To[0].Seq
	want.Bytes += size - int64(len("payload"))
	require.Equal(f.t, want, f.head("ann"), "a keyed entry counts in Bytes and not in Entries")

	want.Entries, want.Bytes = want.Entries-1, want.Bytes-size
	require.Equal(f.t, want, f.void("ann", list[1]))
	want.Trim, want.Entries, want.Bytes = list[1], want.Entries-1, want.Bytes-size
	require.Equal(f.t, want, f.trim("ann", list[1], 10))
	want.Trim, want.Entries, want.Bytes = want.Seq, 0, 0
	require.Equal(f.t, want, f.trim("ann", want.Seq, 10), "the numbers of an empty inbox stay")
	require.Empty(f.t, f.all("ann"))

	next := f.fill("ann", 1)[0]
	require.Greater(f.t, next, want.Seq)
	want.Seq, want.Entries, want.Bytes = next, 1, size
	require.Equal(f.t, want, f.head("ann"))
}

func checkSupersede(f *fixture) {
	keyed := func(key string, to ...event.Account) store.Placed {
		m := f.message("ann", to...)
		m.Key = key
		return f.commit(f.batch("ann", m)).Messages[0]
	}
	one := keyed("k", "ann", "bob")
	other := keyed("l", "ann")
	two := keyed("k", "ann")
	require.Equal(f.t, []event.MessageID{other.ID, two.ID}, ids(f.all("ann")))
	require.Equal(f.t, []event.MessageID{one.ID}, ids(f.all("bob")), "only inboxes that get the newer one lose the older")
	require.Equal(f.t, one.ID, f.info(one.ID).ID)
	three := keyed("k", "bob")
	require.Equal(f.t, []event.MessageID{three.ID}, ids(f.all("bob")))
	f.gone(one.ID)

	a, b := f.message("ann", "ann"), f.message("ann", "ann")
	a.Key, b.Key = "k", "k"
	f.commit(f.batch("ann", a, b))
	require.Equal(f.t, []event.MessageID{other.ID, b.ID}, ids(f.all("ann")), "also within one batch")
	f.gone(a.ID)
	f.gone(two.ID)

	f.trim("ann", f.head("ann").Seq, 10)
	again := keyed("k", "ann")
	require.Equal(f.t, []event.MessageID{again.ID}, ids(f.all("ann")), "a key whose entry is gone may be used again")
	require.Zero(f.t, f.head("ann").Entries)
}

func checkOrdinals(f *fixture) {
	next := func(conversation event.ConversationID, flags, inbox event.Flags) uint64 {
		m := f.message("bob", "ann", "bob")
		m.Conversation, m.Flags, m.To[0].Flags = conversation, flags, inbox
		placed := f.commit(f.batch("bob", m)).Messages[0]
		all := f.all("ann")
		require.Equal(f.t, placed.To[0].Ordinal, all[len(all)-1].Ordinal)
		require.Equal(f.t, flags|inbox, all[len(all)-1].Flags)
		return placed.To[0].Ordinal
	}
	require.EqualValues(f.t, 1, next("c1", event.FlagUnread, 0))
	require.EqualValues(f.t, 2, next("c1", 0, event.FlagUnread))
	require.EqualValues(f.t, 0, next("c1", event.FlagReceipts, 0))
	require.EqualValues(f.t, 1, next("c2", 0, event.FlagUnread))
	require.EqualValues(f.t, 3, next("c1", event.FlagUnread, event.FlagUnread))
	f.void("ann", f.head("ann").Seq)
	require.EqualValues(f.t, 4, next("c1", event.FlagUnread, 0), "a voided entry's number is not used again")
	f.trim("ann", f.head("ann").Seq, 100)
	require.EqualValues(f.t, 5, next("c1", event.FlagUnread, 0), "the counter is not derived from what is left")
	require.EqualValues(f.t, 2, next("c2", event.FlagUnread, 0))
	bob := f.all("bob")
	require.EqualValues(f.t, 1, bob[0].Ordinal)
	require.EqualValues(f.t, 0, bob[1].Ordinal, "flags of one inbox count there only")
}

func checkCopies(f *fixture) {
	data, value := []byte("data"), []byte("value")
	m := f.message("ann", "ann")
	m.To[0].Targets = []event.Incarnation{7}
	b := f.batch("ann", m)
	b.Record = &store.RecordUpdate{Data: data}
	b.States = []store.StateUpdate{{Conversation: "c1", Name: "n", Merge: store.MergeLast, Value: value}}
	r := f.commit(b)
	data[0], value[0], m.To[0].Targets[0], m.To[0].Account = 'X', 'X', 8, "bob"
	r.States[0].Value[0] = 'Y'
	r.Messages[0].To[0].Seq = 99

	require.Equal(f.t, "value", string(f.register("n").Value), "what was passed in is kept")
	f.load("ann").Data[0] = 'Y'
	f.register("n").Value[0] = 'Y'
	require.Equal(f.t, "value", string(f.register("n").Value), "a page is the store's own memory")
	f.page("ann", store.ReadOptions{Limit: 1}).Entries[0].Targets[0] = 9
	f.info(m.ID).To[0].Seq = 99
	b.OnlyIfChanged, b.Record, b.Messages = true, nil, nil
	b.States[0].Value = []byte("value")
	f.commit(b).States[0].Value[0] = 'Z'

	f.save(store.Cursor{Account: "ann", Incarnation: 3, Seq: 1})
	list, err := f.s.Cursors(f.ctx, "ann")
	require.NoError(f.t, err)
	require.Len(f.t, list, 1)
	list[0].Seq = 99
	f.void("ann", f.unread().To[0].Seq)
	require.Equal(f.t, []uint64{1}, f.count("ann", "c1").Uncounted)
	f.count("ann", "c1").Uncounted[0] = 99

	require.EqualValues(f.t, 1, f.cursors("ann")[3].Seq)
	require.Equal(f.t, []uint64{1}, f.count("ann", "c1").Uncounted)
	require.Equal(f.t, "data", string(f.load("ann").Data))
	require.Equal(f.t, "value", string(f.states("ann", store.StateOptions{})[0].Value))
	require.Equal(f.t, []event.Incarnation{7}, f.all("ann")[0].Targets)
	require.Equal(f.t, f.all("ann")[0].Seq, f.info(m.ID).To[0].Seq)
}
