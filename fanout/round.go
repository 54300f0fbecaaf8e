package fanout

import (
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
)

// lentFrames is how many frames a connection is sent on somebody else's goroutine before it gets one of its own.
const lentFrames = 64

// scratch is what readers reuse from frame to frame.
type scratch struct {
	frames []event.Frame
	data   event.Data
	again  bool // the frames are those that the connection had no room for
}

func (s *scratch) reset() {
	clear(s.frames)
	clear(s.data.Entries)
	s.frames, s.data.Entries, s.again = s.frames[:0], s.data.Entries[:0], false
}

// round is a reader for connections of one hub that never wait, on a goroutine that is lent for a short while: what is
// there is chosen for all of them under one lock, then sent, and so on until there is nothing.
type round struct{ turns []turn }

// turn is one connection's part of a round.
type turn struct {
	scratch
	a    *Attachment // nil: done
	need need
	sent int // frames
}

// newRound returns a round with room for n connections. It goes back with serve.
func (r *Router) newRound(n int) *round {
	d, ok := r.rounds.Get().(*round)
	if !ok {
		d = new(round)
	}
	d.turns = slices.Grow(d.turns, n) // before there is any: frames point into it
	return d
}

// addLocked chooses what there is for a connection that rouseLocked has handed to the caller.
func (d *round) addLocked(a *Attachment, now time.Duration) {
	n := len(d.turns)
	d.turns = d.turns[:n+1]
	t := &d.turns[n]
	t.a, t.sent = a, 0
	t.chooseLocked(now)
}

// chooseLocked chooses what is sent next. After lentFrames frames, or if the connection would wait now, another goroutine has to
// go on.
func (t *turn) chooseLocked(now time.Duration) {
	if t.sent >= lentFrames || t.a.conn.Waits() {
		t.need = needGoroutine
		return
	}
	if t.need = t.a.nextLocked(&t.scratch, now); t.need == idle {
		t.a = nil
	}
}

// serve sends what was chosen, and goes on until nothing is left or somebody else goes on. Nil is no round.
func (r *Router) serve(h *hub, d *round) {
	if d == nil {
		return
	}
	over := false
	defer func() {
		if !over { // a Send has ended the goroutine: another one goes on for the other connections
			r.owned.Go(func() { r.serve(h, d) })
		}
	}()
	for d.send() {
		now := r.clock()
		h.mu.Lock()
		for i := range d.turns {
			if t := &d.turns[i]; t.a != nil {
				t.chooseLocked(now)
			}
		}
		h.mu.Unlock()
	}
	over = true
	d.turns = d.turns[:0]
	r.rounds.Put(d)
}

// send sends what was chosen, and reports whether there are connections to go on with. One for which the store has to be
// asked is none: it gets a goroutine of its own.
func (d *round) send() (more bool) {
	for i := range d.turns {
		t := &d.turns[i]
		a := t.a
		switch {
		case a == nil:
			continue
		case t.need != sendFrames:
			a.handOver()
			t.a = nil
		default:
			t.a = nil // should Send end the goroutine
			if a.r.ctx.Err() == nil && (len(t.frames) == 0 || a.send(&t.scratch)) {
				t.a, more = a, true
			}
		}
		t.sent += len(t.frames)
		t.reset()
	}
	return more
}

// handOver has a goroutine of its own go on for a connection that was served on another one.
func (a *Attachment) handOver() {
	if a.r.owned.Go(a.read) {
		return
	}
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	a.running = false
}
