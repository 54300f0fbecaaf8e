package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// blocked attaches a gadget with a connection whose Send is blocked, whatever becomes of its context. Close does what it is
// given. The Send returns when free is called.
func blocked(w *world, g *gadget, close func(event.Closed) error) (sending chan error, free func()) {
	w.t.Helper()
	stop := make(chan struct{})
	g.wire = &wire{onSend: func(context.Context) error { <-stop; return errDown }, onClose: close}
	conn, err := g.tryAttach(g.wire)
	require.NoError(w.t, err)
	g.conn = conn
	sending = make(chan error, 1)
	go func() { sending <- conn.Send(context.Background(), []event.Frame{&event.Pong{}}) }()
	w.pass(time.Minute)
	require.Equal(w.t, 1, g.wire.sent())
	return sending, func() { stopOnce(stop) }
}

func stopOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// Whatever ends a connection, it does not wait for a Send that hangs with its context ended, nor for a Close that hangs
// (K3.1, I36).
func TestI36_NobodyWaitsForAHangingConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		end    func(w *world, g *gadget) error
		reason event.Reason
	}{
		"attach": {func(w *world, g *gadget) error {
			_, err := g.tryAttach(new(wire))
			return err
		}, event.Moved},
		"login of the same device": {func(w *world, g *gadget) error {
			_, err := w.tryLogin(request("ann", "a1", "ios"))
			return err
		}, event.Replaced},
		"login that evicts": {func(w *world, g *gadget) error {
			_, err := w.tryLogin(request("ann", "a2", "ios"))
			return err
		}, event.EvictedQuota},
		"kick": {func(w *world, g *gadget) error {
			_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true})
			return err
		}, event.KickedHost},
		"logout": {func(w *world, g *gadget) error { return w.reg.Logout(w.t.Context(), "ann", g.id) }, event.Logout},
		"remove device": {func(w *world, g *gadget) error {
			return w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a1"})
		}, event.DeviceRemoved},
		"ban": {func(w *world, g *gadget) error {
			_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann"})
			return err
		}, event.Banned},
		"delete": {func(w *world, g *gadget) error {
			_, err := w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann"})
			return err
		}, event.AccountDeleted},
		"detach": {func(w *world, g *gadget) error { g.conn.Detach(); return nil }, event.Lost},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, setup{rules: onePhone}, func(w *world) {
				g := w.login("ann", "a1", "ios")
				hold := make(chan struct{})
				sending, free := blocked(w, g, func(event.Closed) error { <-hold; return nil })
				start := time.Now()
				require.NoError(w.t, tt.end(w, g))
				require.Zero(w.t, time.Since(start))
				require.True(w.t, g.conn.Fenced())
				w.pass(0)
				require.Len(w.t, g.wire.called(), 1, "Close was called at once")
				require.Equal(w.t, tt.reason, g.wire.called()[0].Reason)
				require.Empty(w.t, sending)
				require.ErrorIs(w.t, g.conn.Send(context.Background(), nil), session.ErrFenced)
				w.pass(time.Minute)
				require.EqualValues(w.t, 1, w.reg.Stats().Hooks[session.HookClose].Timeouts)
				free()
				require.ErrorIs(w.t, <-sending, errDown)
				close(hold)
			})
		})
	}
}

// The context of a Send ends when the connection is fenced, before the revoke hook runs, and says why. It has no deadline.
func TestI36_TheFenceEndsTheContextOfARunningSend(t *testing.T) {
	var ended chan error
	s := setup{}
	s.config.Revoke = func(context.Context, session.Ended) error {
		time.Sleep(time.Second)
		return nil
	}
	inBubble(t, s, func(w *world) {
		ended = make(chan error, 1)
		type key struct{}
		g := w.login("ann", "a1", "ios")
		c := &wire{onSend: func(ctx context.Context) error {
			if _, ok := ctx.Deadline(); ok || ctx.Value(key{}) != "kept" {
				return errors.New("not as it should be")
			}
			derived, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			<-derived.Done()
			return errors.Join(context.Cause(ctx), context.Cause(derived), ctx.Err())
		}}
		conn, err := g.tryAttach(c)
		require.NoError(w.t, err)
		go func() {
			ended <- conn.Send(context.WithValue(context.Background(), key{}, "kept"), []event.Frame{&event.Pong{}})
		}()
		w.pass(time.Minute)
		start := time.Now()
		go w.kick("ann", g.id)
		err = <-ended
		require.Zero(w.t, time.Since(start))
		require.ErrorIs(w.t, err, session.ErrFenced)
		require.ErrorIs(w.t, err, context.Canceled)
		require.Empty(w.t, c.called(), "the hook runs")
		require.Equal(w.t, []event.Reason{event.KickedHost}, c.reasons())
		require.Equal(w.t, time.Second, time.Since(start))
	})
}

// A Send's context ends as any other: with its parent's, or when the Send has returned.
func TestSend_ContextOfItsOwn(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		var kept context.Context
		g := w.login("ann", "a1", "ios")
		c := &wire{onSend: func(ctx context.Context) error {
			kept = ctx
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Minute):
				return ctx.Err()
			}
		}}
		conn, err := g.tryAttach(c)
		require.NoError(w.t, err)
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(time.Second, func() { cancel(errDown) })
		require.ErrorIs(w.t, conn.Send(ctx, nil), errDown)
		require.NoError(w.t, conn.Send(context.Background(), nil))
		require.ErrorIs(w.t, kept.Err(), context.Canceled, "it is over")
		c.onSend = func(ctx context.Context) error { kept = ctx; return ctx.Err() }
		require.NoError(w.t, conn.Send(context.Background(), nil))
		require.ErrorIs(w.t, kept.Err(), context.Canceled)
		<-kept.Done()
		require.ErrorIs(w.t, conn.Send(ctx, nil), context.Canceled)
	})
}

