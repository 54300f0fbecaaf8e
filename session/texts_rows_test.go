package session_test

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault/faulttest"
	"github.com/manydevice/manydevice/internal/stream"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport/membus"
)

// ofAccount is the row of a call that takes an account and nothing else that can be wrong.
func ofAccount(text string, steps bool, call func(ctx context.Context, s *scene, a event.Account) error) called {
	return called{
		text: text, steps: steps, do: func(ctx context.Context, s *scene) error { return call(ctx, s, "ann") },
		fields: []badField{{"account", faulttest.IDs, func(ctx context.Context, s *scene, v string) error {
			return call(ctx, s, event.Account(v))
		}}},
	}
}

// given drops what a call returns beside its error.
func given[T any](_ T, err error) error { return err }

// calledTable is what is known of every exported call that returns an error.
func calledTable() map[string]called {
	all := map[string]called{"New": newRow()}
	for _, part := range []map[string]called{readRows(), loginRows(), endRows(), hostRows(), connectionRows()} {
		for name, c := range part {
			all[name] = c
		}
	}
	return all
}

func newRow() called {
	with := func(field string, spoil func(c *session.Config)) badField {
		return badField{field, nil, func(_ context.Context, s *scene, _ string) error {
			var c session.Config
			spoil(&c)
			return given(session.New(s.store, c))
		}}
	}
	leases := memstore.NewLeases()
	return called{
		text: "new",
		do: func(_ context.Context, s *scene) error {
			r, err := session.New(s.store, session.Config{Node: "other"})
			if err == nil {
				s.shut(r)
			}
			return err
		},
		fields: []badField{
			{"store", nil, func(context.Context, *scene, string) error { return given(session.New(nil, session.Config{})) }},
			with("TombstoneTTL", func(c *session.Config) { c.TombstoneTTL = -1 }),
			with("SweepInterval", func(c *session.Config) { c.SweepInterval = -1 }),
			with("HookTimeout", func(c *session.Config) { c.HookTimeout = -1 }),
			with("CloseTimeout", func(c *session.Config) { c.CloseTimeout = -1 }),
			with("MaxDevices", func(c *session.Config) { c.MaxDevices = 65 }),
			with("LoginsPerMinute", func(c *session.Config) { c.LoginsPerMinute = math.MaxInt }),
			with("FlapLimit", func(c *session.Config) { c.FlapLimit = math.MaxInt }),
			with("DecideLoginFallback", func(c *session.Config) { c.DecideLoginFallback = 9 }),
			with("DecidePolicyFallback", func(c *session.Config) { c.DecidePolicyFallback = 9 }),
			with("DecideVictimsFallback", func(c *session.Config) { c.DecideVictimsFallback = 9 }),
			with("Bus", func(c *session.Config) { c.Bus = membus.New(membus.Config{}) }),
			with("Node", func(c *session.Config) { c.Leases, c.Node = leases, "" }),
			with("Node", func(c *session.Config) { c.Leases, c.Node = leases, "a\nb" }),
			with("Node", func(c *session.Config) { c.Node = ".." }),
			with("LeaseLife", func(c *session.Config) { c.Leases, c.Node, c.LeaseLife = leases, "n", time.Millisecond }),
			{"Leases", nil, func(_ context.Context, s *scene, _ string) error {
				alone := withFaults(s.store)
				alone.hidden = true
				return given(session.New(alone, session.Config{Leases: leases, Node: "n"}))
			}},
		},
	}
}

