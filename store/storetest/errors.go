package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

var errorRules = []rule{
	{name: "errors: bad batches are refused and change nothing", check: checkBadBatches},
	{name: "errors: bad arguments are refused", check: checkBadArguments},
	{name: "errors: a context that has ended stops before any change", check: func(f *fixture) {
		rev := f.record("ann", 0, "one")
		f.fill("ann", 2)
		before := f.head("ann")
		ctx, cancel := context.WithCancelCause(f.ctx)
		cancel(errors.New("the caller's own reason"))
		m := f.message("ann", "ann")
		for _, c := range calls(f.s, ctx, f.batch("ann", m), rev) {
			require.ErrorIs(f.t, c.err, context.Canceled, c.name)
		}
		ctx, stop := context.WithDeadline(f.ctx, time.Now().Add(-time.Second))
		defer stop()
		for _, c := range calls(f.s, ctx, f.batch("ann", m), rev) {
			require.ErrorIs(f.t, c.err, context.DeadlineExceeded, c.name)
		}
		require.Equal(f.t, before, f.head("ann"))
		require.Equal(f.t, rev, f.load("ann").Revision)
		require.Empty(f.t, f.cursors("ann"))
		f.gone(m.ID)
	}},
	{name: "errors: after Close every method says so", check: func(f *fixture) {
		rev := f.record("ann", 0, "one")
		info, failed := f.s.Info(), f.s.Failed()
		require.NoError(f.t, closeStore(f.s))
		for _, c := range calls(f.s, f.ctx, f.batch("ann", f.message("ann", "ann")), rev) {
			require.ErrorIs(f.t, c.err, store.ErrClosed, c.name)
		}
		require.Equal(f.t, info, f.s.Info())
		select {
		case <-failed: // so an engine that is still there learns of it
		default:
			require.Fail(f.t, "Close has not closed Failed")
		}
		require.NoError(f.t, closeStore(f.s), "Close may be called again")
	}},
}

// call is a method that was called, and its error.
type call struct {
	name string
	err  error
}

// calls calls every method that takes a context, but Close.
func calls(s store.Store, ctx context.Context, b store.Batch, rev store.Revision) []call {
	var list []call
	add := func(name string, err error) { list = append(list, call{name, err}) }
	_, err := s.Load(ctx, b.Account)
	add("Load", err)
	_, err = s.Commit(ctx, b)
	add("Commit", err)
	_, err = s.Message(ctx, b.Messages[0].ID)
	add("Message", err)
	_, err = s.Read(ctx, b.Account, store.ReadOptions{Limit: 1})
	add("Read", err)
	_, err = s.States(ctx, b.Account, store.StateOptions{Limit: 1})
	add("States", err)
	_, err = s.Conversations(ctx, b.Account, store.ConversationOptions{Limit: 1})
	add("Conversations", err)
	_, err = s.Cursors(ctx, b.Account)
	add("Cursors", err)
	add("SaveCursors", s.SaveCursors(ctx, []store.Cursor{{Account: b.Account, Incarnation: 1, Seq: 1}}))
	_, err = s.Trim(ctx, b.Account, 1, 1)
	add("Trim", err)
	_, err = s.Void(ctx, b.Account, []uint64{1})
	add("Void", err)
	add("Delete", s.Delete(ctx, b.Account, rev))
	_, err = s.Accounts(ctx, "", 1)
	add("Accounts", err)
	return list
}

// invalid checks for the error that every store gives on bad input.
func (f *fixture) invalid(err error, name string) {
	f.t.Helper()
	bad, ok := errors.AsType[*event.InvalidError](err)
	require.True(f.t, ok, "%s: want an InvalidError, have %v", name, err)
	require.NotEmpty(f.t, bad.Field, name)
	require.NotEmpty(f.t, bad.Reason, name)
}

