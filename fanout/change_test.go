package fanout_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
)

// change sends a change of a message from a device.
func (d *device) change(k event.Kind, of event.MessageID, payload string) fanout.SendResult {
	d.w.t.Helper()
	return d.w.post(fanout.SendRequest{From: d.account, Origin: d.Login(), Kind: k, Of: of, Payload: []byte(payload)})
}

// applied returns kinds and payloads of all that the device applied in c1.
func (d *device) applied() []string {
	var all []string
	for _, e := range d.Entries() {
		if e.Conversation == "c1" && e.Kind != event.KindDelivered {
			all = append(all, strings.TrimPrefix(string(e.Kind), "message.")+" "+string(e.Payload))
		}
	}
	return all
}

func (w *world) unread(account event.Account) uint64 {
	w.t.Helper()
	n := uint64(0)
	for _, c := range w.counts(account) {
		n += c
	}
	return n
}

func TestC18_OfflineDevicesSeeTheOutcome(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a, b := w.ready("ann", "a1", "a2"), w.ready("bob", "b1", "b2")
		b[1].drop()
		a[1].drop()
		first, second := w.send(a[0], "helo", "bob"), w.send(a[0], "nonsense", "bob")
		w.send(a[0], "third", "bob")
		w.fence("ann", "bob")
		require.EqualValues(w.t, 3, w.unread("bob"))
		a[0].change(event.KindEdit, first.ID, "hell")
		w.fence("ann", "bob")
		a[0].change(event.KindEdit, first.ID, "hello")
		a[0].change(event.KindRecall, second.ID, "")
		b[0].change(event.KindReaction, first.ID, "+1")
		w.fence("ann", "bob")
		require.EqualValues(w.t, 2, w.unread("bob"), "what was recalled does not count, what was edited does")
		live := []string{"message helo", "message nonsense", "message third", "edit hell", "edit hello", "recall "}
		require.Equal(w.t, live, b[0].applied(), "a device that was there saw it happen")
		b[1].online()
		a[1].online()
		outcome := []string{"message third", "edit hello", "recall ", "reaction +1"}
		require.Equal(w.t, outcome, b[1].applied())
		require.Equal(w.t, outcome, a[1].applied(), "the carbons alike")
		for _, e := range b[1].Messages(event.KindEdit) {
			require.Equal(w.t, first.ID, event.ReplacedMessage(e.Key), "the entry says what it is about")
			require.EqualValues(w.t, 1, e.Ordinal, "and takes its place in the count")
		}
	})
}

// A device that reads slowly must not get what was replaced out of the cache of new entries.
func TestC18_ReplacedIsNotInTheTail(t *testing.T) {
	overStores(t, fanout.Config{Window: 1}, func(w *world) {
		a, b := w.ready("ann", "a1"), w.ready("bob", "b1")
		b[0].HoldAcks(true)
		w.send(a[0], "one", "bob")
		secret := w.send(a[0], "secret", "bob")
		a[0].change(event.KindRecall, secret.ID, "")
		b[0].HoldAcks(false)
		w.fence("bob")
		require.Equal(w.t, []string{"message one", "recall "}, b[0].applied())
	})
}

func TestC18_DeleteForMe(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a, b := w.ready("ann", "a1"), w.ready("bob", "b1", "b2")
		b[1].drop()
		m := w.send(a[0], "x", "bob")
		a[0].change(event.KindEdit, m.ID, "y")
		b[0].change(event.KindDeleteForMe, m.ID, "")
		w.fence("ann", "bob")
		b[1].online()
		require.Equal(w.t, []string{"deleteForMe "}, b[1].applied(), "the message and its edit are gone")
		require.Zero(w.t, w.unread("bob"))
		require.Empty(w.t, w.kinds("ann", event.KindDeleteForMe), "nobody else is told")
		require.Len(w.t, w.kinds("ann", event.KindEdit), 1)
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "bob", Kind: event.KindDeleteForMe, Of: m.ID, To: []event.Account{"ann"}})
		w.invalid(err, "to")
	})
}

