package store

import (
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
)

// maxMillis is the last millisecond of the year 9999: the end of what RFC 3339 and so JSON can write.
const maxMillis = 253_402_300_799_999

// Validate reports whether the batch is well-formed: what must be set is set, and everything is within the bounds that
// every store accepts. The error is an [*event.InvalidError]. Stores call it before anything else, so that all of them
// refuse alike; it looks at the batch alone, never at what is stored. Times are used to the millisecond: what is finer
// is cut off.
func (b *Batch) Validate() error {
	if err := CheckAccount(b.Account); err != nil {
		return err
	}
	if err := checkTime("time", b.Now); err != nil {
		return err
	}
	if err := b.Idempotency.validate(); err != nil {
		return err
	}
	if b.Record != nil && len(b.Record.Data) > MaxRecordBytes {
		return tooLong("record", len(b.Record.Data), MaxRecordBytes)
	}
	for i := range b.States {
		if err := b.States[i].validate(); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(b.Begin, func(d Begin) bool { return d.Incarnation == 0 }) {
		return invalid("incarnation", "zero")
	}
	if slices.Contains(b.Forget, 0) {
		return invalid("incarnation", "zero")
	}
	return validateMessages(b.Messages)
}

func validateMessages(messages []Message) error {
	var ids distinct[event.MessageID]
	for i := range messages {
		m := &messages[i]
		if err := m.validate(); err != nil {
			return err
		}
		if !ids.add(m.ID) {
			return invalid("message ID", "twice in one batch")
		}
	}
	return nil
}

func (i *Idempotency) validate() error {
	if i == nil {
		return nil
	}
	if i.Device != "" {
		if err := checkID("device", string(i.Device)); err != nil {
			return err
		}
	}
	if err := checkID("client message ID", string(i.ClientID)); err != nil {
		return err
	}
	if i.Window < event.Millis {
		return invalid("idempotency window", "below 1 ms")
	}
	if i.Max < 1 {
		return invalid("idempotency bound", "below 1")
	}
	return nil
}

func (u *StateUpdate) validate() error {
	if u.Conversation != "" {
		if err := checkID("conversation", string(u.Conversation)); err != nil {
			return err
		}
	}
	if err := checkID("register", u.Name); err != nil {
		return err
	}
	if u.Merge > MergeLast {
		return invalid("merge rule", "unknown")
	}
	if len(u.Value) > MaxRecordBytes {
		return tooLong("register value", len(u.Value), MaxRecordBytes)
	}
	return nil
}

func (m *Message) validate() error {
	if err := checkID("message ID", string(m.ID)); err != nil {
		return err
	}
	if err := m.Kind.Validate(); err != nil {
		return err
	}
	if err := checkID("from", string(m.From)); err != nil {
		return err
	}
	for _, o := range [...]struct{ field, value string }{
		{"conversation", string(m.Conversation)},
		{"client message ID", string(m.ClientID)},
		{"origin", string(m.Origin)},
		{"changed message", string(m.Of)},
	} {
		if o.value == "" {
			continue
		}
		if err := checkID(o.field, o.value); err != nil {
			return err
		}
	}
	if len(m.Key) > MaxKeyBytes {
		return tooLong("coalesce key", len(m.Key), MaxKeyBytes)
	}
	if len(m.Drop) > MaxKeyBytes {
		return tooLong("dropped key", len(m.Drop), MaxKeyBytes)
	}
	if !m.Expires.IsZero() {
		if err := checkTime("expiry", m.Expires); err != nil {
			return err
		}
	}
	if len(m.Payload) > MaxPayloadBytes {
		return tooLong("payload", len(m.Payload), MaxPayloadBytes)
	}
	return validateInboxes(m.To)
}

func validateInboxes(to []Inbox) error {
	if len(to) == 0 || len(to) > MaxInboxes {
		return invalid("inboxes", fmt.Sprintf("%d, want 1 to %d", len(to), MaxInboxes))
	}
	var accounts distinct[event.Account]
	for i := range to {
		in := &to[i]
		if err := checkID("inbox", string(in.Account)); err != nil {
			return err
		}
		if len(in.Targets) > MaxTargets {
			return invalid("targets", fmt.Sprintf("%d, at most %d", len(in.Targets), MaxTargets))
		}
		if slices.Contains(in.Targets, 0) {
			return invalid("targets", "zero is no incarnation")
		}
		if !accounts.add(in.Account) {
			return invalid("inboxes", "an account twice")
		}
	}
	return nil
}

// distinct tells whether a value comes again. Few values are compared with each other, which is faster than a map and
// needs no memory; many go into a map.
type distinct[T comparable] struct {
	few  [16]T
	n    int
	many map[T]struct{}
}

// add reports whether v is new.
func (d *distinct[T]) add(v T) bool {
	if slices.Contains(d.few[:d.n], v) {
		return false
	}
	if d.n < len(d.few) {
		d.few[d.n] = v
		d.n++
		return true
	}
	if d.many == nil {
		d.many = make(map[T]struct{})
	}
	size := len(d.many)
	d.many[v] = struct{}{}
	return len(d.many) > size
}

// CheckAccount reports whether a store may have an account of that name: 1 to 128 bytes of UTF-8 without control or bidirectional
// override characters. It takes more names than [event.Account.Validate], since a store keeps what was written before rules were
// added. The error is an [*event.InvalidError].
func CheckAccount(a event.Account) error { return checkID("account", string(a)) }

// Validate reports whether the options are well-formed: no negative bound. The error is an [*event.InvalidError].
func (o *ReadOptions) Validate() error {
	if o.Limit < 0 {
		return invalid("limit", "negative")
	}
	if o.MaxBytes < 0 {
		return invalid("bytes", "negative")
	}
	return nil
}

// Validate reports whether the options are well-formed: a limit of at least 1, and a conversation that may be one. The
// error is an [*event.InvalidError]. Whether Cursor is one of the store's own is for the store to say.
func (o *StateOptions) Validate() error {
	if o.Limit < 1 {
		return invalid("limit", "below 1")
	}
	if o.Conversation == "" {
		return nil
	}
	return checkID("conversation", string(o.Conversation))
}

// Validate reports whether the options are well-formed, as those of registers.
func (o *ConversationOptions) Validate() error {
	s := StateOptions{Conversation: o.Conversation, Limit: o.Limit}
	return s.Validate()
}

// Validate reports whether the cursor is well-formed: an account and an incarnation that is not zero. The error is an
// [*event.InvalidError].
func (c *Cursor) Validate() error {
	if c.Incarnation == 0 {
		return invalid("incarnation", "zero")
	}
	return CheckAccount(c.Account)
}

// CheckLimit reports whether a limit of [Store.Trim] or [Store.Accounts] is at least 1. The error is an
// [*event.InvalidError].
func CheckLimit(limit int) error {
	if limit < 1 {
		return invalid("limit", "below 1")
	}
	return nil
}

// checkID refuses what no identifier ever was: one that is empty, too long, not UTF-8, or has control characters. What was a valid
// name once has to be found, changed and deleted, so newer rules of event.CheckID and event.Account.Validate, about dots and
// addresses, are not the store's: callers ask them before they write.
func checkID(field, s string) error {
	if len(s) == 0 || len(s) > event.MaxIDBytes {
		return event.CheckID(field, s)
	}
	return event.CheckText(field, s)
}

func checkTime(field string, t time.Time) error {
	if t.IsZero() {
		return invalid(field, "not set")
	}
	// UnixMilli alone would wrap round for times that are far enough away.
	if y := t.Year(); y < 1970 || y > 9999 || t.UnixMilli() < 0 || t.UnixMilli() > maxMillis {
		return invalid(field, "want 1970 to 9999")
	}
	return nil
}

func tooLong(field string, n, limit int) error {
	return invalid(field, fmt.Sprintf("%d bytes, at most %d", n, limit))
}

func invalid(field, reason string) error { return &event.InvalidError{Field: field, Reason: reason} }
