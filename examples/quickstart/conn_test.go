package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// The connection keeps the contract that the engine relies on.
func TestLineConn(t *testing.T) {
	transporttest.TestConn(t, transporttest.ConnHarness{Open: func(t testing.TB) (transport.Conn, transporttest.Peer) {
		near, far := tcpPair(t)
		c := newLineConn(near)
		close(c.ready)
		drained := make(chan struct{})
		go func() { // the reading side of a server that expects nothing
			defer close(drained)
			c.drain()
		}()
		t.Cleanup(func() {
			c.abort()
			far.Close()
			<-drained
		})
		return c, &linePeer{nc: far, sc: lines(far, event.MaxFrameBytes+1)}
	}})
}

// linePeer is the device's side of a lineConn.
type linePeer struct {
	nc net.Conn
	sc *bufio.Scanner
}

func (p *linePeer) Receive(ctx context.Context) (event.Frame, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := p.nc.SetReadDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if !p.sc.Scan() {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, io.EOF
	}
	return event.DecodeFrame(p.sc.Bytes())
}

func (p *linePeer) Hangup() { p.nc.Close() }

func tcpPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	far, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	near, err = ln.Accept()
	require.NoError(t, err)
	return near, far
}

// A client that ends its half hears why the connection closes, although there is nothing to wait for on the reading side.
func TestLineConn_ClosingFrameGoesFirst(t *testing.T) {
	near, far := tcpPair(t)
	defer far.Close()
	c := newLineConn(near)
	require.NoError(t, far.(*net.TCPConn).CloseWrite())
	c.turn <- struct{}{} // a write that goes on
	closed := make(chan error)
	go func() { closed <- c.Close(event.Lost.Closed(0)) }()
	<-c.over
	drained := make(chan struct{})
	go func() { defer close(drained); c.drain() }()
	select {
	case <-drained:
		t.Error("closed before the frame was written")
	case <-time.After(20 * time.Millisecond):
	}
	<-c.turn
	require.NoError(t, <-closed)
	f, err := (&linePeer{nc: far, sc: lines(far, event.MaxFrameBytes+1)}).Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, event.Lost, f.(*event.Closed).Reason)
	far.Close()
	<-drained
}

// A client that is gone before it could be told is no failure of the connection.
func TestLineConn_AClientThatIsGoneIsNoFailure(t *testing.T) {
	near, far := tcpPair(t)
	c := newLineConn(near)
	require.NoError(t, far.(*net.TCPConn).SetLinger(0)) // its system forgets the connection at once
	require.NoError(t, far.Close())
	_, err := io.Copy(io.Discard, near)
	require.Error(t, err)
	require.NoError(t, c.Close(event.Lost.Closed(0)))
}

// No frame goes out before the answer to attach, and Close releases a Send that waits for that.
func TestLineConn_FramesWaitForTheAnswer(t *testing.T) {
	near, far := tcpPair(t)
	defer far.Close()
	c := newLineConn(near)
	defer c.abort()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Send(ctx, []event.Frame{&event.Pong{Nonce: "0"}}), context.DeadlineExceeded)
	sent := make(chan error, 1)
	send := func() { sent <- c.Send(context.Background(), []event.Frame{&event.Pong{Nonce: "1"}}) }
	go send()
	require.NoError(t, c.answer([]byte(`{"t":"ok"}`)))
	close(c.ready)
	require.NoError(t, <-sent)
	sc := lines(far, 1024)
	require.True(t, sc.Scan())
	require.Equal(t, `{"t":"ok"}`, sc.Text())
	require.True(t, sc.Scan())
	require.Equal(t, `{"t":"pong","nonce":"1"}`, sc.Text())

	c.ready = make(chan struct{})
	go send()
	require.NoError(t, c.Close(event.Moved.Closed(0)))
	require.ErrorIs(t, <-sent, transport.ErrClosed)
}

func TestLines(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		for _, b := range []byte("one\r\n\ntwo\ncut off") { // a byte at a time
			w.Write([]byte{b})
		}
		w.Close()
	}()
	var got []string
	sc := lines(r, 16)
	for sc.Scan() {
		got = append(got, sc.Text())
	}
	require.NoError(t, sc.Err())
	require.Equal(t, []string{"one", "", "two"}, got, "what has no end is no line")

	r, w = io.Pipe()
	go func() {
		w.Write([]byte("one\nseventeen letters\n"))
		w.Close()
	}()
	defer r.Close()
	sc = lines(r, 16)
	require.True(t, sc.Scan())
	require.False(t, sc.Scan())
	require.ErrorIs(t, sc.Err(), bufio.ErrTooLong)
}

func TestPause_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begun := time.Now()
	pause(ctx, time.Minute)
	pause(t.Context(), time.Millisecond)
	require.Less(t, time.Since(begun), 10*time.Second)
}
