package main

import (
	"errors"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

// team is Ann and Bob with two devices each, all of which have caught up.
func team(t *testing.T, s *server) (phone, laptop, desk, tablet *device) {
	all := []*device{
		newDevice("ann", "phone", "ios", "phone"), newDevice("ann", "laptop", "macos", "laptop"),
		newDevice("bob", "desk", "windows", "desk"), newDevice("bob", "tablet", "android", "tablet"),
	}
	for _, d := range all {
		t.Cleanup(d.drop)
		_, err := d.enter(t.Context(), s.addr())
		require.NoError(t, err)
		require.NoError(t, d.awaitCaughtUp(t.Context()))
	}
	return all[0], all[1], all[2], all[3]
}

func TestRequests_Changes(t *testing.T) {
	ctx := t.Context()
	s := newTestServer(t)
	phone, laptop, desk, tablet := team(t, s)
	send := func(d *device, q *sendRequest) event.MessageID {
		var a sendAnswer
		require.NoError(t, d.call(ctx, "send", q, &a))
		return a.ID
	}
	requireUnread := func(want uint64) {
		t.Helper()
		var u unreadAnswer
		require.NoError(t, tablet.call(ctx, "unread", &conversationRequest{Conversation: "direct:ann:bob"}, &u))
		require.Equal(t, want, u.Total)
	}
	draft := send(phone, &sendRequest{To: "bob", Text: "helo"})
	slip := send(phone, &sendRequest{To: "bob", Text: "nonsense"})
	requireUnread(2)
	for _, c := range []struct {
		kind event.Kind
		of   event.MessageID
		by   *device
	}{{event.KindEdit, draft, phone}, {event.KindReaction, draft, desk}, {event.KindRecall, slip, phone}, {event.KindDeleteForMe, draft, desk}} {
		id := send(c.by, &sendRequest{Of: c.of, Kind: c.kind, Text: "x"})
		_, err := tablet.awaitEntry(ctx, withID(id))
		require.NoError(t, err)
		if c.kind != event.KindDeleteForMe {
			_, err = laptop.awaitEntry(ctx, withID(id))
			require.NoError(t, err)
		}
	}
	requireUnread(0)
	for _, kind := range []event.Kind{event.KindEdit, event.KindRecall} {
		requireCode(t, codeForbidden, desk.call(ctx, "send", &sendRequest{Of: draft, Kind: kind, Text: "x"}, nil))
	}
	own := send(phone, &sendRequest{To: "ann", Text: "note to self"})
	requireCode(t, codeNotFound, desk.call(ctx, "send", &sendRequest{Of: own, Kind: event.KindReaction}, nil))
	requireCode(t, codeInvalid, phone.call(ctx, "send", &sendRequest{Of: own, Kind: event.KindMessage}, nil))
}

func requireCode(t *testing.T, code string, err error) {
	t.Helper()
	e, ok := errors.AsType[*requestError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, code, e.Code)
}

// The login that acts gets no entry: the answers have the registers that it has set.
func TestRequests_States(t *testing.T) {
	ctx := t.Context()
	s := newTestServer(t)
	phone, _, desk, tablet := team(t, s)
	const conv = event.ConversationID("direct:ann:bob")
	record := func(list []register) {
		for _, r := range list {
			st, err := r.state()
			require.NoError(t, err)
			desk.mu.Lock()
			desk.machine.Record(st)
			desk.mu.Unlock()
		}
	}
	for range 3 {
		require.NoError(t, phone.call(ctx, "send", &sendRequest{To: "bob", Text: "x"}, nil))
	}
	for _, q := range []*sendRequest{
		{Conversation: conv, Kind: event.KindConversationUnread}, {Conversation: conv, Kind: event.KindConversationMark, Subject: "star", Data: "/wD+"},
	} {
		var a sendAnswer
		require.NoError(t, desk.call(ctx, "send", q, &a))
		require.Len(t, a.States, 1)
		record(a.States)
	}
	var u unreadAnswer
	require.NoError(t, desk.call(ctx, "unread", nil, &u))
	require.Equal(t, unreadAnswer{Total: 3, Conversations: []unreadIn{{Conversation: conv, Count: 3, Marked: true}}}, u)
	read, err := desk.markRead(ctx, conv, 1)
	require.NoError(t, err)
	require.Len(t, read.States, 2, "the marker, and that it is not marked as unread any more")
	var c clearUnreadAnswer
	require.NoError(t, desk.call(ctx, "clearUnread", &conversationRequest{}, &c))
	require.Equal(t, 1, c.Conversations)
	record(c.States)
	require.NoError(t, desk.call(ctx, "unread", nil, &u))
	require.NoError(t, tablet.await(ctx, func() bool {
		st, _ := tablet.machine.Register(conv, event.StateReadPrivate)
		return st.Ordinal() == 3
	}))
	desk.mu.Lock()
	defer desk.mu.Unlock()
	tablet.mu.Lock()
	defer tablet.mu.Unlock()
	require.Equal(t, desk.machine.Digest(), tablet.machine.Digest(), "I17: %v %v", desk.machine.Registers(), tablet.machine.Registers())
	require.Len(t, desk.machine.Registers(), 4)
}

// A call rings on both devices of Ann, and both answer.
func TestRequests_Claim(t *testing.T) {
	ctx := t.Context()
	s := newTestServer(t)
	phone, laptop, _, _ := team(t, s)
	var first, second claimAnswer
	require.NoError(t, laptop.call(ctx, "claim", &claimRequest{Key: "call-7", Text: "answered"}, &first))
	require.NoError(t, phone.call(ctx, "claim", &claimRequest{Key: "call-7"}, &second))
	require.True(t, first.Won)
	require.False(t, second.Won)
	require.Equal(t, first.Winner, second.Winner)
	require.Equal(t, "answered", string(first.Winner.Data))
	requireCode(t, codeInvalid, phone.call(ctx, "claim", &claimRequest{}, nil))
}

// Every request, every field of it and of its answer, and every code of an error is in docs/protocol.md.
func TestRequests_Documented(t *testing.T) {
	b, err := os.ReadFile("../../docs/protocol.md")
	require.NoError(t, err)
	_, page, ok := strings.Cut(string(b), "<!-- quickstart requests -->")
	require.True(t, ok)
	sections := regexp.MustCompile("(?m)^### ").Split(page, -1)
	section := func(name string) string {
		for _, text := range sections {
			title, rest, _ := strings.Cut(text, "\n")
			if slices.Contains(strings.Split(title, ", "), name) {
				return rest
			}
		}
		require.Fail(t, "no section", name)
		return ""
	}
	for name, bodies := range map[string][]any{
		"auth": {authRequest{}}, "login": {loginRequest{}, loginAnswer{}, endedLogin{}, dryRunAnswer{}, victim{}},
		"attach": {attachRequest{}}, "send": {sendRequest{}, sendAnswer{}}, "publish": {publishRequest{}, publishAnswer{}},
		"read": {readRequest{}, readAnswer{}}, "unread": {conversationRequest{}, unreadAnswer{}, unreadIn{}},
		"clearUnread": {conversationRequest{}, clearUnreadAnswer{}}, "claim": {claimRequest{}, claimAnswer{}}, "list": {listAnswer{}, listedLogin{}}, "peers": {peersAnswer{}},
		"kick": {kickRequest{}, kickAnswer{}}, "logout": nil, "removeDevice": {removeDeviceRequest{}}, "": {envelope{}, errorAnswer{}},
	} {
		text := page
		if name != "" {
			text = section(name)
		}
		for _, v := range bodies {
			for f := range reflect.TypeOf(v).Fields() {
				if field, _, _ := strings.Cut(f.Tag.Get("json"), ","); field != "" {
					require.Regexp(t, "`"+field+"`", text, "%s: %T", name, v)
				}
			}
		}
	}
	source, err := os.ReadFile("guest.go")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`case "(\w+)":\n\t\treturn decoded`).FindAllSubmatch(source, -1) {
		if name := string(m[1]); name != "dryRun" { // is with login
			section(name)
		}
	}
	source, err = os.ReadFile("answers.go")
	require.NoError(t, err)
	codes := regexp.MustCompile(`code\w+ += "(\w+)"`).FindAllSubmatch(source, -1)
	require.Len(t, codes, 13)
	for _, m := range codes {
		require.Contains(t, section("Errors"), "| `"+string(m[1])+"` |")
	}
}
