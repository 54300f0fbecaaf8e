package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

var recordRules = []rule{
	{name: "record: an absent one has revision 0 and no data", check: func(f *fixture) {
		require.Equal(f.t, store.Record{}, f.load("ann"))
		f.send("bob", "ann")
		require.Zero(f.t, f.load("ann").Revision, "an inbox makes no record")
	}},
	{name: "record: set, loaded, replaced", check: func(f *fixture) {
		first := f.record("ann", 0, "one")
		require.Equal(f.t, store.Record{Data: []byte("one"), Revision: first}, f.load("ann"))
		second := f.record("ann", first, "two")
		require.NotEqual(f.t, first, second)
		require.Equal(f.t, store.Record{Data: []byte("two"), Revision: second}, f.load("ann"))
		require.Zero(f.t, f.load("bob").Revision)
		f.send("ann", "ann")
		require.Equal(f.t, second, f.load("ann").Revision, "a batch without a record leaves it alone")
	}},
	{name: "record: the same data again is a new revision", check: func(f *fixture) {
		first := f.record("ann", 0, "one")
		require.NotEqual(f.t, first, f.record("ann", first, "one"))
	}},
	{name: "record: an empty one is there", check: func(f *fixture) {
		first := f.record("ann", 0, "")
		require.Equal(f.t, first, f.load("ann").Revision)
		require.Empty(f.t, f.load("ann").Data)
		require.NotEqual(f.t, first, f.record("ann", first, ""))
	}},
	{name: "record: the largest", check: func(f *fixture) {
		data := strings.Repeat("x", store.MaxRecordBytes)
		f.record("ann", 0, data)
		require.Equal(f.t, data, string(f.load("ann").Data))
	}},
	{name: "record: conflict changes nothing", check: checkConflict},
	{name: "record: I20 one of many concurrent compare-and-sets wins", check: checkRace},
	{name: "record: I20 concurrent read-change-write loses no change", check: checkCounter},
	{name: "record: I2 own entries and state come with it at once", check: checkOneStep},
	{name: "record: revisions are never used again, also after Delete", check: func(f *fixture) {
		seen := map[store.Revision]bool{}
		for round := range 3 {
			var last store.Revision
			for i := range 4 {
				last = f.record("ann", last, fmt.Sprint(round, i))
				require.False(f.t, seen[last], "revision %d came twice", last)
				seen[last] = true
			}
			require.NoError(f.t, f.s.Delete(f.ctx, "ann", last))
		}
	}},
}

func checkConflict(f *fixture) {
	for i := range 3 {
		ann := event.Account(fmt.Sprint("ann", i))
		first := f.record(ann, 0, "one")
		second := f.record(ann, first, "two")
		bob := f.head("bob")

		b := f.batch(ann, f.message(ann, ann, "bob"))
		b.Record = &store.RecordUpdate{Expect: []store.Revision{0, first, second + 1}[i], Data: []byte("three")}
		b.States = []store.StateUpdate{{Conversation: "c1", Name: "read", Number: 1}}
		b.Idempotency = idempotency("phone", "x")
		f.refused(b, store.ErrConflict)
		require.Equal(f.t, store.Record{Data: []byte("two"), Revision: second}, f.load(ann))
		require.Empty(f.t, f.states(ann, store.StateOptions{}))
		require.Equal(f.t, bob, f.head("bob"))

		b.Record.Expect = second
		require.False(f.t, f.commit(b).Duplicate, "a refused batch was remembered")
	}
	f.refused(store.Batch{
		Account: "cat", Now: f.now, Record: &store.RecordUpdate{Expect: 1, Data: []byte("one")},
	}, store.ErrConflict)
	require.Zero(f.t, f.load("cat").Revision)
}

func checkRace(f *fixture) {
	const rivals = 16
	var won atomic.Int32
	var wg sync.WaitGroup
	errs := make([]error, rivals)
	for i := range rivals {
		b := f.batch("ann", f.message("ann", "ann"))
		b.Record = &store.RecordUpdate{Data: fmt.Append(nil, i)}
		wg.Go(func() {
			if _, errs[i] = f.s.Commit(f.ctx, b); errs[i] == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(f.t, 1, won.Load())
	require.Len(f.t, f.all("ann"), 1)
	for i, err := range errs {
		if err == nil {
			require.Equal(f.t, fmt.Append(nil, i), f.load("ann").Data)
		} else {
			require.ErrorIs(f.t, err, store.ErrConflict)
		}
	}
}

func checkCounter(f *fixture) {
	const writers, each = 4, 8
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() {
			for range each {
				errs[i] = errors.Join(errs[i], f.increment("ann"))
			}
		})
	}
	wg.Wait()
	require.NoError(f.t, errors.Join(errs...))
	require.Len(f.t, f.load("ann").Data, writers*each)
}

// increment makes the record one byte longer. It does not fail the test, so that goroutines may call it.
func (f *fixture) increment(account event.Account) error {
	for {
		have, err := f.s.Load(f.ctx, account)
		if err != nil {
			return err
		}
		_, err = f.s.Commit(f.ctx, store.Batch{
			Account: account, Now: f.now, Record: &store.RecordUpdate{Expect: have.Revision, Data: append(have.Data, 1)},
		})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// checkOneStep looks, while a writer runs, whether what one batch wrote is ever seen in parts. Every batch makes the
// record one byte longer, appends one entry and raises a register by one; a reader that sees one of them must then see at
// least as much of the next.
func checkOneStep(f *fixture) {
	var rev store.Revision
	write := func(i int) error {
		b := f.batch("ann", f.message("ann", "ann"))
		b.Record = &store.RecordUpdate{Expect: rev, Data: fmt.Append(nil, i)}
		b.States = []store.StateUpdate{{Conversation: "c1", Name: "n", Number: uint64(i)}}
		r, err := f.s.Commit(f.ctx, b)
		rev = r.Revision
		return err
	}
	rounds := f.watch(write, []func() int{
		func() int {
			n, _ := strconv.Atoi(string(f.load("ann").Data)) // 0 for an absent record
			return n
		},
		func() int { return f.head("ann").Entries },
		func() int { return f.number("ann") },
	})
	require.Equal(f.t, rounds, f.number("ann"))
}

// watch lets a writer run and looks meanwhile at the parts of what it writes. Each part tells the number of the round
// that wrote it, from 1. Whatever part is looked at, it must not be behind one that was looked at before. It returns the
// number of rounds.
func (f *fixture) watch(write func(round int) error, parts []func() int) int {
	f.t.Helper()
	const looks, rounds = 500, 40 // at least
	var wrote atomic.Int64
	var failed error
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; failed == nil; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if failed = write(i); failed == nil {
				wrote.Add(1)
			}
		}
	}()
	end := sync.OnceFunc(func() { close(stop); <-done })
	defer end() // also when a check fails
	running := func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	}
	for i := 0; running() && (i < looks || wrote.Load() < rounds); i++ {
		seen := 0
		for j := range 2 * len(parts) {
			part := (j*(i+1) + j/len(parts)) % len(parts) // in changing order
			n := parts[part]()
			require.GreaterOrEqual(f.t, n, seen, "part %d of a batch was missing", part)
			seen = n
		}
	}
	end()
	require.NoError(f.t, failed)
	return int(wrote.Load())
}

// number returns the number of the account's first register.
func (f *fixture) number(account event.Account) int {
	for _, s := range f.states(account, store.StateOptions{}) {
		return int(s.Number)
	}
	return 0
}
