package fanout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/session"
)

// PublishRequest is one live-only event. The host has authorised it.
type PublishRequest struct {
	From         event.Account // who does it. Required
	Origin       event.LoginID // the login that does it: it gets no copy
	Kind         event.Kind    // any but the engine's own; durable kinds are not kept when sent this way. Required
	Conversation event.ConversationID
	To           []event.Account // at most 10,000
	Mirror       bool            // the sender's other devices get it too
	Narrow       []Narrow        // see [SendRequest.Narrow]
	Priority     Priority        // low ones are dropped first
	// Subject: a waiting event with the same kind, sender, conversation and subject is replaced by this one. At most 128 bytes.
	Subject string
	Payload []byte // at most 64 KiB
}

// Publish sends a live-only event to the devices that are attached to this engine now. It stores nothing, and a device
// that cannot take it loses it. The result is the number of connections that it was handed to.
func (r *Router) Publish(ctx context.Context, q PublishRequest) (int, error) {
	n, err := r.publish(ctx, q)
	fault.In("fanout", "publish", &err)
	if err != nil {
		r.refused("publish", q.From, q.Origin, err)
	}
	return n, err
}

func (r *Router) publish(ctx context.Context, q PublishRequest) (int, error) {
	if err := checkCommon(q.From, q.Kind, q.Conversation, q.Payload); err != nil {
		return 0, err
	}
	if issuedByEngine(r.cfg.Kinds.Info(q.Kind)) {
		return 0, &event.InvalidError{Field: "kind", Reason: "issued by the engine itself"}
	}
	if len(q.To) > MaxRecipients {
		return 0, &event.InvalidError{Field: "to", Reason: fmt.Sprintf("%d recipients, at most %d", len(q.To), MaxRecipients)}
	}
	if q.Priority > PriorityLow {
		return 0, &event.InvalidError{Field: "priority", Reason: "unknown"}
	}
	if len(q.Subject) > maxSubjectBytes {
		return 0, &event.InvalidError{Field: "subject", Reason: fmt.Sprintf("%d bytes, at most %d", len(q.Subject), maxSubjectBytes)}
	}
	if err := event.CheckText("subject", q.Subject); err != nil {
		return 0, err
	}
	for i, a := range q.To {
		if err := a.Validate(); err != nil {
			return 0, fault.Item("to", i, err)
		}
	}
	if r.ctx.Err() != nil {
		return 0, ErrClosed
	}
	if q.Origin != "" {
		if _, err := r.acting(ctx, q.From, &q.Origin); err != nil {
			return 0, notFound(err, ErrUnknownOrigin)
		}
	}
	err := checkNarrow(&q.Narrow, q.From, q.Origin, func(a event.Account) bool {
		return slices.Contains(q.To, a) && a != q.From || a == q.From && q.Mirror
	})
	if err != nil {
		return 0, err
	}
	chosen, err := r.narrowed(ctx, q.Narrow)
	if err != nil {
		return 0, err
	}
	to := slices.DeleteFunc(slices.Clone(q.To), func(a event.Account) bool { return a == q.From && !q.Mirror })
	if q.Mirror {
		to = append(to, q.From)
	}
	slices.Sort(to)
	e := event.Entry{
		Kind: q.Kind, Conversation: q.Conversation, ID: r.issuer.Issue(), From: q.From, Time: r.now(),
		Flags: q.Priority.flags(), Key: string(q.Kind) + "\n" + string(q.From) + "\n" + q.Subject + "\n" + string(q.Conversation), Payload: slices.Clone(q.Payload),
	}
	theirs := event.Seal(e)
	e.Origin = q.Origin // only its own account learns which login did it
	own := event.Seal(e)
	n := 0
	for _, a := range slices.Compact(to) {
		shared := theirs
		if a == q.From {
			shared = own
		}
		if devices := chosen[a]; devices != nil {
			narrow := shared.Entry
			narrow.Targets = devices
			shared = event.Seal(narrow)
		}
		n += r.live(a, shared)
	}
	return n, nil
}

