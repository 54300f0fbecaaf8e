package fanout_test

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/internal/fault/faulttest"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// calledTable is what is known of every exported call that returns an error.
func calledTable() map[string]called {
	all := map[string]called{"Router.Send": sendRow(), "Router.Publish": publishRow()}
	for _, part := range []map[string]called{readRows(), entryRows(), routerRows(), attachRows(), handleRows()} {
		maps.Copy(all, part)
	}
	return all
}

// request makes bad fields and failures of requests of one type.
type request[Q any] struct {
	good func(s *scene) Q
	call func(ctx context.Context, s *scene, q Q) error
}

func (r request[Q]) do(ctx context.Context, s *scene) error { return r.call(ctx, s, r.good(s)) }

func (r request[Q]) with(field string, values []string, spoil func(s *scene, q *Q, v string)) badField {
	return badField{field, values, func(ctx context.Context, s *scene, v string) error {
		q := r.good(s)
		spoil(s, &q, v)
		return r.call(ctx, s, q)
	}}
}

func (r request[Q]) fails(is error, prepare func(s *scene, q *Q)) failure {
	return failure{is: is, call: func(ctx context.Context, s *scene) error {
		q := r.good(s)
		prepare(s, &q)
		return r.call(ctx, s, q)
	}}
}

var (
	kinds    = []string{strings.Repeat("k", 65), "a b", "a\nb", "\xff", ".."}
	subjects = append([]string{strings.Repeat("s", 129)}, faulttest.Texts...)
)

// narrowed are the bad choices of a call, whose Narrow field is of(q). Its first account is ann, who has an Origin.
func narrowed[Q any](r request[Q], of func(q *Q) *[]fanout.Narrow) []badField {
	one := func(field string, values []string, spoil func(s *scene, n *fanout.Narrow, v string)) badField {
		return r.with(field, values, func(s *scene, q *Q, v string) {
			n := fanout.Narrow{Account: "ann", Devices: []event.DeviceID{"a1"}}
			spoil(s, &n, v)
			*of(q) = []fanout.Narrow{n}
		})
	}
	return []badField{
		r.with("narrow", nil, func(_ *scene, q *Q, _ string) { *of(q) = make([]fanout.Narrow, 65) }),
		r.with("narrow[1]", nil, func(_ *scene, q *Q, _ string) {
			n := fanout.Narrow{Account: "ann", Devices: []event.DeviceID{"a1"}}
			*of(q) = []fanout.Narrow{n, n}
		}),
		one("narrow[0]", nil, func(_ *scene, n *fanout.Narrow, _ string) { n.Devices = nil }),
		one("narrow[0]", nil, func(_ *scene, n *fanout.Narrow, _ string) { n.Account = "bob" }),
		one("narrow[0].account", faulttest.Accounts, func(_ *scene, n *fanout.Narrow, v string) { n.Account = event.Account(v) }),
		one("narrow[0].devices[1]", faulttest.IDs, func(_ *scene, n *fanout.Narrow, v string) {
			n.Devices = append(n.Devices, event.DeviceID(v))
		}),
		one("narrow[0].logins[1]", faulttest.Logins, func(s *scene, n *fanout.Narrow, v string) {
			n.Logins = []event.LoginID{s.d.Login(), event.LoginID(v)}
		}),
		one("narrow[0].except[0]", faulttest.Logins, func(_ *scene, n *fanout.Narrow, v string) { n.Except = []event.LoginID{event.LoginID(v)} }),
		one("narrow[0].platforms[0]", faulttest.Platforms, func(_ *scene, n *fanout.Narrow, v string) {
			n.Platforms = []event.Platform{event.Platform(v)}
		}),
		one("narrow[0].logins", nil, func(_ *scene, n *fanout.Narrow, _ string) { n.Logins = make([]event.LoginID, 65) }),
		one("narrow[0].devices", nil, func(_ *scene, n *fanout.Narrow, _ string) { n.Devices = make([]event.DeviceID, 65) }),
		one("narrow[0].platforms", nil, func(_ *scene, n *fanout.Narrow, _ string) { n.Platforms = make([]event.Platform, 65) }),
		one("narrow[0].except", nil, func(_ *scene, n *fanout.Narrow, _ string) { n.Except = make([]event.LoginID, 65) }),
	}
}

