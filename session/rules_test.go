package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// refusal returns what an error says of a refused login.
func refusal(t *testing.T, err error) *session.RefusedError {
	t.Helper()
	refused, ok := errors.AsType[*session.RefusedError](err)
	require.True(t, ok, "%v", err)
	return refused
}

var onePhone = policy.Rules{Platforms: map[event.Platform]int{"ios": 1}}

// TestA5_Groups: only a rule over several platforms may evict across them, and then the victim learns who came.
func TestA5_Groups(t *testing.T) {
	rules := policy.Rules{Groups: []policy.Group{{Name: "mobile", Members: []string{"android", "ios"}, Limit: 2}}, Total: 3}
	onStores(t, setup{rules: rules}, func(w *world) {
		first := w.fill("ann", "ios", "i1", "i2")[0]
		w.join("ann", "w1", "web")
		w.join("ann", "a1", "android")
		require.Equal(w.t, "i2 w1 a1", w.devices("ann"))
		require.Equal(w.t, event.EvictedQuota, first.refused().Reason)
		require.Equal(w.t, event.DeviceID("a1"), first.refused().Cause.Device)
		w.join("ann", "m1", "macos")
		require.Equal(w.t, "w1 a1 m1", w.devices("ann"), "A4: the account's quota, over all platforms")
	})
}

// TestA7_AtTheLimit: what happens there is a matter of the rules.
func TestA7_AtTheLimit(t *testing.T) {
	run := func(name string, a policy.Action, story func(w *world)) {
		t.Run(name, func(t *testing.T) {
			inBubble(t, setup{rules: policy.Rules{PerPlatform: 2, AtPlatform: a}, config: session.Config{IdleTimeout: -1}}, story)
		})
	}
	run("refuse", policy.RefuseNew, func(w *world) {
		w.fill("ann", "ios", "a1", "a2")
		before := w.stored("ann")
		_, err := w.tryLogin(request("ann", "a3", "ios"))
		refused := refusal(w.t, err)
		require.Equal(w.t, policy.RulePlatform, refused.Rule)
		require.Len(w.t, refused.Logins, 2)
		require.Equal(w.t, event.RefusedQuota, refused.Closed().Reason)
		require.Equal(w.t, before, w.stored("ann"))
	})
	run("least active", policy.EvictLeastActive, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		w.pass(time.Minute)
		all[0].conn.Touch()
		w.join("ann", "a3", "ios")
		require.Equal(w.t, "a1 a3", w.devices("ann"))
	})
	run("offline first", policy.EvictOfflineFirst, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		all[1].conn.Detach()
		w.pass(time.Second)
		w.join("ann", "a3", "ios")
		require.Equal(w.t, "a1 a3", w.devices("ann"), "the lingering one goes before the one that is attached")
	})
}

// TestA7_AskHost: the hook chooses; it is asked once, may call back, and has a bounded time.
func TestA7_AskHost(t *testing.T) {
	tests := []struct {
		name   string
		hook   func(w *world, q session.Question) (policy.Answer, error)
		want   string // devices afterwards
		refuse policy.Cause
	}{
		{"chooses", func(_ *world, q session.Question) (policy.Answer, error) {
			return policy.Answer{End: []event.LoginID{q.Candidates[1].Login}}, nil
		}, "a1 a3", ""},
		{"refuses", func(*world, session.Question) (policy.Answer, error) {
			return policy.Answer{Refuse: true}, nil
		}, "a1 a2", policy.CauseHost},
		{"fails", func(*world, session.Question) (policy.Answer, error) {
			return policy.Answer{}, errDown
		}, "a2 a3", ""},
		{"panics", func(*world, session.Question) (policy.Answer, error) { panic("host") }, "a2 a3", ""},
		{"hangs", func(*world, session.Question) (policy.Answer, error) {
			time.Sleep(time.Hour)
			return policy.Answer{Refuse: true}, nil
		}, "a2 a3", ""},
		{"S28 calls back", func(w *world, q session.Question) (policy.Answer, error) {
			_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{q.Candidates[1].Login}})
			return policy.Answer{}, err
		}, "a1 a3", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var w *world
			asked := 0
			cfg := session.Config{IdleTimeout: -1, DecideVictimsFallback: session.Admit, DecideVictims: func(_ context.Context, q session.Question) (policy.Answer, error) {
				asked++
				require.Equal(t, event.DeviceID("a3"), q.Device)
				require.Equal(t, "My a3", q.Description.Name)
				require.Equal(t, 1, q.Need)
				require.Len(t, q.Candidates, 2)
				return tt.hook(w, q)
			}}
			rules := policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost}
			inBubble(t, setup{rules: rules, config: cfg}, func(in *world) {
				w = in
				w.fill("ann", "ios", "a1", "a2")
				start := time.Now()
				_, err := w.tryLogin(request("ann", "a3", "ios"))
				require.LessOrEqual(t, time.Since(start), 2*time.Second)
				if tt.refuse == "" {
					require.NoError(t, err)
				} else {
					require.Equal(t, tt.refuse, refusal(t, err).Cause)
				}
				require.Equal(t, tt.want, w.devices("ann"))
				require.Equal(t, 1, asked)
				w.pass(2 * time.Hour)
			})
		})
	}
}

