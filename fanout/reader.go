package fanout

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// wakeLocked starts the reader unless one is there: it looks at everything again before it stops.
func (a *Attachment) wakeLocked() {
	if a.running || a.closed {
		return
	}
	a.hub.watchLocked()
	a.running = a.r.owned.Go(a.read)
}

// rouseLocked is wakeLocked for callers that lend their goroutine to connections that never wait: if it returns true, they
// add the attachment to a round, and serve that once they have unlocked the hub.
func (a *Attachment) rouseLocked() bool {
	if !a.conn.NonBlocking() || a.conn.Waits() {
		a.wakeLocked()
		return false
	}
	if a.running || a.closed {
		return false
	}
	a.hub.watchLocked()
	a.running = true
	return true
}

// read is the reader on a goroutine of its own. It sends what there is to send until there is nothing.
func (a *Attachment) read() {
	buf, ok := a.r.scratches.Get().(*scratch)
	if !ok {
		buf = new(scratch)
	}
	defer func() {
		buf.reset()
		a.r.scratches.Put(buf)
	}()
	for a.r.ctx.Err() == nil {
		buf.reset()
		goOn := true
		switch a.next(buf) {
		case idle:
			return
		case needStates:
			goOn = a.loadStates(buf)
		case needPage:
			goOn = a.loadPage(buf)
		case needGoroutine:
			a.tellNacks()
		}
		if !goOn || len(buf.frames) > 0 && !a.send(buf) {
			return
		}
	}
}

// need says what a reader has to do next.
type need uint8

const (
	idle          need = iota
	sendFrames         // the frames are chosen
	needStates         // a page of conversation state has to be loaded
	needPage           // entries have to be loaded from the store
	needGoroutine      // the host has to be told of nacks, or a goroutine that is lent has done enough
)

func (a *Attachment) next(buf *scratch) need {
	now := a.r.clock()
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	return a.nextLocked(buf, now)
}

// nextLocked chooses what to send. From then on until it is called again the connection counts as being sent to.
func (a *Attachment) nextLocked(buf *scratch, now time.Duration) need {
	if len(a.full) == 0 {
		a.began = 0
	}
	if len(a.nacks) > 0 {
		return needGoroutine
	}
	if a.closed {
		return idle
	}
	n := a.chooseLocked(buf, now)
	if len(buf.frames) > 0 && !buf.again {
		a.began = max(now, 1)
	}
	return n
}

// chooseLocked chooses what to send: what the connection had no room for, control, then live-only, then state, then data.
func (a *Attachment) chooseLocked(buf *scratch, now time.Duration) need {
	if len(a.full) > 0 {
		return a.againLocked(buf)
	}
	if a.drained {
		a.business.drained = false
	}
	if len(a.control) > 0 {
		buf.frames = append(buf.frames, a.control...)
		a.control = nil
	}
	buf.frames = a.takeLiveLocked(buf.frames)
	if len(buf.frames) > 0 {
		return sendFrames
	}
	switch a.phase {
	case awaitResetAck:
		return a.stopLocked()
	case sendStates:
		return needStates
	}
	return a.nextDataLocked(buf, now)
}

func (a *Attachment) nextDataLocked(buf *scratch, now time.Duration) need {
	h := a.hub
	if !a.blocked && a.scan < h.head {
		entries := h.afterLocked(a.scan)
		if entries == nil {
			return needPage
		}
		a.takeLocked(buf, entries, entries[len(entries)-1].Seq, now)
		if len(buf.frames) > 0 {
			return sendFrames
		}
	}
	end := a.scan >= h.head
	if a.scan > a.pos && (end && !a.caughtUp || a.coverDueLocked(now)) {
		a.coverLocked(buf)
	}
	if end && !a.caughtUp && a.pos == a.scan {
		a.caughtUp = true
		buf.frames = append(buf.frames, &event.CaughtUp{Position: event.Position{Epoch: a.epoch, Seq: a.pos}})
	}
	if len(buf.frames) > 0 {
		return sendFrames
	}
	if !a.blocked && !end {
		return sendFrames // the tail held nothing for this device, but there is more behind it
	}
	return a.stopLocked()
}

