package fanout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/store"
)

const (
	statePage  = 1_024
	clearSlice = 256 // conversations whose markers one commit sets, and one entry tells of
)

// Unread is what an account has not read.
type Unread struct {
	Total         uint64 // messages, over all conversations
	Conversations []UnreadIn
}

// UnreadIn is what an account has not read of one conversation.
type UnreadIn struct {
	Conversation event.ConversationID
	Count        uint64 // messages after the read marker, without those that were recalled since
	Marked       bool   // the user has marked it as unread
}

// Unread returns how many messages the account has not read: in one conversation, or, if that is empty, in each that has
// something unread, in a fixed order. It counts entries that have a conversation and whose kind counts as unread. It is
// derived from numbers that every device sees alike, not from what is left in the inbox: a message that was trimmed
// unread counts until its conversation is read.
//
// Of each conversation the 64 latest recalls are known: older ones count as unread until the conversation is read.
func (r *Router) Unread(ctx context.Context, account event.Account, conversation event.ConversationID) (_ Unread, err error) {
	defer fault.In("fanout", "unread", &err)
	return r.unread(ctx, account, conversation)
}

func (r *Router) unread(ctx context.Context, account event.Account, conversation event.ConversationID) (Unread, error) {
	if err := account.Validate(); err != nil {
		return Unread{}, err
	}
	if conversation != "" {
		if err := conversation.Validate(); err != nil {
			return Unread{}, err
		}
	}
	counts, err := r.counts(ctx, account, conversation)
	if err != nil {
		return Unread{}, err
	}
	marks, err := r.marks(ctx, account, conversation)
	if err != nil {
		return Unread{}, err
	}
	var u Unread
	for _, c := range counts {
		m := marks[c.Conversation]
		delete(marks, c.Conversation)
		u.add(UnreadIn{Conversation: c.Conversation, Count: unread(c, m.ordinal), Marked: m.unread})
	}
	for c, m := range marks { // those that have no messages
		u.add(UnreadIn{Conversation: c, Marked: m.unread})
	}
	slices.SortFunc(u.Conversations, func(a, b UnreadIn) int { return cmp.Compare(a.Conversation, b.Conversation) })
	return u, nil
}

func (u *Unread) add(c UnreadIn) {
	if c.Conversation != "" && (c.Count > 0 || c.Marked) {
		u.Total += c.Count
		u.Conversations = append(u.Conversations, c)
	}
}

// unread is how many entries of a conversation are beyond an ordinal.
func unread(c store.Conversation, ordinal uint64) uint64 {
	if ordinal >= c.Counted {
		return 0
	}
	i, _ := slices.BinarySearch(c.Uncounted, ordinal+1)
	return c.Counted - ordinal - uint64(len(c.Uncounted)-i)
}

func (r *Router) counts(ctx context.Context, account event.Account, conversation event.ConversationID) ([]store.Conversation, error) {
	o := store.ConversationOptions{Conversation: conversation, Limit: statePage}
	var all []store.Conversation
	for {
		page, err := r.st.Conversations(ctx, account, o)
		if err != nil {
			return nil, fmt.Errorf("read counts: %w", err)
		}
		all = append(all, page.Conversations...)
		if o.Cursor = page.Next; o.Cursor == "" {
			return all, nil
		}
	}
}

// readMark is how far a conversation was read, on any device, told or not.
type readMark struct {
	ordinal uint64
	unread  bool // marked as unread
}

func (r *Router) marks(ctx context.Context, account event.Account, conversation event.ConversationID) (map[event.ConversationID]readMark, error) {
	o := store.StateOptions{Conversation: conversation, Limit: statePage}
	all := make(map[event.ConversationID]readMark)
	for {
		page, err := r.st.States(ctx, account, o)
		if err != nil {
			return nil, fmt.Errorf("read counts: %w", err)
		}
		for i := range page.States {
			s := &page.States[i]
			m := all[s.Conversation]
			switch s.Name {
			case event.StateRead, event.StateReadPrivate:
				m.ordinal = max(m.ordinal, s.Ordinal())
			case event.StateUnread:
				m.unread = s.Number != 0
			default:
				continue
			}
			all[s.Conversation] = m
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			return all, nil
		}
	}
}

