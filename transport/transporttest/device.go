package transporttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/client"
)

// ErrEnded is returned by a wait for something that cannot come any more, because the connection is over.
var ErrEnded = errors.New("transporttest: connection is over")

// AttachRequest is what a device attaches with.
type AttachRequest struct {
	Login    event.LoginID
	Token    event.ResumeToken
	Position *event.Position // nil: the engine says where to start
}

// Handle takes what the device sends on one connection.
type Handle func(event.ClientFrame) error

// DeviceConfig tunes a Device. Attach is required.
type DeviceConfig struct {
	// Attach hands a connection to the engine and returns where the device's frames go. Frames may arrive before it
	// returns; replies wait until then.
	Attach func(conn transport.Conn, r AttachRequest) (Handle, error)
	// State is what the device saved earlier.
	State client.State
	// Client tunes the device's state machine. Its functions must not call the Device.
	Client client.Config
	// Nack names the code with which the device refuses an entry that it applied, or "" if it does not. Nil: it refuses
	// none. It must not call the Device.
	Nack func(e *event.Entry) (code string)
	// Lenient: a broken rule of the protocol does not fail the test; see Violations.
	Lenient bool
	// NoRecord keeps no copy of the frames for Frames.
	NoRecord bool
}

// Device is a client that follows the client rule. It reads its connection in a goroutine of its own, checks every frame
// against the rules of the protocol, applies and remembers what is new, and replies at once unless told not to. Its saved
// state is in memory: everything that it applied counts as saved.
//
// It is safe for concurrent use, but Handle must not call Connect, Abandon, Disconnect, Restore or Close.
type Device struct {
	cfg DeviceConfig

	turn sync.Mutex // held by what begins and ends connections

	g           gate
	machine     *client.Machine
	conn        *deviceConn   // nil: none
	last        *deviceConn   // the latest, also when it is over
	conns       []*deviceConn // all there were; see Stream
	paused      bool
	holdAcks    bool
	holdResets  bool
	entries     []*event.Sealed
	lives       []*event.Sealed
	resets      []event.Reset
	frames      []event.Frame
	sent        []event.ClientFrame
	sending     int // replies that are on their way
	redelivered int
	handleErrs  []error
	violations  []string
	closed      bool
}

// deviceConn is one connection of a device.
type deviceConn struct {
	pair     *Pair
	login    event.LoginID
	claim    *event.Position
	handle   Handle
	check    checker
	pending  []event.ClientFrame // not sent yet
	over     bool                // the reader saw the end
	reattach bool
	caughtUp bool
	reason   *event.Closed
	done     chan struct{}
}

// NewDevice returns a device without a connection. It is closed by t.Cleanup, which then fails the test if the engine
// broke a rule of the protocol. Inside a synctest bubble t must be the bubble's own.
func NewDevice(t testing.TB, cfg DeviceConfig) *Device {
	t.Helper()
	d := &Device{cfg: cfg, machine: client.New(cfg.State, cfg.Client)}
	t.Cleanup(func() {
		d.Close()
		if cfg.Lenient {
			return
		}
		for _, v := range d.Violations() {
			t.Errorf("device %s: %s", d.Login(), v)
		}
	})
	return d
}

// LoggedIn records the result of a login, which the next Connect uses.
func (d *Device) LoggedIn(login event.LoginID, token event.ResumeToken) {
	d.g.Lock()
	defer d.g.Unlock()
	d.machine.LoggedIn(login, token)
}

// Connect begins a connection over p. An earlier one is abandoned, as Abandon does. The error is the one of Attach.
func (d *Device) Connect(p *Pair) error {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.leave(false)
	d.g.Lock()
	if d.closed {
		d.g.Unlock()
		return ErrEnded
	}
	r := AttachRequest{Position: d.machine.Attach(), Login: d.machine.Login(), Token: d.machine.Token()}
	c := &deviceConn{pair: p, login: r.Login, claim: r.Position, check: checker{claim: r.Position}, done: make(chan struct{})}
	d.conn, d.last, d.conns = c, c, append(d.conns, c)
	d.g.Unlock()
	go d.read(c)

	handle, err := d.cfg.Attach(p.Conn(), r)
	if err != nil {
		d.leave(true)
		return err
	}
	d.g.Lock()
	defer d.g.Unlock()
	c.handle = handle
	d.g.notifyLocked()
	return nil
}

// Abandon stops reading and forgets the connection without ending it, as a device does that lost its network. Replies that
// were not sent are lost.
func (d *Device) Abandon() {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.leave(false)
}

// Disconnect ends the connection from the device's side. Replies that were not sent are lost.
func (d *Device) Disconnect() {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.leave(true)
}

