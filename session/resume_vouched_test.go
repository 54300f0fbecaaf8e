package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// vouch attaches a device by the host's word.
func (w *world) vouch(a event.Account, d event.DeviceID) (*session.Connection, *wire, error) {
	c := new(wire)
	conn, err := w.reg.Attach(context.WithoutCancel(w.t.Context()), session.AttachRequest{Account: a, Device: d, Vouched: true}, c)
	return conn, c, err
}

// TestVouched_IsAnOrdinaryAttach: a host that authenticates every connection needs no token (K11.3: it had to log in each
// time, which was flapping at the sixth).
func TestVouched_IsAnOrdinaryAttach(t *testing.T) {
	onStores(t, setup{config: session.Config{LoginsPerMinute: 10, FlapLimit: 3}}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		sibling := w.join("ann", "a2", "ios")
		g.conn.Detach()
		w.events.take()
		before := w.stored("ann")
		for range 100 { // in a minute
			conn, _, err := w.vouch("ann", "a1")
			require.NoError(w.t, err)
			require.Equal(w.t, g.id, conn.Login())
			require.Empty(w.t, conn.Token().Reveal())
			conn.Detach()
			if !w.real {
				w.pass(600 * time.Millisecond)
			}
			sibling.conn.Touch()
		}
		require.Equal(w.t, before, w.stored("ann"), "nothing was written, no entry was appended")
		require.Empty(w.t, w.events.take(), "nobody was told anything")
		require.True(w.t, sibling.live())
		conn, _, err := w.vouch("ann", "a1")
		require.NoError(w.t, err)
		again, _, err := w.vouch("ann", "a1")
		require.NoError(w.t, err)
		require.ErrorIs(w.t, conn.Send(w.t.Context(), nil), session.ErrFenced, "I22")
		require.NoError(w.t, again.Send(w.t.Context(), nil))
		byLogin, err := w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: g.id, Vouched: true}, new(wire))
		require.NoError(w.t, err)
		require.Equal(w.t, event.DeviceID("a1"), byLogin.Device())
		g.attach() // the token is as good as before
	})
}

// TestVouched_NoTokenIsMadeOrConfirmed: a device that is vouched for has no place to keep one.
func TestVouched_NoTokenIsMadeOrConfirmed(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1, ResumeWindow: 100 * time.Hour}}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		g.conn.Detach()
		w.pass(25 * time.Hour)
		before := w.stored("ann")
		conn, _, err := w.vouch("ann", "a1")
		require.NoError(w.t, err)
		require.Empty(w.t, conn.Token().Reveal())
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), conn))
		require.Equal(w.t, before, w.stored("ann"))
		next := g.attach().conn.Token()
		require.NotEmpty(w.t, next.Reveal())
		before = w.stored("ann")
		_, _, err = w.vouch("ann", "a1")
		require.NoError(w.t, err)
		require.Equal(w.t, before, w.stored("ann"))
		require.Equal(w.t, next.Reveal(), g.attach().conn.Token().Reveal())
	})
}

// TestVouched_NotByAccident: a token that is missing, or too many words, are an error, not a way in.
func TestVouched_NotByAccident(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		tests := map[string]session.AttachRequest{
			"no token":                     {Login: g.id},
			"nothing at all":               {},
			"a device":                     {Device: "a1"},
			"a device with the token":      {Device: "a1", Token: g.token},
			"a device, login and token":    {Device: "a1", Login: g.id, Token: g.token},
			"vouched, with a token":        {Vouched: true, Login: g.id, Token: g.token},
			"vouched, device with a token": {Vouched: true, Device: "a1", Token: g.token},
			"vouched for nobody":           {Vouched: true},
			"vouched for two":              {Vouched: true, Login: g.id, Device: "a1"},
			"vouched, bad login":           {Vouched: true, Login: "x"},
			"vouched, bad device":          {Vouched: true, Device: "a\x00"},
		}
		for name, q := range tests {
			q.Account = "ann"
			_, err := w.reg.Attach(w.t.Context(), q, new(wire))
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%s: %v", name, err)
		}
		require.True(w.t, g.live())
	})
}

// A host decodes what a client has sent into the request itself.
func TestVouched_AClientCannotVouchForItself(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		for _, sent := range []string{
			`{"Vouched":true,"Device":"a1"}`, `{"vouched":true,"device":"a1"}`, `{"Vouched":true,"Login":"` + string(g.id) + `"}`,
		} {
			var q session.AttachRequest
			require.NoError(w.t, json.Unmarshal([]byte(sent), &q))
			q.Account = "ann"
			_, err := w.reg.Attach(w.t.Context(), q, new(wire))
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%s: %v", sent, err)
		}
		require.True(w.t, g.live())
	})
}

