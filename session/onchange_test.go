package session_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// The hook may call back into the engine, take its time and panic.
func TestS28_OnChange(t *testing.T) {
	var mu sync.Mutex
	var told []string
	var reg *session.Registry
	c := session.Config{OnChange: func(c session.Change) {
		list, err := reg.List(context.Background(), c.Session.Account, "")
		mu.Lock()
		told = append(told, fmt.Sprintf("%s %s %d", c.Kind, c.Session.Device, len(list)))
		mu.Unlock()
		if err != nil || c.Session.Device == "bad" {
			panic("told to")
		}
		if c.Kind == session.ChangeLogin && c.Session.Device == "a2" {
			_, _ = reg.Kick(context.Background(), session.KickRequest{Account: "ann", All: true})
		}
	}}
	inBubble(t, setup{config: c}, func(w *world) {
		reg = w.reg
		w.login("ann", "bad", "ios")
		synctest.Wait()
		w.login("ann", "a2", "web")
		synctest.Wait()
		require.Equal(w.t, []string{
			"login bad 1", "login a2 2", "ended bad 0", "ended a2 0",
		}, told)
		require.Zero(w.t, w.reg.HookDrops())
	})
}

func TestB19_OnChangeIsBounded(t *testing.T) {
	gate := make(chan struct{})
	heard := 0
	c := session.Config{OnChange: func(session.Change) {
		<-gate
		heard++
	}}
	inBubble(t, setup{config: c}, func(w *world) {
		const all = 1_100
		for i := range all {
			w.login(event.Account(fmt.Sprintf("u%d", i)), "d", "ios") // does not wait for the hook
		}
		require.NotZero(w.t, w.reg.HookDrops())
		dropped := int(w.reg.HookDrops())
		close(gate)
		w.shut(w.reg)
		require.Equal(w.t, all, heard+dropped, "what was queued is told before the end")
		require.GreaterOrEqual(w.t, heard, 1_024)
	})
}

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
