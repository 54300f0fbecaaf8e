package fanout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/storetest"
)

var update = flag.Bool("update", false, "rewrite expected output")

func (w *world) inspect(account event.Account, o fanout.InspectOptions) fanout.Inspection {
	w.t.Helper()
	in, err := w.r.Inspect(context.Background(), account, o)
	require.NoError(w.t, err)
	return in
}

// story makes an account that has some of everything.
func (w *world) story() (live *device, dying *fragile) {
	w.t.Helper()
	ctx := context.Background()
	gone := w.login("ann", "a0")
	_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{gone.Login()}, Note: "lost phone"})
	require.NoError(w.t, err)
	live = w.ready("ann", "a1")[0]
	dying = w.fragile("ann", "a2", "poison")
	sent := w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Conversation: "c1", Payload: []byte("read"), Receipts: fanout.ReceiptsOff})
	w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Conversation: "c1", Payload: []byte("poison"), TTL: time.Hour, Receipts: fanout.ReceiptsOff})
	w.post(fanout.SendRequest{From: "ann", Origin: live.Login(), ClientID: "m1", Targets: []event.LoginID{dying.login}, Payload: []byte{0xff, 0}})
	w.post(fanout.SendRequest{From: "ann", Kind: event.KindConversationPin, Conversation: "c1", Payload: []byte("draft text")})
	_, err = w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Message: sent.ID, Private: true})
	require.NoError(w.t, err)
	w.fence("ann")
	live.acked()
	for range 3 {
		require.True(w.t, dying.connect())
	}
	require.NoError(w.t, w.r.Park(ctx, "ann", "a2", event.Position{Epoch: w.head("ann").Epoch, Seq: w.seqOf("ann", "poison").Seq + 1}))
	return live, dying
}

func TestD6_Golden(t *testing.T) {
	for name, payloads := range map[string]bool{"inspect": false, "inspect_payloads": true} {
		inMemory(t, fanout.Config{}, func(w *world) {
			live, dying := w.story()
			time.Sleep(time.Second)
			in := w.inspect("ann", fanout.InspectOptions{Payloads: payloads})
			raw, err := json.MarshalIndent(in, "", "  ")
			require.NoError(w.t, err)
			raw = append(w.normal(raw, &in, live, dying), '\n')
			path := "testdata/" + name + ".json"
			if *update {
				require.NoError(w.t, os.MkdirAll("testdata", 0o755))
				require.NoError(w.t, os.WriteFile(path, raw, 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(w.t, err)
			require.Equal(w.t, string(want), string(raw))
		})
	}
}

// normal puts names in the place of what is random, and cuts times to seconds.
func (w *world) normal(raw []byte, in *fanout.Inspection, live *device, dying *fragile) []byte {
	pairs := []string{
		string(live.Login()), "LOGIN-OF-a1", string(dying.login), "LOGIN-OF-a2", string(in.Tombstones[0].Login), "LOGIN-OF-a0",
		strconv.FormatUint(uint64(in.Inbox.Epoch), 10), "EPOCH",
	}
	for _, d := range in.Devices {
		pairs = append(pairs, strconv.FormatUint(uint64(d.Incarnation), 10), "INCARNATION-OF-"+string(d.Device))
	}
	for i, e := range in.Entries {
		pairs = append(pairs, string(e.ID), fmt.Sprint("MESSAGE-", i))
	}
	raw = []byte(strings.NewReplacer(pairs...).Replace(string(raw)))
	return regexp.MustCompile(`\.\d{3}Z`).ReplaceAll(raw, []byte("Z")) // waits take some milliseconds
}

func TestD6_PayloadsOnlyOnRequest(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		_, dying := w.story()
		raw, err := json.Marshal(w.inspect("ann", fanout.InspectOptions{}))
		require.NoError(w.t, err)
		for _, text := range []string{"poison", "draft text", string(dying.token)} {
			require.NotContains(w.t, string(raw), text)
		}
		in := w.inspect("ann", fanout.InspectOptions{Payloads: true})
		raw, err = json.Marshal(in)
		require.NoError(w.t, err)
		for _, text := range []string{"poison", "draft text", `"data":"/wA="`} {
			require.Contains(w.t, string(raw), text)
		}
		var again fanout.Inspection
		require.NoError(w.t, json.Unmarshal(raw, &again))
		require.Equal(w.t, in, again, "it can be read back")
	})
}

func TestD6_Numbers(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		ctx := context.Background()
		a := w.ready("ann", "a1", "a2")
		w.fence("ann")
		a[0].acked()
		a[1].acked()
		w.flush()
		a[1].leave()
		cursor := w.cursor(a[0]).Seq
		w.feed("ann", 0, 5)
		w.until("all", func() bool { return len(a[0].wire()) == 5 })
		a[0].acked()
		a[0].HoldAcks(true)
		w.feed("ann", 5, 8)
		w.until("all", func() bool { return len(a[0].wire()) == 8 })
		require.NoError(w.t, a[0].Send(&event.Background{On: true}))
		in := w.inspect("ann", fanout.InspectOptions{})
		require.Equal(w.t, cursor+8, in.Inbox.Head)
		one, two := in.Devices[0], in.Devices[1]
		require.Equal(w.t, []uint64{cursor, cursor + 5, 3}, []uint64{one.Cursor, one.Pending, one.Lag})
		require.Equal(w.t, []uint64{cursor, 0, 8}, []uint64{two.Cursor, two.Pending, two.Lag})
		require.Len(w.t, in.Attachments, 1)
		at := in.Attachments[0]
		require.Equal(w.t, fanout.AttachmentView{
			Login: a[0].Login(), Device: "a1", Generation: at.Generation, Phase: "data", Acked: cursor + 5, Unacked: 3, UnackedBytes: 3 * 65,
			Position: event.Position{Epoch: in.Inbox.Epoch, Seq: cursor + 8}, CaughtUp: true, Away: true,
		}, at)
		require.Equal(w.t, session.Away, in.Logins[0].State)
		require.Equal(w.t, []fanout.UnreadView{
			{Conversation: "c1", Unread: 8, Counted: 8}, {Conversation: "fence", Unread: in.Conversations[1].Unread, Counted: in.Conversations[1].Counted},
		}, in.Conversations)
		_, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: cursor + 6})
		require.NoError(w.t, err)
		in = w.inspect("ann", fanout.InspectOptions{})
		require.Equal(w.t, fanout.UnreadView{Conversation: "c1", Unread: 2, Counted: 8, ReadOrdinal: 6}, in.Conversations[0])
	})
}

