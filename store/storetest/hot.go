package storetest

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// hot is how much of one kind an account of these rules has: more than fits into any page, cache or slice that a store might
// have chosen with ordinary accounts in mind.
const hot = 20_000

// hotRules are on accounts that have very much of something. They are about right results. How long it takes is for benchmarks.
var hotRules = []rule{
	{name: "hot: very many registers", check: checkHotRegisters},
	{name: "hot: very many conversations", check: checkHotConversations},
	{name: "hot: very many entries that were superseded", check: checkHotKeys},
	{name: "hot: very many keys", check: func(f *fixture) {
		key := func(i int) string { return fmt.Sprint("key-", i) }
		f.inSteps(hot, func(b *store.Batch, i int) { b.Messages = append(b.Messages, f.keyed(key(i))) })
		f.inSteps(hot/2, func(b *store.Batch, i int) { b.Messages = append(b.Messages, f.keyed(key(2*i))) })
		require.Zero(f.t, f.head("ann").Entries)
		var seen int
		f.pages("ann", 777, func(e event.Entry) {
			if seen < hot/2 {
				require.Equal(f.t, key(2*seen+1), e.Key)
			} else {
				require.Equal(f.t, key(2*(seen-hot/2)), e.Key)
			}
			seen++
		})
		require.Equal(f.t, hot, seen)
		f.emptied()
	}},
	{name: "hot: very many idempotency records", check: func(f *fixture) {
		name := func(i int) *store.Idempotency {
			n := idempotency("phone", event.ClientMessageID(fmt.Sprint(i)))
			n.Max = 1000
			return n
		}
		own := func(i int) store.Batch {
			b := f.batch("ann", f.message("ann", "ann"))
			b.Idempotency = name(i)
			return b
		}
		for i := range 1000 {
			require.False(f.t, f.commit(own(i)).Duplicate)
		}
		f.refused(own(1000), store.ErrWindowFull)
		for _, i := range []int{0, 1, 500, 999} {
			require.True(f.t, f.commit(own(i)).Duplicate)
		}
		f.now = f.now.Add(2 * time.Hour)
		for i := range 1000 {
			require.False(f.t, f.commit(own(i)).Duplicate, "all are over, at once")
		}
		f.refused(own(1000), store.ErrWindowFull)
	}},
	{name: "hot: very many devices", check: func(f *fixture) {
		const devices = 2000
		f.fill("ann", 3)
		f.inSteps(devices, func(b *store.Batch, i int) {
			b.Begin = append(b.Begin, store.Begin{Incarnation: event.Incarnation(i + 1), Back: uint64(i % 3)})
		})
		require.Len(f.t, f.cursors("ann"), devices)
		f.inSteps(devices/2, func(b *store.Batch, i int) { b.Forget = append(b.Forget, event.Incarnation(2*i+1)) })
		got := f.cursors("ann")
		require.Len(f.t, got, devices/2)
		for i := range devices / 2 {
			require.Contains(f.t, got, event.Incarnation(2*i+2))
		}
		f.emptied()
	}},
}

// inSteps changes batches of Ann, each of which takes a number of steps, and commits them.
func (f *fixture) inSteps(n int, step func(b *store.Batch, i int)) {
	f.t.Helper()
	const each = 1000
	for begin := 0; begin < n; begin += each {
		b := f.batch("ann")
		for i := begin; i < min(begin+each, n); i++ {
			step(&b, i)
		}
		f.commit(b)
	}
}

func (f *fixture) keyed(key string) store.Message {
	m := f.message("ann", "ann")
	m.Key, m.Flags = key, event.FlagUnread
	return m
}

// pages shows all entries of an inbox, read in pages of the given size.
func (f *fixture) pages(account event.Account, limit int, show func(e event.Entry)) {
	f.t.Helper()
	for after := uint64(0); ; {
		p := f.page(account, store.ReadOptions{After: after, Limit: limit})
		for _, e := range p.Entries {
			require.Greater(f.t, e.Seq, after)
			after = e.Seq
			show(e)
		}
		if p.Through >= p.Head.Seq {
			return
		}
		require.Equal(f.t, after, p.Through)
	}
}

// emptied deletes Ann's account, which then has nothing, also of what is written under the same names again.
func (f *fixture) emptied() {
	f.t.Helper()
	bob := f.send("bob", "bob", "ann")
	epoch := f.head("ann").Epoch
	require.NoError(f.t, f.s.Delete(f.ctx, "ann", f.load("ann").Revision))
	require.Equal(f.t, store.Head{Epoch: epoch + 1}, f.head("ann"))
	require.Empty(f.t, f.states("ann", store.StateOptions{}))
	require.Empty(f.t, f.counts("ann", store.ConversationOptions{}))
	require.Empty(f.t, f.cursors("ann"))
	f.commit(f.batch("ann", f.keyed("key-1")))
	f.set("ann", marker(1))
	require.Len(f.t, f.all("ann"), 1)
	require.Len(f.t, f.states("ann", store.StateOptions{}), 1)
	require.EqualValues(f.t, 1, f.count("ann", "c1").Counted)
	require.Equal(f.t, []event.MessageID{bob.ID}, ids(f.all("bob")))
}

