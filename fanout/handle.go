package fanout

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// HandleJSON decodes one frame in the reference encoding and handles it. What cannot be decoded ends the connection with
// protocol_error.
func (a *Attachment) HandleJSON(ctx context.Context, line []byte) error {
	f, err := event.DecodeClientFrame(line)
	if err != nil {
		err = a.violation(err.Error(), err)
	} else {
		err = a.handle(ctx, f)
	}
	return a.over(ctx, "handle JSON", err)
}

// Handle takes in one frame of the client. It returns a [*DetachedError] after the connection has ended, a
// [*ProtocolError] for a frame that ended it, or the store's error if a confirmed token could not be written. A frame that is nil,
// also a nil pointer, is an [*event.InvalidError] and has no effect. Handle does not keep the frame.
//
// With the first two it returns only after Conn.Close has, so that the host may close the socket at once and the client has
// been told why. It waits for that no longer than ctx and Config.CloseTimeout of the registry allow.
func (a *Attachment) Handle(ctx context.Context, f event.ClientFrame) error {
	return a.over(ctx, "handle", a.handle(ctx, f))
}

// over words the error of a call. Before that it waits until the client was told, if the connection is over.
func (a *Attachment) over(ctx context.Context, call string, err error) error {
	if err == nil {
		return nil
	}
	a.conn.AwaitClose(ctx)
	if err == ErrDetached { // by now it is known why
		err = cmp.Or(a.gone(), err)
	}
	fault.In("fanout", call, &err)
	return err
}

func (a *Attachment) handle(ctx context.Context, f event.ClientFrame) error {
	if a.conn.Fenced() {
		return ErrDetached
	}
	if event.ClientFrameName(f) == "" { // the host's mistake, not the client's
		return &event.InvalidError{Field: "frame", Reason: "nil"}
	}
	a.conn.Touch()
	if f, ok := f.(*event.Ack); ok {
		_, err := a.ack(f.Position)
		return err
	}
	if err := a.gone(); err != nil {
		return err
	}
	switch f := f.(type) {
	case *event.Nack:
		return a.nack(ctx, f)
	case *event.ResetAck:
		return a.resetAck(f.Position)
	case *event.TokenStored:
		return a.confirmToken(ctx)
	case *event.Background:
		a.conn.SetBackground(f.On)
		if !f.On {
			a.foreground()
		}
		return nil
	case *event.Ping:
		return a.enqueue(&event.Pong{Nonce: f.Nonce})
	}
	return a.violation("unknown frame", nil)
}

// confirmToken says that the device has stored its token. If its login has ended or its registry no longer serves, the
// connection has ended too, even if it was not closed yet.
func (a *Attachment) confirmToken(ctx context.Context) error {
	err := a.r.reg.ConfirmToken(ctx, a.conn)
	for _, end := range []error{session.ErrEnded, session.ErrNotFound, session.ErrClosed, session.ErrNoLease} {
		if errors.Is(err, end) {
			return cmp.Or(a.gone(), error(&DetachedError{Why: event.ClosedOf(err)}))
		}
	}
	return err
}

// gone returns a [*DetachedError] if the attachment has ended.
func (a *Attachment) gone() error {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	return a.goneLocked()
}

func (a *Attachment) goneLocked() error {
	if !a.closed {
		return nil
	}
	return &DetachedError{Why: *a.why}
}

func (a *Attachment) violation(reason string, err error) error {
	if !a.conn.Close(event.ProtocolError.Closed(0)) {
		return ErrDetached
	}
	return &ProtocolError{Reason: reason, Err: err}
}

// enqueue adds a control frame. A client that asks faster than it reads loses answers.
func (a *Attachment) enqueue(f event.Frame) error {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	if a.closed {
		return a.goneLocked()
	}
	if len(a.control) < maxControl {
		b := a.ownLocked()
		b.control = append(b.control, f)
	}
	a.wakeLocked()
	return nil
}

