package session_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// devicesIn returns the devices of logins.
func devicesIn(all []session.Session) []event.DeviceID {
	var names []event.DeviceID
	for _, s := range all {
		names = append(names, s.Device)
	}
	return names
}

// TestA10_RefusedNamesWhoCanMakeRoom: those whom the rule counts and who may end, and dropping them is enough.
func TestA10_RefusedNamesWhoCanMakeRoom(t *testing.T) {
	tests := []struct {
		name    string
		rules   policy.Rules
		primary event.DeviceID
		rule    string
		want    []event.DeviceID
		need    int
	}{
		{"platform", policy.Rules{PerPlatform: 2, AtPlatform: policy.RefuseNew}, "", policy.RulePlatform,
			[]event.DeviceID{"i1", "i2"}, 1},
		{"primary stays", policy.Rules{PerPlatform: 2, AtPlatform: policy.RefuseNew}, "i1", policy.RulePlatform,
			[]event.DeviceID{"i2"}, 1},
		{"group", policy.Rules{Groups: []policy.Group{
			{Name: "mobile", Members: []string{"ios", "android"}, Limit: 3, Action: policy.RefuseNew}}}, "", "group:mobile",
			[]event.DeviceID{"i1", "i2", "n1"}, 1},
		{"total, lowered", policy.Rules{Total: 2, AtTotal: policy.RefuseNew}, "", policy.RuleTotal,
			[]event.DeviceID{"i1", "i2", "n1", "w1"}, 3},
		{"nobody answers", policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost, Unanswered: policy.RefuseNew}, "",
			policy.RulePlatform, []event.DeviceID{"i1", "i2"}, 1},
		{"closed", policy.Rules{Platforms: map[event.Platform]int{"ios": 0}}, "", policy.RulePlatform, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				w.fill("ann", "ios", "i1", "i2")
				w.join("ann", "n1", "android")
				w.join("ann", "w1", "web")
				require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", tt.primary))
				require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, tt.rules)))
				_, err := w.tryLogin(request("ann", "new", "ios"))
				refused := refusal(w.t, err)
				require.Equal(w.t, tt.rule, refused.Rule)
				require.Equal(w.t, tt.want, devicesIn(refused.Logins))
				require.Equal(w.t, tt.need, refused.Need)
				if tt.need == 0 {
					return
				}
				var drop []event.LoginID
				for _, s := range refused.Logins[:tt.need] {
					drop = append(drop, s.Login, s.Login) // who is named twice ends once
				}
				res, err := w.reg.LoginReplacing(w.t.Context(), request("ann", "new", "ios"), drop...)
				require.NoError(w.t, err)
				require.Len(w.t, res.Victims, tt.need)
			})
		})
	}
}

// TestA10_ReplacingAProtectedOne says whom the user may choose instead.
func TestA10_ReplacingAProtectedOne(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: 2, AtPlatform: policy.RefuseNew}}, func(w *world) {
		all := w.fill("ann", "ios", "i1", "i2")
		require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "i1"))
		_, err := w.reg.LoginReplacing(w.t.Context(), request("ann", "new", "ios"), all[0].id)
		refused := refusal(w.t, err)
		require.Equal(w.t, session.RuleReplace, refused.Rule)
		require.Equal(w.t, []event.DeviceID{"i2"}, devicesIn(refused.Logins))
	})
}

// TestA4_TotalAlone: a quota of the account, whatever the platforms, without any other limit.
func TestA4_TotalAlone(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: policy.NoLimit, Total: 2}}, func(w *world) {
		first := w.join("ann", "i1", "ios")
		w.join("ann", "w1", "web")
		g := w.login("ann", "m1", "macos")
		require.Equal(w.t, "w1 m1", w.devices("ann"))
		require.Equal(w.t, event.EvictedQuota, first.refused().Reason)
		require.Equal(w.t, policy.RuleTotal, g.res.Decision.Victims[0].Rule)
	})
}

