package fanout

import (
	"context"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// Attachment is one device's live connection to its account's inbox. It is safe for concurrent use.
type Attachment struct {
	r    *Router
	hub  *hub
	conn *session.Connection

	// All that follows is guarded by hub.mu.
	running bool // a reader goroutine exists, or must not be started yet
	closed  bool
	phase   phase

	epoch  event.Epoch
	pos    uint64 // covered by what was sent
	scan   uint64 // looked at; entries in (pos, scan] are not for this device
	acked  uint64
	resend uint64 // entries up to here may have been sent to the device before
	reset  event.Position

	statesAfter uint64 // registers set later than this are sent first
	statesNext  string
	caughtUp    bool

	window   []*event.Sealed // sent and not acknowledged, oldest first
	bytes    int             // sizes of the window
	blocked  bool            // the next entry does not fit into the window; an ack makes room
	progress time.Time       // of the last ack, or since when the window is not empty
	skipped  time.Time       // since when pos is behind scan

	control []event.Frame
	live    []liveEvent
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
	till time.Time
}

// Login returns the login that the attachment belongs to.
func (a *Attachment) Login() event.LoginID { return a.conn.Login() }

// Device returns the device that the attachment belongs to.
func (a *Attachment) Device() event.DeviceID { return a.conn.Device() }

// Touch notes a sign of life: any bytes from the client. Handle does so by itself.
func (a *Attachment) Touch() { a.conn.Touch() }

// Detach tells the engine that the connection is gone. Late calls have no effect on a newer connection.
func (a *Attachment) Detach() { a.conn.Detach() }

// Close ends the connection for a reason of the host's. The login lives on.
func (a *Attachment) Close(why event.Closed) { a.conn.Close(why) }

// ProtocolError is the error of a frame that a correct client does not send. The connection has been closed.
type ProtocolError struct{ Reason string }

func (e *ProtocolError) Error() string { return "fanout: protocol error: " + e.Reason }

// HandleJSON decodes one frame in the reference encoding and handles it. What cannot be decoded ends the connection with
// protocol_error.
func (a *Attachment) HandleJSON(ctx context.Context, line []byte) error {
	f, err := event.DecodeClientFrame(line)
	if err != nil {
		return a.violation(err.Error())
	}
	return a.Handle(ctx, f)
}

// Handle takes in one frame of the client. It returns [ErrDetached] after the connection has ended, a [*ProtocolError]
// for a frame that ended it, or the store's error if a confirmed token could not be written.
func (a *Attachment) Handle(ctx context.Context, f event.ClientFrame) error {
	if a.gone() {
		return ErrDetached
	}
	a.conn.Touch()
	switch f := f.(type) {
	case event.Ack:
		_, err := a.ack(f.Position)
		return err
	case event.Nack:
		return a.nack(f)
	case event.ResetAck:
		return a.resetAck(f.Position)
	case event.TokenStored:
		return a.r.reg.ConfirmToken(ctx, a.conn)
	case event.Background:
		a.conn.SetBackground(f.On)
		return nil
	case event.Ping:
		return a.enqueue(&event.Pong{Nonce: f.Nonce})
	}
	return a.violation("unknown frame")
}

func (a *Attachment) gone() bool {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	return a.closed
}

func (a *Attachment) violation(reason string) error {
	a.conn.Close(event.ProtocolError.Closed(0))
	return &ProtocolError{Reason: reason}
}

// enqueue adds a control frame. A client that asks faster than it reads loses answers.
func (a *Attachment) enqueue(f event.Frame) error {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	if a.closed {
		return ErrDetached
	}
	if len(a.control) < maxControl {
		a.control = append(a.control, f)
	}
	a.wakeLocked()
	return nil
}

// ack moves the cursor, and reports whether the entry at p was waiting for it. A position that was never sent, or of
// another epoch, cannot come from a correct client.
func (a *Attachment) ack(p event.Position) (waited bool, err error) {
	a.hub.mu.Lock()
	if a.closed {
		a.hub.mu.Unlock()
		return false, ErrDetached
	}
	if a.phase == awaitResetAck {
		a.hub.mu.Unlock()
		return false, nil // sent before the client saw the Reset
	}
	if p.Epoch != a.epoch || p.Seq > max(a.pos, a.acked) {
		a.hub.mu.Unlock()
		return false, a.violation("ack of a position that was not sent")
	}
	waited = slices.ContainsFunc(a.window, func(e *event.Sealed) bool { return e.Seq == p.Seq })
	due := a.ackedLocked(p.Seq)
	a.hub.mu.Unlock()
	if due {
		a.hub.receiptsSoon(a.r)
	}
	return waited, nil
}

// ackedLocked takes entries off the window and reports whether delivered receipts are due at once.
func (a *Attachment) ackedLocked(seq uint64) bool {
	now := time.Now()
	n := 0
	for n < len(a.window) && a.window[n].Seq <= seq {
		e := a.window[n]
		a.bytes -= e.Size()
		if wantsDelivered(&e.Entry, a.hub.account) {
			a.hub.receipts.add(e)
		}
		n++
	}
	if n == 0 && seq <= a.acked {
		return false
	}
	a.window = slices.Delete(a.window, 0, n)
	if len(a.window) == 0 {
		a.window = nil // an idle attachment keeps no buffer
	}
	a.acked, a.progress, a.blocked = max(a.acked, seq), now, false
	if a.hub.receipts.len() > 0 {
		a.hub.watchLocked() // before the cursor is noted: a flush of cursors looks there for receipts
	}
	a.noteLocked()
	a.wakeLocked()
	return a.hub.receipts.due(now)
}

// noteLocked has the cursor written soon.
func (a *Attachment) noteLocked() {
	a.r.cursors.put(store.Cursor{
		Account: a.hub.account, Incarnation: a.conn.Incarnation(), Seq: a.acked, Sent: max(a.pos, a.acked),
	})
}

// nack acknowledges and tells the host that the last entry could not be processed: once, and only of an entry that was
// sent.
func (a *Attachment) nack(f event.Nack) error {
	waited, err := a.ack(f.Position)
	if err != nil || !waited {
		return err
	}
	a.r.stats.nacked.Add(1)
	if a.r.cfg.OnNack != nil {
		a.r.cfg.OnNack(Nacked{
			Account: a.hub.account, Login: a.conn.Login(), Device: a.conn.Device(), Position: f.Position, Code: f.Code,
		})
	}
	return nil
}

// resetLocked stops delivery until the client has acknowledged that it continues at seq.
func (a *Attachment) resetLocked(why event.ResetReason, from event.Position, seq uint64) {
	a.phase = awaitResetAck
	a.reset = event.Position{Epoch: a.epoch, Seq: seq}
	a.pos, a.scan = seq, seq // not where the device says it is: that may be anywhere
	a.window, a.bytes, a.blocked = nil, 0, false
	a.progress = time.Now()
	a.control = append(a.control, &event.Reset{Reason: why, From: from, To: a.reset})
	a.r.stats.resets.Add(1)
}

func (a *Attachment) resetAck(p event.Position) error {
	a.hub.mu.Lock()
	if a.closed {
		a.hub.mu.Unlock()
		return ErrDetached
	}
	if a.phase != awaitResetAck || p != a.reset {
		a.hub.mu.Unlock()
		return a.violation("reset acknowledged that was not asked for")
	}
	defer a.hub.mu.Unlock()
	a.pos, a.scan, a.acked = p.Seq, p.Seq, max(a.acked, p.Seq)
	a.progress = time.Now()
	a.phase, a.statesAfter, a.statesNext = sendStates, 0, ""
	a.noteLocked()
	a.wakeLocked()
	return nil
}

// ended is called once when the connection has ended, whoever ended it.
func (a *Attachment) ended(event.Closed) {
	h := a.hub
	h.mu.Lock()
	a.closed = true
	if i := slices.Index(h.atts, a); i >= 0 {
		h.atts = slices.Delete(h.atts, i, i+1)
		if a.pos > a.acked {
			a.noteLocked()
		}
	}
	if len(h.atts) == 0 {
		a.r.dropTailLocked(h)
	}
	a.window, a.live, a.control = nil, nil, nil
	h.mu.Unlock()
	h.release()
}

// stuckLocked reports whether the device has made no progress for too long.
func (a *Attachment) stuckLocked(now time.Time) bool {
	return len(a.window) > 0 && now.Sub(a.progress) >= a.r.cfg.AckWait ||
		a.phase == awaitResetAck && now.Sub(a.progress) >= a.r.cfg.AckWait
}

func (a *Attachment) coverDueLocked(now time.Time) bool {
	return a.scan > a.pos && (a.scan-a.pos >= coverEntries || now.Sub(a.skipped) >= coverAge)
}

// atRestLocked reports that time alone changes nothing.
func (a *Attachment) atRestLocked() bool {
	return len(a.window) == 0 && a.scan == a.pos && a.phase != awaitResetAck
}
