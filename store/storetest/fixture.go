package storetest

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// fixture is what a rule works with. Its methods fail the test instead of returning errors.
type fixture struct {
	t      *testing.T
	ctx    context.Context
	h      Harness
	s      store.Store
	issuer *event.Issuer
	now    time.Time
}

func newFixture(t *testing.T, h Harness, s store.Store) *fixture {
	f := &fixture{
		t: t, ctx: t.Context(), h: h, s: s, issuer: event.NewIssuer(s.Info().IDKey),
		now: time.UnixMilli(1_700_000_000_123),
	}
	t.Cleanup(func() { _ = closeStore(f.s) }) // f.s is by then what Reopen made of s; rules may have closed it
	return f
}

// restarts returns the ways in which the store can be left and opened again.
func (f *fixture) restarts() []func() {
	list := []func(){func() { f.s = f.h.Reopen(f.t, f.s) }}
	if f.h.Crash != nil {
		list = append(list, func() { f.s = f.h.Crash(f.t, f.s) })
	}
	return list
}

// message returns a message with a fresh ID, for its sender's inbox and others.
func (f *fixture) message(from event.Account, to ...event.Account) store.Message {
	m := store.Message{
		ID: f.issuer.Issue(), Kind: event.KindMessage, Conversation: "c1", From: from, Payload: []byte("payload"),
	}
	for _, a := range to {
		m.To = append(m.To, store.Inbox{Account: a})
	}
	return m
}

// batch returns a batch of messages.
func (f *fixture) batch(account event.Account, messages ...store.Message) store.Batch {
	return store.Batch{Account: account, Now: f.now, Messages: messages}
}

func (f *fixture) commit(b store.Batch) store.Result {
	f.t.Helper()
	r, err := f.s.Commit(f.ctx, b)
	require.NoError(f.t, err)
	return r
}

// refused commits a batch that must be refused, and checks that the head of its account stays as it is.
func (f *fixture) refused(b store.Batch, want error) {
	f.t.Helper()
	before := f.head(b.Account)
	r, err := f.s.Commit(f.ctx, b)
	require.ErrorIs(f.t, err, want)
	require.Empty(f.t, r.Messages)
	require.Equal(f.t, before, f.head(b.Account))
	for _, m := range b.Messages {
		f.gone(m.ID)
	}
}

// send commits one message and returns where it went.
func (f *fixture) send(from event.Account, to ...event.Account) store.Placed {
	f.t.Helper()
	r := f.commit(f.batch(from, f.message(from, to...)))
	require.Len(f.t, r.Messages, 1)
	require.Len(f.t, r.Messages[0].To, len(to))
	return r.Messages[0]
}

// fill sends n messages to the account alone and returns their sequence numbers.
func (f *fixture) fill(account event.Account, n int) []uint64 {
	f.t.Helper()
	b := f.batch(account)
	for range n {
		b.Messages = append(b.Messages, f.message(account, account))
	}
	var seqs []uint64
	for _, p := range f.commit(b).Messages {
		seqs = append(seqs, p.To[0].Seq)
	}
	require.Len(f.t, seqs, n)
	return seqs
}

func (f *fixture) record(account event.Account, expect store.Revision, data string) store.Revision {
	f.t.Helper()
	r := f.commit(store.Batch{
		Account: account, Now: f.now, Record: &store.RecordUpdate{Expect: expect, Data: []byte(data)},
	})
	require.NotZero(f.t, r.Revision)
	return r.Revision
}

func (f *fixture) load(account event.Account) store.Record {
	f.t.Helper()
	r, err := f.s.Load(f.ctx, account)
	require.NoError(f.t, err)
	return r
}

func (f *fixture) page(account event.Account, o store.ReadOptions) store.Page {
	f.t.Helper()
	p, err := f.s.Read(f.ctx, account, o)
	require.NoError(f.t, err)
	return p
}

func (f *fixture) head(account event.Account) store.Head {
	f.t.Helper()
	return f.page(account, store.ReadOptions{}).Head
}

// all returns the account's whole inbox, read in pages of three so that ends of pages are met.
func (f *fixture) all(account event.Account) []event.Entry {
	f.t.Helper()
	var list []event.Entry
	var after uint64
	for {
		p := f.page(account, store.ReadOptions{After: after, Limit: 3})
		for i := range p.Entries {
			require.Greater(f.t, p.Entries[i].Seq, after)
			after = p.Entries[i].Seq
		}
		list = append(list, normalised(p.Entries)...)
		if p.Through >= p.Head.Seq {
			return list
		}
		require.Equal(f.t, after, p.Through)
		require.NotEmpty(f.t, p.Entries, "a page that was cut short has entries")
	}
}

// normalised makes entries comparable: times in one zone, empty slices nil.
func normalised(entries []event.Entry) []event.Entry {
	list := make([]event.Entry, 0, len(entries))
	for _, e := range entries {
		e.Time = e.Time.UTC()
		if !e.Expires.IsZero() {
			e.Expires = e.Expires.UTC()
		}
		if len(e.Targets) == 0 {
			e.Targets = nil
		}
		if len(e.Payload) == 0 {
			e.Payload = nil
		}
		list = append(list, e)
	}
	return list
}

