package event

import (
	"slices"
	"sync"
	"time"
)

// Flags say how an entry counts.
type Flags uint16

const (
	// FlagUnread marks an entry that counts as unread in its inbox.
	FlagUnread Flags = 1 << iota
	// FlagReceipts marks a message whose sender gets delivered and read receipts.
	FlagReceipts
	// FlagNoPush marks an entry that no push is to be sent for.
	FlagNoPush
	// FlagHigh and FlagLow mark what its sender takes for more or less urgent than usual.
	FlagHigh
	FlagLow
	// FlagTargeted marks an entry of a message that was for some devices only, in this inbox or in another that got it.
	FlagTargeted
)

// Entry is one element of an account's inbox. Once appended it never changes; it can only vanish, because it was trimmed,
// voided or superseded.
type Entry struct {
	Seq          uint64          // place in the inbox, from 1
	Kind         Kind            // what it is
	Flags        Flags           // how it counts
	Conversation ConversationID  // empty: belongs to none
	ID           MessageID       // the message or operation; the same in every inbox that got a copy
	ClientID     ClientMessageID // the sender's own name for it; only in the sender's inbox
	From         Account         // who did it; equal to the inbox's account for a carbon
	Origin       LoginID         // the login that did it, only in its own account's inbox; empty: the host
	Targets      []Incarnation   // devices that it is for; empty: all. Never sent to a client
	Key          string          // coalesce key: a newer entry with the same key supersedes it; empty: none
	Time         time.Time       // when the engine accepted it, in milliseconds
	Expires      time.Time       // not delivered from then on; zero: never
	Ordinal      uint64          // number among the entries of its conversation that count as unread; 0: does not count
	Payload      []byte          // the host's bytes, or JSON of a type in this package for the engine's own kinds
}

// Expired reports whether the entry is not to be delivered any more at the given time.
func (e *Entry) Expired(now time.Time) bool { return !e.Expires.IsZero() && !now.Before(e.Expires) }

// For reports whether the entry is to be delivered to a device: it is addressed to it (or to all), and the login that
// caused it is another one.
func (e *Entry) For(device Incarnation, login LoginID) bool {
	if e.Origin != "" && e.Origin == login {
		return false
	}
	return len(e.Targets) == 0 || slices.Contains(e.Targets, device)
}

// Sealed is an entry that nobody changes any more, with its encoding, which is made once and shared by all devices of
// the account; see [Seal], and [SealPage] for one device. Its fields and the encoding are read-only. It is safe for
// concurrent use.
type Sealed struct {
	Entry

	alone bool // it is for one device, and encoded into the frame that takes it there
	once  sync.Once
	json  []byte
}

// Seal wraps e. The payload is shared, not copied.
func Seal(e Entry) *Sealed { return &Sealed{Entry: e} }

const (
	sealBlock    = 16      // entries that share a block of memory
	sealBlockMax = 1 << 10 // bytes of a payload whose entry may be among them
)

// SealPage wraps entries that go to one device, once: [AppendFrame] does not keep their encoding. Payloads are shared, not
// copied. Who keeps one of the results keeps up to 16 of them in memory, with payloads of at most 1 KiB each.
func SealPage(entries []Entry) []*Sealed {
	all := make([]*Sealed, len(entries))
	var block []Sealed
	for i := range entries {
		e := &entries[i]
		if len(e.Payload) > sealBlockMax {
			all[i] = &Sealed{Entry: *e, alone: true}
			continue
		}
		if len(block) == 0 {
			block = make([]Sealed, min(sealBlock, len(entries)-i))
		}
		all[i], block = &block[0], block[1:]
		all[i].Entry, all[i].alone = *e, true
	}
	return all
}

// JSON returns the reference encoding of the entry. The caller may keep the bytes but not change them.
func (s *Sealed) JSON() []byte {
	s.once.Do(func() { s.json = slices.Clip(appendEntry(nil, &s.Entry)) })
	return s.json
}

func (s *Sealed) append(dst []byte) []byte {
	if s.alone {
		return appendEntry(dst, &s.Entry)
	}
	return append(dst, s.JSON()...)
}

// Size is what an entry counts for in windows and limits: its payload plus a fixed 64 bytes for the rest.
func (e *Entry) Size() int { return len(e.Payload) + 64 }

// State is one register of an account's conversation state: a marker, a flag, a setting.
type State struct {
	Conversation ConversationID
	Name         string // such as "read"; see the State constants
	Number       uint64 // for markers: a sequence number of the account's inbox
	Value        []byte // for registers that hold more than a number
	Seq          uint64 // the entry that set it: the newer one wins
}

// Names of the registers that the engine itself keeps. Names that begin with '_' never leave the engine.
const (
	// StateRead is the read marker: the furthest entry of the conversation that was read on any device. Its value is the
	// ordinal up to which entries that count as unread were read, in decimal digits; empty: none.
	StateRead = "read"
	// StateReadPrivate is the private read marker: as StateRead, but peers are never told.
	StateReadPrivate = "readPrivate"
	// StateUnread is 1 if the user has marked the conversation as unread. Reading it sets it to 0.
	StateUnread = "unread"
	// StateDelivered begins the names of the registers that hold, for each sender, the furthest entry whose delivery it
	// was told.
	StateDelivered = "_delivered:"
)

// Internal reports whether the register is the engine's own and never sent to a device.
func (s *State) Internal() bool { return len(s.Name) > 0 && s.Name[0] == '_' }
