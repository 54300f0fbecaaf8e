package session_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// TestB13_ForgottenDevices: hosts hear of devices that are forgotten, and why nothing of them is left.
func TestB13_ForgottenDevices(t *testing.T) {
	inBubble(t, setup{config: session.Config{MaxDevices: 2, SweepInterval: time.Minute, JanitorInterval: time.Hour}}, func(w *world) {
		for i := range 3 {
			g := w.login("ann", event.DeviceID(fmt.Sprintf("a%d", i)), "ios")
			require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", g.id))
			w.pass(time.Second)
		}
		require.Equal(w.t, []string{"a0"}, forgotten(w), "the one seen longest ago is beyond the cap")
		w.pass(31 * 24 * time.Hour)
		require.Equal(w.t, []string{"a0", "a1", "a2"}, forgotten(w), "nobody was heard of for 30 days")
		all, err := w.reg.Devices(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Empty(w.t, all)
		for _, c := range w.history() {
			if c.Kind == session.ChangeForgotten {
				require.EqualValues(w.t, -1, w.cursor("ann", c.Session.Incarnation))
				require.NotZero(w.t, c.Session.LastSeen)
			}
		}
	})
}

func forgotten(w *world) []string {
	var all []string
	for _, c := range w.history() {
		if c.Kind == session.ChangeForgotten {
			all = append(all, string(c.Session.Device))
		}
	}
	return all
}
