package session_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// TestI22_Moved: a second connection of a login fences the first, whose late words have no effect.
func TestI22_Moved(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.login("ann", "a1", "ios")
		w.events.take()
		g.attach()
		first, firstWire := g.conn, g.wire
		g.attach()
		require.Equal(w.t, []event.Closed{event.Moved.Closed(2 * time.Second)}, firstWire.ends())
		require.Greater(w.t, g.conn.Generation(), first.Generation())
		sent := firstWire.sent()
		require.ErrorIs(w.t, first.Send(w.t.Context(), []event.Frame{&event.Pong{}}), session.ErrFenced)
		require.Equal(w.t, sent, firstWire.sent())

		first.SetBackground(true)
		first.Close(event.Slow.Closed(0))
		first.Detach()
		require.Len(w.t, firstWire.ends(), 1, "Close comes once")
		require.Equal(w.t, []session.State{session.Online}, w.states("ann"))
		require.True(w.t, g.live())
		require.Equal(w.t, []string{"online a1"}, w.events.take())
	})
}

func TestB11_S17_LateCloseOfTheOldConnection(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		old := w.join("ann", "a1", "ios")
		next := w.join("ann", "a1", "ios")
		require.Equal(w.t, []event.Reason{event.Replaced}, old.wire.reasons())
		w.events.take()
		old.conn.Detach()
		w.pass(80 * time.Second)
		next.conn.Touch()
		w.pass(80 * time.Second)
		require.Equal(w.t, []session.State{session.Online}, w.states("ann"))
		require.True(w.t, next.live())
		require.Empty(w.t, w.events.take(), "no offline event")
		require.Len(w.t, old.wire.ends(), 1)
	})
}

func TestI22_OneConnectionLives(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.login("ann", "a1", "ios")
		const n = 16
		wires := make([]*wire, n)
		conns, errs := make([]*session.Connection, n), make([]error, n)
		done := make(chan struct{})
		for i := range n {
			wires[i] = new(wire)
			go func() {
				defer func() { done <- struct{}{} }()
				conns[i], errs[i] = g.tryAttach(wires[i])
			}()
		}
		for range n {
			<-done
		}
		var newest, live *session.Connection
		for i, c := range conns {
			if c == nil { // it was displaced before its Attach has returned
				require.ErrorIs(w.t, errs[i], session.ErrFenced)
				require.Equal(w.t, event.Moved, event.ClosedOf(errs[i]).Reason)
				require.Empty(w.t, wires[i].ends())
				continue
			}
			if c.Send(w.t.Context(), nil) == nil {
				require.Nil(w.t, live, "two are live")
				live = c
				require.Empty(w.t, wires[i].ends())
			} else {
				require.Equal(w.t, []event.Reason{event.Moved}, wires[i].reasons())
			}
			if newest == nil || c.Generation() > newest.Generation() {
				newest = c
			}
		}
		require.NotNil(w.t, live)
		require.Equal(w.t, newest.Generation(), live.Generation(), "the last one to come stays")
	})
}

// TestI22_DetachWhileMoved: the end of the old connection comes just while the new one takes over.
func TestI22_DetachWhileMoved(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		for range 3_000 {
			old := g.conn
			var wg sync.WaitGroup
			wg.Go(old.Detach)
			g.attach()
			wg.Wait()
			require.True(w.t, g.live())
			require.Equal(w.t, []session.State{session.Online}, w.states("ann"))
		}
	})
}