// TestVouched_Ended: the host learns why the device's last login ended, and that a device has none.
func TestVouched_Ended(t *testing.T) {
	ends := map[event.Reason]func(w *world, g *gadget){
		event.KickedHost: func(w *world, g *gadget) { w.kick("ann", g.id) },
		event.Logout:     func(w *world, g *gadget) { require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", g.id)) },
		event.EvictedQuota: func(w *world, _ *gadget) {
			w.fill("ann", "ios", "a2", "a3", "a4", "a5")
		},
		event.DeviceRemoved: func(w *world, _ *gadget) {
			require.NoError(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a1"}))
		},
		event.Banned: func(w *world, _ *gadget) {
			_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann"})
			require.NoError(w.t, err)
		},
	}
	for reason, end := range ends {
		t.Run(string(reason), func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				w.kick("ann", w.join("ann", "a1", "ios").id) // an earlier end, which does not count
				w.login("ann", "b1", "web")
				g := w.join("ann", "a1", "ios")
				end(w, g)
				for range 2 {
					_, c, err := w.vouch("ann", "a1")
					ended, ok := errors.AsType[*session.EndedError](err)
					require.True(w.t, ok, "%v", err)
					require.Equal(w.t, reason, ended.Why.Reason)
					require.Equal(w.t, g.refused(), ended.Why, "note, cause and advice are those that its token tells")
					require.Empty(w.t, c.ends(), "the connection stays the caller's")
					_, err = w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: g.id, Vouched: true}, new(wire))
					again, ok := errors.AsType[*session.EndedError](err)
					require.True(w.t, ok, "%v", err)
					require.Equal(w.t, ended, again)
					w.restart(w.now)
				}
				_, _, err := w.vouch("ann", "never")
				require.ErrorIs(w.t, err, session.ErrUnknownLogin)
				_, _, err = w.vouch("nobody", "a1")
				require.ErrorIs(w.t, err, session.ErrUnknownLogin)
				_, err = w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: event.NewLoginID(), Vouched: true}, new(wire))
				require.ErrorIs(w.t, err, session.ErrUnknownLogin)
			})
		})
	}
}

// TestVouched_ALoginThatIsItsOwnDevice is found by its ID in both ways.
func TestVouched_ALoginThatIsItsOwnDevice(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.login("ann", "", "web")
		own := g.res.Session.Device
		conn, _, err := w.vouch("ann", own)
		require.NoError(w.t, err)
		require.Equal(w.t, g.id, conn.Login())
		w.kick("ann", g.id)
		_, _, err = w.vouch("ann", own)
		ended, ok := errors.AsType[*session.EndedError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, event.KickedHost, ended.Why.Reason)
	})
}

// TestVouched_WithoutASlot: it is an admission like that by token.
func TestVouched_WithoutASlot(t *testing.T) {
	inBubble(t, setup{config: session.Config{FlapLimit: 3}}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		g.conn.Detach()
		w.pass(3 * time.Minute)
		w.fill("ann", "ios", "a2", "a3", "a4", "a5")
		_, _, err := w.vouch("ann", "a1")
		require.NoError(w.t, err)
		require.Equal(w.t, "a3 a4 a5 a1", w.devices("ann"))
	})
}

// TestVouched_ADeviceHasOneLogin: whatever way it logs in, it replaces its own.
func TestVouched_ADeviceHasOneLogin(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		for i := range 6 {
			w.login("ann", "a1", modelPlatforms[i%3])
			_, err := w.reg.LoginReplacing(w.t.Context(), request("ann", "a1", modelPlatforms[(i+1)%3]))
			require.NoError(w.t, err)
		}
		require.Equal(w.t, "a1", w.devices("ann"))
	})
}