func sendRow() called {
	type q = fanout.SendRequest
	r := request[q]{
		func(s *scene) q {
			return q{From: "ann", Origin: s.d.Login(), Conversation: "c1", To: []event.Account{"bob"}, Payload: []byte("x")}
		},
		func(ctx context.Context, s *scene, q q) error { return given(s.r.Send(ctx, q)) },
	}
	fields := append(narrowed(r, func(q *q) *[]fanout.Narrow { return &q.Narrow }),
		r.with("from", faulttest.Accounts, func(_ *scene, q *q, v string) { q.From = event.Account(v) }),
		r.with("origin", faulttest.Logins[1:], func(_ *scene, q *q, v string) { q.Origin = event.LoginID(v) }),
		r.with("clientID", faulttest.IDs[1:], func(_ *scene, q *q, v string) { q.ClientID = event.ClientMessageID(v) }),
		r.with("kind", kinds, func(_ *scene, q *q, v string) { q.Kind = event.Kind(v) }),
		r.with("kind", []string{"typing", "receipt.read", "device.login", "claim", "conversation.read"}, func(_ *scene, q *q, v string) {
			q.Kind = event.Kind(v)
		}),
		r.with("conversation", faulttest.IDs[1:], func(_ *scene, q *q, v string) { q.Conversation = event.ConversationID(v) }),
		r.with("conversation", nil, func(s *scene, q *q, _ string) { q.Kind, q.Of, q.Conversation = event.KindRecall, s.got.ID, "other" }),
		r.with("subject", subjects, func(_ *scene, q *q, v string) { q.Subject = v }),
		r.with("of", nil, func(_ *scene, q *q, _ string) { q.Kind = event.KindRecall }),
		r.with("of", nil, func(s *scene, q *q, _ string) { q.Of = s.got.ID }),
		r.with("priority", nil, func(_ *scene, q *q, _ string) { q.Priority = 9 }),
		r.with("TTL", nil, func(_ *scene, q *q, _ string) { q.TTL = -1 }),
		r.with("TTL", nil, func(_ *scene, q *q, _ string) { q.TTL = 1 }),
		r.with("payload", nil, func(_ *scene, q *q, _ string) { q.Payload = make([]byte, fanout.MaxPayloadBytes+1) }),
		r.with("to[1]", faulttest.Accounts, func(_ *scene, q *q, v string) { q.To = append(q.To, event.Account(v)) }),
		r.with("members", faulttest.Accounts, func(_ *scene, q *q, v string) { q.Members = slices.Values([]event.Account{event.Account(v)}) }),
		r.with("to", nil, func(_ *scene, q *q, _ string) { q.To = make([]event.Account, fanout.MaxRecipients+1) }),
		r.with("to", nil, func(_ *scene, q *q, _ string) { q.To, q.NoSenderCopy = nil, true }),
		r.with("to", nil, func(_ *scene, q *q, _ string) { q.Kind = event.KindConversationPin }),
		r.with("to", nil, func(s *scene, q *q, _ string) { q.Kind, q.Of = event.KindDeleteForMe, s.got.ID }),
		r.with("targets", nil, func(s *scene, q *q, _ string) { q.Targets = []event.LoginID{s.d.Login()} }),
		r.with("targets", nil, func(_ *scene, q *q, _ string) { q.To, q.Targets = nil, make([]event.LoginID, fanout.MaxTargets+1) }),
		r.with("targets[0]", faulttest.Logins, func(_ *scene, q *q, v string) { q.To, q.Targets = nil, []event.LoginID{event.LoginID(v)} }),
		r.with("receipts", nil, func(_ *scene, q *q, _ string) { q.Receipts = 9 }),
		r.with("receipts", nil, func(_ *scene, q *q, _ string) { q.To, q.Receipts = many(201), fanout.ReceiptsOn }),
	)
	return called{text: "send", do: r.do, fields: fields, closes: true, reads: true, fails: []failure{
		r.fails(fanout.ErrUnknownOrigin, func(_ *scene, q *q) { q.Origin = unknown() }),
		r.fails(fanout.ErrUnknownTarget, func(_ *scene, q *q) { q.To, q.Targets = nil, []event.LoginID{unknown()} }),
		r.fails(fanout.ErrUnknownTarget, func(_ *scene, q *q) {
			q.Narrow = []fanout.Narrow{{Account: "ann", Logins: []event.LoginID{unknown()}}}
		}),
		r.fails(fanout.ErrUnknownMessage, func(_ *scene, q *q) { q.Kind, q.Of = event.KindRecall, "none" }),
		r.fails(store.ErrMismatch, func(s *scene, q *q) {
			q.ClientID = clientID()
			s.post(*q)
			q.Payload = []byte("y")
		}),
	}}
}

