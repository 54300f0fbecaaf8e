package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// MarkReadRequest says how far a conversation was read.
type MarkReadRequest struct {
	Account event.Account
	Origin  event.LoginID // the login that read it: it gets no entry. Empty: the host
	// Conversation that was read. Required with Seq; taken from the message otherwise.
	Conversation event.ConversationID
	// Seq is the furthest entry of the account's own inbox that was read. It must not be beyond the inbox's end. Exactly
	// one of Seq and Message is set.
	Seq uint64
	// Message is the furthest message that was read. One that has not arrived yet is remembered for an hour.
	Message event.MessageID
	// Private: the account's own devices learn it, the senders of the messages do not.
	Private bool
}

// MarkReadResult is the marker as it is now.
type MarkReadResult struct {
	Seq      uint64         // of the marker: never lower than before
	Advanced bool           // this call has moved it
	Pending  bool           // the message has not arrived yet: the marker moves when it does
	Position event.Position // of the entry that tells the account's devices; Seq 0 if nothing has changed
	// States are the registers as they are now: the login that read gets no entry, and should take them from here.
	States []event.State
}

// MarkRead moves the account's read marker of a conversation forward and tells its other devices; unless it is private,
// the senders of what was read get a receipt. A marker never goes back: a lower report changes no marker and is answered
// with the marker as it is. If the conversation is marked as unread (conversation.unread), that is taken back.
//
// Errors: [*event.InvalidError], [ErrUnknownMessage], [ErrUnknownOrigin], [ErrClosed], or the store's.
func (r *Router) MarkRead(ctx context.Context, q MarkReadRequest) (MarkReadResult, error) {
	res, err := r.markReadChecked(ctx, q)
	fault.In("fanout", "mark read", &err)
	if err != nil {
		r.refused("mark_read", q.Account, q.Origin, err)
	}
	return res, err
}

func (r *Router) markReadChecked(ctx context.Context, q MarkReadRequest) (MarkReadResult, error) {
	if err := q.validate(); err != nil {
		return MarkReadResult{}, err
	}
	if err := r.enter(); err != nil {
		return MarkReadResult{}, err
	}
	defer r.owned.Leave()
	if q.Origin != "" {
		if _, err := r.acting(ctx, q.Account, &q.Origin); err != nil {
			return MarkReadResult{}, notFound(err, ErrUnknownOrigin)
		}
	}
	var ordinal uint64
	if q.Message != "" {
		pending, err := r.locate(ctx, &q, &ordinal)
		if err != nil || pending {
			return MarkReadResult{Pending: pending}, err
		}
	}
	page, err := r.st.Read(ctx, q.Account, store.ReadOptions{})
	if err != nil {
		return MarkReadResult{}, fmt.Errorf("fanout: mark read: %w", err)
	}
	if q.Seq > page.Head.Seq {
		return MarkReadResult{}, &event.InvalidError{Field: "seq", Reason: fmt.Sprintf("%d is beyond the end, %d", q.Seq, page.Head.Seq)}
	}
	return r.markRead(ctx, q, ordinal)
}

func (q *MarkReadRequest) validate() error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	if (q.Seq == 0) == (q.Message == "") {
		return &event.InvalidError{Field: "seq", Reason: "want exactly one of a sequence number and a message"}
	}
	if q.Message != "" && q.Conversation == "" {
		return nil
	}
	return q.Conversation.Validate()
}

// locate turns a message ID into its place in the account's inbox. An ID of this store that is not there is remembered,
// whether it is on its way or was never meant for the account: the answer tells nothing about other accounts.
func (r *Router) locate(ctx context.Context, q *MarkReadRequest, ordinal *uint64) (pending bool, err error) {
	if !r.issuer.Issued(q.Message) {
		return false, ErrUnknownMessage
	}
	found, err := r.place(ctx, q, ordinal)
	if found || err != nil {
		return false, err
	}
	r.early.put(q.Account, *q, r.clock())
	if found, err = r.place(ctx, q, ordinal); found { // it arrived before anybody knew that it was waited for
		r.early.take(q.Account, q.Message, r.clock())
	}
	return !found, err
}

