package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

func TestB10_S5_ResumeWithinTheWindow(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		w.events.take()
		before, listed := w.stored("ann"), w.list("ann")
		all[0].conn.Detach()
		require.Equal(w.t, []session.State{session.Lingering, session.Online, session.Online, session.Online}, w.states("ann"))
		all[0].attach()
		after := w.list("ann")
		require.Len(w.t, after, 4)
		for i, s := range after {
			require.Equal(w.t, listed[i].Login, s.Login)
			require.Equal(w.t, listed[i].Admission, s.Admission)
			require.Equal(w.t, listed[i].LoggedInAt, s.LoggedInAt)
			require.Equal(w.t, session.Online, s.State)
			require.True(w.t, all[i].live())
		}
		require.Empty(w.t, all[0].conn.Token())
		require.Equal(w.t, before, w.stored("ann"), "nothing was written")
		require.Empty(w.t, w.events.take(), "nobody was told anything")
	})
}

func TestS6_ResumeWhileEvicted(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		for round := range 30 {
			a := event.Account(fmt.Sprintf("ann %d", round))
			old := w.fill(a, "ios", "a1", "a2", "a3", "a4")
			old[0].conn.Detach()
			second := new(wire)
			var resumed error
			var wg sync.WaitGroup
			wg.Go(func() { _, resumed = old[0].tryAttach(second) })
			wg.Go(func() { _, _ = w.tryLogin(request(a, "a5", "ios")) })
			wg.Wait()
			require.Equal(w.t, "a2 a3 a4 a5", w.devices(a))
			require.Equal(w.t, event.EvictedQuota, old[0].refused().Reason)
			if resumed == nil {
				require.Equal(w.t, []event.Reason{event.EvictedQuota}, second.reasons(), "resumed first, then evicted")
				continue
			}
			ended, ok := errors.AsType[*session.EndedError](resumed)
			require.True(w.t, ok, "%v", resumed)
			require.Equal(w.t, event.EvictedQuota, ended.Why.Reason)
			require.Empty(w.t, second.ends(), "a connection that was not attached stays the caller's")
		}
	})
}

// TestS13_EndBetweenCommitAndClose: in the revoke hook the commit is done and no connection is closed yet. What another
// registry sees then is what it would see after the end of the process.
func TestS13_EndBetweenCommitAndClose(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		var old []*gadget
		seen := false
		s := setup{}
		s.config.Revoke = func(ctx context.Context, e session.Ended) error {
			require.Empty(w.t, old[0].wire.called(), "the connection is not closed yet")
			w.st.abandon()
			next, err := session.New(w.st, session.Config{})
			require.NoError(w.t, err)
			defer w.shut(next)
			_, err = next.Attach(ctx, session.AttachRequest{Account: "ann", Login: old[0].id, Token: old[0].token}, new(wire))
			ended, ok := errors.AsType[*session.EndedError](err)
			require.True(w.t, ok, "%v", err)
			require.Equal(w.t, event.EvictedQuota, ended.Why.Reason)
			require.Equal(w.t, event.DeviceID("a5"), ended.Why.Cause.Device)
			seen = true
			return nil
		}
		w.restart(s)
		old = w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		w.login("ann", "a5", "ios")
		require.True(w.t, seen)
		w.restart(setup{})
		require.Equal(w.t, "a2 a3 a4 a5", w.devices("ann"))
		require.Equal(w.t, event.EvictedQuota, old[0].refused().Reason)
	})
}

func TestS29_Restart(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		const accounts = 250
		all := make([][]*gadget, accounts)
		var wg sync.WaitGroup
		for i := range accounts {
			wg.Go(func() {
				for d := range 4 {
					g, err := w.tryLogin(request(event.Account(fmt.Sprint("ann", i)), event.DeviceID(fmt.Sprint("d", d)), "ios"))
					if err != nil {
						return
					}
					g.wire = new(wire)
					if _, err = g.tryAttach(g.wire); err == nil {
						all[i] = append(all[i], g)
					}
				}
			})
		}
		wg.Wait()
		w.tick()
		w.st.abandon()
		w.open(w.now) // the old registry is not closed: nothing is written any more
		for i := range accounts {
			require.Len(w.t, all[i], 4)
			a := event.Account(fmt.Sprint("ann", i))
			l := session.Lingering
			require.Equal(w.t, []session.State{l, l, l, l}, w.states(a))
			p, err := w.reg.Presence(w.t.Context(), a)
			require.NoError(w.t, err)
			require.Equal(w.t, l, p.State, "none counts as online")
		}
		all[0][0].attach()
		require.True(w.t, all[0][0].conn.Restored())
		w.tick()
		g := w.login("ann0", "d4", "ios")
		require.False(w.t, g.attach().conn.Restored())
		require.Len(w.t, g.res.Victims, 1, "quotas are as they were")
		require.Equal(w.t, all[0][0].id, g.res.Victims[0].Session.Login)
	})
}

