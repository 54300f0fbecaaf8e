package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	"github.com/manydevice/manydevice/transport/transporttest"
)

// TestS66_SlowDevicesComeBackAtOnce has 1,000 devices closed for slowness in the same second. They come back at once, are
// told when to try again, at different times, and the store is asked a fixed number of times for each.
func TestS66_SlowDevicesComeBackAtOnce(t *testing.T) {
	const devices, perSecond = 1000, 100
	inMemory(t, fanout.Config{TrimInterval: -1}, func(w *world) {
		w.stop()
		w.scfg.AttachesPerSecond = perSecond
		w.openStore()
		w.start()
		all := make([]*device, devices)
		for i := range all {
			all[i] = w.loginWith(event.Account(fmt.Sprint("a", i)), "d", transporttest.DeviceConfig{})
			time.Sleep(time.Second / perSecond)
			all[i].online()
			all[i].HoldAcks(true)
		}
		time.Sleep(10 * time.Second)
		for _, d := range all {
			w.post(fanout.SendRequest{
				From: "bob", Conversation: "c1", To: []event.Account{d.account}, Payload: []byte("x"), Receipts: fanout.ReceiptsOff,
			})
		}
		for _, d := range all {
			require.Equal(w.t, event.Slow.Closed(0), d.closed())
			d.HoldAcks(false)
		}
		time.Sleep(10 * time.Second)
		before := w.st.Calls(storetest.Read) + w.st.Calls(storetest.Cursors) + w.st.Calls(storetest.States) + w.st.Calls(storetest.Load)
		began := time.Now()
		waits := map[time.Duration]int{}
		refused := 0
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, d := range all {
			wg.Go(func() {
				for {
					err := d.tryConnect()
					if err == nil {
						return
					}
					limited, ok := errors.AsType[*session.LimitedError](err)
					if !ok {
						w.t.Error(err)
						return
					}
					mu.Lock()
					refused++
					waits[limited.RetryAfter.Round(100*time.Millisecond)]++
					mu.Unlock()
					time.Sleep(limited.RetryAfter)
				}
			})
		}
		wg.Wait()
		for _, d := range all {
			d.caughtUp()
			require.Equal(w.t, []string{"x"}, d.texts())
		}
		took := time.Since(began)
		require.GreaterOrEqual(w.t, took, (devices/perSecond-2)*time.Second)
		require.Less(w.t, took, 5*devices/perSecond*time.Second)
		require.Greater(w.t, refused, devices/2)
		require.Greater(w.t, len(waits), 10, "the advice is spread: %v", waits)
		calls := w.st.Calls(storetest.Read) + w.st.Calls(storetest.Cursors) + w.st.Calls(storetest.States) + w.st.Calls(storetest.Load)
		require.LessOrEqual(w.t, calls-before, 5*devices, "who is refused costs the store nothing")
	})
}

// lateBell answers the commit of one message late, so that its doorbell rings after that of a later one.
type lateBell struct {
	store.Store
	text    string
	arrived chan struct{}
	release chan struct{}
}

func (s *lateBell) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	res, err := s.Store.Commit(ctx, b)
	if len(b.Messages) == 1 && string(b.Messages[0].Payload) == s.text {
		s.arrived <- struct{}{}
		<-s.release
	}
	return res, err
}

// TestS47_DoorbellsOutOfOrder: a device that hears of an entry before the one before it gets both, in order.
func TestS47_DoorbellsOutOfOrder(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		st := &lateBell{Store: w.st, text: "first", arrived: make(chan struct{}), release: make(chan struct{})}
		require.NoError(w.t, w.r.Close(context.Background()))
		r, err := fanout.New(w.reg, st, fanout.Config{})
		require.NoError(w.t, err)
		w.r = r
		d := w.ready("ann", "a1")[0]
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("first")})
			if err != nil {
				w.t.Error(err)
			}
		})
		<-st.arrived
		w.host("bob", "second", "ann")
		w.until("both", func() bool { return len(d.wire()) == 2 })
		close(st.release)
		wg.Wait()
		w.fence("ann")
		require.Equal(w.t, []string{"first", "second"}, d.wire())
	})
}