// place looks for the message in the account's inbox, and completes the request if it is there.
func (r *Router) place(ctx context.Context, q *MarkReadRequest, ordinal *uint64) (found bool, err error) {
	info, err := r.st.Message(ctx, q.Message)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, fmt.Errorf("fanout: mark read: %w", err)
	}
	for _, p := range info.To {
		if p.Account != q.Account {
			continue
		}
		if q.Conversation != "" && q.Conversation != info.Conversation {
			return false, &event.InvalidError{Field: "conversation", Reason: "not that of the message"}
		}
		q.Seq, q.Conversation, *ordinal = p.Seq, info.Conversation, p.Ordinal
		return true, nil
	}
	return false, nil
}

// markRead commits marker, entry and receipts together. Reading a conversation also takes back that it was marked as
// unread, wherever the marker is.
func (r *Router) markRead(ctx context.Context, q MarkReadRequest, ordinal uint64) (MarkReadResult, error) {
	name := event.StateRead
	if q.Private {
		name = event.StateReadPrivate
	}
	old, _, err := r.register(ctx, q.Account, q.Conversation, name)
	if err != nil {
		return MarkReadResult{}, err
	}
	flag, flagged, err := r.register(ctx, q.Account, q.Conversation, event.StateUnread)
	if err != nil {
		return MarkReadResult{}, err
	}
	switch {
	case q.Seq > old.Number:
		if ordinal == 0 {
			ordinal, err = r.ordinalAt(ctx, q.Account, q.Conversation, q.Seq)
		}
	case flag.Number != 0:
		q.Seq, ordinal = old.Number, old.Ordinal()
	default:
		return MarkReadResult{Seq: old.Number, States: withFlag([]event.State{old}, flag, flagged)}, nil
	}
	if err != nil {
		return MarkReadResult{}, err
	}
	ordinal = max(ordinal, old.Ordinal())
	b, err := r.readBatch(ctx, q, ordinal, old.Number)
	if err != nil {
		return MarkReadResult{}, err
	}
	b.States = []store.StateUpdate{readState(q.Conversation, name, q.Seq, ordinal)}
	if flag.Number != 0 {
		b.States = append(b.States, store.StateUpdate{Conversation: q.Conversation, Name: event.StateUnread, Merge: store.MergeLast})
	}
	res, err := r.commit(ctx, b)
	if err != nil {
		return MarkReadResult{}, err
	}
	now := MarkReadResult{Seq: res.States[0].Number, States: withFlag(res.States, flag, flagged && flag.Number == 0)}
	if res.Unchanged { // another device was faster
		return now, nil
	}
	p := res.Messages[0].To[0]
	now.Advanced, now.Position = q.Seq > old.Number, event.Position{Epoch: p.Epoch, Seq: p.Seq}
	return now, nil
}

// withFlag adds whether the conversation is marked as unread, unless it never was. The device may not learn in another way
// that it is not any more: the answer to an earlier try may have got lost, or the entry of this mark, which it does not get
// itself, may have superseded the one that took the flag back.
func withFlag(states []event.State, flag event.State, flagged bool) []event.State {
	if flagged {
		return append(states, flag)
	}
	return states
}

// readBatch is what a read mark appends: an entry for the own devices and receipts for others.
func (r *Router) readBatch(ctx context.Context, q MarkReadRequest, ordinal, old uint64) (store.Batch, error) {
	payload, err := json.Marshal(event.ReadMark{Seq: q.Seq, Message: q.Message, Private: q.Private, Ordinal: ordinal})
	if err != nil {
		return store.Batch{}, fmt.Errorf("fanout: encode read mark: %w", err)
	}
	kind, subject := event.KindConversationRead, ""
	if q.Private {
		subject = "private"
	}
	list := []store.Message{{
		ID: r.issuer.Issue(), Kind: kind, Conversation: q.Conversation, From: q.Account, Origin: q.Origin, Payload: payload,
		Key: r.cfg.Kinds.Info(kind).CoalesceKey(q.Conversation, subject), To: []store.Inbox{{Account: q.Account}},
	}}
	if !q.Private {
		receipts, err := r.readReceipts(ctx, q, old)
		if err != nil {
			return store.Batch{}, err
		}
		list = append(list, receipts...)
	}
	return store.Batch{Account: q.Account, OnlyIfChanged: true, Reserve: true, Messages: list}, nil
}

// register returns one register, and false if it was never set.
func (r *Router) register(ctx context.Context, account event.Account, conv event.ConversationID, name string) (event.State, bool, error) {
	o := store.StateOptions{Conversation: conv, Limit: statePage}
	for {
		page, err := r.st.States(ctx, account, o)
		if err != nil {
			return event.State{}, false, fmt.Errorf("fanout: read state: %w", err)
		}
		for _, s := range page.States {
			if s.Name == name && s.Conversation == conv {
				return s, true, nil
			}
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			return event.State{Conversation: conv, Name: name}, false, nil
		}
	}
}

