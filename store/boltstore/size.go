package boltstore

import (
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// rowBytes is what a row takes besides the names, keys and values that callers give, at most about.
const rowBytes = 64

// size is how many bytes of rows a batch stores, keys included, at most. What it removes or replaces is not taken off.
func size(b *store.Batch) int64 {
	account := len(b.Account)
	n := account + rowBytes
	if b.Record != nil {
		n += long(account, len(b.Record.Data))
	}
	for i := range b.States {
		u := &b.States[i]
		n += long(account+len(u.Conversation)+len(u.Name), len(u.Value))
	}
	n += len(b.Begin) * (account + rowBytes)
	if i := b.Idempotency; i != nil { // and, for the hand, its name once more
		n += 2 * (account + len(i.Device) + len(i.ClientID) + rowBytes)
		if len(b.Messages) != 0 {
			n += len(b.Messages[0].ID)
		}
	}
	for i := range b.Messages {
		n += messageSize(&b.Messages[i])
	}
	return int64(n)
}

// messageSize is size for a message: its rows, and those of all inboxes.
func messageSize(m *store.Message) int {
	key := len(m.ID) + 2
	n := long(key, len(m.Payload)) + len(m.ID) + len(m.Kind) + len(m.Conversation) + len(m.From)
	if m.Of != "" { // its key, and its references
		n += 2*len(m.Of) + rowBytes
	}
	places := 0
	for i := range m.To {
		to := &m.To[i]
		account := len(to.Account)
		n += 2*(account+rowBytes) + key + 10*len(to.Targets) // head and entry
		places += account + rowBytes/2
		if (m.Flags|to.Flags)&event.FlagUnread != 0 {
			n += account + 2*len(m.Conversation) + rowBytes // its count, and its name in the entry
		}
		if m.Key != "" {
			n += account + 2*len(m.Key) + rowBytes/2
		}
		if to.Replaces.Seq != 0 { // it may take over a place in the count
			n += len(m.Conversation)
		}
		if to.Account == m.From {
			n += len(m.ClientID) + len(m.Origin)
		}
	}
	return n + long(key, places)
}

// long is what a value takes that may be long, with its key, which each of its chunks has.
func long(key, value int) int {
	return value + (1+value/kv.ChunkBytes)*(key+rowBytes)
}
