package fanout

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/seam"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport"
)

// AttachRequest binds a connection to a login and starts delivery. The host has authenticated the connection as the
// account.
type AttachRequest struct {
	Account event.Account
	// Login, Token, Vouched, Device, Tab and Description say whose connection it is and what its device is like; see
	// [session.AttachRequest].
	Login       event.LoginID
	Token       event.ResumeToken
	Vouched     bool `json:"-"`
	Device      event.DeviceID
	Tab         string
	Description *session.Description
	// Position is up to where the device has everything. Nil: from where it acknowledged last.
	Position *event.Position

	// Window, WindowBytes, AckWait and FrameWrite are those of [Config] for this connection, such as an MQTT client's Receive
	// Maximum. Zero means those of the router. A window has at most 65,535 entries, and WindowBytes at most 4 MiB or those of
	// the router, whichever is more. Times are from 10 ms to 100 years; those shorter than two seconds cost a look at the account
	// twice in each of them.
	Window, WindowBytes int
	AckWait, FrameWrite time.Duration
	// IdleTimeout detaches the connection if nothing was heard of it for this long; see [session.AttachRequest].
	IdleTimeout time.Duration
	// Hold: nothing is sent, not even the Welcome, until [Attachment.Start] is called, so that the host can first answer the
	// client in its own protocol. All else holds as for any attached connection. Until then IdleTimeout counts, and AckWait and
	// FrameWrite do not.
	Hold bool
}

// Bounds of what a connection may have of its own.
const (
	maxWindow      = 65_535 // MQTT's Receive Maximum
	maxWindowBytes = 4 << 20
)

// limits returns what the connection is held to: r's if it has nothing of its own.
func (q *AttachRequest) limits(r *Router) (*limits, error) {
	var check bounds.Check
	check.Count("window", int64(q.Window), 1, maxWindow, bounds.Zero)
	check.Bytes("windowBytes", int64(q.WindowBytes), 1, max(maxWindowBytes, int64(r.cfg.WindowBytes)), bounds.Zero)
	checkWaits(&check, "ackWait", q.AckWait, bounds.Zero)
	checkWaits(&check, "frameWrite", q.FrameWrite, bounds.Zero)
	if err := check.Err(); err != nil {
		return nil, err
	}
	l := limits{
		window: cmp.Or(q.Window, r.cfg.Window), windowBytes: cmp.Or(q.WindowBytes, r.cfg.WindowBytes),
		ackWait: cmp.Or(q.AckWait, r.cfg.AckWait), frameWrite: cmp.Or(q.FrameWrite, r.cfg.FrameWrite),
	}
	if l == *r.none.limits {
		return r.none.limits, nil
	}
	return &l, nil
}

// session returns what the registry has to know.
func (q *AttachRequest) session() session.AttachRequest {
	return session.AttachRequest{
		Account: q.Account, Login: q.Login, Token: q.Token, Vouched: q.Vouched, Device: q.Device, Tab: q.Tab,
		Description: q.Description, IdleTimeout: q.IdleTimeout,
	}
}

// Attach binds a connection to a login and begins to deliver what its device has not acknowledged, then what comes.
//
// Errors are [ErrClosed], those of [session.Registry.Attach], and those of the store. On any of them the connection is the
// caller's: it is not closed, and nothing is sent on it. If Attach succeeds, Conn.Close is called exactly once.
//
// A Position above the cursor counts as an ack; one below it has entries sent again. One that is of no use (trimmed,
// ahead of the inbox, of another epoch) is answered with a Reset frame.
func (r *Router) Attach(ctx context.Context, q AttachRequest, conn transport.Conn) (_ *Attachment, err error) {
	defer fault.In("fanout", "attach", &err)
	return r.attach(ctx, q, conn, nil)
}

