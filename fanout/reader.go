package fanout

import (
	"context"
	"errors"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// wakeLocked starts the reader unless one is there: it looks at everything again before it stops.
func (a *Attachment) wakeLocked() {
	if a.running || a.closed {
		return
	}
	a.running = a.r.owned.start(a.read)
}

// scratch is what a reader reuses from frame to frame.
type scratch struct {
	frames []event.Frame
	data   event.Data
}

// read sends what there is to send, and ends when there is nothing.
func (a *Attachment) read() {
	var buf scratch
	for a.r.ctx.Err() == nil {
		buf.frames = buf.frames[:0]
		need := a.next(&buf)
		switch need {
		case idle:
			return
		case needStates:
			if !a.loadStates(&buf) {
				return
			}
		case needPage:
			if !a.loadPage() {
				return
			}
			continue
		}
		if len(buf.frames) > 0 && !a.send(buf.frames) {
			return
		}
	}
}

// need says what a reader has to do next.
type need uint8

const (
	idle       need = iota
	sendFrames      // the frames are chosen
	needStates      // a page of conversation state has to be loaded
	needPage        // entries have to be loaded from the store
)

// next chooses what to send: control, then live-only, then state, then data.
func (a *Attachment) next(buf *scratch) need {
	h := a.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.closed {
		return idle
	}
	buf.frames = append(buf.frames, a.control...)
	a.control = nil
	buf.frames = a.takeLiveLocked(buf.frames)
	if len(buf.frames) > 0 {
		return sendFrames
	}
	switch a.phase {
	case awaitResetAck:
		h.watchLocked()
		return a.stopLocked()
	case sendStates:
		return needStates
	}
	return a.nextDataLocked(buf)
}

func (a *Attachment) nextDataLocked(buf *scratch) need {
	h := a.hub
	if !a.blocked && a.scan < h.head {
		entries := h.afterLocked(a.scan)
		if entries == nil {
			return needPage
		}
		a.takeLocked(buf, entries, entries[len(entries)-1].Seq)
		if len(buf.frames) > 0 {
			return sendFrames
		}
	}
	now := time.Now()
	end := a.scan >= h.head
	if a.coverDueLocked(now) || end && !a.caughtUp && a.scan > a.pos {
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

// stopLocked ends the reader. Whoever changes anything from here on wakes a new one.
func (a *Attachment) stopLocked() need {
	a.running = false
	if !a.atRestLocked() {
		a.hub.watchLocked()
	}
	for _, o := range a.hub.atts {
		if o.running {
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
func (a *Attachment) takeLocked(buf *scratch, entries []*event.Sealed, through uint64) {
	now := time.Now()
	d := &buf.data
	d.Epoch, d.Prev, d.Entries, d.Redelivered = a.epoch, a.pos, d.Entries[:0], false
	cut := false
	for _, e := range entries {
		if e.Seq <= a.scan {
			continue
		}
		if e.Expired(now) || !e.For(a.conn.Incarnation(), a.conn.Login()) {
			a.skipLocked(e.Seq, now)
			continue
		}
		again := e.Seq <= a.resend
		a.blocked = len(a.window) >= a.r.cfg.Window || len(a.window) > 0 && a.bytes+e.Size() > a.r.cfg.WindowBytes
		if cut = a.blocked || len(d.Entries) > 0 && again != d.Redelivered; cut {
			break
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
	a.r.stats.sent(len(d.Entries), d.Redelivered)
}

func (a *Attachment) skipLocked(seq uint64, now time.Time) {
	if a.scan == a.pos {
		a.skipped = now
	}
	a.scan = max(a.scan, seq)
}

// coverLocked moves the device past entries that are not for it.
func (a *Attachment) coverLocked(buf *scratch) {
	buf.frames = append(buf.frames, &event.Data{Epoch: a.epoch, Prev: a.pos, Seq: a.scan})
	a.pos = a.scan
	a.r.stats.covers.Add(1)
}

// loadPage reads entries from the store into the window's reach and sends them. It reports whether to go on.
func (a *Attachment) loadPage() bool {
	h := a.hub
	h.mu.Lock()
	after, known := a.scan, h.head
	limit := min(a.r.cfg.PageEntries, max(a.r.cfg.Window-len(a.window), 1)+8)
	h.mu.Unlock()
	page, err := a.r.st.Read(a.r.ctx, h.account, store.ReadOptions{
		After: after, Limit: limit, MaxBytes: min(a.r.cfg.PageBytes, a.r.cfg.WindowBytes), Known: known,
	})
	if err != nil {
		return a.failed(err)
	}
	entries := make([]*event.Sealed, len(page.Entries))
	for i, e := range page.Entries {
		entries[i] = event.Seal(e)
	}
	var buf scratch
	h.mu.Lock()
	switch {
	case a.closed:
		h.mu.Unlock()
		return false
	case page.Head.Epoch != a.epoch:
		from := event.Position{Epoch: a.epoch, Seq: a.pos}
		a.epoch, a.acked = page.Head.Epoch, 0
		a.r.reachedLocked(h, event.Position{Epoch: page.Head.Epoch, Seq: page.Head.Seq})
		a.resetLocked(event.ResetEpoch, from, page.Head.Trim)
	case page.Head.Trim > a.scan:
		a.resetLocked(event.ResetTrimmed, event.Position{Epoch: a.epoch, Seq: a.pos}, page.Head.Trim)
	case page.Through <= a.scan:
		h.head = max(page.Head.Seq, a.scan) // nothing there: what rang the doorbell has not arrived
	default:
		h.head = max(h.head, page.Head.Seq)
		a.takeLocked(&buf, entries, page.Through)
	}
	h.mu.Unlock()
	return len(buf.frames) == 0 || a.send(buf.frames)
}

// loadStates reads a page of conversation state. It reports whether to go on.
func (a *Attachment) loadStates(buf *scratch) bool {
	h := a.hub
	h.mu.Lock()
	o := store.StateOptions{Newer: a.statesAfter, Cursor: a.statesNext, Limit: a.r.cfg.PageEntries}
	epoch := a.epoch
	h.mu.Unlock()
	page, err := a.r.st.States(a.r.ctx, h.account, o)
	if err != nil {
		return a.failed(err)
	}
	frame := &event.StatePage{Epoch: epoch, More: page.Next != ""}
	for _, s := range page.States {
		if !s.Internal() {
			frame.States = append(frame.States, s)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.phase == sendStates {
		a.statesNext = page.Next
		if page.Next == "" {
			a.phase = sendData
		}
		if len(frame.States) > 0 || frame.More || o.Cursor != "" { // one that was announced comes, even if it is empty
			buf.frames = append(buf.frames, frame)
		}
	}
	return true
}

// send passes frames to the connection and reports whether it is still of use. The sweep closes one that takes too long.
func (a *Attachment) send(frames []event.Frame) bool {
	ctx, cancel := context.WithTimeout(a.r.ctx, a.r.cfg.FrameWrite)
	defer cancel()
	err := a.conn.Send(ctx, frames)
	if err == nil {
		return true
	}
	switch {
	case errors.Is(err, session.ErrFenced):
	case a.r.ctx.Err() != nil:
	case ctx.Err() != nil:
		a.r.stats.slow.Add(1)
		a.conn.Close(event.Slow.Closed(0))
	default:
		a.conn.Close(event.Lost.Closed(0))
	}
	return false
}

// failed ends the connection because the store does not answer: the device comes back and goes on where it was.
func (a *Attachment) failed(err error) bool {
	if a.r.ctx.Err() == nil {
		a.r.log.Warn("fanout: read inbox", "err", err)
		a.conn.Close(event.Unavailable.Closed(time.Second))
	}
	return false
}
