package transporttest

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/manydevice/manydevice/event"
)

// kinds are the built-in ones.
var kinds = sync.OnceValue(func() *event.Registry {
	r, err := event.NewRegistry()
	if err != nil {
		panic(err) // a table of this module
	}
	return r
})

// inbox checks what is left of a log, and that it is what devices were sent.
func (v *validation) inbox(box *Inbox) {
	name := fmt.Sprintf("inbox of %s", box.Account)
	last := box.Trim
	keys := map[string]uint64{}
	for i := range box.Entries {
		e := &box.Entries[i]
		v.bad(e.Seq <= last || e.Seq > box.Seq, name, "entry %d after %d, head %d (I3)", e.Seq, last, box.Seq)
		v.bad(e.Key != "" && keys[e.Key] != 0, name, "entries %d and %d have the same key", keys[e.Key], e.Seq)
		last, keys[e.Key] = e.Seq, e.Seq
		v.message(name, e)
		if sent, ok := v.wire[place{box.Account, event.Position{Epoch: box.Epoch, Seq: e.Seq}}]; ok {
			held := event.Seal(*e).JSON()
			v.bad(!bytes.Equal(sent.JSON(), held), name, "entry %d was sent as %s and is %s (I4)", e.Seq, sent.JSON(), held)
		}
	}
}

// complete looks for entries that a device should have applied, given how far it has come.
func (v *validation) complete(box *Inbox, s *Stream) {
	if s.Position.Epoch != box.Epoch {
		return
	}
	from, logins, known := s.begins(box.Epoch)
	if !known {
		return
	}
	v.bad(s.Position.Seq > box.Seq, s.Name, "its position, %d, is beyond the end of the inbox, %d (I9)", s.Position.Seq, box.Seq)
	has := map[event.MessageID]bool{}
	for _, e := range s.Applied {
		has[e.ID] = true
	}
	for i := range box.Entries {
		e := &box.Entries[i]
		if e.Seq <= from || e.Seq > s.Position.Seq || !e.Expires.IsZero() || logins[e.Origin] || has[e.ID] {
			continue
		}
		v.bad(e.For(s.incarnation(), ""), s.Name, "entry %d, message %s, was passed over on the way to %d (I7)", e.Seq, e.ID, s.Position.Seq)
	}
}

// incarnation returns the device's latest one: what was for an earlier one need not come any more.
func (s *Stream) incarnation() event.Incarnation {
	if len(s.Incarnations) == 0 {
		return 0
	}
	return s.Incarnations[len(s.Incarnations)-1]
}

// begins returns up to where the device cannot have all of an inbox: it was not there yet, or a Reset passed it. Further its
// logins, and whether it was sent anything of that inbox.
func (s *Stream) begins(epoch event.Epoch) (from uint64, logins map[event.LoginID]bool, known bool) {
	logins = map[event.LoginID]bool{}
	for _, c := range s.Connections {
		if c.Login != "" {
			logins[c.Login] = true
		}
		for _, f := range c.Sent {
			switch f := f.(type) {
			case *event.Welcome:
				if f.Position.Epoch == epoch && (!known || c.Claim == nil) {
					from, known = max(from, f.Position.Seq), true
				}
			case *event.Reset:
				if f.To.Epoch == epoch {
					from, known = max(from, f.To.Seq), true
				}
			}
		}
	}
	return from, logins, known
}
