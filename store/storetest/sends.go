package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

var sendRules = []rule{
	{name: "send: one message to several inboxes, each with its own numbers", check: func(f *fixture) {
		f.fill("bob", 3)
		m := f.message("ann", "ann", "bob", "cat")
		placed := f.commit(f.batch("ann", m)).Messages[0]
		require.Equal(f.t, m.ID, placed.ID)
		for i, to := range m.To {
			list := f.all(to.Account)
			last := list[len(list)-1]
			require.Equal(f.t, m.ID, last.ID)
			require.Equal(f.t, m.Payload, last.Payload)
			require.Equal(f.t, store.Place{
				Account: to.Account, Epoch: f.head(to.Account).Epoch, Seq: last.Seq,
			}, placed.To[i])
		}
	}},
	{name: "send: the acting account needs no inbox of its own", check: func(f *fixture) {
		f.send("ann", "bob")
		require.Zero(f.t, f.head("ann").Seq)
		require.Len(f.t, f.all("bob"), 1)
	}},
	{name: "send: S37 targets are kept for each inbox", check: func(f *fixture) {
		m := f.message("ann", "ann", "bob")
		for i := range store.MaxTargets {
			m.To[1].Targets = append(m.To[1].Targets, event.Incarnation(i+1))
		}
		f.commit(f.batch("ann", m))
		require.Empty(f.t, f.all("ann")[0].Targets)
		require.Equal(f.t, m.To[1].Targets, f.all("bob")[0].Targets)
	}},
	{name: "send: I23 client message ID and origin are in the sender's inbox only", check: func(f *fixture) {
		m := f.message("ann", "bob", "ann")
		m.ClientID, m.Origin = "client-1", event.NewLoginID()
		f.commit(f.batch("cat", m)) // the acting account is another one still
		ann, bob := f.all("ann")[0], f.all("bob")[0]
		require.Equal(f.t, m.ClientID, ann.ClientID)
		require.Equal(f.t, m.Origin, ann.Origin)
		require.Empty(f.t, bob.ClientID)
		require.Empty(f.t, bob.Origin)
	}},
	{name: "send: a message knows who has it", check: func(f *fixture) {
		m := f.message("ann", "bob", "ann")
		m.Flags, m.To[0].Flags = event.FlagReceipts, event.FlagUnread
		placed := f.commit(f.batch("ann", m)).Messages[0]
		info := f.info(m.ID)
		require.Equal(f.t, plain(placed.To), plain(info.To))
		info.To = nil
		info.Time = info.Time.UTC()
		require.Equal(f.t, store.MessageInfo{
			ID: m.ID, Kind: m.Kind, Flags: event.FlagReceipts, Conversation: "c1", From: "ann", Time: f.now.UTC(),
		}, info)
	}},
	{name: "send: a message is gone with its last copy", check: checkLastCopy},
	{name: "send: an unknown message is not found", check: func(f *fixture) {
		f.send("ann", "ann")
		f.gone(f.issuer.Issue())
	}},
	{name: "send: to 1,000 inboxes", check: func(f *fixture) {
		var names []event.Account
		for i := range 1000 {
			names = append(names, event.Account(fmt.Sprintf("member-%04d", i)))
		}
		first, second := f.send("ann", names...), f.send("ann", names...)
		require.Len(f.t, f.info(first.ID).To, len(names))
		for _, i := range []int{0, 1, 499, 998, 999} {
			require.Equal(f.t, []event.MessageID{first.ID, second.ID}, ids(f.all(names[i])))
		}
		require.ElementsMatch(f.t, names, f.accounts(300))
	}},
	{name: "send: to as many inboxes as there may be", check: func(f *fixture) {
		names := make([]event.Account, store.MaxInboxes)
		for i := range names {
			names[i] = event.Account(fmt.Sprintf("member-%05d", i))
		}
		p := f.send("ann", names...)
		require.Equal(f.t, plain(p.To), plain(f.info(p.ID).To))
		for i, to := range p.To {
			require.Equal(f.t, names[i], to.Account)
			h := f.head(to.Account)
			require.Equal(f.t, store.Head{Epoch: to.Epoch, Seq: to.Seq, Entries: 1, Bytes: h.Bytes}, h)
			require.NotZero(f.t, h.Seq)
			if i%1000 == 0 || i == len(names)-1 {
				require.Equal(f.t, []event.MessageID{p.ID}, ids(f.all(to.Account)))
				require.NoError(f.t, f.s.Delete(f.ctx, to.Account, 0))
			}
		}
		require.Equal(f.t, plain(p.To), plain(f.info(p.ID).To), "as long as the last one has it")
	}},
	{name: "send: a message ID is used once", check: checkUsedID},
	{name: "send: the earliest expiry is one", check: func(f *fixture) {
		m := f.message("ann", "ann")
		m.Expires = time.UnixMilli(0).UTC()
		f.commit(f.batch("ann", m))
		require.Equal(f.t, m.Expires, f.all("ann")[0].Expires.UTC())
	}},
	{name: "send: times are kept to the millisecond", check: func(f *fixture) {
		f.now = f.now.Add(time.Millisecond + 999*time.Microsecond)
		m := f.message("ann", "ann")
		m.Expires = f.now.Add(time.Second)
		f.commit(f.batch("ann", m))
		e := f.all("ann")[0]
		require.Equal(f.t, f.now.Truncate(event.Millis).UTC(), e.Time)
		require.Equal(f.t, m.Expires.Truncate(event.Millis).UTC(), e.Expires)
	}},
}

