package transporttest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport/client"
)

// HoldAcks keeps acknowledgements back, or sends what was kept back: one Ack for all.
func (d *Device) HoldAcks(on bool) { d.set(func() { d.holdAcks = on }) }

// HoldResetAcks keeps answers to Resets back, or sends what was kept back.
func (d *Device) HoldResetAcks(on bool) { d.set(func() { d.holdResets = on }) }

// Pause stops reading: when it returns, no frame is taken any more. Replies to frames that were taken still go out.
func (d *Device) Pause() { d.set(func() { d.paused = true }) }

// Resume ends Pause.
func (d *Device) Resume() { d.set(func() { d.paused = false }) }

// Record merges registers, as the app does with the result of an operation of its own.
func (d *Device) Record(states ...event.State) { d.set(func() { d.machine.Record(states...) }) }

func (d *Device) set(change func()) {
	d.g.Lock()
	defer d.g.Unlock()
	change()
	d.g.notifyLocked()
}

// Send sends one frame at once, whatever is held back. Without an attached connection it returns ErrEnded.
func (d *Device) Send(f event.ClientFrame) error {
	d.g.Lock()
	c := d.conn
	var handle Handle
	if c != nil {
		handle = c.handle
	}
	d.g.Unlock()
	if handle == nil {
		return ErrEnded
	}
	return handle(f)
}

// Saved is a device's storage at one moment.
type Saved struct {
	State   client.State
	entries []*event.Sealed
}

// Save returns a copy of the device's storage.
func (d *Device) Save() Saved {
	return view(d, func() Saved { return Saved{d.machine.Snapshot(), slices.Clone(d.entries)} })
}

// Restore abandons the connection and makes the device go on from what it had saved, as after a crash before later
// changes were saved. What Entries returns goes back too.
func (d *Device) Restore(s Saved) {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.leave(false)
	d.set(func() {
		d.machine = client.New(s.State, d.cfg.Client)
		d.entries = slices.Clone(s.entries)
	})
}

func view[T any](d *Device, get func() T) T {
	d.g.Lock()
	defer d.g.Unlock()
	return get()
}

// Login returns the device's login, or "".
func (d *Device) Login() event.LoginID {
	return view(d, func() event.LoginID { return d.machine.Login() })
}

// Token returns the device's latest token, or "".
func (d *Device) Token() event.ResumeToken {
	return view(d, func() event.ResumeToken { return d.machine.Token() })
}

// Position returns the device's position, or the zero Position if it is not known.
func (d *Device) Position() event.Position {
	return view(d, func() event.Position {
		p, _ := d.machine.Position()
		return p
	})
}

// Entries returns all that the device applied, in order, over all connections and Resets.
func (d *Device) Entries() []*event.Sealed {
	return view(d, func() []*event.Sealed { return slices.Clone(d.entries) })
}

// Messages returns the entries of one kind that the device applied.
func (d *Device) Messages(kind event.Kind) []*event.Sealed {
	return slices.DeleteFunc(d.Entries(), func(e *event.Sealed) bool { return e.Kind != kind })
}

// Lives returns the live-only events that came.
func (d *Device) Lives() []*event.Sealed {
	return view(d, func() []*event.Sealed { return slices.Clone(d.lives) })
}

// Resets returns the Resets that came.
func (d *Device) Resets() []event.Reset {
	return view(d, func() []event.Reset { return slices.Clone(d.resets) })
}

// Registers returns the device's conversation state, in order of conversation and name.
func (d *Device) Registers() []event.State {
	return view(d, func() []event.State { return d.machine.Registers() })
}

// Digest returns the digest of the registers; see client.Digest.
func (d *Device) Digest() [32]byte {
	return view(d, func() [32]byte { return d.machine.Digest() })
}

// Frames returns every frame that came, in order. They are read-only.
func (d *Device) Frames() []event.Frame {
	return view(d, func() []event.Frame { return slices.Clone(d.frames) })
}

// Sent returns the replies that the device sent, in order.
func (d *Device) Sent() []event.ClientFrame {
	return view(d, func() []event.ClientFrame { return slices.Clone(d.sent) })
}

