package session_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// tab is one connection of a gadget's login.
type tab struct {
	wire *wire
	conn *session.Connection
}

func (b tab) live() bool { return b.conn.Send(context.Background(), nil) == nil }

func (g *gadget) tab(name string) tab {
	g.w.t.Helper()
	b := tab{wire: new(wire)}
	var err error
	b.conn, err = g.w.reg.Attach(g.w.t.Context(),
		session.AttachRequest{Account: g.acc, Login: g.id, Token: g.token, Tab: name}, b.wire)
	require.NoError(g.w.t, err)
	b.wire.attached(b.conn)
	return b
}

var threeTabs = policy.Rules{Tabs: map[event.Platform]int{"web": 3}}

func TestA15_TabsShareALogin(t *testing.T) {
	onStores(t, setup{rules: threeTabs, config: session.Config{IdleTimeout: -1}}, func(w *world) {
		g := w.login("ann", "browser", "web")
		one, two, three := g.tab("1"), g.tab("2"), g.tab("")
		for _, b := range []tab{one, two, three} {
			require.True(w.t, b.live(), "I22: as many as the rules say")
		}
		require.Len(w.t, w.list("ann"), 1)
		require.Equal(w.t, 1, countKind(w, session.ChangeOnline))

		four := g.tab("4")
		require.Equal(w.t, []event.Reason{event.TabReplaced}, one.wire.reasons(), "the oldest")
		require.False(w.t, one.live())
		one.conn.Detach() // late
		again := g.tab("2")
		require.Equal(w.t, []event.Reason{event.Moved}, two.wire.reasons(), "the tab itself, not a sibling")
		require.True(w.t, three.live() && four.live() && again.live())

		three.conn.Detach()
		four.conn.Detach()
		require.Equal(w.t, []session.State{session.Online}, w.states("ann"))
		again.conn.Detach()
		require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
		require.Zero(w.t, countKind(w, session.ChangeOffline))
	})
}

func TestS24_OneTabByDefault(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.login("ann", "browser", "web")
		first := g.tab("1")
		second := g.tab("2")
		require.Equal(w.t, []event.Reason{event.TabReplaced}, first.wire.reasons(), "a reason that is meant for tabs")
		same := g.tab("2")
		require.Equal(w.t, []event.Reason{event.Moved}, second.wire.reasons())
		unnamed := g.tab("")
		require.Equal(w.t, []event.Reason{event.Moved}, same.wire.reasons())
		require.True(w.t, unnamed.live())
	})
}

func TestA15_EndsReachAllTabs(t *testing.T) {
	for name, end := range map[string]struct {
		do     func(w *world, g *gadget)
		reason event.Reason
	}{
		"kick": {func(w *world, g *gadget) {
			_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}})
			require.NoError(w.t, err)
		}, event.KickedHost},
		"logout": {func(w *world, g *gadget) { require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", g.id)) }, event.Logout},
		"drain":  {func(w *world, g *gadget) { require.NoError(w.t, w.reg.Drain(w.t.Context(), session.DrainRequest{})) }, event.Shutdown},
		"close":  {func(w *world, g *gadget) { require.NoError(w.t, w.reg.Close(w.t.Context())) }, event.Shutdown},
		"evict":  {func(w *world, g *gadget) { w.login("ann", "browser", "web") }, event.Replaced},
	} {
		t.Run(name, func(t *testing.T) {
			onStores(t, setup{rules: threeTabs}, func(w *world) {
				g := w.login("ann", "browser", "web")
				tabs := []tab{g.tab("1"), g.tab("2"), g.tab("3")}
				end.do(w, g)
				for _, b := range tabs {
					require.Eventually(w.t, func() bool { return len(b.wire.ends()) > 0 }, time.Minute, time.Millisecond)
					require.Equal(w.t, []event.Reason{end.reason}, b.wire.reasons())
					require.False(w.t, b.live())
				}
				require.LessOrEqual(w.t, len(w.revocations()), 1, "once for the login, not for each tab")
			})
		})
	}
}

