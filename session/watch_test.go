package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// TestSubscribe_Positions: every change that has an entry in the inbox names that very entry.
func TestSubscribe_Positions(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{PerPlatform: 2}}, func(w *world) {
		a1, a2 := w.join("ann", "a1", "ios"), w.join("ann", "a2", "ios")
		w.restart(setup{rules: policy.Rules{Single: true}})
		g := w.join("ann", "a3", "web")
		_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true, By: g.id})
		require.NoError(w.t, err)

		page, err := w.st.Read(w.t.Context(), "ann", store.ReadOptions{Limit: 100})
		require.NoError(w.t, err)
		at := map[event.Position]event.Entry{}
		for _, e := range page.Entries {
			at[event.Position{Epoch: page.Head.Epoch, Seq: e.Seq}] = e
		}
		kinds := map[session.ChangeKind]event.Kind{
			session.ChangeLogin: event.KindDeviceLogin, session.ChangeEnded: event.KindDeviceEnded,
		}
		seen := map[event.Position]bool{}
		for _, c := range w.history() {
			if c.Kind == session.ChangeOnline {
				require.Zero(w.t, c.Position.Seq)
				continue
			}
			require.False(w.t, seen[c.Position], "two changes name one entry")
			seen[c.Position] = true
			e, ok := at[c.Position]
			if !ok { // superseded: a newer entry is about the same device
				require.Equal(w.t, session.ChangeLogin, c.Kind)
				continue
			}
			var d event.DeviceChange
			require.NoError(w.t, json.Unmarshal(e.Payload, &d))
			require.Equal(w.t, kinds[c.Kind], e.Kind)
			require.Equal(w.t, c.Session.Login, d.Login)
			require.Equal(w.t, c.Reason, d.Reason)
			require.Equal(w.t, event.Account("ann"), e.From)
		}
		require.Len(w.t, seen, 6)
		require.Equal(w.t, []string{
			"device.ended a1 evicted_single", "device.ended a2 evicted_single", "device.ended a3 kicked_self",
		}, w.entries("ann"))
		require.Equal(w.t, g.id, at[event.Position{Epoch: page.Head.Epoch, Seq: page.Head.Seq}].Origin)
		require.EqualValues(w.t, 5, g.res.Position.Seq, "the head right after the admission")
		require.Equal(w.t, page.Head.Epoch, g.res.Position.Epoch)
		require.Equal(w.t, event.EvictedSingle, a1.refused().Reason)
		require.Equal(w.t, event.EvictedSingle, a2.refused().Reason)
	})
}

func TestSubscribe_Story(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
		second := w.subscribe(w.reg)
		g := w.login("ann", "a1", "ios")
		require.True(w.t, w.history()[0].Session.Self)
		g.attach()
		g.attach() // moved
		g.conn.SetBackground(true)
		w.history() // or it would be told only how it is later
		heard := session.Drain(second)
		g.conn.Detach()
		w.pass(time.Minute)
		g.attach() // within the window: it never went offline
		g.conn.Detach()
		w.pass(5 * time.Minute)
		g.attach()
		w.kick("ann", g.id)
		w.pass(10 * time.Minute)
		require.Equal(w.t, []string{
			"login a1", "online a1", "away a1", "active a1", "offline a1 lost", "online a1", "ended a1 kicked_host",
		}, w.events.take())
		require.Equal(w.t, w.history(), append(heard, session.Drain(second)...), "every subscriber hears everything")
		require.Equal(w.t, session.Online, w.history()[1].Session.State)
	})
}

func TestB3_B4_SelfAndPeers(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2", "a3")
		all[2].conn.SetBackground(true)
		list, err := w.reg.List(w.t.Context(), "ann", all[1].id)
		require.NoError(w.t, err)
		for i, s := range list {
			require.Equal(w.t, all[i].id, s.Login, "earliest first")
			require.EqualValues(w.t, i+1, s.Admission)
			require.Equal(w.t, i == 1, s.Self)
			require.Equal(w.t, "My "+string(s.Device), s.Description.Name)
			require.Equal(w.t, s.Incarnation, all[i].conn.Incarnation())
		}
		peers, err := w.reg.Peers(w.t.Context(), "ann", all[1].id)
		require.NoError(w.t, err)
		require.Equal(w.t, []session.Peer{
			{Address: event.Address{Account: "ann", Login: all[0].id}, Device: "a1", Platform: "ios", Name: "My a1", State: session.Online},
			{Address: event.Address{Account: "ann", Login: all[2].id}, Device: "a3", Platform: "ios", Name: "My a3", State: session.Away},
		}, peers)
		got, err := w.reg.Get(w.t.Context(), "ann", all[0].id)
		require.NoError(w.t, err)
		want := list[0]
		got.LastSeen, want.LastSeen = time.Time{}, time.Time{}
		require.Equal(w.t, want, got)
		_, err = w.reg.Get(w.t.Context(), "bob", all[0].id)
		require.ErrorIs(w.t, err, session.ErrNotFound, "I23: of another account")
		none, err := w.reg.List(w.t.Context(), "bob", all[0].id)
		require.NoError(w.t, err)
		require.Empty(w.t, none)
	})
}

