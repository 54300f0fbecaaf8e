package session_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// K9.7: a refusal says how many logins must end, and not one more, for a primary device that takes no slot.
func TestRefused_NeedOfAPrimaryDeviceThatIsFree(t *testing.T) {
	rules := policy.Rules{PerPlatform: 3, Primary: policy.PrimaryFree}
	onStores(t, setup{rules: rules}, func(w *world) {
		own := w.login("ann", "main", "ios")
		require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "main"))
		all := w.fill("ann", "ios", "a1", "a2", "a3")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", own.id))
		rules.PerPlatform, rules.AtPlatform = 1, policy.RefuseNew
		require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, rules)))

		_, err := w.tryLogin(request("ann", "main", "ios"))
		refused, ok := errors.AsType[*session.RefusedError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, 2, refused.Need)
		require.Len(w.t, refused.Logins, 3)
		_, err = w.reg.LoginReplacing(w.t.Context(), request("ann", "main", "ios"), all[0].id, all[1].id)
		require.NoError(w.t, err)
	})
}

// K9.8: the zero Policy decides by the zero Rules, in a registry too.
func TestSetPolicy_TheZeroPolicyIsThatOfTheZeroRules(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: 1}}, func(w *world) {
		require.NoError(w.t, w.reg.SetPolicy(&policy.Policy{}))
		for i := range policy.DefaultPerPlatform + 1 {
			w.login("ann", event.DeviceID(fmt.Sprint("a", i)), "ios")
		}
		require.Equal(w.t, "a1 a2 a3 a4", w.devices("ann"))
		_, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{})
		require.NoError(w.t, err)
		require.Equal(w.t, "a1 a2 a3 a4", w.devices("ann"))
	})
}

// K1.9: a device that the account does not know is the newest of all, also of those that were registered in the same
// millisecond: it neither evicts nor replaces their logins. It is not told to wait, for that does not make it known.
func TestMinAge_AnUnknownDeviceOfTheSameMillisecond(t *testing.T) {
	rules := policy.Rules{PerPlatform: 1, MinAge: time.Hour}
	inBubble(t, setup{rules: rules}, func(w *world) { // where the clock stands still
		owner := w.login("ann", "owner", "ios")
		_, err := w.tryLogin(request("ann", "thief", "ios"))
		refused, ok := errors.AsType[*session.RefusedError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, []any{policy.CauseMinAge, time.Duration(0), 1}, []any{refused.Cause, refused.RetryAfter, refused.Need})
		_, err = w.reg.LoginReplacing(w.t.Context(), request("ann", "thief", "ios"), owner.id)
		refused, ok = errors.AsType[*session.RefusedError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, session.RuleReplace, refused.Rule)
		require.Equal(w.t, []any{policy.CauseMinAge, time.Duration(0)}, []any{refused.Cause, refused.RetryAfter})
		require.Empty(w.t, refused.Logins)

		thief := w.login("ann", "thief", "web")
		for _, pair := range [][2]event.LoginID{{thief.id, owner.id}, {owner.id, thief.id}} {
			_, err := w.reg.Kick(w.t.Context(), session.KickRequest{
				Account: "ann", Logins: []event.LoginID{pair[1]}, By: pair[0], Reason: event.KickedSelf,
			})
			requireProtected(w.t, err, policy.CauseMinAge)
		}
		require.Equal(w.t, "owner thief", w.devices("ann"))
	})
}
