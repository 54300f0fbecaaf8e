package fanout

import (
	"errors"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport"
)

// batchBytes is what entries and registers of one batch may take: what is left of transport.MaxBatchBytes goes to the frames
// around them and to control frames.
const batchBytes = transport.MaxBatchBytes - 32<<10

// entryBytes is the most that an entry takes in the reference encoding, as a frame of its own. Text is escaped to at most
// twice its length, and what would take more is written in base64.
func entryBytes(e *event.Entry) int {
	const rest = 2 << 10 // names of fields, numbers, and what a text may have beyond twice its length
	n := len(e.Kind) + len(e.Conversation) + len(e.ID) + len(e.ClientID) + len(e.From) + len(e.Origin) + len(e.Key) + len(e.Payload)
	return 2*n + rest
}

// stateBytes is the same for a register.
func stateBytes(s *event.State) int {
	const rest = 256
	return 2*(len(s.Conversation)+len(s.Name)) + len(s.Value)/3*4 + rest
}

// statePage reads a page of conversation state that goes into one batch.
func (r *Router) statePage(account event.Account, o store.StateOptions) (store.StatePage, error) {
	for {
		page, err := r.st.States(r.ctx, account, o)
		if err != nil {
			return page, err
		}
		size := 0
		for i := range page.States {
			size += stateBytes(&page.States[i])
		}
		if size <= batchBytes || len(page.States) <= 1 {
			return page, nil
		}
		o.Limit = max(1, min(len(page.States)-1, len(page.States)*batchBytes/size))
	}
}

// send passes what was chosen to the connection and reports whether the reader goes on. A Send that takes too long is ended by
// the sweep, which looks at all hubs with a reader. One that panics, or that ends the goroutine, is an error like any other; in
// the second case send does not return.
func (a *Attachment) send(buf *scratch) (goOn bool) {
	returned := false
	defer func() {
		if !returned {
			a.sendFailed(hostcall.Panicked(recover())) // nil: it has ended the goroutine
		}
	}()
	err := a.conn.Send(a.r.ctx, buf.frames)
	goOn = err == nil || a.sendAgain(buf, err) // which may panic: it asks the host's error what it is
	returned = true
	return goOn
}

// sendAgain does what follows from the error of a Send, and reports whether the reader goes on.
func (a *Attachment) sendAgain(buf *scratch, err error) bool {
	if isPanic(err) {
		a.sendFailed(err)
		return false
	}
	if errors.Is(err, session.ErrFenced) || a.conn.Fenced() || a.r.ctx.Err() != nil { // it has ended for another reason
		return false
	}
	if skip, ok := errors.AsType[*transport.SkipError](err); ok && a.skipped(buf.frames, skip) {
		return true
	}
	if errors.Is(err, transport.ErrFull) && a.conn.NonBlocking() {
		return a.keep(buf)
	}
	a.sendFailed(err)
	return false
}

// sendFailed ends a connection whose Send has failed. A panic leaves a trace even if the connection has ended already.
func (a *Attachment) sendFailed(err error) {
	closed, panicked := a.conn.Close(event.Lost.Closed(0)), isPanic(err)
	if closed {
		a.r.stats.sendFailures.Add(1)
	} else if !panicked {
		return
	}
	a.tell(Event{Kind: EventSendFailed, Err: err})
	if panicked {
		a.r.log.Error("fanout: Conn.Send panicked", append(a.about(), trace.Err(err))...)
		return
	}
	a.r.log.Info("fanout: Conn.Send failed, the connection is closed", append(a.about(), trace.Err(err))...)
}

// about is whose connection it is, for a log line.
func (a *Attachment) about() []any {
	return []any{"account", string(a.hub.account), "login", string(a.conn.Login()), "device", string(a.conn.Device())}
}

