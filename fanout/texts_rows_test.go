package fanout_test

import (
	"context"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/internal/fault/faulttest"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport"
)

func routerRows() map[string]called {
	trim := func(ctx context.Context, s *scene, a event.Account) error { return s.r.Trim(ctx, a) }
	type i = fanout.InspectOptions
	inspect := request[i]{
		func(*scene) i { return i{} },
		func(ctx context.Context, s *scene, o i) error { return given(s.r.Inspect(ctx, "ann", o)) },
	}
	subscribe := func(size int) func(context.Context, *scene, string) error {
		return func(_ context.Context, s *scene, _ string) error { return given(s.r.Subscribe(size)) }
	}
	flush := func(ctx context.Context, s *scene) error { return s.r.Flush(ctx) }
	drain := func(ctx context.Context, s *scene) error { return s.r.Drain(ctx, session.DrainRequest{}) }
	return map[string]called{
		"New": newRow(),
		"Router.Trim": {
			text: "trim", do: func(ctx context.Context, s *scene) error { return trim(ctx, s, "ann") }, reads: true,
			fields: []badField{{"account", faulttest.IDs, func(ctx context.Context, s *scene, v string) error { return trim(ctx, s, event.Account(v)) }}},
		},
		"Router.Inspect": {
			text: "inspect", do: inspect.do, closes: true, reads: true,
			fields: []badField{
				{"account", faulttest.IDs, func(ctx context.Context, s *scene, v string) error {
					return given(s.r.Inspect(ctx, event.Account(v), i{}))
				}},
				inspect.with("limit", nil, func(_ *scene, o *i, _ string) { o.Limit = -1 }),
				inspect.with("limit", nil, func(_ *scene, o *i, _ string) { o.Limit = 1_001 }),
				inspect.with("registers", []string{"?", "eA"}, func(_ *scene, o *i, v string) { o.Registers = v }),
				inspect.with("conversations", []string{"?", "e"}, func(_ *scene, o *i, v string) { o.Conversations = v }),
			},
		},
		"Router.Subscribe": {
			text: "subscribe", do: func(ctx context.Context, s *scene) error { return subscribe(1)(ctx, s, "") }, closes: true,
			fields: []badField{{"buffer", nil, subscribe(0)}, {"buffer", nil, subscribe(-1)}, {"buffer", nil, subscribe(1<<20 + 1)}},
		},
		"Subscription.Next": {
			text: "next", do: func(ctx context.Context, s *scene) error {
				require.Error(s.t, given(s.r.Send(ctx, fanout.SendRequest{}))) // which is an event
				return given(s.sub.Next(ctx))
			},
			fails: []failure{
				{is: fanout.ErrClosed, call: func(ctx context.Context, s *scene) error { s.sub.Close(); return s.drained(ctx) }},
				{is: context.DeadlineExceeded, call: func(ctx context.Context, s *scene) error {
					ctx, cancel := context.WithTimeout(ctx, time.Minute)
					defer cancel()
					return s.drained(ctx)
				}},
			},
		},
		"Router.Flush": {text: "flush", do: flush, fails: []failure{
			{is: errAway, call: func(ctx context.Context, s *scene) error {
				defer s.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Err: errAway})()
				return flush(ctx, s)
			}},
			{is: context.DeadlineExceeded, call: hung(flush)},
		}},
		"Router.Drain": {text: "drain", do: drain, fails: []failure{
			{is: errAway, call: func(ctx context.Context, s *scene) error {
				defer s.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Err: errAway})()
				return drain(ctx, s)
			}},
			{is: context.DeadlineExceeded, call: hung(drain)},
		}},
		"Router.Close": {
			text: "close", shuts: true, do: func(ctx context.Context, s *scene) error { return s.r.Close(ctx) },
			fails: []failure{{is: context.DeadlineExceeded, call: hung(func(ctx context.Context, s *scene) error { return s.r.Close(ctx) })}},
		},
	}
}

// drained reads the subscription until it has an error.
func (s *scene) drained(ctx context.Context) error {
	for {
		if _, err := s.sub.Next(ctx); err != nil {
			return err
		}
	}
}