// plain returns places without their ordinals, which a message need not know.
func plain(places []store.Place) []store.Place {
	places = slices.Clone(places)
	for i := range places {
		places[i].Ordinal = 0
	}
	return places
}

func checkLastCopy(f *fixture) {
	for _, c := range []struct {
		name   string
		remove func(account event.Account, seq uint64)
	}{
		{"trim", func(a event.Account, seq uint64) { f.trim(a, seq, 100) }},
		{"void", func(a event.Account, seq uint64) { f.void(a, seq) }},
		{"delete", func(a event.Account, _ uint64) { require.NoError(f.t, f.s.Delete(f.ctx, a, 0)) }},
		{"supersede", func(a event.Account, _ uint64) {
			m := f.message(a, a)
			m.Key = "k"
			f.commit(f.batch(a, m))
		}},
	} {
		m := f.message("ann", "ann", "bob")
		m.Key = "k"
		placed := f.commit(f.batch("ann", m)).Messages[0]
		c.remove("ann", placed.To[0].Seq)
		require.NotContains(f.t, ids(f.all("ann")), m.ID, c.name)
		require.Equal(f.t, plain(placed.To), plain(f.info(m.ID).To), "%s: inboxes that had it are still told", c.name)
		bob := f.all("bob")
		require.Equal(f.t, "payload", string(bob[len(bob)-1].Payload), c.name)
		c.remove("bob", placed.To[1].Seq)
		f.gone(m.ID)
	}
}

// checkUsedID sends messages under IDs that the store knows: of an inbox, and of a message that is only held by its change.
func checkUsedID(f *fixture) {
	first := f.unread()
	edit := f.change(first, "edit")
	f.commit(f.batch("bob", edit))
	for _, id := range []event.MessageID{first.ID, edit.ID} {
		before := f.info(id)
		again := f.message("ann", "ann", "bob", "cat")
		again.ID = id
		fresh := f.message("ann", "ann", "bob", "cat")
		ann, bob := f.head("ann"), f.head("bob")
		for _, messages := range [][]store.Message{{again}, {fresh, again}} {
			b := f.batch("ann", messages...)
			b.Record = &store.RecordUpdate{Data: []byte("one")}
			b.States = []store.StateUpdate{marker(5)}
			b.Idempotency = idempotency("phone", "x")
			_, err := f.s.Commit(f.ctx, b)
			f.invalid(err, "a used message ID")
		}
		require.Equal(f.t, before, f.info(id))
		require.Equal(f.t, ann, f.head("ann"))
		require.Equal(f.t, bob, f.head("bob"))
		f.gone(fresh.ID)
	}
	require.Zero(f.t, f.load("ann").Revision)
	require.Empty(f.t, f.states("ann", store.StateOptions{}))
	require.False(f.t, f.commit(f.named(idempotency("phone", "x"))).Duplicate)
	require.NotContains(f.t, f.accounts(10), event.Account("cat"))
}

