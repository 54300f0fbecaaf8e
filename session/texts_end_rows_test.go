package session_test

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault/faulttest"
	"github.com/manydevice/manydevice/internal/stream"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

func kickRow() called {
	kick := func(field string, values []string, spoil func(s *scene, q *session.KickRequest, v string)) badField {
		return badField{field, values, func(ctx context.Context, s *scene, v string) error {
			q := session.KickRequest{Account: "ann", Logins: []event.LoginID{s.a.id}}
			spoil(s, &q, v)
			return given(s.reg.Kick(ctx, q))
		}}
	}
	kicked := func(is error, prepare func(s *scene, q *session.KickRequest)) failure {
		return failure{is, func(ctx context.Context, s *scene) error {
			q := session.KickRequest{Account: "ann", Logins: []event.LoginID{s.a.id}, By: s.b.id}
			prepare(s, &q)
			return given(s.reg.Kick(ctx, q))
		}}
	}
	return called{
		text: "kick", steps: true,
		do: func(ctx context.Context, s *scene) error {
			return given(s.reg.Kick(ctx, session.KickRequest{Account: "ann", Filter: func(session.Session) bool { return true }}))
		},
		fields: []badField{
			kick("account", faulttest.Accounts, func(_ *scene, q *session.KickRequest, v string) { q.Account = event.Account(v) }),
			kick("logins", nil, func(_ *scene, q *session.KickRequest, _ string) { q.Logins = nil }),
			kick("logins", nil, func(_ *scene, q *session.KickRequest, _ string) { q.All = true }),
			kick("logins[1]", faulttest.Logins, func(_ *scene, q *session.KickRequest, v string) {
				q.Logins = append(q.Logins, event.LoginID(v))
			}),
			kick("others", faulttest.Logins[1:], func(_ *scene, q *session.KickRequest, v string) {
				q.Logins, q.Others = nil, event.LoginID(v)
			}),
			kick("by", faulttest.Logins[1:], func(_ *scene, q *session.KickRequest, v string) { q.By = event.LoginID(v) }),
			kick("platform", faulttest.Platforms[1:], func(_ *scene, q *session.KickRequest, v string) {
				q.Logins, q.Platform = nil, event.Platform(v)
			}),
			kick("reason", []string{"x", string(event.Lost)}, func(_ *scene, q *session.KickRequest, v string) { q.Reason = event.Reason(v) }),
		},
		fails: []failure{
			kicked(session.ErrProtected, func(s *scene, _ *session.KickRequest) { s.primary("a1") }),
			kicked(session.ErrNotFound, func(_ *scene, q *session.KickRequest) { q.By = event.NewLoginID() }),
			kicked(session.ErrNotFound, func(_ *scene, q *session.KickRequest) { q.Logins, q.Others = nil, event.NewLoginID() }),
			kicked(session.ErrHookFailed, func(s *scene, _ *session.KickRequest) { s.broken.Store(true) }),
		},
	}
}

func endRows() map[string]called {
	remove := func(q session.RemoveDeviceRequest, spoil func(q *session.RemoveDeviceRequest, v string)) func(context.Context, *scene, string) error {
		return func(ctx context.Context, s *scene, v string) error {
			q := q
			spoil(&q, v)
			return s.reg.RemoveDevice(ctx, q)
		}
	}
	a1 := session.RemoveDeviceRequest{Account: "ann", Device: "a1"}
	return map[string]called{
		"Registry.Kick": kickRow(),
		"Registry.Logout": {
			text: "logout", steps: true, do: func(ctx context.Context, s *scene) error { return s.reg.Logout(ctx, "ann", s.a.id) },
			fields: []badField{
				{"account", faulttest.Accounts, func(ctx context.Context, s *scene, v string) error {
					return s.reg.Logout(ctx, event.Account(v), s.a.id)
				}},
				{"login", faulttest.Logins, func(ctx context.Context, s *scene, v string) error {
					return s.reg.Logout(ctx, "ann", event.LoginID(v))
				}},
			},
			fails: []failure{{session.ErrNotFound, func(ctx context.Context, s *scene) error {
				return s.reg.Logout(ctx, "ann", event.NewLoginID())
			}}},
		},
		"Registry.RemoveDevice": {
			text: "remove device", steps: true, do: func(ctx context.Context, s *scene) error { return s.reg.RemoveDevice(ctx, a1) },
			fields: []badField{
				{"account", faulttest.Accounts, remove(a1, func(q *session.RemoveDeviceRequest, v string) { q.Account = event.Account(v) })},
				{"device", faulttest.IDs, remove(a1, func(q *session.RemoveDeviceRequest, v string) { q.Device = event.DeviceID(v) })},
				{"by", faulttest.Logins[1:], remove(a1, func(q *session.RemoveDeviceRequest, v string) { q.By = event.LoginID(v) })},
			},
			fails: []failure{
				{session.ErrNotFound, func(ctx context.Context, s *scene) error {
					return s.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: "none"})
				}},
				{session.ErrNotFound, func(ctx context.Context, s *scene) error {
					return s.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: "a1", By: event.NewLoginID()})
				}},
				{session.ErrProtected, func(ctx context.Context, s *scene) error {
					s.primary("a1")
					return s.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: "a1", By: s.b.id})
				}},
				{session.ErrHookFailed, func(ctx context.Context, s *scene) error {
					s.broken.Store(true)
					return s.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: "a1", By: s.b.id})
				}},
			},
		},
	}
}

