package session_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// Whoever asks with the token of a login is that login, and nobody else is. Nothing is changed by the question.
func TestAuthenticate_IsTheHolderOfTheToken(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g, other, stranger := w.login("ann", "a1", "ios"), w.join("ann", "a2", "ios"), w.login("bob", "b1", "ios")
		w.events.take()
		before := w.stored("ann")
		for _, tt := range []struct {
			name    string
			account event.Account
			login   event.LoginID
			token   event.ResumeToken
			want    error
		}{
			{"its own", "ann", g.id, g.token, nil},
			{"attached", "ann", other.id, other.token, nil},
			{"token of another device", "ann", g.id, other.token, session.ErrUnknownLogin},
			{"login of another account", "ann", stranger.id, stranger.token, session.ErrUnknownLogin},
			{"another account", "bob", g.id, g.token, session.ErrUnknownLogin},
			{"account that never was", "eve", g.id, g.token, session.ErrUnknownLogin},
			{"login that never was", "ann", event.NewLoginID(), g.token, session.ErrUnknownLogin},
			{"token that never was", "ann", g.id, event.NewResumeToken(), session.ErrUnknownLogin},
		} {
			s, err := w.reg.Authenticate(w.t.Context(), tt.account, tt.login, tt.token)
			if tt.want != nil {
				require.ErrorIs(w.t, err, tt.want, tt.name)
				require.EqualError(w.t, err, "session: authenticate: no such login for this account and token", tt.name)
				require.Zero(w.t, s)
				continue
			}
			require.NoError(w.t, err, tt.name)
			require.Equal(w.t, tt.login, s.Login)
			require.Equal(w.t, tt.account, s.Account)
		}
		for field, bad := range map[string][3]string{
			"account": {"..", string(g.id), g.token.Reveal()}, "login": {"ann", "x", g.token.Reveal()},
			"token": {"ann", string(g.id), ""},
		} {
			_, err := w.reg.Authenticate(w.t.Context(), event.Account(bad[0]), event.LoginID(bad[1]), event.ResumeTokenOf(bad[2]))
			invalid, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%v", err)
			require.Equal(w.t, field, invalid.Field)
		}
		require.Equal(w.t, before, w.stored("ann"))
		require.Empty(w.t, w.events.take())
		require.True(w.t, other.live())
	})
}

// The holder of an ended login's token learns why it has ended; others learn nothing.
func TestAuthenticate_OfAnEndedLogin(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.kick("ann", g.id)
		_, err := w.reg.Authenticate(w.t.Context(), "ann", g.id, g.token)
		ended, ok := errors.AsType[*session.EndedError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, event.KickedHost, ended.Why.Reason)
		_, err = w.reg.Authenticate(w.t.Context(), "ann", g.id, event.NewResumeToken())
		require.ErrorIs(w.t, err, session.ErrUnknownLogin)
		require.EqualError(w.t, err, "session: authenticate: no such login for this account and token")
		_, err = w.reg.Current(w.t.Context(), "ann", g.id)
		require.ErrorIs(w.t, err, session.ErrNotFound)
	})
}

// A page that was left open has an old token. It is refused, and the device stays logged in; an issued token is good and
// is not confirmed by the question, so that the old one is still good as well.
func TestAuthenticate_NeitherConfirmsNorEnds(t *testing.T) {
	s := setup{}
	s.config.TokenRotation = time.Hour
	inBubble(t, s, func(w *world) {
		g, old, next := rotated(w)
		for range 2 {
			for _, token := range []event.ResumeToken{next, old} {
				_, err := w.reg.Authenticate(w.t.Context(), "ann", g.id, token)
				require.NoError(w.t, err)
			}
		}
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
		before := w.stored("ann")
		w.pass(time.Minute) // longer than any interval in which a replaced token is still taken
		_, err := w.reg.Authenticate(w.t.Context(), "ann", g.id, old)
		require.ErrorIs(w.t, err, session.ErrUnknownLogin)
		require.EqualError(w.t, err, "session: authenticate: no such login for this account and token")
		require.Equal(w.t, before, w.stored("ann"))
		require.True(w.t, g.live())
	})
}

// A login whose time is over is nobody any more, although nobody has come by to end it.
func TestAuthenticate_NotOfALoginWhoseTimeIsOver(t *testing.T) {
	s := setup{}
	s.config.AbsoluteLifetime = time.Hour
	s.config.SweepInterval = 100 * time.Hour
	inBubble(t, s, func(w *world) {
		g := w.login("ann", "a1", "ios")
		w.pass(59 * time.Minute)
		_, err := w.reg.Current(w.t.Context(), "ann", g.id)
		require.NoError(w.t, err)
		w.pass(2 * time.Minute)
		before := w.stored("ann")
		_, err = w.reg.Authenticate(w.t.Context(), "ann", g.id, g.token)
		ended, ok := errors.AsType[*session.EndedError](err)
		require.True(w.t, ok, "%v", err)
		require.Equal(w.t, event.ExpiredAbsolute, ended.Why.Reason)
		_, err = w.reg.Current(w.t.Context(), "ann", g.id)
		require.ErrorIs(w.t, err, session.ErrNotFound)
		require.Equal(w.t, before, w.stored("ann"), "only the next step ends it")
	})
}