// hung makes a call while the store does not take cursors.
func hung(call func(ctx context.Context, s *scene) error) func(ctx context.Context, s *scene) error {
	return func(ctx context.Context, s *scene) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		defer s.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Wait: make(chan struct{})})()
		return call(ctx, s)
	}
}

func newRow() called {
	with := func(field string, spoil func(c *fanout.Config)) badField {
		return badField{field, nil, func(_ context.Context, s *scene, _ string) error {
			var c fanout.Config
			c.Push.Hook = func(context.Context, fanout.Push) error { return nil }
			spoil(&c)
			return given(fanout.New(s.reg, s.st, c))
		}}
	}
	return called{
		text: "new",
		do: func(ctx context.Context, s *scene) error {
			st := memstore.New(memstore.Config{})
			reg, err := session.New(st, session.Config{})
			require.NoError(s.t, err)
			r, err := fanout.New(reg, st, fanout.Config{})
			require.NoError(s.t, err)
			require.NoError(s.t, reg.Close(context.WithoutCancel(ctx)))
			require.NoError(s.t, r.Close(context.WithoutCancel(ctx)))
			return st.Close(context.WithoutCancel(ctx))
		},
		fields: []badField{
			{"registry", nil, func(_ context.Context, s *scene, _ string) error {
				return given(fanout.New(nil, s.st, fanout.Config{}))
			}},
			{"store", nil, func(_ context.Context, s *scene, _ string) error {
				return given(fanout.New(s.reg, nil, fanout.Config{}))
			}},
			with("Window", func(c *fanout.Config) { c.Window = -1 }),
			with("WindowBytes", func(c *fanout.Config) { c.WindowBytes = -1 }),
			with("LiveRing", func(c *fanout.Config) { c.LiveRing = -1 }),
			with("LiveLife", func(c *fanout.Config) { c.LiveLife = -1 }),
			with("AckWait", func(c *fanout.Config) { c.AckWait = -1 }),
			with("FrameWrite", func(c *fanout.Config) { c.FrameWrite = -1 }),
			with("CursorFlush", func(c *fanout.Config) { c.CursorFlush = -1 }),
			with("PageEntries", func(c *fanout.Config) { c.PageEntries = -1 }),
			with("PageBytes", func(c *fanout.Config) { c.PageBytes = -1 }),
			with("Push.Delay", func(c *fanout.Config) { c.Push.Delay = -1 }),
			with("Push.MaxAge", func(c *fanout.Config) { c.Push.MaxAge = time.Second }),
			with("Push.HookTimeout", func(c *fanout.Config) { c.Push.HookTimeout = -1 }),
			with("Push.Tries", func(c *fanout.Config) { c.Push.Tries = -1 }),
			with("Push.Concurrency", func(c *fanout.Config) { c.Push.Concurrency = -1 }),
			with("Push.Pending", func(c *fanout.Config) { c.Push.Pending = -1 }),
			with("Push.Decide", func(c *fanout.Config) {
				c.Push.Hook = nil
				c.Push.Decide = func(context.Context, fanout.PushQuestion) ([]event.DeviceID, error) { return nil, nil }
			}),
			with("Push.Rules.Preset", func(c *fanout.Config) { c.Push.Rules.Preset = "odd" }),
			with("Push.Rules.Desktops", func(c *fanout.Config) { c.Push.Rules.Desktops = []event.Platform{"Windows"} }),
		},
		fails: []failure{{is: session.ErrListening, call: func(_ context.Context, s *scene) error {
			return given(fanout.New(s.reg, s.st, fanout.Config{}))
		}}},
	}
}