// TestS54_DeviceThatNeverReturns keeps entries from going that all others have acknowledged only until it is forgotten.
func TestS54_DeviceThatNeverReturns(t *testing.T) {
	inMemory(t, fanout.Config{KeepMinimum: time.Minute, TrimInterval: -1}, func(w *world) {
		w.stop()
		w.scfg.JanitorInterval, w.scfg.IdleDevice = 10*time.Minute, 20*time.Hour
		w.openStore()
		w.start()
		changes, err := w.reg.Subscribe(1_000)
		require.NoError(w.t, err)
		a := w.ready("ann", "a1", "gone")
		a[1].leave()
		for i := range 30 {
			w.feed("ann", i, i+1)
			w.fence("ann")
			a[0].acked()
			time.Sleep(time.Hour)
			w.flush()
			w.trim("ann")
			if i == 15 {
				require.Equal(w.t, numbers(0, 16), w.kept("ann"), "it may come back")
			}
		}
		changes.Close()
		var forgotten []event.DeviceID
		for c := range changes.All(context.Background()) {
			if c.Kind == session.ChangeForgotten {
				forgotten = append(forgotten, c.Session.Device)
			}
		}
		require.Equal(w.t, []event.DeviceID{"gone"}, forgotten, "the host is told, once")
		require.Empty(w.t, w.kept("ann"), "it holds nothing back any more")
		cursors, err := w.inner.Cursors(context.Background(), "ann")
		require.NoError(w.t, err)
		require.Len(w.t, cursors, 1)
		require.Equal(w.t, numbers(0, 30), a[0].texts(), "the other one has all")
	})
}

// TestS55_PagedByBytes: a device that returns to 6 MB gets them in frames within its window, and others do not wait: while it
// has not acknowledged anything, they send and receive.
func TestS55_PagedByBytes(t *testing.T) {
	overStores(t, fanout.Config{WindowBytes: 200_000, PageBytes: 100_000, MaxBytes: -1, TrimInterval: -1}, func(w *world) {
		d := w.login("ann", "a1")
		other := w.ready("cid", "c1")[0]
		const n, size = 200, 30_000
		w.together(n, func(i int) fanout.SendRequest {
			return fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, NoSenderCopy: true, Payload: make([]byte, size)}
		})
		d.HoldAcks(true)
		d.start()
		w.until("a full window", func() bool { return len(d.wire()) == 200_000/(size+64) })
		for i := range 10 {
			w.host("bob", fmt.Sprint(i), "cid")
			w.fence("cid")
			require.Len(w.t, other.wire(), i+1)
		}
		require.Len(w.t, d.wire(), 200_000/(size+64), "nothing comes without an ack")
		d.HoldAcks(false)
		d.caughtUp()
		require.Len(w.t, d.wire(), n)
		most := 0
		for _, f := range framesOf[*event.Data](d) {
			sum := 0
			for _, e := range f.Entries {
				sum += e.Size()
			}
			most = max(most, sum)
		}
		require.LessOrEqual(w.t, most, 200_000)
		require.Equal(w.t, 1, count[*event.CaughtUp](d))
	})
}

// TestS70_FullFile fills a small file. Sends are refused, all that ends or marks something goes on, and sends work again
// when retention has made room.
func TestS70_FullFile(t *testing.T) {
	const entries = 40
	w := newWorld(t, t.TempDir()+"/store.db", fanout.Config{MaxEntries: entries, TrimInterval: -1})
	w.stop()
	w.bolt.MaxSize = 8 << 20
	w.openStore()
	w.start()
	ctx := context.Background()
	a, b := w.ready("ann", "a1", "a2", "a3"), w.ready("bob", "b1")[0]
	big := fanout.SendRequest{From: "bob", Conversation: "c1", To: []event.Account{"ann"}, NoSenderCopy: true, Payload: make([]byte, 60_000)}
	sent := 0
	fill := func() error {
		for {
			if _, err := w.r.Send(ctx, big); err != nil {
				return err
			}
			sent++
		}
	}
	require.ErrorIs(t, fill(), store.ErrFull)
	require.Greater(t, sent, entries)
	w.until("reads go on", func() bool { return len(a[0].wire()) == sent })
	a[0].acked()
	w.flush()
	require.GreaterOrEqual(t, w.cursor(a[0]).Seq, uint64(sent), "and acks")
	res, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: uint64(sent)})
	require.NoError(t, err, "and marks")
	require.True(t, res.Advanced)
	_, err = w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{a[1].Login()}})
	require.NoError(t, err, "and kicks")
	require.Equal(t, event.KickedHost, a[1].closed().Reason)
	require.NoError(t, w.reg.Logout(ctx, "ann", a[2].Login()), "and logouts")
	before := w.head("ann").Seq
	_, err = w.r.Send(ctx, big)
	require.ErrorIs(t, err, store.ErrFull)
	require.Equal(t, before, w.head("ann").Seq)
	require.Empty(t, b.Resets())

	w.trim("ann")
	w.fence("ann")
	_, err = w.r.Send(ctx, big)
	require.NoError(t, err, "no restart is needed")
	w.until("and it is delivered", func() bool { return len(a[0].wire()) == sent+1 })
}