// ordinalAt returns the ordinal up to which entries of a conversation are covered by a marker at seq. If the entry there
// does not tell, it is one less than the lowest of those that came later, or all that were counted if there are none.
func (r *Router) ordinalAt(ctx context.Context, account event.Account, conversation event.ConversationID, seq uint64) (uint64, error) {
	counts, err := r.counts(ctx, account, conversation) // first: what is appended meanwhile is found behind the marker
	if err != nil || len(counts) == 0 {
		return 0, err
	}
	lowest := counts[0].Counted + 1
	for after := seq - 1; ; {
		page, err := r.st.Read(ctx, account, store.ReadOptions{After: after, Limit: r.cfg.PageEntries, NoBodies: true})
		if err != nil {
			return 0, fmt.Errorf("read inbox: %w", err)
		}
		for i := range page.Entries {
			e := &page.Entries[i]
			if e.Ordinal == 0 || e.Conversation != conversation {
				continue
			}
			at, err := r.counted(ctx, account, e)
			if err != nil {
				return 0, err
			}
			if at == seq {
				return e.Ordinal, nil
			}
			if at > seq {
				lowest = min(lowest, e.Ordinal)
			}
		}
		if page.Through <= after || page.Through >= page.Head.Seq {
			return lowest - 1, nil
		}
		after = page.Through
	}
}

// counted returns where the entry stood that got the ordinal: an edit has that of the message whose place it took.
func (r *Router) counted(ctx context.Context, account event.Account, e *event.Entry) (uint64, error) {
	id := r.replaced(e)
	if id == "" {
		return e.Seq, nil
	}
	_, at, err := r.original(ctx, account, id)
	if err != nil {
		return 0, err
	}
	return cmp.Or(at.Seq, e.Seq), nil
}

// replaced returns the message whose place an edit has taken; empty for other entries.
func (r *Router) replaced(e *event.Entry) event.MessageID {
	id := event.ReplacedMessage(e.Key)
	if id == "" || r.cfg.Kinds.Info(e.Kind).Change != event.ChangeReplace {
		return ""
	}
	return id
}

// original returns what is known of a message that was replaced, and its own place in the account's inbox. Neither, if
// nobody knows it any more; no place, if the account never got it.
func (r *Router) original(ctx context.Context, account event.Account, id event.MessageID) (store.MessageInfo, event.Position, error) {
	info, err := r.st.Message(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return store.MessageInfo{}, event.Position{}, nil
	}
	if err != nil {
		return store.MessageInfo{}, event.Position{}, fmt.Errorf("replaced message: %w", err)
	}
	for _, p := range info.To {
		if p.Account == account {
			return info, event.Position{Epoch: p.Epoch, Seq: p.Seq}, nil
		}
	}
	return info, event.Position{}, nil
}

// ClearUnreadRequest asks to take everything for read.
type ClearUnreadRequest struct {
	Account event.Account
	Origin  event.LoginID // the login that asks: it gets no entry. Empty: the host
	// Conversation is the one to clear; empty: all of them.
	Conversation event.ConversationID
}

// ClearUnreadResult is what was cleared.
type ClearUnreadResult struct {
	Conversations int            // that had something unread
	Position      event.Position // of the last entry that tells the account's devices; Seq 0 if there was nothing to clear
	// States are the private markers, and the flags of conversations marked as unread, of Conversation or of all, as they are
	// now: the login that asks gets no entry, and should take them from here.
	States []event.State
}

// ClearUnread takes all that is unread for read, in one conversation or in all, for the account's own devices only: the
// markers are private, and nobody else is told. Many conversations are cleared in several commits; after an error the
// earlier ones stay.
//
// Errors: [*event.InvalidError], [ErrUnknownOrigin], [ErrClosed], or the store's.
func (r *Router) ClearUnread(ctx context.Context, q ClearUnreadRequest) (ClearUnreadResult, error) {
	res, err := r.clearUnread(ctx, q)
	fault.In("fanout", "clear unread", &err)
	if err != nil {
		r.refused("clear_unread", q.Account, q.Origin, err)
	}
	return res, err
}

