package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/transport"
)

// Connection is a [transport.Conn] bound to a login. It is the only way to send on it: once the connection is fenced,
// because its login ended or a newer connection took over, no Send begins any more. It is safe for concurrent use, but
// Send is for one goroutine at a time.
type Connection struct {
	r    *Registry
	k    *link // its login's; gone from the account when the login has ended
	conn transport.Conn
	ends func(event.Closed) // told once, after the fence and before Conn.Close

	generation uint64
	lease      uint64 // of the node, when it was bound; 0: there are no leases
	extra      *extra // nil: there is nothing of it

	seen       atomic.Int64 // clock.Elapsed at the last sign of life
	background atomic.Bool
	restored   bool
	instant    bool // conn says that its Send never waits

	// arrival is Registry.arriving until Attach has succeeded, then nil; or with what the connection has ended before.
	arrival atomic.Pointer[event.Closed]

	state atomic.Uint32 // connSending, connFenced
	mu    sync.Mutex    // held by who fences and who looks at idle
	idle  chan struct{} // closed when the running Send returns; only there while somebody waits for it
}

// Bits of Connection.state.
const (
	connSending = 1 << iota // a Send runs
	connFenced              // none begins any more
)

// extra is what few connections have.
type extra struct {
	token  event.ResumeToken // to hand out; empty: unchanged
	tab    string            // empty: not named
	parked *parked           // what was parked for the device when it attached
}

// Account returns whose connection it is.
func (c *Connection) Account() event.Account { return c.k.a.id }

// Login returns the login that it is bound to.
func (c *Connection) Login() event.LoginID { return c.k.login }

// Device returns the login's device.
func (c *Connection) Device() event.DeviceID { return c.k.device }

// Incarnation returns the registration of the device, by which its cursor and entries for it are known.
func (c *Connection) Incarnation() event.Incarnation { return c.k.incarnation }

// Generation numbers the connections of this registry: a later one has a higher number.
func (c *Connection) Generation() uint64 { return c.generation }

// Token returns the new resume token that the device must be given, or "" if it keeps its old one.
func (c *Connection) Token() event.ResumeToken {
	if c.extra == nil {
		return ""
	}
	return c.extra.token
}

// Parked returns which entries the device did not get when it attached; see [Registry.Parked].
func (c *Connection) Parked() []event.Position {
	if c.extra == nil {
		return nil
	}
	return c.extra.parked.positions()
}

func (c *Connection) tab() string {
	if c.extra == nil {
		return ""
	}
	return c.extra.tab
}

// Restored reports that the login's device lived through a restart of the engine, or was served by another node, and
// that nothing was sent on the login's connections since: what was sent to the device last may not be known.
func (c *Connection) Restored() bool { return c.restored }

// NonBlocking reports that Send never waits for the network; see [transport.NonBlocker].
func (c *Connection) NonBlocking() bool { return c.instant }

// Touch notes a sign of life: any bytes from the client.
func (c *Connection) Touch() { c.seen.Store(int64(c.r.clock.Elapsed())) }

// SetBackground says whether the client's app is in background. A login of which every connection says so is away.
func (c *Connection) SetBackground(on bool) {
	if c.background.Load() == on {
		return
	}
	a := c.k.a
	a.mu.Lock()
	c.background.Store(on)
	if slices.Contains(a.links, c.k) {
		c.r.noteLocked(c.r.turnedLocked(c.k))
	}
	a.mu.Unlock()
}

// Background reports what SetBackground said last.
func (c *Connection) Background() bool { return c.background.Load() }

// Send passes frames to the connection unless it is fenced, in which case it returns [ErrFenced]. A panic of the host's
// Send is returned as an error.
func (c *Connection) Send(ctx context.Context, frames []event.Frame) (err error) {
	if err := c.r.nodes.await(ctx, c.lease); err != nil {
		return err
	}
	if !c.arrived() {
		return ErrFenced
	}
	if c.state.Or(connSending)&connFenced != 0 { // whoever fenced it has looked before
		return ErrFenced
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("session: Conn.Send panicked: %v", p)
		}
		if c.state.And(^uint32(connSending))&connFenced != 0 {
			c.sent()
		}
	}()
	if c.restored {
		c.k.unsure.Store(false)
	}
	return c.conn.Send(ctx, frames)
}

// sent tells whoever fenced the connection that the Send that ran has returned.
func (c *Connection) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// fence stops all further sends and reports whether this call did it: whoever fences a connection closes it.
func (c *Connection) fence() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.state.Or(connFenced)
	if old&connFenced != 0 {
		return false
	}
	if old&connSending != 0 {
		c.idle = make(chan struct{})
	}
	return true
}

// stop fences the connection. first reports whether this call did it, and owes whether the caller has to shut the
// connection for that: one that is still arriving is left to its Attach, which hands it back to the host and says why.
//
// Either stop or arrive is first, whichever way they overlap: if arrive is, Attach succeeds, and the connection is shut as
// any other one.
func (c *Connection) stop(why event.Closed) (first, owes bool) {
	if !c.fence() {
		return false, false
	}
	return true, !c.arrival.CompareAndSwap(&c.r.arriving, &why)
}

// arrive ends the arrival. It returns nil, or with what the connection has ended before; from then on it is the host's.
func (c *Connection) arrive() *event.Closed {
	if c.arrival.CompareAndSwap(&c.r.arriving, nil) {
		return nil
	}
	return c.arrival.Load()
}

// arrived reports whether Attach has succeeded.
func (c *Connection) arrived() bool { return c.arrival.Load() == nil }

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
	if c.detach(why) {
		c.r.owned.Do(func() { c.shut(why) })
	}
}

// Detach tells the engine that the connection is gone. It is safe to call late: a newer connection of the login is not
// touched. Conn.Close is called all the same.
func (c *Connection) Detach() { c.Close(event.Lost.Closed(0)) }

// end is Close that waits. It reports whether this call ended the connection.
func (c *Connection) end(why event.Closed) bool {
	if !c.detach(why) {
		return false
	}
	c.shut(why)
	return true
}

// detach fences the connection and, if it is still its login's current one, begins the resume window. It reports whether
// the caller has to shut it.
func (c *Connection) detach(why event.Closed) bool {
	first, owes := c.stop(why)
	if !first {
		return false
	}
	a := c.k.a
	a.mu.Lock()
	if slices.Contains(a.links, c.k) && c.k.remove(c, why.Reason, c.r.clock.Elapsed()) {
		c.r.noteLocked(c.r.turnedLocked(c.k)) // the other tabs may all be in background
	}
	a.mu.Unlock()
	return owes
}

// shut finishes a fenced connection: its owner is told, a running Send is waited for, Conn.Close is called.
func (c *Connection) shut(why event.Closed) {
	c.tellOwner(why)
	c.settled()
	c.r.closeConn(c.conn, why)
}

// tellOwner calls what Attach was given, waits for it a bounded time, and survives its panics.
func (c *Connection) tellOwner(why event.Closed) {
	if c.ends == nil {
		return
	}
	r := c.r
	_, err := hostcall.Call(context.WithoutCancel(r.ctx), &r.calls.ended, c.k.a.id, r.cfg.HookTimeout, func(context.Context) (struct{}, error) {
		c.ends(why)
		return struct{}{}, nil
	})
	if err != nil {
		r.log.Warn("session: the end of a connection was not heard", "login", string(c.k.login), "err", err)
	}
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
