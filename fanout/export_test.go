package fanout

import (
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// Poll returns the oldest event if there is one.
func (s *Subscription) Poll() (Event, bool) { return s.s.Poll() }

// Changed is what the router hears of a change of a login.
func (r *Router) Changed(c session.Change) { r.changed(c) }

// Hubs returns how many accounts the router keeps in memory, and how many of them the sweep looks at.
func (r *Router) Hubs() (all, restless int) {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		all += len(sh.hubs)
		restless += len(sh.restless)
		sh.mu.Unlock()
	}
	return all, restless
}

// TailBytes returns how much the tail cache holds.
func (r *Router) TailBytes() int64 { return r.tailBytes.Load() }

// Ring rings the doorbell of an account that somebody is attached for: its inbox is said to go up to a place.
func (r *Router) Ring(account event.Account, at event.Position) { r.reached(r.find(account), at) }

// Grown returns how many accounts wait for the next trim round.
func (r *Router) Grown() int {
	r.grown.mu.Lock()
	defer r.grown.mu.Unlock()
	return len(r.grown.set)
}

// Window returns how much a connection has unacknowledged, and what waits for it.
func (a *Attachment) Window() (entries, bytes, control, live int) {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	return len(a.window), a.bytes, len(a.control), len(a.live)
}

// LateRelease returns whether a hub that nobody holds any more leaves the one of its successor alone: the account's hub is left
// and made anew before the late holder lets go.
func (r *Router) LateRelease(account string) bool {
	id := event.Account(account)
	late := r.hold(id)
	late.release()
	late.shard.mu.Lock()
	late.refs++ // as a receipt flush that starts when everybody else has left
	late.shard.mu.Unlock()
	next := r.hold(id)
	late.release()
	there := r.find(id) == next
	next.release()
	return there
}

// EarlyReads returns for how many accounts read marks wait for their message.
func (r *Router) EarlyReads() int {
	r.early.mu.Lock()
	defer r.early.mu.Unlock()
	return r.early.waiting.Len()
}

// DeliveredRegister names the watermark of one sender's messages in an inbox of the given epoch.
func DeliveredRegister(from event.Account, e event.Epoch) string { return deliveredRegister(from, e) }

// PushPending returns how many accounts have something undecided, and how many slots for their turns are taken.
func (r *Router) PushPending() (accounts, slots int) {
	r.push.mu.Lock()
	defer r.push.mu.Unlock()
	for i := range r.push.lanes {
		slots += len(r.push.lanes[i].slots)
	}
	return len(r.push.items), slots
}

// PushMark is the mark up to which pushes of an account are decided, in an inbox of the given epoch.
func PushMark(e event.Epoch) (event.ConversationID, string) { return pushConversation, pushRegister(e) }

// Kept returns how many entries an attachment keeps in the room that it has for a short window.
func (a *Attachment) Kept() (n int) {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	for _, e := range a.slots {
		if e != nil {
			n++
		}
	}
	return n
}