func TestB14_AwayIfAllTabsAre(t *testing.T) {
	inBubble(t, setup{rules: threeTabs}, func(w *world) {
		g := w.login("ann", "browser", "web")
		one, two := g.tab("1"), g.tab("2")
		w.events.take()
		one.conn.SetBackground(true)
		one.conn.SetBackground(true)
		require.Empty(w.t, w.events.take())
		require.Equal(w.t, []session.State{session.Online}, w.states("ann"))
		two.conn.SetBackground(true)
		require.Equal(w.t, []string{"away browser"}, w.events.take())
		require.Equal(w.t, []session.State{session.Away}, w.states("ann"))
		p, err := w.reg.Presence(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Equal(w.t, session.Away, p.State)
		three := g.tab("3")
		require.Equal(w.t, []string{"active browser"}, w.events.take())
		three.conn.Detach()
		require.Equal(w.t, []string{"away browser"}, w.events.take(), "those that are left are in background")
		one.conn.Detach()
		two.conn.Detach()
		g.tab("1")
		require.Equal(w.t, []string{"active browser"}, w.events.take(), "back within the resume window")
		for _, c := range w.history() {
			if c.Kind == session.ChangeAway {
				require.Equal(w.t, g.id, c.Session.Login)
				require.Equal(w.t, session.Away, c.Session.State)
				require.Equal(w.t, event.Platform("web"), c.Session.Platform)
			}
		}
	})
}

func TestS30_SilentTabsAreLostOneByOne(t *testing.T) {
	inBubble(t, setup{rules: threeTabs, config: session.Config{IdleTimeout: time.Minute}}, func(w *world) {
		g := w.login("ann", "browser", "web")
		silent, talks := g.tab("1"), g.tab("2")
		for range 8 {
			w.pass(15 * time.Second)
			talks.conn.Touch()
		}
		require.Equal(w.t, []event.Reason{event.Lost}, silent.wire.reasons())
		require.True(w.t, talks.live())
		require.Equal(w.t, []session.State{session.Online}, w.states("ann"))
	})
}

func TestA17_FewerTabsFromTheNextOn(t *testing.T) {
	inBubble(t, setup{rules: threeTabs}, func(w *world) {
		g := w.login("ann", "browser", "web")
		one, two := g.tab("1"), g.tab("2")
		p, err := policy.New(policy.Rules{})
		require.NoError(w.t, err)
		require.NoError(w.t, w.reg.SetPolicy(p))
		require.True(w.t, one.live() && two.live())
		three := g.tab("3")
		require.Equal(w.t, []event.Reason{event.TabReplaced}, one.wire.reasons())
		require.Equal(w.t, []event.Reason{event.TabReplaced}, two.wire.reasons())
		require.True(w.t, three.live())
	})
}

// The account's own rules count, and are asked for only if there is another connection.
func TestA16_TabsOfAnOverride(t *testing.T) {
	asked := 0
	own, err := policy.New(policy.Rules{Tabs: map[event.Platform]int{"web": 2}})
	require.NoError(t, err)
	c := session.Config{DecidePolicy: func(context.Context, session.Question) (*policy.Policy, error) {
		asked++
		return own, nil
	}}
	inBubble(t, setup{config: c}, func(w *world) {
		g := w.login("ann", "browser", "web")
		asked = 0
		one := g.tab("1")
		require.Zero(w.t, asked)
		two := g.tab("2")
		require.Equal(w.t, 1, asked)
		require.True(w.t, one.live() && two.live())
	})
}

// A token is not rotated under the feet of a tab that has the old one.
func TestA15_TokenStaysWhileATabIsThere(t *testing.T) {
	c := session.Config{IdleTimeout: -1, TokenRotation: time.Hour}
	inBubble(t, setup{rules: threeTabs, config: c}, func(w *world) {
		g := w.login("ann", "browser", "web")
		one := g.tab("1")
		w.pass(2 * time.Hour)
		two := g.tab("2")
		require.Empty(w.t, two.conn.Token())
		one.conn.Detach()
		two.conn.Detach()
		require.NotEmpty(w.t, g.tab("3").conn.Token())
	})
}

func TestA15_BadTabs(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.login("ann", "browser", "web")
		for _, name := range []string{strings.Repeat("x", 129), "\x00", "a\u202eb", "\xff"} {
			_, err := w.reg.Attach(w.t.Context(),
				session.AttachRequest{Account: g.acc, Login: g.id, Token: g.token, Tab: name}, new(wire))
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%q", name)
		}
	})
}
