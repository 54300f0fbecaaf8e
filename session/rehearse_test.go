package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// TestEnforce_ACandidateIsRehearsed: before it is set, a policy is held against everybody, and changes nothing. Set and enforced
// afterwards it comes to the same report (K20.11).
func TestEnforce_ACandidateIsRehearsed(t *testing.T) {
	own := mustPolicy(t, policy.Rules{PerPlatform: 2})
	failing := errors.New("no answer")
	s := setup{config: session.Config{DecidePolicy: func(_ context.Context, q session.Question) (*policy.Policy, error) {
		switch q.Account {
		case "vip":
			return own, nil
		case "odd":
			if q.Device == "" { // Enforce asks, not a login
				return nil, failing
			}
		}
		return nil, nil
	}}}
	onStores(t, s, func(w *world) {
		var all []*gadget
		for _, a := range []event.Account{"ann", "bob", "vip", "odd"} {
			all = append(all, w.fill(a, "ios", "a1", "a2")...)
			all = append(all, w.fill(a, "web", "b1")...)
		}
		require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "bob", "a1"))
		all = append(all, w.login("vip", "a3", "ios")) // which ends nobody under 4, but does under the account's own 2
		w.events.take()
		live := w.reg.Policy()
		before := map[event.Account]string{}
		for _, a := range []event.Account{"ann", "bob", "vip", "odd"} {
			before[a] = w.stored(a).data
		}

		closed := mustPolicy(w.t, policy.Rules{Platforms: map[event.Platform]int{"ios": 0, "web": 4}})
		rehearsal, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{Candidate: closed, PerSecond: -1})
		require.NoError(w.t, err)
		require.Equal(w.t, policy.Tally{
			Accounts: 3, Affected: 2, Logins: 9, Ends: 3, ByRule: map[string]int{policy.RulePlatform: 3},
			Protected: map[string]int{policy.RulePlatform: 1},
		}, rehearsal.Tally)
		require.Equal(w.t, 1, rehearsal.Own)
		require.Equal(w.t, 1, rehearsal.Failed)
		require.Equal(w.t, event.Account("odd"), rehearsal.Failures[0].Account)
		require.ErrorIs(w.t, rehearsal.Failures[0].Err, failing)
		require.Empty(w.t, rehearsal.Next)

		require.Same(w.t, live, w.reg.Policy(), "it is not set")
		for a, data := range before {
			require.Equal(w.t, data, w.stored(a).data, "%s", a)
		}
		require.Equal(w.t, []string{"hook_failed "}, w.events.take(), "nothing else")
		require.True(w.t, all[0].live())
		w.login("cyd", "a1", "ios") // the live policy admits on
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "cyd", w.list("cyd")[0].Login))
		again, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{Candidate: closed, PerSecond: -1, DryRun: true})
		require.NoError(w.t, err)

		require.NoError(w.t, w.reg.SetPolicy(closed))
		done, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1})
		require.NoError(w.t, err)
		require.Equal(w.t, again.Tally, done.Tally)
		require.Equal(w.t, again.Own, done.Own)
		require.Equal(w.t, again.Failed, done.Failed)
		require.Equal(w.t, event.PolicyChanged, all[0].refused().Reason)
	})
}

// TestEnforce_RehearsalWhileLoginsGoOn: nobody waits for it, and it waits for nobody (K20.11).
func TestEnforce_RehearsalWhileLoginsGoOn(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		none := mustPolicy(w.t, policy.Rules{Platforms: map[event.Platform]int{"ios": 0}})
		w.fill("ann", "ios", "a1")
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 20 {
					_, err := w.tryLogin(request(event.Account(fmt.Sprint("user", i)), event.DeviceID(fmt.Sprint("d", n%4)), "ios"))
					require.NoError(w.t, err)
				}
			})
		}
		for range 20 {
			report, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{Candidate: none, PerSecond: -1})
			require.NoError(w.t, err)
			require.Zero(w.t, report.Failed)
			require.Equal(w.t, report.Logins, report.Ends)
		}
		wg.Wait()
		for i := range 8 {
			require.Len(w.t, w.list(event.Account(fmt.Sprint("user", i))), 4, "nobody has ended")
		}
	})
}

// TestEnforce_NoRehearsalAfterClose: a registry that is closed reads nothing more and asks the host nothing more, as in earnest
// (K20.11).
func TestEnforce_NoRehearsalAfterClose(t *testing.T) {
	asked := 0
	s := setup{config: session.Config{DecidePolicy: func(_ context.Context, q session.Question) (*policy.Policy, error) {
		if q.Device == "" {
			asked++
		}
		return nil, nil
	}}}
	inBubble(t, s, func(w *world) {
		w.fill("ann", "ios", "a1")
		w.shut(w.reg)
		for _, q := range []session.EnforceRequest{{}, {DryRun: true}, {Candidate: mustPolicy(w.t, policy.Rules{})}} {
			_, err := w.reg.Enforce(w.t.Context(), q)
			require.ErrorIs(w.t, err, session.ErrClosed)
		}
		require.Zero(w.t, asked)
	})
}
