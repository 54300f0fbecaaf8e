package fanout_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// toOne sends a message from the first device of an account to the second alone.
func (w *world) toOne(a []*device, text string) fanout.SendResult {
	w.t.Helper()
	return w.post(fanout.SendRequest{
		From: a[0].account, Origin: a[0].Login(), Conversation: "c1", Targets: []event.LoginID{a[1].Login()}, Payload: []byte(text),
	})
}

// trimAll removes all that an inbox has.
func (w *world) trimAll(account event.Account) {
	w.t.Helper()
	_, err := w.inner.Trim(context.Background(), account, w.head(account).Seq, 1_000)
	require.NoError(w.t, err)
}

func TestI14_C18_ChangesOfATargetedMessage(t *testing.T) {
	for _, k := range []event.Kind{event.KindEdit, event.KindRecall, event.KindReaction, event.KindDeleteForMe} {
		t.Run(string(k), func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				a := w.ready("ann", "a1", "a2", "a3")
				m := w.toOne(a, "x")
				w.fence("ann")
				first := a[0].change(k, m.ID, "secret")
				w.fence("ann")
				again := a[0].change(k, m.ID, "secret 2") // what the first one has removed tells no more
				w.fence("ann")
				require.Empty(w.t, a[2].applied(), "I14")
				require.Len(w.t, a[1].of(k), 2)
				require.Equal(w.t, []event.MessageID{first.ID, again.ID}, []event.MessageID{a[1].of(k)[0].ID, a[1].of(k)[1].ID})
				require.NotZero(w.t, a[1].of(k)[0].Flags&event.FlagTargeted)
			})
		})
	}
}

func TestI14_C18_ReactionToAnEdit(t *testing.T) {
	overStores(t, fanout.Config{PageEntries: 2}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		m := w.toOne(a, "x")
		for range 7 { // the edit is some pages further on
			w.host("bob", "between", "ann")
		}
		edit := a[0].change(event.KindEdit, m.ID, "y")
		w.host("bob", "later", "ann")
		a[0].change(event.KindReaction, m.ID, "+1")
		a[0].change(event.KindReaction, edit.ID, "+2")
		w.fence("ann")
		require.Len(w.t, a[1].of(event.KindReaction), 2)
		require.Empty(w.t, a[2].of(event.KindReaction))
	})
}

func TestI14_C18_AfterATrim(t *testing.T) {
	for _, k := range []event.Kind{event.KindEdit, event.KindRecall, event.KindReaction, event.KindDeleteForMe} {
		t.Run(string(k), func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				a, b := w.ready("ann", "a1", "a2"), w.ready("bob", "b1", "b2")
				m := w.post(fanout.SendRequest{
					From: "ann", Conversation: "c1", To: []event.Account{"bob"}, Payload: []byte("x"),
					Narrow: []fanout.Narrow{{Account: "bob", Devices: []event.DeviceID{"b1"}}},
				})
				w.fence("ann", "bob")
				w.trimAll("bob")
				change := func(narrow ...fanout.Narrow) error {
					q := fanout.SendRequest{From: "ann", Kind: k, Of: m.ID, Payload: []byte("secret"), Narrow: narrow}
					if k == event.KindDeleteForMe {
						q.From = "bob"
					} else {
						q.To = []event.Account{"bob"}
					}
					_, err := w.r.Send(context.Background(), q)
					return err
				}
				head := w.head("bob").Seq
				if k == event.KindDeleteForMe {
					require.ErrorIs(w.t, change(), fanout.ErrUnknownMessage, "nobody would get it")
				} else {
					require.NoError(w.t, change())
					w.fence("ann")
					require.Len(w.t, a[0].of(k), 1, "ann's own devices had it all")
					require.Len(w.t, a[1].of(k), 1)
				}
				require.Equal(w.t, head, w.head("bob").Seq, "nobody knows any more whom it was for")
				require.NoError(w.t, change(fanout.Narrow{Account: "bob", Devices: []event.DeviceID{"b1"}}))
				w.fence("bob")
				require.Len(w.t, b[0].of(k), 1, "unless the host says so")
				require.Empty(w.t, b[1].of(k), "I14")
			})
		})
	}
}

// An account that was deleted since holds nothing of the message, whatever stands at that place now.
func TestI14_C18_RebornAccount(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		m := w.post(fanout.SendRequest{
			From: "ann", Conversation: "c1", To: []event.Account{"bob"}, Payload: []byte("x"),
			Narrow: []fanout.Narrow{{Account: "ann", Devices: []event.DeviceID{"a2"}}},
		})
		_, err := w.reg.DeleteAccount(context.Background(), session.DeleteRequest{Account: "bob"})
		require.NoError(w.t, err)
		w.post(fanout.SendRequest{From: "ann", Kind: event.KindEdit, Of: m.ID, Payload: []byte("y")})
		w.fence("ann")
		require.Empty(w.t, w.kinds("bob", event.KindEdit))
		require.Empty(w.t, a[0].of(event.KindEdit))
		require.Len(w.t, a[1].of(event.KindEdit), 1)
	})
}

// A read that fails must not be taken for an entry that is gone.
func TestI14_C18_StoreIsAway(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		m := w.toOne(a, "x")
		w.fence("ann")
		w.st.Inject(storetest.Fault{Method: storetest.Read, Account: "ann", Err: errAway})
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "ann", Kind: event.KindReaction, Of: m.ID})
		require.ErrorIs(w.t, err, errAway)
		require.Empty(w.t, w.kinds("ann", event.KindReaction))
	})
}

func TestI14_FlagOfTargetedMessages(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.toOne(a, "x")
		w.host("ann", "to all", "bob")
		log := w.page("ann", store.ReadOptions{Limit: 100}).Entries
		require.NotZero(w.t, log[len(log)-2].Flags&event.FlagTargeted)
		require.Zero(w.t, log[len(log)-1].Flags&event.FlagTargeted)
	})
}
