package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/seam"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

var errBegin = errors.New("nothing to begin with")

// delivery stands for fan-out.
func delivery(
	begin func(context.Context, *session.Connection) error, ended func(event.Closed),
) *seam.Delivery[*session.Connection] {
	return &seam.Delivery[*session.Connection]{Begin: begin, Ended: ended}
}

// beginning attaches the gadget with a Begin.
func (g *gadget) beginning(c *wire, told *atomic.Int32, begin func(context.Context, *session.Connection) error) (*session.Connection, error) {
	return g.w.reg.Attach(context.Background(), session.AttachRequest{
		Account: g.acc, Login: g.id, Token: g.token, Delivery: delivery(begin, func(event.Closed) { told.Add(1) }),
	}, c)
}

// TestAttach_EndsWhileItRuns (K9.1): whatever ends a connection before its Attach has returned, the connection is the
// caller's, who learns why.
func TestAttach_EndsWhileItRuns(t *testing.T) {
	for _, tt := range []struct {
		name   string
		begin  func(w *world, g *gadget, c *session.Connection) error
		is     error
		reason event.Reason
		events []string
	}{
		{"begin fails", func(*world, *gadget, *session.Connection) error { return errBegin }, errBegin, event.Unavailable, nil},
		{"kick", func(w *world, g *gadget, _ *session.Connection) error {
			_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}})
			return err
		}, session.ErrEnded, event.KickedHost, []string{"ended a1 kicked_host"}},
		{"kick, and begin fails", func(w *world, g *gadget, _ *session.Connection) error {
			_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", All: true})
			return errors.Join(err, errBegin)
		}, session.ErrEnded, event.KickedHost, []string{"ended a1 kicked_host"}},
		{"a newer connection", func(w *world, g *gadget, _ *session.Connection) error {
			_, err := g.tryAttach(new(wire))
			return err
		}, session.ErrFenced, event.Moved, []string{"online a1"}},
		{"drain", func(w *world, _ *gadget, _ *session.Connection) error {
			return w.reg.Drain(context.Background(), session.DrainRequest{})
		}, session.ErrDraining, event.Shutdown, nil},
		{"close", func(w *world, _ *gadget, _ *session.Connection) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_ = w.reg.Close(ctx)
			return nil
		}, session.ErrClosed, event.Shutdown, nil},
		{"detached by the host", func(_ *world, _ *gadget, c *session.Connection) error {
			c.Detach()
			return nil
		}, session.ErrFenced, event.Lost, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				g := w.login("ann", "a1", "ios")
				w.events.take()
				var told atomic.Int32
				c := new(wire)
				var sent error
				_, err := g.beginning(c, &told, func(ctx context.Context, conn *session.Connection) error {
					require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"), "it is not online yet")
					sent = conn.Send(ctx, []event.Frame{&event.Pong{}})
					return tt.begin(w, g, conn)
				})
				require.ErrorIs(w.t, err, tt.is)
				require.Equal(w.t, tt.reason, event.ClosedOf(err).Reason)
				require.ErrorIs(w.t, sent, session.ErrFenced, "nothing is sent before it is attached")
				require.Equal(w.t, tt.events, w.events.take())
				w.tick()
				require.Empty(w.t, c.ends(), "Conn.Close")
				require.Zero(w.t, told.Load(), "ended")
				require.Zero(w.t, c.sent())
			})
		})
	}
}

// TestAttach_AConnectionThatWasNot: a login whose attach failed goes on as before: it lingers, goes offline without a
// word since nobody was told that it was online, and can be attached.
func TestAttach_AConnectionThatWasNot(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.login("ann", "a1", "ios")
		w.events.take()
		fail := func(context.Context, *session.Connection) error { return errBegin }
		_, err := g.beginning(new(wire), new(atomic.Int32), fail)
		require.ErrorIs(w.t, err, errBegin)
		require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
		w.pass(5 * time.Minute)
		require.Equal(w.t, []session.State{session.Offline}, w.states("ann"))
		require.Empty(w.t, w.events.take())
		_, err = g.beginning(new(wire), new(atomic.Int32), fail)
		require.ErrorIs(w.t, err, errBegin)
		g.attach()
		require.Equal(w.t, []string{"online a1"}, w.events.take())
	})
}

// A Begin that panics does so on a goroutine where nobody recovers. It is an error of Attach, and the connection was not.
func TestAttach_BeginPanics(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.login("ann", "a1", "ios")
		w.events.take()
		c, told := new(wire), new(atomic.Int32)
		_, err := g.beginning(c, told, func(context.Context, *session.Connection) error { panic("host") })
		require.ErrorContains(w.t, err, "Begin: panicked: host")
		require.Equal(w.t, event.Unavailable, event.ClosedOf(err).Reason)
		require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
		require.Empty(w.t, c.reasons())
		require.Zero(w.t, told.Load())
		require.Empty(w.t, w.events.take())
		g.attach()
	})
}

// A Begin that hangs keeps its own Attach waiting and nobody else: not a newer connection, a kick, a login of the account.
func TestI36_ABeginThatHangs(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		stop, done := make(chan struct{}), make(chan error, 2)
		hang := func(context.Context, *session.Connection) error { <-stop; return nil }
		g := w.login("ann", "a1", "ios")
		for range 2 {
			go func() {
				_, err := g.beginning(new(wire), new(atomic.Int32), hang)
				done <- err
			}()
			w.pass(time.Minute)
		}
		start := time.Now()
		g.attach()
		w.join("ann", "a2", "ios")
		w.kick("ann", g.id)
		require.Zero(w.t, time.Since(start))
		close(stop)
		require.Error(w.t, <-done)
		require.Error(w.t, <-done)
	})
}

