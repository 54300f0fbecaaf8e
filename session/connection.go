package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/transport"
)

// Connection is a [transport.Conn] bound to a login. It is the only way to send on it: once the connection is fenced,
// because its login ended or a newer connection took over, no Send begins any more. It is safe for concurrent use, but
// Send is for one goroutine at a time.
type Connection struct {
	r    *Registry
	k    *link // its login's; gone from the account when the login has ended
	conn transport.Conn
	ends func(event.Closed) // fan-out's; see seam.Delivery. Nil: nobody has to know

	generation uint64
	lease      uint64 // of the node, when it was bound; 0: there are no leases
	extra      *extra // nil: there is nothing of it

	seen       atomic.Int64 // clock.Elapsed at the last sign of life
	background atomic.Bool
	restored   bool
	instant    bool // conn says that its Send never waits

	sending atomic.Pointer[sendContext] // of the Send that runs, or looks at the fence; nil: none does
	entered atomic.Bool                 // it has passed the fence, and is in the host's code
	ending  atomic.Pointer[ending]      // nil: no one has fenced it
	// arrival is Registry.arriving until Attach has succeeded, then nil; or with what the connection has ended before.
	arrival atomic.Pointer[event.Closed]
}

// ending is the end of a connection that was fenced.
type ending struct {
	why    event.Closed
	at     atomic.Int64  // clock.Elapsed; 0: just now
	told   sync.Once     // fan-out was
	quiet  chan struct{} // closed when a Send has ended, or was refused, that saw or may have seen the fence: no other one begins
	once   sync.Once     // for quiet
	closed chan struct{} // closed when Conn.Close has returned, or has taken longer than Config.CloseTimeout
}

