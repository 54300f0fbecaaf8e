package fanout

import (
	"slices"
	"time"
)

// sweepLoop is the watchdog of all connections: it looks at restless hubs once a second, more often if a limit of the config is
// shorter than two. It waits for nothing that an account could hold up.
func (r *Router) sweepLoop() {
	t := time.NewTicker(r.none.limits.gap())
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
			found := new(gauges)
			for i := range r.shards {
				for _, h := range r.shards[i].restlessHubs() {
					r.sweep(h, found)
					h.release()
				}
			}
			r.gauges.Store(found)
		}
	}
}

// gap is how often the watchdog looks at a connection that is held to the limits.
func (l *limits) gap() time.Duration {
	return max(min(sweepInterval, l.ackWait/2, l.frameWrite/2), time.Millisecond)
}

// sweepOften sweeps the hub of a connection that has shorter limits of its own than the router's sweep can hold it to. Only its
// account pays for them.
func (a *Attachment) sweepOften(gap time.Duration) {
	h := a.r.hold(a.hub.account)
	defer h.release()
	t := time.NewTicker(gap)
	defer t.Stop()
	for a.gone() == nil {
		select {
		case <-a.r.ctx.Done():
			return
		case <-t.C:
			a.r.sweep(h, new(gauges))
		}
	}
}

// restlessHubs returns the hubs that the sweep has to look at, held.
func (sh *shard) restlessHubs() []*hub {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list := slices.Clone(sh.restless)
	for _, h := range list {
		h.refs++
	}
	return list
}

// sweep closes the hub's connections that have made no progress for too long, wakes readers that owe a cover, asks full queues
// again, and sends delivered receipts that are due. It takes a hub that has come to rest off the list, and adds to found what it
// sees on its way.
func (r *Router) sweep(h *hub, found *gauges) {
	type late struct {
		a   *Attachment
		why Cause
	}
	var slow []late
	now, sends := r.clock(), r.reg.SendsSince()
	h.mu.Lock()
	rest := h.receipts.len() == 0
	h.owesLocked(now)
	found.addLocked(h)
	for _, a := range h.atts {
		if why := a.lateLocked(now, sends); why != "" {
			slow = append(slow, late{a, why})
		} else if len(a.full) > 0 { // what is tried now would look as if it had been sent
			a.roomLocked()
		}
		if a.coverDueLocked(now) {
			a.wakeLocked()
		}
		rest = rest && a.atRestLocked()
	}
	if rest {
		h.unwatchLocked()
	}
	due := h.receipts.due(now)
	h.mu.Unlock()
	for _, l := range slow {
		l.a.slow(l.why)
	}
	if due {
		h.receiptsSoon(r)
	}
}
