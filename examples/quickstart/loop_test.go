package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
)

// comeIn connects by hand: with the login and token of an earlier connection, or with a new login if there are none.
func (c *rawConn) comeIn(account event.Account, login, token *string) {
	c.t.Helper()
	c.write(fmt.Sprintf(`{"t":"auth","account":%q,"password":%q}`+"\n", account, passwordOf(account)))
	if *login == "" {
		c.write(`{"t":"login","device":"phone","platform":"ios","ref":"l"}` + "\n")
		c.until("ok")
		a := c.until("ok")
		*login, *token = a["login"].(string), a["token"].(string)
	}
	c.write(fmt.Sprintf(`{"t":"attach","login":%q,"token":%q}`+"\n", *login, *token))
	c.until("welcome")
}

// end reads to the end of the connection, and returns the last line.
func (c *rawConn) end() (last map[string]any) {
	c.t.Helper()
	var line string
	for c.sc.Scan() {
		line = c.sc.Text()
	}
	c.sc = lines(strings.NewReader(line+"\n"), event.MaxFrameBytes+1)
	return c.next()
}

func hostSend(t *testing.T, s *server, to event.Account, text string) {
	t.Helper()
	_, err := s.engine.Router.Send(t.Context(), fanout.SendRequest{From: "bot", To: []event.Account{to}, Payload: []byte(text)})
	require.NoError(t, err)
}

// A client that is lost a hundred times in a row has one login, and is told nothing but what it missed.
func TestLoop_ReconnectsKeepOneLogin(t *testing.T) {
	s := newTestServer(t)
	var login, token string
	for i := range 100 {
		c := dialRaw(t, s)
		c.comeIn("ann", &login, &token)
		hostSend(t, s, "ann", fmt.Sprint(i))
		d := c.until("data")
		for d["entries"] == nil {
			d = c.until("data")
		}
		c.write(fmt.Sprintf(`{"t":"ack","position":{"epoch":%q,"seq":%q}}`+"\n", d["epoch"], d["seq"]))
		c.nc.Close()
	}
	all, err := s.engine.Sessions.List(t.Context(), "ann", "")
	require.NoError(t, err)
	require.Len(t, all, 1)
}

// A client that reads is told why its login ends also if the server is just writing to it.
func TestLoop_KickInTrafficIsTold(t *testing.T) {
	s := newTestServer(t)
	text := strings.Repeat("x", 60<<10)
	for range 30 {
		var login, token string
		c := dialRaw(t, s)
		c.comeIn("ann", &login, &token)
		for range 8 {
			hostSend(t, s, "ann", text)
		}
		c.until("data")
		var kicking sync.WaitGroup
		kicking.Go(func() {
			_, err := s.engine.Sessions.Kick(t.Context(), session.KickRequest{Account: "ann", All: true})
			require.NoError(t, err)
		})
		require.Equal(t, "kicked_host", c.end()["reason"])
		kicking.Wait()
	}
}

// Nothing is written behind half a line, neither frames nor answers nor the closing frame.
func TestLineConn_NothingFollowsHalfALine(t *testing.T) {
	near, far := tcpPair(t)
	defer far.Close()
	require.NoError(t, near.(*net.TCPConn).SetWriteBuffer(16<<10))
	require.NoError(t, far.(*net.TCPConn).SetReadBuffer(16<<10))
	c := newLineConn(near)
	close(c.ready)
	huge := slices.Repeat([]byte("x"), 8<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stuck := make(chan error)
	go func() {
		stuck <- c.write(ctx, func(b []byte) ([]byte, error) { return append(b, huge...), nil })
	}()
	require.Error(t, <-stuck)
	require.Error(t, c.answer([]byte(`{"t":"ok"}`)))
	again, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	require.ErrorIs(t, c.Send(again, []event.Frame{&event.Pong{Nonce: "1"}}), transport.ErrClosed)
	_ = c.Close(event.Slow.Closed(0))
	c.drain()
	p := &linePeer{nc: far, sc: lines(far, 16<<20)}
	require.False(t, p.sc.Scan(), "half a line is no line, and nothing follows it")
}
