package fanout_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

var errAway = errors.New("the store is away")

func TestSendFailsCleanly(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b := w.ready("bob", "b1")
		before := w.head("bob")
		w.st.Inject(storetest.Fault{Method: storetest.Commit, Err: errAway})
		q := fanout.SendRequest{From: "ann", ClientID: "m1", Conversation: "c1", To: []event.Account{"bob"}, Payload: []byte("x")}
		_, err := w.r.Send(context.Background(), q)
		require.ErrorIs(w.t, err, errAway)
		require.Equal(w.t, before, w.head("bob"))
		w.post(q)
		w.fence("bob")
		require.Equal(w.t, []string{"x"}, b[0].wire())
		require.Equal(w.t, uint64(2), w.r.Stats().Sends, "with the fence")
	})
}

func TestReadErrorsOnDelivery(t *testing.T) {
	for _, m := range []storetest.Method{storetest.Read, storetest.States} {
		t.Run(string(m), func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				d := w.ready("ann", "a1")[0]
				w.until("the ack has arrived, so that Attach has nothing to read up on", func() bool {
					w.flush()
					return w.cursor(d).Seq == d.Position().Seq
				})
				d.leave()
				w.feed("ann", 0, 10)
				skip := 0
				if m == storetest.Read {
					skip = 1 // the head is read by Attach itself
				}
				w.st.Inject(storetest.Fault{Method: m, Account: "ann", Skip: skip, Err: errAway})
				d.start()
				why := d.closed()
				require.Equal(w.t, event.Unavailable, why.Reason)
				require.Equal(w.t, event.RetryAfter, why.Retry)
				require.GreaterOrEqual(w.t, why.After, time.Second)
				require.Less(w.t, why.After, 2*time.Second, "many may have met the same trouble")
				d.online()
				require.Equal(w.t, numbers(0, 10), d.wire(), "it goes on where it was")
			})
		})
	}
}

func TestAttachWhileTheStoreIsAway(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.acked()
		w.feed("ann", 0, 3)
		w.fence("ann")
		w.flush()
		for _, f := range []storetest.Fault{{Method: storetest.Cursors}, {Method: storetest.Read}} {
			d.drop()
			f.Account, f.Err = "ann", errAway
			w.st.Inject(f)
			require.ErrorIs(w.t, d.tryConnect(), errAway)
			<-d.pair.Done()
			d.online()
		}
		unacked := d.Save()
		d.HoldAcks(true)
		w.feed("ann", 3, 4)
		w.fence("ann")
		require.Less(w.t, unacked.State.Position.Seq, d.Position().Seq)
		d.drop()
		w.st.Inject(storetest.Fault{Method: storetest.Read, Account: "ann", Skip: 1, Err: errAway})
		require.ErrorIs(w.t, d.tryConnect(), errAway, "what a claim acknowledges cannot be looked up")
		d.online()
		require.Equal(w.t, numbers(0, 4), d.texts())
		w.until("no hub is left over", func() bool {
			all, _ := w.r.Hubs()
			return all == 1
		})
	})
}

func TestMarkReadErrors(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		id := w.host("bob", "x", "ann").ID
		for _, f := range []storetest.Fault{
			{Method: storetest.Message}, {Method: storetest.Read}, {Method: storetest.Read, Skip: 1}, {Method: storetest.States},
			{Method: storetest.Commit}, {Method: storetest.Load},
		} {
			f.Err = errAway
			remove := w.st.Inject(f)
			_, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Message: id})
			if f.Method != storetest.Load { // without an origin no record is needed
				require.ErrorIs(w.t, err, errAway, "%v", f)
				require.Zero(w.t, w.register("ann", "c1", event.StateRead))
			}
			remove()
		}
		w.st.Inject(storetest.Fault{Method: storetest.Load, Account: "cid", Err: errAway})
		_, err := w.r.Send(ctx, fanout.SendRequest{From: "cid", Origin: event.NewLoginID(), To: []event.Account{"bob"}})
		require.ErrorIs(w.t, err, errAway, "not known is not the same as not there")
		require.NotErrorIs(w.t, err, fanout.ErrUnknownOrigin)
	})
}

func TestStoreFailsForGood(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		w.feed("ann", 0, 3)
		w.fence("ann")
		w.st.Break()
		require.Equal(w.t, event.Unavailable, d.closed().Reason)
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}})
		require.ErrorIs(w.t, err, store.ErrFailed)
		w.crash()
		d.online()
		require.Equal(w.t, numbers(0, 3), d.texts())
	})
}

func TestI29_Close(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		ctx := context.Background()
		b := w.ready("bob", "b1")[0]
		a := w.ready("ann", "a1", "a2")
		id := w.send(b, "x", "ann").ID
		w.fence("ann")
		a[0].acked()
		a[1].pair.Block()
		w.host("cid", "y", "ann")
		reg, r := w.reg, w.r
		w.stop()
		require.Equal(w.t, event.Shutdown, a[0].closed().Reason)
		require.NoError(w.t, r.Close(ctx), "it may be called again")
		w.openStore()
		w.start()
		require.GreaterOrEqual(w.t, w.cursor(a[0]).Seq, uint64(3), "cursors are flushed")
		b.online()
		require.Equal(w.t, []event.Receipt{{By: "ann", Message: id}}, b.receipts(event.KindDelivered), "and so are receipts")

		_, err := r.Send(ctx, fanout.SendRequest{From: "bob", To: []event.Account{"ann"}})
		require.ErrorIs(w.t, err, fanout.ErrClosed)
		_, err = r.Publish(ctx, fanout.PublishRequest{From: "bob", Kind: event.KindTyping})
		require.ErrorIs(w.t, err, fanout.ErrClosed)
		_, err = r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: 1})
		require.ErrorIs(w.t, err, fanout.ErrClosed)
		_, err = r.Attach(ctx, fanout.AttachRequest{Account: "bob", Login: b.Login(), Token: b.Token()}, b.pair.Conn())
		require.ErrorIs(w.t, err, fanout.ErrClosed)
		require.NoError(w.t, reg.Close(ctx))
	})
}

func TestI29_CloseKeepsToItsTime(t *testing.T) {
	inMemory(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		w.feed("ann", 0, 3)
		w.fence("ann")
		d.acked()
		cursor := d.Position().Seq
		hold := make(chan struct{})
		w.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Wait: hold})
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		require.NoError(w.t, w.reg.Close(ctx))
		begin := time.Now()
		require.ErrorIs(w.t, w.r.Close(ctx), context.DeadlineExceeded)
		require.LessOrEqual(w.t, time.Since(begin), 3*time.Second)
		require.Less(w.t, w.cursor(d).Seq, cursor, "not written yet")
		close(hold)
		require.NoError(w.t, w.r.Close(context.Background()), "the second call goes on where the first gave up")
		require.Equal(w.t, cursor, w.cursor(d).Seq)
	})
}

func TestAttachToAClosedRouter(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		d := w.login("ann", "a1")
		require.NoError(w.t, w.r.Close(context.Background()))
		require.ErrorIs(w.t, d.tryConnect(), fanout.ErrClosed)
	})
}

func TestLateReleaseOfAHub(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		require.True(w.t, w.r.LateRelease("ann"), "the hub that took its place must stay")
	})
}
