package transporttest

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
)

// Connection is one connection of a device.
type Connection struct {
	Login event.LoginID
	Claim *event.Position // what the device attached with; nil: it left that to the engine
	Sent  []event.Frame   // by the engine, in order, also what never arrived
}

// Stream is all that a device went through, for [Validate].
type Stream struct {
	Name         string // in reports
	Account      event.Account
	Incarnations []event.Incarnation // that the device had, latest last
	Connections  []Connection        // earliest first
	Position     event.Position      // of the device, in the end
	Applied      []*event.Sealed     // by the device, in order
}

// Inbox is what an account's inbox holds in the end, as the store tells it.
type Inbox struct {
	Account   event.Account
	Epoch     event.Epoch
	Trim, Seq uint64
	Entries   []event.Entry
}

// Stream returns what the device went through. It needs the records of its Pairs.
func (d *Device) Stream(name string, account event.Account, incarnations ...event.Incarnation) Stream {
	s := Stream{Name: name, Account: account, Incarnations: incarnations, Position: d.Position(), Applied: d.Entries()}
	for _, c := range view(d, func() []*deviceConn { return slices.Clone(d.conns) }) {
		s.Connections = append(s.Connections, Connection{Login: c.login, Claim: c.claim, Sent: c.pair.Sent()})
	}
	return s
}

// Validate holds what devices were sent against each other and against the inboxes, after the end of a test, and returns
// in words what is wrong:
//
//   - ordered: on each connection Welcome, State, Data, CaughtUp and Closed come in their order, each Data goes on where the
//     one before ended, and its entries rise strictly;
//   - filtered: nothing comes back to the login that did it or goes to a device that it is not for;
//   - resumable: a connection begins where the device claims to be, and one without a claim not beyond what was sent;
//   - flagged: what was sent on an earlier connection comes with the flag redelivered;
//   - stable: all devices see the same entry under a number, the inbox holds it unchanged, and all inboxes that hold a
//     message hold the same; a newer entry with a key has taken the place of the older;
//   - markers: none in a State frame is lower than one that was sent before;
//   - unique: no device applied a message twice;
//   - complete: whatever the inbox holds up to a device's position was applied by it, unless it was not for it, may have
//     expired, was there before the device, or a Reset passed it.
//
// What needs the moment, such as Data between Reset and its answer, a [Device] checks as it happens.
func Validate(inboxes []Inbox, streams []Stream) []string {
	v := validation{wire: map[place]*event.Sealed{}, messages: map[event.MessageID]*event.Entry{}}
	for i := range streams {
		v.stream(&streams[i])
	}
	for i := range inboxes {
		v.inbox(&inboxes[i])
	}
	for i := range inboxes {
		for j := range streams {
			if streams[j].Account == inboxes[i].Account {
				v.complete(&inboxes[i], &streams[j])
			}
		}
	}
	return v.broken
}

// place is an entry's place in one inbox.
type place struct {
	account event.Account
	at      event.Position
}

type validation struct {
	broken   []string
	wire     map[place]*event.Sealed // as it was sent first
	messages map[event.MessageID]*event.Entry
}

func (v *validation) bad(broken bool, name string, format string, args ...any) {
	if broken {
		v.broken = append(v.broken, name+": "+fmt.Sprintf(format, args...))
	}
}

// stream checks all connections of one device.
func (v *validation) stream(s *Stream) {
	t := trail{sent: map[event.Position]bool{}, ends: map[event.Epoch]uint64{}, marks: map[mark]uint64{}}
	for i := range s.Connections {
		c := &s.Connections[i]
		check := checker{claim: c.Claim}
		name := fmt.Sprintf("%s, connection %d", s.Name, i+1)
		before := len(t.sent)
		for _, f := range c.Sent {
			for _, words := range check.frame(f, c.Login, false) {
				v.bad(true, name, "%s", words)
			}
			v.bad(!t.fits(f, c, s), name, "%T begins at a place that was not sent (I9)", f)
			v.frame(name, f, c, s, &t, before > 0)
		}
		t.turn()
	}
	seen := map[event.MessageID]bool{}
	for _, e := range s.Applied {
		v.bad(e.ID != "" && seen[e.ID], s.Name, "message %s, entry %d, was applied twice (I10)", e.ID, e.Seq)
		seen[e.ID] = true
	}
}

// trail is what was sent to a device so far.
type trail struct {
	sent  map[event.Position]bool // on earlier connections
	now   []event.Position        // on this one
	ends  map[event.Epoch]uint64  // up to where
	marks map[mark]uint64
}