// TestA18_DryRunOfABannedAccount agrees with Login.
func TestA18_DryRunOfABannedAccount(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann", Note: "spam", Until: time.Now().Add(time.Hour)})
		require.NoError(w.t, err)
		_, err = w.reg.DryRun(w.t.Context(), request("ann", "a1", "ios"))
		banned, ok := errors.AsType[*session.BannedError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, "spam", banned.Ban.Note)
		w.pass(time.Hour)
		_, err = w.reg.DryRun(w.t.Context(), request("ann", "a1", "ios"))
		require.NoError(w.t, err)
	})
}

// TestI26_TokensOfEarlierRotations: one that was replaced two months ago is known as well (K18.7: four were).
func TestI26_TokensOfEarlierRotations(t *testing.T) {
	for _, age := range []int{1, 2, 4, 5, 33, 63, 64, 65} {
		t.Run(fmt.Sprint(age), func(t *testing.T) {
			inBubble(t, setup{config: session.Config{IdleTimeout: -1, TokenRotation: time.Hour}}, func(w *world) {
				g := w.join("ann", "a1", "ios")
				tokens := []event.ResumeToken{g.token}
				for range 70 {
					g.conn.Detach()
					w.pass(2 * time.Hour)
					g.attach()
					require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
					g.token = g.conn.Token()
					tokens = append(tokens, g.token)
				}
				w.pass(10 * time.Second)
				g.token = tokens[len(tokens)-1-age]
				if age > 64 {
					_, err := g.tryAttach(new(wire))
					require.ErrorIs(w.t, err, session.ErrUnknownLogin, "so far it remembers")
					require.True(w.t, g.live())
					return
				}
				require.Equal(w.t, event.TokenReuse, g.refused().Reason)
				require.False(w.t, g.live())
				require.Empty(w.t, w.list("ann"))
			})
		})
	}
}

// TestToken_RotatesWhereALoginMoves: the connection on the other node is displaced, and may come back with the old token as
// long as the new one is not confirmed.
func TestToken_RotatesWhereALoginMoves(t *testing.T) {
	onNodes(t, setup{config: session.Config{TokenRotation: time.Hour}}, func(c *cluster, x, y *world) {
		g := x.join("ann", "phone", "ios")
		c.pass(2 * time.Hour)
		next := g.on(y).attach().conn.Token()
		require.NotEmpty(c.t, next.Reveal())
		require.Equal(c.t, next.Reveal(), g.attach().conn.Token().Reveal(), "K18.4: the same one, on whichever node")
		require.NoError(c.t, x.reg.ConfirmToken(c.t.Context(), g.conn))
		c.pass(9 * time.Second)
		require.Equal(c.t, next.Reveal(), g.on(y).attach().conn.Token().Reveal(), "K11.4: with the old one, on the other node")
		c.pass(time.Second)
		require.Equal(c.t, event.TokenReuse, g.on(y).refused().Reason)
	})
}

// TestB13_ThePrimaryDeviceIsNotForgotten: it would come back without its protection.
func TestB13_ThePrimaryDeviceIsNotForgotten(t *testing.T) {
	inBubble(t, setup{config: session.Config{MaxDevices: 2}}, func(w *world) {
		g := w.login("ann", "main", "ios")
		require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "main"))
		w.kick("ann", g.id)
		for i := range 3 {
			w.tick()
			w.kick("ann", w.login("ann", event.DeviceID(fmt.Sprint("d", i)), "ios").id)
		}
		require.Equal(w.t, []string{"d0", "d1"}, forgotten(w))
		w.pass(40 * 24 * time.Hour)
		require.Equal(w.t, []string{"d0", "d1", "d2"}, forgotten(w))
		require.True(w.t, w.login("ann", "main", "ios").res.Session.Primary)
		require.NoError(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "main"}), "but it can be removed")
	})
}