func TestRestart_OfflineAfterTheWindow(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.pass(time.Hour)
		w.restart(w.now)
		w.events.take()
		require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
		w.pass(2*time.Minute + 2*time.Second) // the janitor looks right after the window
		require.Equal(w.t, []session.State{session.Offline}, w.states("ann"))
		require.Equal(w.t, []string{"offline a1 lost"}, w.events.take())
		require.Zero(w.t, shapeOf(w.t, []byte(w.stored("ann").data)).holders("ios"))
		g.attach()
		require.True(w.t, g.conn.Restored(), "what was sent before the restart is not known")
	})
}

func TestResume_AfterTheWindow(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		a1 := w.join("ann", "a1", "ios")
		a1.conn.Detach()
		w.pass(3 * time.Minute)
		others := w.fill("ann", "ios", "a2", "a3", "a4", "a5")
		require.Equal(w.t, "a1 a2 a3 a4 a5", w.devices("ann"), "an offline login takes no slot")
		w.events.take()
		a1.attach()
		require.Equal(w.t, "a3 a4 a5 a1", w.devices("ann"), "it is an admission: the earliest goes, the age is new")
		require.Equal(w.t, []event.Reason{event.EvictedQuota}, others[0].wire.reasons())
		require.Equal(w.t, a1.id, others[0].wire.ends()[0].Cause.Login)
		require.Equal(w.t, []string{"ended a2 evicted_quota", "online a1"}, w.events.take())
		require.Equal(w.t, a1.id, w.list("ann")[3].Login, "same login ID as before")
	})
}

// TestResume_NamesItselfAsTheCauseOfEveryEnd: the comeback moves in the record while its victims are taken out.
func TestResume_NamesItselfAsTheCauseOfEveryEnd(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		first := w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		w.restart(setup{rules: policy.Rules{PerPlatform: 2}})
		w.pass(3 * time.Minute)
		for _, i := range []int{0, 1} { // back with slots, admitted again
			first[i].attach()
		}
		w.restart(setup{rules: policy.Rules{PerPlatform: 1}})
		for _, i := range []int{0, 1} {
			first[i].attach()
		}
		first[3].attach()
		for _, i := range []int{0, 1} {
			why := first[i].wire.ends()
			require.Len(w.t, why, 1)
			require.Equal(w.t, event.EvictedQuota, why[0].Reason)
			require.Equal(w.t, first[3].id, why[0].Cause.Login)
			require.Equal(w.t, "My a4", why[0].Cause.Name)
			require.Equal(w.t, why[0].Cause, first[i].refused().Cause)
		}
		require.Equal(w.t, "a3 a4", w.devices("ann"))
	})
}

func TestResume_AfterTheWindowRefused(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "web")
		w.restart(setup{rules: policy.Rules{Platforms: map[event.Platform]int{"web": 0}}})
		g.attach() // it still has its slot
		g.conn.Detach()
		w.pass(3 * time.Minute)
		before := w.stored("ann")
		c := new(wire)
		_, err := g.tryAttach(c)
		require.ErrorIs(w.t, err, session.ErrRefused)
		require.Equal(w.t, before, w.stored("ann"))
		require.Empty(w.t, c.ends(), "the connection stays the caller's")
		require.Equal(w.t, []session.State{session.Offline}, w.states("ann"))
		w.restart(setup{})
		g.attach()
	})
}

// TestUnknownLogin: all that is wrong with a resume looks the same to whoever does not hold the token.
func TestUnknownLogin(t *testing.T) {
	inBubble(t, setup{config: session.Config{TombstoneTTL: time.Hour}}, func(w *world) {
		live := w.join("ann", "a1", "ios")
		ended := w.join("ann", "a2", "ios")
		expired := w.join("ann", "a3", "ios")
		foreign := w.join("bob", "b1", "ios")
		w.kick("ann", expired.id)
		w.pass(time.Hour)
		w.kick("ann", ended.id)
		w.pass(time.Minute)
		tests := []struct {
			name  string
			login event.LoginID
			token event.ResumeToken
		}{
			{"login that never was", event.NewLoginID(), live.token},
			{"wrong token", live.id, event.NewResumeToken()},
			{"token of another login", live.id, foreign.token},
			{"login of another account", foreign.id, foreign.token},
			{"ended login, wrong token", ended.id, live.token},
			{"tombstone has expired", expired.id, expired.token},
		}
		before := w.stored("ann")
		for _, tt := range tests {
			_, err := w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: tt.login, Token: tt.token}, new(wire))
			require.ErrorIs(w.t, err, session.ErrUnknownLogin, tt.name)
			require.Equal(w.t, "session: attach: no such login for this account and token", err.Error(), tt.name)
		}
		require.Equal(w.t, event.KickedHost, ended.refused().Reason)
		require.Equal(w.t, before, w.stored("ann"))
	})
}

