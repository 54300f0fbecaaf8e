package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/client"
	"github.com/manydevice/manydevice/transport/transporttest"
)

const patience = 60 * time.Second // for anything that is due

func TestReadmeShowsThisProgram(t *testing.T) {
	code, err := os.ReadFile("embed.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	blocks := strings.Split(string(code), "\n// readme: ")[1:]
	require.Greater(t, len(blocks), 3)
	at := 0
	for _, b := range blocks[:len(blocks)-1] {
		name, b, _ := strings.Cut(b, "\n")
		i := strings.Index(string(readme)[at:], "```go\n"+strings.TrimSpace(b)+"\n```\n")
		require.GreaterOrEqual(t, i, 0, "README.md has another block %q than embed.go, or in another order", name)
		at += i
	}
}

// The connection of the README keeps the contract that the engine relies on (K14.1).
func TestConn(t *testing.T) {
	transporttest.TestConn(t, transporttest.ConnHarness{Open: func(t testing.TB) (transport.Conn, transporttest.Peer) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		far, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		near, err := ln.Accept()
		require.NoError(t, err)
		c := &conn{nc: near.(*net.TCPConn), in: bufio.NewReader(near)}
		var reading sync.WaitGroup
		reading.Go(func() { // the end of serve
			io.Copy(io.Discard, c.in)
			c.nc.Close()
		})
		t.Cleanup(func() {
			far.Close()
			near.Close()
			reading.Wait()
		})
		return c, &peer{nc: far, in: bufio.NewReader(far)}
	}})
}

// peer is the client's side of a connection.
type peer struct {
	nc net.Conn
	in *bufio.Reader
}

func (p *peer) Receive(ctx context.Context) (event.Frame, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := p.nc.SetReadDeadline(deadline); err != nil {
			return nil, err
		}
	}
	line, err := p.in.ReadBytes('\n')
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	}
	return event.DecodeFrame(line[:len(line)-1])
}

func (p *peer) Hangup() { p.nc.Close() }

// house is the server: an engine over a file, and the loop of the README.
type house struct {
	*manydevice.Engine
	t      *testing.T
	st     *boltstore.Store
	ln     net.Listener
	conns  sync.WaitGroup
	closed bool
}

func open(t *testing.T, cfg manydevice.Config) *house {
	st, err := boltstore.Open(filepath.Join(t.TempDir(), "chat.db"), boltstore.Config{})
	require.NoError(t, err)
	h := &house{t: t, st: st}
	h.Engine, err = manydevice.Open(st, cfg)
	require.NoError(t, err)
	h.ln, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.conns.Go(func() {
		accept(h.ln, func(nc *net.TCPConn) {
			nc.SetWriteBuffer(64 << 10) // little enough that a test can fill it
			h.conns.Go(func() { serve(context.Background(), h.Engine, nc) })
		})
	})
	t.Cleanup(h.close)
	return h
}

// close ends everything, and fails the test if a goroutine of the loop stays.
func (h *house) close() {
	if h.closed {
		return
	}
	h.closed = true
	require.NoError(h.t, h.Engine.Close(context.Background()))
	require.NoError(h.t, h.ln.Close())
	require.NoError(h.t, h.st.Close(context.Background()))
	h.allGone()
}

// allGone waits until the goroutines of all connections have ended.
func (h *house) allGone() {
	h.t.Helper()
	done := make(chan struct{})
	go func() { h.conns.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		h.t.Fatal("a connection's goroutine goes on")
	}
}

// app is a client that keeps the rules of docs/protocol.md.
type app struct {
	t       *testing.T
	addr    string
	account event.Account
	device  event.DeviceID
	m       *client.Machine
	texts   []string // of the messages that it got
	sent    []string // IDs of its sends that were answered
	logins  int      // how often it was given a login

	*peer
	closed *event.Closed // why the connection ended
}

func (h *house) app(account event.Account, device event.DeviceID) *app {
	return newApp(h.t, h.ln.Addr().String(), account, device)
}

func newApp(t *testing.T, addr string, account event.Account, device event.DeviceID) *app {
	return &app{t: t, addr: addr, account: account, device: device, m: client.New(client.State{}, client.Config{})}
}

// connect begins a connection as hello says it.
func (a *app) connect() {
	a.t.Helper()
	a.dial()
	hello := map[string]any{
		"account": a.account, "password": "secret of " + a.account, "device": a.device, "platform": "ios", "position": a.m.Attach(),
	}
	if a.m.Login() != "" {
		hello["login"], hello["token"] = a.m.Login(), a.m.Token().Reveal()
	}
	a.say(hello)
}

func (a *app) dial() {
	a.t.Helper()
	nc, err := net.Dial("tcp", a.addr)
	require.NoError(a.t, err)
	a.t.Cleanup(func() { nc.Close() })
	require.NoError(a.t, nc.SetDeadline(time.Now().Add(patience)))
	a.m.Attach()
	require.NoError(a.t, nc.(*net.TCPConn).SetReadBuffer(64<<10))
	a.peer, a.closed = &peer{nc: nc, in: bufio.NewReader(nc)}, nil
}

func (a *app) say(v any) {
	a.t.Helper()
	require.NoError(a.t, a.trySay(v))
}

func (a *app) trySay(v any) error {
	line, err := json.Marshal(v)
	if err == nil {
		_, err = a.nc.Write(append(line, '\n'))
	}
	return err
}

// read takes one line, and reports whether the connection goes on.
func (a *app) read() bool {
	a.t.Helper()
	line, err := a.in.ReadBytes('\n')
	if err != nil {
		return false
	}
	var head struct{ T, ID, Login, Token, Error string }
	require.NoError(a.t, json.Unmarshal(line, &head))
	switch head.T {
	case "login":
		a.logins++
		a.m.LoggedIn(event.LoginID(head.Login), event.ResumeTokenOf(head.Token))
		return true
	case "sent":
		a.sent = append(a.sent, head.ID)
		return true
	case "error":
		a.t.Error(head.Error)
		return true
	}
	f, err := event.DecodeFrame(line[:len(line)-1])
	require.NoError(a.t, err)
	step, err := a.m.Receive(f)
	require.NoError(a.t, err)
	for _, e := range step.Apply {
		if e.Kind == event.KindMessage {
			a.texts = append(a.texts, string(e.Payload))
		}
	}
	for _, reply := range a.m.Replies() {
		line, err := event.AppendClientFrame(nil, reply)
		require.NoError(a.t, err)
		a.nc.Write(append(line, '\n')) // the server may be gone
	}
	a.closed = step.Closed
	return a.closed == nil && !step.Reattach
}

// until reads until ok is true.
func (a *app) until(ok func() bool) {
	a.t.Helper()
	for !ok() {
		require.True(a.t, a.read(), "the connection is over: %v", a.closed)
	}
}

// end reads to the end of the connection, and returns what the client is told.
func (a *app) end() event.Closed {
	a.t.Helper()
	for a.read() {
	}
	require.NotNil(a.t, a.closed, "the client is not told why the connection ends")
	_, err := a.in.ReadByte()
	require.ErrorIs(a.t, err, io.EOF, "nothing comes after the closing frame")
	a.nc.Close()
	return *a.closed
}
