package fanout_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// kept returns the messages that an inbox still holds.
func (w *world) kept(account event.Account) []string {
	w.t.Helper()
	var all []string
	for _, e := range w.kinds(account, event.KindMessage) {
		if e.Conversation != "fence" {
			all = append(all, string(e.Payload))
		}
	}
	return all
}

func (w *world) trim(account event.Account) {
	w.t.Helper()
	require.NoError(w.t, w.r.Trim(context.Background(), account))
}

func TestRetentionByAge(t *testing.T) {
	inMemory(t, fanout.Config{MaxAge: 10 * time.Hour, TrimInterval: -1}, func(w *world) {
		d := w.login("ann", "a1") // never returns: S54
		for i := range 20 {
			w.host("bob", fmt.Sprint(i), "ann")
			time.Sleep(time.Hour)
		}
		w.trim("ann")
		require.Equal(w.t, numbers(10, 20), w.kept("ann"), "a device that never returns holds nothing back beyond MaxAge")
		require.GreaterOrEqual(w.t, w.r.Stats().Trimmed, uint64(10))
		d.online()
		require.Equal(w.t, numbers(10, 20), d.wire())
	})
}

func TestRetentionByAcks(t *testing.T) {
	inMemory(t, fanout.Config{KeepMinimum: time.Hour, TrimInterval: -1}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		a[1].acked()
		a[1].drop()
		w.feed("ann", 0, 5)
		w.fence("ann")
		a[0].acked()
		w.flush()
		time.Sleep(2 * time.Hour)
		w.trim("ann")
		require.Equal(w.t, numbers(0, 5), w.kept("ann"), "one device has not acknowledged them")
		a[1].online()
		a[1].acked()
		w.feed("ann", 5, 10)
		w.fence("ann")
		a[0].acked()
		a[1].acked()
		w.trim("ann")
		require.Equal(w.t, numbers(0, 10), w.kept("ann"), "cursors count when they are on disk")
		w.flush()
		w.trim("ann")
		require.Equal(w.t, numbers(5, 10), w.kept("ann"), "younger than the keep-minimum")
		time.Sleep(2 * time.Hour)
		w.trim("ann")
		require.Empty(w.t, w.kept("ann"))
		require.Zero(w.t, w.head("ann").Entries)
	})
	t.Run("at once", func(t *testing.T) {
		overStores(t, fanout.Config{KeepMinimum: -1, TrimInterval: -1}, func(w *world) {
			d := w.ready("ann", "a1")[0]
			w.feed("ann", 0, 5)
			w.fence("ann")
			d.acked()
			w.flush()
			w.trim("ann")
			require.Empty(w.t, w.log("ann"))
			w.feed("ann", 5, 6)
			w.fence("ann")
			require.Equal(w.t, numbers(0, 6), d.wire(), "S52: who is up to date does not notice")
			require.Empty(w.t, d.Resets())
		})
	})
	t.Run("an account without devices", func(t *testing.T) {
		inMemory(t, fanout.Config{KeepMinimum: -1, TrimInterval: -1}, func(w *world) {
			w.feed("ann", 0, 5)
			time.Sleep(time.Hour)
			w.trim("ann")
			require.Equal(w.t, numbers(0, 5), w.kept("ann"), "its first device starts at the oldest entry")
		})
	})
}

func TestRetentionByCount(t *testing.T) {
	overStores(t, fanout.Config{MaxEntries: 100, TrimInterval: -1}, func(w *world) {
		for i := range 800 { // more than one slice and one page
			w.host("bob", fmt.Sprint(i), "ann")
			if i%10 == 0 {
				w.post(fanout.SendRequest{From: "ann", Kind: event.KindConversationPin, Conversation: event.ConversationID(fmt.Sprint(i))})
			}
		}
		require.Equal(w.t, 800, w.head("ann").Entries, "entries with a coalesce key do not count")
		w.trim("ann")
		require.Equal(w.t, numbers(700, 800), w.kept("ann"))
		require.NotEmpty(w.t, w.kinds("ann", event.KindConversationPin))
		before := w.head("ann")
		w.trim("ann")
		require.Equal(w.t, before, w.head("ann"))
	})
}

