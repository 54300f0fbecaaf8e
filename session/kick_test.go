package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

func TestS18_KickOne(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2", "a3")
		other := w.join("bob", "b1", "ios")
		w.events.take()
		w.kick("ann", all[1].id)
		require.Equal(w.t, []event.Reason{event.KickedHost}, all[1].wire.reasons())
		require.False(w.t, all[1].live())
		for _, g := range []*gadget{all[0], all[2], other} {
			require.Empty(w.t, g.wire.ends(), "nobody else reconnects")
			require.True(w.t, g.live())
		}
		require.Equal(w.t, []string{"ended a2 kicked_host"}, w.events.take())
		require.Equal(w.t, "a1 a3", w.devices("ann"))
		require.Equal(w.t, []string{"device.login a1", "device.login a3", "device.ended a2 kicked_host"}, w.entries("ann"))
	})
}

func TestS19_KickAllWhileOneLogsIn(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		for round := range 30 {
			a := event.Account(fmt.Sprintf("ann %d", round))
			old := w.fill(a, "ios", "a1", "a2")
			var newcomer *gadget
			var kicked []session.KickResult
			var wg sync.WaitGroup
			wg.Go(func() { newcomer, _ = w.tryLogin(request(a, "a3", "ios")) })
			wg.Go(func() {
				kicked, _ = w.reg.Kick(context.Background(), session.KickRequest{Account: a, All: true})
			})
			wg.Wait()
			require.NotNil(w.t, newcomer)
			want := []session.KickResult{{Login: old[0].id, Ended: true}, {Login: old[1].id, Ended: true}}
			require.Subset(w.t, kicked, want)
			if len(kicked) == 3 { // it came first
				require.Equal(w.t, newcomer.id, kicked[2].Login)
				require.Equal(w.t, event.KickedHost, newcomer.refused().Reason)
				require.Empty(w.t, w.list(a))
				continue
			}
			require.Len(w.t, kicked, 2)
			newcomer.attach()
			require.Equal(w.t, "a3", w.devices(a))
		}
	})
}

func TestB9_S20_KickedComesBackAtOnce(t *testing.T) {
	var log journal
	s := setup{}
	s.config.Revoke = func(_ context.Context, e session.Ended) error {
		log.add("revoke " + string(e.Session.Device) + " " + string(e.Closed.Reason))
		return nil
	}
	onStores(t, s, func(w *world) {
		log.take()
		g := w.login("ann", "a1", "ios")
		var back error
		c := &wire{log: &log, onClose: func(event.Closed) error {
			_, back = g.tryAttach(new(wire)) // as soon as it is told
			return nil
		}}
		conn, err := w.reg.Attach(w.t.Context(), session.AttachRequest{
			Account: g.acc, Login: g.id, Token: g.token,
			Delivery: delivery(nil, func(why event.Closed) { log.add("ended " + string(why.Reason)) }),
		}, c)
		require.NoError(w.t, err)
		w.kick("ann", g.id)
		conn.AwaitClose(w.t.Context())
		require.Equal(w.t, []string{"ended kicked_host", "revoke a1 kicked_host", "close kicked_host"}, log.take())
		ended, ok := errors.AsType[*session.EndedError](back)
		require.True(w.t, ok, "%v", back)
		require.Equal(w.t, event.KickedHost, ended.Why.Reason)
		require.Equal(w.t, event.RetryNo, ended.Why.Retry)
		require.ErrorIs(w.t, conn.Send(w.t.Context(), nil), session.ErrFenced)
	})
}

func TestS26_KickTwice(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		old := w.join("ann", "a1", "ios")
		w.kick("ann", old.id)
		again := w.join("ann", "a1", "ios")
		w.events.take()
		before := w.stored("ann")
		res, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{old.id}})
		require.NoError(w.t, err)
		require.Equal(w.t, []session.KickResult{{Login: old.id, Ended: false}}, res)
		require.Equal(w.t, before, w.stored("ann"))
		require.Empty(w.t, w.events.take())
		require.True(w.t, again.live())
		require.Len(w.t, old.wire.ends(), 1)
		require.Len(w.t, w.revocations(), 1)
	})
}