// readReceipts finds, among the entries that the marker passes, the furthest message of each sender who wants to know. Each
// entry is looked at once in its life, since the marker never goes back. An edit counts where its message stood: what the
// marker had passed before was told then.
func (r *Router) readReceipts(ctx context.Context, q MarkReadRequest, old uint64) ([]store.Message, error) {
	last := make(map[event.Account]mark)
	there := q.Message == "" || q.Seq <= old
	for after := old; after < q.Seq; {
		page, err := r.st.Read(ctx, q.Account, store.ReadOptions{After: after, Limit: r.cfg.PageEntries, NoBodies: true})
		if err != nil {
			return nil, fmt.Errorf("fanout: mark read: %w", err)
		}
		for i := range page.Entries {
			e := &page.Entries[i]
			there = there || e.Seq == q.Seq
			if e.Seq > q.Seq || e.Conversation != q.Conversation || !r.wantsReceipt(e, q.Account) {
				continue
			}
			from, m := e.From, mark{event.Position{Epoch: page.Head.Epoch, Seq: e.Seq}, e.ID}
			if id := r.replaced(e); id != "" {
				info, at, err := r.original(ctx, q.Account, id)
				if err != nil {
					return nil, err
				}
				from, m = info.From, mark{at, id}
			}
			if from != q.Account && m.at.Epoch == page.Head.Epoch && m.at.Seq > old && m.after(last[from]) {
				last[from] = m
			}
		}
		if page.Through <= after {
			break
		}
		after = page.Through
	}
	if !there {
		if err := r.readByName(ctx, q, last); err != nil {
			return nil, err
		}
	}
	list := make([]store.Message, 0, len(last))
	for from, at := range last {
		m, err := r.receipt(event.KindRead, q.Account, from, q.Conversation, at.id)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// readByName adds the message that a mark names, of which no entry is left where it stood: its edit is further on. Whether
// one that was for some devices only was for all of this account's, nobody knows.
func (r *Router) readByName(ctx context.Context, q MarkReadRequest, last map[event.Account]mark) error {
	info, at, err := r.original(ctx, q.Account, q.Message)
	if err != nil {
		return err
	}
	wanted := info.Flags&(event.FlagReceipts|event.FlagTargeted) == event.FlagReceipts && info.From != q.Account
	if m := (mark{at, q.Message}); wanted && r.cfg.Kinds.Info(info.Kind).Change == event.ChangeNone && m.after(last[info.From]) {
		last[info.From] = m
	}
	return nil
}

// earlyReads are read marks for messages that have not arrived: 16 an account, for an hour.
type earlyReads struct {
	any     atomic.Bool // there may be some: keeps the common path from asking
	mu      sync.Mutex
	waiting *lru.Cache[event.Account, []earlyRead]
}

type earlyRead struct {
	q    MarkReadRequest
	till time.Duration // Router.clock
}

func (b *earlyReads) put(account event.Account, q MarkReadRequest, now time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.any.Store(true)
	list, _ := b.waiting.Get(account)
	list = append(list, earlyRead{q: q, till: now + pendingReadAge})
	if n := len(list) - pendingReads; n > 0 {
		list = list[n:]
	}
	b.waiting.Add(account, list)
}

// drop forgets the account's marks.
func (b *earlyReads) drop(account event.Account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting.Remove(account)
}

// take returns the mark that waited for a message, if there was one.
func (b *earlyReads) take(account event.Account, id event.MessageID, now time.Duration) (MarkReadRequest, bool) {
	if !b.any.Load() {
		return MarkReadRequest{}, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	list, _ := b.waiting.Get(account)
	for i, w := range list {
		if w.q.Message == id {
			b.waiting.Add(account, append(list[:i:i], list[i+1:]...))
			return w.q, now < w.till
		}
	}
	return MarkReadRequest{}, false
}

// arrived makes good on an early read mark.
func (r *Router) arrived(account event.Account, id event.MessageID) {
	q, ok := r.early.take(account, id, r.clock())
	if !ok {
		return
	}
	r.owned.Go(func() {
		if _, err := r.MarkRead(r.ctx, q); err != nil && r.ctx.Err() == nil {
			r.log.Warn("fanout: a read mark that came before its message is lost", "account", string(account), trace.Err(err))
		}
	})
}
