package session_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// TestFailed_AStoreThatGoesUnderItsEngine: a store that is closed before the engine fails it as a failed write does: connections
// are closed with advice to come back, Failed is closed, and one line of level Error says what happened (K20.9).
func TestFailed_AStoreThatGoesUnderItsEngine(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(st *storetest.Faulty) error
		is   error
		line string
	}{
		"closed": {func(st *storetest.Faulty) error { return st.Close(context.Background()) }, store.ErrClosed, "closed before the engine"},
		"failed": {func(st *storetest.Faulty) error { st.Break(); return nil }, store.ErrFailed, "the store failed"},
	} {
		t.Run(name, func(t *testing.T) {
			onPlainStores(t, func(t *testing.T, st *storetest.Faulty) {
				var lines buffer
				reg, err := session.New(st, session.Config{Logger: slog.New(slog.NewTextHandler(&lines, nil))})
				require.NoError(t, err)
				phone, err := reg.Login(t.Context(), request("ann", "phone", "ios"))
				require.NoError(t, err)
				q := session.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}
				conn := new(wire)
				c, err := reg.Attach(t.Context(), q, conn)
				require.NoError(t, err)
				conn.attached(c)
				require.False(t, over(reg.Failed()))

				require.NoError(t, tt.end(st))
				synctest.Wait()
				require.True(t, over(reg.Failed()))
				require.Equal(t, []event.Reason{event.Unavailable}, conn.reasons())
				require.Equal(t, event.RetryAfter, conn.ends()[0].Retry)
				require.ErrorIs(t, c.Send(t.Context(), []event.Frame{&event.Pong{}}), session.ErrFenced)
				_, err = reg.Attach(t.Context(), q, new(wire))
				require.ErrorIs(t, err, tt.is)
				require.Equal(t, event.Unavailable, event.ClosedOf(err).Reason)
				_, err = reg.List(t.Context(), "ann", "")
				require.ErrorIs(t, err, tt.is)
				time.Sleep(3 * time.Hour) // sweeps, heartbeats and the janitor find nothing to add

				errs := 0
				for line := range strings.Lines(lines.String()) {
					if strings.Contains(line, "level=ERROR") {
						errs++
						require.Contains(t, line, tt.line)
						require.Contains(t, line, "connections=1")
					}
				}
				require.Equal(t, 1, errs, lines.String())
				require.NoError(t, reg.Close(t.Context()))
				_, err = session.New(st, session.Config{})
				require.ErrorIs(t, err, tt.is, "a new engine is refused")
			})
		})
	}
}

// TestFailed_TheRightOrder: the engine first, then the store, raises no alarm, also where Close ran into its context (K20.9).
func TestFailed_TheRightOrder(t *testing.T) {
	for name, done := range map[string]bool{"closed": true, "still closing": false} {
		t.Run(name, func(t *testing.T) {
			onPlainStores(t, func(t *testing.T, st *storetest.Faulty) {
				var lines buffer
				reg, err := session.New(st, session.Config{Logger: slog.New(slog.NewTextHandler(&lines, nil))})
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				if !done {
					cancel()
				}
				_ = reg.Close(ctx)
				require.NoError(t, st.Close(t.Context()))
				cancel()
				synctest.Wait()
				require.False(t, over(reg.Failed()))
				require.NotContains(t, lines.String(), "level=ERROR")
				require.NoError(t, reg.Close(t.Context()))
			})
		})
	}
}

// over reports whether a channel is closed.
func over(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