func TestKick_Choices(t *testing.T) {
	stranger := event.NewLoginID()
	tests := []struct {
		name string
		ask  func(g []*gadget) session.KickRequest
		left string
		ends []bool // for each result
	}{
		{"a list with unknown ones", func(g []*gadget) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{g[2].id, stranger, g[0].id}}
		}, "a2", []bool{true, false, true}},
		{"only unknown ones", func([]*gadget) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{stranger}}
		}, "a1 a2 a3", []bool{false}},
		{"one twice", func(g []*gadget) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{g[0].id, g[0].id}}
		}, "a2 a3", []bool{true, false}},
		{"all", func([]*gadget) session.KickRequest { return session.KickRequest{All: true} }, "", []bool{true, true, true}},
		{"all but one", func(g []*gadget) session.KickRequest { return session.KickRequest{Others: g[1].id} },
			"a2", []bool{true, true}},
		{"one that another device asked for", func(g []*gadget) session.KickRequest {
			return session.KickRequest{Logins: []event.LoginID{g[0].id}, By: g[1].id}
		}, "a2 a3", []bool{true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				all := w.fill("ann", "ios", "a1", "a2", "a3")
				q := tt.ask(all)
				q.Account = "ann"
				res, err := w.reg.Kick(w.t.Context(), q)
				require.NoError(w.t, err)
				var ends []bool
				for _, r := range res {
					ends = append(ends, r.Ended)
				}
				require.Equal(w.t, tt.ends, ends)
				for i, id := range q.Logins {
					require.Equal(w.t, id, res[i].Login)
				}
				require.Equal(w.t, tt.left, w.devices("ann"))
				for _, g := range all {
					stays := slices.Contains(strings.Fields(tt.left), string(g.res.Session.Device))
					require.Equal(w.t, stays, g.live())
					if stays {
						continue
					}
					want := event.KickedHost.Closed(0)
					if q.By != "" {
						want = event.KickedSelf.Closed(0)
						want.Cause = &event.Cause{Login: all[1].id, Device: "a2", Platform: "ios", Name: "My a2"}
					}
					require.Equal(w.t, []event.Closed{want}, g.wire.ends())
				}
			})
		})
	}
}

func TestKick_NotThere(t *testing.T) {
	tests := []struct {
		name string
		ask  session.KickRequest
	}{
		{"asked for by nobody", session.KickRequest{All: true, By: event.NewLoginID()}},
		{"all but nobody", session.KickRequest{Others: event.NewLoginID()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				w.fill("ann", "ios", "a1", "a2")
				before := w.stored("ann")
				tt.ask.Account = "ann"
				res, err := w.reg.Kick(w.t.Context(), tt.ask)
				require.ErrorIs(w.t, err, session.ErrNotFound)
				require.Empty(w.t, res)
				require.Equal(w.t, before, w.stored("ann"))
				require.Equal(w.t, "a1 a2", w.devices("ann"))
			})
		})
	}
}

func TestKick_AnyReasonThatEndsALogin(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		for _, i := range event.Reasons() {
			g := w.join("ann", "a1", "ios")
			q := session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}, Reason: i.Reason}
			_, err := w.reg.Kick(w.t.Context(), q)
			if !i.EndsLogin {
				bad, ok := errors.AsType[*event.InvalidError](err)
				require.True(w.t, ok, "%s: %v", i.Reason, err)
				require.Equal(w.t, "reason", bad.Field)
				require.True(w.t, g.live())
				continue
			}
			require.NoError(w.t, err)
			require.Equal(w.t, []event.Closed{i.Reason.Closed(0)}, g.wire.ends())
		}
	})
}

func TestLogout(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", g.id))
		require.Equal(w.t, []event.Reason{event.Logout}, g.wire.reasons())
		require.Equal(w.t, event.Logout, g.refused().Reason)
		require.Empty(w.t, w.list("ann"))
		require.ErrorIs(w.t, w.reg.Logout(w.t.Context(), "ann", g.id), session.ErrNotFound)
		require.ErrorIs(w.t, w.reg.Logout(w.t.Context(), "bob", g.id), session.ErrNotFound)
	})
}