// TestB19_DecideLogin: the host sees the request and says whether it goes on to the rules; without an answer the
// fallback says it.
func TestB19_DecideLogin(t *testing.T) {
	for name, tt := range map[string]struct {
		admit  bool
		err    error
		refuse bool
	}{
		"admits": {admit: true}, "refuses": {refuse: true}, "fails, admit": {err: errDown},
	} {
		t.Run(name, func(t *testing.T) {
			var w *world
			var asked []session.Question
			s := setup{config: session.Config{DecideLoginFallback: session.Admit}}
			s.config.DecideLogin = func(ctx context.Context, q session.Question) (bool, error) {
				asked = append(asked, q)
				q.Description.Extension[0] = 'X' // its own copy
				_, err := w.reg.List(ctx, q.Account, "")
				return tt.admit, errors.Join(err, tt.err)
			}
			inBubble(t, s, func(in *world) {
				w = in
				q := request("ann", "a1", "iOS")
				q.Description.Extension = []byte("ext")
				g, err := w.tryLogin(q)
				require.Len(w.t, asked, 1)
				asked[0].Description.Extension = nil
				require.Equal(w.t, session.Question{
					Account: "ann", Device: "a1", Platform: "ios", Description: session.Description{Name: "My a1"},
				}, asked[0])
				if tt.refuse {
					refused := refusal(w.t, err)
					require.Equal(w.t, session.RuleHost, refused.Rule)
					require.Equal(w.t, policy.CauseHost, refused.Cause)
					require.Empty(w.t, w.list("ann"))
					return
				}
				require.NoError(w.t, err)
				require.Equal(w.t, []byte("ext"), w.list("ann")[0].Description.Extension)
				g.attach()
				g.conn.Detach()
				w.pass(time.Hour)
				g.attach()
				require.Len(w.t, asked, 1, "a login that comes back is not asked about")
			})
		})
	}
}

// TestB19_DecidePolicySeesWho: the rules may depend on the device that wants in.
func TestB19_DecidePolicySeesWho(t *testing.T) {
	strict := mustPolicy(t, onePhone)
	var asked []session.Question
	s := setup{config: session.Config{IdleTimeout: -1}}
	s.config.DecidePolicy = func(_ context.Context, q session.Question) (*policy.Policy, error) {
		asked = append(asked, q)
		if q.Description.Name == "My a2" {
			return strict, nil
		}
		return nil, nil
	}
	inBubble(t, s, func(w *world) {
		g := w.login("ann", "a1", "ios")
		require.Equal(w.t, []session.Question{{
			Account: "ann", Device: "a1", Platform: "ios", Description: session.Description{Name: "My a1"},
		}}, asked)
		w.pass(time.Hour)
		g.attach() // an admission: it had lost its slot
		require.Equal(w.t, session.Question{
			Account: "ann", Device: "a1", Platform: "ios", Description: session.Description{Name: "My a1"}, Login: g.id,
		}, asked[1])
		w.login("ann", "a2", "ios")
		require.Equal(w.t, "a2", w.devices("ann"))
		_, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1})
		require.NoError(w.t, err)
		require.Equal(w.t, session.Question{Account: "ann"}, asked[3])
	})
}

// TestA17_EnforceGoesOn: an account that cannot be read is reported, and the others are done.
func TestA17_EnforceGoesOn(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		for _, a := range []event.Account{"ann", "cyd"} {
			w.fill(a, "ios", "a1", "a2", "a3")
		}
		_, err := w.st.Commit(w.t.Context(), store.Batch{
			Account: "bob", Now: time.Now(), Record: &store.RecordUpdate{Data: []byte("{")},
		})
		require.NoError(w.t, err)
		require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, policy.Rules{PerPlatform: 2})))
		for _, dry := range []bool{true, false} {
			report, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1, DryRun: dry})
			require.NoError(w.t, err)
			require.Equal(w.t, 1, report.Failed)
			require.Len(w.t, report.Failures, 1)
			require.Equal(w.t, event.Account("bob"), report.Failures[0].Account)
			require.Error(w.t, report.Failures[0].Err)
			report.Failed, report.Failures = 0, nil
			require.Equal(w.t, tally(2), report)
		}
		w.st.set(func(f *faults) { f.load = func() error { return fmt.Errorf("disk: %w", store.ErrFailed) } })
		report, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1})
		require.ErrorIs(w.t, err, store.ErrFailed, "others would fare no better")
		require.NotEqual(w.t, event.Account("cyd"), report.Next)
		w.st.heal()
	})
}

