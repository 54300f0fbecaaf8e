package boltstore

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/boltstore/internal/kv"
)

// DumpOptions say what a dump has.
type DumpOptions struct {
	// Payloads makes it show the bytes of payloads and registers, as base64. Otherwise only their lengths are there.
	Payloads bool
}

// dumpLine is one row as JSON. What does not apply is left out.
type dumpLine struct {
	Table        string               `json:"table"`
	Kind         string               `json:"kind,omitempty"`
	Account      event.Account        `json:"account,omitempty"`
	Generation   uint32               `json:"generation,omitempty"`
	Message      event.MessageID      `json:"message,omitempty"`
	Of           event.MessageID      `json:"of,omitempty"`
	Type         event.Kind           `json:"type,omitempty"`
	Conversation event.ConversationID `json:"conversation,omitempty"`
	From         event.Account        `json:"from,omitempty"`
	Name         string               `json:"name,omitempty"`
	Device       string               `json:"device,omitempty"`
	Incarnation  uint64               `json:"incarnation,omitempty"`
	Seq          uint64               `json:"seq,omitempty"`
	Sent         uint64               `json:"sent,omitempty"`
	Trim         uint64               `json:"trim,omitempty"`
	Ordinal      uint64               `json:"ordinal,omitempty"`
	Number       uint64               `json:"number,omitempty"`
	Entries      uint64               `json:"entries,omitempty"`
	Bytes        uint64               `json:"bytes,omitempty"`
	Flags        uint64               `json:"flags,omitempty"`
	Time         uint64               `json:"time,omitempty"`
	Expires      uint64               `json:"expires,omitempty"`
	Inboxes      uint64               `json:"inboxes,omitempty"`
	Changes      uint64               `json:"changes,omitempty"`
	Length       int                  `json:"length,omitempty"`
	Payload      []byte               `json:"payload,omitempty"`
	Damaged      string               `json:"damaged,omitempty"`
	Key          []byte               `json:"key,omitempty"` // of a damaged row
}

// Dump writes all rows as JSON, one a line. Secrets are left out: the key of message IDs, records, login IDs, and, unless they are
// asked for, payloads. A row that cannot be read is a line with what is wrong.
func (f *File) Dump(ctx context.Context, w io.Writer, o DumpOptions) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	return f.s.db.View(ctx, func(k *kv.Snapshot) error {
		for t := range tables {
			err := k.All(kv.Table(t), func(key, value []byte, err error) error {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				l := dumpLine{Table: tables[t].Name}
				if err == nil {
					err = f.line(&l, kv.Table(t), key, value)
				}
				if err != nil {
					l = dumpLine{Table: tables[t].Name, Damaged: err.Error(), Key: key, Account: accountOf(tables[t].Name, key)}
				}
				if !o.Payloads {
					l.Payload = nil
				}
				return out.Encode(&l)
			})
			if err != nil {
				return fmt.Errorf("boltstore: dump: %w", err)
			}
		}
		return nil
	})
}

func (f *File) line(l *dumpLine, t kv.Table, key, value []byte) error {
	switch t {
	case tableHead:
		h, err := decodeHead(value, nameSum(key))
		l.Account = event.Account(key)
		l.head(&h)
		return err
	case tablePurge:
		name, generation, rest, ok := cutAccount(key)
		if !ok || len(rest) != 0 {
			return corrupt("purge key")
		}
		l.Account, l.Generation = name, generation
		return nil
	case tableAccount:
		name, generation, rest, ok := cutAccount(key)
		if !ok || len(rest) == 0 {
			return corrupt("account key")
		}
		l.Account, l.Generation = name, generation
		return f.accountLine(l, rest, value)
	case tableReference:
		l.Kind, l.Message = "references", f.s.keys.id(key)
		r, err := decodeReferences(value)
		l.Inboxes, l.Changes = r.inboxes, r.changes
		return err
	}
	n := len(key) - 1
	if n < 1 {
		return corrupt("message key")
	}
	l.Message = f.s.keys.id(key[:n])
	return f.messageLine(l, key[n], value)
}

func (l *dumpLine) head(h *head) {
	l.Generation, l.Seq, l.Trim, l.Entries, l.Bytes = h.generation, h.seq, h.trim, h.entries, h.bytes
}

func (f *File) accountLine(l *dumpLine, key, value []byte) (err error) {
	rest := string(key[1:])
	switch key[0] {
	case tagCursor:
		l.Kind = "cursor"
		c, e := decodeCursor(value)
		l.Incarnation, err = number(key[1:], "cursor key")
		l.Seq, l.Sent = c.Seq, c.Sent
		if err == nil {
			err = e
		}
	case tagEntry:
		l.Kind = "entry"
		if l.Seq, err = number(key[1:], "entry key"); err != nil {
			return err
		}
		var e entry
		e, err = decodeEntry(value)
		l.Message, l.Flags, l.Ordinal, l.Bytes, l.Name = f.s.keys.id(e.message), uint64(e.flags), e.ordinal, e.size, e.key
		l.Conversation = event.ConversationID(e.countedIn)
	case tagAttempt:
		l.Kind = "idempotency"
		l.Device, l.Name, _ = strings.Cut(rest, "\x00")
		var t attempt
		t, err = decodeAttempt(value)
		l.Message, l.Expires = t.id, t.expires
	case tagKey:
		l.Kind, l.Name = "key", rest
		d := decoder{rest: value}
		l.Seq = d.uvarint()
		err = d.done("key")
	case tagCount:
		l.Kind, l.Conversation = "count", event.ConversationID(rest)
		var uncounted []uint64
		l.Number, uncounted, err = decodeCount(value)
		l.Length = len(uncounted)
	case tagRecord:
		l.Kind, l.Length = "record", len(value)-1
		_, err = decodeRecord(value)
	case tagState:
		l.Kind = "register"
		conversation, name, _ := strings.Cut(rest, "\x00")
		l.Conversation, l.Name = event.ConversationID(conversation), name
		var s state
		s, err = decodeState(value)
		l.Seq, l.Number, l.Length, l.Payload = s.seq, s.number, len(s.value), s.value
	case tagHand:
		l.Kind = "hand"
	default:
		return corrupt("kind of a row")
	}
	return err
}

func (f *File) messageLine(l *dumpLine, kind byte, value []byte) (err error) {
	switch kind {
	case messageShared:
		l.Kind = "message"
		var m message
		m, err = decodeMessage(value)
		l.Type, l.Flags, l.Conversation, l.From, l.Time, l.Inboxes = m.kind, uint64(m.flags), m.conversation, m.from, m.time, m.inboxes
		l.Length, l.Payload = len(m.payload), m.payload
		if m.expires > 0 {
			l.Expires = m.expires - 1
		}
		if len(m.of) > 0 {
			l.Of = f.s.keys.id(m.of)
		}
	case messagePayload:
		l.Kind, l.Length, l.Payload = "payload", len(value), value
	case messageTo:
		l.Kind = "inboxes"
		var p []place
		p, err = decodePlaces(value)
		l.Inboxes = uint64(len(p))
	default:
		return corrupt("kind of a row")
	}
	return err
}
