package fanout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// many returns n accounts.
func many(n int) []event.Account {
	all := make([]event.Account, n)
	for i := range all {
		all[i] = event.Account(fmt.Sprint("m", i))
	}
	return all
}

// hostile are strings that no identifier may be.
var hostile = map[string]string{
	"a line feed":     "a\nb",
	"NUL":             "a\x00b",
	"not UTF-8":       "a\xff",
	"bidi override":   "a\u202eb",
	"too long":        strings.Repeat("x", 129),
	"much too long":   strings.Repeat("x", 1<<20),
	"an escape":       "\x1b[2J",
	"a control of C1": "a\u0085b",
}

// sendFault is what is wrong with a send, and how its error names it.
type sendFault struct {
	field string
	spoil func(q *fanout.SendRequest)
}

// badSends returns sends that are refused. login is one of the sender's.
func badSends(login event.LoginID) map[string]sendFault {
	return map[string]sendFault{
		"no sender":          {"from", func(q *fanout.SendRequest) { q.From = "" }},
		"no kind at all":     {"kind", func(q *fanout.SendRequest) { q.Kind = "a b" }},
		"long kind":          {"kind", func(q *fanout.SendRequest) { q.Kind = event.Kind(strings.Repeat("k", 65)) }},
		"live-only kind":     {"kind", func(q *fanout.SendRequest) { q.Kind = event.KindTyping }},
		"forged receipt":     {"kind", func(q *fanout.SendRequest) { q.Kind = event.KindRead }},
		"forged device":      {"kind", func(q *fanout.SendRequest) { q.Kind = event.KindDeviceLogin }},
		"forged marker":      {"kind", func(q *fanout.SendRequest) { q.Kind = event.KindConversationRead }},
		"payload":            {"payload", func(q *fanout.SendRequest) { q.Payload = make([]byte, fanout.MaxPayloadBytes+1) }},
		"TTL":                {"TTL", func(q *fanout.SendRequest) { q.TTL = -1 }},
		"recipients":         {"to", func(q *fanout.SendRequest) { q.To = many(fanout.MaxRecipients + 1) }},
		"an empty recipient": {"to[1]", func(q *fanout.SendRequest) { q.To = []event.Account{"bob", ""} }},
		"targets":            {"targets", func(q *fanout.SendRequest) { q.To, q.Targets = nil, make([]event.LoginID, fanout.MaxTargets+1) }},
		"target":             {"targets[0]", func(q *fanout.SendRequest) { q.To, q.Targets = nil, []event.LoginID{"x"} }},
		"targets and others": {"targets", func(q *fanout.SendRequest) { q.Targets = []event.LoginID{login} }},
		"targets, no carbon": {"targets", func(q *fanout.SendRequest) {
			q.To, q.Targets, q.NoSenderCopy = nil, []event.LoginID{login}, true
		}},
		"nobody":       {"to", func(q *fanout.SendRequest) { q.To, q.NoSenderCopy = []event.Account{"ann"}, true }},
		"receipts":     {"receipts", func(q *fanout.SendRequest) { q.Receipts = 9 }},
		"receipts for": {"receipts", func(q *fanout.SendRequest) { q.To, q.Receipts = many(201), fanout.ReceiptsOn }},
	}
}

func TestHostileSends(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1")
		b := w.ready("bob", "b1")
		faults := badSends(a[0].Login())
		for name, s := range hostile {
			faults["sender: "+name] = sendFault{"from", func(q *fanout.SendRequest) { q.From = event.Account(s) }}
			faults["conversation: "+name] = sendFault{"conversation", func(q *fanout.SendRequest) { q.Conversation = event.ConversationID(s) }}
			faults["client ID: "+name] = sendFault{"clientID", func(q *fanout.SendRequest) { q.ClientID = event.ClientMessageID(s) }}
			faults["subject: "+name] = sendFault{"subject", func(q *fanout.SendRequest) { q.Subject = s }}
			faults["recipient: "+name] = sendFault{"to[0]", func(q *fanout.SendRequest) { q.To = []event.Account{event.Account(s)} }}
			faults["origin: "+name] = sendFault{"origin", func(q *fanout.SendRequest) { q.Origin = event.LoginID(s) }}
			faults["kind: "+name] = sendFault{"kind", func(q *fanout.SendRequest) { q.Kind = event.Kind(s) }}
		}
		before := []store.Head{w.head("ann"), w.head("bob")}
		for name, f := range faults {
			q := fanout.SendRequest{From: "ann", Origin: a[0].Login(), ClientID: "m1", Conversation: "c1", To: []event.Account{"bob"}, Payload: []byte("x")}
			f.spoil(&q)
			_, err := w.r.Send(context.Background(), q)
			invalid, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%s: %v", name, err)
			require.Equal(w.t, f.field, invalid.Field, name)
			require.Less(w.t, len(err.Error()), 200, "never the value itself")
		}
		for name, origin := range map[string]event.LoginID{"of nobody": event.NewLoginID(), "of another account": b[0].Login()} {
			_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "ann", Origin: origin, To: []event.Account{"bob"}})
			require.ErrorIs(w.t, err, fanout.ErrUnknownOrigin, name)
			_, err = w.r.Publish(context.Background(), fanout.PublishRequest{From: "ann", Origin: origin, Kind: event.KindTyping, To: []event.Account{"bob"}})
			require.ErrorIs(w.t, err, fanout.ErrUnknownOrigin, name)
			_, err = w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Origin: origin, Conversation: "c1", Seq: 1})
			require.ErrorIs(w.t, err, fanout.ErrUnknownOrigin, name)
		}
		require.Equal(w.t, before, []store.Head{w.head("ann"), w.head("bob")}, "nothing was written")
		require.Empty(w.t, texts(b[0].Lives()[min(1, len(b[0].Lives())):]))
		w.post(fanout.SendRequest{From: "ann", Origin: a[0].Login(), ClientID: "m1", To: []event.Account{"bob"}, Payload: make([]byte, fanout.MaxPayloadBytes)})
		w.post(fanout.SendRequest{From: "ann", To: many(fanout.MaxRecipients)})
	})
}