// TestD6_Bounds: however big an account is, a picture of it is not; page by page everything is there.
func TestD6_Bounds(t *testing.T) {
	overStores(t, fanout.Config{MaxEntries: -1, PageBytes: 20_000, TrimInterval: -1}, func(w *world) {
		const conversations, each = 250, 4
		w.login("ann", "a1")
		for i := range conversations {
			conv := event.ConversationID(fmt.Sprintf("conversation-%03d", i))
			for j := range each {
				w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Conversation: conv, Payload: bytes.Repeat([]byte("p"), 100*j)})
			}
			w.post(fanout.SendRequest{From: "ann", Kind: event.KindConversationPin, Conversation: conv, Payload: bytes.Repeat([]byte("d"), 1000)})
		}
		in := w.inspect("ann", fanout.InspectOptions{Payloads: true})
		raw, err := json.Marshal(in)
		require.NoError(w.t, err)
		require.Less(w.t, len(raw), 100_000)
		require.NotEmpty(w.t, in.Registers[0].Text)
		require.Empty(w.t, in.Registers[99].Text, "values as far as there is room")
		require.Equal(w.t, 1000, in.Registers[99].Bytes)

		o := fanout.InspectOptions{Limit: 60}
		var seqs []uint64
		var registers, unread []string
		for pages := 0; ; pages++ {
			require.Less(w.t, pages, 100)
			in := w.inspect("ann", o)
			require.LessOrEqual(w.t, max(len(in.Entries), len(in.Registers), len(in.Conversations)), 60)
			raw, err := json.Marshal(in)
			require.NoError(w.t, err)
			require.Less(w.t, len(raw), 60_000)
			for _, e := range in.Entries {
				seqs = append(seqs, e.Seq)
			}
			for _, s := range in.Registers {
				registers = append(registers, string(s.Conversation))
			}
			for _, c := range in.Conversations {
				unread = append(unread, string(c.Conversation))
			}
			if in.Next == nil {
				break
			}
			var next fanout.InspectNext
			again, err := json.Marshal(in.Next) // as a client of an admin's page sends it back
			require.NoError(w.t, err)
			require.NoError(w.t, json.Unmarshal(again, &next))
			o.After, o.Registers, o.Conversations = next.After, next.Registers, next.Conversations
			if next.After == 0 {
				o.After = in.Inbox.Head
			}
		}
		log := w.log("ann")
		require.Len(w.t, slices.Compact(slices.Sorted(slices.Values(seqs))), len(log))
		require.Len(w.t, slices.Compact(slices.Sorted(slices.Values(registers))), conversations)
		require.Len(w.t, slices.Compact(slices.Sorted(slices.Values(unread))), conversations)
	})
}

func TestD6_Refusals(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		none := w.inspect("nobody", fanout.InspectOptions{})
		raw, err := json.Marshal(none)
		require.NoError(w.t, err)
		require.NotContains(w.t, string(raw), "null", "an account that is not there has empty lists")
		w.login("ann", "a1")
		w.feed("ann", 0, 3)
		for field, o := range map[string]fanout.InspectOptions{
			"limit": {Limit: -1}, "registers": {Registers: "?"}, "conversations": {Conversations: "?"},
		} {
			_, err := w.r.Inspect(ctx, "ann", o)
			w.invalid(err, field)
		}
		_, err = w.r.Inspect(ctx, "ann", fanout.InspectOptions{Limit: 1001})
		w.invalid(err, "limit")
		_, err = w.r.Inspect(ctx, "", fanout.InspectOptions{})
		w.invalid(err, "account")
		for _, m := range []storetest.Method{storetest.Read, storetest.Cursors, storetest.States, storetest.Conversations} {
			w.st.Inject(storetest.Fault{Method: m, Account: "ann", Err: errAway})
			_, err := w.r.Inspect(ctx, "ann", fanout.InspectOptions{})
			require.ErrorIs(w.t, err, errAway, m)
		}
		require.NoError(w.t, w.r.Close(ctx))
		_, err = w.r.Inspect(ctx, "ann", fanout.InspectOptions{})
		require.ErrorIs(w.t, err, fanout.ErrClosed)
	})
}
