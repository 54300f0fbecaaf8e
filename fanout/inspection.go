package fanout

import (
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
)

// InspectOptions choose what [Router.Inspect] returns. The zero value is valid: the oldest entries, without payloads.
type InspectOptions struct {
	// After and Limit choose a page of entries: those with a higher sequence number, at most so many, and at most
	// Config.PageBytes together. Limit also bounds the registers and the conversations. Zero means 100; at most 1,000;
	// negative is refused.
	After uint64
	Limit int
	// Registers and Conversations are where the last page ended, from [InspectNext]. Empty: begin.
	Registers, Conversations string
	// Payloads: entries and registers come with what they hold, registers as long as that is at most Config.PageBytes
	// together. Without it only sizes are told: an operator has no need to read other people's messages.
	Payloads bool
}

// Inspection is what the engine knows of an account, for people who look into a problem. It marshals to JSON, with 64-bit
// numbers as strings. It has no tokens and no digests of them, and payloads only if they were asked for.
//
// Its parts are read one after another while the account lives on: it is not a picture of one moment.
type Inspection struct {
	Account     event.Account           `json:"account"`
	Time        time.Time               `json:"time"`
	Inbox       InboxView               `json:"inbox"`
	Logins      []session.LoginView     `json:"logins"`
	Devices     []DeviceView            `json:"devices"`
	Tombstones  []session.TombstoneView `json:"tombstones"` // of logins that have ended
	Recent      []session.RecentView    `json:"recent"`     // logins and ends
	Ban         *session.BanView        `json:"ban,omitempty"`
	Attachments []AttachmentView        `json:"attachments"` // on this node only

	Entries       []EntryView    `json:"entries"`
	Registers     []RegisterView `json:"registers"`
	Conversations []UnreadView   `json:"conversations"`
	Next          *InspectNext   `json:"next,omitempty"` // nil: these were the last of all three
}

// InspectNext says where the next page begins: pass it on in [InspectOptions]. An empty field: there is no next page.
type InspectNext struct {
	After         uint64 `json:"after,omitempty,string"`
	Registers     string `json:"registers,omitempty"`
	Conversations string `json:"conversations,omitempty"`
}

// InboxView is the account's inbox as a whole. See [store.Head].
type InboxView struct {
	Epoch   event.Epoch `json:"epoch,string"`
	Head    uint64      `json:"head,string"` // newest entry ever appended
	Trim    uint64      `json:"trim,string"` // entries up to here are gone
	Entries int         `json:"entries"`     // left, without those that have a coalesce key
	Bytes   int64       `json:"bytes,string"`
}

// DeviceView is a device and its place in the inbox.
type DeviceView struct {
	session.DeviceView

	Cursor   uint64          `json:"cursor,string"`            // acknowledged up to here, as it is in the store
	Pending  uint64          `json:"pending,omitempty,string"` // as this node knows it, if that is not written yet
	Sent     uint64          `json:"sent,string"`              // sent up to here at least once
	Lag      uint64          `json:"lag,string"`               // from the higher one of Cursor and Pending to the inbox's head
	Attempts int             `json:"attempts,omitempty"`       // connections that ended at the same entry, see [Poison]
	Stuck    *event.Position `json:"stuck,omitempty"`          // that entry
}

// AttachmentView is a connection to this node.
type AttachmentView struct {
	Login        event.LoginID  `json:"login"`
	Device       event.DeviceID `json:"device"`
	Generation   uint64         `json:"generation,string"`
	Phase        string         `json:"phase"`              // states, data, or awaiting_reset_ack
	Position     event.Position `json:"position"`           // sent up to here
	Acked        uint64         `json:"acked,string"`       // acknowledged up to here
	Unacked      int            `json:"unacked"`            // entries
	UnackedBytes int            `json:"unackedBytes"`       // their sizes together
	Blocked      bool           `json:"blocked,omitempty"`  // the next entry waits for an ack
	OneByOne     bool           `json:"oneByOne,omitempty"` // entries go one at a time, since the device was in trouble
	CaughtUp     bool           `json:"caughtUp,omitempty"` // it got all that there was when it came
	Live         int            `json:"live"`               // live-only events that wait
	Away         bool           `json:"away,omitempty"`     // its app is in background
}

// EntryView is an entry of the inbox. See [event.Entry].
type EntryView struct {
	Seq          uint64                `json:"seq,string"`
	Kind         event.Kind            `json:"kind"`
	Flags        event.Flags           `json:"flags,omitempty"`
	Conversation event.ConversationID  `json:"conversation,omitempty"`
	ID           event.MessageID       `json:"id"`
	ClientID     event.ClientMessageID `json:"clientId,omitempty"`
	From         event.Account         `json:"from"`
	Origin       event.LoginID         `json:"origin,omitempty"`
	Targets      []event.DeviceID      `json:"targets,omitempty"` // a device that was removed is named by its incarnation
	Time         time.Time             `json:"time"`
	Expires      time.Time             `json:"expires,omitzero"`
	Ordinal      uint64                `json:"ordinal,omitempty,string"`
	Keyed        bool                  `json:"keyed,omitempty"` // it has a coalesce key
	Bytes        int                   `json:"bytes"`           // of the payload
	Text         string                `json:"text,omitempty"`  // the payload, if it was asked for and is text
	Data         []byte                `json:"data,omitempty"`  // the payload, if it was asked for and is not
}

// RegisterView is a register of conversation state. See [event.State].
type RegisterView struct {
	Conversation event.ConversationID `json:"conversation,omitempty"` // empty: of the account
	Name         string               `json:"name"`                   // those of the engine alone begin with _
	Number       uint64               `json:"number,omitempty,string"`
	Seq          uint64               `json:"seq,string"` // of the entry that set it
	Bytes        int                  `json:"bytes"`      // of the value
	Text         string               `json:"text,omitempty"`
	Data         []byte               `json:"data,omitempty"`
}

// UnreadView is what an account has not read of one conversation. See [Router.Unread].
type UnreadView struct {
	Conversation event.ConversationID `json:"conversation"`
	Unread       uint64               `json:"unread,string"`
	Counted      uint64               `json:"counted,string"`         // messages that were counted so far
	ReadOrdinal  uint64               `json:"readOrdinal,string"`     // up to which they were read
	Uncounted    int                  `json:"uncounted,omitempty"`    // taken out of the count since, of the latest 64
	Marked       bool                 `json:"markedUnread,omitempty"` // the user has marked it as unread
}
