package fanout

import (
	"context"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// Attachment is one device's live connection to its account's inbox. It is safe for concurrent use.
type Attachment struct {
	r    *Router
	hub  *hub
	conn *session.Connection

	// All that follows is guarded by hub.mu.
	running  bool // a reader goroutine exists, or must not be started yet
	closed   bool
	phase    phase
	caughtUp bool
	blocked  bool   // the next entry does not fit into the window; an ack makes room
	noted    bool   // the cursor waits to be written
	filtered uint16 // how many entries of the last page from the store were not for this device

	epoch  event.Epoch
	pos    uint64 // covered by what was sent
	scan   uint64 // looked at; entries in (pos, scan] are not for this device
	acked  uint64
	resend uint64 // entries up to here may have been sent to the device before

	window   []*event.Sealed  // sent and not acknowledged, oldest first
	slots    [2]*event.Sealed // what window is in as long as it is short
	bytes    int              // sizes of the window
	progress time.Duration    // Router.clock of the last ack, or since when the window is not empty; while it is, meaningless
	behind   time.Duration    // since when pos is behind scan
	active   time.Duration    // when its user did something last
	began    time.Duration    // Router.clock of when what is being sent, or waits for room in a queue, was chosen; 0: nothing is

	*business // never nil; an attachment at rest has Router.none, which is not to be written to
}

// business is what an attachment needs beside its place in the inbox, but not at rest.
type business struct {
	limits *limits // the router's, unless the connection has its own
	held   bool    // until Start is called

	reset       event.Position
	statesAfter uint64 // registers set later than this are sent first
	statesNext  string

	parked  []event.Position // entries that the device does not get, rising
	doubted uint64           // entries up to here are in doubt if they are old enough; see session.Registry.Doubt
	suspect uint64           // until this is acknowledged the device counts as one in trouble; 0: it does not
	careful uint64           // if not 0, entries go one at a time until suspect is acknowledged

	control []event.Frame
	live    []liveEvent

	skip  uint64   // the last entry that the connection has skipped, as long as the cursor has not passed it
	nacks []Nacked // of entries that it has skipped, of which the host has to be told

	full    []event.Frame // the batch that the connection's queue had no room for
	retries uint8         // of the batch since the reader began
	drained bool          // the connection has said that it has room since it was called last

	why *event.Closed // why the attachment has ended
}

// limits are what one connection is held to.
type limits struct {
	window, windowBytes int
	ackWait, frameWrite time.Duration
}

// ownLocked returns the attachment's own business, to be written to.
func (a *Attachment) ownLocked() *business {
	if a.business == &a.r.none {
		a.business = &business{limits: a.limits}
	}
	return a.business
}

// restLocked drops a business in which nothing is left.
func (a *Attachment) restLocked() {
	b := a.business
	if a.phase == sendData && len(b.control)+len(b.live)+len(b.parked)+len(b.full)+len(b.nacks) == 0 && b.suspect == 0 && b.skip == 0 && b.doubted <= a.pos &&
		!b.held && b.limits == a.r.none.limits {
		a.business = &a.r.none
	}
}

// phase says what may be sent next.
type phase uint8

const (
	sendStates phase = iota // conversation state first
	sendData
	awaitResetAck
)

type liveEvent struct {
	e    *event.Sealed
	till time.Duration // Router.clock
}

// Login returns the login that the attachment belongs to.
func (a *Attachment) Login() event.LoginID { return a.conn.Login() }

// Device returns the device that the attachment belongs to.
func (a *Attachment) Device() event.DeviceID { return a.conn.Device() }

// Touch notes a sign of life: any bytes from the client. Handle does so by itself.
func (a *Attachment) Touch() { a.conn.Touch() }

// Detach tells the engine that the connection is gone. Late calls have no effect on a newer connection.
func (a *Attachment) Detach() { a.conn.Detach() }

// Close ends the connection for a reason of the host's. The login lives on. It does not wait for Conn.Close: AwaitClose and
// the next call of Handle do.
func (a *Attachment) Close(why event.Closed) { a.conn.Close(why) }

// AwaitClose waits, if the connection has ended, until Conn.Close has returned: from then on the client was told why, and the
// host may close the socket. It returns at once if the connection lives, and waits no longer than ctx, and Config.CloseTimeout
// of the registry, allow.
func (a *Attachment) AwaitClose(ctx context.Context) { a.conn.AwaitClose(ctx) }

// Start begins delivery on a connection that was attached with [AttachRequest.Hold], and does nothing otherwise. It may be
// called again, and after the end.
func (a *Attachment) Start() {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	if !a.held || a.closed {
		return
	}
	a.business.held = false
	a.progress = a.r.clock()
	a.running = false
	a.wakeLocked()
}

// ProtocolError is the error of a frame that a correct client does not send. The connection has been closed with reason
// protocol_error.
type ProtocolError struct {
	Reason string
	Err    error // what was wrong with it, such as an [*event.FrameError]; nil: it came at the wrong time
}

// Unwrap returns Err.
func (e *ProtocolError) Unwrap() error { return e.Err }

// Closed returns what the client was told.
func (e *ProtocolError) Closed() event.Closed { return event.ProtocolError.Closed(0) }

func (e *ProtocolError) Error() string { return "fanout: protocol error: " + e.Reason }

// DetachedError reports that the attachment has ended, and why. Its frames no longer have an effect.
type DetachedError struct {
	Why event.Closed // what the connection was told, or will be
}

// Closed returns Why: what to tell the client. Conn.Close has been called with it, or will be.
func (e *DetachedError) Closed() event.Closed { return e.Why }

func (e *DetachedError) Error() string {
	return "fanout: attachment has ended: " + string(e.Why.Reason)
}

// Is makes errors.Is(err, ErrDetached) true.
func (e *DetachedError) Is(target error) bool { return target == ErrDetached }

// emptyLocked drops the window. An idle attachment keeps no buffer for it and no entry: slots may still have those that it had
// before the window got longer.
func (a *Attachment) emptyLocked() {
	a.slots = [2]*event.Sealed{}
	a.window = a.slots[:0]
}

// resetLocked stops delivery until the client has acknowledged that it continues at seq.
func (a *Attachment) resetLocked(why event.ResetReason, from event.Position, seq uint64) {
	a.phase = awaitResetAck
	b := a.ownLocked()
	b.reset = event.Position{Epoch: a.epoch, Seq: seq}
	a.pos, a.scan = seq, seq // not where the device says it is: that may be anywhere
	a.emptyLocked()
	a.bytes, a.blocked = 0, false
	a.progress = a.r.clock()
	b.control = append(b.control, &event.Reset{Reason: why, From: from, To: b.reset})
	a.r.stats.resets.Add(1)
	a.r.stats.cause(Cause(why), 1)
	a.tell(Event{Kind: EventReset, From: from, To: a.reset, Cause: Cause(why)})
}

func (a *Attachment) resetAck(p event.Position) error {
	a.hub.mu.Lock()
	if err := a.goneLocked(); err != nil {
		a.hub.mu.Unlock()
		return err
	}
	if a.phase != awaitResetAck || p != a.reset {
		a.hub.mu.Unlock()
		return a.violation("reset acknowledged that was not asked for", nil)
	}
	defer a.hub.mu.Unlock()
	a.pos, a.scan, a.acked = p.Seq, p.Seq, max(a.acked, p.Seq)
	a.progress = a.r.clock()
	a.progressedLocked(p.Seq)
	b := a.ownLocked()
	a.phase, b.statesAfter, b.statesNext = sendStates, 0, ""
	a.noteLocked()
	a.wakeLocked()
	return nil
}

// ended is called once when the connection has ended, for whatever reason.
func (a *Attachment) ended(why event.Closed) {
	h := a.hub
	h.mu.Lock()
	a.closed = true
	poison := a.attemptLocked(why.Reason)
	if len(a.live) > 0 {
		a.dropLocked(len(a.live), CauseEnded)
	}
	if i := slices.Index(h.atts, a); i >= 0 {
		h.atts = slices.Delete(h.atts, i, i+1)
		if a.noted || a.pos > a.acked {
			a.noted = false
			a.r.cursors.put(a.cursorLocked())
		}
	}
	if len(h.atts) == 0 {
		a.r.dropTailLocked(h)
	}
	a.window, a.slots, a.business = nil, [2]*event.Sealed{}, &business{limits: a.r.none.limits, nacks: a.nacks, why: &why}
	h.mu.Unlock()
	if poison != nil {
		a.report(poison)
	}
	h.release()
}

// slow closes a connection that makes no progress.
func (a *Attachment) slow(why Cause) {
	if !a.conn.Close(event.Slow.Closed(0)) {
		return
	}
	a.r.stats.slow.Add(1)
	a.r.stats.cause(why, 1)
	a.tell(Event{Kind: EventSlow, Cause: why})
}

// lateLocked says how the device has made no progress for too long; empty: it has made some. A Send may go on as long as
// acks come in meanwhile. One whose reader waits for the store is not late, and time before sends does not count, in which
// nothing could be sent; see [session.Registry.SendsSince].
func (a *Attachment) lateLocked(now, sends time.Duration) Cause {
	l, progress := a.limits, max(a.progress, sends)
	switch {
	case a.held:
	case a.began > 0 && now-max(a.began, progress) >= l.frameWrite:
		return CauseFrameWrite
	case (len(a.window) > 0 || a.phase == awaitResetAck) && now-progress >= l.ackWait:
		return CauseAckWait
	}
	return ""
}

func (a *Attachment) coverDueLocked(now time.Duration) bool {
	return a.scan > a.pos && (a.scan-a.pos >= coverEntries || now-a.behind >= coverAge)
}

// atRestLocked reports that time alone changes nothing.
func (a *Attachment) atRestLocked() bool {
	return len(a.window)+len(a.full) == 0 && a.scan == a.pos && a.phase != awaitResetAck && (!a.running || a.held)
}
