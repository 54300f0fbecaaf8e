package event

import (
	"encoding/json"
	"strconv"
	"time"
)

// Operation is the payload of the operations of the catalogue. Which fields count depends on the family: User and Ext for
// contacts; Group and Users for groups; Thread, ThreadName, Parent and Users for threads; the conversation is on the
// entry itself, and Type, Mark, Time and Data belong to it. Unused fields stay empty.
type Operation struct {
	User       Account     `json:"user,omitempty"`
	Ext        string      `json:"ext,omitempty"`
	Group      string      `json:"group,omitempty"`
	Users      []Account   `json:"users,omitempty"`
	Thread     string      `json:"thread,omitempty"`
	ThreadName string      `json:"threadName,omitempty"`
	Parent     string      `json:"parent,omitempty"`
	Type       string      `json:"type,omitempty"` // of the conversation
	Mark       string      `json:"mark,omitempty"`
	On         bool        `json:"on,omitempty"`    // for codes that two kinds share: true for the first of them
	Scope      string      `json:"scope,omitempty"` // history.delete: "conversation" or "messages"
	Messages   []MessageID `json:"messages,omitempty"`
	Before     int64       `json:"before,omitempty,string"`    // Unix milliseconds
	Timestamp  int64       `json:"timestamp,omitempty,string"` // Unix milliseconds
	Data       string      `json:"data,omitempty"`
}

// ReadMark is the payload of conversation.read: how far the account has read the entry's conversation.
type ReadMark struct {
	Seq     uint64    `json:"seq,string"`               // in the account's own inbox
	Message MessageID `json:"message,omitempty"`        // the message at the marker, if the marker was set by message
	Private bool      `json:"private,omitempty"`        // peers are not told
	Ordinal uint64    `json:"ordinal,omitempty,string"` // of the last entry up to Seq that counts as unread
	// Marks are, for conversation.clearAllUnread, the conversations that were marked, with their ordinals.
	Marks []ConversationMark `json:"marks,omitempty"`
}

// ConversationMark is one conversation of a ReadMark.
type ConversationMark struct {
	Conversation ConversationID `json:"conversation"`
	Ordinal      uint64         `json:"ordinal,string"`
}

// States returns the registers that the entry sets whose payload m is.
func (m *ReadMark) States(e *Entry) []State {
	name := StateRead
	if m.Private {
		name = StateReadPrivate
	}
	one := func(c ConversationID, ordinal uint64) State {
		return State{Conversation: c, Name: name, Number: m.Seq, Value: OrdinalValue(ordinal), Seq: e.Seq}
	}
	if e.Kind != KindConversationClearAllUnread {
		return []State{one(e.Conversation, m.Ordinal)}
	}
	all := make([]State, len(m.Marks))
	for i, c := range m.Marks {
		all[i] = one(c.Conversation, c.Ordinal)
	}
	return all
}

// OrdinalValue is the value of a read marker at an ordinal.
func OrdinalValue(ordinal uint64) []byte {
	if ordinal == 0 {
		return nil
	}
	return strconv.AppendUint(nil, ordinal, 10)
}

// Ordinal returns the ordinal that a read marker holds; 0 if it holds none.
func (s *State) Ordinal() uint64 {
	n, err := strconv.ParseUint(string(s.Value), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Claim is the payload of claim: a device of the account has taken something on itself, and the others need not.
type Claim struct {
	Key      string   `json:"key"`
	Login    LoginID  `json:"login"`
	Device   DeviceID `json:"device,omitempty"`
	Platform Platform `json:"platform"`
	Name     string   `json:"name,omitempty"` // of the device
	Data     []byte   `json:"data,omitempty"` // the host's
}

// Receipt is the payload of receipt.delivered and receipt.read: everything that the recipient of this receipt sent to By
// in the entry's conversation up to and including Message has arrived at, or was read on, a device of By.
type Receipt struct {
	By      Account   `json:"by"`
	Message MessageID `json:"message"`
}

// DeviceChange is the payload of device.login, device.ended, device.online and device.offline. Its time is written as all
// times of the protocol are: Unix milliseconds in a decimal string; what is finer is lost, and the zero time is left out.
type DeviceChange struct {
	Login    LoginID   `json:"login"`
	Device   DeviceID  `json:"device"`
	Platform Platform  `json:"platform"`
	Name     string    `json:"name,omitempty"`
	Reason   Reason    `json:"reason,omitempty"` // device.ended and device.offline: why
	Time     time.Time `json:"-"`
}

// deviceChange is a DeviceChange without its methods.
type deviceChange DeviceChange

type deviceChangeJSON struct {
	deviceChange
	Millis int64 `json:"time,omitempty,string"`
}

// MarshalJSON implements [json.Marshaler].
func (c DeviceChange) MarshalJSON() ([]byte, error) {
	j := deviceChangeJSON{deviceChange: deviceChange(c)}
	if !c.Time.IsZero() {
		j.Millis = c.Time.UnixMilli()
	}
	return json.Marshal(j)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (c *DeviceChange) UnmarshalJSON(b []byte) error {
	var j deviceChangeJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*c = DeviceChange(j.deviceChange)
	if j.Millis != 0 {
		c.Time = time.UnixMilli(j.Millis).UTC()
	}
	return nil
}
