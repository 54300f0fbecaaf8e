package event

import (
	"encoding/json"
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
	Seq     uint64    `json:"seq,string"`        // in the account's own inbox
	Message MessageID `json:"message,omitempty"` // the message at the marker, if the marker was set by message
	Private bool      `json:"private,omitempty"` // peers are not told
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
