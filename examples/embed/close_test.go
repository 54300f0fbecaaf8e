package main

import (
	"bufio"
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// A client that is behind with reading is told as well: what it has sent and nobody has read does not destroy the closing frame.
func TestViolation_OfAClientThatReadsLate(t *testing.T) {
	h := open(t, manydevice.Config{})
	a := h.app("ann", "phone")
	a.connect()
	require.True(t, a.reads())
	for range 3 {
		h.send("ann", strings.Repeat("x", 60<<10))
	}
	delivered := func(n uint64) {
		require.Eventually(t, func() bool { return h.Router.Stats().Delivered >= n }, patience, time.Millisecond)
	}
	delivered(3)
	h.send("ann", "the end") // is chosen when the Send before it has returned, and may be cut short by the violation
	delivered(4)
	_, err := a.nc.Write([]byte("{\n" + strings.Repeat("x", 32<<10)))
	require.NoError(t, err)
	time.Sleep(300 * time.Millisecond) // a slow network
	require.Equal(t, event.ProtocolError, a.end().Reason)
	require.GreaterOrEqual(t, len(a.texts), 3)
	for _, text := range a.texts[:3] {
		require.Len(t, text, 60<<10)
	}
}

// A client that was told and stays is let go all the same.
func TestClosedClient_ThatStaysIsLetGo(t *testing.T) {
	h := open(t, manydevice.Config{})
	kicked, refused := h.app("ann", "phone"), h.app("ben", "phone")
	kicked.connect()
	require.True(t, kicked.reads())
	_, err := h.Sessions.Kick(t.Context(), session.KickRequest{Account: "ann", All: true})
	require.NoError(t, err)
	refused.dial()
	refused.say(map[string]any{"account": "ben", "password": "wrong"})
	for _, a := range []*app{kicked, refused} {
		for a.read() {
		}
		require.NotNil(t, a.closed)
	}
	h.close() // waits for the goroutines of both
}

// The time for the first line is for that alone: a client may say nothing for longer.
func TestSilence_AfterTheFirstLine(t *testing.T) {
	t.Parallel()
	h := open(t, manydevice.Config{})
	a, mute := h.app("ann", "phone"), h.app("ann", "tablet")
	a.connect()
	require.True(t, a.reads())
	mute.dial() // and never says who it is
	time.Sleep(10*time.Second + 500*time.Millisecond)
	require.Equal(t, event.Unavailable, mute.end().Reason)
	h.send("ann", "hello")
	a.until(func() bool { return len(a.texts) == 1 })
	a.say(map[string]any{"t": "send", "id": "1", "to": "bob", "text": "hello"})
	a.until(func() bool { return len(a.sent) == 1 })
}

// Nothing is written behind half a line, neither frames nor answers nor the closing frame.
func TestConn_NothingFollowsHalfALine(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer far.Close()
	near, err := ln.Accept()
	require.NoError(t, err)
	c := &conn{nc: near.(*net.TCPConn), in: bufio.NewReader(near)}
	defer c.nc.Close()
	much := slices.Repeat([]byte("x"), 32<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Error(t, c.write(ctx, much))
	require.True(t, c.over)
	read := make(chan string)
	go func() {
		var all []byte
		for b := make([]byte, 1<<20); ; {
			n, err := far.Read(b)
			if all = append(all, b[:n]...); err != nil {
				read <- string(all)
				return
			}
		}
	}()
	require.ErrorIs(t, c.Send(t.Context(), []event.Frame{&event.Pong{Nonce: "1"}}), net.ErrClosed)
	require.NoError(t, c.Close(event.Slow.Closed(0)))
	require.Empty(t, strings.Trim(<-read, "x"), "half a line is no line, and nothing follows it")
}

// A client that is gone before it could be told is no failure of the connection: phones do that all day.
func TestClose_OfAClientThatIsGoneIsNoFailure(t *testing.T) {
	h := open(t, manydevice.Config{})
	a := h.app("ann", "phone")
	a.connect()
	require.True(t, a.reads())
	require.NoError(t, a.nc.(*net.TCPConn).SetLinger(0)) // its system forgets the connection at once
	a.Hangup()
	require.Eventually(t, func() bool { return h.Sessions.Stats().Connections == 0 }, patience, time.Millisecond)
	h.close()
	closes := h.Sessions.Stats().Hooks[session.HookClose]
	require.EqualValues(t, 1, closes.Calls)
	require.Zero(t, closes.Failures)
}
