package client

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/manydevice/manydevice/event"
)

type registerKey struct {
	conversation event.ConversationID
	name         string
}

// registers is an account's conversation state as the device knows it.
type registers map[registerKey]event.State

// set merges one register and reports whether its content changed. A marker keeps the highest Number, any other register
// the highest Seq. The Value is copied.
func (r registers) set(s event.State) bool {
	k := registerKey{s.Conversation, s.Name}
	old, ok := r[k]
	if ok && !newer(&s, &old) {
		return false
	}
	s.Value = slices.Clone(s.Value)
	r[k] = s
	return !ok || s.Number != old.Number || !bytes.Equal(s.Value, old.Value)
}

func newer(s, old *event.State) bool {
	if marker(s.Name) {
		return cmp.Or(cmp.Compare(s.Number, old.Number), cmp.Compare(s.Seq, old.Seq)) > 0
	}
	return s.Seq > old.Seq
}

func marker(name string) bool { return name == event.StateRead || name == event.StateReadPrivate }

// sorted returns a deep copy in order of conversation and name.
func (r registers) sorted() []event.State {
	if len(r) == 0 {
		return nil
	}
	out := make([]event.State, 0, len(r))
	for _, s := range r {
		out = append(out, clone(s))
	}
	slices.SortFunc(out, compareStates)
	return out
}

func compareStates(a, b event.State) int {
	return cmp.Or(cmp.Compare(a.Conversation, b.Conversation), cmp.Compare(a.Name, b.Name))
}

func clone(s event.State) event.State {
	s.Value = slices.Clone(s.Value)
	return s
}

// Digest sums up registers: two lists with the same contents have the same digest, whatever their order. Seq is left out,
// since it says how a register came to be and not what it holds, and so are the engine's internal registers.
func Digest(states []event.State) [32]byte {
	sorted := slices.SortedFunc(slices.Values(states), compareStates)
	var b []byte
	for i := range sorted {
		s := &sorted[i]
		if s.Internal() {
			continue
		}
		for _, field := range [][]byte{[]byte(s.Conversation), []byte(s.Name), s.Value} {
			b = binary.AppendUvarint(b, uint64(len(field)))
			b = append(b, field...)
		}
		b = binary.AppendUvarint(b, s.Number)
	}
	return sha256.Sum256(b)
}

// builtin are the kinds that every engine has.
var builtin = sync.OnceValue(func() *event.Registry {
	r, err := event.NewRegistry()
	if err != nil {
		panic(err) // a table of this module
	}
	return r
})

// stated returns the registers that an entry sets. A read mark that cannot be decoded sets none: the entry still reaches
// the app, and the register comes with the next State frames. Reading a conversation also takes back that it was marked
// as unread.
func (m *Machine) stated(e *event.Entry) []event.State {
	kinds := m.cfg.Kinds
	if kinds == nil {
		kinds = builtin()
	}
	out := kinds.States(e)
	for _, s := range out {
		if !marker(s.Name) {
			continue
		}
		if old := m.registers[registerKey{s.Conversation, event.StateUnread}]; old.Number != 0 {
			out = append(out, event.State{Conversation: s.Conversation, Name: event.StateUnread, Seq: e.Seq})
		}
	}
	return out
}
