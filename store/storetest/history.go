package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

var historyRules = []rule{
	{name: "history: S69 S74 random steps agree with a model", check: func(f *fixture) {
		seed := rand.Uint64()
		f.t.Logf("seed %d", seed) // printed if the rule fails
		runHistory(f, seed)
	}},
	{name: "history: a fixed seed", check: func(f *fixture) { runHistory(f, 1) }},
}

// history drives a store and a model by the same random steps.
type history struct {
	*fixture
	rnd   *rand.Rand
	model *model
	step  int
	sent  []store.Placed // the latest messages, to be changed
}

var historyAccounts = []event.Account{"ann", "an", "bob", "cat/1", "\u00e9"}

func runHistory(f *fixture, seed uint64) {
	h := &history{fixture: f, rnd: rand.New(rand.NewPCG(seed, 0)), model: newModel()}
	steps := f.h.Steps
	if steps == 0 {
		steps = 300
	}
	for h.step = range steps {
		f.now = f.now.Add(time.Duration(h.rnd.IntN(20)) * time.Second)
		name := historyAccounts[h.rnd.IntN(len(historyAccounts))]
		switch n := h.rnd.IntN(100); {
		case n < 60:
			h.commitBatch(h.randomBatch(name))
		case n < 70:
			h.saveCursors()
		case n < 80:
			h.trimInbox(name)
		case n < 88:
			h.voidEntries(name)
		case n < 92:
			h.deleteAccount(name)
		case n < 94 && f.h.Capabilities.Durable:
			restarts := f.restarts()
			restarts[h.rnd.IntN(len(restarts))]()
			h.compareAll()
		}
		h.compare(name)
	}
	h.compareAll()
}

func (h *history) account(name event.Account) *modelAccount {
	return h.model.account(name, func() event.Epoch { return h.head(name).Epoch })
}

func (h *history) chance(percent int) bool { return h.rnd.IntN(100) < percent }

func (h *history) randomBatch(name event.Account) store.Batch {
	a := h.account(name)
	b := h.batch(name)
	if h.chance(40) {
		b.Idempotency = idempotency("phone", event.ClientMessageID(fmt.Sprint(h.rnd.IntN(8))), byte(h.rnd.IntN(3)/2))
		b.Idempotency.Window, b.Idempotency.Max = time.Minute, 4
	}
	if h.chance(40) {
		b.Record = &store.RecordUpdate{Expect: a.record.Revision, Data: fmt.Append(nil, "record ", h.step)}
		if h.chance(15) {
			b.Record.Expect += store.Revision(h.rnd.IntN(3)) - 1
		}
	}
	for range h.rnd.IntN(3) {
		b.States = append(b.States, store.StateUpdate{
			Conversation: h.conversation(), Name: []string{"read", "note"}[h.rnd.IntN(2)],
			Merge: store.MergeRule(h.rnd.IntN(2)), Number: h.rnd.Uint64N(20), Value: make([]byte, h.rnd.IntN(3)),
		})
	}
	b.OnlyIfChanged = h.chance(15)
	if h.chance(10) {
		b.Forget = []event.Incarnation{event.Incarnation(1 + h.rnd.IntN(4))} // never one of Begin's
	}
	if h.chance(15) {
		b.Begin = []store.Begin{{Incarnation: event.Incarnation(5 + h.rnd.IntN(4)), At: h.rnd.Uint64N(2) * h.rnd.Uint64N(30)}}
	}
	for range h.rnd.IntN(4) {
		b.Messages = append(b.Messages, h.randomMessage(name))
	}
	return b
}

func (h *history) conversation() event.ConversationID {
	return []event.ConversationID{"", "c1", "c2"}[h.rnd.IntN(3)]
}

func (h *history) randomMessage(from event.Account) store.Message {
	m := h.message(from)
	m.Conversation, m.Flags = h.conversation(), event.Flags(h.rnd.IntN(4))
	m.Payload = make([]byte, h.rnd.IntN(100))
	if h.chance(50) {
		m.ClientID, m.Origin = "x", event.NewLoginID()
	}
	if h.chance(30) {
		m.Key = fmt.Sprint("key-", h.rnd.IntN(3))
	}
	if h.chance(30) {
		m.Expires = h.now.Add(time.Minute)
	}
	if h.chance(20) {
		m.Drop = fmt.Sprint("key-", h.rnd.IntN(3))
	}
	places := map[event.Account]event.Position{}
	if h.chance(30) {
		m.Uncount = h.chance(50)
		m.Of, places = h.randomChange()
	}
	for _, i := range h.rnd.Perm(len(historyAccounts))[:1+h.rnd.IntN(3)] {
		in := store.Inbox{Account: historyAccounts[i], Flags: event.Flags(h.rnd.IntN(2)), Replaces: places[historyAccounts[i]]}
		if h.chance(20) {
			in.Targets = []event.Incarnation{1, event.Incarnation(2 + h.rnd.IntN(2))}
		}
		m.To = append(m.To, in)
	}
	return m
}

