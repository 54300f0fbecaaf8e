package ours

import (
	"context"
	"sync"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/transport"
)

// Device is a connection that takes everything and acknowledges every frame of entries, on the goroutine that sends it.
// It has the reference encoding made of each entry, or of whole frames.
type Device struct {
	Pending *lab.Pending  // told of each message; nil: nobody
	Frames  bool          // copy out whole frames in the reference encoding, as a socket would be given them
	Block   chan struct{} // entries are not taken until it is closed; nil: they are taken at once

	mu       sync.Mutex
	att      *fanout.Attachment
	last     event.Position // newest that was received
	messages int64
	states   int
	bytes    int64
	frame    []byte
	caughtUp chan struct{}
	caught   bool
}

var (
	_ transport.Conn       = (*Device)(nil)
	_ transport.NonBlocker = (*Device)(nil)
)

// NewDevice returns a device for one connection.
func NewDevice() *Device { return &Device{caughtUp: make(chan struct{})} }

// NonBlocking implements transport.NonBlocker.
func (d *Device) NonBlocking() bool { return d.Block == nil }

// Send implements transport.Conn.
func (d *Device) Send(ctx context.Context, frames []event.Frame) error {
	for _, f := range frames {
		if err := d.take(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (d *Device) take(ctx context.Context, f event.Frame) error {
	if d.Frames {
		var err error
		if d.frame, err = event.AppendFrame(d.frame[:0], f); err != nil {
			return err
		}
	}
	switch f := f.(type) {
	case *event.Data:
		return d.data(ctx, f)
	case *event.StatePage:
		d.mu.Lock()
		d.states += len(f.States)
		d.mu.Unlock()
	case *event.Reset:
		return d.answer(ctx, &event.ResetAck{Position: f.To})
	case *event.CaughtUp:
		d.mu.Lock()
		if !d.caught && d.caughtUp != nil {
			close(d.caughtUp)
		}
		d.caught = true
		d.mu.Unlock()
	}
	return nil
}

func (d *Device) data(ctx context.Context, f *event.Data) error {
	n := 0
	for _, e := range f.Entries {
		if e.Kind == event.KindMessage {
			n++
		}
	}
	if d.Block != nil && n > 0 {
		select {
		case <-d.Block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	size := int64(len(d.frame))
	if !d.Frames {
		for _, e := range f.Entries {
			size += int64(len(e.JSON()))
		}
	}
	at := event.Position{Epoch: f.Epoch, Seq: f.Seq}
	d.mu.Lock()
	d.last, d.messages, d.bytes = at, d.messages+int64(n), d.bytes+size
	att := d.att
	d.mu.Unlock()
	if att != nil { // else bind acknowledges it
		if err := att.Handle(ctx, &event.Ack{Position: at}); err != nil {
			return err
		}
	}
	if d.Pending != nil && n > 0 {
		d.Pending.Arrive(n)
	}
	return nil
}

// answer sends a frame of the client's. Before the attachment is known there is no way to, and no test makes it so.
func (d *Device) answer(ctx context.Context, f event.ClientFrame) error {
	d.mu.Lock()
	att := d.att
	d.mu.Unlock()
	if att == nil {
		return nil
	}
	return att.Handle(ctx, f)
}

// bind learns the attachment, and acknowledges what came before it was known.
func (d *Device) bind(ctx context.Context, att *fanout.Attachment) error {
	d.mu.Lock()
	d.att = att
	at := d.last
	d.mu.Unlock()
	if at.Seq == 0 {
		return nil
	}
	return att.Handle(ctx, &event.Ack{Position: at})
}

// Close implements transport.Conn.
func (d *Device) Close(event.Closed) error { return nil }

// CaughtUp returns when the device has everything that was there when it attached.
func (d *Device) CaughtUp(ctx context.Context) error {
	select {
	case <-d.caughtUp:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Messages is how many messages have come.
func (d *Device) Messages() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.messages
}

// States is how many registers have come.
func (d *Device) States() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.states
}

// Caught reports whether CaughtUp would return at once.
func (d *Device) Caught() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.caught
}