// stopLocked ends the reader. Every later change wakes a new one. The sweep goes on looking at the hub until it is at rest.
func (a *Attachment) stopLocked() need {
	a.running = false
	a.restLocked()
	for _, o := range a.hub.atts {
		if o.running && !o.held {
			return idle
		}
	}
	a.r.dropTailLocked(a.hub) // all readers have passed it
	return idle
}

// afterLocked returns the entries after seq if the tail has all of them.
func (h *hub) afterLocked(seq uint64) []*event.Sealed {
	if len(h.tail) == 0 || seq+1 < h.tail[0].Seq || seq >= h.tail[len(h.tail)-1].Seq {
		return nil
	}
	return h.tail[seq+1-h.tail[0].Seq:]
}

// takeLocked chooses from entries those for this device, as many as the window holds, and covers the rest up to through.
func (a *Attachment) takeLocked(buf *scratch, entries []*event.Sealed, through uint64, now time.Duration) {
	d := &buf.data
	d.Epoch, d.Prev, d.Redelivered = a.epoch, a.pos, false
	cut, before, wire := false, a.bytes, 0
	instant := a.conn.NonBlocking()
	for _, e := range entries {
		if e.Seq <= a.scan {
			continue
		}
		if !e.Expires.IsZero() && e.Expired(a.r.now()) || !a.getsLocked(a.epoch, &e.Entry) {
			a.skipLocked(e.Seq, now)
			continue
		}
		again := e.Seq <= a.resend || e.Seq <= a.doubted && a.r.inDoubt(e.Time)
		a.blocked = len(a.window) >= a.windowLocked() || len(a.window) > 0 && a.bytes+e.Size() > a.limits.windowBytes
		if cut = a.blocked || len(d.Entries) > 0 && again != d.Redelivered; cut {
			break
		}
		if instant {
			if wire += entryBytes(&e.Entry); wire > batchBytes && len(d.Entries) > 0 {
				cut = true
				break
			}
		}
		if len(a.window) == 0 {
			a.progress = now
		}
		d.Redelivered = again
		d.Entries = append(d.Entries, e)
		a.window, a.bytes, a.scan = append(a.window, e), a.bytes+e.Size(), e.Seq
	}
	if !cut && through > a.scan {
		a.skipLocked(through, now)
	}
	if len(d.Entries) == 0 {
		return
	}
	d.Seq, a.pos = a.scan, a.scan
	buf.frames = append(buf.frames, d)
	if a.hub.shard.sent.add(len(d.Entries), a.bytes-before, d.Redelivered) {
		a.r.hot.note(a.hub.account, now)
	}
	if d.Redelivered && a.r.feed.Watched() {
		a.tell(Event{Kind: EventRedelivered, To: event.Position{Epoch: a.epoch, Seq: a.pos}, Count: len(d.Entries)})
	}
}

// inDoubt reports whether an engine before this one may have sent what was committed at a time, if one has to an earlier
// connection of the device. What was stamped by a clock that was ahead for a while is later than the doubt, and lies in the future
// still.
func (r *Router) inDoubt(at time.Time) bool {
	return !at.After(r.doubt) || at.Sub(r.times.Now()) > clock.MaxDrift && r.times.Before(at.UnixMilli())
}

func (a *Attachment) skipLocked(seq uint64, now time.Duration) {
	if a.scan == a.pos {
		a.behind = now
	}
	a.scan = max(a.scan, seq)
}

// coverLocked moves the device past entries that are not for it.
func (a *Attachment) coverLocked(buf *scratch) {
	buf.frames = append(buf.frames, &event.Data{Epoch: a.epoch, Prev: a.pos, Seq: a.scan})
	a.pos = a.scan
	a.r.stats.covers.Add(1)
}

