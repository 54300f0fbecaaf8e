package fanout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// receipts returns the receipts of one kind that a device got, oldest first.
func (d *device) receipts(k event.Kind) []event.Receipt {
	d.w.t.Helper()
	var all []event.Receipt
	for _, e := range d.Messages(k) {
		var r event.Receipt
		require.NoError(d.w.t, json.Unmarshal(e.Payload, &r))
		all = append(all, r)
	}
	return all
}

func TestI18_DeliveredOnce(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b := w.ready("bob", "b1")[0]
		a := w.ready("ann", "a1", "a2")
		a[0].HoldAcks(true)
		a[1].HoldAcks(true)
		id := w.send(b, "x", "ann").ID
		w.fence("ann")
		w.flush()
		w.fence("bob")
		require.Empty(w.t, b.receipts(event.KindDelivered), "not before an ack")
		for i, d := range a {
			d.HoldAcks(false)
			d.acked()
			w.flush()
			w.fence("bob")
			require.Equal(w.t, []event.Receipt{{By: "ann", Message: id}}, b.receipts(event.KindDelivered), "once, after device %d", i)
		}
		place := a[0].Position()
		a[0].claim(event.Position{Epoch: place.Epoch, Seq: 0}) // all of it again
		a[0].caughtUp()
		a[0].acked()
		w.restart()
		a[1].online()
		w.flush()
		b.online()
		require.Len(w.t, b.receipts(event.KindDelivered), 1)
	})
}

// TestI18_EachSenderIsTold: how far one sender's messages have come says nothing about another's.
func TestI18_EachSenderIsTold(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b, c := w.ready("bob", "b1")[0], w.ready("cid", "c1")[0]
		older := w.ready("ann", "a1")[0]
		older.drop()
		w.send(c, "while nobody is there", "ann")
		newer := w.ready("ann", "a2")[0] // begins behind it
		w.send(b, "x", "ann")
		w.fence("bob")
		newer.acked()
		w.flush()
		w.fence("bob", "cid")
		require.Len(w.t, b.receipts(event.KindDelivered), 1)
		require.Empty(w.t, c.receipts(event.KindDelivered))
		older.online()
		older.acked()
		w.flush()
		w.fence("bob", "cid")
		require.Len(w.t, b.receipts(event.KindDelivered), 1)
		require.Len(w.t, c.receipts(event.KindDelivered), 1)
	})
}

// TestI18_SlowerDevice has a second device acknowledge what was told, together with something new.
func TestI18_SlowerDevice(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b, c := w.ready("bob", "b1")[0], w.ready("cid", "c1")[0]
		a := w.ready("ann", "a1", "a2")
		a[1].HoldAcks(true)
		w.send(b, "x", "ann")
		w.fence("ann")
		a[0].acked()
		w.flush()
		w.send(c, "y", "ann")
		w.fence("ann")
		a[1].HoldAcks(false)
		a[0].acked()
		a[1].acked()
		w.flush()
		w.fence("bob", "cid")
		require.Len(w.t, b.receipts(event.KindDelivered), 1)
		require.Len(w.t, c.receipts(event.KindDelivered), 1)
	})
}

func TestI18_WhoIsTold(t *testing.T) {
	to := func(accounts ...event.Account) []event.Account { return accounts }
	for _, c := range []struct {
		name string
		q    fanout.SendRequest
		want int
	}{
		{"to one account", fanout.SendRequest{To: to("ann")}, 1},
		{"to one account and oneself", fanout.SendRequest{To: to("ann", "bob")}, 1},
		{"to two", fanout.SendRequest{To: to("ann", "cid")}, 0},
		{"to two, asked for", fanout.SendRequest{To: to("ann", "cid"), Receipts: fanout.ReceiptsOn}, 2},
		{"to one, not wanted", fanout.SendRequest{To: to("ann"), Receipts: fanout.ReceiptsOff}, 0},
		{"an operation", fanout.SendRequest{To: to("ann"), Kind: event.KindGroupJoin}, 0},
		{"to oneself", fanout.SendRequest{To: to("bob")}, 0},
		{"to oneself, asked for", fanout.SendRequest{To: to("bob"), Receipts: fanout.ReceiptsOn}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inMemory(t, fanout.Config{}, func(w *world) {
				w.ready("ann", "a1")
				w.ready("cid", "c1")
				b := w.ready("bob", "b1")[0]
				c.q.From, c.q.Conversation = "bob", "c1"
				w.post(c.q)
				time.Sleep(3 * time.Second)
				require.Len(w.t, b.receipts(event.KindDelivered), c.want)
			})
		})
	}
}

