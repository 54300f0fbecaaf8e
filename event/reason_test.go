package event_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
)

func TestReasons(t *testing.T) {
	const login, connection = true, false
	want := []struct {
		name   string
		ends   bool
		retry  event.Retry
		compat int
	}{
		{"evicted_quota", login, "no", 206},
		{"evicted_single", login, "no", 206},
		{"replaced", login, "no", 206},
		{"kicked_self", login, "no", 217},
		{"kicked_host", login, "no", 217},
		{"device_removed", login, "no", 217},
		{"password_changed", login, "login", 216},
		{"account_deleted", login, "no", 207},
		{"banned", login, "no", 305},
		{"logout", login, "no", 0},
		{"expired_idle", login, "login", 108},
		{"expired_absolute", login, "login", 108},
		{"token_reuse", login, "login", 0},
		{"policy_changed", login, "no", 206},
		{"refused_quota", connection, "no", 214},
		{"moved", connection, "after", 0},
		{"tab_replaced", connection, "no", 0},
		{"slow", connection, "yes", 0},
		{"lost", connection, "yes", 0},
		{"flapping", connection, "after", 0},
		{"rate_limited", connection, "after", 0},
		{"protocol_error", connection, "no", 0},
		{"lease_lost", connection, "yes", 0},
		{"unavailable", connection, "after", 0},
		{"shutdown", connection, "after", 0},
		{"unknown", connection, "login", 0},
	}
	got := event.Reasons()
	require.Len(t, got, len(want))
	for i, w := range want {
		t.Run(w.name, func(t *testing.T) {
			require.Equal(t, event.Reason(w.name), got[i].Reason)
			require.Equal(t, w.ends, got[i].EndsLogin)
			require.Equal(t, w.retry, got[i].Retry)
			require.Equal(t, w.compat, got[i].Compat)
			require.NotEmpty(t, got[i].Meaning)

			info, ok := event.Reason(w.name).Info()
			require.True(t, ok)
			require.Equal(t, got[i], info)

			closed := event.Closed{Reason: event.Reason(w.name), Retry: w.retry}
			if w.retry == event.RetryAfter {
				closed.After = time.Second
			}
			require.Equal(t, closed, event.Reason(w.name).Closed(time.Second))
		})
	}
}

func TestReasons_IsACopy(t *testing.T) {
	list := event.Reasons()
	list[0].Reason = "changed"
	require.Equal(t, event.EvictedQuota, event.Reasons()[0].Reason)
}

func TestReason_Unknown(t *testing.T) {
	_, ok := event.Reason("solar_flare").Info()
	require.False(t, ok)
	require.Equal(t, event.Closed{Reason: "solar_flare", Retry: event.RetryNo}, event.Reason("solar_flare").Closed(time.Second))
}