func hostRows() map[string]called {
	ban := ofAccount("ban", true, func(ctx context.Context, s *scene, a event.Account) error {
		return given(s.reg.Ban(ctx, session.BanRequest{Account: a}))
	})
	ban.fields = append(ban.fields, badField{"until", nil, func(ctx context.Context, s *scene, _ string) error {
		return given(s.reg.Ban(ctx, session.BanRequest{Account: "ann", Until: time.Now().Add(-time.Second)}))
	}})
	erase := ofAccount("delete account", true, func(ctx context.Context, s *scene, a event.Account) error {
		return given(s.reg.DeleteAccount(ctx, session.DeleteRequest{Account: a}))
	})
	primary := ofAccount("set primary", true, func(ctx context.Context, s *scene, a event.Account) error {
		return s.reg.SetPrimary(ctx, a, "a1")
	})
	primary.fields = append(primary.fields, badField{"device", faulttest.IDs[1:], func(ctx context.Context, s *scene, v string) error {
		return s.reg.SetPrimary(ctx, "ann", event.DeviceID(v))
	}})
	primary.fails = []failure{{session.ErrNotFound, func(ctx context.Context, s *scene) error { return s.reg.SetPrimary(ctx, "ann", "none") }}}
	at := func(a event.Account, d event.DeviceID, seq uint64) session.ParkRequest {
		return session.ParkRequest{Account: a, Device: d, Position: event.Position{Epoch: 1, Seq: seq}}
	}
	park := ofAccount("park", true, func(ctx context.Context, s *scene, a event.Account) error {
		return given(s.reg.Park(ctx, at(a, "a1", 7)))
	})
	park.fields = append(park.fields,
		badField{"device", faulttest.IDs, func(ctx context.Context, s *scene, v string) error {
			return given(s.reg.Park(ctx, at("ann", event.DeviceID(v), 7)))
		}},
		badField{"position.seq", nil, func(ctx context.Context, s *scene, _ string) error { return given(s.reg.Park(ctx, at("ann", "a1", 0))) }})
	park.fails = []failure{
		{session.ErrNotFound, func(ctx context.Context, s *scene) error { return given(s.reg.Park(ctx, at("ann", "none", 7))) }},
		{session.ErrTooManyParked, func(ctx context.Context, s *scene) (err error) {
			for seq := uint64(1); err == nil && seq <= session.MaxParked+1; seq++ {
				err = given(s.reg.Park(ctx, at("ann", "a1", seq)))
			}
			return err
		}},
	}
	return map[string]called{
		"Registry.Ban": ban, "Registry.DeleteAccount": erase, "Registry.SetPrimary": primary, "Registry.Park": park,
		"Registry.Unban": ofAccount("unban", true, func(ctx context.Context, s *scene, a event.Account) error { return s.reg.Unban(ctx, a) }),
		"Registry.SetPolicy": {
			text: "set policy", do: func(_ context.Context, s *scene) error { return s.reg.SetPolicy(s.reg.Policy()) },
			fields: []badField{{"policy", nil, func(_ context.Context, s *scene, _ string) error { return s.reg.SetPolicy(nil) }}},
		},
		"Registry.Enforce": {
			text: "enforce", steps: true,
			do: func(ctx context.Context, s *scene) error { return given(s.reg.Enforce(ctx, session.EnforceRequest{})) },
		},
	}
}