// TestB6_S50_KickIsNotForget and its opposite: a removed device begins anew.
func TestB6_S50_KickIsNotForget(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		other, g := w.join("ann", "a1", "ios"), w.join("ann", "a2", "ios")
		inc := g.res.Session.Incarnation
		w.saveCursor("ann", inc, 2)
		w.kick("ann", g.id)
		require.EqualValues(w.t, 2, w.cursor("ann", inc))
		back := w.join("ann", "a2", "ios")
		require.Equal(w.t, inc, back.res.Session.Incarnation)

		require.NoError(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a2"}))
		require.Equal(w.t, []event.Reason{event.DeviceRemoved}, back.wire.reasons())
		require.Equal(w.t, event.DeviceRemoved, back.refused().Reason)
		require.True(w.t, other.live())
		require.EqualValues(w.t, -1, w.cursor("ann", inc))
		devices, err := w.reg.Devices(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Equal(w.t, map[event.DeviceID]event.Incarnation{"a1": other.res.Session.Incarnation}, devices)
		require.ErrorIs(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a2"}), session.ErrNotFound)

		again := w.login("ann", "a2", "ios")
		require.NotEqual(w.t, inc, again.res.Session.Incarnation, "never used twice")
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", again.id))
		require.NoError(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a2"}), "a device without a login can be removed as well")
	})
}

// TestDeviceWithoutID: it lives as long as its login.
func TestDeviceWithoutID(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		first, second := w.join("ann", "", "web"), w.join("ann", "", "web")
		require.Equal(w.t, string(first.id), string(first.res.Session.Device))
		require.NotEqual(w.t, first.res.Session.Incarnation, second.res.Session.Incarnation)
		w.saveCursor("ann", first.res.Session.Incarnation, 1)
		w.kick("ann", first.id)
		require.EqualValues(w.t, -1, w.cursor("ann", first.res.Session.Incarnation), "its place in the inbox went with it")
		devices, err := w.reg.Devices(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Len(w.t, devices, 1)
		require.NoError(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: second.res.Session.Device}))
		require.Equal(w.t, event.DeviceRemoved, second.refused().Reason)
	})
}

func TestMaxDevices(t *testing.T) {
	inBubble(t, setup{config: session.Config{MaxDevices: 3}, rules: policy.Rules{PerPlatform: policy.NoLimit}}, func(w *world) {
		gone := func(devices ...event.DeviceID) {
			for _, d := range devices {
				g := w.join("ann", d, "ios")
				w.saveCursor("ann", g.res.Session.Incarnation, 1)
				w.tick()
				w.kick("ann", g.id)
			}
		}
		kept := func() string {
			devices, err := w.reg.Devices(w.t.Context(), "ann")
			require.NoError(w.t, err)
			cursors, err := w.st.Cursors(w.t.Context(), "ann")
			require.NoError(w.t, err)
			for _, c := range cursors {
				require.Contains(w.t, devicesOf(devices), c.Incarnation, "a forgotten device has no cursor")
			}
			var names []string
			for d := range devices {
				names = append(names, string(d))
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		long := w.join("ann", "old", "ios") // first seen, last ended
		gone("a1", "a2")
		require.Equal(w.t, "a1 a2 old", kept())
		gone("a1") // seen again
		w.tick()
		long.conn.Touch()
		w.kick("ann", long.id)
		gone("a3")
		require.Equal(w.t, "a1 a3 old", kept(), "the least recent goes; one that was connected till its end is recent")
		for i := range 5 {
			w.login("ann", event.DeviceID(fmt.Sprint("in", i)), "ios")
		}
		require.Equal(w.t, "in0 in1 in2 in3 in4", kept(), "never one that is logged in")
	})
}

func devicesOf(m map[event.DeviceID]event.Incarnation) []event.Incarnation {
	var all []event.Incarnation
	for _, i := range m {
		all = append(all, i)
	}
	return all
}

// K4.4: a filter names the logins that nobody uses, and one of them comes back before the step begins. It stays.
func TestKick_AFilterIsOfTheCommit_K4_4(t *testing.T) {
	onStores(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
		a, b := w.join("ann", "a1", "ios"), w.join("ann", "a2", "ios")
		a.conn.Detach()
		b.conn.Detach()
		asked := 0
		kick := session.KickRequest{Account: "ann", Filter: func(s session.Session) bool {
			if s.Login == b.id {
				if asked++; asked == 1 {
					a.attach()
				}
			}
			return s.State != session.Online
		}}
		results, err := w.reg.Kick(w.t.Context(), kick)
		require.NoError(w.t, err)
		require.Equal(w.t, []session.KickResult{{Login: b.id, Ended: true}}, results)
		require.Equal(w.t, 2, asked)
		require.True(w.t, a.live())

		kick.Filter = func(s session.Session) bool { // whatever it says, it is out of date
			a.attach()
			a.conn.Detach()
			if asked++; asked%2 == 0 {
				a.attach()
			}
			return true
		}
		_, err = w.reg.Kick(w.t.Context(), kick)
		require.ErrorIs(w.t, err, session.ErrChanging)
		require.Equal(w.t, "a1", w.devices("ann"))
	})
}
