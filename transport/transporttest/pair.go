package transporttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
)

// Errors of the engine's side of a Pair.
var (
	// ErrCut: the network is gone; see [Pair.Cut].
	ErrCut = errors.New("transporttest: connection cut")
	// ErrHangup: the device ended the connection.
	ErrHangup = errors.New("transporttest: device hung up")
)

// PairConfig tunes a Pair. The zero value is valid: no bound, blocking, frames are recorded.
type PairConfig struct {
	// Addr is what the connection says of the client's address.
	Addr string
	// MaxFrames and MaxBytes bound what the device has not read yet; Send waits beyond it. An empty buffer takes any
	// frame. Entries count with their Size and frames with 64 bytes. Zero means no bound.
	MaxFrames, MaxBytes int
	// NonBlocking makes Send return [transport.ErrFull] where it would wait. It then takes all frames of a batch or none. When
	// the device has read so much that the batch has room, the engine is told.
	NonBlocking bool
	// MaxEntry is the longest payload, in bytes, that the device takes: for a longer one Send returns a [*transport.SkipError].
	// Zero means that it takes all.
	MaxEntry int
	// NoRecord keeps no copy of the frames for Sent, for tests with very many.
	NoRecord bool
}

// Pair is an in-memory connection: the engine's side is Conn, the device's side are the methods of the Pair. Frames are
// copied when they are sent, so that the engine may reuse them. It is safe for concurrent use, and it starts no goroutine.
type Pair struct {
	cfg  PairConfig
	conn *Conn

	g        gate
	queue    []queued
	bytes    int
	recorded []event.Frame
	count    int           // frames that Send took
	dropAt   int           // count from which frames are swallowed; negative: none
	blocked  bool          // Send waits
	delay    time.Duration // from Send to Receive
	sending  int           // Sends that run
	failure  error         // why Send fails; nil: it does not
	ready    func()        // to be called when there is room again; nil: the engine has not asked for it
	refused  []event.Frame // the batch that there was no room for; nil: none
	closed   *event.Closed // what Close was called with
	closes   int
	late     int           // Sends that began after Close
	over     chan struct{} // closed when either side ended the connection
	faults   []string

	closeErr   error
	closeValue any           // what Close panics with
	closeHold  chan struct{} // Close waits for it
}

type queued struct {
	frame event.Frame
	due   time.Time
	bytes int
}

// NewPair returns a connection. One that is used inside a synctest bubble must be made there.
func NewPair(cfg PairConfig) *Pair {
	p := &Pair{cfg: cfg, dropAt: -1, over: make(chan struct{})}
	p.conn = &Conn{p}
	return p
}

// endLocked ends the connection for both sides. The first reason stays.
func (p *Pair) endLocked(err error) {
	if p.failure == nil {
		p.failure = err
		close(p.over)
	}
	p.g.notifyLocked()
}

func (p *Pair) faultLocked(format string, args ...any) {
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

// Conn returns the engine's side, always the same value.
func (p *Pair) Conn() *Conn { return p.conn }

// Receive returns the next frame, waiting for it as long as ctx allows. The frame is the caller's. When the connection is
// over and all that arrived was received it returns io.EOF; the last frame is then an *event.Closed if the engine ended
// it.
func (p *Pair) Receive(ctx context.Context) (event.Frame, error) {
	var frame event.Frame
	err := p.g.wait(ctx, func() (bool, time.Time) {
		var over bool
		frame, over = p.takeLocked()
		if frame != nil || over {
			return true, time.Time{}
		}
		if len(p.queue) > 0 {
			return false, p.queue[0].due
		}
		return false, time.Time{}
	})
	p.tellDrained()
	if err != nil {
		return nil, fmt.Errorf("transporttest: receive: %w", err)
	}
	if frame == nil {
		return nil, io.EOF
	}
	return Copy(frame), nil
}

// TryReceive returns the next frame if there is one at this moment.
func (p *Pair) TryReceive() (event.Frame, bool) {
	p.g.Lock()
	f, _ := p.takeLocked()
	p.g.Unlock()
	if f == nil {
		return nil, false
	}
	p.tellDrained()
	return Copy(f), true
}

// poll is TryReceive for somebody who can wait: if there is no frame, it comes after changed or at due, unless the
// connection is over.
func (p *Pair) poll() (f event.Frame, over bool, changed <-chan struct{}, due time.Time) {
	defer p.tellDrained() // when the lock is free
	p.g.Lock()
	defer p.g.Unlock()
	if f, over = p.takeLocked(); f != nil || over {
		return f, over, nil, due
	}
	if len(p.queue) > 0 {
		due = p.queue[0].due
	}
	return nil, false, p.g.waitLocked(), due
}

// takeLocked returns the next frame that is due, or reports whether none will come any more.
func (p *Pair) takeLocked() (f event.Frame, over bool) {
	if len(p.queue) == 0 {
		return nil, p.failure != nil
	}
	q := p.queue[0]
	if time.Until(q.due) > 0 {
		return nil, false
	}
	p.queue[0] = queued{}
	p.queue = p.queue[1:]
	p.bytes -= q.bytes
	p.g.notifyLocked()
	return q.frame, false
}

// Hangup ends the connection from the device's side: what it did not receive yet is gone, and Send fails with ErrHangup.
// The engine learns of it by its next Send, or from the host, which can watch Done.
func (p *Pair) Hangup() {
	p.g.Lock()
	defer p.g.Unlock()
	p.queue, p.bytes = nil, 0
	p.endLocked(ErrHangup)
}

// Done is closed when the connection was closed, cut, or hung up.
func (p *Pair) Done() <-chan struct{} { return p.over }

// Closed returns what the engine closed the connection with, or false if it did not.
func (p *Pair) Closed() (event.Closed, bool) {
	p.g.Lock()
	defer p.g.Unlock()
	if p.closed == nil {
		return event.Closed{}, false
	}
	return *copyClosed(p.closed), true
}

// Sent returns all frames that Send took, in order, swallowed ones included. They are read-only.
func (p *Pair) Sent() []event.Frame {
	p.g.Lock()
	defer p.g.Unlock()
	return slices.Clone(p.recorded)
}

// Buffered returns how many frames, and how many bytes, wait for the device.
func (p *Pair) Buffered() (frames, bytes int) {
	p.g.Lock()
	defer p.g.Unlock()
	return len(p.queue), p.bytes
}

// LateSends returns how many Sends began after Close. The contract allows them, since Close may come at any moment; after
// a kick was answered there must be none.
func (p *Pair) LateSends() int {
	p.g.Lock()
	defer p.g.Unlock()
	return p.late
}

// Faults returns in words how the engine broke the contract of transport.Conn: overlapping Sends, or more than one Close.
// Empty: it did not.
func (p *Pair) Faults() []string {
	p.g.Lock()
	defer p.g.Unlock()
	return slices.Clone(p.faults)
}
