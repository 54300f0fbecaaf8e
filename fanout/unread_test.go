package fanout_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

func (w *world) say(conv event.ConversationID, to event.Account) fanout.SendResult {
	w.t.Helper()
	return w.post(fanout.SendRequest{From: "bob", Conversation: conv, To: []event.Account{to}, Payload: []byte("x")})
}

func (w *world) counts(account event.Account) map[event.ConversationID]uint64 {
	w.t.Helper()
	u, err := w.r.Unread(context.Background(), account, "")
	require.NoError(w.t, err)
	all := map[event.ConversationID]uint64{}
	for _, c := range u.Conversations {
		if c.Conversation != "fence" {
			all[c.Conversation] = c.Count
		}
	}
	return all
}

func (w *world) read(conv event.ConversationID, seq uint64, private bool) fanout.MarkReadResult {
	w.t.Helper()
	res, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Conversation: conv, Seq: seq, Private: private})
	require.NoError(w.t, err)
	return res
}

func TestC17_Unread(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		require.Zero(w.t, w.unread("ann"))
		for range 3 {
			w.say("c1", "ann")
			w.say("c2", "ann")
		}
		w.say("", "ann")
		w.post(fanout.SendRequest{From: "ann", Conversation: "c1", To: []event.Account{"bob"}})
		w.post(fanout.SendRequest{From: "bob", Kind: event.KindGroupJoin, Conversation: "c1", To: []event.Account{"ann"}})
		require.Equal(w.t, map[event.ConversationID]uint64{"c1": 3, "c2": 3}, w.counts("ann"))
		require.Equal(w.t, map[event.ConversationID]uint64{"c1": 1}, w.counts("bob"), "own messages do not count")
		res := w.read("c1", 3, false)
		require.EqualValues(w.t, 2, res.States[0].Ordinal())
		require.Equal(w.t, map[event.ConversationID]uint64{"c1": 1, "c2": 3}, w.counts("ann"))
		w.read("c2", 2, true)
		require.Equal(w.t, map[event.ConversationID]uint64{"c1": 1, "c2": 2}, w.counts("ann"), "private marks count alike")
		one, err := w.r.Unread(context.Background(), "ann", "c2")
		require.NoError(w.t, err)
		require.Equal(w.t, fanout.Unread{Total: 2, Conversations: []fanout.UnreadIn{{Conversation: "c2", Count: 2}}}, one)
		_, err = w.inner.Trim(context.Background(), "ann", w.head("ann").Seq, 100)
		require.NoError(w.t, err)
		require.EqualValues(w.t, 3, w.unread("ann"), "what was trimmed unread is unread")
		w.restart()
		require.EqualValues(w.t, 3, w.unread("ann"))
		w.read("c1", w.head("ann").Seq, false)
		require.EqualValues(w.t, 2, w.unread("ann"))
		w.say("c1", "ann")
		require.EqualValues(w.t, 3, w.unread("ann"))
		for _, bad := range []event.Account{"", "\n"} {
			_, err := w.r.Unread(context.Background(), bad, "")
			w.invalid(err, "account")
		}
		_, err = w.r.Unread(context.Background(), "ann", "\n")
		w.invalid(err, "conversation")
	})
}