func (r *Router) clearUnread(ctx context.Context, q ClearUnreadRequest) (ClearUnreadResult, error) {
	var out ClearUnreadResult
	if err := r.enter(); err != nil {
		return out, err
	}
	defer r.owned.Leave()
	left, err := r.unread(ctx, q.Account, q.Conversation)
	if err != nil {
		return out, err
	}
	if q.Origin != "" {
		if _, err := r.acting(ctx, q.Account, &q.Origin); err != nil {
			return out, notFound(err, ErrUnknownOrigin)
		}
	}
	for part := range slices.Chunk(left.Conversations, clearSlice) {
		if err := r.clear(ctx, &q, part, &out); err != nil {
			return out, err
		}
	}
	out.States, err = r.markers(ctx, q.Account, q.Conversation)
	return out, err
}

// markers returns what clearing has set, now or when it was asked for before and the answer got lost.
func (r *Router) markers(ctx context.Context, account event.Account, conversation event.ConversationID) ([]event.State, error) {
	o := store.StateOptions{Conversation: conversation, Limit: statePage}
	var all []event.State
	for {
		page, err := r.st.States(ctx, account, o)
		if err != nil {
			return nil, fmt.Errorf("fanout: clear unread: %w", err)
		}
		for _, s := range page.States {
			if s.Name == event.StateReadPrivate || s.Name == event.StateUnread {
				all = append(all, s)
			}
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			return all, nil
		}
	}
}

// clear marks some conversations as read up to the head.
func (r *Router) clear(ctx context.Context, q *ClearUnreadRequest, part []UnreadIn, out *ClearUnreadResult) error {
	page, err := r.st.Read(ctx, q.Account, store.ReadOptions{})
	if err != nil {
		return fmt.Errorf("fanout: clear unread: %w", err)
	}
	mark := event.ReadMark{Seq: page.Head.Seq, Private: true}
	b := store.Batch{Account: q.Account, OnlyIfChanged: true, Reserve: true}
	for _, c := range part {
		at, err := r.ordinalAt(ctx, q.Account, c.Conversation, mark.Seq)
		if err != nil {
			return err
		}
		mark.Marks = append(mark.Marks, event.ConversationMark{Conversation: c.Conversation, Ordinal: at})
		b.States = append(b.States, readState(c.Conversation, event.StateReadPrivate, mark.Seq, at))
		if c.Marked {
			b.States = append(b.States, store.StateUpdate{Conversation: c.Conversation, Name: event.StateUnread, Merge: store.MergeLast})
		}
	}
	kind := event.KindConversationClearAllUnread
	if q.Conversation != "" {
		kind, mark.Ordinal, mark.Marks = event.KindConversationClearUnread, mark.Marks[0].Ordinal, nil
	}
	payload, err := json.Marshal(mark)
	if err != nil {
		return fmt.Errorf("encode read mark: %w", err)
	}
	b.Messages = []store.Message{{
		ID: r.issuer.Issue(), Kind: kind, Conversation: q.Conversation, From: q.Account, Origin: q.Origin, Payload: payload,
		Key: r.cfg.Kinds.Info(kind).CoalesceKey(q.Conversation, ""), To: []store.Inbox{{Account: q.Account}},
	}}
	res, err := r.commit(ctx, b)
	if err != nil {
		return err
	}
	if !res.Unchanged {
		p := res.Messages[0].To[0]
		out.Conversations += len(part)
		out.Position = event.Position{Epoch: p.Epoch, Seq: p.Seq}
	}
	return nil
}

func readState(c event.ConversationID, name string, seq, ordinal uint64) store.StateUpdate {
	return store.StateUpdate{
		Conversation: c, Name: name, Merge: store.MergeMax, Number: seq, Value: event.OrdinalValue(ordinal),
	}
}
