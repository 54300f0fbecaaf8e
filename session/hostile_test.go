package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport"
)

// badIDs can name neither an account nor a device.
var badIDs = map[string]string{
	"too long":          strings.Repeat("a", 129),
	"control character": "an\nn",
	"not UTF-8":         "an\xff",
	"bidi override":     "an\u202en",
}

// requireInvalid checks that err names the field and tells nothing of the value.
func requireInvalid(w *world, err error, field, value string) {
	w.t.Helper()
	bad, ok := errors.AsType[*event.InvalidError](err)
	require.True(w.t, ok, "%v", err)
	require.Equal(w.t, field, bad.Field)
	if len(value) > 8 {
		require.NotContains(w.t, err.Error(), value)
	}
}

func TestInvalid_Account(t *testing.T) {
	id := event.NewLoginID()
	tests := []struct {
		name string
		call func(ctx context.Context, w *world, a event.Account) error
	}{
		{"Login", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.Login(ctx, request(a, "a1", "ios"))
			return err
		}},
		{"DryRun", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.DryRun(ctx, request(a, "a1", "ios"))
			return err
		}},
		{"Attach", func(ctx context.Context, w *world, a event.Account) error {
			q := session.AttachRequest{Account: a, Login: id, Token: event.NewResumeToken()}
			_, err := w.reg.Attach(ctx, q, new(wire))
			return err
		}},
		{"Kick", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.Kick(ctx, session.KickRequest{Account: a, All: true})
			return err
		}},
		{"Logout", func(ctx context.Context, w *world, a event.Account) error { return w.reg.Logout(ctx, a, id) }},
		{"RemoveDevice", func(ctx context.Context, w *world, a event.Account) error {
			return w.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: a, Device: "a1"})
		}},
		{"List", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.List(ctx, a, "")
			return err
		}},
		{"Get", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.Get(ctx, a, id)
			return err
		}},
		{"Peers", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.Peers(ctx, a, "")
			return err
		}},
		{"Presence", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.Presence(ctx, a)
			return err
		}},
		{"Devices", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.Devices(ctx, a)
			return err
		}},
		{"Resolve", func(ctx context.Context, w *world, a event.Account) error {
			_, err := w.reg.Resolve(ctx, a, id)
			return err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				requireInvalid(w, tt.call(w.t.Context(), w, ""), "account", "")
				for name, a := range badIDs {
					require.NotPanics(w.t, func() { requireInvalid(w, tt.call(w.t.Context(), w, event.Account(a)), "account", a) }, name)
				}
				accounts, err := w.st.Accounts(w.t.Context(), "", 10)
				require.NoError(w.t, err)
				require.Empty(w.t, accounts)
			})
		})
	}
}

func TestInvalid_Rest(t *testing.T) {
	ids := []event.LoginID{event.NewLoginID()}
	type kick = session.KickRequest
	login := func(change func(q *session.LoginRequest)) func(context.Context, *world) error {
		return func(ctx context.Context, w *world) error {
			q := request("ann", "a9", "ios")
			change(&q)
			if _, err := w.reg.DryRun(ctx, q); err == nil {
				return errors.New("DryRun takes it")
			}
			_, err := w.reg.Login(ctx, q)
			return err
		}
	}
	attach := func(q session.AttachRequest, c transport.Conn) func(context.Context, *world) error {
		return func(ctx context.Context, w *world) error {
			q.Account = "ann"
			_, err := w.reg.Attach(ctx, q, c)
			return err
		}
	}
	ask := func(q kick) func(context.Context, *world) error {
		return func(ctx context.Context, w *world) error {
			q.Account = "ann"
			_, err := w.reg.Kick(ctx, q)
			return err
		}
	}
	long := strings.Repeat("x", 129)
	tests := []struct {
		name, field string
		call        func(context.Context, *world) error
	}{
		{"extension", "description.extension", login(func(q *session.LoginRequest) { q.Description.Extension = make([]byte, 1_025) })},
		{"attach without a connection", "conn", attach(session.AttachRequest{Login: ids[0], Token: event.NewResumeToken()}, nil)},
		{"login ID", "login", attach(session.AttachRequest{Login: "x", Token: event.NewResumeToken()}, new(wire))},
		{"no token", "token", attach(session.AttachRequest{Login: ids[0]}, new(wire))},
		{"token", "token", attach(session.AttachRequest{Login: ids[0], Token: event.ResumeTokenOf(long)}, new(wire))},
		{"nobody chosen", "logins", ask(kick{})},
		{"empty list", "logins", ask(kick{Logins: []event.LoginID{}})},
		{"list and all", "logins", ask(kick{Logins: ids, All: true})},
		{"all and all but one", "logins", ask(kick{All: true, Others: ids[0]})},
		{"empty ID in the list", "logins[0]", ask(kick{Logins: []event.LoginID{""}})},
		{"bad ID in the list", "logins[1]", ask(kick{Logins: []event.LoginID{ids[0], event.LoginID(long)}})},
		{"bad ID that stays", "others", ask(kick{Others: "*"})},
		{"bad ID that asked", "by", ask(kick{All: true, By: "ann/x"})},
		{"reason that is none", "reason", ask(kick{All: true, Reason: "because"})},
		{"reason that ends no login", "reason", ask(kick{All: true, Reason: event.Slow})},
		{"no device to remove", "device", func(ctx context.Context, w *world) error {
			return w.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: ""})
		}},
		{"logout without a login", "login", func(ctx context.Context, w *world) error { return w.reg.Logout(ctx, "ann", "") }},
	}
	for name, d := range badIDs {
		tests = append(tests, struct {
			name, field string
			call        func(context.Context, *world) error
		}{"device " + name, "device", login(func(q *session.LoginRequest) { q.Device = event.DeviceID(d) })})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				all := w.fill("ann", "ios", "a1", "a2")
				w.events.take()
				before := w.stored("ann")
				requireInvalid(w, tt.call(w.t.Context(), w), tt.field, long)
				require.Equal(w.t, before, w.stored("ann"))
				require.Empty(w.t, w.events.take())
				require.True(w.t, all[0].live() && all[1].live())
			})
		})
	}
}

