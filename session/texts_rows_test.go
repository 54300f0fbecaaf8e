package session_test

import (
	"context"
	"maps"
	"math"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault/faulttest"
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

// notes are none for whoever uses a device.
var notes = append([]string{strings.Repeat("n", 513)}, faulttest.Texts...)

// given drops what a call returns beside its error.
func given[T any](_ T, err error) error { return err }

// calledTable is what is known of every exported call that returns an error.
func calledTable() map[string]called {
	all := map[string]called{"New": newRow()}
	for _, part := range []map[string]called{readRows(), loginRows(), endRows(), hostRows(), streamRows(), connectionRows()} {
		maps.Copy(all, part)
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
			r, err := session.New(&faults{Store: s.store, failed: make(chan struct{}), crowd: true}, session.Config{Node: "other"})
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
		c.fields = append(c.fields, badField{"login", faulttest.Secrets, func(ctx context.Context, s *scene, v string) error {
			return call(ctx, s, event.LoginID(v))
		}})
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
	c := rows["Registry.Authenticate"]
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