// TestA8_Primary: it is never the victim, and no other device may end it.
func TestA8_Primary(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: 2}}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "a1"))
		require.True(w.t, w.list("ann")[0].Primary)
		w.join("ann", "a3", "ios")
		require.Equal(w.t, "a1 a3", w.devices("ann"))
		by := w.list("ann")[1].Login
		res, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true, By: by})
		require.NoError(w.t, err)
		require.Equal(w.t, []session.KickResult{
			{Login: all[0].id, Denied: policy.CausePrimary}, {Login: by, Ended: true},
		}, res)
		res, err = w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true})
		require.NoError(w.t, err)
		require.Equal(w.t, []session.KickResult{{Login: all[0].id, Ended: true}}, res, "the host needs no permit")

		again := w.login("ann", "a1", "ios")
		require.True(w.t, again.res.Session.Primary, "the device stays primary over its logins")
		w.login("ann", "a4", "ios")
		require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", ""))
		w.login("ann", "a5", "ios")
		require.Equal(w.t, "a4 a5", w.devices("ann"))
		require.ErrorIs(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "nobody"), session.ErrNotFound)
		_, invalid := errors.AsType[*event.InvalidError](w.reg.SetPrimary(w.t.Context(), "", "a1"))
		require.True(w.t, invalid)
	})
}

// TestA13_ReconnectRefused: a login that has lost its slot does not throw anybody out.
func TestA13_ReconnectRefused(t *testing.T) {
	inBubble(t, setup{rules: policy.Rules{PerPlatform: 1, Reconnect: policy.ReconnectRefused}}, func(w *world) {
		first := w.join("ann", "a1", "ios")
		first.conn.Detach()
		w.pass(3 * time.Minute)
		second := w.join("ann", "a2", "ios")
		_, err := first.tryAttach(new(wire))
		refused := refusal(w.t, err)
		require.Equal(w.t, policy.CauseReconnect, refused.Cause)
		require.True(w.t, second.live())
		second.conn.Detach()
		w.pass(3 * time.Minute)
		first.attach()
	})
}

// TestA14_EveryLoginHoldsASlot: however long a device is away, its place is kept, and its age with it.
func TestA14_EveryLoginHoldsASlot(t *testing.T) {
	inBubble(t, setup{rules: policy.Rules{PerPlatform: 2, Slots: policy.SlotEveryLogin, AtPlatform: policy.RefuseNew}}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		age := w.list("ann")[0].Admission
		all[0].conn.Detach()
		w.pass(time.Hour)
		require.Equal(w.t, session.Offline, w.list("ann")[0].State)
		_, err := w.tryLogin(request("ann", "a3", "ios"))
		require.Len(w.t, refusal(w.t, err).Logins, 2, "those who hold the slots, offline or not")
		all[0].attach()
		require.Equal(w.t, age, w.list("ann")[0].Admission)
		require.Equal(w.t, session.Online, w.list("ann")[0].State)
	})
}

// TestA9_Wishes: a newcomer may ask to be refused rather than to evict.
func TestA9_Wishes(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: 1}}, func(w *world) {
		w.join("ann", "a1", "ios")
		q := request("ann", "a2", "ios")
		q.Wish = policy.NeverEvict
		_, err := w.tryLogin(q)
		require.Equal(w.t, policy.CauseWish, refusal(w.t, err).Cause)
		plan, err := w.reg.DryRun(w.t.Context(), q)
		require.NoError(w.t, err)
		require.Equal(w.t, policy.Refuse, plan.Verdict)
		require.Equal(w.t, "a1", w.devices("ann"))
	})
}

// TestA21_MinAge: whoever got hold of a password cannot throw the owner out.
func TestA21_MinAge(t *testing.T) {
	inBubble(t, setup{rules: policy.Rules{PerPlatform: 2, MinAge: 24 * time.Hour}, config: session.Config{IdleTimeout: -1}}, func(w *world) {
		owner := w.join("ann", "a1", "ios")
		w.pass(48 * time.Hour)
		thief := w.join("ann", "a2", "ios")
		_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{owner.id}, By: thief.id})
		requireProtected(w.t, err, policy.CauseMinAge)
		require.True(w.t, owner.live())
		w.pass(time.Minute)
		_, err = w.tryLogin(request("ann", "a3", "ios"))
		require.Equal(w.t, policy.CauseMinAge, refusal(w.t, err).Cause)
		res, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{thief.id}, By: owner.id})
		require.NoError(w.t, err)
		require.True(w.t, res[0].Ended)
	})
}