func readRows() map[string]called {
	login := func(c called, call func(ctx context.Context, s *scene, id event.LoginID) error) called {
		c.fails = append(c.fails, failure{session.ErrNotFound, func(ctx context.Context, s *scene) error {
			return call(ctx, s, event.NewLoginID())
		}})
		return c
	}
	get := func(ctx context.Context, s *scene, id event.LoginID) error { return given(s.reg.Get(ctx, "ann", id)) }
	resolve := func(ctx context.Context, s *scene, id event.LoginID) error {
		return given(s.reg.Resolve(ctx, "ann", id))
	}
	current := func(ctx context.Context, s *scene, id event.LoginID) error {
		return given(s.reg.Current(ctx, "ann", id))
	}
	rows := map[string]called{
		"Registry.Banned": ofAccount("banned", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Banned(ctx, a))
		}),
		"Registry.Devices": ofAccount("devices", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Devices(ctx, a))
		}),
		"Registry.Inspect": ofAccount("inspect", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Inspect(ctx, a))
		}),
		"Registry.List": ofAccount("list", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.List(ctx, a, s.a.id))
		}),
		"Registry.Parked": ofAccount("parked", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Parked(ctx, a, 1))
		}),
		"Registry.Peers": ofAccount("peers", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Peers(ctx, a, s.a.id))
		}),
		"Registry.Presence": ofAccount("presence", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Presence(ctx, a))
		}),
		"Registry.Recent": ofAccount("recent", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Recent(ctx, a))
		}),
		"Registry.Get": login(ofAccount("get", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Get(ctx, a, s.a.id))
		}), get),
		"Registry.Resolve": login(ofAccount("resolve", false, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Resolve(ctx, a, s.a.id))
		}), resolve),
		"Registry.Current": login(ofAccount("current", true, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Current(ctx, a, s.a.id))
		}), current),
		"Registry.Authenticate": ofAccount("authenticate", true, func(ctx context.Context, s *scene, a event.Account) error {
			return given(s.reg.Authenticate(ctx, a, s.a.id, s.a.token))
		}),
	}
	c := rows["Registry.Current"]
	c.fields = append(c.fields, badField{"login", faulttest.Secrets, func(ctx context.Context, s *scene, v string) error {
		return current(ctx, s, event.LoginID(v))
	}})
	rows["Registry.Current"] = c
	c = rows["Registry.Authenticate"]
	c.fields = append(c.fields,
		badField{"login", faulttest.Secrets, func(ctx context.Context, s *scene, v string) error {
			return given(s.reg.Authenticate(ctx, "ann", event.LoginID(v), s.a.token))
		}},
		badField{"token", faulttest.Secrets, func(ctx context.Context, s *scene, v string) error {
			return given(s.reg.Authenticate(ctx, "ann", s.a.id, event.ResumeToken(v)))
		}})
	c.fails = []failure{
		{session.ErrUnknownLogin, func(ctx context.Context, s *scene) error {
			return given(s.reg.Authenticate(ctx, "ann", s.a.id, s.b.token))
		}},
		{session.ErrEnded, func(ctx context.Context, s *scene) error {
			s.kick("ann", s.a.id)
			return given(s.reg.Authenticate(ctx, "ann", s.a.id, s.a.token))
		}},
	}
	rows["Registry.Authenticate"] = c
	return rows
}

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
		with("account", faulttest.IDs, func(q *session.LoginRequest, v string) { q.Account = event.Account(v) }),
		with("device", faulttest.IDs[1:], func(q *session.LoginRequest, v string) { q.Device = event.DeviceID(v) }),
		with("platform", faulttest.Platforms, func(q *session.LoginRequest, v string) { q.Platform = event.Platform(v) }),
		with("wish", nil, func(q *session.LoginRequest, _ string) { q.Wish = 9 }),
	)
}

