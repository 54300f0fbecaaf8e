package storetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// idempotency names a batch; its digest is made of the parts given.
func idempotency(device event.DeviceID, id event.ClientMessageID, digest ...byte) *store.Idempotency {
	i := &store.Idempotency{Device: device, ClientID: id, Window: time.Hour, Max: 100}
	copy(i.Digest[:], digest)
	return i
}

// named returns a batch of one message to Ann and Bob under the given name.
func (f *fixture) named(i *store.Idempotency) store.Batch {
	b := f.batch("ann", f.message("ann", "bob", "ann"))
	b.Idempotency = i
	return b
}

// duplicate commits a batch that must be known, and checks that it has no effect and the first one's result.
func (f *fixture) duplicate(b store.Batch, first store.Result) {
	f.t.Helper()
	ann, bob := f.head("ann"), f.head("bob")
	r := f.commit(b)
	require.True(f.t, r.Duplicate)
	require.False(f.t, r.Unchanged)
	require.Len(f.t, r.Messages, 1)
	require.Equal(f.t, first.Messages[0].ID, r.Messages[0].ID)
	require.Equal(f.t, first.Messages[0].To[1:], r.Messages[0].To, "the place in the own inbox, with its ordinal")
	require.Equal(f.t, ann, f.head("ann"))
	require.Equal(f.t, bob, f.head("bob"))
	for _, m := range b.Messages {
		if m.ID != first.Messages[0].ID {
			f.gone(m.ID)
		}
	}
}

