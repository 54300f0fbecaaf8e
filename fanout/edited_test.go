package fanout_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/storetest"
)

// told waits until all that is owed was sent, and returns the receipts of one kind that a device has got.
func (w *world) told(d *device, k event.Kind) []event.Receipt {
	w.t.Helper()
	w.flush()
	w.fence(d.account)
	return d.receipts(k)
}

// markRead is a read mark of the host.
func (w *world) markRead(q fanout.MarkReadRequest) {
	w.t.Helper()
	_, err := w.r.MarkRead(context.Background(), q)
	require.NoError(w.t, err)
}

func TestI18_C14_EditedBeforeItIsDelivered(t *testing.T) {
	for name, mark := range map[string]func(d *device, id event.MessageID) fanout.MarkReadRequest{
		"read up to the edit": func(d *device, _ event.MessageID) fanout.MarkReadRequest {
			return fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: d.of(event.KindEdit)[0].Seq}
		},
		"read by the name of the message": func(_ *device, id event.MessageID) fanout.MarkReadRequest {
			return fanout.MarkReadRequest{Account: "ann", Message: id}
		},
	} {
		t.Run(name, func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				b, a := w.ready("bob", "b1")[0], w.ready("ann", "a1", "a2")
				a[0].leave()
				a[1].leave()
				id := w.send(b, "helo", "ann").ID
				b.change(event.KindEdit, id, "hell")
				b.change(event.KindEdit, id, "hello")
				want := []event.Receipt{{By: "ann", Message: id}}
				for _, d := range a {
					d.online()
					w.fence("ann")
					d.acked()
					require.Equal(w.t, want, w.told(b, event.KindDelivered), "once, and it names the message")
				}
				require.Empty(w.t, b.receipts(event.KindRead))
				q := mark(a[0], id)
				w.markRead(q)
				require.Equal(w.t, want, w.told(b, event.KindRead))
				b.change(event.KindEdit, id, "hello!")
				w.fence("ann")
				w.markRead(fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: a[0].of(event.KindEdit)[1].Seq})
				a[0].acked()
				require.Equal(w.t, want, w.told(b, event.KindDelivered), "another edit tells nothing new")
				require.Equal(w.t, want, b.receipts(event.KindRead))
			})
		})
	}
}

func TestI18_C14_EditedAfterItWasDelivered(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b, a := w.ready("bob", "b1")[0], w.ready("ann", "a1")[0]
		id := w.send(b, "helo", "ann").ID
		w.fence("ann")
		a.acked()
		want := []event.Receipt{{By: "ann", Message: id}}
		require.Equal(w.t, want, w.told(b, event.KindDelivered))
		w.markRead(fanout.MarkReadRequest{Account: "ann", Message: id})
		require.Equal(w.t, want, w.told(b, event.KindRead))
		b.change(event.KindEdit, id, "hello")
		w.fence("ann")
		a.acked()
		w.markRead(fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: a.of(event.KindEdit)[0].Seq})
		require.Equal(w.t, want, w.told(b, event.KindDelivered))
		require.Equal(w.t, want, b.receipts(event.KindRead))
	})
}

func TestI18_C14_TheFurthestIsNamed(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b, a := w.ready("bob", "b1")[0], w.ready("ann", "a1")[0]
		a.leave()
		first, second := w.send(b, "1", "ann").ID, w.send(b, "2", "ann").ID
		b.change(event.KindEdit, second, "second")
		b.change(event.KindEdit, first, "first")
		a.online()
		w.fence("ann")
		a.acked()
		got := w.told(b, event.KindDelivered)
		require.NotEmpty(w.t, got)
		require.Equal(w.t, event.Receipt{By: "ann", Message: second}, got[len(got)-1], "it covers the other one")
		w.markRead(fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: a.of(event.KindEdit)[1].Seq})
		require.Equal(w.t, []event.Receipt{{By: "ann", Message: second}}, w.told(b, event.KindRead))
	})
}