// TestS28_HooksCallBack: no lock is held, and what they see is committed.
func TestS28_HooksCallBack(t *testing.T) {
	var w *world
	listed := map[string]string{}
	var mu sync.Mutex
	look := func(who string) {
		all, err := w.reg.List(context.Background(), "ann", "")
		if err != nil {
			return
		}
		var names []string
		for _, s := range all {
			names = append(names, string(s.Device))
		}
		mu.Lock()
		defer mu.Unlock()
		listed[who] = strings.Join(names, " ")
	}
	s := setup{}
	s.config.Revoke = func(ctx context.Context, e session.Ended) error {
		look("revoke " + string(e.Session.Device))
		if e.Session.Device == "a1" {
			_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{e.Closed.Cause.Login}})
			return err
		}
		return nil
	}
	onStores(t, s, func(world *world) {
		w = world
		changes := w.subscribe(w.reg)
		var wg sync.WaitGroup
		wg.Go(func() {
			for c := range changes.All(context.Background()) {
				look("change " + string(c.Kind) + " " + string(c.Session.Device))
			}
		})
		g := w.login("ann", "a1", "ios")
		c := &wire{onClose: func(event.Closed) error { look("close"); return nil }}
		conn, err := w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: g.id, Token: g.token}, c)
		require.NoError(w.t, err)
		w.fill("ann", "ios", "a2", "a3", "a4")
		w.login("ann", "a5", "ios") // its victim's hook kicks it at once
		conn.AwaitClose(w.t.Context())
		require.Equal(w.t, "a2 a3 a4", w.devices("ann"))
		changes.Close()
		wg.Wait()
		require.Equal(w.t, "a2 a3 a4 a5", listed["revoke a1"])
		require.Equal(w.t, "a2 a3 a4", listed["close"], "the kick from within the hook is done")
		require.Equal(w.t, "a2 a3 a4", listed["change ended a5"])
	})
}

func TestB7_RevokeSlowOrBroken(t *testing.T) {
	tests := []struct {
		name string
		hook func(ctx context.Context) error
		want time.Duration
		log  string
	}{
		{"slow", func(ctx context.Context) error { <-ctx.Done(); return nil }, 2 * time.Second, ""},
		{"deaf", func(context.Context) error { time.Sleep(time.Hour); return nil }, 2 * time.Second, "timed out"},
		{"panics", func(context.Context) error { panic("host") }, 0, "panicked: host"},
		{"fails", func(context.Context) error { return errDown }, 0, errDown.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lines buffer
			s := setup{config: session.Config{Logger: slog.New(slog.NewTextHandler(&lines, nil))}}
			s.config.Revoke = func(ctx context.Context, _ session.Ended) error { return tt.hook(ctx) }
			inBubble(t, s, func(w *world) {
				all := w.fill("ann", "ios", "a1", "a2", "a3")
				start := time.Now()
				_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true})
				require.NoError(w.t, err)
				require.Equal(w.t, tt.want, time.Since(start), "hooks of several logins run side by side")
				for _, g := range all {
					require.Equal(w.t, []event.Reason{event.KickedHost}, g.wire.reasons())
				}
				require.Empty(w.t, w.list("ann"))
				require.Contains(w.t, lines.String(), tt.log)
				w.pass(2 * time.Hour) // a hook that does not listen is left behind, not waited for
			})
		})
	}
}

// TestB7_KeepCredential: whether a kick also takes the credential is the caller's choice. The token is void either way.
func TestB7_KeepCredential(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		keeps, loses := w.join("ann", "a1", "ios"), w.join("ann", "a2", "ios")
		for g, keep := range map[*gadget]bool{keeps: true, loses: false} {
			_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}, KeepCredential: keep})
			require.NoError(w.t, err)
			require.Equal(w.t, []event.Reason{event.KickedHost}, g.wire.reasons())
			require.Equal(w.t, event.KickedHost, g.refused().Reason)
		}
		require.Len(w.t, w.revocations(), 1)
		require.Equal(w.t, loses.id, w.revocations()[0].Session.Login)
	})
}

// TestB7_RevokedOnce: for each login that ended, and for no other.
func TestB7_RevokedOnce(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		want := map[event.LoginID]event.Reason{}
		for i := range 12 {
			g := w.join("ann", event.DeviceID(fmt.Sprint("d", i)), "ios")
			want[g.id] = event.EvictedQuota
		}
		var left []event.LoginID
		for _, s := range w.list("ann") {
			left = append(left, s.Login)
		}
		w.kick("ann", left[:3]...)
		for _, id := range left[:3] {
			want[id] = event.KickedHost
		}
		delete(want, left[3])
		require.NoError(w.t, errors.Join(w.reg.Logout(w.t.Context(), "ann", left[3])))
		want[left[3]] = event.Logout
		got := map[event.LoginID]event.Reason{}
		for _, e := range w.revocations() {
			require.NotContains(w.t, got, e.Session.Login)
			got[e.Session.Login] = e.Closed.Reason
		}
		require.Equal(w.t, want, got)
	})
}

// buffer collects text from several goroutines.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
