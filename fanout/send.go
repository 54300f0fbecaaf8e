package fanout

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// SendRequest is one message or operation. The host has authorised it.
type SendRequest struct {
	// From is the account that does it. Required.
	From event.Account
	// Origin is the login that does it: it gets no copy. Empty: the host or a bot; then every device of From gets the
	// carbon.
	Origin event.LoginID
	// ClientID is the client's own name for the send: within 24 h a repetition from the same device has no second effect.
	// Empty: no such protection.
	ClientID event.ClientMessageID
	// Kind is what it is. Empty means message. Kinds that the engine itself issues and live-only kinds are refused.
	Kind event.Kind
	// Conversation that it belongs to. May be empty.
	Conversation event.ConversationID
	// Subject tells operations apart that must not supersede each other, such as two marks of one conversation, or two
	// reactions of an account to one message. Counts only for kinds that coalesce. At most 128 bytes.
	Subject string
	// Of is the message that a recall, an edit, a reaction or another kind with an [event.Change] is about. Required for
	// these, refused for others. Whether From may do that is for the host to say, also after a recall. Without recipients
	// everybody gets it who got the message; Conversation is then the message's. If the message was for some devices only,
	// so is the change, and who holds neither the message nor a change in its place any more gets none: nobody knows for
	// which devices it was. Narrow or Targets for the account overrule both.
	Of event.MessageID
	// To are the recipients, at most 10,000; repetitions and From itself are allowed and count once. Empty: only the other
	// devices of From get it.
	To []event.Account
	// Members are further recipients, for a host that has them in no slice. It is called once; the bound is that of To
	// and Members together.
	Members iter.Seq[event.Account]
	// Targets are logins of From, at most 16: only their devices get it, also after they have logged in anew. To must then
	// be empty.
	Targets []event.LoginID
	// Narrow leaves out some devices of From or of recipients. Those of another account only without an Origin: clients do
	// not choose among other people's devices.
	Narrow []Narrow
	// Payload is the content, at most 64 KiB.
	Payload []byte
	// TTL is how long it may still be delivered, in whole milliseconds: what is finer is cut off. Zero means as long as it is
	// kept; from 1 ms to 100 years.
	TTL time.Duration
	// NoSenderCopy: the devices of From get no carbon, and the result has no position.
	NoSenderCopy bool
	// Receipts says whether the sender wants to be told of delivery and reading. An edit has those of its message in any
	// case, and they name the message.
	Receipts ReceiptMode
	// NoPush: no push is sent for it.
	NoPush bool
	// Priority is a hint to clients and to the host's push service.
	Priority Priority
}

// Priority is how urgent something is.
type Priority uint8

const (
	PriorityNormal Priority = iota
	PriorityHigh
	PriorityLow // of live-only events: the first to be dropped
)

func (p Priority) flags() event.Flags {
	switch p {
	case PriorityHigh:
		return event.FlagHigh
	case PriorityLow:
		return event.FlagLow
	}
	return 0
}

// ReceiptMode says whether a message has receipts.
type ReceiptMode uint8

const (
	// ReceiptsAuto: a message to one other account has receipts, any other send has none.
	ReceiptsAuto ReceiptMode = iota
	// ReceiptsOn: receipts of each recipient, of which there may be 200.
	ReceiptsOn
	// ReceiptsOff: none.
	ReceiptsOff
)

// SendResult is the answer to an accepted send: it is durable.
type SendResult struct {
	ID        event.MessageID
	Position  event.Position // in the sender's inbox; Seq 0 without a sender copy
	Duplicate bool           // the same send was accepted before: this is its result
	// States are the registers that it has set, for kinds that set one: the login that sends gets no copy, and should take
	// them from here.
	States []event.State
}

// Send accepts a message or operation: one commit that holds an entry for each recipient and one for the sender's own
// devices. It returns when that is durable, and waits for no device.
//
// Errors: [*event.InvalidError], [ErrUnknownOrigin], [ErrUnknownTarget], [ErrUnknownMessage] for what a change is about,
// [store.ErrMismatch] for a ClientID that was used for something else, [store.ErrWindowFull], [store.ErrFull]: nothing was
// appended. After [store.ErrUnknownOutcome] or the end of ctx the send may have been accepted: repeat it with the same
// ClientID.
func (r *Router) Send(ctx context.Context, q SendRequest) (SendResult, error) {
	res, err := r.accept(ctx, q)
	fault.In("fanout", "send", &err)
	if err != nil {
		r.refused("send", q.From, q.Origin, err)
	}
	return res, err
}

