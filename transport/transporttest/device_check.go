package transporttest

import (
	"fmt"

	"github.com/manydevice/manydevice/event"
)

// checker holds the engine to the rules of the protocol on one connection. It is stricter than client.Machine, which only
// needs to be safe.
type checker struct {
	claim    *event.Position
	welcomed bool
	started  event.Position // Welcome's
	at       event.Position // what the next Data goes on from
	flowing  bool           // Data or CaughtUp came
	reset    bool           // a Reset came
	more     bool           // another State frame was announced
	caughtUp bool
	closed   bool
}

// frame returns in words which rules the frame breaks. Unanswered: the device has not answered a Reset yet.
func (c *checker) frame(f event.Frame, login event.LoginID, unanswered bool) []string {
	var out []string
	bad := func(broken bool, format string, args ...any) {
		if broken {
			out = append(out, fmt.Sprintf("%T: %s", f, fmt.Sprintf(format, args...)))
		}
	}
	if event.FrameName(f) == "" {
		return append(out, fmt.Sprintf("%T: nil", f))
	}
	bad(c.closed, "after Closed")
	switch f := f.(type) {
	case *event.Welcome:
		bad(c.welcomed, "a second one")
		c.welcomed, c.started, c.at = true, f.Position, f.Position
		return out
	case *event.Closed:
		c.closed = true
		return out
	}
	bad(!c.welcomed, "before Welcome")
	switch f := f.(type) {
	case *event.Data:
		c.unasked(bad)
		bad(unanswered, "between Reset and its answer (I8)")
		bad(c.more, "another StatePage was announced")
		bad(f.Epoch != c.at.Epoch || f.Prev != c.at.Seq, "goes on from %d of epoch %d, want %d of %d (I6)", f.Prev, f.Epoch, c.at.Seq, c.at.Epoch)
		bad(f.Seq <= f.Prev, "covers (%d, %d]", f.Prev, f.Seq)
		last := f.Prev
		for _, e := range f.Entries {
			bad(e.Seq <= last || e.Seq > f.Seq, "entry %d after %d in (%d, %d] (I6)", e.Seq, last, f.Prev, f.Seq)
			bad(e.Origin != "" && e.Origin == login, "entry %d goes back to its origin (I13)", e.Seq)
			last = e.Seq
		}
		c.at, c.flowing = event.Position{Epoch: f.Epoch, Seq: f.Seq}, true
	case *event.StatePage:
		bad(c.flowing, "after the first Data")
		bad(f.Epoch != c.at.Epoch, "epoch %d, want %d", f.Epoch, c.at.Epoch)
		c.more = f.More
	case *event.CaughtUp:
		c.unasked(bad)
		bad(c.more, "another StatePage was announced")
		bad(c.caughtUp, "a second one")
		bad(unanswered, "between Reset and its answer")
		bad(f.Position != c.at, "at %v, want %v", f.Position, c.at)
		c.flowing, c.caughtUp = true, true
	case *event.Reset:
		bad(!c.flowing && !c.reset && c.claim != nil && f.From != *c.claim, "from %v, but the device claimed %v", f.From, c.claim)
		c.at, c.flowing, c.reset, c.more = f.To, false, true, false
	case *event.Live:
		bad(f.Event == nil, "no event")
		bad(f.Event != nil && f.Event.Origin != "" && f.Event.Origin == login, "goes back to its origin")
	}
	return out
}

// unasked: a position that the device claimed is either taken or answered with a Reset.
func (c *checker) unasked(bad func(bool, string, ...any)) {
	if !c.flowing && !c.reset && c.claim != nil {
		bad(c.started != *c.claim, "without a Reset, though the connection starts at %v and not at %v as claimed (I8)", c.started, *c.claim)
	}
}
