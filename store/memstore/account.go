package memstore

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// entryBytes is what an entry counts for beside its payload; see [event.Entry.Size].
const entryBytes = 64

// account is what one account has. A deleted one stays, empty, for its epoch and its place in the order.
type account struct {
	name     event.Account
	index    int    // in Store.order
	epoch    uint32 // counts deletions, from 1
	revision store.Revision
	record   []byte
	inbox    inbox
	states   []event.State // by conversation and name
	cursors  []store.Cursor
	counts   map[event.ConversationID]count
	window   window
}

// count is what a conversation has of entries that count as unread.
type count struct {
	counted   uint64
	uncounted []uint64
}

// next returns the ordinal of another entry of the conversation.
func (a *account) next(c event.ConversationID) uint64 {
	if a.counts == nil {
		a.counts = make(map[event.ConversationID]count)
	}
	n := a.counts[c]
	n.counted++
	a.counts[c] = n
	return n.counted
}

// uncount takes an entry out of the count of its conversation.
func (a *account) uncount(c event.ConversationID, ordinal uint64) {
	if ordinal != 0 {
		n := a.counts[c]
		n.uncounted = store.Uncount(n.uncounted, ordinal)
		a.counts[c] = n
	}
}

// state returns the place of a register and whether it is there.
func (a *account) state(c event.ConversationID, name string) (int, bool) {
	return slices.BinarySearchFunc(a.states, event.State{Conversation: c, Name: name}, func(s, t event.State) int {
		return cmp.Or(strings.Compare(string(s.Conversation), string(t.Conversation)), strings.Compare(s.Name, t.Name))
	})
}

// merged returns what the update makes of the register, and whether that is a change.
func (a *account) merged(u *store.StateUpdate) (event.State, bool) {
	if i, ok := a.state(u.Conversation, u.Name); ok {
		return store.Merge(&a.states[i], *u)
	}
	return store.Merge(nil, *u)
}

// update merges the update into the register and returns a copy of what it is now.
func (a *account) update(u *store.StateUpdate, seq uint64) event.State {
	next, changed := a.merged(u)
	if changed {
		next.Seq = seq
		next.Value = slices.Clone(next.Value)
		if i, ok := a.state(u.Conversation, u.Name); ok {
			a.states[i] = next
		} else {
			a.states = slices.Insert(a.states, i, next)
		}
	}
	next.Value = slices.Clone(next.Value)
	return next
}

// begin makes a cursor for a new device. Sequence numbers are dense, so that Back is taken off the head as it is.
func (a *account) begin(d store.Begin) {
	if slices.ContainsFunc(a.cursors, func(c store.Cursor) bool { return c.Incarnation == d.Incarnation }) {
		return
	}
	seq := a.inbox.seq - min(d.Back, a.inbox.seq)
	if d.At != 0 {
		seq = min(seq, d.At)
	}
	seq = max(seq, a.inbox.trim)
	a.cursors = append(a.cursors, store.Cursor{Account: a.name, Incarnation: d.Incarnation, Seq: seq})
}

// save merges a cursor by maximum.
func (a *account) save(c store.Cursor) {
	for i := range a.cursors {
		if have := &a.cursors[i]; have.Incarnation == c.Incarnation {
			have.Seq, have.Sent = max(have.Seq, c.Seq), max(have.Sent, c.Sent)
			return
		}
	}
}

// message is what the copies of a message share. Only refs and holds change after it was made, and the payload, which goes
// with the last copy.
type message struct {
	id           event.MessageID
	kind         event.Kind
	flags        event.Flags
	conversation event.ConversationID
	clientID     event.ClientMessageID
	from         event.Account
	origin       event.LoginID
	key          string
	time         int64 // Unix milliseconds
	expires      int64 // Unix milliseconds; meaningless unless mayExpire
	mayExpire    bool
	payload      []byte
	to           []store.Place
	slots        [1]store.Place // what to is in as long as there is one
	refs         int            // inboxes that hold it
	of           *message
	holds        int // messages that change it and are held themselves
}

// entry is one account's copy of a message. An entry that was voided or superseded stays as a hole, without a message,
// until holes are the larger part.
type entry struct {
	seq     uint64
	ordinal uint64
	message *message
	targets []event.Incarnation
	flags   event.Flags
}

// event composes what readers see.
func (e *entry) event(own event.Account, bodies bool) event.Entry {
	m := e.message
	out := event.Entry{
		Seq: e.seq, Kind: m.kind, Flags: e.flags, Conversation: m.conversation, ID: m.id, From: m.from,
		Targets: slices.Clone(e.targets), Key: m.key, Time: time.UnixMilli(m.time).UTC(), Ordinal: e.ordinal,
	}
	if m.mayExpire {
		out.Expires = time.UnixMilli(m.expires).UTC()
	}
	if own == m.from {
		out.ClientID, out.Origin = m.clientID, m.origin
	}
	if bodies {
		out.Payload = m.payload
	}
	return out
}

// inbox is an account's log.
type inbox struct {
	seq     uint64 // newest ever appended
	trim    uint64
	entries []entry // by seq, with holes
	live    int     // entries that are no holes
	unkeyed int     // live ones without a key
	bytes   int64   // sum of the sizes of live ones
	keys    map[string]uint64
}

// after returns the index of the first entry or hole with a higher sequence number.
func (b *inbox) after(seq uint64) int {
	n := len(b.entries)
	if n == 0 || b.entries[n-1].seq <= seq {
		return n // the common case: a reader at the head
	}
	i, _ := slices.BinarySearchFunc(b.entries, seq, func(e entry, seq uint64) int {
		if e.seq <= seq {
			return -1
		}
		return 1
	})
	return i
}

func (b *inbox) push(e entry) {
	b.entries = append(b.entries, e)
	b.live++
	b.bytes += int64(len(e.message.payload)) + entryBytes
	if key := e.message.key; key == "" {
		b.unkeyed++
	} else {
		if b.keys == nil {
			b.keys = make(map[string]uint64)
		}
		b.keys[key] = e.seq
	}
}

// punch makes a hole of the entry with the given number, and returns it as it was; without a message if there was none.
func (b *inbox) punch(seq uint64) entry {
	i := b.after(seq) - 1
	if i < 0 || b.entries[i].seq != seq {
		return entry{}
	}
	return b.punchAt(i)
}

func (b *inbox) punchAt(i int) entry {
	e := &b.entries[i]
	old, m := *e, e.message
	if m == nil {
		return old
	}
	b.live--
	b.bytes -= int64(len(m.payload)) + entryBytes
	if m.key == "" {
		b.unkeyed--
	} else if b.keys[m.key] == e.seq {
		delete(b.keys, m.key)
	}
	e.message, e.targets = nil, nil
	return old
}

// tidy drops holes at the front, and all of them once they are more than the rest.
func (b *inbox) tidy() {
	n := 0
	for n < len(b.entries) && b.entries[n].message == nil {
		n++
	}
	b.entries = b.entries[n:]
	if holes := len(b.entries) - b.live; holes > 32 && holes > b.live {
		b.entries = slices.DeleteFunc(b.entries, func(e entry) bool { return e.message == nil })
	}
}
