package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// Every fault of a request is answered with its code, and the connection goes on.
func TestRequests_Errors(t *testing.T) {
	const never = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	token := strings.Repeat("a", 52)
	const nobody, known, attached = 0, 1, 2
	tests := []struct {
		name  string
		state int
		line  string
		code  string
	}{
		{"login before auth", nobody, `{"t":"login","platform":"ios"}`, codeNotAuthenticated},
		{"dryRun before auth", nobody, `{"t":"dryRun","platform":"ios"}`, codeNotAuthenticated},
		{"attach before auth", nobody, `{"t":"attach"}`, codeNotAuthenticated},
		{"list before auth", nobody, `{"t":"list"}`, codeNotAuthenticated},
		{"peers before auth", nobody, `{"t":"peers"}`, codeNotAuthenticated},
		{"kick before auth", nobody, `{"t":"kick","all":true}`, codeNotAuthenticated},
		{"removeDevice before auth", nobody, `{"t":"removeDevice","device":"d"}`, codeNotAuthenticated},
		{"wrong password", nobody, `{"t":"auth","account":"ann","password":"secret-of-bob"}`, codeNotAuthenticated},
		{"impossible account", nobody, `{"t":"auth","account":"Ann!","password":"secret-of-Ann!"}`, codeNotAuthenticated},
		{"frame before attach", known, `{"t":"ping"}`, codeNotAttached},
		{"send before attach", known, `{"t":"send","to":"bob","text":"x"}`, codeNotAttached},
		{"publish before attach", known, `{"t":"publish","to":"bob"}`, codeNotAttached},
		{"read before attach", known, `{"t":"read","message":"x"}`, codeNotAttached},
		{"unread before auth", nobody, `{"t":"unread"}`, codeNotAuthenticated},
		{"clearUnread before attach", known, `{"t":"clearUnread"}`, codeNotAttached},
		{"claim before attach", known, `{"t":"claim","key":"call-7"}`, codeNotAttached},
		{"logout before login", known, `{"t":"logout"}`, codeNotAttached},
		{"kick others before attach", known, `{"t":"kick","others":true}`, codeNotAttached},
		{"auth again", known, `{"t":"auth","account":"bob","password":"secret-of-bob"}`, codeConflict},
		{"login again", attached, `{"t":"login","platform":"ios"}`, codeConflict},
		{"attach again", attached, `{"t":"attach"}`, codeConflict},
		{"unknown platform", known, `{"t":"login","platform":"toaster"}`, codeRefused},
		{"bad platform", known, `{"t":"login","platform":"i os"}`, codeInvalid},
		{"attach without a login", known, `{"t":"attach"}`, codeInvalid},
		{"attach to what never was", known, `{"t":"attach","login":"` + never + `","token":"` + token + `"}`, codeUnknownLogin},
		{"unknown field", attached, `{"t":"send","to":"bob","txt":"x"}`, codeInvalid},
		{"number for a string", attached, `{"t":"send","to":5}`, codeInvalid},
		{"to nobody", attached, `{"t":"send","text":"x"}`, codeInvalid},
		{"to two kinds of recipients", attached, `{"t":"send","to":"bob","group":"team","text":"x"}`, codeInvalid},
		{"to an account and about a message", attached, `{"t":"send","to":"bob","of":"x","kind":"message.edit"}`, codeInvalid},
		{"edit of nothing", attached, `{"t":"send","to":"bob","kind":"message.edit","text":"x"}`, codeInvalid},
		{"edit of no message", attached, `{"t":"send","of":"nonsense","kind":"message.edit","text":"x"}`, codeNotFound},
		{"unread of a conversation of others", attached, `{"t":"unread","conversation":"direct:bob:eve"}`, codeNotFound},
		{"clearUnread of a conversation of others", attached, `{"t":"clearUnread","conversation":"group:strangers"}`, codeNotFound},
		{"text and data", attached, `{"t":"send","to":"bob","text":"x","data":"eA=="}`, codeInvalid},
		{"not base64", attached, `{"t":"send","to":"bob","data":"%"}`, codeInvalid},
		{"payload too large", attached, `{"t":"send","to":"bob","text":"` + strings.Repeat("x", 64<<10+1) + `"}`, codeInvalid},
		{"negative ttl", attached, `{"t":"send","to":"bob","ttlMs":"-1"}`, codeInvalid},
		{"kind of the engine's own", attached, `{"t":"send","to":"bob","kind":"receipt.read"}`, codeInvalid},
		{"to an impossible account", attached, `{"t":"send","to":"B","text":"x"}`, codeNotFound},
		{"to a group of others", attached, `{"t":"send","group":"strangers","text":"x"}`, codeNotFound},
		{"about a conversation of others", attached, `{"t":"send","conversation":"direct:bob:eve","kind":"conversation.pin"}`, codeNotFound},
		{"to a login that is not there", attached, `{"t":"send","logins":["` + never + `"],"text":"x"}`, codeNotFound},
		{"read of a conversation of others", attached, `{"t":"read","conversation":"direct:bob:eve","seq":"1"}`, codeNotFound},
		{"read with accounts the wrong way round", attached, `{"t":"read","conversation":"direct:bob:ann","seq":"1"}`, codeNotFound},
		{"read beyond the end", attached, `{"t":"read","conversation":"direct:ann:bob","seq":"1000000"}`, codeInvalid},
		{"read of no message", attached, `{"t":"read","message":"nonsense"}`, codeNotFound},
		{"publish of a durable kind of the engine's", attached, `{"t":"publish","to":"bob","kind":"device.login"}`, codeInvalid},
		{"kick nobody", attached, `{"t":"kick"}`, codeInvalid},
		{"kick two ways", attached, `{"t":"kick","all":true,"others":true}`, codeInvalid},
		{"removeDevice of none", attached, `{"t":"removeDevice","device":"none"}`, codeNotFound},
	}
	s := newTestServer(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dialRaw(t, s)
			switch tt.state {
			case known:
				require.Equal(t, "ok", c.ask(`{"t":"auth","account":"ann","password":"secret-of-ann"}`)["t"])
			case attached:
				c.enter("ann", "phone", "ios")
			}
			m := c.ask(tt.line)
			require.Equal(t, "error", m["t"], "%v", m)
			require.Equal(t, tt.code, m["code"], "%v", m)
			require.NotEmpty(t, m["message"])
			if tt.state != nobody {
				require.Equal(t, "ok", c.ask(`{"t":"list","ref":"still there"}`)["t"])
			}
		})
	}
}

