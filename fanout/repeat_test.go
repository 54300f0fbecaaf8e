package fanout_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// A device that does not get the answer repeats the operation, and learns from the second answer what it has set. No entry
// tells it.
func TestS49_RepeatedMarks(t *testing.T) {
	ctx := context.Background()
	for name, mark := range map[string]func(w *world, origin event.LoginID) ([]event.State, error){
		"clear one": func(w *world, origin event.LoginID) ([]event.State, error) {
			res, err := w.r.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: "ann", Origin: origin, Conversation: "c1"})
			return res.States, err
		},
		"clear all": func(w *world, origin event.LoginID) ([]event.State, error) {
			res, err := w.r.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: "ann", Origin: origin})
			return res.States, err
		},
		"read": func(w *world, origin event.LoginID) ([]event.State, error) {
			res, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Origin: origin, Conversation: "c1", Seq: 3})
			return res.States, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				a := w.ready("ann", "a1", "a2")
				w.post(fanout.SendRequest{ // without receipts, whose commit would lose its answer
					From: "bob", To: []event.Account{"ann"}, Conversation: "c1", Payload: []byte("x"), Receipts: fanout.ReceiptsOff,
				})
				w.post(fanout.SendRequest{From: "ann", Kind: event.KindConversationUnread, Conversation: "c1"})
				w.fence("ann")
				w.st.Inject(storetest.LostAnswer())
				_, err := mark(w, a[0].Login())
				require.ErrorIs(w.t, err, store.ErrUnknownOutcome)
				states, err := mark(w, a[0].Login())
				require.NoError(w.t, err)
				a[0].Record(states...)
				w.fence("ann")
				require.Zero(w.t, w.unread("ann"))
				require.Equal(w.t, plainStates(a[1].Registers()), plainStates(a[0].Registers()), "I17")
			})
		})
	}
}

// A slow device marks a conversation as read before it has heard that it was marked as unread and that this was taken back.
// Its own mark supersedes the entry that would have told it.
func TestI17_OwnMarkSupersedes(t *testing.T) {
	overStores(t, fanout.Config{Window: 1}, func(w *world) {
		a := w.ready("ann", "slow", "other")
		w.host("bob", "x", "ann")
		w.host("bob", "y", "ann")
		w.fence("ann")
		seqs := w.kinds("ann", event.KindMessage)
		a[0].HoldAcks(true)
		w.host("bob", "fills the window", "ann")
		mark := func(d *device, seq uint64) {
			res, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{
				Account: "ann", Origin: d.Login(), Conversation: "c1", Seq: seq,
			})
			require.NoError(w.t, err)
			d.Record(res.States...)
		}
		w.post(fanout.SendRequest{From: "ann", Kind: event.KindConversationUnread, Conversation: "c1"})
		mark(a[1], seqs[0].Seq)
		mark(a[0], seqs[1].Seq)
		a[0].HoldAcks(false)
		w.fence("ann")
		require.Equal(w.t, plainStates(a[1].Registers()), plainStates(a[0].Registers()))
	})
}
