package fanout_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

func TestS53_C24_DeathInABatch(t *testing.T) {
	told := new(reports)
	overStores(t, fanout.Config{OnPoison: told.hook}, func(w *world) {
		told.take()
		sibling := w.ready("ann", "a2")[0]
		f := w.fragile("ann", "a1", "13")
		w.feed("ann", 0, 40)
		at := w.seqOf("ann", "13")
		// The whole batch comes twice. Then entries come one at a time, and the device gets as far as it can.
		for i := range 2 {
			require.True(w.t, f.connect())
			require.Empty(w.t, f.texts, "connection %d: it stores whole frames only", i)
		}
		for i := range 5 {
			require.Empty(w.t, told.take())
			require.Zero(w.t, w.r.Stats().Poison)
			require.True(w.t, f.connect())
			require.Equal(w.t, numbers(0, 13), f.texts, "connection %d", i)
		}
		require.Equal(w.t, 2, f.batches, "it stays at one at a time until the device is beyond all that was suspect")
		p := told.wait(w)
		require.Equal(w.t, at, p.Position, "the very entry, not the first of the batch")
		require.Equal(w.t, fanout.Poison{
			Account: "ann", Login: f.login, Device: "a1", Position: at, Message: p.Message, Kind: event.KindMessage, Attempts: 5,
			Reason: event.Lost,
		}, p)
		require.NotEmpty(w.t, p.Message)
		w.fence("ann")
		require.Equal(w.t, numbers(0, 40), sibling.wire(), "siblings are not concerned")
		require.Empty(w.t, sibling.Resets())

		require.NoError(w.t, w.r.Park(context.Background(), "ann", "a1", at))
		require.False(w.t, f.connect())
		require.Equal(w.t, append(numbers(0, 13), numbers(14, 40)...), f.texts, "the rest flows")
		f.leave()
		w.feed("ann", 40, 60)
		require.False(w.t, f.connect())
		require.Len(w.t, f.texts, 59)
		require.Empty(w.t, told.take())
	})
}

// TestS53_NothingIsParkedByItself has a device die on one entry for as long as it likes.
func TestS53_NothingIsParkedByItself(t *testing.T) {
	told := new(reports)
	inMemory(t, fanout.Config{OnPoison: told.hook}, func(w *world) {
		f := w.fragile("ann", "a1", "5")
		w.feed("ann", 0, 10)
		at := w.seqOf("ann", "5")
		var attempts []int
		for range 200 {
			require.True(w.t, f.connect())
			require.Equal(w.t, at, w.seqOf("ann", "5"), "the entry stays")
			time.Sleep(time.Second)
			for _, p := range told.take() {
				require.Equal(w.t, at, p.Position)
				attempts = append(attempts, p.Attempts)
			}
		}
		require.Equal(w.t, []int{5, 10, 20, 40, 80, 160}, attempts, "the host is told seldom enough to be heard")
		require.Equal(w.t, 200, f.shown, "and the device gets the entry every time")
		require.Equal(w.t, numbers(0, 5), f.texts)
		require.Zero(w.t, w.r.Stats().Parked)
		require.Equal(w.t, uint64(6), w.r.Stats().Poison)
		parked, err := w.reg.Inspect(context.Background(), "ann")
		require.NoError(w.t, err)
		require.Empty(w.t, parked.Devices[0].Parked)
		w.flush()
		cursors, err := w.inner.Cursors(context.Background(), "ann")
		require.NoError(w.t, err)
		require.Equal(w.t, at.Seq-1, cursors[0].Seq, "I7: the cursor does not pass it")
		f.deadly = nil // a new release of the app
		require.False(w.t, f.connect())
		require.Equal(w.t, numbers(0, 10), f.texts)
	})
}

// TestC24_WaysToDie: what the engine sees of a client that dies differs.
func TestC24_WaysToDie(t *testing.T) {
	for name, way := range map[string]struct {
		end    func(f *fragile)
		reason event.Reason // empty: says nothing about the entry
	}{
		"detached":       {func(f *fragile) { f.att.Detach() }, event.Lost},
		"protocol error": {func(f *fragile) { _ = f.att.HandleJSON(context.Background(), []byte("{")) }, event.ProtocolError},
		"slow":           {func(f *fragile) { time.Sleep(40 * time.Second) }, event.Slow},
		"closed by host": {func(f *fragile) { f.att.Close(event.Slow.Closed(0)) }, event.Slow},
		"moved": {func(f *fragile) {
			att, err := f.w.r.Attach(context.Background(), fanout.AttachRequest{
				Account: f.account, Login: f.login, Token: f.token, Hold: true, // it gets nothing
			}, &inlet{done: make(chan struct{})})
			require.NoError(f.w.t, err)
			att.Detach()
		}, event.Moved},
		"the store is away": {func(f *fragile) { f.att.Close(event.Unavailable.Closed(0)) }, ""},
		"kicked": {func(f *fragile) {
			_, err := f.w.reg.Kick(context.Background(), session.KickRequest{Account: f.account, All: true})
			require.NoError(f.w.t, err)
			res, err := f.w.reg.Login(context.Background(), session.LoginRequest{Account: f.account, Device: f.device, Platform: "ios"})
			require.NoError(f.w.t, err)
			f.login, f.token = res.Session.Login, res.Token
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			told := new(reports)
			inMemory(t, fanout.Config{OnPoison: told.hook}, func(w *world) {
				f := w.fragile("ann", "a1", "1")
				f.end = func() { way.end(f) }
				w.feed("ann", 0, 3)
				for range 9 {
					require.True(w.t, f.connect())
				}
				time.Sleep(time.Second)
				got := told.take()
				if way.reason == "" {
					require.Empty(w.t, got)
					return
				}
				require.Len(w.t, got, 1)
				require.Equal(w.t, w.seqOf("ann", "1"), got[0].Position)
				require.Equal(w.t, way.reason, got[0].Reason)
			})
		})
	}
}