// randomChange picks a message that was there once.
func (h *history) randomChange() (event.MessageID, map[event.Account]event.Position) {
	places := map[event.Account]event.Position{}
	if len(h.sent) == 0 {
		return "nobody", places
	}
	p := h.sent[h.rnd.IntN(len(h.sent))]
	for _, at := range p.To {
		places[at.Account] = event.Position{Epoch: at.Epoch, Seq: at.Seq}
	}
	return p.ID, places
}

func (h *history) commitBatch(b store.Batch) {
	a := h.account(b.Account)
	want := a.judge(&b)
	r, err := h.s.Commit(h.ctx, b)
	if want.err != nil {
		require.ErrorIs(h.t, err, want.err, "step %d", h.step)
		return
	}
	require.NoError(h.t, err, "step %d", h.step)
	require.Equal(h.t, want.duplicate != nil, r.Duplicate, "step %d", h.step)
	require.Equal(h.t, want.unchanged, r.Unchanged, "step %d", h.step)
	if want.duplicate != nil {
		require.Equal(h.t, want.duplicate.result, r.Messages, "step %d", h.step)
		return
	}
	require.Len(h.t, r.States, len(b.States), "step %d", h.step)
	if want.unchanged {
		return
	}
	h.apply(a, &b, &r)
}

// apply makes the model do what the store did, and checks what the store chose.
func (h *history) apply(a *modelAccount, b *store.Batch, r *store.Result) {
	if b.Record != nil {
		require.NotContains(h.t, []store.Revision{0, a.record.Revision}, r.Revision, "step %d", h.step)
		a.record = store.Record{Data: b.Record.Data, Revision: r.Revision}
	}
	for _, f := range b.Forget {
		delete(a.cursors, f)
	}
	require.Len(h.t, r.Messages, len(b.Messages), "step %d", h.step)
	for i := range b.Messages {
		h.applyMessage(&b.Messages[i], r.Messages[i], b.Now)
	}
	for _, d := range b.Begin {
		if _, ok := a.cursors[d.Incarnation]; !ok {
			at := a.head.Seq
			if d.At != 0 {
				at = max(min(at, d.At), a.head.Trim)
			}
			a.cursors[d.Incarnation] = store.Cursor{Account: b.Account, Incarnation: d.Incarnation, Seq: at}
		}
	}
	for i, u := range b.States {
		next, changed := a.merge(u)
		if changed {
			next.Seq = a.head.Seq
			if len(next.Value) == 0 {
				next.Value = nil
			}
			a.states[register{u.Conversation, u.Name}] = next
		}
		require.Equal(h.t, next.Number, r.States[i].Number, "step %d", h.step)
		require.Equal(h.t, next.Seq, r.States[i].Seq, "step %d", h.step)
		require.Equal(h.t, string(next.Value), string(r.States[i].Value), "step %d", h.step)
	}
	if i := b.Idempotency; i != nil {
		first := attempt{digest: i.Digest, expires: b.Now.Add(i.Window)}
		if len(r.Messages) != 0 {
			p := store.Placed{ID: r.Messages[0].ID}
			for _, place := range r.Messages[0].To {
				if place.Account == b.Account {
					p.To = []store.Place{place}
				}
			}
			first.result = []store.Placed{p}
		}
		a.names[attemptName{i.Device, i.ClientID}] = first
	}
}

func (h *history) applyMessage(msg *store.Message, p store.Placed, now time.Time) {
	require.Equal(h.t, msg.ID, p.ID, "step %d", h.step)
	require.Len(h.t, p.To, len(msg.To), "step %d", h.step)
	h.model.messages[msg.ID] = &modelMessage{
		info: store.MessageInfo{
			ID: msg.ID, Kind: msg.Kind, Flags: msg.Flags, Conversation: msg.Conversation, From: msg.From,
			Time: now.UTC(), To: plain(p.To),
		},
		holders: map[event.Account]bool{}, known: true,
	}
	if of := h.model.messages[msg.Of]; of != nil && of.known {
		h.model.messages[msg.ID].of = of
		of.changes++
	}
	h.sent = append(h.sent, p)
	if len(h.sent) > 10 {
		h.sent = h.sent[1:]
	}
	for i := range msg.To {
		to, place := &msg.To[i], p.To[i]
		// An account that the model meets here for the first time has no head to ask the store for any more.
		a := h.model.account(to.Account, func() event.Epoch { return place.Epoch })
		require.Greater(h.t, place.Seq, a.head.Seq, "step %d", h.step)
		if h.h.Capabilities.Dense {
			require.Equal(h.t, a.head.Seq+1, place.Seq, "step %d", h.step)
		}
		e := h.model.entry(a, msg, to, place, now)
		require.Equal(h.t, store.Place{
			Account: to.Account, Epoch: a.head.Epoch, Seq: place.Seq, Ordinal: e.Ordinal,
		}, place, "step %d", h.step)
		h.model.append(a, msg, to, e)
	}
}