func TestHostilePublishAndMarkRead(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.feed("ann", 0, 3)
		before := w.head("ann")
		field := func(err error) string {
			w.t.Helper()
			invalid, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%v", err)
			return invalid.Field
		}
		for want, breaks := range map[string][]func(q *fanout.PublishRequest){
			"from":  {func(q *fanout.PublishRequest) { q.From = "" }},
			"to[0]": {func(q *fanout.PublishRequest) { q.To = []event.Account{"a\nb"} }},
			"kind": {
				func(q *fanout.PublishRequest) { q.Kind = "" },
				func(q *fanout.PublishRequest) { q.Kind = event.KindDeviceOnline },
				func(q *fanout.PublishRequest) { q.Kind = event.KindDelivered },
			},
			"conversation": {func(q *fanout.PublishRequest) { q.Conversation = "\x00" }},
			"subject":      {func(q *fanout.PublishRequest) { q.Subject = strings.Repeat("s", 129) }},
			"payload":      {func(q *fanout.PublishRequest) { q.Payload = make([]byte, fanout.MaxPayloadBytes+1) }},
			"to":           {func(q *fanout.PublishRequest) { q.To = many(fanout.MaxRecipients + 1) }},
		} {
			for i, f := range breaks {
				q := fanout.PublishRequest{From: "bob", Kind: event.KindTyping, To: []event.Account{"ann"}}
				f(&q)
				_, err := w.r.Publish(context.Background(), q)
				require.Equal(w.t, want, field(err), i)
			}
		}
		for want, list := range map[string][]fanout.MarkReadRequest{
			"account":      {{Conversation: "c1", Seq: 1}, {Account: "a\xff", Conversation: "c1", Seq: 1}},
			"seq":          {{Account: "ann", Conversation: "c1"}, {Account: "ann", Conversation: "c1", Seq: 1, Message: "x"}, {Account: "ann", Conversation: "c1", Seq: 4}},
			"conversation": {{Account: "ann", Seq: 1}, {Account: "ann", Seq: 1, Conversation: "\u202e"}, {Account: "ann", Message: "x", Conversation: "\n"}},
		} {
			for i, q := range list {
				_, err := w.r.MarkRead(context.Background(), q)
				require.Equal(w.t, want, field(err), i)
			}
		}
		require.Equal(w.t, before, w.head("ann"))
		require.Zero(w.t, w.register("ann", "c1", event.StateRead))
		require.Error(w.t, w.r.Trim(context.Background(), ""))
	})
}

func TestConfigNamesEveryFault(t *testing.T) {
	st := memstore.New(memstore.Config{})
	_, err := fanout.New(nil, st, fanout.Config{})
	require.Error(t, err)
	reg, err := session.New(st, session.Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, reg.Close(context.Background())) }()
	_, err = fanout.New(reg, nil, fanout.Config{})
	require.Error(t, err)
	bad := fanout.Config{
		Window: -1, WindowBytes: -1, LiveRing: -1, LiveLife: -1, AckWait: -1, FrameWrite: -1, CursorFlush: -1, PageEntries: -1, PageBytes: -1,
	}
	_, err = fanout.New(reg, st, bad)
	require.Error(t, err)
	for _, field := range []string{"Window", "WindowBytes", "LiveRing", "LiveLife", "AckWait", "FrameWrite", "CursorFlush", "PageEntries", "PageBytes"} {
		require.Contains(t, err.Error(), "invalid "+field+":")
	}
}

