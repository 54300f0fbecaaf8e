package fanout

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
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
	// Subject tells operations apart that must not supersede each other, such as two marks of one conversation. Counts only
	// for kinds that coalesce. At most 128 bytes.
	Subject string
	// To are the recipients, at most 10,000; repetitions and From itself are allowed and count once. Empty: only the other
	// devices of From get it.
	To []event.Account
	// Targets are logins of From, at most 16: only their devices get it, also after they have logged in anew. To must then
	// be empty.
	Targets []event.LoginID
	// Payload is the content, at most 64 KiB.
	Payload []byte
	// TTL is how long it may still be delivered. Zero means as long as it is kept; negative is refused.
	TTL time.Duration
	// NoSenderCopy: the devices of From get no carbon, and the result has no position.
	NoSenderCopy bool
	// Receipts says whether the sender wants to be told of delivery and reading.
	Receipts ReceiptMode
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
}

// Send accepts a message or operation: one commit that holds an entry for each recipient and one for the sender's own
// devices. It returns when that is durable, and waits for no device.
//
// Errors: [*event.InvalidError], [ErrUnknownOrigin], [ErrUnknownTarget], [store.ErrMismatch] for a ClientID that was used
// for something else, [store.ErrWindowFull], [store.ErrFull]: nothing was appended. After [store.ErrUnknownOutcome] or the
// end of ctx the send may have been accepted: repeat it with the same ClientID.
func (r *Router) Send(ctx context.Context, q SendRequest) (SendResult, error) {
	info, err := r.check(&q)
	if err != nil {
		return SendResult{}, err
	}
	if r.ctx.Err() != nil {
		return SendResult{}, ErrClosed
	}
	var from session.Bound
	if q.Origin != "" {
		if from, err = r.reg.Resolve(ctx, q.From, q.Origin); err != nil {
			return SendResult{}, notFound(err, ErrUnknownOrigin)
		}
	}
	targets, err := r.targets(ctx, &q)
	if err != nil {
		return SendResult{}, err
	}
	now := time.Now().Truncate(event.Millis)
	m := message(&q, info, targets, now)
	m.ID = r.issuer.Issue()
	b := store.Batch{Account: q.From, Now: now, Messages: []store.Message{m}}
	if q.ClientID != "" {
		b.Idempotency = &store.Idempotency{
			Device: from.Device, ClientID: q.ClientID, Digest: digest(&q), Window: idempotencyHours, Max: idempotencyMax,
		}
	}
	res, err := r.st.Commit(ctx, b)
	if err != nil {
		return SendResult{}, fmt.Errorf("fanout: send: %w", err)
	}
	return r.sent(&q, b.Messages[0], now, res), nil
}

// sent rings the doorbells and words the answer.
func (r *Router) sent(q *SendRequest, m store.Message, now time.Time, res store.Result) SendResult {
	out := SendResult{ID: res.Messages[0].ID, Duplicate: res.Duplicate}
	for _, p := range res.Messages[0].To {
		if p.Account == q.From && !q.NoSenderCopy {
			out.Position = event.Position{Epoch: p.Epoch, Seq: p.Seq}
		}
	}
	if res.Duplicate {
		r.stats.duplicates.Add(1)
		return out
	}
	r.stats.sends.Add(1)
	r.ring(m, now, res.Messages[0])
	return out
}