func (h *history) saveCursors() {
	var list []store.Cursor
	for range 1 + h.rnd.IntN(4) {
		c := store.Cursor{
			Account:     historyAccounts[h.rnd.IntN(len(historyAccounts))],
			Incarnation: event.Incarnation(1 + h.rnd.IntN(4)), Seq: h.rnd.Uint64N(50), Sent: h.rnd.Uint64N(50),
		}
		list = append(list, c)
		a := h.account(c.Account)
		if have, ok := a.cursors[c.Incarnation]; ok {
			c.Seq, c.Sent = max(c.Seq, have.Seq), max(c.Sent, have.Sent)
			a.cursors[c.Incarnation] = c
		}
	}
	require.NoError(h.t, h.s.SaveCursors(h.ctx, list))
}

func (h *history) trimInbox(name event.Account) {
	a := h.account(name)
	through := h.rnd.Uint64N(a.head.Seq + 3)
	limit := 1 + h.rnd.IntN(10)
	removed := 0
	bound := min(through, a.head.Seq)
	h.model.remove(a, name, func(e *event.Entry) bool {
		if e.Seq > bound {
			return false
		}
		if removed == limit {
			bound = e.Seq - 1
			return false
		}
		removed++
		return true
	})
	got := h.trim(name, through, limit)
	if removed < limit {
		require.Equal(h.t, max(a.head.Trim, bound), got.Trim, "step %d", h.step)
	}
	require.GreaterOrEqual(h.t, got.Trim, a.head.Trim, "step %d", h.step)
	require.LessOrEqual(h.t, got.Trim, max(a.head.Trim, bound), "step %d", h.step)
	a.head.Trim = got.Trim
}

func (h *history) voidEntries(name event.Account) {
	a := h.account(name)
	var list []uint64
	for range 1 + h.rnd.IntN(4) {
		list = append(list, h.rnd.Uint64N(a.head.Seq+3))
	}
	for _, e := range h.model.remove(a, name, func(e *event.Entry) bool { return slices.Contains(list, e.Seq) }) {
		a.uncount(&e)
	}
	h.void(name, list...)
}

func (h *history) deleteAccount(name event.Account) {
	a := h.account(name)
	require.ErrorIs(h.t, h.s.Delete(h.ctx, name, a.record.Revision+1), store.ErrConflict, "step %d", h.step)
	require.NoError(h.t, h.s.Delete(h.ctx, name, a.record.Revision), "step %d", h.step)
	h.model.remove(a, name, func(*event.Entry) bool { return true })
	a.clear(a.head.Epoch + 1)
}

// compare compares one account with the model, and one message of all.
func (h *history) compare(name event.Account) {
	a := h.account(name)
	require.Equal(h.t, a.head, h.head(name), "step %d", h.step)
	after := h.rnd.Uint64N(a.head.Seq + 2)
	from := slices.IndexFunc(a.entries, func(e event.Entry) bool { return e.Seq > after })
	var want []event.Entry
	if from >= 0 {
		want = a.entries[from:]
	}
	limit := 1 + h.rnd.IntN(6)
	p := h.page(name, store.ReadOptions{After: after, Limit: limit})
	require.Equal(h.t, append([]event.Entry{}, want[:min(limit, len(want))]...), normalised(p.Entries), "step %d", h.step)
}

// compareAll compares everything that the contract lets one see.
func (h *history) compareAll() {
	var present []event.Account
	for name, a := range h.model.accounts {
		if a.record.Revision != 0 || a.head.Seq != 0 {
			present = append(present, name)
		}
		require.Equal(h.t, a.record, h.load(name), "step %d", h.step)
		require.Equal(h.t, a.head, h.head(name), "step %d", h.step)
		require.Equal(h.t, append([]event.Entry{}, a.entries...), append([]event.Entry{}, h.all(name)...), "step %d", h.step)
		require.Equal(h.t, a.cursors, h.cursors(name), "step %d", h.step)
		got := h.states(name, store.StateOptions{})
		slices.SortFunc(got, compareStates)
		require.Equal(h.t, a.sortedStates(), got, "step %d", h.step)
		require.ElementsMatch(h.t, slices.Collect(maps.Values(a.counts)), h.counts(name, store.ConversationOptions{}), "step %d", h.step)
	}
	require.ElementsMatch(h.t, present, h.accounts(2), "step %d", h.step)
	for id, m := range h.model.messages {
		if !m.known {
			h.gone(id)
			continue
		}
		info := h.info(id)
		info.Time, info.To = info.Time.UTC(), plain(info.To)
		require.Equal(h.t, m.info, info, "step %d", h.step)
	}
}