func TestRequests_Refused(t *testing.T) {
	s := newTestServer(t)
	c := dialRaw(t, s)
	c.enter("ann", "phone", "ios")
	m := c.ask(`{"t":"dryRun","platform":"toaster"}`)
	require.Equal(t, "refuse", m["verdict"])
	d := dialRaw(t, s)
	d.ask(`{"t":"auth","account":"ann","password":"secret-of-ann"}`)
	m = d.ask(`{"t":"login","platform":"toaster"}`)
	require.Equal(t, codeRefused, m["code"])
	require.Equal(t, "unknown_platform", m["rule"])
	require.Nil(t, m["logins"], "nobody's end would help")
}

func TestRequests_Logins(t *testing.T) {
	ctx := t.Context()
	s := newTestServer(t)
	phone := newDevice("ann", "phone", "ios", "phone")
	laptop := newDevice("ann", "laptop", "macos", "laptop")
	for _, d := range []*device{phone, laptop} {
		defer d.drop()
		_, err := d.enter(ctx, s.addr())
		require.NoError(t, err)
	}
	var peers peersAnswer
	require.NoError(t, phone.call(ctx, "peers", nil, &peers))
	require.Len(t, peers.Peers, 1)
	require.Equal(t, "ann/"+string(laptop.login()), peers.Peers[0].Address)
	require.Equal(t, event.DeviceID("laptop"), peers.Peers[0].Device)

	var dry dryRunAnswer
	require.NoError(t, phone.call(ctx, "dryRun", &loginRequest{Device: "laptop", Platform: "macos"}, &dry))
	require.Equal(t, "admit", dry.Verdict)
	require.Equal(t, []victim{{Login: laptop.login(), Reason: event.Replaced}}, dry.Victims)

	require.NoError(t, phone.call(ctx, "removeDevice", &removeDeviceRequest{Device: "laptop"}, nil))
	why, err := laptop.awaitClosed(ctx)
	require.NoError(t, err)
	require.Equal(t, event.DeviceRemoved, why.Reason)

	var list listAnswer
	require.NoError(t, phone.call(ctx, "list", nil, &list))
	require.Len(t, list.Logins, 1)
	l := list.Logins[0]
	require.True(t, l.Self)
	require.Equal(t, "127.0.0.1", l.IP)
	require.InDelta(t, time.Now().UnixMilli(), l.LoggedInAt, 60_000)

	var kick kickAnswer
	err = phone.call(ctx, "kick", &kickRequest{All: true}, &kick)
	require.ErrorIs(t, err, errOver, "the closing frame is the answer")
	why, err = phone.awaitClosed(ctx)
	require.NoError(t, err)
	require.Equal(t, event.KickedSelf, why.Reason)
}