// A Send that has looked at the fence, but may not have reached the host's code, is waited for: when Kick returns, none
// begins any more (I21). It makes no difference whether the kick has ended the connection, or somebody else just before.
func TestI21_KickWaitsForASendThatIsAboutToBegin(t *testing.T) {
	for first, end := range map[string]func(w *world, g *gadget, c *session.Connection){
		"":                     func(*world, *gadget, *session.Connection) {},
		"closed by the host, ": func(_ *world, _ *gadget, c *session.Connection) { c.Close(event.Slow.Closed(0)) },
		"displaced, ":          func(_ *world, g *gadget, _ *session.Connection) { g.attach() },
	} {
		for name, tt := range map[string]struct{ takes, want time.Duration }{
			"short":   {3 * time.Millisecond, 3 * time.Millisecond},
			"endless": {time.Hour, 10 * time.Millisecond},
		} {
			t.Run(first+name, func(t *testing.T) {
				inBubble(t, setup{}, func(w *world) {
					g := w.login("ann", "a1", "ios")
					c := &wire{onSend: func(context.Context) error { time.Sleep(tt.takes); return nil }}
					conn, err := g.tryAttach(c)
					require.NoError(w.t, err)
					sending := make(chan error, 1)
					go func() { sending <- conn.Send(context.Background(), []event.Frame{&event.Pong{}}) }()
					w.pass(0)
					start := time.Now()
					end(w, g, conn)
					require.Zero(w.t, time.Since(start), "nobody else waits for it")
					w.kick("ann", g.id)
					require.InDelta(w.t, tt.want, time.Since(start), float64(time.Millisecond))
					require.NoError(w.t, <-sending)
				})
			})
		}
	}
}

// counter counts what is sent on it, before anything else.
type counter struct{ sends atomic.Int64 }

func (c *counter) Send(context.Context, []event.Frame) error {
	c.sends.Add(1)
	return nil
}

func (*counter) Close(event.Closed) error { return nil }

// The same in real time, many times: no Send begins after Kick has returned, whoever has ended the connection.
func TestI21_NoSendBeginsAfterKick(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		for i := range 100 {
			g := w.login("ann", event.DeviceID(fmt.Sprint("d", i)), "ios")
			c := new(counter)
			q := session.AttachRequest{Account: g.acc, Login: g.id, Token: g.token}
			conn, err := w.reg.Attach(context.Background(), q, c)
			require.NoError(w.t, err)
			done := make(chan int64)
			go func() {
				n := int64(0)
				for conn.Send(context.Background(), []event.Frame{&event.Pong{}}) == nil {
					n++
				}
				done <- n
			}()
			switch i % 4 {
			case 1:
				conn.Close(event.Slow.Closed(0))
			case 2:
				g.attach()
			case 3:
				go conn.Detach()
			}
			w.kick("ann", g.id)
			before := c.sends.Load()
			require.Equal(w.t, before, <-done)
			require.Equal(w.t, before, c.sends.Load())
		}
	})
}

// AwaitClose: not of one that lives, until Close has returned of one that was ended, and no longer than either bound.
func TestConnection_AwaitClose(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.login("ann", "a1", "ios")
		hold := make(chan struct{})
		conn, err := g.tryAttach(&wire{onClose: func(event.Closed) error { <-hold; return nil }})
		require.NoError(w.t, err)
		start := time.Now()
		conn.AwaitClose(context.Background())
		require.Zero(w.t, time.Since(start))
		require.True(w.t, conn.Close(event.ProtocolError.Closed(0)))
		require.False(w.t, conn.Close(event.Lost.Closed(0)))
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		conn.AwaitClose(ctx)
		require.Equal(w.t, 100*time.Millisecond, time.Since(start))
		conn.AwaitClose(context.Background())
		require.Equal(w.t, time.Second, time.Since(start), "Config.CloseTimeout")
		close(hold)
	})
}

// A connection may have an idle bound of its own (K11.5).
func TestK11_IdleBoundOfOneConnection(t *testing.T) {
	inBubble(t, setup{rules: policy.Rules{PerPlatform: -1}, config: session.Config{SweepInterval: time.Second}}, func(w *world) {
		life := map[time.Duration]*time.Duration{}
		start := time.Now()
		for i, idle := range []time.Duration{0, 10 * time.Second, time.Hour, -1} {
			g := w.login("ann", event.DeviceID(fmt.Sprint("d", i)), "ios")
			life[idle] = new(time.Duration)
			c := &wire{onClose: func(why event.Closed) error {
				if why.Reason == event.Lost {
					*life[idle] = time.Since(start)
				}
				return nil
			}}
			_, err := w.reg.Attach(w.t.Context(), session.AttachRequest{
				Account: "ann", Login: g.id, Token: g.token, IdleTimeout: idle,
			}, c)
			require.NoError(w.t, err)
		}
		w.pass(24 * time.Hour)
		require.InDelta(w.t, 90, life[0].Seconds(), 1)
		require.InDelta(w.t, 10, life[10*time.Second].Seconds(), 1)
		require.InDelta(w.t, 3600, life[time.Hour].Seconds(), 1)
		require.Zero(w.t, *life[-1])
	})
}