// TestB14_SubscribeAfterClose: there is nothing to wait for.
func TestB14_SubscribeAfterClose(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		w.shut(w.reg)
		_, err := w.reg.Subscribe(1)
		require.ErrorIs(w.t, err, session.ErrClosed)
	})
}

// TestA9_NoSuchWish: a wish that there is not is no wish.
func TestA9_NoSuchWish(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		q := request("ann", "a1", "ios")
		q.Wish = policy.NeverEvict + 1
		_, err := w.tryLogin(q)
		invalid, ok := errors.AsType[*event.InvalidError](err)
		require.True(w.t, ok)
		require.Equal(w.t, "wish", invalid.Field)
		_, err = w.reg.DryRun(w.t.Context(), q)
		require.ErrorAs(w.t, err, &invalid)
	})
}

// TestB15_OwnDevicesLearn: a new login and an end are entries in the account's inbox, whether or not its other devices are
// there; they name who it was, and the one that asked gets none of its own.
func TestB15_OwnDevicesLearn(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		old := w.join("ann", "a1", "ios")
		g := w.join("ann", "a2", "web")
		_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}, By: old.id})
		require.NoError(w.t, err)
		w.join("ann", "a3", "web")
		require.Equal(w.t, []string{"device.login a1", "device.ended a2 kicked_self", "device.login a3"}, w.entries("ann"))
		page, err := w.st.Read(w.t.Context(), "ann", store.ReadOptions{Limit: 10})
		require.NoError(w.t, err)
		require.Equal(w.t, old.id, page.Entries[1].Origin)
	})
}

// TestB5_ManyWays: one, a list with a result for each, all but one, all; each with a note and a reason.
func TestB5_ManyWays(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		kick := func(q session.KickRequest) []session.KickResult {
			q.Account, q.Note, q.Reason = "ann", "why", event.PasswordChanged
			res, err := w.reg.Kick(w.t.Context(), q)
			require.NoError(w.t, err)
			return res
		}
		all := w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		nobody := event.NewLoginID()
		require.Equal(w.t, []session.KickResult{{Login: all[0].id, Ended: true}, {Login: nobody}},
			kick(session.KickRequest{Logins: []event.LoginID{all[0].id, nobody}}))
		require.Len(w.t, kick(session.KickRequest{Others: all[3].id}), 2)
		require.Equal(w.t, "a4", w.devices("ann"))
		require.Len(w.t, kick(session.KickRequest{All: true}), 1)
		for _, g := range all {
			require.Equal(w.t, []event.Closed{{Reason: event.PasswordChanged, Note: "why", Retry: event.RetryLogin}}, g.wire.ends())
		}
	})
}

// TestB2_DescribesItself: all that a login says of itself comes back, in the list and to who was put off by it.
func TestB2_DescribesItself(t *testing.T) {
	onStores(t, setup{rules: onePhone}, func(w *world) {
		about := session.Description{Name: "Ann's", Model: "P9", OS: "OS 3", AppVersion: "1.2", IP: "::1", Extension: []byte{1, 2}}
		old := w.join("ann", "a1", "ios")
		res, err := w.reg.Login(w.t.Context(), session.LoginRequest{
			Account: "ann", Device: "a2", Platform: "ios", Description: about,
		})
		require.NoError(w.t, err)
		require.Equal(w.t, about, res.Session.Description)
		w.restart(w.now)
		require.Equal(w.t, about, w.list("ann")[0].Description)
		require.Equal(w.t, "Ann's", old.wire.ends()[0].Cause.Name)
	})
}
