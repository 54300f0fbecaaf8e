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

func mustPolicy(t *testing.T, r policy.Rules) *policy.Policy {
	t.Helper()
	p, err := policy.New(r)
	require.NoError(t, err)
	return p
}

// TestA17_FromTheNextLoginOn: new rules end nobody by themselves; the next login takes all excess away.
func TestA17_FromTheNextLoginOn(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, policy.Rules{PerPlatform: 2})))
		require.Equal(w.t, 2, w.reg.Policy().Rules().PerPlatform)
		require.Equal(w.t, "a1 a2 a3 a4", w.devices("ann"))
		w.join("ann", "a5", "ios")
		require.Equal(w.t, "a4 a5", w.devices("ann"))
		_, invalid := errors.AsType[*event.InvalidError](w.reg.SetPolicy(nil))
		require.True(w.t, invalid)
	})
}

// TestA17_Enforce: on everybody at once, with a preview, and resumable.
func TestA17_Enforce(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		var all []*gadget
		for i := range 6 {
			all = append(all, w.fill(event.Account(fmt.Sprint("user", i)), "ios", "a1", "a2", "a3")...)
		}
		require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, policy.Rules{PerPlatform: 2})))
		report, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{DryRun: true, PerSecond: -1})
		require.NoError(w.t, err)
		require.Equal(w.t, tally(6), report)
		require.True(w.t, all[0].live(), "a preview ends nobody")

		ctx, cancel := context.WithCancel(w.t.Context())
		w.st.set(func(f *faults) {
			f.after = func(b store.Batch, err error) error {
				if b.Account == "user2" {
					cancel()
				}
				return err
			}
		})
		report, err = w.reg.Enforce(ctx, session.EnforceRequest{PerSecond: 100_000})
		w.st.heal()
		require.ErrorIs(w.t, err, context.Canceled)
		require.Equal(w.t, event.Account("user2"), report.Next)
		report, err = w.reg.Enforce(w.t.Context(), session.EnforceRequest{After: report.Next})
		require.NoError(w.t, err)
		require.Equal(w.t, tally(3), report)
		for i, g := range all {
			if i%3 == 0 {
				require.Equal(w.t, event.PolicyChanged, g.refused().Reason)
			} else {
				require.True(w.t, g.live())
			}
		}
	})
}

// tally is a report of so many accounts of three logins, of which one ends.
func tally(n int) session.EnforceReport {
	return session.EnforceReport{Tally: policy.Tally{
		Accounts: n, Affected: n, Logins: 3 * n, Ends: n, ByRule: map[string]int{policy.RulePlatform: n},
	}}
}

// TestA16_DecidePolicy: the host chooses the rules of an account at its admission; if it fails, nobody gets in.
func TestA16_DecidePolicy(t *testing.T) {
	var fail error
	vip := mustPolicy(t, policy.Rules{PerPlatform: 10})
	cfg := session.Config{DecidePolicy: func(_ context.Context, q session.Question) (*policy.Policy, error) {
		if q.Account == "vip" {
			return vip, fail
		}
		return nil, fail
	}}
	onStores(t, setup{config: cfg}, func(w *world) {
		fail = nil
		for _, a := range []event.Account{"vip", "ann"} {
			w.fill(a, "ios", "a1", "a2", "a3", "a4", "a5")
		}
		require.Len(w.t, w.list("vip"), 5)
		require.Len(w.t, w.list("ann"), 4)
		plan, err := w.reg.DryRun(w.t.Context(), request("vip", "a6", "ios"))
		require.NoError(w.t, err)
		require.Equal(w.t, 10, plan.Limit)
		report, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1})
		require.NoError(w.t, err)
		require.Zero(w.t, report.Ends)
		fail = errDown
		_, err = w.tryLogin(request("vip", "a6", "ios"))
		require.ErrorIs(w.t, err, session.ErrHookFailed)
		require.Len(w.t, w.list("vip"), 5)
		_, err = w.reg.DryRun(w.t.Context(), request("vip", "a6", "ios"))
		require.ErrorIs(w.t, err, errDown)
	})
}