var orderRules = []rule{
	{name: "order: I12 what is answered earlier comes earlier", check: func(f *fixture) {
		var sent []event.MessageID
		for i := range 12 {
			to := []event.Account{"ann", "bob"}
			if i%2 == 1 {
				slices.Reverse(to)
			}
			sent = append(sent, f.send("ann", to...).ID)
		}
		require.Equal(f.t, sent, ids(f.all("ann")))
		require.Equal(f.t, sent, ids(f.all("bob")))
	}},
	{name: "order: messages of one batch in its order", check: func(f *fixture) {
		b := f.batch("ann")
		var want []event.MessageID
		for range 10 {
			b.Messages = append(b.Messages, f.message("ann", "bob", "ann"))
			want = append(want, b.Messages[len(b.Messages)-1].ID)
		}
		r := f.commit(b)
		require.Equal(f.t, want, ids(f.all("ann")))
		require.Equal(f.t, want, ids(f.all("bob")))
		for i, p := range r.Messages {
			require.Equal(f.t, want[i], p.ID)
		}
	}},
	{name: "order: S47 concurrent writers lose and double nothing", check: checkWriters},
	{name: "order: S47 a reader never passes an entry that comes later", check: checkReader},
	{name: "order: I12 two inboxes order what they share alike",
		skip: uniformOrder,
		check: func(f *fixture) {
			f.writers(6, 8, "ann", "bob")
			require.Equal(f.t, ids(f.all("ann")), ids(f.all("bob")))
		}},
	{name: "order: I2 a message is in all inboxes at once",
		skip: atomicSend, check: checkAtomic},
}

// writers lets goroutines send at once, and returns what each of them sent, in order.
func (f *fixture) writers(n, each int, to ...event.Account) [][]event.MessageID {
	f.t.Helper()
	sent := make([][]event.MessageID, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		from := event.Account(fmt.Sprint("writer-", i))
		wg.Go(func() {
			for range each {
				m := f.message(from, to...)
				if i%2 == 1 {
					slices.Reverse(m.To)
				}
				_, err := f.s.Commit(f.ctx, f.batch(from, m))
				errs[i] = errors.Join(errs[i], err)
				sent[i] = append(sent[i], m.ID)
			}
		})
	}
	wg.Wait()
	require.NoError(f.t, errors.Join(errs...))
	return sent
}

func checkWriters(f *fixture) {
	sent := f.writers(6, 8, "ann", "bob")
	for _, account := range []event.Account{"ann", "bob"} {
		list := f.all(account)
		require.Len(f.t, list, 48)
		for _, want := range sent {
			var got []event.MessageID
			for _, e := range list {
				if slices.Contains(want, e.ID) {
					got = append(got, e.ID)
				}
			}
			require.Equal(f.t, want, got, "I12: one writer's messages in the order of their answers")
		}
	}
}

func checkReader(f *fixture) {
	done := make(chan struct{})
	errs := make([]error, 4)
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				for range 10 {
					_, err := f.s.Commit(f.ctx, f.batch("bob", f.message("bob", "ann")))
					errs[i] = errors.Join(errs[i], err)
				}
			})
		}
		wg.Wait()
	}()
	defer func() { <-done }() // also when a check fails
	var got []event.MessageID
	var after uint64
	for running := true; running; {
		select {
		case <-done:
			running = false // one more page
		default:
		}
		p := f.page("ann", store.ReadOptions{After: after, Limit: 1000})
		got = append(got, ids(p.Entries)...)
		after = p.Through
	}
	require.NoError(f.t, errors.Join(errs...))
	require.Equal(f.t, ids(f.all("ann")), got)
	require.Len(f.t, got, 40)
}

func checkAtomic(f *fixture) {
	write := func(int) error {
		_, err := f.s.Commit(f.ctx, f.batch("ann", f.message("ann", "ann", "bob", "cat")))
		return err
	}
	rounds := f.watch(write, []func() int{
		func() int { return f.head("ann").Entries },
		func() int { return f.head("bob").Entries },
		func() int { return f.head("cat").Entries },
	})
	require.Equal(f.t, rounds, f.head("cat").Entries)
}
