package client

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/manydevice/manydevice/event"
)

// State is what a client saves together with the data it applied. The zero value is that of a client that was never
// attached. [State.Encode] writes it as JSON, which json.Unmarshal reads. It holds a secret: keep what Encode returns where
// the platform keeps such things. What json.Marshal writes has a placeholder instead of the token, which json.Unmarshal
// refuses.
type State struct {
	Login event.LoginID     `json:"login,omitempty"`
	Token event.ResumeToken `json:"token,omitzero"` // the latest; secret
	// Position is the place up to which everything was applied. Nil: not known, the engine says where to start.
	Position *event.Position `json:"position,omitempty"`
	// Held are the IDs of the messages applied last, oldest first, at most Config.Keep of them.
	Held []event.MessageID `json:"held,omitempty"`
	// Registers are the conversation state, in order of conversation and name.
	Registers []event.State `json:"registers,omitempty"`
}

// Encode returns the state as JSON, with the token in clear. An [*event.InvalidError] if that is the placeholder, which a server
// sends that has encoded a token without Reveal: nobody could read the state again.
func (s State) Encode() ([]byte, error) {
	text := s.Token.Reveal()
	if err := new(event.ResumeToken).UnmarshalText([]byte(text)); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return json.Marshal(struct {
		State
		Token string `json:"token,omitempty"`
	}{s, text})
}

// DefaultKeep is how many message IDs a machine keeps by itself: as many as an inbox keeps entries by default, so that
// even a whole inbox that comes again under a new epoch is recognised.
const DefaultKeep = 10_000

// Config tunes a Machine. The zero value is valid.
type Config struct {
	// Keep is how many message IDs the machine keeps, to recognise a message that comes again after a Reset. Zero means
	// DefaultKeep; negative means none. It counts for nothing if Holds is set.
	Keep int
	// Holds replaces that list for an app that has its messages in a database: it reports whether a message was applied
	// before. It must know of those in steps that are not saved yet. Nil: the machine keeps a list.
	Holds func(id event.MessageID) bool
	// Kinds says which registers entries set; see [event.Registry.States]. Nil: those of the built-in kinds.
	Kinds *event.Registry
}

// held is the list of message IDs applied last.
type held struct {
	limit int
	known map[event.MessageID]struct{}
	order []event.MessageID // a ring once it is full
	next  int               // oldest place of the ring
}

func newHeld(limit int, ids []event.MessageID) *held {
	h := &held{limit: max(0, cmp.Or(limit, DefaultKeep)), known: map[event.MessageID]struct{}{}}
	for _, id := range ids {
		h.add(id)
	}
	return h
}

func (h *held) has(id event.MessageID) bool {
	_, ok := h.known[id]
	return ok
}

func (h *held) add(id event.MessageID) {
	if id == "" || h.limit == 0 || h.has(id) {
		return
	}
	h.known[id] = struct{}{}
	if len(h.order) < h.limit {
		h.order = append(h.order, id)
		return
	}
	delete(h.known, h.order[h.next])
	h.order[h.next] = id
	h.next = (h.next + 1) % h.limit
}

// list returns the IDs, oldest first.
func (h *held) list() []event.MessageID {
	if len(h.order) == 0 {
		return nil
	}
	return append(append(make([]event.MessageID, 0, len(h.order)), h.order[h.next:]...), h.order[:h.next]...)
}
