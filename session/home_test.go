package session_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// I35: a revoke hook that hangs for a thousand logins that expire at once delays nobody's "offline": the sweep's crew commits,
// and waits for no hook.
func TestSweep_HooksThatHangKeepNoPlace(t *testing.T) {
	offline := func(hangs bool) (took time.Duration) {
		s := setup{config: session.Config{AbsoluteLifetime: 10 * time.Minute, IdleTimeout: -1}}
		s.config.Revoke = func(_ context.Context, e session.Ended) error {
			if hangs && e.Session.Account != "ann" {
				time.Sleep(time.Hour)
			}
			return nil
		}
		inBubble(t, s, func(w *world) {
			start := time.Now()
			for i := range 1_000 {
				w.join(event.Account(fmt.Sprint("bad", i)), "d", "ios")
			}
			time.Sleep(8*time.Minute + time.Second)
			ann := w.join("ann", "a1", "ios")
			ann.conn.Detach()
			changes := w.subscribe(w.reg)
			for c := range changes.All(context.Background()) {
				if c.Kind == session.ChangeOffline && c.Session.Account == "ann" {
					break
				}
			}
			took = time.Since(start)
			require.Equal(w.t, 1_000, countKind(w, session.ChangeEnded), "all expired before")
			w.pass(2 * time.Hour)
		})
		return took
	}
	require.InDelta(t, offline(false).Seconds(), offline(true).Seconds(), 0.1)
}