// TestC17_RandomUnread compares the derived count with a plain one, over messages, edits, recalls and marks anywhere.
func TestC17_RandomUnread(t *testing.T) {
	overStores(t, fanout.Config{PageEntries: 7}, func(w *world) {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 1))
		type message struct {
			id       event.MessageID
			seq      uint64
			recalled bool
		}
		sent := map[event.ConversationID][]*message{}
		marks := map[event.ConversationID]uint64{}
		convs := []event.ConversationID{"c1", "c2", "c3"}
		for step := range 250 {
			c := convs[rnd.IntN(len(convs))]
			pick := func() *message {
				if len(sent[c]) == 0 {
					return nil
				}
				return sent[c][rnd.IntN(len(sent[c]))]
			}
			switch n := rnd.IntN(10); {
			case n < 4:
				res := w.say(c, "ann")
				sent[c] = append(sent[c], &message{id: res.ID, seq: w.head("ann").Seq})
			case n < 6:
				if m := pick(); m != nil && !m.recalled {
					w.post(fanout.SendRequest{From: "bob", Kind: event.KindEdit, Of: m.id})
				}
			case n < 7:
				if m := pick(); m != nil && !m.recalled {
					w.post(fanout.SendRequest{From: "bob", Kind: event.KindRecall, Of: m.id})
					m.recalled = true
				}
			case n < 9:
				if seq := w.head("ann").Seq; seq > 0 {
					seq = 1 + rnd.Uint64N(seq)
					w.read(c, seq, rnd.IntN(2) == 0)
					marks[c] = max(marks[c], seq)
				}
			default:
				if m := pick(); m != nil {
					_, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Message: m.id})
					if m.recalled && err != nil {
						continue
					}
					require.NoError(w.t, err)
					marks[c] = max(marks[c], m.seq)
				}
			}
			want := map[event.ConversationID]uint64{}
			for c, all := range sent {
				for _, m := range all {
					if !m.recalled && m.seq > marks[c] {
						want[c]++
					}
				}
			}
			require.Equal(w.t, want, w.counts("ann"), "seed %d, step %d", seed, step)
		}
	})
}

func TestC16_ClearUnread(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a, b := w.ready("ann", "a1", "a2"), w.ready("bob", "b1")
		away := w.login("ann", "a3")
		away.online()
		away.drop()
		for i := range 600 {
			w.say(event.ConversationID(fmt.Sprint("c", i)), "ann")
		}
		w.post(fanout.SendRequest{From: "ann", Kind: event.KindConversationUnread, Conversation: "c7"})
		w.fence("ann", "bob")
		one, err := w.r.ClearUnread(context.Background(), fanout.ClearUnreadRequest{Account: "ann", Origin: a[0].Login(), Conversation: "c3"})
		require.NoError(w.t, err)
		require.Equal(w.t, 1, one.Conversations)
		a[0].Record(one.States...)
		require.EqualValues(w.t, 599, w.unread("ann"))
		all, err := w.r.ClearUnread(context.Background(), fanout.ClearUnreadRequest{Account: "ann", Origin: a[0].Login()})
		require.NoError(w.t, err)
		require.Equal(w.t, 600, all.Conversations, "and that of the fence")
		a[0].Record(all.States...)
		require.Empty(w.t, w.counts("ann"), "and none is marked as unread")
		again, err := w.r.ClearUnread(context.Background(), fanout.ClearUnreadRequest{Account: "ann"})
		require.NoError(w.t, err)
		require.Zero(w.t, again.Position.Seq, "nothing to clear, nothing to tell")
		w.fence("ann", "bob")
		away.online()
		fresh := w.login("ann", "a4")
		fresh.online()
		for _, d := range []*device{a[1], away, fresh} {
			require.Equal(w.t, a[0].Digest(), d.Digest(), "I17: %s", d.id)
			require.Len(w.t, d.Registers(), 602, d.id)
		}
		require.Empty(w.t, b[0].Messages(event.KindRead), "C16: nobody else is told")
		_, err = w.r.ClearUnread(context.Background(), fanout.ClearUnreadRequest{Account: "ann", Origin: event.NewLoginID()})
		require.ErrorIs(w.t, err, fanout.ErrUnknownOrigin)
	})
}