// TestAttach_RenewsTheDescription: what the other devices see, without an entry.
func TestAttach_RenewsTheDescription(t *testing.T) {
	onStores(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
		g, other := w.join("ann", "a1", "ios"), w.join("ann", "a2", "web")
		entries := w.entries("ann")
		renew := func(d session.Description) {
			_, err := w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: g.id, Token: g.token, Description: &d}, new(wire))
			require.NoError(w.t, err)
		}
		d := session.Description{Name: "Ann's phone", Model: "X", OS: "19", AppVersion: "2.0", IP: "192.0.2.1", Extension: []byte("ext")}
		renew(d)
		require.Equal(w.t, d, w.list("ann")[0].Description)
		peers, err := w.reg.Peers(w.t.Context(), "ann", other.id)
		require.NoError(w.t, err)
		require.Equal(w.t, "Ann's phone", peers[0].Name)
		before := w.stored("ann")
		d.Extension[0] = 'X'
		require.Equal(w.t, "ext", string(w.list("ann")[0].Description.Extension), "it is a copy")
		d.Extension[0] = 'e'
		renew(d)
		require.Equal(w.t, before, w.stored("ann"), "nothing has changed")
		d.IP = "192.0.2.2"
		renew(d)
		require.Equal(w.t, before, w.stored("ann"), "an address alone is not worth a commit at each attach")
		d.AppVersion = "2.1"
		renew(d)
		require.Equal(w.t, d, w.list("ann")[0].Description, "it goes with what is")
		g.attach()
		require.Equal(w.t, d, w.list("ann")[0].Description, "none given: it is kept")
		w.restart(w.now)
		require.Equal(w.t, d, w.list("ann")[0].Description)
		if !w.real {
			w.pass(time.Hour)
			d.IP = "192.0.2.3"
			renew(d)
			require.Equal(w.t, d, w.list("ann")[1].Description, "an hour later it is written by itself; it was admitted again")
		}
		renew(session.Description{})
		list := w.list("ann")
		i := slices.IndexFunc(list, func(s session.Session) bool { return s.Login == g.id })
		require.Equal(w.t, session.Description{}, list[i].Description)
		require.Equal(w.t, entries, w.entries("ann"), "no entry is appended")
		bad := session.Description{Extension: make([]byte, 1_025)}
		_, err = w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: g.id, Token: g.token, Description: &bad}, new(wire))
		_, ok := errors.AsType[*event.InvalidError](err)
		require.True(w.t, ok, "%v", err)
	})
}

// TestAttach_AFullRecordKeepsTheOldDescription: nobody is refused for it, and nothing else is dropped for it.
func TestAttach_AFullRecordKeepsTheOldDescription(t *testing.T) {
	s := setup{rules: policy.Rules{PerPlatform: policy.NoLimit}, config: session.Config{TombstoneTTL: time.Hour}}
	onStores(t, s, func(w *world) {
		var all []*gadget
		for i := range 64 {
			q := request("ann", event.DeviceID(fmt.Sprint("d", i)), "ios")
			q.Description.Extension = make([]byte, 1_000)
			g, err := w.tryLogin(q)
			if err != nil {
				break
			}
			all = append(all, g)
		}
		require.Less(w.t, len(all), 64)
		small := request("ann", "small", "ios")
		g, err := w.tryLogin(small)
		require.NoError(w.t, err)
		w.kick("ann", all[0].id)
		renew := func(size int) session.Description {
			d := session.Description{Name: "new", Extension: make([]byte, size)}
			_, err := w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: g.id, Token: g.token, Description: &d}, new(wire))
			require.NoError(w.t, err)
			list := w.list("ann")
			return list[slices.IndexFunc(list, func(s session.Session) bool { return s.Login == g.id })].Description
		}
		for i := 0; ; i++ { // fill what the kick left
			if _, err := w.tryLogin(request("ann", event.DeviceID(fmt.Sprint("e", i)), "ios")); err != nil || i == 40 {
				break
			}
		}
		tombstones := len(shapeOf(w.t, []byte(w.stored("ann").data)).Tombstones)
		require.Equal(w.t, "My small", renew(1_000).Name, "there is no room")
		require.Equal(w.t, "new", renew(0).Name, "what is shorter always fits")
		require.Equal(w.t, tombstones, len(shapeOf(w.t, []byte(w.stored("ann").data)).Tombstones))
	})
}

// TestVouched_ADeviceThatLoopsHasAShareOfItsOwn: the account's other devices attach beside it.
func TestVouched_ADeviceThatLoopsHasAShareOfItsOwn(t *testing.T) {
	inBubble(t, setup{config: session.Config{AttachesPerAccount: 10}}, func(w *world) {
		w.login("ann", "loops", "ios")
		w.login("ann", "calm", "web")
		refused := 0
		for range 300 {
			if _, _, err := w.vouch("ann", "loops"); errors.Is(err, session.ErrLimited) {
				refused++
			}
			w.pass(10 * time.Millisecond)
		}
		require.NotZero(w.t, refused)
		_, _, err := w.vouch("ann", "calm")
		require.NoError(w.t, err)
	})
}
