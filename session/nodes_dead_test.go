package session_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// paused is a log that stops the goroutine that writes a warning, as a process that was stopped does. It does so when it is
// asked whether it wants the line, since nobody waits for it to take one.
type paused struct {
	slog.Handler
	gate chan struct{} // nil: nobody is kept
}

func (p *paused) Enabled(_ context.Context, l slog.Level) bool {
	if l == slog.LevelWarn && p.gate != nil {
		<-p.gate
	}
	return true
}

// A process that was paused finds out at the first Send, before anything else of it has run.
func TestS31_SendAfterAPause(t *testing.T) {
	p := &paused{Handler: slog.NewTextHandler(io.Discard, nil)}
	onNodes(t, setup{config: session.Config{Logger: slog.New(p)}}, func(c *cluster, x, y *world) {
		p.gate = make(chan struct{})
		g := x.join("ann", "phone", "ios")
		sent := g.wire.sent()
		c.cut["x"].down.Store(true)
		c.pass(14 * time.Second)
		require.True(c.t, g.live(), "there is time yet")
		c.pass(2 * time.Second)
		require.False(c.t, g.live())
		require.Equal(c.t, sent+1, g.wire.sent())
		require.Empty(c.t, g.wire.ends(), "the keeper of the lease has not run")
		require.Equal(c.t, []session.State{session.Online}, y.states("ann"), "for the others it still lives")
		close(p.gate)
		c.pass(0)
		require.Equal(c.t, []event.Reason{event.LeaseLost}, g.wire.reasons())
	})
}

// The logins of a node that died linger, then are offline, without anybody asking for them.
func TestB12_LoginsOfADeadNode(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		x.join("ann", "phone", "ios")
		x.join("bea", "phone", "ios")
		c.bus.Partition("x")
		c.cut["x"].down.Store(true)
		c.pass(25 * time.Second)
		require.Equal(c.t, []session.State{session.Lingering}, y.states("ann"))
		c.pass(5 * time.Minute)
		require.Equal(c.t, []session.State{session.Offline}, y.states("ann"))
		require.Equal(c.t, 2, countKind(y, session.ChangeOffline), "also the one that nobody has looked at")
	})
}

// Nobody reads the accounts: the survivor notices by the leases alone, whether the node has died or has left, and within a
// lease, a sweep and the resume window.
func TestB12_NobodyAsks(t *testing.T) {
	for name, end := range map[string]func(c *cluster, x *world){
		"cut off": func(c *cluster, _ *world) {
			c.bus.Partition("x")
			c.cut["x"].down.Store(true)
		},
		"orderly end": func(_ *cluster, x *world) { x.shut(x.reg) },
	} {
		t.Run(name, func(t *testing.T) {
			onNodes(t, setup{}, func(c *cluster, x, y *world) {
				z := c.join("z", setup{})
				x.join("ann", "phone", "ios")
				x.join("bea", "phone", "ios")
				c.pass(6 * time.Second)
				end(c, x)
				c.pass(2 * time.Minute)
				require.Zero(c.t, countKind(y, session.ChangeOffline), "they linger")
				c.pass(20*time.Second + 5*time.Second + 5*time.Second)
				require.Equal(c.t, 2, countKind(y, session.ChangeOffline))
				require.Zero(c.t, countKind(z, session.ChangeOffline), "one of the survivors looks through the accounts")
			})
		})
	}
}

// Nodes die one after the other, the one that was to look as well.
func TestB12_TheHeirDies(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		z := c.join("z", setup{})
		x.join("ann", "phone", "ios")
		y.join("bea", "phone", "ios")
		c.pass(6 * time.Second)
		x.shut(x.reg)
		c.pass(time.Minute)
		y.shut(y.reg)
		c.pass(2*time.Minute + 10*time.Second)
		require.Equal(c.t, 2, countKind(z, session.ChangeOffline))
	})
}

// S20 on several nodes: the host's hook has returned before the connection is told, wherever that is.
func TestB7_S20_RevokedBeforeTheCloseOnAnotherNode(t *testing.T) {
	for name, tt := range map[string]struct {
		hook  time.Duration
		keep  bool
		reach bool // the bus works after the first word
		want  time.Duration
	}{
		"slow hook":       {hook: time.Second, reach: true, want: time.Second},
		"no hook is told": {hook: time.Second, keep: true, reach: true},
		"hook hangs":      {hook: time.Hour, reach: true, want: 2 * time.Second},
		"bus fails":       {hook: time.Second, want: 3*time.Second + 10*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s := setup{}
			s.config.Revoke = func(context.Context, session.Ended) error { time.Sleep(tt.hook); return nil }
			onNodes(t, s, func(c *cluster, x, y *world) {
				g := x.join("ann", "phone", "ios")
				if !tt.reach {
					c.bus.Lose(func(_ event.NodeID, raw []byte) bool { return strings.Contains(string(raw), "revoked") })
				}
				start, closed := time.Now(), time.Time{}
				g.wire.onClose = func(event.Closed) error { closed = time.Now(); return nil }
				_, err := y.reg.Kick(c.t.Context(), session.KickRequest{Account: "ann", All: true, KeepCredential: tt.keep})
				require.NoError(c.t, err)
				require.False(c.t, g.live())
				c.pass(2 * time.Hour)
				require.Equal(c.t, tt.want, closed.Sub(start))
				require.Equal(c.t, []event.Reason{event.KickedHost}, g.wire.reasons())
				require.Empty(c.t, x.revocations())
			})
		})
	}
}

// The word that the hooks have run may come while the other node still tells the owners of its connections: it is not missed.
func TestB7_S20_RevokedBeforeItIsAwaited(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		g := x.login("ann", "phone", "ios")
		g.wire = new(wire)
		_, err := x.reg.Attach(c.t.Context(), session.AttachRequest{Account: g.acc, Login: g.id, Token: g.token}, g.wire)
		require.NoError(c.t, err)
		start := time.Now()
		_, err = y.reg.Kick(c.t.Context(), session.KickRequest{Account: "ann", All: true})
		require.NoError(c.t, err)
		require.Zero(c.t, time.Since(start))
		c.pass(200 * time.Millisecond)
		require.Equal(c.t, []event.Reason{event.KickedHost}, g.wire.reasons())
	})
}

// S15, I35 between nodes: an account that is stuck on a node, however often it is asked for, does not keep others of it from
// being looked at.
func TestS15_LooksBesideAStalledAccount(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		stuck, other := x.join("ann", "phone", "ios"), x.join("bea", "phone", "ios")
		free := stall(c.world, "ann")
		go func() { _ = x.reg.Logout(context.Background(), "ann", stuck.id) }()
		c.pass(0)
		for range 300 {
			require.NoError(c.t, c.bus.Publish(c.t.Context(), "x", []byte(`{"look":"ann","from":"y","ask":7}`)))
		}
		start := time.Now()
		_, err := y.reg.Kick(c.t.Context(), session.KickRequest{Account: "bea", All: true})
		require.NoError(c.t, err)
		require.Zero(c.t, time.Since(start))
		require.False(c.t, other.live())
		free()
		c.pass(2 * time.Second)
	})
}