// live hands an event to an account's connections.
func (r *Router) live(account event.Account, e *event.Sealed) int {
	if h := r.find(account); h != nil {
		return h.offer(e)
	}
	return 0
}

// offer hands an event to the hub's connections that it is for, and returns how many take it.
func (h *hub) offer(e *event.Sealed) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, a := range h.atts {
		if e.For(a.conn.Incarnation(), a.conn.Login()) && a.offerLocked(e) {
			n++
		}
	}
	return n
}

// offerLocked puts an event into the connection's ring, in place of one with the same key, or of the
// least important one.
func (a *Attachment) offerLocked(e *event.Sealed) bool {
	if a.conn.Background() {
		a.dropLocked(1, CauseBackground)
		return false
	}
	if i := slices.IndexFunc(a.live, func(l liveEvent) bool { return l.e.Key == e.Key }); i >= 0 {
		a.live = slices.Delete(a.live, i, i+1)
		a.dropLocked(1, CauseReplaced)
	}
	if len(a.live) >= a.r.cfg.LiveRing {
		i := a.leastLocked()
		a.dropLocked(1, CauseRingFull)
		if e.Flags&event.FlagLow != 0 && a.live[i].e.Flags&event.FlagLow == 0 {
			return false // all that wait are more important
		}
		a.live = slices.Delete(a.live, i, i+1)
	}
	b := a.ownLocked()
	b.live = append(b.live, liveEvent{e: e, till: a.r.clock() + a.r.cfg.LiveLife})
	a.wakeLocked()
	return true
}

// dropLocked counts live-only events that the connection does not get, and tells of them.
func (a *Attachment) dropLocked(n int, why Cause) {
	a.r.stats.liveDropped.Add(uint64(n))
	a.r.stats.cause(why, n)
	if a.r.feed.Watched() {
		a.tell(Event{Kind: EventLiveDropped, Count: n, Cause: why})
	}
}

// leastLocked returns the event of the ring to drop first: the oldest of the lowest priority that is there.
func (a *Attachment) leastLocked() int {
	least, rank := 0, 3
	for i, l := range a.live {
		r := 1
		switch {
		case l.e.Flags&event.FlagLow != 0:
			r = 0
		case l.e.Flags&event.FlagHigh != 0:
			r = 2
		}
		if r < rank {
			least, rank = i, r
		}
	}
	return least
}

// takeLiveLocked moves what waits in the ring into frames, as much as one batch holds, and drops what is too old.
func (a *Attachment) takeLiveLocked(frames []event.Frame) []event.Frame {
	if len(a.live) == 0 {
		return frames
	}
	now, old, wire, taken := a.r.clock(), 0, 0, 0
	for _, l := range a.live {
		if now >= l.till {
			old++
			taken++
			continue
		}
		if wire += entryBytes(&l.e.Entry); wire > batchBytes && len(frames) > 0 {
			break
		}
		frames = append(frames, &event.Live{Event: l.e})
		a.r.stats.liveSent.Add(1)
		taken++
	}
	if a.live = slices.Delete(a.live, 0, taken); len(a.live) == 0 {
		a.live = nil
	}
	if old > 0 {
		a.dropLocked(old, CauseTooOld)
	}
	return frames
}

// announce tells the account's other devices that one of them has come or gone. It does not wait.
func (r *Router) announce(c session.Change, kind event.Kind) {
	s := c.Session
	h := r.find(s.Account)
	if h == nil {
		return
	}
	now := r.now()
	payload, err := json.Marshal(event.DeviceChange{
		Login: s.Login, Device: s.Device, Platform: s.Platform, Name: s.Description.Name, Reason: c.Reason, Time: now.UTC(),
	})
	if err != nil {
		r.owned.Go(func() { r.log.Error("fanout: encode device change", "account", string(s.Account), trace.Err(err)) })
		return
	}
	h.offer(event.Seal(event.Entry{
		Kind: kind, ID: r.issuer.Issue(), From: s.Account, Origin: s.Login, Time: now, Key: "presence\n" + string(s.Device), Payload: payload,
	}))
}