func checkHotRegisters(f *fixture) {
	name := func(i int) (event.ConversationID, string) {
		return event.ConversationID(fmt.Sprint("c", i%500)), fmt.Sprint("r", i/500)
	}
	update := func(i int, n uint64) store.StateUpdate {
		c, r := name(i)
		return store.StateUpdate{Conversation: c, Name: r, Number: n}
	}
	f.inSteps(hot, func(b *store.Batch, i int) { b.States = append(b.States, update(i, 1)) })
	seq := f.fill("ann", 2)[1]
	f.inSteps(hot/10, func(b *store.Batch, i int) { b.States = append(b.States, update(i*10, 2)) })
	for _, limit := range []int{41, 100, 1000, hot} {
		require.Len(f.t, f.registers(store.StateOptions{Limit: limit}), hot, "limit %d", limit)
		newer := f.registers(store.StateOptions{Limit: limit, Newer: seq - 1})
		require.Len(f.t, newer, hot/10, "limit %d", limit)
		for i := range hot / 10 {
			c, r := name(i * 10)
			require.EqualValues(f.t, 2, newer[register{c, r}].Number)
		}
	}
	for _, i := range []int{0, 1, 499, hot - 1} {
		c, r := name(i)
		of := f.registers(store.StateOptions{Limit: 7, Conversation: c})
		require.Len(f.t, of, hot/500)
		require.Contains(f.t, of, register{c, r})
	}
	f.emptied()
}

// registers returns Ann's registers, read in pages of the options' limit.
func (f *fixture) registers(o store.StateOptions) map[register]event.State {
	f.t.Helper()
	all := map[register]event.State{}
	for {
		p, err := f.s.States(f.ctx, "ann", o)
		require.NoError(f.t, err)
		require.LessOrEqual(f.t, len(p.States), o.Limit)
		for _, s := range p.States {
			all[register{s.Conversation, s.Name}] = s
		}
		if p.Next == "" {
			return all
		}
		require.NotEqual(f.t, o.Cursor, p.Next)
		o.Cursor = p.Next
	}
}

func checkHotConversations(f *fixture) {
	name := func(i int) event.ConversationID { return event.ConversationID(fmt.Sprint("c", i)) }
	send := func(b *store.Batch, i int) {
		m := f.message("bob", "ann")
		m.Conversation, m.Flags = name(i), event.FlagUnread
		b.Messages = append(b.Messages, m)
	}
	f.inSteps(hot, send)
	f.inSteps(hot/2, func(b *store.Batch, i int) { send(b, 2*i) })
	for _, limit := range []int{333, hot} {
		all := f.counts("ann", store.ConversationOptions{Limit: limit})
		require.Len(f.t, all, hot, "limit %d", limit)
		slices.SortFunc(all, func(a, b store.Conversation) int { return len(a.Conversation) - len(b.Conversation) })
		for _, c := range all {
			var i int
			_, err := fmt.Sscanf(string(c.Conversation), "c%d", &i)
			require.NoError(f.t, err)
			require.EqualValues(f.t, 2-i%2, c.Counted, c.Conversation)
		}
	}
	require.EqualValues(f.t, 2, f.count("ann", name(hot-2)).Counted)
	f.void("ann", hot)
	require.Equal(f.t, []uint64{1}, f.count("ann", name(hot-1)).Uncounted)
	require.Equal(f.t, hot+hot/2-1, f.head("ann").Entries)
	f.emptied()
}

// checkHotKeys supersedes one entry very often, before and behind one that stays.
func checkHotKeys(f *fixture) {
	first := f.send("ann", "ann")
	f.inSteps(hot/2, func(b *store.Batch, _ int) { b.Messages = append(b.Messages, f.keyed("k")) })
	middle := f.send("ann", "ann")
	f.inSteps(hot/2, func(b *store.Batch, _ int) { b.Messages = append(b.Messages, f.keyed("k")) })
	last := f.send("ann", "ann")
	all := f.all("ann")
	require.Len(f.t, all, 4)
	require.Equal(f.t, []event.MessageID{first.ID, middle.ID, last.ID}, ids(slices.Delete(slices.Clone(all), 2, 3)))
	require.EqualValues(f.t, hot, all[2].Ordinal)
	require.EqualValues(f.t, hot, f.count("ann", "c1").Counted)
	require.Len(f.t, f.count("ann", "c1").Uncounted, store.MaxUncounted)
	require.Equal(f.t, 3, f.head("ann").Entries)
	f.covers("ann", store.ReadOptions{After: all[0].Seq, Limit: 1}, []uint64{all[1].Seq})
	f.covers("ann", store.ReadOptions{After: all[1].Seq + 5, Limit: 5}, []uint64{all[2].Seq, all[3].Seq})
	h := f.trim("ann", all[1].Seq, 2)
	require.GreaterOrEqual(f.t, h.Trim, all[1].Seq)
	require.Equal(f.t, seqs(all[2:]), seqs(f.all("ann")))
	f.trim("ann", math.MaxUint64, 2)
	require.Empty(f.t, f.all("ann"))
	f.emptied()
}
