package fanout

import (
	"context"
	"encoding/base64"
	"strconv"
	"unicode/utf8"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// Bounds of the lists of an inspection. A thousand entries without payloads are about half a megabyte of JSON.
const (
	inspectLimit    = 100
	maxInspectLimit = 1_000
)

// Inspect returns what the engine knows of an account. It is meant for people, not for programs that run often: it reads
// all that it shows from the store. An account that was never there has an empty picture.
//
// Errors: [*event.InvalidError], [ErrClosed], or the store's.
func (r *Router) Inspect(ctx context.Context, account event.Account, o InspectOptions) (_ Inspection, err error) {
	defer fault.In("fanout", "inspect", &err)
	if err := account.Validate(); err != nil {
		return Inspection{}, err
	}
	if err := bounds.Count("limit", int64(o.Limit), 1, maxInspectLimit, bounds.Zero); err != nil {
		return Inspection{}, err
	}
	if o.Limit == 0 {
		o.Limit = inspectLimit
	}
	if r.ctx.Err() != nil {
		return Inspection{}, ErrClosed
	}
	rec, err := r.reg.Inspect(ctx, account)
	if err != nil {
		return Inspection{}, err
	}
	in := Inspection{
		Account: account, Time: r.times.Now().UTC(), Logins: rec.Logins, Tombstones: rec.Tombstones, Recent: rec.Recent, Ban: rec.Ban,
		Attachments: r.inspectAttachments(account),
	}
	var next InspectNext
	for _, part := range []func() error{
		func() error { return r.inspectInbox(ctx, &in, &o, &next, rec.Devices) },
		func() error { return r.inspectDevices(ctx, &in, rec.Devices) },
		func() error { return r.inspectRegisters(ctx, &in, &o, &next) },
		func() error { return r.inspectConversations(ctx, &in, &o, &next) },
	} {
		if err := part(); err != nil {
			return Inspection{}, err
		}
	}
	if next != (InspectNext{}) {
		in.Next = &next
	}
	return in, nil
}

func (r *Router) inspectInbox(ctx context.Context, in *Inspection, o *InspectOptions, next *InspectNext, devices []session.DeviceView) error {
	page, err := r.st.Read(ctx, in.Account, store.ReadOptions{After: o.After, Limit: o.Limit, MaxBytes: r.cfg.PageBytes})
	if err != nil {
		return err
	}
	h := page.Head
	in.Inbox = InboxView{Epoch: h.Epoch, Head: h.Seq, Trim: h.Trim, Entries: h.Entries, Bytes: h.Bytes}
	if page.Through < h.Seq {
		next.After = page.Through
	}
	names := make(map[event.Incarnation]event.DeviceID, len(devices))
	for _, d := range devices {
		names[d.Incarnation] = d.Device
	}
	in.Entries = make([]EntryView, 0, len(page.Entries))
	for i := range page.Entries {
		in.Entries = append(in.Entries, entryView(&page.Entries[i], names, o.Payloads))
	}
	return nil
}

func entryView(e *event.Entry, names map[event.Incarnation]event.DeviceID, payloads bool) EntryView {
	v := EntryView{
		Seq: e.Seq, Kind: e.Kind, Flags: e.Flags, Conversation: e.Conversation, ID: e.ID, ClientID: e.ClientID, From: e.From,
		Origin: e.Origin, Time: e.Time.UTC(), Ordinal: e.Ordinal, Keyed: e.Key != "", Bytes: len(e.Payload),
	}
	if !e.Expires.IsZero() {
		v.Expires = e.Expires.UTC()
	}
	for _, inc := range e.Targets {
		name, ok := names[inc]
		if !ok {
			name = event.DeviceID(strconv.FormatUint(uint64(inc), 10))
		}
		v.Targets = append(v.Targets, name)
	}
	if payloads {
		v.Text, v.Data = shown(e.Payload)
	}
	return v
}

// shown returns bytes as text if they are that, as data otherwise.
func shown(b []byte) (text string, data []byte) {
	if utf8.Valid(b) {
		return string(b), nil
	}
	return "", b
}

func (r *Router) inspectDevices(ctx context.Context, in *Inspection, devices []session.DeviceView) error {
	pending := make([]store.Cursor, len(devices)) // before the store: what is not here any more is there
	for i, d := range devices {
		pending[i], _ = r.pending(in.Account, d.Incarnation)
	}
	all, err := r.st.Cursors(ctx, in.Account)
	if err != nil {
		return err
	}
	stored := make(map[event.Incarnation]store.Cursor, len(all))
	for _, c := range all {
		stored[c.Incarnation] = c
	}
	in.Devices = make([]DeviceView, 0, len(devices))
	for i, d := range devices {
		c, p := stored[d.Incarnation], pending[i]
		v := DeviceView{DeviceView: d, Cursor: c.Seq, Sent: max(c.Sent, p.Sent)}
		if p.Seq > c.Seq {
			v.Pending = p.Seq
		}
		v.Lag = in.Inbox.Head - min(max(c.Seq, p.Seq), in.Inbox.Head)
		if t := r.troubles.get(cursorKey{in.Account, d.Incarnation}, in.Inbox.Epoch); t.tries > 0 {
			v.Attempts, v.Stuck = t.tries, &t.at
		}
		in.Devices = append(in.Devices, v)
	}
	return nil
}

func (r *Router) inspectAttachments(account event.Account) []AttachmentView {
	all := []AttachmentView{}
	h := r.find(account)
	if h == nil {
		return all
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.atts {
		all = append(all, AttachmentView{
			Login: a.conn.Login(), Device: a.conn.Device(), Generation: a.conn.Generation(), Phase: a.phase.String(),
			Position: event.Position{Epoch: a.epoch, Seq: a.pos}, Acked: a.acked, Unacked: len(a.window), UnackedBytes: a.bytes,
			Blocked: a.blocked, OneByOne: a.careful > 0, CaughtUp: a.caughtUp, Live: len(a.live), Away: a.conn.Background(),
		})
	}
	return all
}

func (p phase) String() string {
	switch p {
	case sendStates:
		return "states"
	case sendData:
		return "data"
	default:
		return "awaiting_reset_ack"
	}
}

func (r *Router) inspectRegisters(ctx context.Context, in *Inspection, o *InspectOptions, next *InspectNext) error {
	cursor, err := placeOf("registers", o.Registers)
	if err != nil {
		return err
	}
	page, err := r.st.States(ctx, in.Account, store.StateOptions{Cursor: cursor, Limit: o.Limit})
	if err != nil {
		return fault.Field("registers", err)
	}
	next.Registers = placeText(page.Next)
	in.Registers = make([]RegisterView, 0, len(page.States))
	room := r.cfg.PageBytes
	for _, s := range page.States {
		v := RegisterView{Conversation: s.Conversation, Name: s.Name, Number: s.Number, Seq: s.Seq, Bytes: len(s.Value)}
		if o.Payloads && len(s.Value) <= room {
			v.Text, v.Data = shown(s.Value)
			room -= len(s.Value)
		}
		in.Registers = append(in.Registers, v)
	}
	return nil
}

func (r *Router) inspectConversations(ctx context.Context, in *Inspection, o *InspectOptions, next *InspectNext) error {
	cursor, err := placeOf("conversations", o.Conversations)
	if err != nil {
		return err
	}
	page, err := r.st.Conversations(ctx, in.Account, store.ConversationOptions{Cursor: cursor, Limit: o.Limit})
	if err != nil {
		return fault.Field("conversations", err)
	}
	next.Conversations = placeText(page.Next)
	in.Conversations = make([]UnreadView, 0, len(page.Conversations))
	for _, c := range page.Conversations {
		if c.Conversation == "" {
			continue // entries that belong to none: nobody can read them, and Unread leaves them out too
		}
		marks, err := r.marks(ctx, in.Account, c.Conversation)
		if err != nil {
			return err
		}
		m := marks[c.Conversation]
		in.Conversations = append(in.Conversations, UnreadView{
			Conversation: c.Conversation, Unread: unread(c, m.ordinal), Counted: c.Counted, ReadOrdinal: m.ordinal,
			Uncounted: len(c.Uncounted), Marked: m.unread,
		})
	}
	return nil
}

// placeText writes a store's cursor, which may be any bytes, so that it survives JSON.
func placeText(cursor string) string { return base64.RawURLEncoding.EncodeToString([]byte(cursor)) }

func placeOf(field, text string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return "", &event.InvalidError{Field: field, Reason: "not a place that Inspect has returned"}
	}
	return string(b), nil
}