// A login that was kicked by a request of a connection without a login names no device as the cause.
func TestRequests_KickWithoutALogin(t *testing.T) {
	s := newTestServer(t)
	phone := newDevice("ann", "phone", "ios", "phone")
	defer phone.drop()
	_, err := phone.enter(t.Context(), s.addr())
	require.NoError(t, err)
	c := dialRaw(t, s)
	c.ask(`{"t":"auth","account":"ann","password":"secret-of-ann"}`)
	m := c.ask(`{"t":"kick","logins":["` + string(phone.login()) + `"]}`)
	require.Equal(t, "ok", m["t"])
	why, err := phone.awaitClosed(t.Context())
	require.NoError(t, err)
	require.Equal(t, event.KickedSelf, why.Reason)
	require.Nil(t, why.Cause)
	e, ok := errors.AsType[*requestError](phone.call(t.Context(), "list", nil, nil))
	require.False(t, ok, "no answer after the end: %v", e)
}

func TestRequests_Payloads(t *testing.T) {
	ctx := t.Context()
	s := newTestServer(t)
	ann, bob := newDevice("ann", "a", "ios", "phone"), newDevice("bob", "b", "web", "browser")
	for _, d := range []*device{ann, bob} {
		defer d.drop()
		_, err := d.enter(ctx, s.addr())
		require.NoError(t, err)
	}
	for i, payload := range []string{"", "text\nwith\tall <&> \u2028 of it", "\x00\xff bytes", strings.Repeat("\"", 64<<10), strings.Repeat("\xff", 64<<10)} {
		var a sendAnswer
		q := &sendRequest{To: "bob", ClientID: event.ClientMessageID(fmt.Sprint(i)), Data: base64.StdEncoding.EncodeToString([]byte(payload))}
		if i == 1 {
			q.Text, q.Data = payload, ""
		}
		require.NoError(t, ann.call(ctx, "send", q, &a))
		e, err := bob.awaitEntry(ctx, withID(a.ID))
		require.NoError(t, err)
		require.Equal(t, payload, string(e.Payload))
		require.Equal(t, event.Account("ann"), e.From)
		require.Equal(t, directConversation("ann", "bob"), e.Conversation)
	}
	var gone sendAnswer
	require.NoError(t, ann.call(ctx, "send", &sendRequest{To: "bob", Text: "brief", TTL: 1}, &gone))
	require.NoError(t, ann.call(ctx, "send", &sendRequest{Conversation: "group:team", Kind: event.KindConversationPin}, nil))
}

// What the store says reaches the client as a code, and a store that has failed ends connections with advice to come back.
func TestRequests_StoreErrors(t *testing.T) {
	faulty := storetest.WithFaults(memstore.New(memstore.Config{}))
	s, err := newServer("127.0.0.1:0", faulty, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	d := newDevice("ann", "d", "web", "browser")
	defer d.drop()
	_, err = d.enter(t.Context(), s.addr())
	require.NoError(t, err)
	tests := []struct {
		err  error
		code string
	}{
		{store.ErrFull, codeFull},
		{store.ErrWindowFull, codeFull},
		{store.ErrMismatch, codeConflict},
		{store.ErrUnknownOutcome, codeUnknownOutcome},
		{store.ErrClosed, codeUnavailable},
		{context.DeadlineExceeded, codeUnavailable},
		{errors.New("secret detail"), codeInternal},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			remove := faulty.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Times: -1, Err: tt.err})
			defer remove()
			e, ok := errors.AsType[*requestError](d.call(t.Context(), "send", &sendRequest{To: "bob", Text: "x"}, nil))
			require.True(t, ok)
			require.Equal(t, tt.code, e.Code)
			require.NotContains(t, e.Message, "secret")
		})
	}
	faulty.Break()
	why, err := d.awaitClosed(t.Context())
	require.NoError(t, err)
	require.Equal(t, event.Unavailable, why.Reason)
	require.Equal(t, event.RetryAfter, why.Retry)
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if err := s.close(ctx); err != nil { // there may have been something left to write
		require.ErrorIs(t, err, store.ErrFailed)
	}
}

func TestDescribe(t *testing.T) {
	tests := []struct {
		name string
		e    event.Entry
		want string
	}{
		{"message", event.Entry{Kind: event.KindMessage, From: "ann", Payload: []byte("hi")}, `message from ann: "hi"`},
		{"read mark", event.Entry{Kind: event.KindConversationRead, Conversation: "c", Payload: []byte(`{"seq":"7"}`)}, "read mark: c up to entry 7"},
		{"bad read mark", event.Entry{Kind: event.KindConversationRead, From: "ann", Payload: []byte("x")}, `conversation.read from ann: "x"`},
		{"receipt", event.Entry{Kind: event.KindRead, Payload: []byte(`{"by":"bob","message":"0123456789"}`)}, "receipt: bob read up to message 456789"},
		{"nameless device", event.Entry{Kind: event.KindDeviceEnded, Payload: []byte(`{"device":"d","platform":"ios","reason":"logout"}`)}, "notice: device.ended: d on ios, logout"},
		{"operation", event.Entry{Kind: event.KindConversationPin, From: "ann", Conversation: "c"}, "conversation.pin from ann in c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, describe(event.Seal(tt.e))) })
	}
}
