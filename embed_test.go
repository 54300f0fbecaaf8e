package manydevice_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

func TestOpenRefusesBadInput(t *testing.T) {
	_, err := manydevice.Open(nil, manydevice.Config{})
	var invalid *event.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, "store", invalid.Field)
}

func TestDrainThenClose(t *testing.T) {
	st := memstore.New(memstore.Config{})
	engine, err := manydevice.Open(st, manydevice.Config{})
	require.NoError(t, err)
	require.NoError(t, engine.Drain(t.Context(), session.DrainRequest{Over: time.Second}))
	_, err = engine.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Platform: "ios"})
	require.ErrorIs(t, err, session.ErrDraining)
	require.NoError(t, engine.Close(t.Context()))
	select {
	case <-engine.Failed():
		t.Fatal("nothing has failed")
	default:
	}
	require.NoError(t, st.Close(t.Context()))
}
