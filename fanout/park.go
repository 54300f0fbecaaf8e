package fanout

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// Park has an entry passed over for one device from now on, on connections that there are and on those to come, whatever
// position the device attaches with. Everything else flows, and all other devices get the entry. It is durable, and lasts
// until the entry is trimmed or the device is removed; a store that was restored from a backup has begun a new epoch, in
// which nothing is parked. A device has at most 64 parked entries, and all devices of an account 256.
//
// It takes effect on this node; a connection on another one learns of it when it begins anew. An entry that is not there
// any more needs no parking: the call does nothing.
//
// Errors: [*event.InvalidError] (also for a position of another epoch, or beyond the end), [session.ErrNotFound] if the
// account has no such device, [session.ErrTooManyParked], [ErrClosed], or the store's.
func (r *Router) Park(ctx context.Context, account event.Account, device event.DeviceID, entry event.Position) error {
	err := r.park(ctx, session.ParkRequest{Account: account, Device: device, Position: entry})
	fault.In("fanout", "park", &err)
	return err
}

// Unpark takes back that an entry is parked: a connection that begins before it gets it again. A device whose position is
// beyond the entry does not. Errors are those of Park.
func (r *Router) Unpark(ctx context.Context, account event.Account, device event.DeviceID, entry event.Position) error {
	err := r.park(ctx, session.ParkRequest{Account: account, Device: device, Position: entry, Undo: true})
	fault.In("fanout", "unpark", &err)
	return err
}

func (r *Router) park(ctx context.Context, q session.ParkRequest) error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	if r.ctx.Err() != nil {
		return ErrClosed
	}
	page, err := r.st.Read(ctx, q.Account, store.ReadOptions{})
	if err != nil {
		return fmt.Errorf("read inbox: %w", err)
	}
	switch head := page.Head; {
	case q.Position.Seq == 0:
		return &event.InvalidError{Field: "entry.seq", Reason: "zero"}
	case q.Position.Epoch != head.Epoch:
		return &event.InvalidError{Field: "entry.epoch", Reason: "not that of the inbox"}
	case q.Position.Seq > head.Seq:
		return &event.InvalidError{Field: "entry.seq", Reason: fmt.Sprintf("%d is beyond the end, %d", q.Position.Seq, head.Seq)}
	case q.Position.Seq <= head.Trim:
		return nil
	}
	q.Trim = page.Head.Trim
	res, err := r.reg.Park(ctx, q)
	if err != nil {
		return err
	}
	if !q.Undo {
		r.troubles.forgive(cursorKey{q.Account, res.Incarnation}, q.Position)
		r.passOver(q.Account, res.Incarnation, q.Position)
	}
	if !res.Changed {
		return nil
	}
	kind, line := EventUnparked, "fanout: entry unparked"
	if !q.Undo {
		kind, line = EventParked, "fanout: entry parked"
		r.stats.parked.Add(1)
	}
	r.feed.emit(Event{Kind: kind, Account: q.Account, Device: q.Device, To: q.Position})
	r.log.Info(line, "account", string(q.Account), "device", string(q.Device),
		"epoch", uint64(q.Position.Epoch), "seq", q.Position.Seq)
	return nil
}

// passOver has the device's connections pass an entry.
func (r *Router) passOver(account event.Account, inc event.Incarnation, p event.Position) {
	h := r.find(account)
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parks++ // for whoever attaches at the moment
	for _, a := range h.atts {
		if a.conn.Incarnation() == inc {
			a.passLocked(p)
		}
	}
}

// passLocked parks an entry on the connection. One that was sent already is not waited for any more.
func (a *Attachment) passLocked(p event.Position) {
	i, there := slices.BinarySearchFunc(a.parked, p, comparePositions)
	if there {
		return
	}
	b := a.ownLocked()
	b.parked = slices.Insert(b.parked, i, p)
	if a.epoch != p.Epoch {
		return
	}
	for _, f := range a.full { // it was not sent, and is not
		if d, ok := f.(*event.Data); ok {
			d.Entries = slices.DeleteFunc(d.Entries, func(e *event.Sealed) bool { return e.Seq == p.Seq })
		}
	}
	if i := slices.IndexFunc(a.window, func(e *event.Sealed) bool { return e.Seq == p.Seq }); i >= 0 {
		a.bytes -= a.window[i].Size()
		a.window = slices.Delete(a.window, i, i+1)
		a.blocked = false
		if len(a.window) == 0 {
			a.emptyLocked()
		}
		a.passSkippedLocked()
		a.wakeLocked()
	}
}

func comparePositions(a, b event.Position) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
}

// getsLocked reports whether an entry is for the attachment's device: addressed to it, and not parked.
func (a *Attachment) getsLocked(epoch event.Epoch, e *event.Entry) bool {
	all := e.Origin == "" && len(e.Targets) == 0 // the common case, which needs no look at the login
	if !all && !e.For(a.conn.Incarnation(), a.conn.Login()) {
		return false
	}
	if len(a.parked) == 0 {
		return true
	}
	_, parked := slices.BinarySearchFunc(a.parked, event.Position{Epoch: epoch, Seq: e.Seq}, comparePositions)
	return !parked
}