func TestDeliveredAtMostOncePerSecond(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		w.ready("ann", "a1")
		b := w.ready("bob", "b1")[0]
		var last event.MessageID
		for i := range 500 { // for 5 s
			last = w.send(b, fmt.Sprint(i), "ann").ID
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		got := b.receipts(event.KindDelivered)
		require.GreaterOrEqual(w.t, len(got), 3)
		require.LessOrEqual(w.t, len(got), 8)
		require.Equal(w.t, last, got[len(got)-1].Message, "the last one covers all")
		require.Len(w.t, w.kinds("bob", event.KindDelivered), 1, "the inbox keeps one")
	})
}

func TestDeliveredByClaim(t *testing.T) {
	overStores(t, fanout.Config{PageEntries: 2}, func(w *world) {
		b := w.ready("bob", "b1")[0]
		d := w.ready("ann", "a1")[0]
		d.HoldAcks(true)
		var id event.MessageID
		for i := range 5 {
			id = w.send(b, fmt.Sprint(i), "ann").ID
		}
		w.fence("ann")
		d.drop() // with all acks
		d.HoldAcks(false)
		d.online()
		w.flush()
		w.fence("bob")
		got := b.receipts(event.KindDelivered)
		require.NotEmpty(w.t, got, "the position of the attach request is an ack like any other")
		require.Equal(w.t, id, got[len(got)-1].Message)
	})
}

// TestOwedReceiptsSurviveAStoreError also shows that receipts go before cursors.
func TestOwedReceiptsSurviveAStoreError(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		ctx := context.Background()
		b := w.ready("bob", "b1")[0]
		d := w.ready("ann", "a1")[0]
		w.fence("ann")
		d.acked()
		w.flush()
		cursor := w.cursor(d).Seq
		broken := errors.New("store is away")
		restore := w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Times: -1, Err: broken})
		id := w.send(b, "x", "ann").ID
		w.fence("ann")
		d.acked()
		require.ErrorIs(w.t, w.r.Flush(ctx), broken)
		require.Equal(w.t, cursor, w.cursor(d).Seq, "a cursor on disk means that its receipts are, too")
		d.drop() // what is owed is not forgotten with the last connection
		require.ErrorIs(w.t, w.r.Flush(ctx), broken)
		restore()

		w.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Err: broken})
		require.ErrorIs(w.t, w.r.Flush(ctx), broken)
		require.Equal(w.t, cursor, w.cursor(d).Seq)
		w.flush()
		require.Greater(w.t, w.cursor(d).Seq, cursor)
		w.fence("bob")
		require.Equal(w.t, []event.Receipt{{By: "ann", Message: id}}, b.receipts(event.KindDelivered))
	})
}

func TestS70_CursorsAreWrittenToAFullStore(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		b := w.ready("bob", "b1")[0]
		d := w.ready("ann", "a1")[0]
		d.HoldAcks(true)
		w.send(b, "x", "ann")
		w.fence("ann")
		restore := w.st.Inject(storetest.Fault{Method: storetest.Commit, Times: -1, Err: store.ErrFull})
		d.HoldAcks(false)
		d.acked()
		require.ErrorIs(w.t, w.r.Flush(context.Background()), store.ErrFull)
		require.Equal(w.t, d.Position().Seq, w.cursor(d).Seq)
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}})
		require.ErrorIs(w.t, err, store.ErrFull)
		restore()
		w.flush()
		w.fence("bob")
		require.Len(w.t, b.receipts(event.KindDelivered), 1, "told when there is room again")
	})
}

func TestReceiptsAfterACrash(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		b := w.ready("bob", "b1")[0]
		d := w.ready("ann", "a1")[0]
		hold := w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Times: -1, Err: errors.New("slow")})
		id := w.send(b, "x", "ann").ID
		w.fence("ann")
		d.acked()
		hold()
		w.crash() // with the receipt owed
		d.online()
		w.flush()
		b.online()
		got := b.receipts(event.KindDelivered)
		require.Equal(w.t, []event.Receipt{{By: "ann", Message: id}}, got)
	})
}

func TestTargetsHaveNoReceipts(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), Targets: []event.LoginID{a[1].Login()}, Receipts: fanout.ReceiptsOn})
		time.Sleep(3 * time.Second)
		require.Empty(w.t, w.kinds("ann", event.KindDelivered))
	})
}
