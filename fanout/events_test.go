package fanout_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// watcher collects events.
type watcher struct {
	w   *world
	sub *fanout.Subscription
	all []fanout.Event
}

func (w *world) watch() *watcher {
	w.t.Helper()
	sub, err := w.r.Subscribe(10_000)
	require.NoError(w.t, err)
	return &watcher{w: w, sub: sub}
}

// of returns the events of some kinds that have come so far, without their times.
func (v *watcher) of(kinds ...fanout.EventKind) []fanout.Event {
	for e, ok := v.sub.Poll(); ok; e, ok = v.sub.Poll() {
		require.NotZero(v.w.t, e.Time)
		e.Time = time.Time{}
		v.all = append(v.all, e)
	}
	var some []fanout.Event
	for _, e := range v.all {
		if slices.Contains(kinds, e.Kind) {
			some = append(some, e)
		}
	}
	return some
}

// wait waits for so many events of a kind.
func (v *watcher) wait(n int, kind fanout.EventKind) []fanout.Event {
	v.w.t.Helper()
	var got []fanout.Event
	v.w.until(fmt.Sprint(n, " events ", kind), func() bool {
		got = v.of(kind)
		return len(got) >= n
	})
	require.Len(v.w.t, got, n, kind)
	return got
}

// addsUp checks that the counters add up: what is counted by cause is what is counted in all.
func (w *world) addsUp() fanout.Stats {
	w.t.Helper()
	s := w.r.Stats()
	sum := func(causes ...fanout.Cause) (n uint64) {
		for _, c := range causes {
			n += s.ByCause[c]
		}
		return n
	}
	require.Len(w.t, s.ByCause, len(fanout.Causes()))
	require.Equal(w.t, s.LiveDropped, sum(fanout.CauseRingFull, fanout.CauseReplaced, fanout.CauseTooOld, fanout.CauseBackground, fanout.CauseEnded))
	require.Equal(w.t, s.Trimmed, sum(fanout.CauseAge, fanout.CauseEntries, fanout.CauseBytes, fanout.CauseAcked))
	require.Equal(w.t, s.Resets, sum(fanout.CauseEpoch, fanout.CauseTrimmed, fanout.CauseAhead))
	require.Equal(w.t, s.Slow, sum(fanout.CauseAckWait, fanout.CauseFrameWrite))
	require.Equal(w.t, s.Refused, sum(fanout.CauseInvalid, fanout.CauseUnknownOrigin, fanout.CauseUnknownTarget, fanout.CauseUnknownMessage,
		fanout.CauseMismatch, fanout.CauseWindowFull, fanout.CauseFull, fanout.CauseClosed, fanout.CauseCanceled, fanout.CauseUnknownOutcome, fanout.CauseStore))
	return s
}

func TestD4_Delivered(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		events := w.watch()
		before := w.r.Stats()
		d.HoldAcks(true)
		w.feed("ann", 0, 10)
		w.until("all", func() bool { return len(d.wire()) == 10 })
		after := w.addsUp()
		require.Equal(w.t, uint64(10), after.Delivered-before.Delivered)
		require.Equal(w.t, uint64(10*65), after.DeliveredBytes-before.DeliveredBytes)
		saved := d.Save()
		d.leave()
		require.Empty(w.t, events.of(fanout.EventRedelivered), "ordinary deliveries are counted, no more")
		saved.State.Position.Seq -= 10
		d.Restore(saved)
		d.start()
		w.until("again", func() bool { return len(d.wire()) == 20 })
		total := 0
		for _, e := range events.of(fanout.EventRedelivered) {
			require.Equal(w.t, []any{event.Account("ann"), d.Login(), event.DeviceID("a1")}, []any{e.Account, e.Login, e.Device})
			total += e.Count
		}
		require.Equal(w.t, 10, total)
		require.Equal(w.t, uint64(10), w.addsUp().Redelivered)
	})
}

