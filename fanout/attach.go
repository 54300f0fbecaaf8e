package fanout

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport"
)

// AttachRequest binds a connection to a login and starts delivery. The host has authenticated the connection as the
// account.
type AttachRequest struct {
	Account event.Account
	Login   event.LoginID
	Token   event.ResumeToken
	// Position is up to where the device has everything. Nil: from where it acknowledged last.
	Position *event.Position
}

// Attach binds a connection to a login and begins to deliver what its device has not acknowledged, then what comes.
// Errors are those of [session.Registry.Attach]; the connection is then still the caller's.
//
// A Position above the cursor counts as an ack; one below it has entries sent again. One that is of no use (trimmed,
// ahead of the inbox, of another epoch) is answered with a Reset frame.
func (r *Router) Attach(ctx context.Context, q AttachRequest, conn transport.Conn) (*Attachment, error) {
	h := r.hold(q.Account)
	a := &Attachment{r: r, hub: h}
	c, err := r.reg.Attach(ctx, session.AttachRequest{Account: q.Account, Login: q.Login, Token: q.Token}, conn, a.ended)
	if err != nil {
		h.release()
		return nil, err
	}
	h.mu.Lock()
	a.conn = c
	a.running = true // nobody starts a reader before the start is known
	if !a.closed {
		h.atts = append(h.atts, a)
	}
	h.mu.Unlock()
	if err := r.begin(ctx, a, q.Position); err != nil {
		c.Close(event.Unavailable.Closed(time.Second))
		return nil, fmt.Errorf("fanout: attach: %w", err)
	}
	return a, nil
}

// begin finds out where delivery starts and starts it.
func (r *Router) begin(ctx context.Context, a *Attachment, claimed *event.Position) error {
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

	h.mu.Lock()
	defer h.mu.Unlock()
	h.head = max(h.head, head.Seq)
	a.epoch, a.acked = head.Epoch, cur.Seq
	a.resend = max(cur.Sent, cur.Seq)
	if a.conn.Restored() {
		a.resend = max(a.resend, head.Seq)
	}
	start := event.Position{Epoch: head.Epoch, Seq: cur.Seq}
	if claimed != nil {
		start = *claimed
	}
	a.progress = time.Now()
	a.statesAfter = start.Seq
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
		a.noteLocked()
	}
	welcome := &event.Welcome{Login: a.conn.Login(), Position: start, Head: head.Seq, Token: a.conn.Token()}
	a.control = slices.Insert(a.control, 0, event.Frame(welcome))
	a.running = false
	a.wakeLocked()
	return nil
}

// cursor returns a device's cursor: what this node has not yet written, or what the store has.
func (r *Router) cursor(ctx context.Context, account event.Account, inc event.Incarnation) (store.Cursor, bool, error) {
	if c, ok := r.cursors.get(account, inc); ok {
		return c, true, nil
	}
	all, err := r.st.Cursors(ctx, account)
	if err != nil {
		return store.Cursor{}, false, err
	}
	for _, c := range all {
		if c.Incarnation == inc {
			return c, true, nil
		}
	}
	return store.Cursor{}, false, nil
}