// TestAttach_TheConnectionIsTheCallersOnEveryError (K9.1): random attaches beside failing stores, kicks, newer
// connections, drains and closes. On an error nothing was done to the connection; otherwise it is closed once.
func TestAttach_TheConnectionIsTheCallersOnEveryError(t *testing.T) {
	failed, attached := 0, 0
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	for seed := range rounds {
		inBubble(t, setup{}, func(w *world) {
			random := rand.New(rand.NewPCG(uint64(seed), 1))
			var mu sync.Mutex
			chance := func(n int) bool {
				mu.Lock()
				defer mu.Unlock()
				return random.IntN(n) == 0
			}
			all := []*gadget{w.login("ann", "a1", "ios"), w.login("ann", "a2", "ios"), w.login("bob", "b1", "ios")}
			w.st.set(func(f *faults) {
				f.load = func() error { time.Sleep(time.Millisecond); return nil }
				f.before = func(store.Batch) error {
					if chance(4) {
						return errDown
					}
					return nil
				}
			})
			type try struct {
				wire *wire
				told atomic.Int32
				err  error
			}
			var tries []*try
			var wg sync.WaitGroup
			for i := range 20 {
				t := &try{wire: new(wire)}
				tries = append(tries, t)
				g, slow, bad := all[i%len(all)], chance(2), chance(4)
				wg.Go(func() {
					time.Sleep(time.Duration(i) * time.Millisecond)
					_, t.err = g.beginning(t.wire, &t.told, func(context.Context, *session.Connection) error {
						if slow {
							time.Sleep(3 * time.Millisecond)
						}
						if bad {
							return errBegin
						}
						return nil
					})
				})
			}
			wg.Go(func() {
				time.Sleep(time.Duration(seed%20) * time.Millisecond)
				switch seed % 4 {
				case 0:
					_, _ = w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", All: true})
				case 1:
					_ = w.reg.Drain(context.Background(), session.DrainRequest{})
				case 2:
					_ = w.reg.Close(context.Background())
				}
			})
			wg.Wait()
			w.st.heal()
			w.shut(w.reg)
			for i, try := range tries {
				name := fmt.Sprintf("seed %d, attach %d: %v", seed, i, try.err)
				if try.err != nil {
					failed++
					require.Empty(w.t, try.wire.ends(), name)
					require.Zero(w.t, try.told.Load(), name)
					continue
				}
				attached++
				require.Len(w.t, try.wire.ends(), 1, name)
				require.EqualValues(w.t, 1, try.told.Load(), name)
			}
		})
	}
	require.Positive(t, failed)
	require.Positive(t, attached)
	t.Logf("%d attaches failed, %d did not", failed, attached)
}

// TestAttach_FailsAndTheOtherTabIsInBackground: a connection that has displaced another one and then was not attached leaves
// the login as its other tabs are.
func TestAttach_FailsAndTheOtherTabIsInBackground(t *testing.T) {
	inBubble(t, setup{rules: threeTabs}, func(w *world) {
		g := w.login("ann", "browser", "web")
		g.tab("1").conn.SetBackground(true)
		g.tab("2")
		require.Equal(w.t, []session.State{session.Online}, w.states("ann"))
		w.events.take()
		_, err := w.reg.Attach(context.Background(), session.AttachRequest{
			Account: g.acc, Login: g.id, Token: g.token, Tab: "2",
			Delivery: delivery(func(context.Context, *session.Connection) error {
				require.Equal(w.t, []session.State{session.Online}, w.states("ann"), "while it arrives")
				return errBegin
			}, nil),
		}, new(wire))
		require.ErrorIs(w.t, err, errBegin)
		require.Equal(w.t, []session.State{session.Away}, w.states("ann"))
		require.Equal(w.t, []string{"away browser"}, w.events.take())
	})
}

// TestAttach_BeginsAfterTheEndOfTheOneBefore: fan-out knows of the end of a connection before it begins on the login's next
// one, before Conn.Close, and when the call that ended it returns; whoever ends it, also at the same moment.
func TestAttach_BeginsAfterTheEndOfTheOneBefore(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.login("ann", "a1", "ios")
		type one struct {
			told   atomic.Bool
			closed chan bool // whether it was told by then
			conn   *session.Connection
		}
		attach := func(before *one) *one {
			c := &one{closed: make(chan bool, 1)}
			var err error
			c.conn, err = w.reg.Attach(context.Background(), session.AttachRequest{
				Account: g.acc, Login: g.id, Token: g.token,
				Delivery: delivery(func(context.Context, *session.Connection) error {
					require.True(w.t, before == nil || before.told.Load(), "when the next one begins")
					return nil
				}, func(event.Closed) {
					runtime.Gosched()
					require.False(w.t, c.told.Swap(true), "once")
				}),
			}, &wire{onClose: func(event.Closed) error { c.closed <- c.told.Load(); return nil }})
			require.NoError(w.t, err)
			return c
		}
		c := attach(nil)
		for i := range 200 {
			var wg sync.WaitGroup
			for range i % 4 {
				wg.Go(func() {
					if c.conn.Close(event.Slow.Closed(0)) {
						require.True(w.t, c.told.Load(), "when the call returns")
					}
				})
			}
			next := attach(c)
			wg.Wait()
			require.True(w.t, <-c.closed, "before Close")
			c = next
		}
		w.kick("ann", g.id)
		require.True(w.t, c.told.Load(), "when Kick returns")
	})
}