// attempts tries what a client of the device may try with what is not its own, and returns the answers.
func (d *device) attempts(login event.LoginID, token event.ResumeToken, id event.MessageID, account event.Account) []string {
	ctx := context.Background()
	var out []string
	_, err := d.w.r.Send(ctx, fanout.SendRequest{From: d.account, Targets: []event.LoginID{login}})
	out = append(out, fmt.Sprint("target: ", err))
	_, err = d.w.r.Send(ctx, fanout.SendRequest{From: d.account, Origin: login, To: []event.Account{"bob"}})
	out = append(out, fmt.Sprint("origin: ", err))
	res, err := d.w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: d.account, Message: id})
	out = append(out, fmt.Sprint("read: ", res, err))
	for _, q := range []fanout.AttachRequest{
		{Account: d.account, Login: login, Token: token},
		{Account: account, Login: login, Token: d.Token()},
		{Account: account, Login: d.Login(), Token: d.Token()},
	} {
		_, err = d.w.r.Attach(ctx, q, transporttest.NewPair(transporttest.PairConfig{}).Conn())
		out = append(out, fmt.Sprint("attach: ", err))
	}
	return out
}

// TestI23_I25_Adversary has a client of eve try what it can against ann: with and without ann's data the answers and
// frames are the same, and nothing of ann's is among them.
func TestI23_I25_Adversary(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		a := w.ready("ann", "a1")
		secret := w.host("bob", "secret", "ann")
		w.fence("ann")
		e := w.ready("eve", "e1")
		e[0].rough = true
		place := w.head("ann")

		real := e[0].attempts(a[0].Login(), a[0].Token(), secret.ID, "ann")
		made := e[0].attempts(event.NewLoginID(), event.NewResumeToken(), event.NewIssuer(w.st.Info().Secret).Issue(), "nobody")
		require.Equal(w.t, made, real, "no difference between what exists and what does not")

		for _, frame := range []event.ClientFrame{
			&event.Ack{Position: event.Position{Epoch: place.Epoch, Seq: place.Seq}},
			&event.Nack{Position: event.Position{Epoch: place.Epoch, Seq: place.Seq}},
			&event.ResetAck{Position: event.Position{Epoch: place.Epoch, Seq: place.Seq}},
		} {
			if e[0].attachment().Handle(ctx, frame) != nil { // taken if it also fits eve's own inbox, refused if not
				e[0].closed()
				e[0].online()
			}
		}
		for _, line := range []string{ // what a client cannot say
			`{"t":"ack","epoch":"1","seq":"1","account":"ann"}`, `{"t":"send","from":"ann"}`, `{"t":"data"}`,
			`{"t":"ack","pos":{"epoch":"1","seq":"1"},"origin":"x"}`,
		} {
			violation := new(fanout.ProtocolError)
			require.ErrorAs(w.t, e[0].attachment().HandleJSON(ctx, []byte(line)), &violation, line)
			require.NotContains(w.t, violation.Error(), "ann")
			require.Equal(w.t, event.ProtocolError, e[0].closed().Reason)
			e[0].online()
		}
		w.fence("eve", "ann")
		for _, f := range e[0].Frames() {
			b, err := json.Marshal(f)
			require.NoError(w.t, err)
			require.NotContains(w.t, string(b), "secret")
			require.NotContains(w.t, string(b), string(secret.ID))
			require.NotContains(w.t, string(b), string(a[0].Login()))
		}
		w.flush()
		require.Equal(w.t, place.Seq+1, w.head("ann").Seq, "ann's inbox has the fence more, and nothing else")
		require.True(w.t, a[0].Connected())
		require.Equal(w.t, []string{"secret"}, a[0].wire())
	})
}

// TestI27_Bounds floods a router with everything that it remembers for a client.
func TestI27_Bounds(t *testing.T) {
	inMemory(t, fanout.Config{TrimInterval: -1}, func(w *world) {
		issuer := event.NewIssuer(w.st.Info().Secret)
		for i := range 6_000 {
			_, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: many(1)[0] + event.Account(fmt.Sprint(i)), Message: issuer.Issue()})
			require.NoError(w.t, err)
			w.host("bob", "x", event.Account(fmt.Sprint("n", i)))
		}
		pending := w.r.EarlyReads()
		require.Equal(w.t, 4_096, pending, "early marks are kept for so many accounts")
		require.Zero(w.t, w.r.Grown(), "nobody trims, so nobody remembers what grew")
		time.Sleep(2 * time.Second)
		all, restless := w.r.Hubs()
		require.Zero(w.t, all+restless, "nothing is kept of accounts that are not attached")
	})
}