// mark names a read marker.
type mark struct {
	epoch        event.Epoch
	conversation event.ConversationID
	name         string
}

// turn ends a connection.
func (t *trail) turn() {
	for _, p := range t.now {
		t.sent[p] = true
	}
	t.now = nil
}

// fits reports whether a connection that begins without a claim begins at a place that the device may have acknowledged. A
// device that was removed and came back begins anew.
func (t *trail) fits(f event.Frame, c *Connection, s *Stream) bool {
	w, ok := f.(*event.Welcome)
	if !ok {
		return true
	}
	end, known := t.ends[w.Position.Epoch]
	if !known {
		t.ends[w.Position.Epoch] = w.Position.Seq
	}
	return c.Claim != nil || !known || w.Position.Seq <= end || len(s.Incarnations) > 1
}

// frame checks one frame against all that came before to the device, and its entries against those of other devices.
func (v *validation) frame(name string, f event.Frame, c *Connection, s *Stream, t *trail, older bool) {
	switch f := f.(type) {
	case *event.Data:
		for _, e := range f.Entries {
			at := event.Position{Epoch: f.Epoch, Seq: e.Seq}
			v.bad(older && !f.Redelivered && t.sent[at], name, "entry %d was sent before, and is not flagged as redelivered", e.Seq)
			t.now = append(t.now, at)
			v.bad(!s.addressed(&e.Entry, c.Login), name, "entry %d is for other devices (I14)", e.Seq)
			v.same(name, place{s.Account, at}, e)
			for _, m := range marks(&e.Entry) {
				m.epoch = f.Epoch
				t.marks[m.mark] = max(t.marks[m.mark], m.number)
			}
		}
		t.ends[f.Epoch] = max(t.ends[f.Epoch], f.Seq)
	case *event.Reset: // acknowledging it moves the cursor, too
		t.ends[f.To.Epoch] = max(t.ends[f.To.Epoch], f.To.Seq)
	case *event.StatePage:
		for i := range f.States {
			r := &f.States[i]
			v.bad(r.Internal(), name, "register %q is the engine's own", r.Name)
			if r.Name != event.StateRead && r.Name != event.StateReadPrivate {
				continue
			}
			m := mark{f.Epoch, r.Conversation, r.Name}
			v.bad(r.Number < t.marks[m], name, "marker %s of %s goes back from %d to %d (I16)", r.Name, r.Conversation, t.marks[m], r.Number)
			t.marks[m] = max(t.marks[m], r.Number)
		}
	case *event.Live:
		v.bad(f.Event != nil && !s.addressed(&f.Event.Entry, c.Login), name, "live event is for other devices (I14)")
	}
}

// addressed reports whether an entry is for the device, which was attached with a login.
func (s *Stream) addressed(e *event.Entry, login event.LoginID) bool {
	return slices.ContainsFunc(s.Incarnations, func(i event.Incarnation) bool { return e.For(i, login) })
}

// same compares an entry with what another device, or another connection, was sent under its number.
func (v *validation) same(name string, p place, e *event.Sealed) {
	first, ok := v.wire[p]
	if !ok {
		v.wire[p] = e
		v.message(name, &e.Entry)
		return
	}
	v.bad(first != e && !bytes.Equal(first.JSON(), e.JSON()), name, "entry %d was %s before, and is %s (I4)", e.Seq, first.JSON(), e.JSON())
}

// message compares what the copies of a message have in common.
func (v *validation) message(name string, e *event.Entry) {
	first, ok := v.messages[e.ID]
	if !ok {
		v.messages[e.ID] = e
		return
	}
	same := first.Kind == e.Kind && first.Conversation == e.Conversation && first.From == e.From && first.Key == e.Key &&
		first.Time.UnixMilli() == e.Time.UnixMilli() && expires(first) == expires(e) && bytes.Equal(first.Payload, e.Payload)
	v.bad(!same, name, "message %s is not the same in another inbox (I2)", e.ID)
}

// expires returns when an entry expires, in Unix milliseconds, as finely as clients are told; 0: never.
func expires(e *event.Entry) int64 {
	if e.Expires.IsZero() {
		return 0
	}
	return e.Expires.UnixMilli()
}

// marked is a read marker that an entry sets.
type marked struct {
	mark
	number uint64
}

func marks(e *event.Entry) (all []marked) {
	if e.Kind != event.KindConversationRead && e.Kind != event.KindConversationClearUnread && e.Kind != event.KindConversationClearAllUnread {
		return nil
	}
	for _, s := range kinds().States(e) {
		all = append(all, marked{mark{conversation: s.Conversation, name: s.Name}, s.Number})
	}
	return all
}
