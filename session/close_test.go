package session_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// TestI29_Close: the bubble fails if a goroutine is left behind.
func TestI29_Close(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		all = append(all, w.fill("bob", "web", "b1")...)
		before := w.stored("ann")
		require.NoError(w.t, w.reg.Close(w.t.Context()))
		require.NoError(w.t, w.reg.Close(w.t.Context()), "again")
		for _, g := range all {
			why := g.wire.ends()
			require.Len(w.t, why, 1)
			require.Equal(w.t, event.Shutdown, why[0].Reason)
			require.Equal(w.t, event.RetryAfter, why[0].Retry)
			require.Positive(w.t, why[0].After)
			require.False(w.t, g.live())
			g.conn.Detach()
		}
		require.Equal(w.t, before, w.stored("ann"), "logins do not end")
		_, err := w.tryLogin(request("ann", "a3", "ios"))
		require.ErrorIs(w.t, err, session.ErrClosed)
		_, err = all[0].tryAttach(new(wire))
		require.ErrorIs(w.t, err, session.ErrClosed)
		_, err = w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true})
		require.ErrorIs(w.t, err, session.ErrClosed)
		require.ErrorIs(w.t, w.reg.Logout(w.t.Context(), "ann", all[0].id), session.ErrClosed)
		require.ErrorIs(w.t, w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a1"}), session.ErrClosed)
		require.Equal(w.t, before, w.stored("ann"))
		require.Empty(w.t, w.revocations())
	})
}

// TestClose_WaitsForWhatRuns: the store may be closed as soon as Close has returned.
func TestClose_WaitsForWhatRuns(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		stop := make(chan struct{})
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { <-stop; return nil } })
		done := make(chan error, 2)
		go func() { done <- w.reg.Logout(context.Background(), "ann", g.id) }()
		w.pass(0)
		go func() { _, err := w.tryLogin(request("ann", "a2", "ios")); done <- err }()
		w.pass(0)
		short, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorIs(w.t, w.reg.Close(short), context.DeadlineExceeded)
		require.Equal(w.t, time.Second, time.Since(start))
		require.ErrorIs(w.t, <-done, session.ErrClosed, "what waits for its turn does not begin any more")
		closed := make(chan error, 1)
		go func() { closed <- w.reg.Close(context.Background()) }()
		w.pass(time.Minute)
		require.Empty(w.t, closed)
		close(stop)
		require.NoError(w.t, <-done)
		require.NoError(w.t, <-closed)
		require.Len(w.t, g.wire.ends(), 1)
		require.Len(w.t, w.revocations(), 1, "what was begun is brought to its end")
	})
}

// TestClose_EndsSubscriptions when it returns, although the store never does.
func TestClose_EndsSubscriptions(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		stop := make(chan struct{})
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { <-stop; return nil } })
		done := make(chan error, 1)
		go func() { done <- w.reg.Logout(context.Background(), "ann", g.id) }()
		changes, ended := w.subscribe(w.reg), make(chan struct{})
		go func() {
			defer close(ended)
			for range changes.All(context.Background()) {
			}
		}()
		w.pass(0)
		short, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(w.t, w.reg.Close(short), context.DeadlineExceeded)
		w.pass(0)
		select {
		case <-ended:
		default:
			w.t.Error("the loop goes on")
		}
		close(stop)
		require.NoError(w.t, <-done)
	})
}

func TestClose_HangingConnections(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		stop := make(chan struct{})
		defer close(stop)
		for i := range 100 {
			g := w.login(event.Account(fmt.Sprint("ann", i)), "a1", "ios")
			_, err := g.tryAttach(&wire{onClose: func(event.Closed) error { <-stop; return nil }})
			require.NoError(w.t, err)
		}
		start := time.Now()
		require.NoError(w.t, w.reg.Close(w.t.Context()))
		require.Equal(w.t, time.Second, time.Since(start), "all are closed at once")
		require.EqualValues(w.t, 100, w.reg.Stats().Hooks[session.HookClose].Timeouts)
	})
}

// TestClose_WhileAttaching: a connection is either refused, and stays the caller's, or closed by the registry.
func TestClose_WhileAttaching(t *testing.T) {
	for range 50 {
		inBubble(t, setup{}, func(w *world) {
			g := w.login("ann", "a1", "ios")
			c := new(wire)
			attached := make(chan error, 1)
			go func() {
				_, err := g.tryAttach(c)
				attached <- err
			}()
			require.NoError(w.t, w.reg.Close(w.t.Context()))
			err := <-attached
			if err != nil {
				require.ErrorIs(w.t, err, session.ErrClosed)
				require.LessOrEqual(w.t, len(c.ends()), 1)
				return
			}
			require.Equal(w.t, []event.Reason{event.Shutdown}, c.reasons())
		})
	}
}

