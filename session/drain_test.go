package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// TestD9_Drain: nobody new, everybody is told to come back elsewhere, not all at once, and logins live on.
func TestD9_Drain(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		var all []*gadget
		for _, a := range []event.Account{"ann", "bob", "cid", "dan", "eve"} {
			all = append(all, w.fill(a, "ios", "a1", "a2")...)
		}
		begin := time.Now()
		done := make(chan error, 1)
		go func() { done <- w.reg.Drain(w.t.Context(), session.DrainRequest{Over: 10 * time.Second}) }()
		w.pass(4500 * time.Millisecond)
		shut := 0
		for _, g := range all {
			shut += len(g.wire.reasons())
		}
		require.Equal(w.t, 5, shut, "half of them after half of the time")
		_, err := w.tryLogin(request("fay", "f1", "ios"))
		require.ErrorIs(w.t, err, session.ErrDraining)
		_, err = all[0].tryAttach(new(wire))
		require.ErrorIs(w.t, err, session.ErrDraining)
		require.NoError(w.t, <-done)
		require.LessOrEqual(w.t, time.Since(begin), 10*time.Second)
		w.pass(time.Second)
		delays := map[time.Duration]bool{}
		for _, g := range all {
			why := g.wire.ends()[0]
			require.Equal(w.t, event.Shutdown, why.Reason)
			require.Equal(w.t, event.RetryAfter, why.Retry)
			require.GreaterOrEqual(w.t, why.After, time.Second)
			require.LessOrEqual(w.t, why.After, 11*time.Second)
			delays[why.After] = true
		}
		require.Greater(w.t, len(delays), 5, "jitter")
		w.restart(setup{})
		for _, g := range all {
			g.attach()
		}
		ctx, cancel := context.WithCancel(w.t.Context())
		cancel()
		require.ErrorIs(w.t, w.reg.Drain(ctx, session.DrainRequest{Over: time.Hour}), context.Canceled)
	})
}
