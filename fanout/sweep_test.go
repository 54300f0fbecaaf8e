package fanout_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport"
)

// Limits of one connection that are shorter than a second are held to like longer ones, also those of a full queue (K11.5).
func TestK11_ShortTimesOfOneConnection(t *testing.T) {
	refuses := func() transport.Conn { return newNarrow() }
	blocks := func() transport.Conn { return newHostConn(deaf) }
	takes := func() transport.Conn { return taking() }
	for name, tt := range map[string]struct {
		q    fanout.AttachRequest
		conn func() transport.Conn
		want time.Duration
	}{
		"a Send":            {fanout.AttachRequest{FrameWrite: 100 * time.Millisecond}, blocks, 100 * time.Millisecond},
		"a full queue":      {fanout.AttachRequest{FrameWrite: 40 * time.Millisecond}, refuses, 40 * time.Millisecond},
		"acks":              {fanout.AttachRequest{AckWait: 200 * time.Millisecond}, takes, 200 * time.Millisecond},
		"longer than a gap": {fanout.AttachRequest{AckWait: 1_500 * time.Millisecond}, takes, 1_500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, fanout.Config{}, func(w *world) {
				start := time.Now()
				att := w.hosted("ann", "a1", tt.q, tt.conn())
				w.host("bob", "x", "ann")
				w.until("closed", func() bool { return att.Handle(context.Background(), &event.Ping{}) != nil })
				require.GreaterOrEqual(w.t, time.Since(start), tt.want)
				require.LessOrEqual(w.t, time.Since(start), tt.want*3/2+5*time.Millisecond)
				w.until("counted", func() bool { return w.r.Stats().Slow == 1 })
			})
		})
	}
}

// I35: the watchdog goes on while the store holds up what is owed to one account.
func TestI35_TheWatchdogDoesNotWaitForTheStore(t *testing.T) {
	inMemory(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		w.host("bob", "at once", "ann")
		w.until("its receipt", func() bool { return len(w.kinds("bob", event.KindDelivered)) == 1 })
		hold := make(chan struct{})
		w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Times: -1, Wait: hold})
		w.host("bob", "a second later", "ann")
		d.acked()
		time.Sleep(3 * time.Second)
		c := newHostConn(deaf)
		w.hosted("zoe", "z1", fanout.AttachRequest{}, c)
		time.Sleep(12 * time.Second)
		require.Equal(w.t, []event.Reason{event.Slow}, c.reasons())
		close(hold)
	})
}

// Router.Close before Registry.Close: the connections that are there are told, and those that arrive meanwhile are refused or
// told. None is left that is attached and gets nothing.
func TestClose_RouterBeforeRegistryTellsConnections(t *testing.T) {
	ctx := context.Background()
	inMemory(t, fanout.Config{}, func(w *world) {
		held, plain := taking(), taking()
		w.hosted("ann", "a1", fanout.AttachRequest{Hold: true}, held)
		w.hosted("ann", "a2", fanout.AttachRequest{}, plain)
		w.host("bob", "x", "ann")
		synctest.Wait()
		require.NoError(w.t, w.r.Close(ctx))
		synctest.Wait()
		require.Equal(w.t, []event.Reason{event.Shutdown}, plain.reasons())
		require.Equal(w.t, []event.Reason{event.Shutdown}, held.reasons())
		w.restart()
	})
	t.Run("attach meanwhile", func(t *testing.T) {
		refused, attached := 0, 0
		for i := range 300 {
			inMemory(t, fanout.Config{}, func(w *world) {
				res, err := w.reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
				require.NoError(w.t, err)
				if i%3 > 0 { // it is inside Attach when the router is closed
					w.st.Inject(storetest.Fault{Method: []storetest.Method{storetest.Cursors, storetest.Read}[i%3-1], Account: "ann", Wait: after(time.Millisecond)})
				}
				closed := make(chan error, 1)
				go func() {
					time.Sleep(time.Duration(i%3) * 500 * time.Microsecond)
					closed <- w.r.Close(ctx)
				}()
				c := taking()
				_, err = w.r.Attach(ctx, fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, c)
				require.NoError(w.t, <-closed)
				synctest.Wait()
				reasons := c.reasons()
				w.restart()
				if err != nil {
					refused++
					require.Empty(w.t, reasons)
					require.Equal(w.t, event.Shutdown, event.ClosedOf(err).Reason, fmt.Sprint(err))
					return
				}
				attached++
				require.Equal(w.t, []event.Reason{event.Shutdown}, reasons)
			})
		}
		require.Positive(t, refused)
		require.Positive(t, attached)
	})
}

// after returns a channel that is closed after a time.
func after(d time.Duration) chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}
