package fanout

import (
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// grew notes that the account's inbox has grown, and returns its hub, or nil if no device of it is attached here.
func (r *Router) grew(account event.Account) *hub {
	h, sample := r.grow(account)
	if sample {
		r.hot.note(account, r.clock())
	}
	switch {
	case r.cfg.TrimInterval <= 0: // nothing takes them out
	case h == nil:
		r.grown.add(account)
	case h.grown.Load() != r.grown.round.Load():
		h.grown.Store(r.grown.add(account))
	}
	return h
}

// appended rings the doorbell of a hub: the inbox goes up to a place now. e is the entry there, for the tail; nil: some of
// the tail's were replaced. Connections that never wait are served on the caller's goroutine, which must hold no lock.
func (r *Router) appended(h *hub, at event.Position, e *event.Sealed) {
	var d *round
	now := r.clock()
	h.mu.Lock()
	for _, a := range r.rungLocked(h, at, e) {
		if !a.rouseLocked() {
			continue
		}
		if d == nil {
			d = r.newRound(len(h.atts))
		}
		d.addLocked(a, now)
	}
	h.mu.Unlock()
	r.serve(h, d)
}

// reached is appended for an entry of the engine's own that is not at hand. It only wakes readers, on goroutines of their
// own, so that the caller may hold locks.
func (r *Router) reached(h *hub, at event.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range r.rungLocked(h, at, nil) {
		a.wakeLocked()
	}
}

// rungLocked notes how far the inbox goes, and returns the attachments that have to look.
func (r *Router) rungLocked(h *hub, at event.Position, e *event.Sealed) []*Attachment {
	if e == nil {
		r.dropTailLocked(h)
	}
	if len(h.atts) == 0 || !r.reachedLocked(h, at) {
		return nil
	}
	if e != nil {
		r.keepLocked(h, e)
	}
	return h.atts
}

// reachedLocked notes that the inbox goes up to a place, and reports whether that is so: an inbox that was deleted starts again
// under a higher epoch, and news of the old one comes too late.
func (r *Router) reachedLocked(h *hub, at event.Position) bool {
	if at.Epoch < h.epoch {
		return false
	}
	if at.Epoch > h.epoch {
		r.dropTailLocked(h)
		h.epoch, h.head = at.Epoch, 0
	}
	h.head = max(h.head, at.Seq)
	h.rings++
	return true
}

// keepLocked adds an entry to the tail. The tail has no gaps: an entry that does not follow the last one starts a new tail.
// Readers find in the store what is not in the tail.
func (r *Router) keepLocked(h *hub, e *event.Sealed) {
	if n := len(h.tail); n > 0 {
		last := h.tail[n-1].Seq
		if e.Seq <= last {
			return
		}
		if e.Seq != last+1 {
			r.dropTailLocked(h)
		}
	}
	if r.tailBytes.Load() >= r.cfg.TailCache {
		r.dropTailLocked(h)
		return
	}
	if len(h.tail) == tailEntries {
		r.tailBytes.Add(-int64(h.tail[0].Size()))
		h.tail[0] = nil
		h.tail = h.tail[1:]
	}
	if h.tail == nil {
		h.tail = h.slots[:0]
	}
	h.tail = append(h.tail, e)
	r.tailBytes.Add(int64(e.Size()))
}

func (r *Router) dropTailLocked(h *hub) {
	for _, e := range h.tail {
		r.tailBytes.Add(-int64(e.Size()))
	}
	h.tail, h.slots[0] = nil, nil
}

// changed hears of every change of a login, at once and in the order of its account's steps; see [session.Registry.Listen].
// It is called with the account's mutex of the registry held: it does not wait, and nothing that it does calls the registry
// or code of the host's. The router takes its locks after those of the registry, the hub's first and the shard's then, and
// calls the registry with none of them held.
func (r *Router) changed(c session.Change) {
	if c.Position.Seq > 0 {
		if h := r.grew(c.Session.Account); h != nil {
			r.reached(h, c.Position)
		}
	}
	switch c.Kind {
	case session.ChangeOnline:
		r.announce(c, event.KindDeviceOnline)
	case session.ChangeOffline:
		r.announce(c, event.KindDeviceOffline)
	case session.ChangeDeleted:
		r.forget(c.Session.Account)
	}
}
