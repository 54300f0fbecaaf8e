package fanout_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

func TestC24_ParkOneOfSeveral(t *testing.T) {
	told := new(reports)
	overStores(t, fanout.Config{OnPoison: told.hook}, func(w *world) {
		told.take()
		ctx := context.Background()
		f := w.fragile("ann", "a1", "2", "3", "7")
		w.feed("ann", 0, 10)
		for _, text := range f.deadly {
			for tries := 0; tries < 5; tries = w.inspect("ann", fanout.InspectOptions{}).Devices[0].Attempts {
				require.True(w.t, f.connect())
			}
			require.Equal(w.t, w.seqOf("ann", text), told.wait(w).Position)
			require.NoError(w.t, w.r.Park(ctx, "ann", "a1", w.seqOf("ann", text)))
			require.Zero(w.t, w.inspect("ann", fanout.InspectOptions{}).Devices[0].Attempts, "there is no more to it")
		}
		require.False(w.t, f.connect())
		require.Equal(w.t, []string{"0", "1", "4", "5", "6", "8", "9"}, f.texts)
		f.leave()
		require.LessOrEqual(w.t, f.shown, 3*8)

		w.restart()
		f.pos, f.texts = nil, nil
		require.False(w.t, f.connect())
		require.Empty(w.t, f.texts, "it is beyond all that")
		f.leave()
		first := w.seqOf("ann", "0")
		f.pos = &event.Position{Epoch: first.Epoch, Seq: first.Seq - 1}
		require.False(w.t, f.connect(), "also with an older position, and after a restart")
		require.Equal(w.t, []string{"0", "1", "4", "5", "6", "8", "9"}, f.texts)
		f.leave()

		seven := w.seqOf("ann", "7")
		require.NoError(w.t, w.r.Unpark(ctx, "ann", "a1", seven))
		require.NoError(w.t, w.r.Unpark(ctx, "ann", "a1", seven), "twice is once")
		f.pos, f.texts, f.deadly = &event.Position{Epoch: first.Epoch, Seq: first.Seq - 1}, nil, nil
		require.False(w.t, f.connect())
		require.Equal(w.t, []string{"0", "1", "4", "5", "6", "7", "8", "9"}, f.texts)
		f.leave()

		require.NoError(w.t, w.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: "a1"}))
		again := w.fragile("ann", "a1")
		again.pos = &event.Position{Epoch: first.Epoch, Seq: first.Seq - 1}
		require.False(w.t, again.connect())
		require.Equal(w.t, numbers(0, 10), again.texts, "what was parked went with the device")
	})
}

// TestC24_ParkWhileAttached parks entries for a device that is there: one it has been sent, one that is still to come.
func TestC24_ParkWhileAttached(t *testing.T) {
	overStores(t, fanout.Config{Window: 3, KeepMinimum: -1, TrimInterval: -1}, func(w *world) {
		ctx := context.Background()
		both := w.ready("ann", "a1", "a2")
		d, tab := both[0], both[1]
		d.HoldAcks(true)
		w.feed("ann", 0, 10)
		w.until("a full window", func() bool { return len(d.wire()) == 3 })
		for _, text := range []string{"0", "1", "2", "6"} {
			require.NoError(w.t, w.r.Park(ctx, "ann", "a1", w.seqOf("ann", text)))
		}
		w.until("it is not waited for", func() bool { return len(d.wire()) == 6 })
		require.Equal(w.t, numbers(0, 6), d.wire())
		n, bytes, _, _ := d.attachment().Window()
		require.Equal(w.t, 3, n)
		require.Equal(w.t, 3*(1+64), bytes)
		d.HoldAcks(false)
		w.fence("ann")
		require.Equal(w.t, append(numbers(0, 6), numbers(7, 10)...), d.wire())
		require.Equal(w.t, numbers(0, 10), tab.wire(), "another device gets all")
		d.acked()
		tab.acked()
		w.flush()
		require.Equal(w.t, w.head("ann").Seq, w.cursor(d).Seq, "I7: the cursor passes what is parked")
		gone := w.seqOf("ann", "6")
		w.trim("ann")
		rev := w.st.Calls("Commit")
		require.NoError(w.t, w.r.Park(ctx, "ann", "a1", gone), "it is trimmed: there is nothing to do")
		require.Equal(w.t, rev, w.st.Calls("Commit"))
	})
}

// TestC24_NoReceiptForTheParked: a device that claims a position has not got what is parked for it.
func TestC24_NoReceiptForTheParked(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		bob := w.ready("bob", "b1")[0]
		f := w.fragile("ann", "a1")
		require.False(w.t, f.connect())
		f.leave()
		w.send(bob, "lost", "ann")
		at := w.seqOf("ann", "lost")
		require.NoError(w.t, w.r.Park(context.Background(), "ann", "a1", at))
		f.pos = &at
		require.False(w.t, f.connect())
		w.flush()
		w.fence("bob")
		require.Empty(w.t, bob.receipts(event.KindDelivered))
	})
}

func TestC24_ParkRefusals(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		w.login("ann", "a1")
		w.feed("ann", 0, 200)
		head := w.head("ann")
		at := func(seq uint64) event.Position { return event.Position{Epoch: head.Epoch, Seq: seq} }
		for _, call := range []func(context.Context, event.Account, event.DeviceID, event.Position) error{w.r.Park, w.r.Unpark} {
			require.ErrorIs(w.t, call(ctx, "ann", "nobody", at(5)), session.ErrNotFound)
			w.invalid(call(ctx, "", "a1", at(5)), "account")
			w.invalid(call(ctx, "ann", "", at(5)), "device")
			w.invalid(call(ctx, "ann", "a1", at(0)), "entry.seq")
			w.invalid(call(ctx, "ann", "a1", at(head.Seq+1)), "entry.seq")
			w.invalid(call(ctx, "ann", "a1", event.Position{Epoch: head.Epoch + 1, Seq: 5}), "entry.epoch")
		}
		for i := range session.MaxParked {
			require.NoError(w.t, w.r.Park(ctx, "ann", "a1", at(uint64(i+5))))
		}
		require.ErrorIs(w.t, w.r.Park(ctx, "ann", "a1", at(150)), session.ErrTooManyParked)
		require.NoError(w.t, w.r.Park(ctx, "ann", "a1", at(5)), "twice is once")
		require.Equal(w.t, uint64(session.MaxParked), w.r.Stats().Parked)
		require.NoError(w.t, w.r.Close(ctx))
		require.ErrorIs(w.t, w.r.Park(ctx, "ann", "a1", at(150)), fanout.ErrClosed)
	})
}