func seqs(entries []event.Entry) []uint64 {
	var list []uint64
	for i := range entries {
		list = append(list, entries[i].Seq)
	}
	return list
}

func ids(entries []event.Entry) []event.MessageID {
	var list []event.MessageID
	for i := range entries {
		list = append(list, entries[i].ID)
	}
	return list
}

// states returns all of the account's registers, read in pages of two.
func (f *fixture) states(account event.Account, o store.StateOptions) []event.State {
	f.t.Helper()
	o.Limit = 2
	var list []event.State
	for {
		p, err := f.s.States(f.ctx, account, o)
		require.NoError(f.t, err)
		require.LessOrEqual(f.t, len(p.States), 2)
		for _, s := range p.States {
			if len(s.Value) == 0 {
				s.Value = nil
			}
			list = append(list, s)
		}
		if p.Next == "" {
			return list
		}
		require.NotEqual(f.t, o.Cursor, p.Next, "paging does not get on")
		o.Cursor = p.Next
	}
}

// counts returns the account's conversations, page by page.
func (f *fixture) counts(account event.Account, o store.ConversationOptions) []store.Conversation {
	f.t.Helper()
	if o.Limit == 0 {
		o.Limit = 2
	}
	var all []store.Conversation
	for {
		p, err := f.s.Conversations(f.ctx, account, o)
		require.NoError(f.t, err)
		require.LessOrEqual(f.t, len(p.Conversations), o.Limit)
		all = append(all, p.Conversations...)
		if p.Next == "" {
			return all
		}
		require.NotEqual(f.t, o.Cursor, p.Next, "paging does not get on")
		o.Cursor = p.Next
		require.NotEmpty(f.t, p.Conversations, "a page that is not the last is not empty")
	}
}

// count returns what one conversation has.
func (f *fixture) count(account event.Account, c event.ConversationID) store.Conversation {
	f.t.Helper()
	all := f.counts(account, store.ConversationOptions{Conversation: c})
	if len(all) == 0 {
		return store.Conversation{Conversation: c}
	}
	require.Len(f.t, all, 1)
	return all[0]
}

func (f *fixture) set(account event.Account, updates ...store.StateUpdate) store.Result {
	f.t.Helper()
	return f.commit(store.Batch{Account: account, Now: f.now, States: updates})
}

func (f *fixture) cursors(account event.Account) map[event.Incarnation]store.Cursor {
	f.t.Helper()
	list, err := f.s.Cursors(f.ctx, account)
	require.NoError(f.t, err)
	byDevice := make(map[event.Incarnation]store.Cursor)
	for _, c := range list {
		require.Equal(f.t, account, c.Account)
		require.NotContains(f.t, byDevice, c.Incarnation)
		byDevice[c.Incarnation] = c
	}
	return byDevice
}

// save begins the cursors that are not there and saves all of them.
func (f *fixture) save(cursors ...store.Cursor) {
	f.t.Helper()
	for _, c := range cursors {
		b := f.batch(c.Account)
		b.Begin, b.Reserve = []store.Begin{{Incarnation: c.Incarnation, Back: math.MaxUint64}}, true
		f.commit(b)
	}
	require.NoError(f.t, f.s.SaveCursors(f.ctx, cursors))
}

func (f *fixture) trim(account event.Account, through uint64, limit int) store.Head {
	f.t.Helper()
	h, err := f.s.Trim(f.ctx, account, through, limit)
	require.NoError(f.t, err)
	require.Equal(f.t, f.head(account), h)
	return h
}

func (f *fixture) void(account event.Account, seqs ...uint64) store.Head {
	f.t.Helper()
	h, err := f.s.Void(f.ctx, account, seqs)
	require.NoError(f.t, err)
	require.Equal(f.t, f.head(account), h)
	return h
}

func (f *fixture) info(id event.MessageID) store.MessageInfo {
	f.t.Helper()
	info, err := f.s.Message(f.ctx, id)
	require.NoError(f.t, err)
	return info
}

// gone checks that nothing is known of a message.
func (f *fixture) gone(id event.MessageID) {
	f.t.Helper()
	_, err := f.s.Message(f.ctx, id)
	require.ErrorIs(f.t, err, store.ErrNotFound)
}

// accounts returns all accounts, read in pages of the given size.
func (f *fixture) accounts(limit int) []event.Account {
	f.t.Helper()
	var list []event.Account
	var after event.Account
	for {
		page, err := f.s.Accounts(f.ctx, after, limit)
		require.NoError(f.t, err)
		require.LessOrEqual(f.t, len(page), limit)
		for _, a := range page {
			require.NotContains(f.t, list, a, "paging does not get on")
		}
		list = append(list, page...)
		if len(page) < limit {
			return list
		}
		after = page[len(page)-1]
	}
}