func publishRow() called {
	type q = fanout.PublishRequest
	r := request[q]{
		func(s *scene) q {
			return q{From: "ann", Origin: s.d.Login(), Kind: event.KindTyping, Conversation: "c1", To: []event.Account{"bob"}, Mirror: true}
		},
		func(ctx context.Context, s *scene, q q) error { return given(s.r.Publish(ctx, q)) },
	}
	fields := append(narrowed(r, func(q *q) *[]fanout.Narrow { return &q.Narrow }),
		r.with("from", faulttest.Accounts, func(_ *scene, q *q, v string) { q.From = event.Account(v) }),
		r.with("origin", faulttest.Logins[1:], func(_ *scene, q *q, v string) { q.Origin = event.LoginID(v) }),
		r.with("kind", append(kinds, ""), func(_ *scene, q *q, v string) { q.Kind = event.Kind(v) }),
		r.with("kind", nil, func(_ *scene, q *q, _ string) { q.Kind = event.KindRead }),
		r.with("conversation", faulttest.IDs[1:], func(_ *scene, q *q, v string) { q.Conversation = event.ConversationID(v) }),
		r.with("subject", subjects, func(_ *scene, q *q, v string) { q.Subject = v }),
		r.with("priority", nil, func(_ *scene, q *q, _ string) { q.Priority = 9 }),
		r.with("payload", nil, func(_ *scene, q *q, _ string) { q.Payload = make([]byte, fanout.MaxPayloadBytes+1) }),
		r.with("to[1]", faulttest.Accounts, func(_ *scene, q *q, v string) { q.To = append(q.To, event.Account(v)) }),
		r.with("to", nil, func(_ *scene, q *q, _ string) { q.To = make([]event.Account, fanout.MaxRecipients+1) }),
	)
	return called{text: "publish", do: r.do, fields: fields, closes: true, fails: []failure{
		r.fails(fanout.ErrUnknownOrigin, func(_ *scene, q *q) { q.Origin = unknown() }),
		r.fails(fanout.ErrUnknownTarget, func(_ *scene, q *q) { q.Narrow = []fanout.Narrow{{Account: "ann", Devices: []event.DeviceID{"x"}}} }),
	}}
}

func readRows() map[string]called {
	type q = fanout.MarkReadRequest
	mark := request[q]{
		func(s *scene) q {
			return q{Account: "ann", Origin: s.d.Login(), Conversation: "c1", Seq: s.head("ann").Seq}
		},
		func(ctx context.Context, s *scene, q q) error { return given(s.r.MarkRead(ctx, q)) },
	}
	type c = fanout.ClearUnreadRequest
	clear := request[c]{
		func(s *scene) c { return c{Account: "ann", Origin: s.d.Login(), Conversation: "c1"} },
		func(ctx context.Context, s *scene, q c) error { return given(s.r.ClearUnread(ctx, q)) },
	}
	type u = struct {
		account      event.Account
		conversation event.ConversationID
	}
	unread := request[u]{
		func(*scene) u { return u{"ann", "c1"} },
		func(ctx context.Context, s *scene, q u) error {
			return given(s.r.Unread(ctx, q.account, q.conversation))
		},
	}
	return map[string]called{
		"Router.MarkRead": {
			text: "mark read", do: mark.do, closes: true, reads: true,
			fields: []badField{
				mark.with("account", faulttest.Accounts, func(_ *scene, q *q, v string) { q.Account = event.Account(v) }),
				mark.with("origin", faulttest.Logins[1:], func(_ *scene, q *q, v string) { q.Origin = event.LoginID(v) }),
				mark.with("conversation", faulttest.IDs, func(_ *scene, q *q, v string) { q.Conversation = event.ConversationID(v) }),
				mark.with("conversation", faulttest.IDs[1:], func(s *scene, q *q, v string) {
					q.Conversation, q.Seq, q.Message = event.ConversationID(v), 0, s.got.ID
				}),
				mark.with("conversation", nil, func(s *scene, q *q, _ string) { q.Conversation, q.Seq, q.Message = "other", 0, s.got.ID }),
				mark.with("seq", nil, func(_ *scene, q *q, _ string) { q.Seq = 0 }),
				mark.with("seq", nil, func(s *scene, q *q, _ string) { q.Message = s.got.ID }),
				mark.with("seq", nil, func(_ *scene, q *q, _ string) { q.Seq = 1 << 60 }),
			},
			fails: []failure{
				mark.fails(fanout.ErrUnknownOrigin, func(_ *scene, q *q) { q.Origin = unknown() }),
				mark.fails(fanout.ErrUnknownMessage, func(_ *scene, q *q) { q.Seq, q.Message = 0, "none" }),
			},
		},
		"Router.ClearUnread": {
			text: "clear unread", do: clear.do, closes: true, reads: true,
			fields: []badField{
				clear.with("account", faulttest.Accounts, func(_ *scene, q *c, v string) { q.Account = event.Account(v) }),
				clear.with("origin", faulttest.Logins[1:], func(_ *scene, q *c, v string) { q.Origin = event.LoginID(v) }),
				clear.with("conversation", faulttest.IDs[1:], func(_ *scene, q *c, v string) { q.Conversation = event.ConversationID(v) }),
			},
			fails: []failure{clear.fails(fanout.ErrUnknownOrigin, func(_ *scene, q *c) { q.Origin = unknown() })},
		},
		"Router.Unread": {
			text: "unread", do: unread.do, reads: true,
			fields: []badField{
				unread.with("account", faulttest.Accounts, func(_ *scene, q *u, v string) { q.account = event.Account(v) }),
				unread.with("conversation", faulttest.IDs[1:], func(_ *scene, q *u, v string) { q.conversation = event.ConversationID(v) }),
			},
		},
	}
}