// badBatches are changes to a good batch, each of which makes it bad.
var badBatches = []struct {
	name   string
	change func(b *store.Batch)
}{
	{"no account", func(b *store.Batch) { b.Account = "" }},
	{"account with a control character", func(b *store.Batch) { b.Account = "a\x00b" }},
	{"account that is too long", func(b *store.Batch) { b.Account = event.Account(strings.Repeat("x", 129)) }},
	{"no time", func(b *store.Batch) { b.Now = time.Time{} }},
	{"time before 1970", func(b *store.Batch) { b.Now = time.UnixMilli(-1) }},
	{"time beyond 9999", func(b *store.Batch) { b.Now = time.Date(1<<31, 1, 1, 0, 0, 0, 0, time.UTC) }},
	{"record too long", func(b *store.Batch) { b.Record.Data = make([]byte, store.MaxRecordBytes+1) }},
	{"no name of a register", func(b *store.Batch) { b.States[0].Name = "" }},
	{"unknown merge rule", func(b *store.Batch) { b.States[0].Merge = 9 }},
	{"conversation of a register", func(b *store.Batch) { b.States[0].Conversation = "\n" }},
	{"value too long", func(b *store.Batch) { b.States[0].Value = make([]byte, store.MaxRecordBytes+1) }},
	{"begin nothing", func(b *store.Batch) { b.Begin = []store.Begin{{Incarnation: 1}, {Back: 1}} }},
	{"forget nothing", func(b *store.Batch) { b.Forget = []event.Incarnation{1, 0} }},
	{"no client message ID", func(b *store.Batch) { b.Idempotency.ClientID = "" }},
	{"bad device", func(b *store.Batch) { b.Idempotency.Device = "\xff" }},
	{"no window", func(b *store.Batch) { b.Idempotency.Window = 0 }},
	{"window without a bound", func(b *store.Batch) { b.Idempotency.Max = 0 }},
	{"no message ID", func(b *store.Batch) { b.Messages[1].ID = "" }},
	{"message ID twice", func(b *store.Batch) { b.Messages[1].ID = b.Messages[0].ID }},
	{"no kind", func(b *store.Batch) { b.Messages[1].Kind = "" }},
	{"bad kind", func(b *store.Batch) { b.Messages[1].Kind = "a b" }},
	{"no sender", func(b *store.Batch) { b.Messages[1].From = "" }},
	{"bad conversation", func(b *store.Batch) { b.Messages[1].Conversation = "\u202e" }},
	{"bad client message ID", func(b *store.Batch) { b.Messages[1].ClientID = "a\x7fb" }},
	{"bad origin", func(b *store.Batch) { b.Messages[1].Origin = "\t" }},
	{"key too long", func(b *store.Batch) { b.Messages[1].Key = strings.Repeat("k", store.MaxKeyBytes+1) }},
	{"dropped key too long", func(b *store.Batch) { b.Messages[1].Drop = strings.Repeat("k", store.MaxKeyBytes+1) }},
	{"bad changed message", func(b *store.Batch) { b.Messages[1].Of = "\n" }},
	{"expiry out of range", func(b *store.Batch) { b.Messages[1].Expires = time.UnixMilli(-5) }},
	{"payload too long", func(b *store.Batch) { b.Messages[1].Payload = make([]byte, store.MaxPayloadBytes+1) }},
	{"no inbox", func(b *store.Batch) { b.Messages[1].To = nil }},
	{"too many inboxes", func(b *store.Batch) { b.Messages[1].To = make([]store.Inbox, store.MaxInboxes+1) }},
	{"an inbox without a name", func(b *store.Batch) { b.Messages[1].To[1].Account = "" }},
	{"an inbox twice", func(b *store.Batch) { b.Messages[1].To[1].Account = b.Messages[1].To[0].Account }},
	{"an inbox twice among many", func(b *store.Batch) {
		for i := range 100 {
			b.Messages[1].To = append(b.Messages[1].To, store.Inbox{Account: event.Account(fmt.Sprint("x", i))})
		}
		b.Messages[1].To = append(b.Messages[1].To, store.Inbox{Account: "x50"})
	}},
	{"too many targets", func(b *store.Batch) {
		for i := range store.MaxTargets + 1 {
			b.Messages[1].To[0].Targets = append(b.Messages[1].To[0].Targets, event.Incarnation(i+1))
		}
	}},
	{"a target that is none", func(b *store.Batch) { b.Messages[1].To[0].Targets = []event.Incarnation{1, 0} }},
}

func checkBadBatches(f *fixture) {
	good := func() store.Batch {
		b := f.batch("ann", f.message("ann", "ann"), f.message("ann", "bob", "ann"))
		b.Record = &store.RecordUpdate{Expect: f.load("ann").Revision, Data: []byte("one")}
		b.States = []store.StateUpdate{marker(f.head("ann").Seq + 1)}
		b.Idempotency = idempotency("phone", "x")
		return b
	}
	for _, bad := range badBatches {
		b := good()
		first, second := b.Messages[0].ID, b.Messages[1].ID
		bad.change(&b)
		r, err := f.s.Commit(f.ctx, b)
		f.invalid(err, bad.name)
		require.Empty(f.t, r, bad.name)
		f.gone(first)
		f.gone(second)
	}
	require.Zero(f.t, f.load("ann").Revision)
	require.Zero(f.t, f.head("ann").Seq)
	require.Empty(f.t, f.states("ann", store.StateOptions{}))
	require.Empty(f.t, f.accounts(10))
	require.False(f.t, f.commit(good()).Duplicate)
	require.Len(f.t, f.all("ann"), 2)
}

func checkBadArguments(f *fixture) {
	f.fill("ann", 2)
	f.save(store.Cursor{Account: "ann", Incarnation: 1, Seq: 1})
	before := f.head("ann")
	for _, account := range []event.Account{"", "a\nb", event.Account(strings.Repeat("x", 129)), "\xff"} {
		b := f.batch(account, f.message("ann", "ann"))
		for _, c := range calls(f.s, f.ctx, b, 0) {
			if c.name != "Message" && c.name != "Accounts" {
				f.invalid(c.err, c.name)
			}
		}
	}
	try := func(name string, err error) {
		f.t.Helper()
		f.invalid(err, name)
	}
	_, err := f.s.Read(f.ctx, "ann", store.ReadOptions{Limit: -1})
	try("Read limit", err)
	_, err = f.s.Read(f.ctx, "ann", store.ReadOptions{Limit: 1, MaxBytes: -1})
	try("Read bytes", err)
	for _, limit := range []int{0, -1} {
		_, err = f.s.States(f.ctx, "ann", store.StateOptions{Limit: limit})
		try("States limit", err)
		_, err = f.s.Trim(f.ctx, "ann", 2, limit)
		try("Trim limit", err)
		_, err = f.s.Accounts(f.ctx, "", limit)
		try("Accounts limit", err)
	}
	_, err = f.s.States(f.ctx, "ann", store.StateOptions{Limit: 1, Conversation: "\n"})
	try("States conversation", err)
	try("SaveCursors", f.s.SaveCursors(f.ctx, []store.Cursor{
		{Account: "ann", Incarnation: 1, Seq: 2}, {Account: "ann", Seq: 2},
	}))
	require.EqualValues(f.t, 1, f.cursors("ann")[1].Seq, "a bad cursor stops the others too")
	require.Equal(f.t, before, f.head("ann"))
	_, err = f.s.Message(f.ctx, "")
	require.ErrorIs(f.t, err, store.ErrNotFound)
	_, err = f.s.Message(f.ctx, event.MessageID(strings.Repeat("x", 5000)))
	require.ErrorIs(f.t, err, store.ErrNotFound)
}