var idempotencyRules = []rule{
	{name: "idempotency: I11 a repetition has no effect and the same result", check: func(f *fixture) {
		b := f.named(idempotency("phone", "x"))
		b.Messages[0].To[1].Flags = event.FlagUnread
		first := f.commit(b)
		require.False(f.t, first.Duplicate)
		f.duplicate(b, first)
		f.send("ann", "ann")
		f.duplicate(f.named(idempotency("phone", "x")), first) // a retry has a message ID of its own
	}},
	{name: "idempotency: the same also when the entry is gone", check: func(f *fixture) {
		b := f.named(idempotency("phone", "x"))
		first := f.commit(b)
		f.trim("ann", f.head("ann").Seq, 10)
		f.trim("bob", f.head("bob").Seq, 10)
		f.duplicate(b, first)
	}},
	{name: "idempotency: without an own inbox or a message", check: func(f *fixture) {
		b := f.batch("ann", f.message("ann", "bob"))
		b.Idempotency = idempotency("phone", "x")
		id := f.commit(b).Messages[0].ID
		r := f.commit(b)
		require.True(f.t, r.Duplicate)
		require.Equal(f.t, id, r.Messages[0].ID)
		require.Empty(f.t, r.Messages[0].To)
		b = f.batch("ann")
		b.Idempotency = idempotency("phone", "y")
		require.False(f.t, f.commit(b).Duplicate)
		r = f.commit(b)
		require.True(f.t, r.Duplicate)
		require.Empty(f.t, r.Messages)
	}},
	{name: "idempotency: known to the end of the window, whatever comes and goes meanwhile", check: func(f *fixture) {
		i := idempotency("phone", "x")
		i.Window, i.Max = 10*time.Second, 1000
		first := f.commit(f.named(i))
		start := f.now
		for n := range 100 {
			f.now = start.Add(time.Duration(n) * 99 * time.Millisecond)
			b := f.batch("ann")
			b.Idempotency = idempotency("phone", event.ClientMessageID(fmt.Sprint("y", n)))
			b.Idempotency.Window, b.Idempotency.Max = time.Second, 1000
			f.commit(b)
		}
		f.now = start.Add(10*time.Second - time.Millisecond)
		f.duplicate(f.named(i), first)
	}},
	{name: "idempotency: I11 another digest is refused", check: func(f *fixture) {
		first := f.commit(f.named(idempotency("phone", "x", 1)))
		f.refused(f.named(idempotency("phone", "x", 2)), store.ErrMismatch)
		f.duplicate(f.named(idempotency("phone", "x", 1)), first)
	}},
	{name: "idempotency: I11 the digest is compared whole", check: func(f *fixture) {
		first := f.commit(f.named(idempotency("phone", "x")))
		for i := range 32 {
			other := idempotency("phone", "x")
			other.Digest[i] = 1
			f.refused(f.named(other), store.ErrMismatch)
		}
		f.duplicate(f.named(idempotency("phone", "x")), first)
	}},
	{name: "idempotency: known by account, device and client message ID", check: func(f *fixture) {
		f.commit(f.named(idempotency("phone", "x")))
		for _, i := range []*store.Idempotency{
			idempotency("phone", "y"), idempotency("phone2", "x"), idempotency("", "x"), idempotency("phonex", "x"),
			idempotency("phone", "xx"), idempotency("p", "honex"),
		} {
			require.False(f.t, f.commit(f.named(i)).Duplicate, "%+v", i)
		}
		b := f.named(idempotency("phone", "x"))
		b.Account = "bob"
		require.False(f.t, f.commit(b).Duplicate)
	}},
	{name: "idempotency: checked before the record", check: func(f *fixture) {
		b := f.named(idempotency("phone", "x"))
		b.Record = &store.RecordUpdate{Data: []byte("one")}
		first := f.commit(b)
		f.duplicate(b, first)
		require.Equal(f.t, first.Revision, f.load("ann").Revision)
		b = f.named(idempotency("phone", "x", 1))
		b.Record = &store.RecordUpdate{Expect: first.Revision + 9}
		f.refused(b, store.ErrMismatch)
	}},
	{name: "idempotency: forgotten after the window", check: func(f *fixture) {
		b := f.named(idempotency("phone", "x"))
		first := f.commit(b)
		f.now = f.now.Add(time.Hour - time.Millisecond)
		again := f.named(idempotency("phone", "x"))
		f.duplicate(again, first)
		f.now = f.now.Add(time.Millisecond)
		again = f.named(idempotency("phone", "x", 1))
		second := f.commit(again)
		require.False(f.t, second.Duplicate)
		require.NotEqual(f.t, first.Messages[0].To, second.Messages[0].To)
		f.duplicate(again, second)
	}},
	{name: "idempotency: each has the window that it came with", check: func(f *fixture) {
		short := idempotency("phone", "short")
		short.Window = time.Minute
		first := f.commit(f.named(idempotency("phone", "long")))
		f.commit(f.named(short))
		f.now = f.now.Add(2 * time.Minute)
		f.duplicate(f.named(idempotency("phone", "long")), first)
		require.False(f.t, f.commit(f.named(short)).Duplicate)
	}},
	{name: "idempotency: a full window refuses until one expires", check: checkWindow},
	{name: "idempotency: a clock that goes back, and windows that end in another order", check: checkAnyOrder},
	{name: "idempotency: a name that is used again stays known while old ones expire", check: func(f *fixture) {
		names := func(i int) *store.Idempotency { return idempotency("phone", event.ClientMessageID(fmt.Sprint(i))) }
		const n = 40
		for i := range n {
			f.commit(f.named(names(i)))
			f.now = f.now.Add(time.Millisecond)
		}
		f.now = f.now.Add(2 * time.Hour)
		var again []store.Batch
		var second []store.Result
		for i := n - 1; i >= 0; i-- {
			b := f.named(names(i))
			again, second = append(again, b), append(second, f.commit(b))
			require.False(f.t, second[len(second)-1].Duplicate)
		}
		for i := range again {
			f.duplicate(again[i], second[i])
		}
	}},
	{name: "idempotency: I11 S49 of many at once one has an effect", check: checkSameName},
}

