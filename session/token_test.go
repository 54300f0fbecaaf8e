package session_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// rotated returns a device that came back after a day and was given a new token, which it has not confirmed.
func rotated(w *world) (g *gadget, old, next event.ResumeToken) {
	w.t.Helper()
	g = w.join("ann", "a1", "ios")
	old = g.token
	for range 25 {
		w.pass(time.Minute)
		g.conn.Touch()
	}
	g.conn.Detach()
	g.attach()
	require.Empty(w.t, g.conn.Token(), "the token is not a day old")
	for range 24 * 60 {
		w.pass(time.Minute)
		g.conn.Touch()
	}
	g.conn.Detach()
	w.events.take()
	g.attach()
	next = g.conn.Token()
	require.NoError(w.t, next.Validate())
	require.NotEqual(w.t, string(old), string(next))
	return g, old, next
}

func TestS21_TokenRotation(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g, _, next := rotated(w)
		all := w.list("ann")
		require.Len(w.t, all, 1)
		require.Equal(w.t, g.id, all[0].Login, "same login")
		require.EqualValues(w.t, 1, all[0].Admission, "no new slot")
		require.Empty(w.t, w.events.take(), "nobody is told")
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn), "twice is once")
		g.token = next
		g.attach()
		require.Empty(w.t, g.conn.Token())
		before := w.stored("ann")
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn), "there is nothing to confirm")
		require.Equal(w.t, before, w.stored("ann"))
	})
}

// TestToken_OldIsGoodUntilConfirmed: a device that lost its new token is handed the same one again, which costs nothing
// (K18.4: each attach of a device that never confirms made a token, a commit and a sync).
func TestToken_OldIsGoodUntilConfirmed(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g, _, next := rotated(w)
		before := w.stored("ann")
		for range 50 {
			g.conn.Detach()
			w.pass(time.Second)
			require.Equal(w.t, string(next), string(g.attach().conn.Token()))
		}
		require.Equal(w.t, before, w.stored("ann"), "nothing was written")
		w.restart(w.now)
		require.Equal(w.t, string(next), string(g.attach().conn.Token()), "known after a restart, though it is not stored")
		require.Equal(w.t, before, w.stored("ann"))
		require.NotContains(w.t, before.data, string(next), "I24")
		g.token = next
		require.Empty(w.t, string(g.attach().conn.Token()))
		require.Equal(w.t, "a1", w.devices("ann"))
	})
}

// TestToken_TwoHoldersInTurnsAreNoticed: an attach that displaces the other holder rotates like any other, so that the one
// who comes second with the old token ends the login (K18.7: they rotated once in 50 attaches).
func TestToken_TwoHoldersInTurnsAreNoticed(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
		owner := w.join("ann", "a1", "ios")
		thief := owner.on(w)
		w.pass(25 * time.Hour)
		thief.attach() // over the owner's connection
		require.Equal(w.t, []event.Reason{event.Moved}, owner.wire.reasons())
		require.NotEmpty(w.t, string(thief.conn.Token()))
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), thief.conn))
		thief.token = thief.conn.Token()
		w.pass(owner.wire.ends()[0].After + 10*time.Second)
		require.Equal(w.t, event.TokenReuse, owner.refused().Reason)
		require.Equal(w.t, []event.Reason{event.TokenReuse}, thief.wire.reasons())
	})
}

// TestToken_Interval: an app and its extension come with the token that both have read, and one of them is faster. Both get
// in and end up with the same token, whoever confirms it first, and however often (K11.4: both were logged out).
func TestToken_Interval(t *testing.T) {
	tests := []struct {
		name  string
		later time.Duration // than the confirmation
		ends  bool
	}{
		{"at once", 0, false},
		{"50 ms later", 50 * time.Millisecond, false},
		{"just in time", 10*time.Second - time.Millisecond, false},
		{"too late", 10 * time.Second, true},
		{"next day", 26 * time.Hour, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
				app, old, next := rotated(w)
				extension := app.on(w)
				require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), app.conn))
				w.pass(tt.later)
				extension.token = old
				if tt.ends {
					require.Equal(w.t, event.TokenReuse, extension.refused().Reason)
					return
				}
				before := w.stored("ann")
				extension.attach()
				require.Equal(w.t, string(next), string(extension.conn.Token()), "it is handed the token that the app has")
				require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), extension.conn))
				require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), app.conn), "late")
				require.Equal(w.t, before, w.stored("ann"))
				w.pass(25 * time.Hour)
				app.token, extension.token = next, next
				app.attach()
				extension.attach()
				require.NotEmpty(w.t, string(app.conn.Token()))
				require.Equal(w.t, string(app.conn.Token()), string(extension.conn.Token()), "the next day is like the first")
			})
		})
	}
}

// TestD12_I26_ReuseEndsTheLogin: whoever comes with a token that was replaced holds a copy of it.
func TestD12_I26_ReuseEndsTheLogin(t *testing.T) {
	tests := []struct {
		name    string
		confirm func(w *world, g *gadget)
	}{
		{"confirmed", func(w *world, g *gadget) { require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn)) }},
		{"used", func(w *world, g *gadget) {
			g.token = g.conn.Token()
			g.attach()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				g, old, next := rotated(w)
				tt.confirm(w, g)
				w.events.take()
				w.pass(10 * time.Second)
				rightful := g.wire
				g.token = old
				require.Equal(w.t, event.TokenReuse, g.refused().Reason)
				require.Equal(w.t, []event.Reason{event.TokenReuse}, rightful.reasons())
				require.Equal(w.t, event.RetryLogin, rightful.ends()[0].Retry)
				require.Equal(w.t, []string{"ended a1 token_reuse"}, w.events.take())
				require.Empty(w.t, w.list("ann"))
				require.Equal(w.t, event.TokenReuse, g.refused().Reason)
				g.token = next
				require.Equal(w.t, event.TokenReuse, g.refused().Reason, "the rightful owner learns it, too")
			})
		})
	}
}

func TestToken_ConfirmAfterTheEnd(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g, _, _ := rotated(w)
		w.kick("ann", g.id)
		require.ErrorIs(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn), session.ErrNotFound)
	})
}

// TestToken_ConfirmByAnOlderConnection: it was handed the same token as the one after it.
func TestToken_ConfirmByAnOlderConnection(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g, _, next := rotated(w)
		first := g.conn
		first.Detach()
		g.attach()
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), first))
		g.token = next
		require.Empty(w.t, string(g.attach().conn.Token()))
	})
}

func TestToken_Never(t *testing.T) {
	inBubble(t, setup{config: session.Config{TokenRotation: -1, IdleTimeout: -1}}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.pass(20 * 24 * time.Hour)
		g.conn.Detach()
		require.Empty(w.t, g.attach().conn.Token())
	})
}
