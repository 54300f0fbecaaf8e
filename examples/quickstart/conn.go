package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

const (
	maxLineBytes = 160 << 10              // of a request: the largest payload in base64, or with every other byte escaped
	writeTime    = 10 * time.Second       // for an answer to a client that does not read
	lastWords    = 500 * time.Millisecond // for the closing frame
	drainTime    = time.Second            // for the client to read the closing frame and close in turn
)

// lineConn is a TCP connection as the engine sees it: a frame is a line. It is safe for concurrent use.
type lineConn struct {
	nc    net.Conn
	ready chan struct{} // closed once frames may go out: after the answer to attach
	over  chan struct{} // closed when Close begins
	said  chan struct{} // closed when Close ends
	turn  chan struct{} // holds one token while somebody writes

	broken bool   // lines were cut off, so nothing can follow; for the writer whose turn it is
	buf    []byte // for the writer whose turn it is

	mu      sync.Mutex
	closing bool
}

var _ transport.Conn = (*lineConn)(nil)
var _ transport.RemoteAddresser = (*lineConn)(nil)

func newLineConn(nc net.Conn) *lineConn {
	return &lineConn{nc: nc, ready: make(chan struct{}), over: make(chan struct{}), said: make(chan struct{}), turn: make(chan struct{}, 1)}
}

// Send implements [transport.Conn].
func (c *lineConn) Send(ctx context.Context, frames []event.Frame) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-c.ready:
	case <-c.over:
		return transport.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.write(ctx, func(b []byte) ([]byte, error) {
		for _, f := range frames {
			var err error
			if b, err = event.AppendFrame(b, f); err != nil {
				return nil, err
			}
			b = append(b, '\n')
		}
		return b, nil
	})
}

// answer writes one line that is not the engine's.
func (c *lineConn) answer(line []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTime)
	defer cancel()
	return c.write(ctx, func(b []byte) ([]byte, error) { return append(append(b, line...), '\n'), nil })
}

// write writes what fill appends, when it is its turn. It returns when ctx ends or the connection closes.
func (c *lineConn) write(ctx context.Context, fill func([]byte) ([]byte, error)) error {
	select {
	case c.turn <- struct{}{}:
	case <-c.over:
		return transport.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.turn }()
	if c.broken {
		return transport.ErrClosed
	}
	b, err := fill(c.buf[:0])
	if err != nil {
		return err
	}
	c.buf = nil
	if cap(b) <= 64<<10 { // an idle connection keeps no large buffer
		c.buf = b
	}
	if !c.setDeadline(c.nc.SetWriteDeadline, time.Time{}) {
		return transport.ErrClosed
	}
	// When ctx ends the client has a moment left to take the lines that are under way: the closing frame comes behind them.
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		c.setDeadline(c.nc.SetWriteDeadline, time.Now().Add(lastWords))
	})
	n, err := c.nc.Write(b)
	if !stop() {
		<-cut
	}
	switch {
	case err == nil:
		return nil
	case c.closed():
		err = transport.ErrClosed
	case ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded):
		err = ctx.Err()
	}
	c.broken = n > 0
	return err
}

// setDeadline sets a deadline unless the connection closes, since Close has set its own.
func (c *lineConn) setDeadline(set func(time.Time) error, t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	return set(t) == nil
}

// Close implements [transport.Conn]. It writes the closing frame and closes its half. The reading side does the rest: a
// connection that is closed with input unread would lose the frame on its way.
//
// That the client is gone before it could be told is no error: phones lose their networks all day, and the engine would count
// each as a failure of this code.
func (c *lineConn) Close(why event.Closed) error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return nil
	}
	c.closing = true
	close(c.over)
	defer close(c.said)
	end := time.Now().Add(lastWords)
	err := errors.Join(c.nc.SetWriteDeadline(end), c.nc.SetReadDeadline(end.Add(drainTime)))
	c.mu.Unlock()
	c.turn <- struct{}{} // a write that runs has that deadline too
	defer func() { <-c.turn }()
	if err != nil || c.broken {
		c.nc.Close()
		return nil
	}
	line, err := event.AppendFrame(nil, &why)
	if err != nil {
		return errors.Join(err, c.nc.Close())
	}
	_, err = c.nc.Write(append(line, '\n'))
	if half, ok := c.nc.(interface{ CloseWrite() error }); !ok || err != nil || half.CloseWrite() != nil {
		c.nc.Close()
	}
	return nil
}

// abort closes the connection without a word.
func (c *lineConn) abort() { c.nc.Close() }

// drain reads until the client has closed too, or for drainTime at most, and closes the rest. A client may close its half
// first: the closing frame is written nevertheless.
func (c *lineConn) drain() {
	io.Copy(io.Discard, c.nc) // Close has set the deadline
	if c.closed() {
		<-c.said
	}
	c.nc.Close()
}

// closed reports whether Close has begun.
func (c *lineConn) closed() bool { return isClosed(c.over) }

// isReady reports whether frames may go out.
func (c *lineConn) isReady() bool { return isClosed(c.ready) }

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// RemoteAddr implements [transport.RemoteAddresser].
func (c *lineConn) RemoteAddr() string { return c.nc.RemoteAddr().String() }

// lines returns a scanner of the lines of r, without what follows the last line end.
func lines(r io.Reader, limit int) *bufio.Scanner {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, limit)
	sc.Split(func(data []byte, _ bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, bytes.TrimSuffix(data[:i], []byte{'\r'}), nil
		}
		return 0, nil, nil
	})
	return sc
}