// Who sent the message is told, whoever has edited it, and nobody else.
func TestC14_EditedBySomebodyElse(t *testing.T) {
	for _, editor := range []event.Account{"mod", "ann"} {
		t.Run(string(editor), func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				b, a, m := w.ready("bob", "b1")[0], w.ready("ann", "a1")[0], w.ready("mod", "m1")[0]
				a.leave()
				id := w.send(b, "x", "ann").ID
				w.post(fanout.SendRequest{From: editor, Kind: event.KindEdit, Of: id, Payload: []byte("y")})
				a.online()
				w.fence("ann", "bob", "mod")
				a.acked()
				b.acked()
				w.markRead(fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: a.of(event.KindEdit)[0].Seq})
				want := []event.Receipt{{By: "ann", Message: id}}
				require.Equal(w.t, want, w.told(b, event.KindDelivered))
				require.Equal(w.t, want, b.receipts(event.KindRead))
				for _, k := range []event.Kind{event.KindDelivered, event.KindRead} {
					require.Empty(w.t, w.told(m, k))
					require.Empty(w.t, w.kinds("ann", k))
				}
			})
		})
	}
}

// Marks that name a message of which only an edit is left, and marks that pass over an edit, tell nobody else.
func TestI18_C14_ReadWithoutReceipt(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		b := w.ready("bob", "b1")[0]
		w.ready("ann", "a1")
		narrow := w.post(fanout.SendRequest{
			From: "bob", Conversation: "c1", To: []event.Account{"ann"},
			Narrow: []fanout.Narrow{{Account: "ann", Devices: []event.DeviceID{"a1"}}},
		}).ID
		b.change(event.KindEdit, narrow, "y")
		w.markRead(fanout.MarkReadRequest{Account: "ann", Message: narrow})
		require.Empty(w.t, w.kinds("bob", event.KindRead), "a message for some devices has none, and its edit neither")

		own := w.send(b, "x", "ann").ID
		edit := b.change(event.KindEdit, own, "y").ID
		w.markRead(fanout.MarkReadRequest{Account: "bob", Message: own})
		w.markRead(fanout.MarkReadRequest{Account: "bob", Conversation: "c1", Seq: w.head("bob").Seq})
		require.Empty(w.t, w.kinds("bob", event.KindRead), "the own message")

		w.host("bob", "gap", "cid")
		b.change(event.KindEdit, own, "z")
		w.markRead(fanout.MarkReadRequest{Account: "ann", Message: edit})
		require.Empty(w.t, w.kinds("bob", event.KindRead), "an edit that was edited is no message")
	})
}

// What cannot be looked up yet stays owed, and cursors wait for it.
func TestI18_C14_EditedWhileTheStoreIsAway(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		b, a := w.ready("bob", "b1")[0], w.ready("ann", "a1")[0]
		a.leave()
		w.flush()
		id := w.send(b, "x", "ann").ID
		b.change(event.KindEdit, id, "y")
		restore := w.st.Inject(storetest.Fault{Method: storetest.Message, Times: -1, Err: errAway})
		a.online()
		w.fence("ann")
		a.acked()
		cursor := w.cursor(a).Seq
		require.ErrorIs(w.t, w.r.Flush(context.Background()), errAway)
		require.Equal(w.t, cursor, w.cursor(a).Seq)
		a.drop()
		restore()
		require.Equal(w.t, []event.Receipt{{By: "ann", Message: id}}, w.told(b, event.KindDelivered))
		require.Greater(w.t, w.cursor(a).Seq, cursor)
	})
}

// The position of an attach request is an ack of edits, too.
func TestI18_C14_EditedAndClaimed(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		b, a := w.ready("bob", "b1")[0], w.ready("ann", "a1")[0]
		a.leave()
		w.flush()
		id := w.send(b, "x", "ann").ID
		b.change(event.KindEdit, id, "y")
		a.HoldAcks(true)
		a.online()
		w.fence("ann")
		a.drop() // with all acks
		a.HoldAcks(false)
		require.Empty(w.t, w.told(b, event.KindDelivered))
		a.online()
		require.Equal(w.t, []event.Receipt{{By: "ann", Message: id}}, w.told(b, event.KindDelivered))
	})
}

func TestExpiryInWholeMilliseconds(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("bob", "b1")[0]
		ttl := time.Hour + 5*time.Millisecond + 999*time.Microsecond
		w.post(fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, Conversation: "c1", TTL: ttl})
		w.fence("bob")
		stored, live := w.kinds("bob", event.KindMessage)[0], d.of(event.KindMessage)[0]
		require.Equal(w.t, time.Hour+5*time.Millisecond, stored.Expires.Sub(stored.Time))
		require.True(w.t, stored.Expires.Equal(live.Expires), "%v %v", stored.Expires, live.Expires)
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, TTL: time.Millisecond - 1})
		w.invalid(err, "TTL")
		w.post(fanout.SendRequest{From: "ann", To: []event.Account{"bob"}, TTL: time.Millisecond})
	})
}