func (r *Router) accept(ctx context.Context, q SendRequest) (SendResult, error) {
	info, err := r.check(&q)
	if err != nil {
		return SendResult{}, err
	}
	if err := r.enter(); err != nil {
		return SendResult{}, err
	}
	defer r.owned.Leave()
	var from session.Bound
	if q.Origin != "" {
		if from, err = r.acting(ctx, q.From, &q.Origin); err != nil {
			return SendResult{}, notFound(err, ErrUnknownOrigin)
		}
	}
	targets, err := r.targets(ctx, &q)
	if err != nil {
		return SendResult{}, err
	}
	b := store.Batch{Account: q.From, Now: r.commitTime(ctx)}
	if q.ClientID != "" {
		b.Idempotency = &store.Idempotency{
			Device: from.Device, ClientID: q.ClientID, Digest: digest(&q), Window: idempotencyHours, Max: idempotencyMax,
		}
	}
	var of subject
	if info.Change != event.ChangeNone {
		if of, err = r.changes(ctx, &q, info.Change); err != nil {
			return SendResult{}, err
		}
	}
	if of.flags&event.FlagTargeted != 0 {
		if targets, err = r.inherit(ctx, &q, &of, targets); err != nil {
			return SendResult{}, err
		}
	}
	b.Messages = message(&q, info, targets, b.Now)
	m := &b.Messages[0]
	m.ID = r.issuer.Issue()
	of.apply(m, info.Change)
	if len(m.To) == 0 && len(of.lost) > 0 {
		return SendResult{}, ErrUnknownMessage
	}
	if err := setRegister(&b, info, &q); err != nil {
		return SendResult{}, err
	}
	res, err := r.st.Commit(ctx, b)
	if err != nil {
		return SendResult{}, fmt.Errorf("fanout: send: commit: %w", err)
	}
	return r.sent(ctx, &q, &b, res)
}

// setRegister has the commit set the register of conversation state that goes with the kind.
func setRegister(b *store.Batch, info event.KindInfo, q *SendRequest) error {
	s, ok := info.State(&event.Entry{Conversation: q.Conversation, Key: b.Messages[0].Key, Payload: b.Messages[0].Payload})
	if !ok {
		return nil
	}
	if err := event.CheckID("subject", s.Name); err != nil {
		return err
	}
	b.States = []store.StateUpdate{{
		Conversation: s.Conversation, Name: s.Name, Merge: store.MergeLast, Number: s.Number, Value: s.Value,
	}}
	return nil
}

// sent rings the doorbells and words the answer.
func (r *Router) sent(ctx context.Context, q *SendRequest, b *store.Batch, res store.Result) (SendResult, error) {
	out := SendResult{ID: res.Messages[0].ID, Duplicate: res.Duplicate, States: res.States}
	for _, p := range res.Messages[0].To {
		if p.Account == q.From && !q.NoSenderCopy {
			out.Position = event.Position{Epoch: p.Epoch, Seq: p.Seq}
		}
	}
	if res.Duplicate {
		r.stats.duplicates.Add(1)
		for _, u := range b.States { // as it is now
			s, ok, err := r.register(ctx, q.From, u.Conversation, u.Name)
			if err != nil {
				return SendResult{}, err
			}
			if ok {
				out.States = append(out.States, s)
			}
		}
		return out, nil
	}
	r.stats.sends.Add(1)
	r.ring(&b.Messages[0], b.Now, res.Messages[0])
	return out, nil
}

// ring tells every attached device of a message's inboxes that there is something new, and hands over the entry, so that
// they need not read it.
func (r *Router) ring(m *store.Message, now time.Time, placed store.Placed) {
	r.pushLater(m, placed)
	for i, p := range placed.To {
		if h := r.grew(p.Account); h != nil {
			var e *event.Sealed
			if m.Of == "" { // else what it has replaced may be in the tail
				e = event.Seal(entryOf(m, m.To[i], now, p))
			}
			r.appended(h, event.Position{Epoch: p.Epoch, Seq: p.Seq}, e)
		}
		r.arrived(p.Account, m.ID)
	}
}

// entryOf is the entry that a store makes of a message in one inbox.
func entryOf(m *store.Message, to store.Inbox, now time.Time, p store.Place) event.Entry {
	e := event.Entry{
		Seq: p.Seq, Kind: m.Kind, Flags: m.Flags | to.Flags, Conversation: m.Conversation, ID: m.ID, From: m.From,
		Targets: to.Targets, Key: m.Key, Time: now, Expires: m.Expires, Ordinal: p.Ordinal, Payload: m.Payload,
	}
	if to.Account == m.From {
		e.ClientID, e.Origin = m.ClientID, m.Origin
	}
	return e
}