// ack moves the cursor, and reports whether the entry at p was waiting for it. A position that was never sent, or of
// another epoch, cannot come from a correct client.
func (a *Attachment) ack(p event.Position) (waited bool, err error) {
	a.hub.mu.Lock()
	if err := a.goneLocked(); err != nil {
		a.hub.mu.Unlock()
		return false, err
	}
	if a.phase == awaitResetAck {
		a.hub.mu.Unlock()
		return false, nil // sent before the client saw the Reset
	}
	if p.Epoch != a.epoch || p.Seq > max(a.sentLocked(), a.acked) {
		a.hub.mu.Unlock()
		return false, a.violation("ack of a position that was not sent", nil)
	}
	waited = slices.ContainsFunc(a.window, func(e *event.Sealed) bool { return e.Seq == p.Seq })
	due := a.ackedLocked(p.Seq)
	var d *round
	if a.rouseLocked() {
		d = a.r.newRound(1)
		d.addLocked(a, a.r.clock())
	}
	a.hub.mu.Unlock()
	if due {
		a.hub.receiptsSoon(a.r)
	}
	a.r.serve(a.hub, d)
	return waited, nil
}

// ackedLocked takes entries off the window and reports whether delivered receipts are due at once.
func (a *Attachment) ackedLocked(seq uint64) bool {
	n := 0
	for n < len(a.window) && a.window[n].Seq <= seq {
		e := a.window[n]
		a.bytes -= e.Size()
		if a.r.wantsReceipt(&e.Entry, a.hub.account) {
			a.r.oweLocked(a.hub, &e.Entry, a.epoch)
		}
		n++
	}
	if n == 0 && seq <= a.acked {
		return false
	}
	a.window = slices.Delete(a.window, 0, n)
	if len(a.window) > 0 || len(a.full) > 0 {
		a.progress = a.r.clock()
	}
	if len(a.window) == 0 {
		a.emptyLocked()
	}
	a.acked, a.blocked = max(a.acked, seq), false
	a.progressedLocked(seq)
	a.passSkippedLocked()
	if a.hub.receipts.len() > 0 {
		a.hub.watchLocked() // before the cursor is noted: a flush of cursors looks there for receipts
	}
	a.noteLocked()
	return a.hub.receipts.len() > 0 && a.hub.receipts.due(a.r.clock())
}

// noteLocked queues the cursor to be written soon.
func (a *Attachment) noteLocked() {
	if !a.noted {
		a.noted = true
		a.r.cursors.note(a)
	}
}

func (a *Attachment) cursorLocked() store.Cursor {
	return store.Cursor{
		Account: a.hub.account, Incarnation: a.conn.Incarnation(), Seq: a.acked, Sent: max(a.sentLocked(), a.acked),
	}
}

// nack acknowledges and tells the host that the last entry could not be processed: once, and only of an entry that was
// sent.
func (a *Attachment) nack(ctx context.Context, f *event.Nack) error {
	waited, err := a.ack(f.Position)
	if err != nil || !waited {
		return err
	}
	a.r.onNack(ctx, a.nacked(f.Position, f.Code))
	return nil
}

// nacked notes that the device cannot process an entry, and returns what the host is to be told.
func (a *Attachment) nacked(p event.Position, code string) Nacked {
	a.r.stats.nacked.Add(1)
	a.tell(Event{Kind: EventNacked, To: p, Code: code})
	return Nacked{Account: a.hub.account, Login: a.conn.Login(), Device: a.conn.Device(), Position: p, Code: code}
}

// tellNacks tells the host of entries that the connection has skipped. It waits for the host's code, so it is called on no
// goroutine that is lent.
func (a *Attachment) tellNacks() {
	a.hub.mu.Lock()
	nacks := a.nacks
	a.ownLocked().nacks = nil
	a.hub.mu.Unlock()
	for _, n := range nacks {
		a.r.onNack(a.r.ctx, n)
	}
}

// onNack calls the host's code and waits for it a bounded time.
func (r *Router) onNack(ctx context.Context, n Nacked) {
	if r.cfg.OnNack == nil {
		return
	}
	_, err := hostcall.Call(ctx, &r.nackCalls, n.Account, nackWait, func(context.Context) (struct{}, error) {
		r.cfg.OnNack(n)
		return struct{}{}, nil
	})
	if err == nil {
		return
	}
	log := r.log.With("account", string(n.Account), "err", err)
	if p, ok := errors.AsType[*hostcall.PanicError](err); ok {
		log = log.With("stack", string(p.Stack))
	}
	log.Error("fanout: OnNack")
}
