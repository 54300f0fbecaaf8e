package manydevice_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// sluggish is a log handler that can be made to take its time for each line, or to hang until the end.
type sluggish struct {
	takes atomic.Int64
	hangs atomic.Bool
	over  chan struct{}
}

func (h *sluggish) Enabled(context.Context, slog.Level) bool { return true }
func (h *sluggish) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *sluggish) WithGroup(string) slog.Handler            { return h }

func (h *sluggish) Handle(context.Context, slog.Record) error {
	time.Sleep(time.Duration(h.takes.Load()))
	if h.hangs.Load() {
		<-h.over
	}
	return nil
}

// broken is a connection that never waits, and fails from some time on.
type broken struct{ now atomic.Bool }

func (c *broken) Send(context.Context, []event.Frame) error {
	if c.now.Load() {
		return errors.New("broken pipe")
	}
	return nil
}

func (*broken) Close(event.Closed) error { return nil }
func (*broken) NonBlocking() bool        { return true }

// withSluggishLog runs a test in a bubble on an engine whose log can be made slow.
func withSluggishLog(t *testing.T, test func(s *scene, h *sluggish)) {
	synctest.Test(t, func(t *testing.T) {
		h := &sluggish{over: make(chan struct{})}
		s := openScene(t, memstore.New(memstore.Config{}), manydevice.Config{
			Session: session.Config{Logger: slog.New(h)}, Fanout: fanout.Config{Logger: slog.New(h)},
		})
		test(s, h)
		close(h.over)
		require.NoError(t, s.Engine.Close(s.ctx))
	})
}

// I35: a log that takes a second for each line delays nobody who sends to fifty people whose connections fail just then, but for
// the moment in which the log is given its chance.
func TestSlowLog_SendsToConnectionsThatFail(t *testing.T) {
	withSluggishLog(t, func(s *scene, h *sluggish) {
		var to []event.Account
		var conns []*broken
		for i := range 50 {
			who, c := event.Account(fmt.Sprintf("user-%d", i)), new(broken)
			_, _, err := s.Router.Connect(s.ctx, session.LoginRequest{Account: who, Device: "d1", Platform: "ios"}, fanout.AttachRequest{}, c)
			require.NoError(t, err)
			to, conns = append(to, who), append(conns, c)
		}
		synctest.Wait()
		for _, c := range conns {
			c.now.Store(true)
		}
		h.takes.Store(int64(time.Second))
		began := time.Now()
		_, err := s.Router.Send(s.ctx, fanout.SendRequest{From: "zoe", To: to, Kind: event.KindMessage, Conversation: "room", Payload: []byte("hi")})
		require.NoError(t, err)
		require.Less(t, time.Since(began), 100*time.Millisecond)
		require.EqualValues(t, 50, s.Router.Stats().SendFailures)
		h.takes.Store(0)
	})
}

// I35: the watchdogs do not write to the log. While it hangs, silent connections and those that do not acknowledge are closed, and
// logins, kicks and sends of others go on.
func TestSlowLog_AHangingLogStopsNothing(t *testing.T) {
	withSluggishLog(t, func(s *scene, h *sluggish) {
		_, silent := s.attach(s.login("d1"))
		_, late := s.attach(s.login("d2"))
		for range 40 { // lines that are left out for now
			_, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "eve", Device: "e", Platform: "ios"})
			if err != nil {
				require.ErrorIs(s.t, err, session.ErrLimited)
			}
		}
		h.hangs.Store(true)
		time.Sleep(15 * time.Second) // their window is over
		require.NoError(s.t, s.send("hello"))
		_, err := s.Sessions.Kick(s.ctx, session.KickRequest{Account: "eve", All: true})
		require.NoError(s.t, err)
		time.Sleep(35 * time.Second)
		_, ended := late.Closed()
		require.True(s.t, ended, "nothing was acknowledged")
		_, ended = silent.Closed()
		require.True(s.t, ended)
		time.Sleep(3 * time.Minute)
		list, err := s.Sessions.List(s.ctx, "ann", "")
		require.NoError(s.t, err)
		for _, v := range list {
			require.Equal(s.t, session.Offline, v.State, "resume windows end")
		}
		h.hangs.Store(false)
	})
}

// A log that hangs does not keep Close for longer than a few seconds beyond its context.
func TestSlowLog_CloseReturns(t *testing.T) {
	withSluggishLog(t, func(s *scene, h *sluggish) {
		s.attach(s.login("d1"))
		h.hangs.Store(true)
		began := time.Now()
		require.NoError(s.t, s.Engine.Close(s.ctx))
		require.Less(s.t, time.Since(began), 15*time.Second)
	})
}