func ofDescription[Q any](with func(string, []string, func(*Q, string)) badField, of func(*Q) *session.Description) []badField {
	texts := append([]string{strings.Repeat("a", event.MaxNameRunes+1)}, faulttest.Texts...)
	return []badField{
		with("description.name", texts, func(q *Q, v string) { of(q).Name = v }),
		with("description.model", texts, func(q *Q, v string) { of(q).Model = v }),
		with("description.OS", texts, func(q *Q, v string) { of(q).OS = v }),
		with("description.appVersion", texts, func(q *Q, v string) { of(q).AppVersion = v }),
		with("description.IP", texts, func(q *Q, v string) { of(q).IP = v }),
		with("description", nil, func(q *Q, _ string) { of(q).Extension = make([]byte, 1_025) }),
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
			fields: append(ofLogin(replacing), badField{"logins[1]", faulttest.Secrets, func(ctx context.Context, s *scene, v string) error {
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
	if err := s.reg.Drain(context.Background(), 0); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) primary(d event.DeviceID) {
	if err := s.reg.SetPrimary(context.Background(), "ann", d); err != nil {
		s.t.Fatal(err)
	}
}

func endRows() map[string]called {
	notes := append([]string{strings.Repeat("n", 513)}, faulttest.Texts...)
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
	remove := func(q session.RemoveDeviceRequest, spoil func(q *session.RemoveDeviceRequest, v string)) func(context.Context, *scene, string) error {
		return func(ctx context.Context, s *scene, v string) error {
			q := q
			spoil(&q, v)
			return s.reg.RemoveDevice(ctx, q)
		}
	}
	a1 := session.RemoveDeviceRequest{Account: "ann", Device: "a1"}
	return map[string]called{
		"Registry.Kick": {
			text: "kick", steps: true,
			do: func(ctx context.Context, s *scene) error {
				return given(s.reg.Kick(ctx, session.KickRequest{Account: "ann", Filter: func(session.Session) bool { return true }}))
			},
			fields: []badField{
				kick("account", faulttest.IDs, func(_ *scene, q *session.KickRequest, v string) { q.Account = event.Account(v) }),
				kick("logins", nil, func(_ *scene, q *session.KickRequest, _ string) { q.Logins = nil }),
				kick("logins", nil, func(_ *scene, q *session.KickRequest, _ string) { q.All = true }),
				kick("logins[1]", faulttest.Secrets, func(_ *scene, q *session.KickRequest, v string) {
					q.Logins = append(q.Logins, event.LoginID(v))
				}),
				kick("others", faulttest.Secrets[1:], func(_ *scene, q *session.KickRequest, v string) {
					q.Logins, q.Others = nil, event.LoginID(v)
				}),
				kick("by", faulttest.Secrets[1:], func(_ *scene, q *session.KickRequest, v string) { q.By = event.LoginID(v) }),
				kick("note", notes, func(_ *scene, q *session.KickRequest, v string) { q.Note = v }),
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
		},
		"Registry.Logout": {
			text: "logout", steps: true, do: func(ctx context.Context, s *scene) error { return s.reg.Logout(ctx, "ann", s.a.id) },
			fields: []badField{
				{"account", faulttest.IDs, func(ctx context.Context, s *scene, v string) error {
					return s.reg.Logout(ctx, event.Account(v), s.a.id)
				}},
				{"login", faulttest.Secrets, func(ctx context.Context, s *scene, v string) error {
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
				{"account", faulttest.IDs, remove(a1, func(q *session.RemoveDeviceRequest, v string) { q.Account = event.Account(v) })},
				{"device", faulttest.IDs, remove(a1, func(q *session.RemoveDeviceRequest, v string) { q.Device = event.DeviceID(v) })},
				{"by", faulttest.Secrets[1:], remove(a1, func(q *session.RemoveDeviceRequest, v string) { q.By = event.LoginID(v) })},
				{"note", notes, remove(a1, func(q *session.RemoveDeviceRequest, v string) { q.Note = v })},
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
	notes := append([]string{strings.Repeat("n", 513)}, faulttest.Texts...)
	ban := ofAccount("ban", true, func(ctx context.Context, s *scene, a event.Account) error {
		return given(s.reg.Ban(ctx, session.BanRequest{Account: a}))
	})
	ban.fields = append(ban.fields,
		badField{"note", notes, func(ctx context.Context, s *scene, v string) error {
			return given(s.reg.Ban(ctx, session.BanRequest{Account: "ann", Note: v}))
		}},
		badField{"until", nil, func(ctx context.Context, s *scene, _ string) error {
			return given(s.reg.Ban(ctx, session.BanRequest{Account: "ann", Until: time.Now().Add(-time.Second)}))
		}})
	erase := ofAccount("delete account", true, func(ctx context.Context, s *scene, a event.Account) error {
		return given(s.reg.DeleteAccount(ctx, session.DeleteRequest{Account: a}))
	})
	erase.fields = append(erase.fields, badField{"note", notes, func(ctx context.Context, s *scene, v string) error {
		return given(s.reg.DeleteAccount(ctx, session.DeleteRequest{Account: "ann", Note: v}))
	}})
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
	hear := &stream.Listener[session.Change]{Hear: func(session.Change) {}}
	subscribe := func(size int) func(context.Context, *scene, string) error {
		return func(_ context.Context, s *scene, _ string) error { return given(s.reg.Subscribe(size)) }
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
		"Registry.Drain": {
			text: "drain", do: func(ctx context.Context, s *scene) error { return s.reg.Drain(ctx, 0) },
			fails: []failure{{context.DeadlineExceeded, func(ctx context.Context, s *scene) error {
				ctx, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				return s.reg.Drain(ctx, time.Hour)
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

func connectionRows() map[string]called {
	attach := func(ctx context.Context, s *scene, q session.AttachRequest) error {
		return given(s.reg.Attach(ctx, q, new(wire), nil))
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
	return map[string]called{
		"Registry.Attach": {
			text: "attach", steps: true,
			do: func(ctx context.Context, s *scene) error {
				return attach(ctx, s, session.AttachRequest{Account: "ann", Login: s.a.id, Token: s.a.token})
			},
			fields: append(ofDescription(with, func(q *session.AttachRequest) *session.Description { return q.Description }),
				with("account", faulttest.IDs, func(q *session.AttachRequest, v string) { q.Account = event.Account(v) }),
				with("login", faulttest.Secrets, func(q *session.AttachRequest, v string) { q.Login = event.LoginID(v) }),
				with("token", faulttest.Secrets, func(q *session.AttachRequest, v string) { q.Token = event.ResumeToken(v) }),
				with("device", nil, func(q *session.AttachRequest, _ string) { q.Device = "a1" }),
				with("token", nil, func(q *session.AttachRequest, _ string) { q.Vouched = true }),
				with("login", nil, func(q *session.AttachRequest, _ string) { q.Vouched, q.Token, q.Device = true, "", "a1" }),
				with("login", nil, func(q *session.AttachRequest, _ string) { q.Vouched, q.Token, q.Login = true, "", "" }),
				with("login", faulttest.Secrets[1:], func(q *session.AttachRequest, v string) {
					q.Vouched, q.Token, q.Login = true, "", event.LoginID(v)
				}),
				with("device", faulttest.IDs[1:], func(q *session.AttachRequest, v string) {
					q.Vouched, q.Token, q.Login, q.Device = true, "", "", event.DeviceID(v)
				}),
				with("tab", faulttest.IDs[1:], func(q *session.AttachRequest, v string) { q.Tab = v }),
				badField{"conn", nil, func(ctx context.Context, s *scene, _ string) error {
					return given(s.reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: s.a.id, Token: s.a.token}, nil, nil))
				}},
			),
			fails: []failure{
				again(session.ErrUnknownLogin, func(s *scene, q *session.AttachRequest) { q.Token = s.b.token }),
				again(session.ErrEnded, func(s *scene, _ *session.AttachRequest) { s.kick("ann", s.a.id) }),
				again(session.ErrDraining, func(s *scene, _ *session.AttachRequest) { s.drain() }),
				again(session.ErrHookFailed, func(s *scene, q *session.AttachRequest) { s.broken.Store(true) }),
				again(errDown, func(_ *scene, q *session.AttachRequest) {
					q.Begin = func(context.Context, *session.Connection) error { return errDown }
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
		},
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
	if g.conn.Token() == "" {
		s.t.Fatal("no token is due")
	}
	return g
}