// Close ends the connection and waits for the goroutine that reads it. It may be called again.
func (d *Device) Close() {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.leave(true)
	d.g.Lock()
	defer d.g.Unlock()
	d.closed = true
}

// leave ends the device's part in its connection and waits for the reader. The caller holds turn.
func (d *Device) leave(hangup bool) {
	d.g.Lock()
	c := d.last
	d.conn = nil
	d.g.notifyLocked()
	d.g.Unlock()
	if c == nil {
		return
	}
	if hangup {
		c.pair.Hangup()
	}
	<-c.done
}

// read is the goroutine of one connection.
func (d *Device) read(c *deviceConn) {
	defer close(c.done)
	for {
		replies, wait, ok := d.next(c)
		if !ok {
			return
		}
		for _, r := range replies {
			d.reply(c, r)
		}
		if wait != nil {
			wait()
		}
	}
}

// next does what there is to do with the connection at this moment: it returns replies to send, or takes one frame, or
// returns how to wait for more. It reports false when the connection is over.
func (d *Device) next(c *deviceConn) (replies []event.ClientFrame, wait func(), ok bool) {
	d.g.Lock()
	defer d.g.Unlock()
	if d.conn != c {
		c.over = true
		d.g.notifyLocked()
		return nil, nil, false
	}
	if replies = d.takeRepliesLocked(c); len(replies) > 0 {
		d.sending += len(replies)
		return replies, nil, true
	}
	changed := d.g.waitLocked()
	if d.paused {
		return nil, func() { <-changed }, true
	}
	f, over, arrived, due := c.pair.poll()
	switch {
	case f != nil:
		d.receiveLocked(c, Copy(f))
		return nil, nil, true
	case over:
		d.conn, c.over = nil, true
		d.g.notifyLocked()
		return nil, nil, false
	}
	return nil, func() { _ = sleep(context.Background(), changed, arrived, due) }, true
}

// receiveLocked takes one frame.
func (d *Device) receiveLocked(c *deviceConn, f event.Frame) {
	defer d.g.notifyLocked()
	if !d.cfg.NoRecord {
		d.frames = append(d.frames, f)
	}
	unanswered := slices.ContainsFunc(c.pending, isResetAck)
	d.violations = append(d.violations, c.check.frame(f, d.machine.Login(), unanswered)...)
	step, err := d.machine.Receive(f)
	if err != nil {
		d.violations = append(d.violations, err.Error())
		d.conn, c.reattach = nil, true
		c.pair.Hangup()
		return
	}
	d.entries = append(d.entries, step.Apply...)
	if step.Redelivered {
		d.redelivered++
	}
	if step.Reset != nil {
		d.resets = append(d.resets, *step.Reset)
		c.pending = slices.DeleteFunc(c.pending, isAck) // of a position that means nothing any more
	}
	if step.Live != nil {
		d.lives = append(d.lives, step.Live)
	}
	if step.Closed != nil {
		c.reason = step.Closed
	}
	c.caughtUp = c.caughtUp || step.CaughtUp
	if step.Reattach {
		d.conn, c.reattach = nil, true
		c.pair.Hangup()
		return
	}
	if d.cfg.Nack != nil {
		for _, e := range step.Apply {
			if code := d.cfg.Nack(&e.Entry); code != "" {
				d.machine.Nack(e.Seq, code)
			}
		}
	}
	for _, r := range d.machine.Replies() {
		if isAck(r) {
			c.pending = slices.DeleteFunc(c.pending, isAck) // a held one: the new one covers it
		}
		c.pending = append(c.pending, r)
	}
}

// takeRepliesLocked takes the replies that are not held back, in order.
func (d *Device) takeRepliesLocked(c *deviceConn) []event.ClientFrame {
	if c.handle == nil {
		return nil
	}
	var out []event.ClientFrame
	c.pending = slices.DeleteFunc(c.pending, func(r event.ClientFrame) bool {
		if !d.sendsLocked(r) {
			return false
		}
		out = append(out, r)
		return true
	})
	return out
}

// sendsLocked reports whether a reply is not held back.
func (d *Device) sendsLocked(r event.ClientFrame) bool {
	return !(d.holdAcks && isAck(r) || d.holdResets && isResetAck(r))
}

func (d *Device) reply(c *deviceConn, r event.ClientFrame) {
	err := c.handle(r)
	d.g.Lock()
	defer d.g.Unlock()
	d.sent = append(d.sent, r)
	d.sending--
	if err != nil {
		d.handleErrs = append(d.handleErrs, fmt.Errorf("%T: %w", r, err))
	}
	d.g.notifyLocked()
}

func isAck(r event.ClientFrame) bool {
	_, ok := r.(*event.Ack)
	return ok
}

func isResetAck(r event.ClientFrame) bool {
	_, ok := r.(*event.ResetAck)
	return ok
}
