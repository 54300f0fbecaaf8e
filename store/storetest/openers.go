package storetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

func opener(h *Harness) string {
	return unless(h.Opener != nil, "Harness.Opener is not set")
}

func openerAlone(h *Harness) string {
	return cmp.Or(opener(h), unless(!h.Capabilities.Shared, "the store lets several in"))
}

func openerShared(h *Harness) string {
	return cmp.Or(opener(h), unless(h.Capabilities.Shared, "the store lets one in at a time"))
}

var openerRules = []rule{
	{name: "openers: a second one is refused, and does no harm", skip: openerAlone, check: func(f *fixture) {
		open := f.h.Opener(f.t)
		first, err := open()
		require.NoError(f.t, err)
		f = newFixture(f.t, f.h, first)
		for i := range 3 {
			f.send("ann", "ann")
			second, err := open()
			require.Error(f.t, err)
			require.Nil(f.t, second)
			require.Len(f.t, f.all("ann"), i+1)
		}
		f.notFailed()
		require.NoError(f.t, closeStore(first))
		f.s, err = open()
		require.NoError(f.t, err, "the first one is closed")
		require.Len(f.t, f.all("ann"), 3)
	}},
	{name: "openers: of several at once, where there is nothing yet, one gets in", skip: openerAlone, check: checkOpenRace},
	{name: "openers: several see one store", skip: openerShared, check: func(f *fixture) {
		open := f.h.Opener(f.t)
		stores := openAtOnce(f, open)
		for i, s := range stores {
			g := newFixture(f.t, f.h, s)
			require.Equal(f.t, stores[0].Info(), s.Info())
			require.Len(f.t, g.all("ann"), i)
			g.send("ann", "ann")
		}
	}},
}

// rivals is how many openers there are at once.
const rivals = 4

// openAtOnce opens one place several times at once, and returns the stores of those that got in. Those that do not get in try again
// until one has, and then once more: one that comes late must not get in by making the store a second time.
func openAtOnce(f *fixture, open func() (store.Store, error)) []store.Store {
	f.t.Helper()
	stores := make([]store.Store, rivals)
	errs := make([]error, rivals)
	begin := make(chan struct{})
	var won atomic.Bool
	var wg sync.WaitGroup
	for i := range rivals {
		wg.Go(func() {
			<-begin
			for last := false; !last; {
				last = won.Load() || f.ctx.Err() != nil
				if stores[i], errs[i] = open(); errs[i] == nil {
					won.Store(true)
					return
				}
				time.Sleep(rand.N(300 * time.Microsecond)) // else they may keep each other out, in step
			}
		})
	}
	close(begin)
	wg.Wait()
	var in []store.Store
	for i := range rivals {
		if errs[i] == nil {
			require.NotNil(f.t, stores[i])
			in = append(in, stores[i])
		}
	}
	return in
}

// checkOpenRace lets several openers at one place again and again, each time where there is nothing, and then once more where
// the winner has written something.
func checkOpenRace(f *fixture) {
	for range 20 {
		open := f.h.Opener(f.t)
		var info store.Info
		for opened := range 3 {
			in := openAtOnce(f, open)
			for _, s := range in {
				f.t.Cleanup(func() { _ = closeStore(s) })
			}
			require.Len(f.t, in, 1, "of %d openers at once", rivals)
			g := newFixture(f.t, f.h, in[0])
			if opened == 0 {
				info = g.s.Info()
			}
			require.Equal(f.t, info, g.s.Info())
			require.Len(f.t, g.all("ann"), opened, "what the winner wrote is there")
			g.send("ann", "ann")
			require.NoError(f.t, closeStore(in[0]))
		}
	}
}

// reopenMore are rules on opening again that go on for longer.
var reopenMore = []rule{
	{name: "reopen: again and again, with a little done each time", skip: durable, check: func(f *fixture) {
		restarts := f.restarts()
		var sent []event.MessageID
		var rev store.Revision
		for i := range 12 {
			rev = f.record("ann", rev, fmt.Sprint(i))
			for range i % 3 {
				sent = append(sent, f.send("ann", "bob", "ann").ID)
			}
			if i%4 == 3 {
				f.void("bob", f.fill("bob", 1)...)
				require.NoError(f.t, f.s.Delete(f.ctx, "cat", 0))
			}
			restarts[i%len(restarts)]()
			require.Equal(f.t, store.Record{Data: fmt.Append(nil, i), Revision: rev}, f.load("ann"))
			require.Equal(f.t, sent, ids(f.all("ann")))
			require.Equal(f.t, sent, ids(f.all("bob")))
			require.EqualValues(f.t, (i+1)/4+1, uint32(f.head("cat").Epoch))
			f.notFailed()
		}
	}},
	{name: "reopen: a large removal that was answered is one", skip: durable, check: func(f *fixture) {
		for i, restart := range f.restarts() {
			ann, bob := event.Account(fmt.Sprint("ann", i)), event.Account(fmt.Sprint("bob", i))
			for range 10 {
				f.fill(ann, 200)
				f.fill(bob, 200)
			}
			last := f.all(ann)[1999].ID
			require.NoError(f.t, f.s.Delete(f.ctx, ann, 0))
			h := f.trim(bob, f.head(bob).Seq-1, 10_000)
			restart()
			f.gone(last)
			require.Equal(f.t, h, f.head(bob))
			require.Len(f.t, f.all(bob), 1)
			f.fill(ann, 2)
			restart()
			require.Len(f.t, f.all(ann), 2)
			require.Equal(f.t, []event.MessageID{f.all(bob)[0].ID}, ids(f.page(bob, store.ReadOptions{Limit: 10}).Entries))
		}
	}},
	{name: "reopen: I1 what was answered before a crash is there", skip: crash, check: checkCrashRace},
}

func crash(h *Harness) string {
	return cmp.Or(durable(h), unless(h.Crash != nil, "Harness.Crash is not set"))
}

// checkCrashRace crashes a store that several write to.
func checkCrashRace(f *fixture) {
	const writers = 4
	for round := range 5 {
		account := event.Account(fmt.Sprint("round-", round))
		sent := make([][]event.MessageID, writers)
		s := f.s
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for {
					m := f.message(account, account, "all")
					if _, err := s.Commit(f.ctx, f.batch(account, m)); err != nil {
						return
					}
					sent[i] = append(sent[i], m.ID)
				}
			})
		}
		for f.head(account).Entries < 10+round*7 {
			f.page("all", store.ReadOptions{Limit: 5})
		}
		f.s = f.h.Crash(f.t, s)
		wg.Wait()
		list := ids(f.all(account))
		for i := range writers {
			require.Subset(f.t, list, sent[i])
		}
		if f.h.Capabilities.AtomicSend {
			require.Subset(f.t, ids(f.all("all")), list)
		}
		require.Len(f.t, list, f.head(account).Entries)
		f.notFailed()
	}
}