func TestB13_D12_IdleDevice(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1, SweepInterval: time.Minute}}, func(w *world) {
		stays, goes := w.join("ann", "a1", "ios"), w.join("ann", "a2", "ios")
		goes.conn.Detach()
		w.events.take()
		w.pass(30 * 24 * time.Hour)
		require.Equal(w.t, "a1 a2", w.devices("ann"))
		w.pass(2 * time.Hour)
		require.Equal(w.t, "a1", w.devices("ann"))
		require.True(w.t, stays.live())
		require.Equal(w.t, []string{"offline a2 lost", "ended a2 expired_idle", "forgotten a2"}, w.events.take())
		require.Equal(w.t, event.ExpiredIdle, goes.refused().Reason)
		require.Equal(w.t, event.RetryLogin, goes.refused().Retry)
		w.restart(w.now)
		w.pass(24 * time.Hour)
		require.Equal(w.t, "a1", w.devices("ann"), "it was heard of until the restart")
		w.pass(31 * 24 * time.Hour)
		require.Empty(w.t, w.list("ann"))
		_, err := goes.tryAttach(new(wire))
		require.ErrorIs(w.t, err, session.ErrUnknownLogin, "its tombstone is gone as well")
		require.Empty(w.t, shapeOf(w.t, []byte(w.stored("ann").data)).Tombstones[1:])
	})
}

// TestJanitor_AllAccounts: it gets to the end of several pages.
func TestJanitor_AllAccounts(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleDevice: time.Hour, TombstoneTTL: time.Hour}}, func(w *world) {
		const accounts = 600
		for i := range accounts {
			w.login(event.Account(fmt.Sprint("ann", i)), "a1", "ios")
		}
		w.pass(4 * time.Hour)
		for i := range accounts {
			rec := shapeOf(w.t, []byte(w.stored(event.Account(fmt.Sprint("ann", i))).data))
			require.Empty(w.t, rec.Logins)
			require.Empty(w.t, rec.Tombstones)
		}
		require.Len(w.t, w.revocations(), accounts)
	})
}

// TestI24_SecretsStaySecret tells a long story with the log at its loudest, and looks for tokens wherever bytes end up.
func TestI24_SecretsStaySecret(t *testing.T) {
	var lines buffer
	logger := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := setup{rules: policy.Rules{PerPlatform: 2}, config: session.Config{Logger: logger}}
	s.config.Revoke = func(_ context.Context, e session.Ended) error { panic(fmt.Sprintf("%+v", e)) }
	inBubble(t, s, func(w *world) {
		var secrets []string
		var said bytes.Buffer // whatever a host might print
		note := func(g *gadget) {
			secrets = append(secrets, g.token.Reveal())
			fmt.Fprintf(&said, "%v %+v %#v\n", g.res, *g.res, g.res)
		}
		g, old, next := rotated(w)
		note(g)
		secrets = append(secrets, old.Reveal(), next.Reveal())
		fmt.Fprintln(&said, g.conn.Token(), slog.AnyValue(next))
		for i := range 6 {
			g := w.login("ann", event.DeviceID(fmt.Sprint("d", i)), "ios")
			_, err := g.tryAttach(&wire{onClose: func(event.Closed) error { return errDown }})
			require.NoError(w.t, err)
			note(g)
		}
		g.token = next
		_, err := g.tryAttach(new(wire))
		fmt.Fprintln(&said, err)
		wrong := event.NewResumeToken()
		secrets = append(secrets, wrong.Reveal())
		_, err = w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: g.id, Token: wrong}, new(wire))
		fmt.Fprintf(&said, "%v %+v\n", err, session.AttachRequest{Account: "ann", Login: g.id, Token: wrong})
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { return errDown } })
		_, err = w.tryLogin(request("ann", "d9", "ios"))
		fmt.Fprintln(&said, err)
		w.pass(10 * time.Minute)
		w.st.heal()
		for _, r := range w.revocations() {
			fmt.Fprintf(&said, "%+v", r)
		}
		page, err := w.st.Read(w.t.Context(), "ann", store.ReadOptions{Limit: 100})
		require.NoError(w.t, err)
		for _, e := range page.Entries {
			said.Write(e.Payload)
		}
		require.NotEmpty(w.t, lines.String())
		require.Len(w.t, secrets, 10)
		data := w.stored("ann").data
		require.Contains(w.t, data, string(g.id), "the story is in the record")
		for _, secret := range secrets {
			require.Len(w.t, secret, 52)
			require.NotContains(w.t, lines.String(), secret)
			require.NotContains(w.t, data, secret)
			require.NotContains(w.t, said.String(), secret)
		}
	})
}
