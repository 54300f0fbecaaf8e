package manydevice_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
)

// TestOpen_ASecondEngine is refused until the first was closed, also one whose Open failed half-way (K20.8).
func TestOpen_ASecondEngine(t *testing.T) {
	onBothStores(t, func(t *testing.T, st store.Store) {
		_, err := manydevice.Open(st, manydevice.Config{Fanout: fanout.Config{MaxAge: 30}})
		invalid, ok := errors.AsType[*event.InvalidError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, "MaxAge", invalid.Field)

		first := openScene(t, st, manydevice.Config{})
		_, err = manydevice.Open(st, manydevice.Config{})
		require.ErrorIs(t, err, store.ErrInUse)
		require.NoError(t, first.Sessions.Close(t.Context()))
		_, err = manydevice.Open(st, manydevice.Config{})
		require.ErrorIs(t, err, store.ErrInUse, "the router still writes")
		require.NoError(t, first.Close(t.Context()))
		openScene(t, st, manydevice.Config{}).end(st)
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
		var log lines
		logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
		s := openScene(t, st, manydevice.Config{Session: session.Config{Logger: logger}, Fanout: fanout.Config{Logger: logger}})
		_, pair := s.attach(s.login("phone"))
		s.deliver()
		select {
		case <-s.Failed():
			require.Fail(t, "nothing has failed")
		default:
		}

		require.NoError(t, st.Close(t.Context()))
		<-s.Failed()
		synctest.Wait()
		why, closed := pair.Closed()
		require.True(t, closed)
		require.Equal(t, event.Unavailable, why.Reason)
		require.Equal(t, event.RetryAfter, why.Retry)
		require.ErrorIs(t, s.send("x"), store.ErrClosed)
		time.Sleep(time.Hour)
		require.Len(t, log.all(t), 1)
		require.Contains(t, log.String(), "closed before the engine")
		begun := time.Now()
		_ = s.Close(context.Background()) // what is pending cannot be written
		require.Less(t, time.Since(begun), 5*time.Second)
		require.Len(t, log.all(t), 1)
	})
}