// TestEnded_Words: the rightful owner of an ended login learns everything, and cannot change what the engine keeps.
func TestEnded_Words(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		by, victim := w.join("ann", "laptop", "macos"), w.join("ann", "phone", "ios")
		_, err := w.reg.Kick(w.t.Context(), session.KickRequest{
			Account: "ann", Logins: []event.LoginID{victim.id}, By: by.id, Note: "lost on the train",
		})
		require.NoError(w.t, err)
		want := event.Closed{
			Reason: event.KickedSelf, Note: "lost on the train", Retry: event.RetryNo,
			Cause: &event.Cause{Login: by.id, Device: "laptop", Platform: "macos", Name: "My laptop"},
		}
		require.Equal(w.t, []event.Closed{want}, victim.wire.ends())
		got := victim.refused()
		require.Equal(w.t, want, got)
		got.Cause.Name = "somebody else"
		victim.wire.ends()[0].Cause.Name = "somebody else"
		require.Equal(w.t, want.Cause, victim.refused().Cause)
		w.restart(w.now)
		require.Equal(w.t, want, victim.refused())
	})
}

func TestList_IsACopy(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		q := request("ann", "a1", "ios")
		q.Description.Extension = []byte("ext")
		g, err := w.tryLogin(q)
		require.NoError(w.t, err)
		q.Description.Extension[0] = 'X'
		g.res.Session.Description.Extension[0] = 'X'
		w.list("ann")[0].Description.Extension[0] = 'X'
		require.Equal(w.t, "ext", string(w.list("ann")[0].Description.Extension))
	})
}

func (w *world) kick(a event.Account, ids ...event.LoginID) {
	w.t.Helper()
	res, err := w.reg.Kick(context.WithoutCancel(w.t.Context()), session.KickRequest{Account: a, Logins: ids})
	require.NoError(w.t, err)
	require.False(w.t, slices.ContainsFunc(res, func(r session.KickResult) bool { return !r.Ended }))
}

// TestS42_WhereDevicesBegin: the first device at the oldest entry, later ones at the head or where they ask for.
func TestS42_WhereDevicesBegin(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		first := w.login("ann", "a1", "ios")
		require.Zero(w.t, w.cursor("ann", first.res.Session.Incarnation), "from the oldest entry")
		for range 3 {
			w.login("ann", "a2", "web")
		}
		late := w.login("ann", "a3", "macos")
		require.EqualValues(w.t, late.res.Position.Seq, w.cursor("ann", late.res.Session.Incarnation))
		q := request("ann", "a4", "macos")
		q.BackFill = 2
		back, err := w.tryLogin(q)
		require.NoError(w.t, err)
		require.EqualValues(w.t, back.res.Position.Seq-2, w.cursor("ann", back.res.Session.Incarnation))
		q.BackFill = 100
		_, err = w.tryLogin(q)
		require.NoError(w.t, err)
		require.EqualValues(w.t, back.res.Position.Seq-2, w.cursor("ann", back.res.Session.Incarnation), "a device keeps its place")
		require.NoError(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a4"}))
		again, err := w.tryLogin(q)
		require.NoError(w.t, err)
		require.Zero(w.t, w.cursor("ann", again.res.Session.Incarnation), "not before the first")
	})
}

// A new login of a device that was there before the restart has what was sent to the earlier one.
func TestRestart_NewLoginOfAnOldDevice(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		w.join("ann", "a1", "ios")
		w.tick()
		w.restart(w.now)
		w.tick()
		g := w.login("ann", "a1", "ios")
		require.True(w.t, g.attach().conn.Restored(), "what was sent to the device before the restart is not known")
		g.attach()
		require.True(w.t, g.conn.Restored(), "what was sent before the restart may not be acknowledged yet")
		require.False(w.t, w.login("ann", "a2", "ios").attach().conn.Restored(), "a new device")
	})
}
