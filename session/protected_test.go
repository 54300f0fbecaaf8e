package session_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// requireProtected checks that policy has denied all that was asked for.
func requireProtected(t testing.TB, err error, cause policy.Cause) *session.ProtectedError {
	t.Helper()
	require.ErrorIs(t, err, session.ErrProtected)
	e, ok := errors.AsType[*session.ProtectedError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, cause, e.Cause)
	return e
}

// TestKick_WhatPolicyDenies (K9.2): a kick that policy denied in full is an error, one that was denied in part is none,
// and one that found nobody is none either. Removing a device and replacing a login fail in the same way.
func TestKick_WhatPolicyDenies(t *testing.T) {
	for _, tt := range []struct {
		name string
		q    func(main, own, other, gone event.LoginID) session.KickRequest
		err  bool
	}{
		{name: "one that is protected", err: true, q: func(main, _, _, _ event.LoginID) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{main}}
		}},
		{name: "one that is protected, one that is not there", err: true, q: func(main, _, _, gone event.LoginID) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{gone, main}}
		}},
		{name: "a platform with the protected one alone", err: true, q: func(_, _, _, _ event.LoginID) session.KickRequest {
			return session.KickRequest{Platform: "macos"}
		}},
		{name: "a filter that finds the protected one alone", err: true, q: func(main, _, _, _ event.LoginID) session.KickRequest {
			return session.KickRequest{Filter: func(s session.Session) bool { return s.Login == main }}
		}},
		{name: "in part", q: func(main, _, other, _ event.LoginID) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{main, other}}
		}},
		{name: "all, with itself", q: func(_, _, _, _ event.LoginID) session.KickRequest { return session.KickRequest{All: true} }},
		{name: "all others", q: func(_, own, _, _ event.LoginID) session.KickRequest { return session.KickRequest{Others: own} }},
		{name: "nobody is there", q: func(_, _, _, gone event.LoginID) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{gone}}
		}},
		{name: "itself", q: func(_, own, _, _ event.LoginID) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{own}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{rules: policy.Rules{Primary: policy.PrimaryProtected}}, func(w *world) {
				main, own, other := w.join("ann", "main", "macos"), w.join("ann", "own", "ios"), w.join("ann", "other", "web")
				require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "main"))
				q := tt.q(main.id, own.id, other.id, event.NewLoginID())
				q.Account, q.By = "ann", own.id
				before := w.stored("ann")
				res, err := w.reg.Kick(w.t.Context(), q)
				require.True(w.t, main.live())
				if tt.err {
					require.Nil(w.t, res)
					e := requireProtected(w.t, err, policy.CausePrimary)
					require.NotEmpty(w.t, e.Results)
					for _, k := range e.Results {
						require.False(w.t, k.Ended)
					}
					require.Equal(w.t, before, w.stored("ann"), "nothing has changed")
					return
				}
				require.NoError(w.t, err)
				for _, k := range res {
					require.Equal(w.t, k.Login == main.id, k.Denied != "")
				}
			})
		})
	}
}

// TestProtected_OneSentinel (K9.2): what policy protects is refused with the same sentinel by every call.
func TestProtected_OneSentinel(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{Primary: policy.PrimaryProtected}}, func(w *world) {
		main, own := w.join("ann", "main", "macos"), w.join("ann", "own", "ios")
		require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "main"))
		_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{main.id}, By: own.id})
		require.ErrorIs(w.t, err, session.ErrProtected)
		err = w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "main", By: own.id})
		require.ErrorIs(w.t, err, session.ErrProtected)
		_, err = w.reg.LoginReplacing(w.t.Context(), request("ann", "new", "ios"), main.id)
		require.ErrorIs(w.t, err, session.ErrProtected)
		require.ErrorIs(w.t, err, session.ErrRefused)
		require.True(w.t, main.live())
	})
}