func TestB2_LargestDescription(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		q := request("ann", event.DeviceID(strings.Repeat("d", 128)), "ios")
		q.Description = session.Description{
			Name: strings.Repeat("n", 128), Model: strings.Repeat("ß", 80), OS: "iOS", AppVersion: "1.0", IP: "::1",
			Extension: make([]byte, 1_024-128-160-9),
		}
		g, err := w.tryLogin(q)
		require.NoError(w.t, err)
		require.Equal(w.t, q.Description, g.res.Session.Description)
		w.restart(w.now)
		require.Equal(w.t, q.Description, w.list("ann")[0].Description)
	})
}

// TestA18_DryRunAgreesWithLogin: at any point of a random story, DryRun says what Login then does.
func TestA18_DryRunAgreesWithLogin(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rules := policy.Rules{PerPlatform: 2, MaxLogins: 6, Platforms: map[event.Platform]int{"web": 0}}
	inBubble(t, setup{rules: rules, config: session.Config{IdleDevice: time.Hour}}, func(w *world) {
		random := rand.New(rand.NewPCG(seed, 0))
		platforms := []event.Platform{"ios", "Android", "macos", "linux", "web", "toaster"}
		admitted, refused := 0, 0
		for range 400 {
			q := request("ann", event.DeviceID(fmt.Sprint("d", random.IntN(9))), platforms[random.IntN(len(platforms))])
			if random.IntN(4) == 0 {
				q.Device = ""
			}
			before := w.stored("ann")
			w.events.take()
			said, err := w.reg.DryRun(w.t.Context(), q)
			require.NoError(w.t, err)
			require.Equal(w.t, before, w.stored("ann"), "nothing is changed")
			require.Empty(w.t, w.events.take())
			require.NotEmpty(w.t, said.String())

			g, err := w.tryLogin(q)
			if said.Verdict == policy.Refuse {
				no, ok := errors.AsType[*session.RefusedError](err)
				require.True(w.t, ok, "%v", err)
				require.Equal(w.t, said.Rule, no.Rule)
				require.Equal(w.t, said.Limit, no.Limit)
				refused++
			} else {
				require.NoError(w.t, err)
				want, got := map[event.LoginID]event.Reason{}, map[event.LoginID]event.Reason{}
				for _, v := range said.Victims {
					want[v.Login] = v.Reason
				}
				for i, v := range g.res.Victims {
					got[v.Session.Login] = v.Closed.Reason
					if i > 0 {
						require.Less(w.t, g.res.Victims[i-1].Session.Admission, v.Session.Admission, "earliest first")
					}
				}
				require.Equal(w.t, want, got)
				admitted++
			}
			w.pass(time.Duration(random.IntN(3*60)) * time.Second)
		}
		require.NotZero(w.t, admitted)
		require.NotZero(w.t, refused)
	})
}

// TestA18_DryRunKnowsWhatTimeHasDone: a login that is overdue does not count any more.
func TestA18_DryRunKnowsWhatTimeHasDone(t *testing.T) {
	s := setup{rules: policy.Rules{MaxLogins: 1}, config: session.Config{IdleDevice: time.Hour, JanitorInterval: -1}}
	inBubble(t, s, func(w *world) {
		w.login("ann", "a1", "ios")
		w.pass(2 * time.Hour)
		said, err := w.reg.DryRun(w.t.Context(), request("ann", "a2", "web"))
		require.NoError(w.t, err)
		require.Equal(w.t, policy.Admit, said.Verdict)
		g := w.login("ann", "a2", "web")
		require.Empty(w.t, g.res.Victims, "the other one was not ended for its sake")
		require.Equal(w.t, "a2", w.devices("ann"))
	})
}

func TestNew_Faults(t *testing.T) {
	tests := []struct {
		name   string
		config session.Config
		want   []string
	}{
		{"zero", session.Config{}, nil},
		{"negative where that means never", session.Config{
			ResumeWindow: -1, IdleTimeout: -1, IdleDevice: -1, TokenRotation: -1, JanitorInterval: -1,
		}, nil},
		{"all at once", session.Config{
			TombstoneTTL: -1, SweepInterval: -1, HookTimeout: -1, CloseTimeout: -1, MaxDevices: 65, Node: "n\n1",
		}, []string{"TombstoneTTL", "SweepInterval", "HookTimeout", "CloseTimeout", "MaxDevices", "Node"}},
		{"too few devices", session.Config{MaxDevices: -1}, []string{"MaxDevices"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, err := session.New(memstore.New(memstore.Config{}), tt.config)
			if tt.want == nil {
				require.NoError(t, err)
				require.NoError(t, reg.Close(t.Context()))
				return
			}
			require.Nil(t, reg)
			for _, field := range tt.want {
				require.ErrorContains(t, err, "invalid "+field+":")
			}
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(t, ok)
		})
	}
	_, err := session.New(nil, session.Config{})
	bad, ok := errors.AsType[*event.InvalidError](err)
	require.True(t, ok)
	require.Equal(t, "store", bad.Field)
}
