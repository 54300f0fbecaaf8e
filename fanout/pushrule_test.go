package fanout_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

// is a device in some state, whose user did something that long ago.
func is(id event.DeviceID, p event.Platform, s session.State, ago time.Duration) fanout.PushDevice {
	return fanout.PushDevice{Session: session.Session{Device: id, Platform: p, State: s}, Active: pushNow.Add(-ago)}
}

var pushNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestC23_Presets(t *testing.T) {
	phone, tablet := is("phone", "ios", session.Offline, time.Hour), is("tablet", "ios", session.Lingering, time.Minute)
	desk := func(s session.State, ago time.Duration) fanout.PushDevice { return is("desk", "windows", s, ago) }
	for _, test := range []struct {
		name                         string
		devices                      []fanout.PushDevice
		allOffline, anyOffline, mute string
	}{
		{"nobody", nil, "", "", ""},
		{"all are offline", []fanout.PushDevice{phone, tablet, desk(session.Offline, time.Hour)}, "phone tablet desk", "phone tablet desk", "phone tablet desk"},
		{"all are online", []fanout.PushDevice{is("phone", "ios", session.Online, 0), desk(session.Online, 0)}, "", "", ""},
		{"another phone is online", []fanout.PushDevice{phone, is("p2", "android", session.Online, 0)}, "", "phone", "phone"},
		{"another phone is in background", []fanout.PushDevice{phone, is("p2", "android", session.Away, 0)}, "", "phone", "phone"},
		{"somebody sits at the desktop", []fanout.PushDevice{phone, tablet, desk(session.Online, 5*time.Minute-1)}, "", "phone tablet", ""},
		{"the desktop is idle", []fanout.PushDevice{phone, desk(session.Online, 5*time.Minute)}, "", "phone", "phone"},
		{"the desktop is in background", []fanout.PushDevice{phone, desk(session.Away, 0)}, "", "phone", "phone"},
		{"the desktop lingers", []fanout.PushDevice{phone, desk(session.Lingering, 0)}, "phone desk", "phone desk", "phone desk"},
		{"one desktop is idle, one is not", []fanout.PushDevice{
			phone, desk(session.Online, time.Hour), is("web", "web", session.Online, 0), is("mac", "macos", session.Offline, 0),
		}, "", "phone mac", ""},
		{"a platform of the host", []fanout.PushDevice{phone, is("tv", "tv", session.Online, 0)}, "", "phone", "phone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			choose := func(p fanout.PushPreset) string {
				var all []string
				for _, id := range (fanout.PushRules{Preset: p}).Choose(test.devices, pushNow) {
					all = append(all, string(id))
				}
				return strings.Join(all, " ")
			}
			require.Equal(t, test.allOffline, choose(fanout.AllOffline))
			require.Equal(t, test.allOffline, choose(""), "the default")
			require.Equal(t, test.anyOffline, choose(fanout.AnyOffline))
			require.Equal(t, test.mute, choose(fanout.ActiveDesktopMutesPhone))
		})
	}
	t.Run("configured", func(t *testing.T) {
		r := fanout.PushRules{Preset: fanout.ActiveDesktopMutesPhone, Desktops: []event.Platform{"tv"}, Idle: time.Minute}
		require.Empty(t, r.Choose([]fanout.PushDevice{phone, is("tv", "tv", session.Online, time.Minute-1)}, pushNow))
		require.Len(t, r.Choose([]fanout.PushDevice{phone, is("tv", "tv", session.Online, time.Minute)}, pushNow), 1)
		require.Len(t, r.Choose([]fanout.PushDevice{phone, desk(session.Online, 0)}, pushNow), 1, "no desktop any more")
		r.Idle = -1
		require.Empty(t, r.Choose([]fanout.PushDevice{phone, is("tv", "tv", session.Online, 24*time.Hour)}, pushNow))
		require.Len(t, r.Choose([]fanout.PushDevice{phone, is("tv", "tv", session.Away, 0)}, pushNow), 1)
	})
}

func TestC23_Config(t *testing.T) {
	hook := func(context.Context, fanout.Push) error { return nil }
	for _, test := range []struct {
		c     fanout.PushConfig
		field string
	}{
		{fanout.PushConfig{Delay: -1}, "Push.Delay"},
		{fanout.PushConfig{MaxAge: time.Second}, "Push.MaxAge"},
		{fanout.PushConfig{MaxAge: 10 * time.Second}, "Push.MaxAge"},
		{fanout.PushConfig{HookTimeout: -1}, "Push.HookTimeout"},
		{fanout.PushConfig{Tries: -1}, "Push.Tries"},
		{fanout.PushConfig{Concurrency: -1}, "Push.Concurrency"},
		{fanout.PushConfig{Pending: -1}, "Push.Pending"},
		{fanout.PushConfig{Rules: fanout.PushRules{Preset: "odd"}}, "Push.Rules.Preset"},
		{fanout.PushConfig{Rules: fanout.PushRules{Desktops: []event.Platform{"Windows"}}}, "Push.Rules.Desktops"},
		{fanout.PushConfig{Decide: func(context.Context, fanout.PushQuestion) ([]event.DeviceID, error) { return nil, nil }}, "Push.Decide"},
	} {
		t.Run(test.field, func(t *testing.T) {
			inMemory(t, fanout.Config{}, func(w *world) {
				if test.field != "Push.Decide" {
					test.c.Hook = hook
				}
				_, err := fanout.New(w.reg, w.st, fanout.Config{Push: test.c})
				w.invalid(err, test.field)
			})
		})
	}
	_, err := event.NewRegistry(event.KindInfo{Kind: "x", Push: true})
	require.ErrorContains(t, err, "wants no push", "nothing live-only does")
}