func checkWindow(f *fixture) {
	limited := func(id int) store.Batch {
		i := idempotency("phone", event.ClientMessageID(fmt.Sprint(id)))
		i.Max = 5
		return f.named(i)
	}
	var first store.Result
	for id := range 5 {
		r := f.commit(limited(id))
		if id == 0 {
			first = r
		}
		f.now = f.now.Add(time.Minute)
	}
	f.refused(limited(5), store.ErrWindowFull)
	f.duplicate(limited(0), first)
	f.send("ann", "ann") // without a name there is no bound
	other := limited(5)
	other.Account = "bob"
	require.False(f.t, f.commit(other).Duplicate, "the bound is one account's")

	f.now = f.now.Add(56 * time.Minute) // the first two are over
	require.False(f.t, f.commit(limited(6)).Duplicate)
	require.False(f.t, f.commit(limited(0)).Duplicate)
	f.refused(limited(7), store.ErrWindowFull)
	f.now = f.now.Add(24 * time.Hour)
	for id := 10; id < 15; id++ {
		require.False(f.t, f.commit(limited(id)).Duplicate)
	}
	f.refused(limited(15), store.ErrWindowFull)
}

// checkAnyOrder fills a window with records that do not expire in the order in which they came.
func checkAnyOrder(f *fixture) {
	begin := f.now
	named := func(id event.ClientMessageID, at, window time.Duration) store.Batch {
		f.now = begin.Add(at)
		i := idempotency("phone", id)
		i.Window, i.Max = window, 3
		return f.named(i)
	}
	for _, c := range []struct {
		id         event.ClientMessageID
		at, window time.Duration
		want       error
	}{
		{"a", 10 * time.Second, 10 * time.Second, nil}, // until 20
		{"b", 10 * time.Second, time.Second, nil},
		{"c", 5 * time.Second, 10 * time.Second, nil}, // until 15, by a clock that went back
		{"d", 10999 * time.Millisecond, 10 * time.Second, store.ErrWindowFull},
		{"d", 11 * time.Second, 10 * time.Second, nil}, // until 21: b made room
		{"e", 14999 * time.Millisecond, 10 * time.Second, store.ErrWindowFull},
		{"e", 15 * time.Second, 10 * time.Second, nil}, // until 25: c made room
		{"f", 19999 * time.Millisecond, 10 * time.Second, store.ErrWindowFull},
		{"f", 20 * time.Second, 10 * time.Second, nil}, // a made room
	} {
		b := named(c.id, c.at, c.window)
		if c.want != nil {
			f.refused(b, c.want)
			continue
		}
		first := f.commit(b)
		require.False(f.t, first.Duplicate, "%s at %v", c.id, c.at)
		f.duplicate(b, first)
	}
	require.True(f.t, f.commit(named("e", 24999*time.Millisecond, time.Second)).Duplicate)
	require.True(f.t, f.commit(named("e", -time.Hour, time.Second)).Duplicate, "the clock goes back")
}

func checkSameName(f *fixture) {
	const rivals = 12
	results := make([]store.Result, rivals)
	errs := make([]error, rivals)
	var wg sync.WaitGroup
	for i := range rivals {
		b := f.named(idempotency("phone", "x"))
		wg.Go(func() { results[i], errs[i] = f.s.Commit(f.ctx, b) })
	}
	wg.Wait()
	require.NoError(f.t, errors.Join(errs...))
	ann, bob := f.all("ann"), f.all("bob")
	require.Len(f.t, ann, 1)
	require.Equal(f.t, ids(ann), ids(bob))
	fresh := 0
	for _, r := range results {
		if !r.Duplicate {
			fresh++
		}
		require.Equal(f.t, ann[0].ID, r.Messages[0].ID)
		last := r.Messages[0].To[len(r.Messages[0].To)-1]
		require.Equal(f.t, store.Place{Account: "ann", Epoch: f.head("ann").Epoch, Seq: ann[0].Seq}, last)
	}
	require.Equal(f.t, 1, fresh)
}