// Answered reports whether the engine has taken every reply to what came, but for those that are held back.
func (d *Device) Answered() bool {
	return view(d, func() bool {
		return d.sending == 0 && (d.conn == nil || !slices.ContainsFunc(d.conn.pending, d.sendsLocked))
	})
}

// Redelivered returns how many Data frames with something new were flagged as redelivered.
func (d *Device) Redelivered() int { return view(d, func() int { return d.redelivered }) }

// HandleErrors returns what the engine refused of the device's replies.
func (d *Device) HandleErrors() []error {
	return view(d, func() []error { return slices.Clone(d.handleErrs) })
}

// Violations returns in words which rules of the protocol the engine broke.
func (d *Device) Violations() []string {
	return view(d, func() []string { return slices.Clone(d.violations) })
}

// Connected reports whether the device has a connection that is not over, as far as it has seen.
func (d *Device) Connected() bool { return view(d, func() bool { return d.conn != nil }) }

// NeedsReattach reports whether the device dropped its last connection because frames were missing.
func (d *Device) NeedsReattach() bool {
	return view(d, func() bool { return d.last != nil && d.last.reattach })
}

// Wait waits until cond reports true. It is called without a lock, at first and after every change of the device.
func (d *Device) Wait(ctx context.Context, cond func() bool) error {
	for {
		d.g.Lock()
		changed := d.g.waitLocked()
		d.g.Unlock()
		if cond() {
			return nil
		}
		if err := sleep(ctx, changed, nil, time.Time{}); err != nil {
			return err
		}
	}
}

// WaitCaughtUp waits for the CaughtUp of the latest connection.
func (d *Device) WaitCaughtUp(ctx context.Context) error {
	return d.waitConn(ctx, "caught up", func(c *deviceConn) bool { return c.caughtUp })
}

// WaitEntries waits until the device has applied n entries in all.
func (d *Device) WaitEntries(ctx context.Context, n int) error {
	return d.waitConn(ctx, fmt.Sprintf("%d entries", n), func(*deviceConn) bool { return len(d.entries) >= n })
}

// WaitLives waits until n live-only events came in all.
func (d *Device) WaitLives(ctx context.Context, n int) error {
	return d.waitConn(ctx, fmt.Sprintf("%d live events", n), func(*deviceConn) bool { return len(d.lives) >= n })
}

// WaitPosition waits until the device's position is at least seq.
func (d *Device) WaitPosition(ctx context.Context, seq uint64) error {
	return d.waitConn(ctx, fmt.Sprintf("position %d", seq), func(*deviceConn) bool {
		p, known := d.machine.Position()
		return known && p.Seq >= seq
	})
}

// WaitResets waits until n Resets came in all.
func (d *Device) WaitResets(ctx context.Context, n int) error {
	return d.waitConn(ctx, fmt.Sprintf("%d resets", n), func(*deviceConn) bool { return len(d.resets) >= n })
}

// WaitClosed waits for the end of the latest connection and returns the reason that the engine gave, or io.EOF if it ended
// without one.
func (d *Device) WaitClosed(ctx context.Context) (event.Closed, error) {
	var why *event.Closed
	err := d.waitConn(ctx, "the end", func(c *deviceConn) bool {
		why = c.reason
		return c.over
	})
	if err == nil && why == nil {
		err = io.EOF
	}
	if err != nil {
		return event.Closed{}, err
	}
	return *copyClosed(why), nil
}

// waitConn waits until cond, called under the lock, reports true for the latest connection. If that is over first, the
// error is ErrEnded.
func (d *Device) waitConn(ctx context.Context, what string, cond func(c *deviceConn) bool) error {
	var ok, over bool
	var state string
	err := d.Wait(ctx, func() bool {
		d.g.Lock()
		defer d.g.Unlock()
		c := d.last
		if c == nil {
			over = true
			return true
		}
		ok, over = cond(c), c.over
		p, _ := d.machine.Position()
		state = fmt.Sprintf("at %v with %d entries, closed %v", p, len(d.entries), c.reason)
		return ok || over
	})
	switch {
	case ok:
		return nil
	case over:
		err = ErrEnded
	}
	return fmt.Errorf("transporttest: device %s waits for %s: %w (%s)", d.Login(), what, err, state)
}