// extra is what few connections have.
type extra struct {
	token  event.ResumeToken // to hand out; none: unchanged
	tab    string            // empty: not named
	parked *parked           // what was parked for the device when it attached
	moves  uint64            // which displacement in turns it came by; 0: it displaced nobody. See takeover
	at     time.Duration     // Registry.elapsed when it came
	idle   time.Duration     // bound of its own; 0: Config.IdleTimeout; negative: none
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

// Token returns the new resume token that the device must be given, or none if it keeps its old one.
func (c *Connection) Token() event.ResumeToken {
	if c.extra == nil {
		return event.ResumeToken{}
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

// idleTimeout is how long nothing may be heard of the connection; 0 and less: there is no bound.
func (c *Connection) idleTimeout() time.Duration {
	if c.extra != nil && c.extra.idle != 0 {
		return c.extra.idle
	}
	return c.r.cfg.IdleTimeout
}

// Restored reports that the login's device lived through an end of the engine that was not in order, or was served by another
// node and that nothing was sent on the login's connections since: what was sent to the device may not be known. See
// [Registry.Doubt].
func (c *Connection) Restored() bool { return c.restored }

// NonBlocking reports that Send never waits for the network; see [transport.NonBlocker].
func (c *Connection) NonBlocking() bool { return c.instant }

// Waits reports that a Send would wait now, whatever the connection is like: it is not certain whether the node still has its
// lease. It is for fan-out, which then sends on no goroutine but its own.
func (c *Connection) Waits() bool { return c.r.nodes.standing(c.lease) == leaseDoubt }

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

// Send passes frames to the connection unless it is fenced, in which case it returns [ErrFenced]. The context that the
// host's Send gets ends with ctx, and with cause ErrFenced as soon as the connection is fenced; that of a connection that
// never waits is ctx itself. A panic of the host's Send is returned as an error, which wraps one with a method Stack() []byte.
func (c *Connection) Send(ctx context.Context, frames []event.Frame) error {
	err := c.send(ctx, frames)
	fault.In("session", "send", &err)
	return err
}

func (c *Connection) send(ctx context.Context, frames []event.Frame) (err error) {
	if err := c.r.nodes.await(ctx, c.lease); err != nil {
		return err
	}
	if !c.arrived() {
		return ErrFenced
	}
	running := &c.r.instant
	if !c.instant {
		running = &sendContext{Context: ctx, began: time.Now()}
		ctx = running
	}
	c.sending.Store(running)
	if c.ending.Load() != nil { // fence looks at sending after it has set this
		c.sent()
		return ErrFenced
	}
	returned := false // not if the host ends the goroutine, as a test that fails does
	defer func() {
		if p := recover(); p != nil || !returned {
			err = fmt.Errorf("Conn.Send %w", hostcall.Panicked(p))
		}
		fault := err != nil && c.isFault(ctx, err)
		c.sent()
		if !c.instant {
			running.end(nil)
		}
		if fault {
			c.sendFailed(err)
		}
	}()
	if c.restored {
		c.k.unsure.Store(false)
	}
	c.entered.Store(true)
	err, returned = hostcall.Asked(c.conn.Send(ctx, frames)), true
	return err
}

// sent notes that no Send runs any more, and wakes who waits for that; see settled.
func (c *Connection) sent() {
	c.entered.Store(false)
	c.sending.Store(nil)
	if e := c.ending.Load(); e != nil { // settled looks at sending after this was set
		e.once.Do(func() { close(e.quiet) })
	}
}

// Fenced reports that the connection has ended: no Send begins on it any more.
func (c *Connection) Fenced() bool { return c.ending.Load() != nil }

// stop stops all further sends and ends the context of one that runs. first reports whether this call did it, and owes
// whether the caller has to close the connection for that: one that is still arriving is left to its Attach, which hands it
// back to the host and says why.
//
// Either stop or arrive is first, whichever way they overlap: if arrive is, Attach succeeds, and the connection is closed as
// any other one.
func (c *Connection) stop(why event.Closed) (first, owes bool) {
	e := &ending{why: why, quiet: make(chan struct{}), closed: make(chan struct{})}
	if !c.ending.CompareAndSwap(nil, e) {
		return false, false
	}
	e.at.Store(int64(c.r.clock.Elapsed()))
	if s := c.sending.Load(); s != nil && !c.instant {
		s.end(ErrFenced)
	}
	if owes = c.hadArrived(e); owes {
		c.r.stats.closed.add(why.Reason)
	} else {
		close(e.closed) // nobody calls Conn.Close
	}
	return true, owes
}

// hadArrived decides, once for all who ask, whether a connection that is fenced had arrived before.
func (c *Connection) hadArrived(e *ending) bool {
	c.arrival.CompareAndSwap(&c.r.arriving, &e.why)
	return c.arrived()
}

// tell tells fan-out of the end of a connection that is fenced. When it returns fan-out knows, whoever has told it. The caller
// holds no lock.
func (c *Connection) tell() {
	if c.ends == nil {
		return
	}
	if e := c.ending.Load(); c.hadArrived(e) {
		e.told.Do(func() { c.ends(e.why) })
	}
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

// settled waits until no Send can begin on a connection that is fenced. One that had looked at the fence just before is
// waited for until it has entered the host's code, and then until it has returned, or has begun longer ago than fenceGap:
// nobody waits for a Send that blocks.
func (c *Connection) settled() {
	for left := c.unsettled(); left > 0; left = c.unsettled() {
		t := time.NewTimer(left)
		select {
		case <-c.ending.Load().quiet:
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// unsettled returns how long it may take until no Send can begin on a connection that is fenced; 0 and less: none can.
func (c *Connection) unsettled() time.Duration {
	s := c.sending.Load()
	switch {
	case s == nil:
		return 0
	case !c.entered.Load():
		return fenceGap
	case !c.instant:
		return fenceGap - time.Since(s.began)
	}
	at := c.ending.Load().at.Load()
	if at == 0 {
		return fenceGap
	}
	return fenceGap - (c.r.clock.Elapsed() - time.Duration(at))
}

// Close ends the connection for the given reason; the login lives on and has a resume window. It waits neither for a Send
// that runs nor for Conn.Close. It reports whether this call ended the connection: one that has ended already stays as it
// is.
func (c *Connection) Close(why event.Closed) bool {
	if !c.detach(why) {
		return false
	}
	c.r.owned.Do(c.closeConn)
	return true
}

// Detach tells the engine that the connection is gone. It is safe to call late: a newer connection of the login is not
// touched. Conn.Close is called all the same.
func (c *Connection) Detach() { c.Close(event.Lost.Closed(0)) }

// AwaitClose waits, if the connection has ended, until Conn.Close has returned: then the client was told why. A Close that
// takes longer than Config.CloseTimeout is not waited for. ctx bounds the wait, too.
func (c *Connection) AwaitClose(ctx context.Context) {
	e := c.ending.Load()
	if e == nil {
		return
	}
	select {
	case <-e.closed:
	case <-ctx.Done():
	}
}

// end is Close that waits. It reports whether this call ended the connection.
func (c *Connection) end(why event.Closed) bool {
	if !c.detach(why) {
		return false
	}
	c.closeConn()
	return true
}

// detach fences the connection, tells fan-out and, if it is still its login's current one, begins the resume window. It
// reports whether the caller has to close it.
//
// Fan-out is told first: whoever binds another connection of the login finds this one in the link, and tells it himself, or
// it is told already.
func (c *Connection) detach(why event.Closed) bool {
	first, owes := c.stop(why)
	c.tell() // also if another goroutine is about to: the one that closes all has to know that fan-out has noted what was sent
	if !first {
		return false
	}
	a := c.k.a
	a.mu.Lock()
	a.leavesLocked(c)
	if slices.Contains(a.links, c.k) && c.k.remove(c, why.Reason, c.r.clock.Elapsed()) {
		c.r.noteLocked(c.r.turnedLocked(c.k)) // the other tabs may all be in background
	}
	a.mu.Unlock()
	return owes
}

// closeConn calls Close of the host's connection, however many of them hang, and waits for it for Config.CloseTimeout.
func (c *Connection) closeConn() {
	r, e := c.r, c.ending.Load()
	defer close(e.closed)
	c.noteClose(e.why.Reason)
	_, err := hostcall.Always(context.Background(), &r.calls.closes, c.k.a.id, r.cfg.CloseTimeout, func(context.Context) (none, error) {
		return none{}, c.conn.Close(e.why)
	})
	if err == nil {
		return
	}
	r.hookFailed(HookClose, c.k.a.id, c.k.login, err)
	log := c.log().With("hook", string(HookClose), "reason", string(e.why.Reason))
	if _, ok := errors.AsType[*hostcall.PanicError](err); ok {
		log.Error("session: Conn.Close panicked", trace.Err(err))
	} else if errors.Is(err, hostcall.ErrTimeout) {
		log.Warn("session: Conn.Close hangs", trace.Err(err))
	} else {
		log.Info("session: Conn.Close failed", trace.Err(err))
	}
}

// log returns a logger for lines about the connection.
func (c *Connection) log() *slog.Logger {
	return c.r.log.With("account", string(c.k.a.id), "login", string(c.k.login), "device", string(c.k.device))
}

// isFault reports whether a Send has failed although it was not to end, and the entry is for the client.
func (c *Connection) isFault(ctx context.Context, err error) bool {
	if _, panicked := errors.AsType[*hostcall.PanicError](err); panicked {
		return true
	}
	_, skips := errors.AsType[*transport.SkipError](err)
	return !skips && !c.Fenced() && ctx.Err() == nil && !(c.instant && errors.Is(err, transport.ErrFull))
}

// sendFailed counts a Send that has failed. Fan-out tells of it and logs it; without fan-out it is logged here.
func (c *Connection) sendFailed(err error) {
	_, panicked := errors.AsType[*hostcall.PanicError](err)
	c.r.stats.sendFailures.Add(1)
	if panicked {
		c.r.stats.sendPanics.Add(1)
	}
	switch {
	case c.ends != nil:
	case panicked:
		c.log().Error("session: Conn.Send panicked", trace.Err(err))
	default:
		c.log().Info("session: Conn.Send failed", trace.Err(err))
	}
}