// What was replaced is gone from the store, not only from sight.
func TestC18_PayloadsAreGone(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1")
		m := w.send(a[0], strings.Repeat("secret", 5000), "bob", "cid")
		a[0].change(event.KindEdit, m.ID, "short")
		for _, account := range []event.Account{"ann", "bob", "cid"} {
			require.Less(w.t, w.head(account).Bytes, int64(1000))
		}
		info, err := w.inner.Message(context.Background(), m.ID)
		require.NoError(w.t, err, "what is known of it stays, to find its copies")
		require.Len(w.t, info.To, 3)
		a[0].change(event.KindEdit, m.ID, "shorter")
		require.Len(w.t, w.kinds("cid", event.KindEdit), 1)
		for _, account := range []event.Account{"ann", "bob", "cid"} {
			_, err := w.inner.Trim(context.Background(), account, w.head(account).Seq, 100)
			require.NoError(w.t, err)
		}
		_, err = w.inner.Message(context.Background(), m.ID)
		require.ErrorIs(w.t, err, store.ErrNotFound)
		_, err = w.r.Send(context.Background(), fanout.SendRequest{From: "ann", Kind: event.KindRecall, Of: m.ID})
		require.ErrorIs(w.t, err, fanout.ErrUnknownMessage, "nobody knows who had it")
		late := w.post(fanout.SendRequest{From: "ann", Kind: event.KindRecall, Of: m.ID, Conversation: "c1", To: []event.Account{"bob"}})
		require.Equal(w.t, late.ID, w.kinds("bob", event.KindRecall)[0].ID, "unless the host does")
	})
}

func TestC18_ReactionsOfSeveralPeople(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a, b := w.ready("ann", "a1"), w.ready("bob", "b1")
		m := w.send(a[0], "x", "bob")
		react := func(d *device, subject, payload string) {
			w.post(fanout.SendRequest{From: d.account, Origin: d.Login(), Kind: event.KindReaction, Of: m.ID, Subject: subject, Payload: []byte(payload)})
		}
		react(a[0], "", "+1")
		react(b[0], "", "+1")
		react(b[0], "", "-1")
		react(b[0], "heart", "on")
		var got []string
		for _, e := range w.kinds("ann", event.KindReaction) {
			got = append(got, string(e.From)+" "+string(e.Payload))
		}
		require.Equal(w.t, []string{"ann +1", "bob -1", "bob on"}, got, "the newest of each account and subject")
	})
}

// A message to one device is changed there only.
func TestC18_ChangeOfATargetedMessage(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2", "a3")
		m := w.post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), Conversation: "c1", Targets: []event.LoginID{a[1].Login()}, Payload: []byte("x")})
		w.fence("ann")
		a[0].change(event.KindEdit, m.ID, "y")
		w.fence("ann")
		a[0].change(event.KindEdit, m.ID, "z")
		w.fence("ann")
		require.Equal(w.t, []string{"message x", "edit y", "edit z"}, a[1].applied())
		require.Empty(w.t, a[2].applied(), "I14")
	})
}

func TestC18_BadChanges(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1")
		m := w.send(a[0], "x", "bob")
		before := []store.Head{w.head("ann"), w.head("bob")}
		for name, c := range map[string]struct {
			q     fanout.SendRequest
			field string
		}{
			"no message":         {fanout.SendRequest{Kind: event.KindEdit}, "of"},
			"a kind without one": {fanout.SendRequest{Of: m.ID}, "of"},
			"other conversation": {fanout.SendRequest{Kind: event.KindEdit, Of: m.ID, Conversation: "c2"}, "conversation"},
		} {
			c.q.From = "ann"
			_, err := w.r.Send(context.Background(), c.q)
			w.invalid(err, c.field)
			require.Equal(w.t, before, []store.Head{w.head("ann"), w.head("bob")}, name)
		}
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "ann", Kind: event.KindEdit, Of: "made-up"})
		require.ErrorIs(w.t, err, fanout.ErrUnknownMessage)
	})
}
