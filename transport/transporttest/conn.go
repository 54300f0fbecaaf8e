package transporttest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/transport"
)

// Peer is the device's side of a connection under test. *Pair is one.
type Peer interface {
	// Receive returns the next frame, waiting for it as long as ctx allows, and an error when the connection is over.
	Receive(ctx context.Context) (event.Frame, error)
	// Hangup ends the connection from the device's side.
	Hangup()
}

// ConnHarness describes a transport.Conn to [TestConn]. Open is required.
type ConnHarness struct {
	// Open returns a fresh connection and its other end. It uses t.Cleanup for what it has to free.
	Open func(t testing.TB) (transport.Conn, Peer)
	// NoReason: the reason of a Close does not reach the device as a frame.
	NoReason bool
	// NoBackpressure: Send never waits for a device that does not read.
	NoBackpressure bool
	// MaxEntry is the longest payload, in bytes, that this connection's client takes; for longer ones Send returns a
	// [*transport.SkipError]. Zero means that it skips none.
	MaxEntry int
	// Timeout bounds every single wait. Zero means 5 s; from 1 ms to 1 h.
	Timeout time.Duration
}

// TestConn checks that a connection keeps the contract of transport.Conn. Rules are subtests.
func TestConn(t *testing.T, h ConnHarness) {
	for _, r := range connRules {
		t.Run(r.name, func(t *testing.T) {
			if err := r.run(t, h); err != nil {
				t.Error(err)
			}
		})
	}
}

// connRule is one rule. It returns an error instead of failing a test, so that a test can see that it does.
type connRule struct {
	name  string
	check func(c *connRun) error
}

// connRun is what a rule works with.
type connRun struct {
	h    ConnHarness
	conn transport.Conn
	peer Peer
}

func (r connRule) run(t testing.TB, h ConnHarness) error {
	if err := bounds.Duration("ConnHarness.Timeout", h.Timeout, time.Millisecond, time.Hour, bounds.Zero); err != nil {
		return err
	}
	h.Timeout = cmp.Or(h.Timeout, 5*time.Second)
	conn, peer := h.Open(t)
	c := &connRun{h: h, conn: conn, peer: peer}
	err := r.check(c)
	peer.Hangup()
	return err
}

var errHung = errors.New("did not return in time")

// within runs f, which is left behind if it takes longer than limit.
func within[T any](limit time.Duration, f func() T) (T, error) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case v := <-done:
		return v, nil
	case <-timer.C:
		var zero T
		return zero, errHung
	}
}

// send sends frames with a context that lasts longer than the rule has time.
func (c *connRun) send(frames ...event.Frame) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*c.h.Timeout)
	defer cancel()
	return c.sendContext(ctx, frames...)
}

func (c *connRun) sendContext(ctx context.Context, frames ...event.Frame) error {
	err, hung := within(c.h.Timeout, func() error { return c.conn.Send(ctx, frames) })
	if hung != nil {
		return fmt.Errorf("send: %w", hung)
	}
	return err
}

func (c *connRun) close(why event.Closed) error {
	_, hung := within(c.h.Timeout, func() error { return c.conn.Close(why) })
	if hung != nil {
		return fmt.Errorf("close: %w", hung)
	}
	return nil // whether it reports an error is the host's affair
}

func (c *connRun) receive() (event.Frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.h.Timeout)
	defer cancel()
	return c.peer.Receive(ctx)
}

// receiveSome receives n frames, or fewer if the connection ends or time runs out.
func (c *connRun) receiveSome(n int) (frames []event.Frame) {
	for range n {
		f, err := c.receive()
		if err != nil {
			break
		}
		frames = append(frames, f)
	}
	return frames
}

// expect receives as many frames as it is given and compares them.
func (c *connRun) expect(frames ...event.Frame) error {
	for i, want := range frames {
		got, err := c.receive()
		if err != nil {
			return fmt.Errorf("frame %d of %d: %w", i+1, len(frames), err)
		}
		if describe(got) != describe(want) {
			return fmt.Errorf("frame %d of %d: got %s, want %s", i+1, len(frames), describe(got), describe(want))
		}
	}
	return nil
}

// deliver sends frames while the device reads them: a connection may have no buffer at all.
func (c *connRun) deliver(frames ...event.Frame) error {
	sent := make(chan error, 1)
	go func() { sent <- c.send(frames...) }()
	if err := c.expect(frames...); err != nil {
		return err
	}
	return <-sent
}

// end receives until the connection is over and returns the last frame.
func (c *connRun) end() (last event.Frame, err error) {
	deadline := time.Now().Add(c.h.Timeout)
	for {
		f, err := c.receive()
		switch {
		case errors.Is(err, context.DeadlineExceeded) || time.Now().After(deadline):
			return last, errors.New("the device does not learn that the connection is over")
		case err != nil:
			return last, nil
		}
		last = f
	}
}

// describe prints what a frame tells a device; encodings that a host chooses may lose the rest.
func describe(f event.Frame) string {
	switch f := f.(type) {
	case *event.Welcome:
		return fmt.Sprintf("Welcome %s %v %d %q", f.Login, f.Position, f.Head, string(f.Token))
	case *event.Data:
		words := []string{fmt.Sprintf("Data %d (%d, %d] %t", f.Epoch, f.Prev, f.Seq, f.Redelivered)}
		for _, e := range f.Entries {
			words = append(words, describeEntry(e))
		}
		return strings.Join(words, " ")
	case *event.StatePage:
		words := []string{fmt.Sprintf("StatePage %d %t", f.Epoch, f.More)}
		for _, r := range f.States {
			words = append(words, fmt.Sprintf("{%q %q %d %x %d}", r.Conversation, r.Name, r.Number, r.Value, r.Seq))
		}
		return strings.Join(words, " ")
	case *event.CaughtUp:
		return fmt.Sprintf("CaughtUp %v", f.Position)
	case *event.Reset:
		return fmt.Sprintf("Reset %s %v %v", f.Reason, f.From, f.To)
	case *event.Live:
		return "Live " + describeEntry(f.Event)
	case *event.Pong:
		return fmt.Sprintf("Pong %q", f.Nonce)
	case *event.Closed:
		s := fmt.Sprintf("Closed %s %q %s %s", f.Reason, f.Note, f.Retry, f.After)
		if f.Cause != nil {
			s += fmt.Sprintf(" %q", *f.Cause)
		}
		return s
	}
	return fmt.Sprintf("%T", f)
}

func describeEntry(e *event.Sealed) string {
	if e == nil {
		return "{}"
	}
	payload := fmt.Sprintf("%q", e.Payload)
	if len(payload) > 64 {
		payload = fmt.Sprintf("%.32s… %d bytes, sum %x", payload, len(e.Payload), sum(e.Payload))
	}
	return fmt.Sprintf("{%d %s %q %q %q %s}", e.Seq, e.Kind, e.Conversation, e.ID, e.From, payload)
}