// ring tells every attached device of a message's inboxes that there is something new, and hands over the entry, so that
// they need not read it.
func (r *Router) ring(m store.Message, now time.Time, placed store.Placed) {
	for i, p := range placed.To {
		var e *event.Sealed
		if r.find(p.Account) != nil {
			e = event.Seal(entryOf(&m, m.To[i], now, p))
		}
		r.appended(p.Account, event.Position{Epoch: p.Epoch, Seq: p.Seq}, e)
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
	switch {
	case !info.Durable:
		return info, &event.InvalidError{Field: "kind", Reason: "live-only: use Publish"}
	case issuedByEngine(info):
		return info, &event.InvalidError{Field: "kind", Reason: "issued by the engine itself"}
	case q.TTL < 0:
		return info, &event.InvalidError{Field: "TTL", Reason: "negative"}
	case len(q.Subject) > maxSubjectBytes:
		return info, &event.InvalidError{Field: "subject", Reason: fmt.Sprintf("%d bytes, at most %d", len(q.Subject), maxSubjectBytes)}
	}
	if err := event.CheckText("subject", q.Subject); err != nil {
		return info, err
	}
	if q.ClientID != "" {
		if err := q.ClientID.Validate(); err != nil {
			return info, err
		}
	}
	return info, checkAddressees(q)
}

func checkCommon(from event.Account, kind event.Kind, conv event.ConversationID, payload []byte) error {
	if err := from.Validate(); err != nil {
		return err
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
	return i.Kind == event.KindConversationRead
}

func checkAddressees(q *SendRequest) error {
	if len(q.To) > MaxRecipients {
		return &event.InvalidError{Field: "to", Reason: fmt.Sprintf("%d recipients, at most %d", len(q.To), MaxRecipients)}
	}
	if len(q.Targets) > MaxTargets {
		return &event.InvalidError{Field: "targets", Reason: fmt.Sprintf("%d logins, at most %d", len(q.Targets), MaxTargets)}
	}
	for _, t := range q.Targets {
		if err := t.Validate(); err != nil {
			return err
		}
	}
	q.To = slices.Clone(q.To)
	slices.Sort(q.To)
	q.To = slices.Compact(q.To)
	for _, a := range q.To {
		if err := a.Validate(); err != nil {
			return err
		}
	}
	others := len(q.To)
	if _, self := slices.BinarySearch(q.To, q.From); self {
		others--
	}
	switch {
	case len(q.Targets) > 0 && (len(q.To) > 0 || q.NoSenderCopy):
		return &event.InvalidError{Field: "targets", Reason: "only for logins of the sender, without recipients"}
	case q.NoSenderCopy && others == 0:
		return &event.InvalidError{Field: "to", Reason: "nobody would get it"}
	case q.Receipts == ReceiptsOn && others > MaxReceiptPeers:
		return &event.InvalidError{Field: "receipts", Reason: fmt.Sprintf("%d recipients, at most %d", others, MaxReceiptPeers)}
	case q.Receipts > ReceiptsOff:
		return &event.InvalidError{Field: "receipts", Reason: "unknown mode"}
	}
	return nil
}

// targets resolves logins to devices, so that the message survives a new login of the device.
func (r *Router) targets(ctx context.Context, q *SendRequest) ([]event.Incarnation, error) {
	var all []event.Incarnation
	for _, id := range q.Targets {
		b, err := r.reg.Resolve(ctx, q.From, id)
		if err != nil {
			return nil, notFound(err, ErrUnknownTarget)
		}
		if !slices.Contains(all, b.Incarnation) {
			all = append(all, b.Incarnation)
		}
	}
	return all, nil
}

func notFound(err, as error) error {
	if errors.Is(err, session.ErrNotFound) {
		return as
	}
	return fmt.Errorf("fanout: send: %w", err)
}

// message lays out who gets what.
func message(q *SendRequest, info event.KindInfo, targets []event.Incarnation, now time.Time) store.Message {
	m := store.Message{
		Kind: q.Kind, Conversation: q.Conversation, ClientID: q.ClientID, From: q.From, Origin: q.Origin,
		Key: info.CoalesceKey(q.Conversation, q.Subject), Payload: slices.Clone(q.Payload), To: make([]store.Inbox, 0, len(q.To)+1),
	}
	if q.TTL > 0 {
		m.Expires = now.Add(q.TTL)
	}
	if !q.NoSenderCopy {
		m.To = append(m.To, store.Inbox{Account: q.From, Targets: targets})
	}
	var flags event.Flags
	if info.Unread {
		flags |= event.FlagUnread
	}
	for _, a := range q.To {
		if a != q.From {
			m.To = append(m.To, store.Inbox{Account: a, Flags: flags})
		}
	}
	others := len(m.To)
	if !q.NoSenderCopy {
		others--
	}
	if q.Receipts == ReceiptsOn && others > 0 || q.Receipts == ReceiptsAuto && others == 1 && info.Unread {
		m.Flags |= event.FlagReceipts
	}
	return m
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
	field([]byte{byte(q.Receipts), boolByte(q.NoSenderCopy)})
	for _, a := range q.To {
		field([]byte(a))
	}
	field(nil)
	for _, t := range q.Targets {
		field([]byte(t))
	}
	return [32]byte(h.Sum(nil))
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