func TestS62_MarkedAsUnread(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.say("c1", "ann")
		a[0].mark(w.head("ann").Seq)
		marker := w.register("ann", "c1", event.StateRead)
		res := w.post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), Kind: event.KindConversationUnread, Conversation: "c1"})
		a[0].Record(res.States...)
		w.fence("ann")
		u, err := w.r.Unread(context.Background(), "ann", "c1")
		require.NoError(w.t, err)
		require.Equal(w.t, []fanout.UnreadIn{{Conversation: "c1", Marked: true}}, u.Conversations)
		require.Equal(w.t, marker, w.register("ann", "c1", event.StateRead), "the marker stays")
		require.EqualValues(w.t, 1, a[1].read("c1", event.StateUnread))
		back := a[1].mark(marker)
		require.False(w.t, back.Advanced)
		require.Positive(w.t, back.Position.Seq, "the other devices are told all the same")
		w.fence("ann")
		require.Zero(w.t, w.unread("ann"))
		require.Zero(w.t, a[0].read("c1", event.StateUnread))
		require.Equal(w.t, a[0].Digest(), a[1].Digest(), "I17")
	})
}

// TestC22_ConversationState: pinned, muted, marks, deleted and a host's own register, on a device that was there, one that
// was away, and a new one.
func TestC22_ConversationState(t *testing.T) {
	kinds, err := event.NewRegistry(event.KindInfo{Kind: "acme.draft", Durable: true, Mirrored: true, Coalesce: "draft", Register: "draft"})
	require.NoError(t, err)
	overStores(t, fanout.Config{Kinds: kinds, PageEntries: 5}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		away := w.login("ann", "a3")
		away.online()
		away.drop()
		rnd := rand.New(rand.NewPCG(1, 1))
		ops := []event.Kind{
			event.KindConversationPin, event.KindConversationUnpin, event.KindConversationMute, event.KindConversationUnmute,
			event.KindConversationMark, event.KindConversationUnmark, event.KindConversationDelete, event.KindConversationUnread, "acme.draft",
		}
		for i := range 120 {
			d := a[rnd.IntN(2)]
			res := w.post(fanout.SendRequest{
				From: "ann", Origin: d.Login(), Kind: ops[rnd.IntN(len(ops))], Conversation: event.ConversationID(fmt.Sprint("c", rnd.IntN(6))),
				Subject: []string{"", "star", "flag"}[rnd.IntN(3)], Payload: fmt.Append(nil, i),
			})
			require.Len(w.t, res.States, 1)
			d.Record(res.States...)
		}
		w.fence("ann")
		away.online()
		fresh := w.login("ann", "a4")
		fresh.online()
		w.fence("ann")
		for _, d := range []*device{a[1], away, fresh} {
			require.Equal(w.t, a[0].Registers(), d.Registers(), "I17: %s", d.id)
		}
		require.Greater(w.t, len(fresh.Registers()), 30)
		last := w.post(fanout.SendRequest{From: "ann", ClientID: "x", Kind: event.KindConversationPin, Conversation: "c1"})
		dup := w.post(fanout.SendRequest{From: "ann", ClientID: "x", Kind: event.KindConversationPin, Conversation: "c1"})
		require.True(w.t, dup.Duplicate)
		require.Equal(w.t, last.States, dup.States, "a repetition says what the register is")
		_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "ann", Kind: event.KindConversationPin, Conversation: "c1", To: []event.Account{"bob"}})
		w.invalid(err, "to")
		long := string(slices.Repeat([]byte("s"), 128))
		_, err = w.r.Send(context.Background(), fanout.SendRequest{From: "ann", Kind: event.KindConversationMark, Conversation: "c1", Subject: long})
		w.invalid(err, "subject")
	})
}

func TestC17_StoreErrors(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		w.say("c1", "ann")
		for _, m := range []storetest.Method{storetest.States, storetest.Conversations, storetest.Read, storetest.Commit} {
			remove := w.st.Inject(storetest.Fault{Method: m, Times: -1, Err: store.ErrFull})
			_, err := w.r.ClearUnread(context.Background(), fanout.ClearUnreadRequest{Account: "ann"})
			require.ErrorIs(w.t, err, store.ErrFull, m)
			remove()
			require.EqualValues(w.t, 1, w.unread("ann"))
		}
	})
}