func TestC23_AllOfflineIsTheDefault(t *testing.T) {
	pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
		a := w.ready("ann", "a1", "a2")
		a[0].leave()
		w.host("bob", "x", "ann")
		w.decided()
		require.Empty(w.t, l.take())
		a[1].acked()
		a[1].leave()
		w.host("bob", "y", "ann")
		w.decided()
		require.Equal(w.t, map[string]string{"a1": "y", "a2": "y"}, l.got(), "what was muted once is not pushed later")
	})
}

func TestC23_ActiveDesktopMutesPhone(t *testing.T) {
	ctx := context.Background()
	cfg := fanout.Config{Push: fanout.PushConfig{Rules: fanout.PushRules{Preset: fanout.ActiveDesktopMutesPhone, Idle: time.Minute}}}
	pushInMemory(t, cfg, func(w *world, l *pushLog) {
		phone := w.login("ann", "phone")
		desk := w.login("ann", "desk").on("linux")
		desk.online()
		pushed := func() bool {
			w.host("bob", "x", "ann")
			w.decided()
			got := l.got()
			require.NotContains(w.t, got, "desk")
			return got["phone"] == "x"
		}
		require.False(w.t, pushed(), "it has just connected")
		require.NoError(w.t, desk.Send(&event.Background{On: true}))
		require.True(w.t, pushed(), "its app is in background")
		time.Sleep(time.Hour)
		require.NoError(w.t, desk.Send(&event.Background{On: false}))
		require.False(w.t, pushed(), "it has come back")
		require.False(w.t, pushed())
		for _, act := range []func(){
			func() { w.send(desk, "y", "bob") },
			func() { desk.mark(1) },
			func() {
				_, err := w.r.Publish(ctx, fanout.PublishRequest{From: "ann", Origin: desk.Login(), Kind: event.KindTyping, To: []event.Account{"bob"}})
				require.NoError(w.t, err)
			},
			func() {
				_, err := w.r.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: "ann", Origin: desk.Login()})
				require.NoError(w.t, err)
			},
		} {
			time.Sleep(time.Minute - 10*time.Second)
			require.NoError(w.t, desk.Send(&event.Ping{}))
			require.True(w.t, pushed(), "a sign of life is not one of a user")
			act()
			require.False(w.t, pushed(), "somebody sits there")
		}
		time.Sleep(time.Minute - 10*time.Second)
		w.send(phone, "z", "bob") // of another login: its user is not at the desktop
		require.True(w.t, pushed())
	})
}

func TestC23_SilentDevice(t *testing.T) {
	t.Run("any offline", func(t *testing.T) {
		pushInMemory(t, anyOffline(), func(w *world, l *pushLog) {
			a := w.ready("ann", "a1", "a2", "a3")
			a[0].leave()
			a[1].HoldAcks(true) // its network is gone, and nobody knows
			begin := time.Now()
			w.host("bob", "x", "ann")
			time.Sleep(10*time.Second + time.Millisecond)
			synctest.Wait()
			require.Equal(w.t, []string{"ann: a1 x"}, l.take(), "who is offline does not wait for who may be")
			w.undecided(1)
			w.host("bob", "y", "ann")
			w.decided()
			require.Equal(w.t, event.Slow, a[1].closed().Reason)
			require.Equal(w.t, map[string]string{"a1": "y", "a2": "x y"}, l.got(), "once it is known, once each")
			require.LessOrEqual(w.t, time.Since(begin), 30*time.Second+2*10*time.Second, "AckWait, and at most two looks")
			time.Sleep(time.Hour)
			require.Empty(w.t, l.take())
		})
	})
	t.Run("all offline", func(t *testing.T) {
		pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
			a := w.ready("ann", "a1", "a2")
			a[0].leave()
			a[1].HoldAcks(true)
			w.host("bob", "x", "ann")
			time.Sleep(20 * time.Second)
			synctest.Wait()
			require.Empty(w.t, l.take(), "it may be online")
			w.decided()
			require.Equal(w.t, []string{"ann: a1 x; a2 x"}, l.take())
		})
	})
	t.Run("slow, but alive", func(t *testing.T) {
		pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
			d := w.ready("ann", "a1")[0]
			d.HoldAcks(true)
			w.host("bob", "x", "ann")
			time.Sleep(25 * time.Second)
			w.undecided(1)
			d.HoldAcks(false)
			w.decided()
			require.Empty(w.t, l.take())
		})
	})
	t.Run("for ever", func(t *testing.T) {
		cfg := anyOffline()
		cfg.AckWait, cfg.Push.MaxAge = 24*time.Hour, time.Minute
		pushInMemory(t, cfg, func(w *world, l *pushLog) {
			a := w.ready("ann", "a1", "a2")
			a[0].leave()
			a[1].HoldAcks(true)
			begin := time.Now()
			w.host("bob", "x", "ann")
			w.decided()
			require.Greater(w.t, time.Since(begin), time.Minute)
			require.LessOrEqual(w.t, time.Since(begin), time.Minute+20*time.Second)
			require.Equal(w.t, []string{"ann: a1 x"}, l.take())
		})
	})
}

