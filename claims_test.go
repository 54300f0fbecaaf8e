package manydevice_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport/transporttest"
)

func onBothStores(t *testing.T, fn func(t *testing.T, st store.Store)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { fn(t, memstore.New(memstore.Config{})) })
	})
	t.Run("file", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			st, err := boltstore.Open(filepath.Join(t.TempDir(), "store"), boltstore.Config{})
			require.NoError(t, err)
			fn(t, st)
		})
	})
}

// logged is a log to be read while it is written.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// errorLines returns the lines of level ERROR.
func (l *logged) errorLines() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, "level=ERROR") {
			all = append(all, line)
		}
	}
	return all
}

// TestOpen_ASecondEngine is refused until the first was closed, also one whose Open failed half-way (K20.8).
func TestOpen_ASecondEngine(t *testing.T) {
	onBothStores(t, func(t *testing.T, st store.Store) {
		_, err := manydevice.Open(st, manydevice.Config{Fanout: fanout.Config{MaxAge: 30}})
		invalid, ok := errors.AsType[*event.InvalidError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, "MaxAge", invalid.Field)

		first, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		_, err = manydevice.Open(st, manydevice.Config{})
		require.ErrorIs(t, err, store.ErrInUse)
		require.NoError(t, first.Sessions.Close(t.Context()))
		_, err = manydevice.Open(st, manydevice.Config{})
		require.ErrorIs(t, err, store.ErrInUse, "the router still writes")
		require.NoError(t, first.Close(t.Context()))
		second, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		require.NoError(t, errors.Join(second.Close(t.Context()), st.Close(t.Context())))
		_, err = manydevice.Open(st, manydevice.Config{})
		require.ErrorIs(t, err, store.ErrClosed)
	})
}

// TestNew_ARouterOverAnotherStore than its registry's has no claim on it, and is refused (K20.8).
func TestNew_ARouterOverAnotherStore(t *testing.T) {
	onBothStores(t, func(t *testing.T, st store.Store) {
		other := memstore.New(memstore.Config{})
		reg, err := session.New(st, session.Config{})
		require.NoError(t, err)
		_, err = fanout.New(reg, other, fanout.Config{})
		invalid, ok := errors.AsType[*event.InvalidError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, "store", invalid.Field)
		require.NoError(t, errors.Join(reg.Close(t.Context()), other.Close(t.Context()), st.Close(t.Context())))
	})
}

// TestFailed_AStoreClosedUnderTheWholeEngine: deliveries end with advice to come back, one line of level ERROR says why, and the
// engine closes in good time (K20.9).
func TestFailed_AStoreClosedUnderTheWholeEngine(t *testing.T) {
	onBothStores(t, func(t *testing.T, st store.Store) {
		var log logged
		logger := slog.New(slog.NewTextHandler(&log, nil))
		engine, err := manydevice.Open(st, manydevice.Config{Session: session.Config{Logger: logger}, Fanout: fanout.Config{Logger: logger}})
		require.NoError(t, err)
		phone, err := engine.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		require.NoError(t, err)
		pair := transporttest.NewPair(transporttest.PairConfig{})
		_, err = engine.Router.Attach(t.Context(), fanout.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}, pair.Conn())
		require.NoError(t, err)
		_, err = engine.Router.Send(t.Context(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("x")})
		require.NoError(t, err)
		synctest.Wait()
		select {
		case <-engine.Failed():
			require.Fail(t, "nothing has failed")
		default:
		}

		require.NoError(t, st.Close(t.Context()))
		<-engine.Failed()
		synctest.Wait()
		why, closed := pair.Closed()
		require.True(t, closed)
		require.Equal(t, event.Unavailable, why.Reason)
		require.Equal(t, event.RetryAfter, why.Retry)
		_, err = engine.Router.Send(t.Context(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("x")})
		require.ErrorIs(t, err, store.ErrClosed)
		time.Sleep(time.Hour)
		require.Len(t, log.errorLines(), 1)
		require.Contains(t, log.errorLines()[0], "closed before the engine")
		begun := time.Now()
		_ = engine.Close(context.Background()) // what is pending cannot be written
		require.Less(t, time.Since(begun), 5*time.Second)
		require.Len(t, log.errorLines(), 1)
	})
}