func TestD4_Reset(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		events := w.watch()
		place := d.Position()
		d.claim(event.Position{Epoch: place.Epoch, Seq: 1000})
		e := events.wait(1, fanout.EventReset)[0]
		w.until("the device knows", func() bool { return len(d.Resets()) == 1 })
		require.Equal(w.t, fanout.Event{
			Kind: fanout.EventReset, Account: "ann", Login: d.Login(), Device: "a1", From: event.Position{Epoch: place.Epoch, Seq: 1000},
			To: d.Resets()[0].To, Cause: fanout.CauseAhead,
		}, e)
		require.Equal(w.t, uint64(1), w.addsUp().ByCause[fanout.CauseAhead])
	})
}

func TestD4_S65_LiveDropped(t *testing.T) {
	inMemory(t, fanout.Config{LiveRing: 4, FrameWrite: time.Minute}, func(w *world) {
		events := w.watch()
		d := w.ready("ann", "a1")[0]
		publish := func(n int, same bool) {
			for i := range n {
				q := fanout.PublishRequest{From: "bob", Kind: event.KindTyping, To: []event.Account{"ann"}, Payload: []byte("x")}
				if !same {
					q.Subject = fmt.Sprint(i)
				}
				_, err := w.r.Publish(context.Background(), q)
				require.NoError(w.t, err)
			}
		}
		block := func() {
			d.pair.Block()
			w.host("bob", "blocks", "ann")
			time.Sleep(time.Millisecond)
		}
		block()
		publish(7, false) // 3 too many
		d.pair.Unblock()
		w.fence("ann")
		block()
		publish(6, true) // 5 replaced, 1 waits
		time.Sleep(20 * time.Second)
		d.pair.Unblock() // too old by now
		w.fence("ann")
		require.NoError(w.t, d.Send(&event.Background{On: true}))
		publish(2, false)
		require.NoError(w.t, d.Send(&event.Background{}))
		block()
		publish(3, false)
		d.leave()
		d.pair.Unblock()

		want := map[fanout.Cause]int{
			fanout.CauseRingFull: 3, fanout.CauseReplaced: 5, fanout.CauseTooOld: 1, fanout.CauseBackground: 2, fanout.CauseEnded: 3,
		}
		stats := w.addsUp()
		got := make(map[fanout.Cause]int)
		for _, e := range events.of(fanout.EventLiveDropped) {
			require.Equal(w.t, event.DeviceID("a1"), e.Device)
			got[e.Cause] += e.Count
		}
		require.Equal(w.t, want, got)
		for cause, n := range want {
			require.Equal(w.t, uint64(n), stats.ByCause[cause], cause)
		}
	})
}

func TestD4_TrimmedByCause(t *testing.T) {
	inMemory(t, fanout.Config{MaxAge: 100 * time.Hour, MaxEntries: 8, MaxBytes: 5 * 40_064, KeepMinimum: time.Hour, TrimInterval: -1}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.acked()
		w.flush()
		time.Sleep(101 * time.Hour)
		logins := w.head("ann").Seq
		for i := range 10 {
			w.host("bob", fmt.Sprintf("%040000d", i), "ann")
		}
		w.until("all", func() bool { return len(d.wire()) == 10 })
		events := w.watch()
		w.trim("ann")
		d.acked()
		w.flush()
		time.Sleep(2 * time.Hour)
		w.trim("ann")
		epoch := w.head("ann").Epoch
		at := func(seq uint64) event.Position { return event.Position{Epoch: epoch, Seq: seq} }
		require.Equal(w.t, []fanout.Event{
			{Kind: fanout.EventTrimmed, Account: "ann", From: at(0), To: at(logins), Count: int(logins), Cause: fanout.CauseAge},
			{Kind: fanout.EventTrimmed, Account: "ann", From: at(logins), To: at(logins + 2), Count: 2, Cause: fanout.CauseEntries},
			{Kind: fanout.EventTrimmed, Account: "ann", From: at(logins + 2), To: at(logins + 5), Count: 3, Cause: fanout.CauseBytes},
			{Kind: fanout.EventTrimmed, Account: "ann", From: at(logins + 5), To: at(logins + 10), Count: 5, Cause: fanout.CauseAcked},
		}, events.of(fanout.EventTrimmed))
		require.Equal(w.t, logins+10, w.addsUp().Trimmed)
		require.Empty(w.t, w.log("ann"))
	})
}

