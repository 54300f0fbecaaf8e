package fanout_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

// mute is a connection of a client that never says anything.
type mute struct{}

func (mute) Send(context.Context, []event.Frame) error { return nil }
func (mute) Close(event.Closed) error                  { return nil }

func mqtt(device event.DeviceID) session.LoginRequest {
	return session.LoginRequest{
		Account: "ann", Device: device, Platform: "ios", Description: session.Description{Name: "My " + string(device)},
	}
}

// TestConnect_LogsInOnce: a host without tokens resumes its clients, which costs the account's other devices nothing (K11.3).
func TestConnect_LogsInOnce(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		a, res, err := w.r.Connect(ctx, mqtt("m1"), fanout.AttachRequest{}, mute{})
		require.NoError(w.t, err)
		require.Equal(w.t, event.DeviceID("m1"), res.Session.Device)
		require.Equal(w.t, res.Session.Login, a.Login())
		head := w.head("ann")
		for range 100 {
			a.Detach()
			next, again, err := w.r.Connect(ctx, mqtt("m1"), fanout.AttachRequest{Account: "ann"}, mute{})
			require.NoError(w.t, err)
			require.Nil(w.t, again)
			require.Equal(w.t, a.Login(), next.Login())
			a = next
		}
		require.Equal(w.t, head, w.head("ann"), "no entry was appended")
		in := mqtt("m1")
		in.Description.Name = "Ann's meter"
		last, _, err := w.r.Connect(ctx, in, fanout.AttachRequest{}, mute{})
		require.NoError(w.t, err)
		last.Detach()
		all, err := w.reg.List(ctx, "ann", "")
		require.NoError(w.t, err)
		require.Len(w.t, all, 1)
		require.Equal(w.t, "Ann's meter", all[0].Description.Name)
	})
}

// TestConnect_AfterTheEnd: a device that was kicked does not come back by itself; one that was away for too long does.
func TestConnect_AfterTheEnd(t *testing.T) {
	tests := map[event.Reason]bool{
		event.KickedHost: false, event.Logout: false, event.Replaced: false, event.PasswordChanged: true, event.TokenReuse: true,
	}
	for reason, back := range tests {
		t.Run(string(reason), func(t *testing.T) {
			overStores(t, fanout.Config{}, func(w *world) {
				ctx := context.Background()
				a, res, err := w.r.Connect(ctx, mqtt("m1"), fanout.AttachRequest{}, mute{})
				require.NoError(w.t, err)
				_, err = w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{a.Login()}, Reason: reason})
				require.NoError(w.t, err)
				b, again, err := w.r.Connect(ctx, mqtt("m1"), fanout.AttachRequest{}, mute{})
				if back {
					require.NoError(w.t, err)
					require.NotEqual(w.t, res.Session.Login, again.Session.Login)
					require.Equal(w.t, again.Session.Login, b.Login())
					b.Detach()
					return
				}
				ended, ok := errors.AsType[*session.EndedError](err)
				require.True(w.t, ok, "%v", err)
				require.Equal(w.t, reason, ended.Why.Reason)
				require.Nil(w.t, b)
			})
		})
	}
}

// TestConnect_Refused: errors are those of the calls that it is made of.
func TestConnect_Refused(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		token := event.NewResumeToken()
		for name, q := range map[string]fanout.AttachRequest{
			"login": {Login: event.NewLoginID()}, "token": {Token: token}, "device": {Device: "m1"}, "account": {Account: "bob"},
			"description": {Description: new(session.Description)},
		} {
			_, _, err := w.r.Connect(ctx, mqtt("m1"), q, mute{})
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%s: %v", name, err)
		}
		_, _, err := w.r.Connect(ctx, mqtt(""), fanout.AttachRequest{}, mute{})
		_, ok := errors.AsType[*event.InvalidError](err)
		require.True(w.t, ok, "%v", err)
		_, err = w.reg.Ban(ctx, session.BanRequest{Account: "ann"})
		require.NoError(w.t, err)
		_, res, err := w.r.Connect(ctx, mqtt("m1"), fanout.AttachRequest{}, mute{})
		require.ErrorIs(w.t, err, session.ErrBanned)
		require.Nil(w.t, res)
		require.NoError(w.t, w.reg.Close(ctx))
		_, _, err = w.r.Connect(ctx, mqtt("m1"), fanout.AttachRequest{}, mute{})
		require.ErrorIs(w.t, err, session.ErrClosed)
	})
}

// A host decodes what a client has sent into the request itself: that does not vouch for the client.
func TestAttach_AClientCannotVouchForItself(t *testing.T) {
	var q fanout.AttachRequest
	require.NoError(t, json.Unmarshal([]byte(`{"Account":"ann","Vouched":true,"vouched":true,"Device":"m1"}`), &q))
	require.Equal(t, fanout.AttachRequest{Account: "ann", Device: "m1"}, q)
}

// TestAttach_Vouched delivers from the device's place like any other attach.
func TestAttach_Vouched(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.acked()
		d.drop()
		w.feed("ann", 0, 3)
		time.Sleep(time.Millisecond)
		d.vouched = true
		d.online()
		require.NotEmpty(w.t, d.Token(), "it keeps its own")
		w.fence("ann")
		d.acked()
		require.Empty(w.t, d.Resets())
	})
}
