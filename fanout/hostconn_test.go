package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
)

// hostConn is a host's connection that does with each batch what a test says.
type hostConn struct {
	send    func(ctx context.Context, c *hostConn, frames []event.Frame) error
	onClose func()

	over chan struct{} // closed by Close

	mu      sync.Mutex
	att     *fanout.Attachment
	entries []uint64
	prevs   []string // of Data frames: (prev, seq]
	closed  []event.Closed
}

func newHostConn(send func(context.Context, *hostConn, []event.Frame) error) *hostConn {
	return &hostConn{send: send, over: make(chan struct{})}
}

func (c *hostConn) Send(ctx context.Context, frames []event.Frame) error {
	return c.send(ctx, c, frames)
}

func (c *hostConn) Close(why event.Closed) error {
	c.mu.Lock()
	c.closed = append(c.closed, why)
	if len(c.closed) == 1 {
		close(c.over)
	}
	c.mu.Unlock()
	if c.onClose != nil {
		c.onClose()
	}
	return nil
}

func (c *hostConn) reasons() []event.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []event.Reason
	for _, w := range c.closed {
		all = append(all, w.Reason)
	}
	return all
}

func (c *hostConn) attachment() *fanout.Attachment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.att
}

// wrote notes a Data as the client sees it.
func (c *hostConn) wrote(d *event.Data) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range d.Entries {
		c.entries = append(c.entries, e.Seq)
	}
	c.prevs = append(c.prevs, fmt.Sprintf("(%d,%d]", d.Prev, d.Seq))
}

func (c *hostConn) seqs() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.entries)
}

// hosted attaches a host's connection of a new device.
func (w *world) hosted(account event.Account, device event.DeviceID, q fanout.AttachRequest, conn transport.Conn) *fanout.Attachment {
	w.t.Helper()
	res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: account, Device: device, Platform: "ios"})
	require.NoError(w.t, err)
	q.Account, q.Login, q.Token = account, res.Session.Login, res.Token
	return w.bound(q, conn)
}

func (w *world) bound(q fanout.AttachRequest, conn transport.Conn) *fanout.Attachment {
	w.t.Helper()
	att, err := w.r.Attach(context.Background(), q, conn)
	require.NoError(w.t, err)
	w.t.Cleanup(att.Detach)
	if c, ok := conn.(interface{ bind(*fanout.Attachment) }); ok {
		c.bind(att)
	}
	return att
}

func (c *hostConn) bind(a *fanout.Attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.att = a
}

// taking is a connection that takes everything and acknowledges nothing.
func taking() *hostConn {
	return newHostConn(func(_ context.Context, c *hostConn, frames []event.Frame) error {
		for _, f := range frames {
			if d, ok := f.(*event.Data); ok {
				c.wrote(d)
			}
		}
		return nil
	})
}

// deaf is a Send that takes until Close, whatever its context says, as one over a net.Conn does that is not told of it.
func deaf(_ context.Context, c *hostConn, _ []event.Frame) error {
	<-c.over
	return errors.New("closed")
}