func streamRows() map[string]called {
	hear := &stream.Listener[session.Change]{Hear: func(session.Change) {}}
	subscribe := func(size int) func(context.Context, *scene, string) error {
		return func(_ context.Context, s *scene, _ string) error { return given(s.reg.Subscribe(size)) }
	}
	return map[string]called{
		"Registry.Listen": {
			text: "listen", do: func(_ context.Context, s *scene) error {
				stop, err := s.reg.Listen(hear)
				if err == nil {
					stop()
				}
				return err
			},
			fields: []badField{
				{"listener", nil, func(_ context.Context, s *scene, _ string) error { return given(s.reg.Listen(nil)) }},
				{"listener", nil, func(_ context.Context, s *scene, _ string) error {
					return given(s.reg.Listen(&stream.Listener[session.Change]{}))
				}},
			},
			fails: []failure{{session.ErrListening, func(_ context.Context, s *scene) error {
				if stop, err := s.reg.Listen(hear); err == nil {
					defer stop()
				}
				return given(s.reg.Listen(hear))
			}}},
		},
		"Registry.Hold": {
			text: "hold", do: func(_ context.Context, s *scene) error {
				drop, err := s.reg.Hold()
				if err == nil {
					drop()
				}
				return err
			},
			fails: []failure{{store.ErrInUse, func(ctx context.Context, s *scene) error {
				s.shut(s.reg)
				drop, err := s.store.Claim(false)
				require.NoError(s.t, err)
				defer drop()
				return given(s.reg.Hold())
			}}},
		},
		"Registry.Subscribe": {
			text: "subscribe", do: func(ctx context.Context, s *scene) error { return subscribe(1)(ctx, s, "") },
			fields: []badField{{"buffer", nil, subscribe(0)}, {"buffer", nil, subscribe(-1)}, {"buffer", nil, subscribe(1<<20 + 1)}},
			fails: []failure{{session.ErrClosed, func(ctx context.Context, s *scene) error {
				s.shut(s.reg)
				return subscribe(1)(ctx, s, "")
			}}},
		},
		"Subscription.Next": {
			text: "next", do: func(ctx context.Context, s *scene) error { return given(s.sub.Next(ctx)) },
			fails: []failure{
				{session.ErrClosed, func(ctx context.Context, s *scene) error {
					sub := s.subscribe(s.reg)
					sub.Close()
					return given(sub.Next(ctx))
				}},
				{context.DeadlineExceeded, func(ctx context.Context, s *scene) error {
					ctx, cancel := context.WithTimeout(ctx, time.Minute)
					defer cancel()
					sub := s.subscribe(s.reg)
					defer sub.Close()
					return given(sub.Next(ctx))
				}},
			},
		},
		"DrainRequest.Validate": {
			text: "drain", do: func(context.Context, *scene) error { return new(session.DrainRequest).Validate() },
			fields: []badField{
				{"Over", nil, func(context.Context, *scene, string) error { return (&session.DrainRequest{Over: 30}).Validate() }},
				{"Back", nil, func(context.Context, *scene, string) error {
					return (&session.DrainRequest{Back: 25 * time.Hour}).Validate()
				}},
			},
		},
		"Registry.Drain": {
			text: "drain", do: func(ctx context.Context, s *scene) error { return s.reg.Drain(ctx, session.DrainRequest{}) },
			fails: []failure{{context.DeadlineExceeded, func(ctx context.Context, s *scene) error {
				ctx, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				return s.reg.Drain(ctx, session.DrainRequest{Over: time.Hour, Back: -1})
			}}},
		},
		"Registry.Close": {
			text: "close", do: func(ctx context.Context, s *scene) error { return s.reg.Close(ctx) },
			fails: []failure{{context.DeadlineExceeded, func(ctx context.Context, s *scene) error {
				s.a.wire.onClose = func(event.Closed) error { time.Sleep(time.Minute); return nil }
				ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				defer s.pass(2 * time.Minute) // until the host's Close is over
				return s.reg.Close(ctx)
			}}},
		},
	}
}
