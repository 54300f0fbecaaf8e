package session_test

import (
	"context"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault/faulttest"
	"github.com/manydevice/manydevice/session"
)

// ofLogin are the fields of a login request. The device may be empty.
func ofLogin(call func(ctx context.Context, s *scene, q session.LoginRequest) error) []badField {
	with := func(field string, values []string, spoil func(q *session.LoginRequest, v string)) badField {
		return badField{field, values, func(ctx context.Context, s *scene, v string) error {
			q := request("ann", "a3", "ios")
			spoil(&q, v)
			return call(ctx, s, q)
		}}
	}
	return append(ofDescription(with, func(q *session.LoginRequest) *session.Description { return &q.Description }),
		with("account", faulttest.Accounts, func(q *session.LoginRequest, v string) { q.Account = event.Account(v) }),
		with("device", faulttest.IDs[1:], func(q *session.LoginRequest, v string) { q.Device = event.DeviceID(v) }),
		with("platform", faulttest.Platforms, func(q *session.LoginRequest, v string) { q.Platform = event.Platform(v) }),
		with("wish", nil, func(q *session.LoginRequest, _ string) { q.Wish = 9 }),
	)
}

func ofDescription[Q any](with func(string, []string, func(*Q, string)) badField, of func(*Q) *session.Description) []badField {
	return []badField{
		with("description.extension", nil, func(q *Q, _ string) { of(q).Extension = make([]byte, 1_025) }),
	}
}