func TestS30_OfflinePushOnce(t *testing.T) {
	pushInMemory(t, anyOffline(), func(w *world, l *pushLog) {
		w.stop()
		w.scfg.IdleTimeout = 90 * time.Second
		w.openStore()
		w.start()
		a := w.ready("ann", "lost", "there", "gone")
		a[2].leave()
		keep := time.NewTicker(20 * time.Second)
		defer keep.Stop()
		lost := a[0].attachment()
		a[0].Abandon() // without a word
		for range 12 {
			<-keep.C
			require.NoError(w.t, a[1].Send(&event.Ping{}))
		}
		require.ErrorIs(w.t, lost.Handle(context.Background(), &event.Ping{}), fanout.ErrDetached, "lost after the idle bound")
		w.host("bob", "x", "ann")
		a[1].until("x")
		w.decided()
		require.Equal(w.t, []string{"ann: lost x; gone x"}, l.take(), "once, those who are really offline")
		time.Sleep(time.Minute)
		require.Empty(w.t, l.take())
	})
}

func TestC23_HostDecides(t *testing.T) {
	var mu struct {
		answer func(q fanout.PushQuestion) ([]event.DeviceID, error)
		asked  []fanout.PushQuestion
	}
	cfg := fanout.Config{Push: fanout.PushConfig{
		Decide: func(ctx context.Context, q fanout.PushQuestion) ([]event.DeviceID, error) {
			mu.asked = append(mu.asked, q)
			return mu.answer(q)
		},
	}}
	pushInMemory(t, cfg, func(w *world, l *pushLog) {
		a := w.ready("ann", "a1", "a2", "a3")
		a[0].leave()
		a[1].leave()
		ask := func(answer func(q fanout.PushQuestion) ([]event.DeviceID, error)) map[string]string {
			mu.answer, mu.asked = answer, nil
			w.host("bob", "x", "ann")
			w.decided()
			return l.got()
		}
		only := func(ids ...event.DeviceID) func(q fanout.PushQuestion) ([]event.DeviceID, error) {
			return func(fanout.PushQuestion) ([]event.DeviceID, error) { return ids, nil }
		}
		require.Equal(w.t, map[string]string{"a2": "x"}, ask(only("a2", "a3", "unheard of")), "a3 has missed nothing")
		require.Len(w.t, mu.asked, 1)
		q := mu.asked[0]
		require.Equal(w.t, event.Account("ann"), q.Account)
		require.Len(w.t, q.Devices, 3, "also who has everything")
		require.Equal(w.t, session.Online, q.Devices[2].State)
		require.Empty(w.t, q.Devices[2].Missed)
		require.Equal(w.t, []string{"x"}, texts(q.Devices[0].Missed))
		require.Empty(w.t, q.Default, "a3 is online")
		require.Empty(w.t, ask(only()))

		for name, fails := range map[string]func(fanout.PushQuestion) ([]event.DeviceID, error){
			"error": func(fanout.PushQuestion) ([]event.DeviceID, error) { return []event.DeviceID{"a1"}, errors.New("odd") },
			"panic": func(fanout.PushQuestion) ([]event.DeviceID, error) { panic("odd") },
			"slow":  func(fanout.PushQuestion) ([]event.DeviceID, error) { time.Sleep(5 * time.Second); return nil, nil },
		} {
			before := w.r.Stats().PushErrors
			require.Empty(w.t, ask(fails), "%s: the default holds", name)
			require.EqualValues(w.t, before+1, w.r.Stats().PushErrors, name)
		}
		a[2].acked()
		a[2].leave()
		require.Equal(w.t, map[string]string{"a1": "x", "a2": "x", "a3": "x"},
			ask(func(fanout.PushQuestion) ([]event.DeviceID, error) { panic("odd") }))
		require.Equal(w.t, []event.DeviceID{"a1", "a2", "a3"}, mu.asked[0].Default)

		a[2].online()
		a[2].HoldAcks(true)
		require.Equal(w.t, map[string]string{"a3": "x"}, ask(only("a3")), "a host may choose one that is connected")
	})
}