// ofConnection are the fields that Attach and Connect have in common. The description is that of description(q).
func ofConnection[Q any](r request[Q], of func(q *Q) *fanout.AttachRequest, description func(q *Q) *session.Description) []badField {
	texts := append([]string{strings.Repeat("a", event.MaxNameRunes+1)}, faulttest.Texts...)
	return []badField{
		r.with("tab", faulttest.IDs[1:], func(_ *scene, q *Q, v string) { of(q).Tab = v }),
		r.with("window", nil, func(_ *scene, q *Q, _ string) { of(q).Window = -1 }),
		r.with("windowBytes", nil, func(_ *scene, q *Q, _ string) { of(q).WindowBytes = 1 << 30 }),
		r.with("ackWait", nil, func(_ *scene, q *Q, _ string) { of(q).AckWait = -1 }),
		r.with("frameWrite", nil, func(_ *scene, q *Q, _ string) { of(q).FrameWrite = -1 }),
		r.with("description.name", texts, func(_ *scene, q *Q, v string) { description(q).Name = v }),
		r.with("description.IP", texts, func(_ *scene, q *Q, v string) { description(q).IP = v }),
		r.with("description", nil, func(_ *scene, q *Q, _ string) { description(q).Extension = make([]byte, 1_025) }),
	}
}

// attaching is a call of Attach or Connect. A connection that comes into being is detached at once.
type attaching struct {
	q    fanout.AttachRequest
	in   session.LoginRequest // of Connect
	conn transport.Conn
}

func attachRows() map[string]called {
	attach := request[attaching]{
		func(s *scene) attaching {
			return attaching{conn: mute{}, q: fanout.AttachRequest{
				Account: "ann", Login: s.d.Login(), Token: s.d.Token(), Tab: "2", Description: &session.Description{},
			}}
		},
		func(ctx context.Context, s *scene, q attaching) error {
			a, err := s.r.Attach(ctx, q.q, q.conn)
			if err == nil {
				a.Detach()
			}
			return err
		},
	}
	connect := request[attaching]{
		func(*scene) attaching { return attaching{conn: mute{}, in: mqtt("m1")} },
		func(ctx context.Context, s *scene, q attaching) error {
			a, _, err := s.r.Connect(ctx, q.in, q.q, q.conn)
			if err == nil {
				a.Detach()
			}
			return err
		},
	}
	type q = attaching
	of := func(q *q) *fanout.AttachRequest { return &q.q }
	return map[string]called{
		"Router.Attach": {
			text: "attach", do: attach.do, closes: true, reads: true,
			fields: append(ofConnection(attach, of, func(q *q) *session.Description { return q.q.Description }),
				attach.with("account", faulttest.IDs, func(_ *scene, q *q, v string) { q.q.Account = event.Account(v) }),
				attach.with("login", faulttest.Secrets, func(_ *scene, q *q, v string) { q.q.Login = event.LoginID(v) }),
				attach.with("token", faulttest.Secrets, func(_ *scene, q *q, v string) { q.q.Token = event.ResumeToken(v) }),
				attach.with("device", nil, func(_ *scene, q *q, _ string) { q.q.Device = "a1" }),
				attach.with("device", faulttest.IDs[1:], func(_ *scene, q *q, v string) {
					q.q.Vouched, q.q.Login, q.q.Token, q.q.Device = true, "", "", event.DeviceID(v)
				}),
				attach.with("conn", nil, func(_ *scene, q *q, _ string) { q.conn = nil }),
			),
			fails: []failure{
				attach.fails(session.ErrUnknownLogin, func(_ *scene, q *q) { q.q.Login = unknown() }),
				attach.fails(session.ErrUnknownLogin, func(_ *scene, q *q) { q.q.Token = event.NewResumeToken() }),
				{is: session.ErrEnded, has: as[*session.EndedError], call: func(ctx context.Context, s *scene) error {
					q := attach.good(s)
					s.kick()
					return attach.call(ctx, s, q)
				}},
				{is: session.ErrDraining, call: func(ctx context.Context, s *scene) error {
					q := attach.good(s)
					require.NoError(s.t, s.reg.Drain(ctx, session.DrainRequest{}))
					return attach.call(ctx, s, q)
				}},
			},
		},
		"Router.Connect": {
			text: "connect", do: connect.do, closes: true, reads: true,
			fields: append(ofConnection(connect, of, func(q *q) *session.Description { return &q.in.Description }),
				connect.with("account", faulttest.IDs, func(_ *scene, q *q, v string) { q.in.Account = event.Account(v) }),
				connect.with("account", nil, func(_ *scene, q *q, _ string) { q.q.Account = "bob" }),
				connect.with("device", faulttest.IDs, func(_ *scene, q *q, v string) { q.in.Device = event.DeviceID(v) }),
				connect.with("device", nil, func(_ *scene, q *q, _ string) { q.q.Device = "m1" }),
				connect.with("login", nil, func(s *scene, q *q, _ string) { q.q.Login = s.d.Login() }),
				connect.with("token", nil, func(s *scene, q *q, _ string) { q.q.Token = s.d.Token() }),
				connect.with("description", nil, func(_ *scene, q *q, _ string) { q.q.Description = &session.Description{} }),
				connect.with("platform", faulttest.Platforms, func(_ *scene, q *q, v string) { q.in.Platform = event.Platform(v) }),
				connect.with("wish", nil, func(_ *scene, q *q, _ string) { q.in.Wish = 9 }),
				connect.with("conn", nil, func(_ *scene, q *q, _ string) { q.conn = nil }),
			),
			fails: []failure{
				connect.fails(session.ErrRefused, func(_ *scene, q *q) { q.in.Platform = "ipad" }),
				connect.fails(session.ErrEnded, func(s *scene, q *q) { s.kick(); q.in.Device = "a1" }),
				connect.fails(session.ErrBanned, func(s *scene, _ *q) {
					require.NoError(s.t, given(s.reg.Ban(context.Background(), session.BanRequest{Account: "ann"})))
				}),
			},
		},
	}
}