// skipped goes on behind an entry that the connection cannot take. It reports whether the entry is in the batch.
//
// What was written ends before the entry. So the position goes back there, and what stood behind the entry is chosen again:
// the next Data follows on what was written, and covers the entry. Each skip gets the reader at least one entry on.
func (a *Attachment) skipped(frames []event.Frame, s *transport.SkipError) bool {
	d, i := find(frames, s.Seq)
	if d == nil {
		return false
	}
	h := a.hub
	h.mu.Lock()
	if a.closed {
		h.mu.Unlock()
		return true // the reader will notice
	}
	a.pos = d.Prev
	if i > 0 {
		a.pos = d.Entries[i-1].Seq
	}
	n, waited := slices.BinarySearchFunc(a.window, s.Seq, compareSeq)
	rest := a.window[n:]
	if waited {
		rest = rest[1:]
	}
	a.scan = d.Seq
	if len(rest) > 0 { // entries that are gone were acknowledged or parked meanwhile
		a.scan = rest[0].Seq - 1
	}
	bytes := 0
	for _, e := range a.window[n:] {
		bytes += e.Size()
	}
	h.shard.sent.add(-len(a.window[n:]), -bytes, d.Redelivered)
	a.bytes -= bytes
	a.window, a.blocked = slices.Delete(a.window, n, len(a.window)), false
	if len(a.window) == 0 {
		a.emptyLocked()
	}
	now := a.r.clock()
	a.behind, a.progress = now, now
	b := a.ownLocked()
	b.skip = max(b.skip, s.Seq)
	a.passSkippedLocked()
	a.began = 0 // nothing is being sent
	if waited {
		b.nacks = append(b.nacks, a.nacked(event.Position{Epoch: d.Epoch, Seq: s.Seq}, s.Code))
	}
	h.mu.Unlock()
	return true
}

// find returns the Data that has the entry seq, and the entry's place in it.
func find(frames []event.Frame, seq uint64) (*event.Data, int) {
	for _, f := range frames {
		if d, ok := f.(*event.Data); ok {
			if i, ok := slices.BinarySearchFunc(d.Entries, seq, compareSeq); ok {
				return d, i
			}
		}
	}
	return nil, 0
}

func compareSeq(e *event.Sealed, seq uint64) int {
	switch {
	case e.Seq < seq:
		return -1
	case e.Seq > seq:
		return 1
	}
	return 0
}

// passSkippedLocked moves the cursor past what the connection has skipped, once nothing before it is unacknowledged.
func (a *Attachment) passSkippedLocked() {
	seq := a.business.skip
	if seq == 0 || len(a.window) > 0 && a.window[0].Seq < seq {
		return
	}
	a.business.skip = 0
	if seq > a.acked {
		a.acked = seq
		a.progressedLocked(seq)
		a.noteLocked()
	}
}

// maxRetries is how often a batch is tried again at once because the queue got room before it had said that it had none. A
// connection that says so each time is called again when it says so the next time, or by the sweep.
const maxRetries = 8

// keep keeps a batch that the connection's queue has no room for. It reports whether there is room by now; else the reader
// ends, and starts again when there is, or when the sweep comes.
func (a *Attachment) keep(buf *scratch) bool {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	if a.closed {
		return false
	}
	b := a.ownLocked()
	b.full = slices.Clone(buf.frames)
	for i, f := range b.full {
		if f == event.Frame(&buf.data) {
			d := buf.data
			d.Entries = slices.Clone(d.Entries)
			b.full[i] = &d
		}
	}
	if !buf.again {
		b.retries = 0
	}
	if b.drained && b.retries < maxRetries {
		b.retries++
		return true
	}
	b.drained, b.retries = false, 0
	a.stopLocked()
	return false
}

// sentLocked is the end of what the connection has been given: it does not have what its queue had no room for.
func (a *Attachment) sentLocked() uint64 {
	for _, f := range a.full {
		if d, ok := f.(*event.Data); ok {
			return d.Prev
		}
	}
	return a.pos
}

// againLocked chooses the batch that the connection had no room for, if there may be room by now.
func (a *Attachment) againLocked(buf *scratch) need {
	b := a.business
	if !b.drained {
		return a.stopLocked()
	}
	buf.frames, buf.again = append(buf.frames, b.full...), true
	b.full, b.drained = nil, false
	return sendFrames
}

// room is called by connections whose queue has room again. It does not call them back.
func (a *Attachment) room() {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	a.roomLocked()
}

// roomLocked lets the reader try again. If it is at work, the queue may have got room before the reader learns that it had
// none.
func (a *Attachment) roomLocked() {
	if a.closed || a.held || !a.running && len(a.full) == 0 {
		return
	}
	a.ownLocked().drained = true
	a.wakeLocked()
}