func entryRows() map[string]called {
	type c = fanout.ClaimRequest
	claim := request[c]{
		func(s *scene) c { return c{Account: "ann", Origin: s.d.Login(), Key: "call"} },
		func(ctx context.Context, s *scene, q c) error { return given(s.r.Claim(ctx, q)) },
	}
	type p = session.ParkRequest
	rows := map[string]called{"Router.Claim": {
		text: "claim", do: claim.do, closes: true, reads: true,
		fields: []badField{
			claim.with("account", faulttest.Accounts, func(_ *scene, q *c, v string) { q.Account = event.Account(v) }),
			claim.with("origin", faulttest.Logins, func(_ *scene, q *c, v string) { q.Origin = event.LoginID(v) }),
			claim.with("key", faulttest.IDs, func(_ *scene, q *c, v string) { q.Key = v }),
			claim.with("conversation", faulttest.IDs[1:], func(_ *scene, q *c, v string) { q.Conversation = event.ConversationID(v) }),
			claim.with("data", nil, func(_ *scene, q *c, _ string) { q.Data = make([]byte, fanout.MaxClaimBytes+1) }),
		},
		fails: []failure{claim.fails(fanout.ErrUnknownOrigin, func(_ *scene, q *c) { q.Origin = unknown() })},
	}}
	for _, undo := range []bool{false, true} {
		name, text := "Router.Park", "park"
		if undo {
			name, text = "Router.Unpark", "unpark"
		}
		park := request[p]{
			func(s *scene) p {
				h := s.head("ann")
				return p{Account: "ann", Device: "a1", Position: event.Position{Epoch: h.Epoch, Seq: h.Seq}}
			},
			func(ctx context.Context, s *scene, q p) error {
				if undo {
					return s.r.Unpark(ctx, q.Account, q.Device, q.Position)
				}
				return s.r.Park(ctx, q.Account, q.Device, q.Position)
			},
		}
		rows[name] = called{
			text: text, do: park.do, closes: true, reads: true,
			fields: []badField{
				park.with("account", faulttest.Accounts, func(_ *scene, q *p, v string) { q.Account = event.Account(v) }),
				park.with("device", faulttest.IDs, func(_ *scene, q *p, v string) { q.Device = event.DeviceID(v) }),
				park.with("entry.epoch", nil, func(_ *scene, q *p, _ string) { q.Position.Epoch++ }),
				park.with("entry.seq", nil, func(_ *scene, q *p, _ string) { q.Position.Seq = 0 }),
				park.with("entry.seq", nil, func(_ *scene, q *p, _ string) { q.Position.Seq++ }),
			},
			fails: []failure{park.fails(session.ErrNotFound, func(_ *scene, q *p) { q.Device = "none" })},
		}
	}
	park := rows["Router.Park"]
	park.fails = append(park.fails, failure{is: session.ErrTooManyParked, call: func(ctx context.Context, s *scene) (err error) {
		require.NoError(s.t, given(s.reg.Login(ctx, mqtt("m1")))) // never attached, so it misses nothing that was sent
		for range session.MaxParked + 1 {
			s.host("bob", "x", "ann")
		}
		h := s.head("ann")
		for seq := h.Seq; err == nil && seq > h.Seq-session.MaxParked-1; seq-- {
			err = s.r.Park(ctx, "ann", "m1", event.Position{Epoch: h.Epoch, Seq: seq})
		}
		return err
	}})
	rows["Router.Park"] = park
	return rows
}