// check validates a request, fills in defaults, and puts the recipients in order, each once.
func (r *Router) check(q *SendRequest) (event.KindInfo, error) {
	if q.Kind == "" {
		q.Kind = event.KindMessage
	}
	info := r.cfg.Kinds.Info(q.Kind)
	if err := checkCommon(q.From, q.Kind, q.Conversation, q.Payload); err != nil {
		return info, err
	}
	if err := bounds.Duration("TTL", q.TTL, event.Millis, bounds.Longest, bounds.Zero); err != nil {
		return info, err
	}
	switch {
	case !info.Durable:
		return info, &event.InvalidError{Field: "kind", Reason: "live-only: use Publish"}
	case issuedByEngine(info):
		return info, &event.InvalidError{Field: "kind", Reason: "issued by the engine itself"}
	case (info.Change != event.ChangeNone) != (q.Of != ""):
		return info, &event.InvalidError{Field: "of", Reason: "want a message for kinds that change one, and for no others"}
	case q.Priority > PriorityLow:
		return info, &event.InvalidError{Field: "priority", Reason: "unknown"}
	case len(q.Subject) > maxSubjectBytes:
		return info, &event.InvalidError{Field: "subject", Reason: fmt.Sprintf("%d bytes, at most %d", len(q.Subject), maxSubjectBytes)}
	}
	if err := event.CheckText("subject", q.Subject); err != nil {
		return info, err
	}
	if q.ClientID != "" {
		if err := q.ClientID.Validate(); err != nil {
			return info, fault.Field("clientID", err)
		}
	}
	if err := checkAddressees(q); err != nil {
		return info, err
	}
	if info.Register != "" && (q.NoSenderCopy || len(q.Targets) > 0 || slices.ContainsFunc(q.To, func(a event.Account) bool { return a != q.From })) {
		return info, &event.InvalidError{Field: "to", Reason: "the kind sets the state of its own account: it has no recipients"}
	}
	return info, nil
}

func checkCommon(from event.Account, kind event.Kind, conv event.ConversationID, payload []byte) error {
	if err := from.Validate(); err != nil {
		return fault.Field("from", err)
	}
	if err := kind.Validate(); err != nil {
		return err
	}
	if conv != "" {
		if err := conv.Validate(); err != nil {
			return err
		}
	}
	if len(payload) > MaxPayloadBytes {
		return &event.InvalidError{Field: "payload", Reason: fmt.Sprintf("%d bytes, at most %d", len(payload), MaxPayloadBytes)}
	}
	return nil
}

// issuedByEngine reports kinds that are the engine's own word: a host that sent them would forge receipts or logins.
func issuedByEngine(i event.KindInfo) bool {
	switch i.Family {
	case event.FamilyReceipt, event.FamilyDevice:
		return true
	}
	switch i.Kind {
	case event.KindConversationRead, event.KindConversationClearUnread, event.KindConversationClearAllUnread, event.KindClaim:
		return true
	}
	return false
}

// message lays out who gets what, as the only message of a batch.
func message(q *SendRequest, info event.KindInfo, targets map[event.Account][]event.Incarnation, now time.Time) []store.Message {
	room := new(struct { // one piece for the most common sends
		messages [1]store.Message
		to       [2]store.Inbox
	})
	m := &room.messages[0]
	*m = store.Message{
		Kind: q.Kind, Conversation: q.Conversation, ClientID: q.ClientID, From: q.From, Origin: q.Origin,
		Key: info.CoalesceKey(q.Conversation, q.Subject), Payload: slices.Clone(q.Payload),
		To: slices.Grow(room.to[:0], len(q.To)+1),
	}
	if q.TTL > 0 {
		m.Expires = now.Add(q.TTL.Truncate(event.Millis))
	}
	if !q.NoSenderCopy {
		m.To = append(m.To, store.Inbox{Account: q.From, Targets: targets[q.From]})
	}
	m.Flags = q.Priority.flags()
	for _, devices := range targets {
		if len(devices) > 0 {
			m.Flags |= event.FlagTargeted
		}
	}
	if q.NoPush {
		m.Flags |= event.FlagNoPush
	}
	var flags event.Flags
	if info.Unread {
		flags |= event.FlagUnread
	}
	for _, a := range q.To {
		if a != q.From {
			m.To = append(m.To, store.Inbox{Account: a, Flags: flags, Targets: targets[a]})
		}
	}
	others := len(m.To)
	if !q.NoSenderCopy {
		others--
	}
	if q.Receipts == ReceiptsOn && others > 0 || q.Receipts == ReceiptsAuto && others == 1 && info.Unread {
		m.Flags |= event.FlagReceipts
	}
	return room.messages[:]
}

// digest tells two sends apart that bear the same client message ID.
func digest(q *SendRequest) [32]byte {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	field([]byte(q.Kind))
	field([]byte(q.Conversation))
	field([]byte(q.Subject))
	field(q.Payload)
	field([]byte{byte(q.Receipts), boolByte(q.NoSenderCopy), boolByte(q.NoPush), byte(q.Priority)})
	field([]byte(q.Of))
	for _, a := range q.To {
		field([]byte(a))
	}
	field(nil)
	for _, t := range q.Targets {
		field([]byte(t))
	}
	for i := range q.Narrow {
		q.Narrow[i].digest(field)
	}
	return [32]byte(h.Sum(nil))
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