func TestS30_LostWithoutAWord(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		steady := w.join("ann", "a2", "web")
		w.events.take()
		start := time.Now()
		var lost, offline time.Duration
		changes := w.subscribe(w.reg)
		for range 60 {
			w.pass(5 * time.Second)
			for _, c := range session.Drain(changes) {
				require.Equal(w.t, session.ChangeOffline, c.Kind)
				require.Equal(w.t, session.Offline, c.Session.State)
				offline = time.Since(start)
			}
			if s := w.list("ann"); lost == 0 && s[0].State != session.Online {
				require.Equal(w.t, session.Lingering, s[0].State)
				lost = time.Since(start)
			}
			steady.conn.Touch()
		}
		require.Equal(w.t, []event.Closed{event.Lost.Closed(0)}, g.wire.ends())
		require.InDelta(w.t, 90, lost.Seconds(), 5)
		require.InDelta(w.t, 90+120, offline.Seconds(), 10)
		require.Equal(w.t, []string{"offline a1 lost"}, w.events.take(), "once")
		require.Equal(w.t, []session.State{session.Offline, session.Online}, w.states("ann"))
		g.attach()
		require.Equal(w.t, []string{"online a1"}, w.events.take())
	})
}

func TestTouch_KeepsAConnection(t *testing.T) {
	tests := []struct {
		name  string
		idle  time.Duration
		touch bool
		want  session.State
	}{
		{"silent", 0, false, session.Lingering},
		{"heard of", 0, true, session.Online},
		{"longer bound", 10 * time.Minute, false, session.Online},
		{"no bound", -1, false, session.Online},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{config: session.Config{IdleTimeout: tt.idle}}, func(w *world) {
				g := w.join("ann", "a1", "ios")
				for range 3 {
					w.pass(40 * time.Second)
					if tt.touch {
						g.conn.Touch()
						require.Equal(w.t, time.Now().UnixMilli(), w.list("ann")[0].LastSeen.UnixMilli())
					}
				}
				require.Equal(w.t, []session.State{tt.want}, w.states("ann"))
			})
		})
	}
}

func TestB14_Presence(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1, Node: "n1"}}, func(w *world) {
		presence := func() session.State {
			p, err := w.reg.Presence(w.t.Context(), "ann")
			require.NoError(w.t, err)
			require.Equal(w.t, w.list("ann"), p.Devices)
			return p.State
		}
		require.Equal(w.t, session.Offline, presence(), "an account without logins")
		a := w.login("ann", "a1", "ios")
		require.Equal(w.t, session.Lingering, presence())
		require.Equal(w.t, session.Lingering, a.res.Session.State)
		a.attach()
		b := w.join("ann", "a2", "web")
		require.Equal(w.t, session.Online, presence())
		require.EqualValues(w.t, "n1", w.list("ann")[0].Node)
		require.False(w.t, a.conn.Background())
		a.conn.SetBackground(true)
		require.True(w.t, a.conn.Background())
		require.Equal(w.t, []session.State{session.Away, session.Online}, w.states("ann"))
		require.Equal(w.t, session.Online, presence())
		b.conn.Detach()
		require.Equal(w.t, session.Away, presence())
		a.conn.SetBackground(false)
		require.Equal(w.t, session.Online, presence())
		a.conn.Detach()
		require.Equal(w.t, session.Lingering, presence())
		require.Empty(w.t, w.list("ann")[0].Node)
		w.pass(2*time.Minute - time.Second)
		require.Equal(w.t, session.Lingering, presence())
		w.pass(time.Second)
		require.Equal(w.t, session.Offline, presence(), "as soon as the window is over, before any sweep")
	})
}

func TestS34_PresenceUnknown(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		w.join("ann", "a1", "ios")
		w.events.take()
		w.st.set(func(f *faults) { f.load = func() error { return errDown } })
		_, err := w.reg.Presence(w.t.Context(), "ann")
		require.ErrorIs(w.t, err, errDown)
		_, err = w.reg.Peers(w.t.Context(), "ann", "")
		require.ErrorIs(w.t, err, errDown)
		_, err = w.reg.Devices(w.t.Context(), "ann")
		require.ErrorIs(w.t, err, errDown)
		w.pass(10 * time.Minute)
		require.Empty(w.t, w.events.take(), "nobody is called offline on an error")
		w.st.heal()
		w.pass(10 * time.Second)
		require.Equal(w.t, []string{"offline a1 lost"}, w.events.take(), "it was told late, but once")
	})
}