// TestC24_BadNetworkIsNoPoison: a device that gets beyond an entry after a few attempts is not reported.
func TestC24_BadNetworkIsNoPoison(t *testing.T) {
	told := new(reports)
	inMemory(t, fanout.Config{OnPoison: told.hook, Window: 4}, func(w *world) {
		f := w.fragile("ann", "a1")
		w.feed("ann", 0, 40)
		for i := range 40 { // three connections end at each entry
			f.deadly = []string{fmt.Sprint(i)}
			for range 3 {
				require.True(w.t, f.connect())
			}
		}
		f.deadly = nil
		require.False(w.t, f.connect())
		require.Equal(w.t, numbers(0, 40), f.texts)
		time.Sleep(time.Second)
		require.Empty(w.t, told.take())
		w.feed("ann", 40, 80)
		for n := 0; n < 4; { // nothing is acknowledged
			select {
			case frame := <-f.conn.frames:
				if d, ok := frame.(*event.Data); ok {
					n += len(d.Entries)
				}
			case <-time.After(time.Second):
				require.FailNow(w.t, "the window is not as wide as before")
			}
		}
		in, err := w.r.Inspect(context.Background(), "ann", fanout.InspectOptions{})
		require.NoError(w.t, err)
		require.Equal(w.t, 4, in.Attachments[0].Unacked)
		require.False(w.t, in.Attachments[0].OneByOne)
		require.Zero(w.t, in.Devices[0].Attempts)
	})
}

// TestC24_HookMayPark: the hook runs beside everything else, so it may call the router; and it may panic.
func TestC24_HookMayPark(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		parked := make(chan error, 1)
		w.stop()
		w.fcfg.OnPoison = func(ctx context.Context, p fanout.Poison) {
			parked <- w.r.Park(ctx, p.Account, p.Device, p.Position)
			panic("a fault of the host's")
		}
		w.openStore()
		w.start()
		f := w.fragile("ann", "a1", "0")
		w.feed("ann", 0, 3)
		for range 5 {
			require.True(w.t, f.connect())
		}
		require.NoError(w.t, <-parked)
		require.False(w.t, f.connect())
		require.Equal(w.t, []string{"1", "2"}, f.texts)
	})
}

// TestC24_AttemptsBeginAnew after a restart: they are kept in memory.
func TestC24_AttemptsBeginAnew(t *testing.T) {
	told := new(reports)
	overStores(t, fanout.Config{OnPoison: told.hook}, func(w *world) {
		told.take()
		f := w.fragile("ann", "a1", "0")
		w.feed("ann", 0, 3)
		for range 4 {
			require.True(w.t, f.connect())
		}
		w.restart()
		for range 4 {
			require.True(w.t, f.connect())
		}
		require.Zero(w.t, w.r.Stats().Poison)
		require.True(w.t, f.connect())
		require.Equal(w.t, 5, told.wait(w).Attempts)
	})
}

// TestI7_C24_RandomPoison has devices that die on entries chosen at random, and a host that parks whatever is reported.
func TestI7_C24_RandomPoison(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	told := new(reports)
	inMemory(t, fanout.Config{OnPoison: told.hook, Window: 8, PageEntries: 16, AckWait: time.Minute}, func(w *world) {
		const entries = 120
		var all []*fragile
		for i := range 6 {
			var deadly []string
			for n := range entries {
				if rnd.IntN(15) == 0 {
					deadly = append(deadly, fmt.Sprint(n))
				}
			}
			all = append(all, w.fragile("ann", event.DeviceID(fmt.Sprint("a", i)), deadly...))
		}
		fed, parked := 0, 0
		for living := 0; living < len(all) || fed < entries; {
			if n := min(rnd.IntN(6), entries-fed); n > 0 {
				w.feed("ann", fed, fed+n)
				fed += n
			}
			living = 0
			for _, f := range all {
				if f.connect() {
					continue
				}
				f.leave()
				living++
			}
			time.Sleep(time.Second)
			for _, p := range told.take() {
				i := slices.IndexFunc(all, func(f *fragile) bool { return f.device == p.Device })
				at := slices.IndexFunc(w.log("ann"), func(e event.Entry) bool { return e.Seq == p.Position.Seq })
				text := string(w.log("ann")[at].Payload)
				require.Contains(w.t, all[i].deadly, text, "only what a device really dies on is reported")
				require.NoError(w.t, w.r.Park(context.Background(), "ann", p.Device, p.Position))
				parked++
			}
		}
		for _, f := range all {
			want := slices.DeleteFunc(numbers(0, entries), func(s string) bool { return slices.Contains(f.deadly, s) })
			require.Equal(w.t, want, f.texts, "everything else comes, in order, once")
			parked -= len(f.deadly)
		}
		require.Zero(w.t, parked, "and each was parked once")
	})
}
