package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// Connection is a [transport.Conn] bound to a login. It is the only way to send on it: once the connection is fenced,
// because its login ended or a newer connection took over, no Send begins any more. It is safe for concurrent use, but
// Send is for one goroutine at a time.
type Connection struct {
	r    *Registry
	conn transport.Conn
	ends func(event.Closed) // told once, after the fence and before Conn.Close

	account     event.Account
	login       event.LoginID
	device      event.DeviceID
	incarnation event.Incarnation
	platform    event.Platform
	generation  uint64
	token       event.ResumeToken // to hand out; empty: unchanged
	restored    bool
	announced   bool    // watchers of another node were told that the login is online
	tab         string  // empty: not named
	tabs        int     // how many the login may have
	lease       uint64  // of the node, when it was bound; 0: there are no leases
	view        Session // as of the attach

	seen       atomic.Int64 // Unix milliseconds of the last sign of life
	background atomic.Bool

	mu      sync.Mutex
	fenced  bool
	sending bool
	idle    chan struct{} // closed when the running Send returns; only there while somebody waits for it
}

// Account returns whose connection it is.
func (c *Connection) Account() event.Account { return c.account }

// Login returns the login that it is bound to.
func (c *Connection) Login() event.LoginID { return c.login }

// Device returns the login's device.
func (c *Connection) Device() event.DeviceID { return c.device }

// Incarnation returns the registration of the device, by which its cursor and entries for it are known.
func (c *Connection) Incarnation() event.Incarnation { return c.incarnation }

// Generation numbers the connections of this registry: a later one has a higher number.
func (c *Connection) Generation() uint64 { return c.generation }

// Token returns the new resume token that the device must be given, or "" if it keeps its old one.
func (c *Connection) Token() event.ResumeToken { return c.token }

// Restored reports that the login lived through a restart of the engine, so that what was sent to it last is not known.
func (c *Connection) Restored() bool { return c.restored }

// Touch notes a sign of life: any bytes from the client.
func (c *Connection) Touch() { c.seen.Store(time.Now().UnixMilli()) }

func (c *Connection) seenAt() time.Time { return time.UnixMilli(c.seen.Load()) }

// SetBackground says whether the client's app is in background. A login of which every connection says so is away.
func (c *Connection) SetBackground(on bool) {
	if c.background.Load() == on {
		return
	}
	a := c.r.peek(c.account)
	a.mu.Lock()
	c.background.Store(on)
	var turned []Change
	if k := a.linkLocked(c.login); k.attached() {
		turned = c.r.turnedLocked(k)
	}
	a.mu.Unlock()
	c.r.tell(turned)
}

// Background reports what SetBackground said last.
func (c *Connection) Background() bool { return c.background.Load() }

// Send passes frames to the connection unless it is fenced, in which case it returns [ErrFenced]. A panic of the host's
// Send is returned as an error.
func (c *Connection) Send(ctx context.Context, frames []event.Frame) (err error) {
	c.mu.Lock()
	if c.fenced || !c.r.nodes.serves(c.lease) {
		c.mu.Unlock()
		return ErrFenced
	}
	c.sending = true
	c.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("session: Conn.Send panicked: %v", p)
		}
		c.mu.Lock()
		c.sending = false
		if c.idle != nil {
			close(c.idle)
			c.idle = nil
		}
		c.mu.Unlock()
	}()
	return c.conn.Send(ctx, frames)
}

// fence stops all further sends and reports whether this call did it: whoever fences a connection closes it.
func (c *Connection) fence() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fenced {
		return false
	}
	c.fenced = true
	if c.sending {
		c.idle = make(chan struct{})
	}
	return true
}

// settled waits for a Send that was running at the fence, a second at most.
func (c *Connection) settled() {
	c.mu.Lock()
	idle := c.idle
	c.mu.Unlock()
	if idle == nil {
		return
	}
	t := time.NewTimer(fenceWait)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
}

// Close ends the connection for the given reason; the login lives on and has a resume window. It does not wait. It has no
// effect on a connection that has ended already.
func (c *Connection) Close(why event.Closed) {
	if c.detach(why.Reason) {
		c.r.owned.start(func() { c.shut(why) })
	}
}

// Detach tells the engine that the connection is gone. It is safe to call late: a newer connection of the login is not
// touched. Conn.Close is called all the same.
func (c *Connection) Detach() { c.Close(event.Lost.Closed(0)) }

// end is Close that waits.
func (c *Connection) end(why event.Closed) {
	if c.detach(why.Reason) {
		c.shut(why)
	}
}

// detach fences the connection and, if it is still its login's current one, begins the resume window.
func (c *Connection) detach(reason event.Reason) bool {
	if !c.fence() {
		return false
	}
	a := c.r.peek(c.account)
	a.mu.Lock()
	var turned []Change
	if k := a.linkLocked(c.login); k != nil && k.remove(c, reason) {
		turned = c.r.turnedLocked(k) // the other tabs may all be in background
	}
	a.mu.Unlock()
	c.r.tell(turned)
	return true
}

// shut finishes a fenced connection: its owner is told, a running Send is waited for, Conn.Close is called.
func (c *Connection) shut(why event.Closed) {
	if c.ends != nil {
		c.ends(why)
	}
	c.settled()
	c.r.closeConn(c.conn, why)
}

// closeConn calls Close of the host's connection, waits for it a bounded time, and survives its panics.
func (r *Registry) closeConn(conn transport.Conn, why event.Closed) {
	done := make(chan struct{})
	go func() { // not owned: a Close that never returns must not hold up the end of the engine
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				r.log.Warn("session: Conn.Close panicked", "panic", p)
			}
		}()
		if err := conn.Close(why); err != nil {
			r.log.Debug("session: Conn.Close", "err", err)
		}
	}()
	t := time.NewTimer(r.cfg.CloseTimeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		r.hungCloses.Add(1)
		r.log.Warn("session: Conn.Close hangs", "reason", string(why.Reason))
	}
}