func TestS27_CloseHangsOrPanics(t *testing.T) {
	tests := []struct {
		name  string
		close func(stop chan struct{}) error
		hung  uint64
	}{
		{"hangs", func(stop chan struct{}) error { <-stop; return nil }, 1},
		{"panics", func(chan struct{}) error { panic("host") }, 0},
		{"fails", func(chan struct{}) error { return errDown }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				stop := make(chan struct{})
				defer close(stop)
				g, other := w.login("ann", "a1", "ios"), w.join("ann", "a2", "ios")
				g.wire = &wire{onClose: func(event.Closed) error { return tt.close(stop) }}
				_, err := g.tryAttach(g.wire)
				require.NoError(w.t, err)
				start := time.Now()
				w.kick("ann", g.id)
				require.Zero(w.t, time.Since(start), "nobody waits for a Close")
				require.Len(w.t, g.wire.ends(), 1)
				require.Equal(w.t, tt.hung, w.reg.Stats().Hooks[session.HookClose].Timeouts)
				require.Equal(w.t, "a2", w.devices("ann"))
				require.True(w.t, other.live())
				w.login("ann", "a3", "ios")
			})
		})
	}
}

func TestSend_Fails(t *testing.T) {
	tests := []struct {
		name string
		send func(context.Context) error
		want string
	}{
		{"error", func(context.Context) error { return errDown }, "session: send: " + errDown.Error()},
		{"panic", func(context.Context) error { panic("host") }, "session: send: Conn.Send panicked: host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				g := w.login("ann", "a1", "ios")
				c := &wire{onSend: tt.send}
				conn, err := g.tryAttach(c)
				require.NoError(w.t, err)
				require.EqualError(w.t, conn.Send(w.t.Context(), nil), tt.want)
				w.kick("ann", g.id)
				require.Len(w.t, c.ends(), 1, "the failed Send is not waited for")
			})
		})
	}
}

func TestConnection_Names(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		require.EqualValues(w.t, "ann", g.conn.Account())
		require.Equal(w.t, g.id, g.conn.Login())
		require.EqualValues(w.t, "a1", g.conn.Device())
		require.Equal(w.t, g.res.Session.Incarnation, g.conn.Incarnation())
		bound := session.Bound{Device: "a1", Incarnation: g.conn.Incarnation()}
		got, err := w.reg.Resolve(w.t.Context(), "ann", g.id)
		require.NoError(w.t, err)
		require.Equal(w.t, bound, got)
		g.conn.Detach()
		got, err = w.reg.Resolve(w.t.Context(), "ann", g.id)
		require.NoError(w.t, err)
		require.Equal(w.t, bound, got)
		w.kick("ann", g.id)
		_, err = w.reg.Resolve(w.t.Context(), "ann", g.id)
		require.ErrorIs(w.t, err, session.ErrNotFound)
	})
}

// TestClose_ByTheHost: the login lives on, and fan-out is told once, before Conn.Close.
func TestClose_ByTheHost(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		var log journal
		g := w.login("ann", "a1", "ios")
		conn, err := w.reg.Attach(w.t.Context(), session.AttachRequest{
			Account: "ann", Login: g.id, Token: g.token,
			Delivery: delivery(nil, func(why event.Closed) { log.add(fmt.Sprint("ended ", why.Reason)) }),
		}, &wire{log: &log})
		require.NoError(w.t, err)
		conn.Close(event.Slow.Closed(0))
		conn.Close(event.ProtocolError.Closed(0))
		w.pass(0)
		require.Equal(w.t, []string{"ended slow", "close slow"}, log.take())
		require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
		w.events.take()
		w.pass(3 * time.Minute)
		require.Equal(w.t, []string{"offline a1 slow"}, w.events.take())
	})
}

func TestB1_ALoginWithoutAConnection(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.login("ann", "a1", "ios")
		require.Equal(w.t, []string{"login a1"}, w.events.take())
		w.pass(5 * time.Minute)
		require.Equal(w.t, []session.State{session.Offline}, w.states("ann"))
		require.Empty(w.t, w.events.take(), "it was never online")
		require.True(w.t, g.attach().live())
		require.Equal(w.t, []string{"online a1"}, w.events.take())
	})
}
