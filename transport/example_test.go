package transport_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// lineConn is a stream on which every frame is a line of JSON.
type lineConn struct {
	nc   net.Conn
	mu   sync.Mutex // held while lines are written
	over bool       // nothing may follow: the closing frame was written, or half a line. Guarded by mu
}

func newLineConn(nc net.Conn) *lineConn { return &lineConn{nc: nc} }

// Send writes a batch with one call.
func (c *lineConn) Send(ctx context.Context, frames []event.Frame) (err error) {
	var b []byte
	for _, f := range frames {
		if b, err = event.AppendFrame(b, f); err != nil {
			return err
		}
		b = append(b, '\n')
	}
	if len(b) == 0 {
		return nil // to write nothing blocks on a pipe
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || ctx.Err() != nil {
		return cmp.Or(ctx.Err(), transport.ErrClosed)
	}
	stop := context.AfterFunc(ctx, c.hurry)
	n, err := c.nc.Write(b)
	c.over = 0 < n && n < len(b)
	if !stop() {
		err = cmp.Or(err, ctx.Err())
	}
	return err
}

// hurry leaves a write that waits for the client a moment: one that reads gets the line that is under way, and the closing
// frame behind it.
func (c *lineConn) hurry() { c.nc.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)) }

// Close ends a running Send, tells the client why if it reads within a moment, and closes the stream.
func (c *lineConn) Close(why event.Closed) error {
	c.hurry()
	c.mu.Lock()
	defer c.mu.Unlock()
	if line, err := event.AppendFrame(nil, &why); err == nil && !c.over {
		c.nc.Write(append(line, '\n'))
	}
	c.over = true
	return c.nc.Close()
}

// lineClient is the other end. Its Receive is all that a client needs below transport/client.
type lineClient struct {
	nc    net.Conn
	lines *bufio.Reader
}

func newLineClient(nc net.Conn) *lineClient { return &lineClient{nc, bufio.NewReader(nc)} }

// Receive reads one frame.
func (c *lineClient) Receive(ctx context.Context) (event.Frame, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.nc.SetReadDeadline(deadline); err != nil {
			return nil, err
		}
	}
	line, err := c.lines.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	return event.DecodeFrame(line[:len(line)-1])
}

// Hangup closes the stream.
func (c *lineClient) Hangup() { c.nc.Close() }

// A host's connection, here one line of JSON per frame over any net.Conn. The program examples/embed has it with the loop that
// reads.
func ExampleConn() {
	server, device := net.Pipe()
	var conn transport.Conn = newLineConn(server)
	client := newLineClient(device)
	go func() {
		_ = conn.Send(context.Background(), []event.Frame{&event.Pong{Nonce: "hello"}})
		_ = conn.Close(event.Logout.Closed(0))
	}()
	for {
		f, err := client.Receive(context.Background())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%T\n", f)
	}
	// Output:
	// *event.Pong
	// *event.Closed
	// EOF
}

// TestLineConn runs the suite on a connection with a real encoding, over a pipe without any buffer and over TCP.
func TestLineConn(t *testing.T) {
	t.Run("pipe", func(t *testing.T) {
		t.Parallel()
		transporttest.TestConn(t, transporttest.ConnHarness{Open: func(testing.TB) (transport.Conn, transporttest.Peer) {
			server, device := net.Pipe()
			return newLineConn(server), newLineClient(device)
		}})
	})
	t.Run("tcp", func(t *testing.T) {
		t.Parallel()
		transporttest.TestConn(t, transporttest.ConnHarness{Open: openTCP})
	})
}

func openTCP(t testing.TB) (transport.Conn, transporttest.Peer) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	device, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return newLineConn(server), newLineClient(device)
}