// loadPage reads entries from the store: as many as the window holds, one more, which says whether the window is full, and
// as many as there were in the page before that were not for this device. It reports whether to go on.
func (a *Attachment) loadPage(buf *scratch) bool {
	h := a.hub
	h.mu.Lock()
	after, known, rings := a.scan, h.head, h.rings
	limit := min(a.r.cfg.PageEntries, max(a.windowLocked()-len(a.window), 0)+1+int(a.filtered))
	size := min(a.r.cfg.PageBytes, a.limits.windowBytes)
	h.mu.Unlock()
	if a.conn.NonBlocking() {
		size = min(size, batchBytes/2) // what is read is sent
	}
	room, ok := a.r.pages.Get().(*[]event.Entry)
	if !ok {
		room = new([]event.Entry)
	}
	defer a.r.keepPage(room)
	page, err := a.r.st.Read(a.r.ctx, h.account, store.ReadOptions{
		After: after, Limit: limit, MaxBytes: size, Known: known, Into: *room,
	})
	if err != nil {
		return a.failed(err)
	}
	*room = page.Entries
	entries := event.SealPage(page.Entries)
	now := a.r.clock()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case a.closed:
		return false
	case page.Head.Epoch != a.epoch:
		from := event.Position{Epoch: a.epoch, Seq: a.pos}
		a.epoch, a.acked = page.Head.Epoch, 0
		a.r.reachedLocked(h, event.Position{Epoch: page.Head.Epoch, Seq: page.Head.Seq})
		a.resetLocked(event.ResetEpoch, from, page.Head.Trim)
	case page.Head.Trim > a.scan:
		a.resetLocked(event.ResetTrimmed, event.Position{Epoch: a.epoch, Seq: a.pos}, page.Head.Trim)
	case page.Through <= a.scan:
		if h.rings == rings { // else it may be there by now
			h.head = max(page.Head.Seq, a.scan) // nothing there: what rang the doorbell has not arrived
		}
	default:
		if page.Head.Seq > h.head {
			h.head = page.Head.Seq
			h.rings++
		}
		a.takeLocked(buf, entries, page.Through, now)
		a.filtered = uint16(min(passed(page.Entries, a.scan)-len(buf.data.Entries), math.MaxUint16))
	}
	if len(buf.frames) > 0 {
		a.began = max(now, 1)
	}
	return true
}

// keepPage keeps a page's memory for the next one: a reader has none of its own, lest it hold it while its connection does
// not take anything.
func (r *Router) keepPage(room *[]event.Entry) {
	clear(*room)
	*room = (*room)[:0]
	r.pages.Put(room)
}

// passed is how many of the entries are at or before a place.
func passed(entries []event.Entry, seq uint64) int {
	n := len(entries)
	for n > 0 && entries[n-1].Seq > seq {
		n--
	}
	return n
}

// loadStates reads a page of conversation state. It reports whether to go on.
func (a *Attachment) loadStates(buf *scratch) bool {
	h := a.hub
	h.mu.Lock()
	o := store.StateOptions{Newer: a.statesAfter, Cursor: a.statesNext, Limit: a.r.cfg.PageEntries}
	epoch := a.epoch
	h.mu.Unlock()
	page, err := a.r.statePage(h.account, o)
	if err != nil {
		return a.failed(err)
	}
	now := a.r.clock()
	frame := &event.StatePage{Epoch: epoch, More: page.Next != ""}
	frame.States = slices.DeleteFunc(page.States, func(s event.State) bool { return s.Internal() })
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.phase == sendStates {
		a.ownLocked().statesNext = page.Next
		if page.Next == "" {
			a.phase = sendData
		}
		if len(frame.States) > 0 || frame.More || o.Cursor != "" { // one that was announced comes, even if it is empty
			buf.frames = append(buf.frames, frame)
			a.began = max(now, 1)
		}
	}
	return true
}

// failed ends the connection because the store does not answer: the device comes back and goes on where it was.
func (a *Attachment) failed(err error) bool {
	if a.r.ctx.Err() == nil {
		a.r.stats.readFailures.Add(1)
		a.tell(Event{Kind: EventReadFailed, Err: err})
		a.r.log.Warn("fanout: an inbox could not be read, its connection is closed", append(a.about(), trace.Err(err))...)
		a.conn.Close(event.Unavailable.Closed(time.Second + rand.N(time.Second))) // the store may have failed for many
	}
	return false
}