// TestD7_SendsOfABot have no origin: all devices of the sender get the carbon, unless there is none.
func TestD7_SendsOfABot(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a, bot := w.ready("ann", "a1", "a2"), w.ready("bot", "console")[0]
		q := fanout.SendRequest{From: "bot", Conversation: "c1", To: []event.Account{"ann"}, Receipts: fanout.ReceiptsOff, Payload: []byte("with a copy")}
		require.NotZero(w.t, w.post(q).Position.Seq)
		q.NoSenderCopy, q.Payload = true, []byte("without")
		before := w.head("bot")
		require.Zero(w.t, w.post(q).Position.Seq)
		require.Equal(w.t, before.Seq, w.head("bot").Seq)
		w.fence("ann", "bot")
		require.Equal(w.t, []string{"with a copy"}, bot.wire())
		for _, d := range a {
			require.Equal(w.t, []string{"with a copy", "without"}, d.wire())
			require.True(w.t, slices.ContainsFunc(d.of(event.KindMessage), func(e *event.Sealed) bool { return e.Origin == "" && e.From == "bot" }))
		}
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "bot", NoSenderCopy: true})
		w.invalid(err, "to")
		_, err = w.r.Send(context.Background(), fanout.SendRequest{From: "bot", To: []event.Account{"bot"}, NoSenderCopy: true})
		w.invalid(err, "to")
	})
}

// TestI28_SlowDevicesChangeNothing has twenty devices that never read beside a healthy one, of its own account and of others.
// In a bubble time passes only when everybody waits: what comes at the moment in which it was sent has waited for nobody.
func TestI28_SlowDevicesChangeNothing(t *testing.T) {
	inMemory(t, fanout.Config{Window: 4, FrameWrite: time.Hour, AckWait: time.Hour, TrimInterval: -1}, func(w *world) {
		d := w.ready("ann", "healthy")[0]
		for i := range 20 {
			slow := w.ready([]event.Account{"ann", "bob"}[i%2], event.DeviceID(fmt.Sprint("slow", i)))[0]
			if i%4 < 2 {
				slow.pair.Block()
			} else {
				slow.HoldAcks(true)
			}
		}
		for i := range 300 {
			sent := time.Now()
			w.host("cid", fmt.Sprint(i), "ann", "bob")
			synctest.Wait()
			require.Len(w.t, d.wire(), i+1)
			require.Zero(w.t, time.Since(sent))
			time.Sleep(10 * time.Millisecond)
		}
		require.Equal(w.t, numbers(0, 300), d.wire())
		require.Zero(w.t, w.r.Stats().Slow, "while none of them was closed")
	})
}

// TestC20_MirroredEventsHaveTheSameName: what an account does comes to its own other devices under the name that it has for
// everybody else; the sender tells them apart.
func TestC20_MirroredEventsHaveTheSameName(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a, b := w.ready("ann", "a1", "a2"), w.ready("bob", "b1")[0]
		for _, k := range []event.Kind{event.KindMessage, event.KindGroupJoin, event.KindReaction} {
			q := fanout.SendRequest{From: "ann", Origin: a[0].Login(), Kind: k, Conversation: "c1", To: []event.Account{"bob"}}
			if k == event.KindReaction {
				q.Of, q.Conversation = w.send(a[0], "x", "bob").ID, ""
			}
			res := w.post(q)
			w.fence("ann", "bob")
			for _, d := range []*device{a[1], b} {
				got := d.of(k)
				e := got[len(got)-1]
				require.Equal(w.t, res.ID, e.ID, "%s at %s", k, d.id)
				require.Equal(w.t, d == a[1], e.From == d.account, "%s at %s", k, d.id)
				require.Equal(w.t, d == a[1], e.Origin == a[0].Login(), "%s at %s", k, d.id)
			}
		}
	})
}
