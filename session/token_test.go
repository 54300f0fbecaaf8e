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
		require.ErrorIs(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn), session.ErrEnded)
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

// TestToken_AMarkLetsNobodyIn: of a replaced token few bytes are kept. What only agrees with them is not let in within the
// interval.
func TestToken_AMarkLetsNobodyIn(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g, _, _ := rotated(w)
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
		other := event.NewResumeToken()
		w.edit("ann", func(r *session.Record) { r.Replace(other) })
		g.token = other
		require.Equal(w.t, event.TokenReuse, g.refused().Reason)
	})
}

// TestToken_OneIntervalAtATime: however short the rotation, no token is issued before the one before is out of use.
func TestToken_OneIntervalAtATime(t *testing.T) {
	inBubble(t, setup{config: session.Config{TokenRotation: 10 * time.Second}}, func(w *world) {
		app := w.join("ann", "a1", "ios")
		w.pass(11 * time.Second)
		app.attach()
		extension := app.on(w)
		app.token = app.conn.Token()
		for range 9 {
			w.pass(time.Second)
			app.attach()
			require.Empty(w.t, string(app.conn.Token()))
		}
		require.Equal(w.t, string(app.token), string(extension.attach().conn.Token()))
		w.pass(11 * time.Second)
		require.NotEmpty(w.t, string(app.attach().conn.Token()))
	})
}

// TestToken_IntervalAfterARestart goes by the wall clock.
func TestToken_IntervalAfterARestart(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g, old, next := rotated(w)
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
		g.token = old
		w.pass(4 * time.Second)
		w.restart(w.now)
		require.Equal(w.t, string(next), string(g.attach().conn.Token()))
		w.pass(6 * time.Second)
		w.restart(w.now)
		require.Equal(w.t, event.TokenReuse, g.refused().Reason)
	})
}

// TestToken_TheNonceGoes with the first commit after the interval: with it, an old token and the file give away the next one.
func TestToken_TheNonceGoes(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		nonce := func() bool {
			rec, err := session.DecodeRecord([]byte(w.stored("ann").data))
			require.NoError(w.t, err)
			return rec.Logins[0].Nonce != nil
		}
		g, _, _ := rotated(w)
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
		require.True(w.t, nonce())
		w.login("ann", "a2", "web")
		require.True(w.t, nonce())
		w.pass(10 * time.Second)
		w.login("ann", "a3", "web")
		require.False(w.t, nonce())
		g.token = g.conn.Token()
		g.attach()
	})
}

// TestToken_ALostConfirmation and any order of what two processes do ends with both logged in.
func TestToken_ALostConfirmation(t *testing.T) {
	type act func(w *world, app, extension *gadget)
	confirm := func(of func(app, extension *gadget) *gadget) act {
		return func(w *world, app, extension *gadget) {
			require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), of(app, extension).conn))
		}
	}
	appConfirms := confirm(func(app, _ *gadget) *gadget { return app })
	extensionConfirms := confirm(func(_, extension *gadget) *gadget { return extension })
	both := func(w *world, app, extension *gadget) { app.attach(); extension.attach() }
	for name, acts := range map[string][]act{
		"both confirm":                  {both, appConfirms, extensionConfirms},
		"the second first":              {both, extensionConfirms, appConfirms},
		"only the app":                  {both, appConfirms},
		"only the extension":            {both, extensionConfirms},
		"nobody":                        {both},
		"the app before the other came": {func(_ *world, app, _ *gadget) { app.attach() }, appConfirms, both},
	} {
		t.Run(name, func(t *testing.T) {
			onStores(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
				app := w.join("ann", "a1", "ios")
				if w.real { // a day ago
					w.edit("ann", func(r *session.Record) { r.Logins[0].TokenAt -= 25 * 3_600_000 })
					w.restart(w.now)
				} else {
					w.pass(25 * time.Hour)
				}
				extension := app.on(w)
				for _, do := range acts {
					do(w, app, extension)
				}
				next := extension.conn.Token()
				require.NotEmpty(w.t, string(next))
				require.Equal(w.t, string(next), string(app.conn.Token()))
				if !w.real {
					w.pass(time.Minute)
				}
				app.token, extension.token = next, next
				app.attach()
				extension.attach()
				require.Equal(w.t, "a1", w.devices("ann"))
			})
		})
	}
}