func handleRows() map[string]called {
	handle := func(f event.ClientFrame) func(context.Context, *scene) error {
		return func(ctx context.Context, s *scene) error { return s.d.attachment().Handle(ctx, f) }
	}
	decode := func(line string) func(context.Context, *scene) error {
		return func(ctx context.Context, s *scene) error { return s.d.attachment().HandleJSON(ctx, []byte(line)) }
	}
	after := func(prepare func(s *scene), call func(context.Context, *scene) error) func(context.Context, *scene) error {
		return func(ctx context.Context, s *scene) error { prepare(s); return call(ctx, s) }
	}
	confirm := func(prepare func(s *scene), call func(ctx context.Context, a *fanout.Attachment) error) func(context.Context, *scene) error {
		return func(ctx context.Context, s *scene) error {
			a := s.pending()
			prepare(s)
			return call(ctx, a)
		}
	}
	away := func(s *scene) { s.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Err: errAway}) }
	violation, detached := as[*fanout.ProtocolError], as[*fanout.DetachedError]
	return map[string]called{
		"Attachment.Handle": {text: "handle", do: handle(&event.Ping{Nonce: "n"}), closes: true, fails: []failure{
			{has: as[*event.InvalidError], call: handle(nil)},
			{has: violation, call: handle(&event.Ack{Position: event.Position{Seq: 1 << 60}})},
			{has: violation, call: handle(&event.Nack{Position: event.Position{Seq: 1 << 60}})},
			{is: fanout.ErrDetached, has: detached, call: after((*scene).kick, handle(&event.Ping{}))},
			{is: fanout.ErrDetached, has: detached, call: after((*scene).kick, handle(&event.Ack{}))},
			{is: errAway, call: confirm(away, func(ctx context.Context, a *fanout.Attachment) error { return a.Handle(ctx, &event.TokenStored{}) })},
		}},
		"Attachment.HandleJSON": {text: "handle JSON", do: decode(`{"t":"ping","nonce":"x"}`), closes: true, fails: []failure{
			{has: violation, call: decode(`{`)},
			{has: violation, call: decode(`{"t":"none"}`)},
			{is: fanout.ErrDetached, has: detached, call: after((*scene).kick, decode(`{"t":"ping","nonce":"x"}`))},
			{is: fanout.ErrDetached, has: detached, call: after((*scene).kick, decode(`{`))},
			{is: errAway, call: confirm(away, func(ctx context.Context, a *fanout.Attachment) error {
				return a.HandleJSON(ctx, []byte(`{"t":"tokenStored"}`))
			})},
		}},
	}
}