// TestA10_LoginReplacing: a user who was refused chooses who makes room, in one step with the login.
func TestA10_LoginReplacing(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: 2, AtPlatform: policy.RefuseNew}}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		_, err := w.tryLogin(request("ann", "a3", "ios"))
		refused := refusal(w.t, err)
		res, err := w.reg.LoginReplacing(w.t.Context(), request("ann", "a3", "ios"), refused.Logins[1].Login)
		require.NoError(w.t, err)
		require.Equal(w.t, "a1 a3", w.devices("ann"))
		require.Len(w.t, res.Victims, 1)
		require.Equal(w.t, event.KickedSelf, all[1].refused().Reason)
		require.Equal(w.t, event.DeviceID("a3"), all[1].refused().Cause.Device)

		before := w.stored("ann")
		_, err = w.reg.LoginReplacing(w.t.Context(), request("ann", "a4", "ios"), all[0].id, event.NewLoginID())
		require.ErrorIs(w.t, err, session.ErrNotFound)
		_, err = w.reg.LoginReplacing(w.t.Context(), request("ann", "a4", "ios"), "x")
		_, invalid := errors.AsType[*event.InvalidError](err)
		require.True(w.t, invalid)
		require.Equal(w.t, before, w.stored("ann"))
		require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "a1"))
		_, err = w.reg.LoginReplacing(w.t.Context(), request("ann", "a4", "ios"), all[0].id)
		require.Equal(w.t, policy.CausePrimary, refusal(w.t, err).Cause)
		require.True(w.t, all[0].live())
	})
}

// TestB5_ByPlatformAndFilter ends some logins and leaves the others alone.
func TestB5_ByPlatformAndFilter(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		w.fill("ann", "ios", "i1", "i2")
		w.fill("ann", "web", "w1", "w2")
		res, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Platform: "iOS"})
		require.NoError(w.t, err)
		require.Len(w.t, res, 2)
		require.Equal(w.t, "w1 w2", w.devices("ann"))
		byName := func(s session.Session) bool { return s.Description.Name == "My w1" }
		res, err = w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Filter: byName})
		require.NoError(w.t, err)
		require.Len(w.t, res, 1)
		require.Equal(w.t, "w2", w.devices("ann"))
		res, err = w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Filter: byName})
		require.NoError(w.t, err)
		require.Empty(w.t, res)
		_, err = w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Platform: "no platform"})
		_, invalid := errors.AsType[*event.InvalidError](err)
		require.True(w.t, invalid)
	})
}

// TestD12_AbsoluteLifetime ends a login that is attached all the time.
func TestD12_AbsoluteLifetime(t *testing.T) {
	cfg := session.Config{AbsoluteLifetime: 24 * time.Hour, IdleTimeout: -1}
	inBubble(t, setup{config: cfg}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.pass(23 * time.Hour)
		require.True(w.t, g.live())
		w.pass(time.Hour + 10*time.Second)
		require.Equal(w.t, []event.Reason{event.ExpiredAbsolute}, g.wire.reasons())
		require.Equal(w.t, event.ExpiredAbsolute, g.refused().Reason)
		require.Empty(w.t, w.list("ann"))

		away := w.join("bob", "b1", "ios")
		away.conn.Detach()
		w.pass(25 * time.Hour)
		require.Equal(w.t, event.RetryLogin, away.refused().Retry)
	})
}

// TestB17_Recent keeps the last logins and ends, over a restart.
func TestB17_Recent(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		w.fill("ann", "ios", "a1", "a2", "a3", "a4", "a5")
		w.restart(setup{})
		all, err := w.reg.Recent(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Len(w.t, all, 6)
		require.Equal(w.t, event.DeviceID("a5"), all[0].Device)
		require.Empty(w.t, all[0].Reason)
		require.Equal(w.t, "My a5", all[0].Name)
		require.Equal(w.t, event.DeviceID("a1"), all[1].Device)
		require.Equal(w.t, event.EvictedQuota, all[1].Reason)
		require.False(w.t, all[0].Time.Before(all[5].Time))
		for range 40 {
			w.login("ann", "a9", "web")
		}
		all, err = w.reg.Recent(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Len(w.t, all, 32)
		_, err = w.reg.Recent(w.t.Context(), "")
		_, invalid := errors.AsType[*event.InvalidError](err)
		require.True(w.t, invalid)
	})
}