func TestRetentionByBytes(t *testing.T) {
	overStores(t, fanout.Config{MaxBytes: 10 * (20_000 + 64), TrimInterval: -1}, func(w *world) {
		for i := range 25 {
			w.host("bob", fmt.Sprintf("%020000d", i), "ann")
		}
		w.trim("ann")
		require.Len(w.t, w.kept("ann"), 10)
		require.LessOrEqual(w.t, w.head("ann").Bytes, int64(10*(20_000+64)))
		require.Equal(w.t, fmt.Sprintf("%020000d", 15), w.kept("ann")[0])
	})
}

func TestRetentionWithoutBounds(t *testing.T) {
	inMemory(t, fanout.Config{MaxAge: -1, MaxEntries: -1, MaxBytes: -1, TrimInterval: -1}, func(w *world) {
		w.login("ann", "a1")
		_, err := w.inner.Commit(context.Background(), store.Batch{Account: "bob", Now: time.Now().AddDate(0, 0, -100), Messages: []store.Message{{
			ID: "old", Kind: event.KindMessage, From: "bob", To: []store.Inbox{{Account: "ann"}},
		}}})
		require.NoError(w.t, err)
		for i := range 300 {
			w.host("bob", fmt.Sprintf("%060000d", i), "ann")
		}
		w.trim("ann")
		require.Len(w.t, w.kept("ann"), 301)
	})
}

func TestTrimmingByItself(t *testing.T) {
	inMemory(t, fanout.Config{MaxEntries: 5, MaxAge: 48 * time.Hour}, func(w *world) {
		w.feed("ann", 0, 20)
		w.feed("cid", 0, 3)
		time.Sleep(61 * time.Second)
		require.Equal(w.t, numbers(15, 20), w.kept("ann"), "inboxes that have grown are looked at every minute")
		time.Sleep(48 * time.Hour)
		require.Equal(w.t, numbers(0, 3), w.kept("cid"), "the time of the last full round is not over")
		time.Sleep(2 * time.Hour)
		require.Empty(w.t, w.kept("cid"), "and all others at every hundredth round")
	})
}

// An account that somebody is attached for is remembered once a round, in every round.
func TestTrimmingOfAttached(t *testing.T) {
	inMemory(t, fanout.Config{MaxEntries: 5}, func(w *world) {
		w.ready("ann", "a1")
		for n := 20; n <= 60; n += 20 {
			w.feed("ann", n-20, n)
			require.Equal(w.t, 2, w.r.Grown(), "and bob, who sent it")
			time.Sleep(61 * time.Second)
			require.Equal(w.t, numbers(n-5, n), w.kept("ann"))
			require.Zero(w.t, w.r.Grown())
		}
	})
}

func TestTrimErrors(t *testing.T) {
	inMemory(t, fanout.Config{MaxEntries: 1, TrimInterval: -1}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		w.feed("ann", 0, 5)
		w.until("the device is quiet", func() bool { return len(d.texts()) == 5 && d.Answered() })
		synctest.Wait() // no reader is about to take a fault that is meant for Trim
		for _, f := range []storetest.Fault{
			{Method: storetest.Cursors}, {Method: storetest.Read}, {Method: storetest.Read, Skip: 1}, {Method: storetest.Trim},
		} {
			f.Err, f.Account = context.DeadlineExceeded, "ann"
			w.st.Inject(f)
			require.ErrorIs(w.t, w.r.Trim(context.Background(), "ann"), context.DeadlineExceeded, "%v", f)
		}
		w.trim("ann")
		require.Equal(w.t, numbers(4, 5), w.kept("ann"))
	})
}

// TestCursorsOfDevicesThatAreGone has devices without an ID of their own come and go: nothing of them stays.
func TestCursorsOfDevicesThatAreGone(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		w.ready("ann", "a1")
		for i := range 20 {
			d := w.login("ann", "")
			d.online()
			w.feed("ann", i, i+1)
			w.fence("ann")
			d.acked()
			if i%2 == 0 {
				d.leave()
			}
			require.NoError(w.t, w.reg.Logout(context.Background(), "ann", d.Login()))
		}
		d := w.ready("ann", "a2")[0]
		d.acked()
		require.NoError(w.t, w.reg.RemoveDevice(context.Background(), session.RemoveDeviceRequest{Account: "ann", Device: "a2"}))
		w.flush()
		all, err := w.inner.Cursors(context.Background(), "ann")
		require.NoError(w.t, err)
		require.Len(w.t, all, 1, "only that of a1 is left")
	})
}