// refusals are what a login is refused for.
func refusals(call func(ctx context.Context, s *scene, q session.LoginRequest) error) []failure {
	try := func(is error, prepare func(s *scene), q session.LoginRequest) failure {
		return failure{is, func(ctx context.Context, s *scene) error {
			prepare(s)
			return call(ctx, s, q)
		}}
	}
	nothing := func(*scene) {}
	return []failure{
		try(session.ErrRefused, nothing, request("ann", "unwanted", "ios")),
		try(session.ErrHookFailed, nothing, request("ann", "asked", "ios")),
		try(session.ErrHookFailed, func(s *scene) { s.broken.Store(true) }, request("ann", "a3", "ios")),
		try(session.ErrBanned, func(s *scene) { s.ban("ann") }, request("ann", "a3", "ios")),
		try(session.ErrDraining, func(s *scene) { s.drain() }, request("ann", "a3", "ios")),
		{session.ErrLimited, func(ctx context.Context, s *scene) error {
			s.shut(s.reg)
			s.now.config.LoginsPerMinute = 1
			s.open(s.now)
			for i := range 50 {
				if err := call(ctx, s, request("ann", event.DeviceID("d"+strings.Repeat("x", i)), "ios")); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

func loginRows() map[string]called {
	login := func(ctx context.Context, s *scene, q session.LoginRequest) error { return given(s.reg.Login(ctx, q)) }
	replacing := func(ctx context.Context, s *scene, q session.LoginRequest) error {
		return given(s.reg.LoginReplacing(ctx, q))
	}
	dry := func(ctx context.Context, s *scene, q session.LoginRequest) error { return given(s.reg.DryRun(ctx, q)) }
	in := func(call func(context.Context, *scene, session.LoginRequest) error) func(context.Context, *scene) error {
		return func(ctx context.Context, s *scene) error { return call(ctx, s, request("ann", "a3", "ios")) }
	}
	return map[string]called{
		"Registry.Login": {text: "login", steps: true, do: in(login), fields: ofLogin(login), fails: refusals(login)},
		"Registry.LoginReplacing": {
			text: "login replacing", steps: true, do: in(replacing),
			fields: append(ofLogin(replacing), badField{"logins[1]", faulttest.Logins, func(ctx context.Context, s *scene, v string) error {
				return given(s.reg.LoginReplacing(ctx, request("ann", "a3", "ios"), s.a.id, event.LoginID(v)))
			}}),
			fails: append(refusals(replacing),
				failure{session.ErrNotFound, func(ctx context.Context, s *scene) error {
					return given(s.reg.LoginReplacing(ctx, request("ann", "a3", "ios"), event.NewLoginID()))
				}},
				failure{session.ErrProtected, func(ctx context.Context, s *scene) error {
					s.primary("a1")
					return given(s.reg.LoginReplacing(ctx, request("ann", "a3", "ios"), s.a.id))
				}}),
		},
		"Registry.DryRun": {text: "dry run", do: in(dry), fields: ofLogin(dry), fails: []failure{
			{session.ErrBanned, func(ctx context.Context, s *scene) error { s.ban("ann"); return in(dry)(ctx, s) }},
			{session.ErrHookFailed, func(ctx context.Context, s *scene) error { s.broken.Store(true); return in(dry)(ctx, s) }},
		}},
	}
}

func (s *scene) ban(a event.Account) {
	if _, err := s.reg.Ban(context.Background(), session.BanRequest{Account: a}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) drain() {
	if err := s.reg.Drain(context.Background(), session.DrainRequest{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) primary(d event.DeviceID) {
	if err := s.reg.SetPrimary(context.Background(), "ann", d); err != nil {
		s.t.Fatal(err)
	}
}

func attachRow() called {
	attach := func(ctx context.Context, s *scene, q session.AttachRequest) error {
		return given(s.reg.Attach(ctx, q, new(wire)))
	}
	with := func(field string, values []string, spoil func(q *session.AttachRequest, v string)) badField {
		return badField{field, values, func(ctx context.Context, s *scene, v string) error {
			q := session.AttachRequest{Account: "ann", Login: s.a.id, Token: s.a.token, Description: &session.Description{}}
			spoil(&q, v)
			return attach(ctx, s, q)
		}}
	}
	again := func(is error, prepare func(s *scene, q *session.AttachRequest)) failure {
		return failure{is, func(ctx context.Context, s *scene) error {
			q := session.AttachRequest{Account: "ann", Login: s.a.id, Token: s.a.token}
			prepare(s, &q)
			return attach(ctx, s, q)
		}}
	}
	return called{
		text: "attach", steps: true,
		do: func(ctx context.Context, s *scene) error {
			return attach(ctx, s, session.AttachRequest{Account: "ann", Login: s.a.id, Token: s.a.token})
		},
		fields: append(ofDescription(with, func(q *session.AttachRequest) *session.Description { return q.Description }),
			with("account", faulttest.Accounts, func(q *session.AttachRequest, v string) { q.Account = event.Account(v) }),
			with("login", faulttest.Logins, func(q *session.AttachRequest, v string) { q.Login = event.LoginID(v) }),
			with("token", faulttest.Secrets, func(q *session.AttachRequest, v string) { q.Token = event.ResumeTokenOf(v) }),
			with("device", nil, func(q *session.AttachRequest, _ string) { q.Device = "a1" }),
			with("token", nil, func(q *session.AttachRequest, _ string) { q.Vouched = true }),
			with("login", nil, func(q *session.AttachRequest, _ string) {
				q.Vouched, q.Token, q.Device = true, event.ResumeToken{}, "a1"
			}),
			with("login", nil, func(q *session.AttachRequest, _ string) { q.Vouched, q.Token, q.Login = true, event.ResumeToken{}, "" }),
			with("login", faulttest.Logins[1:], func(q *session.AttachRequest, v string) {
				q.Vouched, q.Token, q.Login = true, event.ResumeToken{}, event.LoginID(v)
			}),
			with("device", faulttest.IDs[1:], func(q *session.AttachRequest, v string) {
				q.Vouched, q.Token, q.Login, q.Device = true, event.ResumeToken{}, "", event.DeviceID(v)
			}),
			with("tab", faulttest.IDs[1:], func(q *session.AttachRequest, v string) { q.Tab = v }),
			badField{"conn", nil, func(ctx context.Context, s *scene, _ string) error {
				return given(s.reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: s.a.id, Token: s.a.token}, nil))
			}},
		),
		fails: []failure{
			again(session.ErrUnknownLogin, func(s *scene, q *session.AttachRequest) { q.Token = s.b.token }),
			again(session.ErrEnded, func(s *scene, _ *session.AttachRequest) { s.kick("ann", s.a.id) }),
			again(session.ErrDraining, func(s *scene, _ *session.AttachRequest) { s.drain() }),
			again(errDown, func(_ *scene, q *session.AttachRequest) {
				q.Delivery = delivery(func(context.Context, *session.Connection) error { return errDown }, nil)
			}),
			{session.ErrLimited, func(ctx context.Context, s *scene) (err error) {
				s.shut(s.reg)
				s.now.config.AttachesPerAccount = 1
				s.open(s.now)
				for i := 0; err == nil && i < 50; i++ {
					err = attach(ctx, s, session.AttachRequest{Account: "ann", Login: s.a.id, Token: s.a.token})
				}
				return err
			}},
		},
	}
}

func connectionRows() map[string]called {
	return map[string]called{
		"Registry.Attach": attachRow(),
		"Connection.Send": {
			text: "send", do: func(ctx context.Context, s *scene) error { return s.a.conn.Send(ctx, nil) },
			fails: []failure{
				{session.ErrFenced, func(ctx context.Context, s *scene) error {
					s.kick("ann", s.a.id)
					return s.a.conn.Send(ctx, nil)
				}},
				{errDown, func(ctx context.Context, s *scene) error {
					s.a.wire.onSend = func(context.Context) error { return errDown }
					return s.a.conn.Send(ctx, nil)
				}},
			},
		},
		"Registry.ConfirmToken": {
			text:   "confirm token",
			do:     func(ctx context.Context, s *scene) error { return s.reg.ConfirmToken(ctx, s.a.conn) },
			fields: []badField{{"connection", nil, func(ctx context.Context, s *scene, _ string) error { return s.reg.ConfirmToken(ctx, nil) }}},
			fails: []failure{
				{session.ErrEnded, func(ctx context.Context, s *scene) error {
					g := s.pending()
					s.kick("bob", g.id)
					return s.reg.ConfirmToken(ctx, g.conn)
				}},
				{session.ErrNotFound, func(ctx context.Context, s *scene) error {
					g := s.pending()
					if _, err := s.reg.DeleteAccount(ctx, session.DeleteRequest{Account: "bob"}); err != nil {
						return err
					}
					return s.reg.ConfirmToken(ctx, g.conn)
				}},
				{errDown, func(ctx context.Context, s *scene) error {
					g := s.pending()
					s.away()
					return s.reg.ConfirmToken(ctx, g.conn)
				}},
				{session.ErrClosed, func(ctx context.Context, s *scene) error {
					g := s.pending()
					s.shut(s.reg)
					return s.reg.ConfirmToken(ctx, g.conn)
				}},
				{context.Canceled, func(ctx context.Context, s *scene) error {
					g := s.pending()
					ctx, cancel := context.WithCancel(ctx)
					cancel()
					return s.reg.ConfirmToken(ctx, g.conn)
				}},
			},
		},
	}
}

// pending returns a device with a token that it has not confirmed yet.
func (s *scene) pending() *gadget {
	g := s.join("bob", "b1", "ios")
	g.conn.Detach()
	s.pass(25 * time.Hour)
	g.attach()
	if g.conn.Token().IsZero() {
		s.t.Fatal("no token is due")
	}
	return g
}