// TestD4_TrimmedInPart: what was removed before an error is counted.
func TestD4_TrimmedInPart(t *testing.T) {
	inMemory(t, fanout.Config{MaxEntries: 1, TrimInterval: -1}, func(w *world) {
		w.feed("ann", 0, 600)
		w.st.Inject(storetest.Fault{Method: storetest.Read, Account: "ann", Skip: 2, Err: errAway})
		require.ErrorIs(w.t, w.r.Trim(context.Background(), "ann"), errAway)
		require.Equal(w.t, uint64(256), w.addsUp().Trimmed, "the first page")
		require.Len(w.t, w.log("ann"), 600-256)
		w.trim("ann")
		require.Equal(w.t, uint64(599), w.addsUp().Trimmed)
	})
}

func TestD4_Slow(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		b := w.ready("bob", "b1", "b2")
		events := w.watch()
		b[0].pair.Block()
		b[1].HoldAcks(true)
		w.host("ann", "x", "bob")
		time.Sleep(time.Minute)
		got := events.wait(2, fanout.EventSlow)
		require.Equal(w.t, []any{event.DeviceID("b1"), fanout.CauseFrameWrite}, []any{got[0].Device, got[0].Cause})
		require.Equal(w.t, []any{event.DeviceID("b2"), fanout.CauseAckWait}, []any{got[1].Device, got[1].Cause})
		require.Equal(w.t, uint64(2), w.addsUp().Slow)
	})
}

func TestD4_Refused(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		d := w.ready("ann", "a1")[0]
		events := w.watch()
		other := event.NewLoginID()
		ok := fanout.SendRequest{From: "ann", Origin: d.Login(), To: []event.Account{"bob"}, Payload: []byte("secret payload")}
		used := ok
		used.ClientID = "used"
		w.post(used)
		for _, c := range []struct {
			cause  fanout.Cause
			fault  error
			change func(q *fanout.SendRequest)
		}{
			{cause: fanout.CauseInvalid, change: func(q *fanout.SendRequest) { q.Kind = "a b" }},
			{cause: fanout.CauseInvalid, change: func(q *fanout.SendRequest) { q.From = "" }},
			{cause: fanout.CauseInvalid, change: func(q *fanout.SendRequest) { q.From = event.Account(strings.Repeat("long", 1000)) }},
			{cause: fanout.CauseUnknownOrigin, change: func(q *fanout.SendRequest) { q.Origin = other }},
			{cause: fanout.CauseUnknownTarget, change: func(q *fanout.SendRequest) { q.To, q.Targets = nil, []event.LoginID{other} }},
			{cause: fanout.CauseUnknownMessage, change: func(q *fanout.SendRequest) { q.Kind, q.Of = event.KindRecall, "none" }},
			{cause: fanout.CauseMismatch, change: func(q *fanout.SendRequest) { q.ClientID, q.Payload = "used", []byte("other") }},
			{cause: fanout.CauseWindowFull, fault: store.ErrWindowFull},
			{cause: fanout.CauseFull, fault: store.ErrFull},
			{cause: fanout.CauseUnknownOutcome, fault: store.ErrUnknownOutcome},
			{cause: fanout.CauseCanceled, fault: context.DeadlineExceeded},
			{cause: fanout.CauseStore, fault: errAway},
			{cause: fanout.CauseClosed, fault: store.ErrClosed},
		} {
			q, remove := ok, func() {}
			if c.change != nil {
				c.change(&q)
			}
			if c.fault != nil {
				remove = w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Err: c.fault})
			}
			before := w.r.Stats().ByCause[c.cause]
			_, err := w.r.Send(ctx, q)
			require.Error(w.t, err)
			remove()
			require.Equal(w.t, before+1, w.r.Stats().ByCause[c.cause], "%s: %v", c.cause, err)
			all := events.of(fanout.EventRefused)
			e := all[len(all)-1]
			require.Equal(w.t, []any{"send", c.cause, err}, []any{e.Call, e.Cause, e.Err})
			if len(q.From) < 100 {
				require.Equal(w.t, []any{q.From, q.Origin}, []any{e.Account, e.Login})
			} else {
				require.Empty(w.t, e.Account, "what is not well-formed is not repeated")
			}
		}
		_, err := w.r.Publish(ctx, fanout.PublishRequest{From: "ann"})
		w.invalid(err, "kind")
		_, err = w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann"})
		w.invalid(err, "seq")
		_, err = w.r.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: "ann", Origin: other})
		require.ErrorIs(w.t, err, fanout.ErrUnknownOrigin)
		all := events.of(fanout.EventRefused)
		var calls []string
		for _, e := range all[len(all)-3:] {
			calls = append(calls, e.Call)
		}
		require.Equal(w.t, []string{"publish", "mark_read", "clear_unread"}, calls)
		require.Equal(w.t, uint64(len(all)), w.addsUp().Refused)
		require.Equal(w.t, uint64(1), w.r.Stats().Sends)
	})
}