func TestS51_RemovedAndBack(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.feed("ann", 0, 3)
		w.fence("ann")
		a[1].drop()
		w.post(fanout.SendRequest{From: "ann", Targets: []event.LoginID{a[1].Login()}, Payload: []byte("for the old one")})
		w.feed("ann", 3, 5)
		require.NoError(w.t, w.reg.RemoveDevice(context.Background(), session.RemoveDeviceRequest{Account: "ann", Device: "a2"}))
		again := w.login("ann", "a2")
		require.NotEqual(w.t, a[1].inc, again.inc)
		w.feed("ann", 5, 8)
		again.online()
		require.Equal(w.t, numbers(5, 8), again.wire(), "what came before the removal is not its business")
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", All: true})
		require.NoError(w.t, err)
	})
}

// busyStore is a store whose Trim takes a while, in which it can do nothing else, and which says how it was used.
type busyStore struct {
	store.Store
	mu    sync.Mutex
	work  time.Duration
	slice func() // called after each slice
	calls int
	most  int // entries removed by one call
}

func (s *busyStore) Trim(ctx context.Context, account event.Account, through uint64, limit int) (store.Head, error) {
	s.mu.Lock()
	time.Sleep(s.work)
	before, err := s.Store.Read(ctx, account, store.ReadOptions{})
	if err != nil {
		s.mu.Unlock()
		return store.Head{}, err
	}
	h, err := s.Store.Trim(ctx, account, through, limit)
	s.calls, s.most = s.calls+1, max(s.most, before.Head.Entries-h.Entries)
	s.mu.Unlock()
	s.slice()
	return h, err
}

func (s *busyStore) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	if b.Account == "_engine" { // the heartbeat: who waits for a mutex in a bubble keeps time from going on
		return s.Store.Commit(ctx, b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Store.Commit(ctx, b)
}

// TestC8_TrimmingGivesWay trims 5,000 entries: in small slices, between which sends have their turn, and with as much time
// at rest as at work.
func TestC8_TrimmingGivesWay(t *testing.T) {
	inMemory(t, fanout.Config{TrimInterval: -1}, func(w *world) {
		ctx := context.Background()
		w.feed("ann", 0, 5000)
		st := &busyStore{Store: w.st, work: 10 * time.Millisecond}
		r := w.second(st, fanout.Config{MaxEntries: 10, TrimInterval: -1})
		sent := 0
		st.slice = func() {
			_, err := r.Send(ctx, fanout.SendRequest{From: "bob", To: []event.Account{"eve"}})
			require.NoError(w.t, err)
			sent++
		}
		began := time.Now()
		require.NoError(w.t, r.Trim(ctx, "ann"))
		require.Len(w.t, w.log("ann"), 10)
		require.LessOrEqual(w.t, st.most, 256)
		require.GreaterOrEqual(w.t, st.calls, 5000/256)
		require.Equal(w.t, st.calls, sent)
		require.GreaterOrEqual(w.t, time.Since(began), 2*time.Duration(st.calls)*st.work, "half of the time is left to others")
	})
}

// TestC8_QuietInboxesCostLittle: an inbox whose oldest entry stays is not read any further.
func TestC8_QuietInboxesCostLittle(t *testing.T) {
	inMemory(t, fanout.Config{TrimInterval: -1}, func(w *world) {
		w.feed("ann", 0, 1000)
		most := 0
		r := w.second(readsStore{w.st, &most}, fanout.Config{TrimInterval: -1})
		require.NoError(w.t, r.Trim(context.Background(), "ann"))
		require.Equal(w.t, 1, most)
	})
}

// readsStore notes how many entries were read at most.
type readsStore struct {
	store.Store
	most *int
}

func (s readsStore) Read(ctx context.Context, account event.Account, o store.ReadOptions) (store.Page, error) {
	*s.most = max(*s.most, o.Limit)
	return s.Store.Read(ctx, account, o)
}
