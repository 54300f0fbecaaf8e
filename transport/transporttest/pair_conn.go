package transporttest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// Conn is the engine's side of a Pair. It implements transport.Conn, transport.RemoteAddresser and transport.Drainer.
type Conn struct{ p *Pair }

var (
	_ transport.Conn            = (*Conn)(nil)
	_ transport.RemoteAddresser = (*Conn)(nil)
	_ transport.Drainer         = (*Conn)(nil)
)

// RemoteAddr returns PairConfig.Addr.
func (c *Conn) RemoteAddr() string { return c.p.cfg.Addr }

// NonBlocking returns PairConfig.NonBlocking.
func (c *Conn) NonBlocking() bool { return c.p.cfg.NonBlocking }

// NotifyDrained implements transport.Drainer.
func (c *Conn) NotifyDrained(ready func()) {
	c.p.g.Lock()
	defer c.p.g.Unlock()
	c.p.ready = ready
}

// Send implements transport.Conn. Frames go into the buffer one by one, unless the connection is NonBlocking: those before an
// error reach the device.
func (c *Conn) Send(ctx context.Context, frames []event.Frame) error {
	p := c.p
	p.g.Lock()
	if p.sending > 0 {
		p.faultLocked("Send called while another Send runs")
	}
	if p.closes > 0 {
		p.late++
	}
	p.sending++
	p.g.Unlock()
	defer func() {
		p.g.Lock()
		p.sending--
		p.g.Unlock()
	}()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("transporttest: send: %w", err)
	}
	if len(frames) == 0 {
		p.g.Lock()
		defer p.g.Unlock()
		return p.failure
	}
	frames, skip := p.takes(frames)
	if p.cfg.NonBlocking {
		if err := p.putAll(frames); err != nil {
			return err
		}
		return skip
	}
	for _, f := range frames {
		var failure error
		err := p.g.wait(ctx, func() (bool, time.Time) {
			var ok bool
			ok, failure = p.putLocked(f)
			return ok, time.Time{}
		})
		if err != nil {
			return fmt.Errorf("transporttest: send: %w", err)
		}
		if failure != nil {
			return failure
		}
	}
	return skip
}

// takes returns the frames before the first entry that the device does not take, and the error that says so.
func (p *Pair) takes(frames []event.Frame) ([]event.Frame, error) {
	if p.cfg.MaxEntry <= 0 {
		return frames, nil
	}
	for i, f := range frames {
		d, ok := f.(*event.Data)
		if !ok {
			continue
		}
		n := slices.IndexFunc(d.Entries, func(e *event.Sealed) bool { return len(e.Payload) > p.cfg.MaxEntry })
		if n < 0 {
			continue
		}
		before := slices.Clone(frames[:i])
		if short := transport.Before(d, n); short != nil {
			before = append(before, short)
		}
		return before, &transport.SkipError{Seq: d.Entries[n].Seq, Code: "too_large"}
	}
	return frames, nil
}

// putAll takes all frames or none.
func (p *Pair) putAll(frames []event.Frame) error {
	p.g.Lock()
	defer p.g.Unlock()
	switch {
	case p.failure != nil:
		return p.failure
	case !p.fitsLocked(frames):
		p.refused = make([]event.Frame, len(frames))
		for i, f := range frames {
			p.refused[i] = Copy(f)
		}
		return transport.ErrFull
	}
	p.refused = nil
	for _, f := range frames {
		p.appendLocked(f)
	}
	return nil
}

// fitsLocked reports whether there is room for frames. An empty buffer has room for any.
func (p *Pair) fitsLocked(frames []event.Frame) bool {
	n := 0
	for _, f := range frames {
		n += size(f)
	}
	return !p.blocked && (len(p.queue) == 0 || (p.cfg.MaxFrames <= 0 || len(p.queue)+len(frames) <= p.cfg.MaxFrames) &&
		(p.cfg.MaxBytes <= 0 || p.bytes+n <= p.cfg.MaxBytes))
}

// tellDrained tells the engine that what was refused has room now.
func (p *Pair) tellDrained() {
	p.g.Lock()
	tell := p.refused != nil && p.fitsLocked(p.refused)
	if tell {
		p.refused = nil
	}
	ready := p.ready
	p.g.Unlock()
	if tell && ready != nil {
		ready()
	}
}

// putLocked takes a frame, or reports false if it has to wait.
func (p *Pair) putLocked(f event.Frame) (bool, error) {
	switch {
	case p.failure != nil:
		return true, p.failure
	case !p.fitsLocked([]event.Frame{f}):
		return false, nil
	}
	p.appendLocked(f)
	return true, nil
}

func (p *Pair) appendLocked(f event.Frame) {
	n := size(f)
	f = Copy(f)
	if !p.cfg.NoRecord {
		p.recorded = append(p.recorded, f)
	}
	p.count++
	if p.dropAt < 0 || p.count <= p.dropAt {
		p.queue = append(p.queue, queued{f, time.Now().Add(p.delay), n})
		p.bytes += n
		p.g.notifyLocked()
	}
}

// Close implements transport.Conn. The device gets what is in the buffer, then the reason, then the end.
func (c *Conn) Close(why event.Closed) error {
	p := c.p
	p.g.Lock()
	p.closes++
	if p.closes > 1 {
		p.faultLocked("Close called %d times", p.closes)
	} else {
		p.closed = copyClosed(&why)
		if p.failure == nil && p.dropAt < 0 {
			p.queue = append(p.queue, queued{copyClosed(&why), time.Now().Add(p.delay), 0})
		}
		p.endLocked(transport.ErrClosed)
	}
	hold, value, err := p.closeHold, p.closeValue, p.closeErr
	p.g.Unlock()
	if hold != nil {
		<-hold
	}
	if value != nil {
		panic(value)
	}
	return err
}