// attach is Attach, without the name of the call in its errors. expected reports whether the caller goes on after an error; nil: it
// does not.
func (r *Router) attach(ctx context.Context, q AttachRequest, conn transport.Conn, expected func(error) bool) (*Attachment, error) {
	own, err := q.limits(r)
	if r.ctx.Err() != nil {
		err = ErrClosed
	}
	if err != nil { // the registry counts it
		refused := q.session()
		refused.Delivery = &seam.Delivery[*session.Connection]{Fault: err}
		_, err = r.reg.Attach(ctx, refused, conn)
		return nil, err
	}
	h := r.hold(q.Account)
	a := &Attachment{r: r, hub: h, active: r.clock(), business: &business{limits: own, held: q.Hold}}
	h.mu.Lock()
	parks := h.parks
	h.mu.Unlock()
	bind := q.session()
	bind.Delivery = &seam.Delivery[*session.Connection]{
		Begin: func(ctx context.Context, c *session.Connection) error {
			return r.begin(ctx, a, q.Position, a.join(c, parks))
		},
		Ended: a.ended, Expected: expected,
	}
	_, err = r.reg.Attach(ctx, bind, conn)
	if err != nil {
		a.ended(event.ClosedOf(err)) // the registry does not call it: the connection has never been attached
		return nil, err
	}
	if d, ok := conn.(transport.Drainer); ok && a.conn.NonBlocking() {
		a.notifyDrained(ctx, d)
	}
	if gap := own.gap(); gap < r.none.limits.gap() {
		r.owned.Go(func() { a.sweepOften(gap) })
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !a.held {
		a.running = false
		a.wakeLocked()
	}
	return a, nil
}

// join makes the attachment known to its hub, and reports whether entries were parked since that was last looked at.
func (a *Attachment) join(c *session.Connection, parks uint32) bool {
	h := a.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	a.conn, a.window = c, a.slots[:0]
	a.running = true // no reader starts before the connection has arrived
	for _, o := range h.atts {
		// One that is fenced has not yet noted what it sent.
		if o.conn.Incarnation() == c.Incarnation() {
			a.resend = max(a.resend, o.pos)
		}
	}
	h.atts = append(h.atts, a)
	a.r.attached.Add(1)
	return h.parks != parks
}

// begin finds out where delivery starts and starts it. parks says that entries may have been parked while it attached.
func (r *Router) begin(ctx context.Context, a *Attachment, claimed *event.Position, parks bool) error {
	h := a.hub
	cur, known, err := r.cursor(ctx, h.account, a.conn.Incarnation())
	if err != nil {
		return err
	}
	page, err := r.st.Read(ctx, h.account, store.ReadOptions{})
	if err != nil {
		return err
	}
	head := page.Head
	if !known {
		cur = store.Cursor{Seq: head.Trim, Sent: head.Trim}
	}
	cur.Seq = min(cur.Seq, head.Seq)
	parked := a.conn.Parked()
	if parks {
		if parked, err = r.reg.Parked(ctx, h.account, a.conn.Incarnation()); err != nil {
			return err
		}
	}
	h.mu.Lock()
	for _, p := range parked { // beside those of calls since the attachment is known
		a.passLocked(p)
	}
	h.mu.Unlock()
	owed, err := r.claimed(ctx, a, cur.Seq, claimed, head)
	if err != nil {
		return err
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	if r.ctx.Err() != nil { // Close may have looked for connections before this one had joined
		return ErrClosed
	}
	r.reachedLocked(h, event.Position{Epoch: head.Epoch, Seq: head.Seq})
	a.epoch, a.acked = head.Epoch, cur.Seq
	a.resend = max(a.resend, cur.Sent, cur.Seq)
	if a.conn.Restored() && head.Seq > a.resend {
		if r.doubtful {
			a.ownLocked().doubted = head.Seq
		} else { // the device's later connections have to know, too
			a.resend = head.Seq
			r.cursors.put(store.Cursor{Account: h.account, Incarnation: a.conn.Incarnation(), Seq: cur.Seq, Sent: head.Seq})
		}
	}
	start := event.Position{Epoch: head.Epoch, Seq: cur.Seq}
	if claimed != nil {
		start = *claimed
	}
	a.progress = r.clock()
	if claimed != nil { // a device that names no position may know no state either, such as one that is new
		a.ownLocked().statesAfter = start.Seq
	}
	a.pos, a.scan = start.Seq, start.Seq
	switch {
	case start.Epoch != head.Epoch:
		a.resetLocked(event.ResetEpoch, start, max(head.Trim, cur.Seq))
	case start.Seq > head.Seq:
		a.resetLocked(event.ResetAhead, start, max(head.Trim, cur.Seq))
	case start.Seq < head.Trim:
		a.resetLocked(event.ResetTrimmed, start, head.Trim)
	case start.Seq > a.acked:
		a.acked = start.Seq
		for _, e := range owed {
			r.oweLocked(h, &e.Entry, head.Epoch)
		}
		if len(owed) > 0 {
			h.watchLocked()
		}
		a.noteLocked()
	}
	a.recallLocked()
	welcome := &event.Welcome{Login: a.conn.Login(), Position: start, Head: head.Seq, Token: a.conn.Token()}
	b := a.ownLocked()
	b.control = slices.Insert(b.control, 0, event.Frame(welcome))
	return nil
}

// claimed returns the entries that a device acknowledges by its position alone and whose senders want to know. Its ack
// may have got lost with the connection.
func (r *Router) claimed(ctx context.Context, a *Attachment, after uint64, p *event.Position, head store.Head) ([]*event.Sealed, error) {
	if p == nil || p.Epoch != head.Epoch || p.Seq > head.Seq || p.Seq < head.Trim {
		return nil, nil
	}
	var owed []*event.Sealed
	for after < p.Seq {
		page, err := r.st.Read(ctx, a.hub.account, store.ReadOptions{After: after, Limit: r.cfg.PageEntries, NoBodies: true})
		if err != nil {
			return nil, err
		}
		a.hub.mu.Lock()
		for _, e := range page.Entries {
			if e.Seq <= p.Seq && a.getsLocked(head.Epoch, &e) && r.wantsReceipt(&e, a.hub.account) {
				owed = append(owed, event.Seal(e))
			}
		}
		a.hub.mu.Unlock()
		if page.Through <= after {
			break
		}
		after = page.Through
	}
	return owed, nil
}

// pending returns what is known of a device's cursor beside what the store has. Ask it before the store.
func (r *Router) pending(account event.Account, inc event.Incarnation) (store.Cursor, bool) {
	c := store.Cursor{Account: account, Incarnation: inc}
	known := false
	if h := r.find(account); h != nil {
		h.mu.Lock()
		for _, a := range h.atts {
			if a.noted && a.conn.Incarnation() == inc {
				here := a.cursorLocked()
				c.Seq, c.Sent, known = max(c.Seq, here.Seq), max(c.Sent, here.Sent), true
			}
		}
		h.mu.Unlock()
	}
	// An attachment that ends, or whose cursor is being written, is in the book before it is not there any more.
	book, there := r.cursors.get(account, inc)
	c.Seq, c.Sent = max(c.Seq, book.Seq), max(c.Sent, book.Sent)
	return c, known || there
}

// cursor returns a device's cursor: the higher of what this node has not yet written and what the store has.
func (r *Router) cursor(ctx context.Context, account event.Account, inc event.Incarnation) (store.Cursor, bool, error) {
	pending, known := r.pending(account, inc)
	all, err := r.st.Cursors(ctx, account)
	if err != nil {
		return store.Cursor{}, false, err
	}
	for _, c := range all {
		if c.Incarnation == inc {
			c.Seq, c.Sent = max(c.Seq, pending.Seq), max(c.Sent, pending.Sent)
			return c, true, nil
		}
	}
	return pending, known, nil
}
