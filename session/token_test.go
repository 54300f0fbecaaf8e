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

func TestToken_OldIsGoodUntilConfirmed(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g, _, next := rotated(w)
		g.conn.Detach()
		g.attach() // with the old one: the new one was lost on its way
		newer := g.conn.Token()
		require.NotEmpty(w.t, string(newer))
		require.NotEqual(w.t, string(next), string(newer))
		g.token = next
		_, err := g.tryAttach(new(wire))
		require.ErrorIs(w.t, err, session.ErrUnknownLogin, "of those that were never confirmed, only the last one is good")
		g.token = newer
		g.attach()
		require.Equal(w.t, "a1", w.devices("ann"))
	})
}

func TestToken_NoRotationBesideALiveConnection(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.pass(25 * time.Hour)
		require.Empty(w.t, g.attach().conn.Token(), "the older connection may still use the token")
		g.conn.Detach()
		require.NotEmpty(w.t, string(g.attach().conn.Token()))
	})
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
		require.ErrorIs(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn), session.ErrEnded)
	})
}

// TestToken_ConfirmByAnOlderConnection: its token was replaced before it was confirmed, so the confirmation is void.
func TestToken_ConfirmByAnOlderConnection(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g, old, _ := rotated(w)
		first := g.conn
		first.Detach()
		g.attach()
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), first))
		g.token = old
		g.attach()
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
