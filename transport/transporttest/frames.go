package transporttest

import (
	"slices"

	"github.com/manydevice/manydevice/event"
)

// Copy returns a copy of a frame that stays as it is when the sender reuses the original. Entries are shared, since nobody
// changes them. Nil and nil pointers stay what they are.
func Copy(f event.Frame) event.Frame {
	if event.FrameName(f) == "" {
		return f
	}
	switch f := f.(type) {
	case *event.Welcome:
		c := *f
		return &c
	case *event.Data:
		c := *f
		c.Entries = slices.Clone(f.Entries)
		return &c
	case *event.StatePage:
		c := *f
		c.States = slices.Clone(f.States)
		for i := range c.States {
			c.States[i].Value = slices.Clone(c.States[i].Value)
		}
		return &c
	case *event.CaughtUp:
		c := *f
		return &c
	case *event.Reset:
		c := *f
		return &c
	case *event.Live:
		c := *f
		return &c
	case *event.Pong:
		c := *f
		return &c
	case *event.Closed:
		return copyClosed(f)
	}
	return f
}

func copyClosed(f *event.Closed) *event.Closed {
	c := *f
	if f.Cause != nil {
		cause := *f.Cause
		c.Cause = &cause
	}
	return &c
}

// size is what a frame counts for in a bounded buffer: its entries and register values, and 64 bytes for the rest.
func size(f event.Frame) int {
	n := 64
	switch f := f.(type) {
	case *event.Data:
		for _, e := range f.Entries {
			n += e.Size()
		}
	case *event.StatePage:
		for i := range f.States {
			n += 64 + len(f.States[i].Value)
		}
	case *event.Live:
		if f.Event != nil {
			n += f.Event.Size()
		}
	}
	return n
}