func TestD4_FailuresOfTheStore(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.acked()
		w.flush()
		events := w.watch()
		remove := w.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Err: errAway})
		w.feed("ann", 0, 1)
		w.fence("ann")
		d.acked()
		time.Sleep(6 * time.Second)
		for _, e := range events.wait(1, fanout.EventFlushFailed) {
			require.ErrorIs(w.t, e.Err, errAway)
		}
		remove()
		time.Sleep(6 * time.Second)
		require.Equal(w.t, uint64(1), w.r.Stats().FlushFailures)
		require.Equal(w.t, w.head("ann").Seq, w.cursor(d).Seq, "it was tried again")

		d.leave()
		w.feed("ann", 1, 2)
		w.st.Inject(storetest.Fault{Method: storetest.Read, Account: "ann", Skip: 1, Err: errAway})
		d.start()
		d.closed()
		e := events.wait(1, fanout.EventReadFailed)[0]
		require.Equal(w.t, event.DeviceID("a1"), e.Device)
		require.ErrorIs(w.t, e.Err, errAway)
		require.Equal(w.t, uint64(1), w.r.Stats().ReadFailures)
		d.online()
	})
}

func TestD4_PoisonAndNack(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		events := w.watch()
		f := w.fragile("ann", "a1", "0")
		w.feed("ann", 0, 3)
		at := w.seqOf("ann", "0")
		for range 5 {
			require.True(w.t, f.connect())
		}
		require.Equal(w.t, fanout.Event{Kind: fanout.EventPoison, Account: "ann", Login: f.login, Device: "a1", To: at, Count: 5}, events.wait(1, fanout.EventPoison)[0])
		require.NoError(w.t, w.r.Park(context.Background(), "ann", "a1", at))
		require.Equal(w.t, fanout.Event{Kind: fanout.EventParked, Account: "ann", Device: "a1", To: at}, events.wait(1, fanout.EventParked)[0])
		require.NoError(w.t, w.r.Unpark(context.Background(), "ann", "a1", at))
		require.Equal(w.t, fanout.Event{Kind: fanout.EventUnparked, Account: "ann", Device: "a1", To: at}, events.wait(1, fanout.EventUnparked)[0])
		stats := w.r.Stats()
		require.Equal(w.t, []uint64{1, 1}, []uint64{stats.Poison, stats.Parked})

		d := w.ready("cid", "c1")[0]
		d.HoldAcks(true)
		w.host("ann", "x", "cid")
		w.until("x", func() bool { return len(d.wire()) == 1 })
		at = w.seqOf("cid", "x")
		require.NoError(w.t, d.Send(&event.Nack{Position: at, Code: "no key"}))
		require.Equal(w.t, fanout.Event{
			Kind: fanout.EventNacked, Account: "cid", Login: d.Login(), Device: "c1", To: at, Code: "no key",
		}, events.wait(1, fanout.EventNacked)[0])
	})
}
