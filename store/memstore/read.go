package memstore

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// pageHint is for how many entries room is made at once; larger pages grow.
const pageHint = 256

// Message implements [store.Store].
func (s *Store) Message(ctx context.Context, id event.MessageID) (store.MessageInfo, error) {
	if err := s.lock(ctx); err != nil {
		return store.MessageInfo{}, err
	}
	defer s.mu.Unlock()
	m := s.messages[id]
	if m == nil {
		return store.MessageInfo{}, store.ErrNotFound
	}
	return store.MessageInfo{
		ID: m.id, Kind: m.kind, Flags: m.flags, Conversation: m.conversation, From: m.from,
		Time: time.UnixMilli(m.time).UTC(), To: slices.Clone(m.to),
	}, nil
}

// Read implements [store.Store]. There is one copy of everything, so that Known has no effect. With NoBodies, MaxBytes
// counts entries without their payload.
func (s *Store) Read(ctx context.Context, name event.Account, o store.ReadOptions) (store.Page, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Page{}, err
	}
	if err := o.Validate(); err != nil {
		return store.Page{}, err
	}
	if err := s.lock(ctx); err != nil {
		return store.Page{}, err
	}
	defer s.mu.Unlock()
	a := s.accounts[name]
	page := store.Page{Head: s.headLocked(a)}
	page.Entries, page.Through = o.Into[:0], max(o.After, page.Head.Seq)
	if o.Limit == 0 {
		page.Through = o.After
		return page, nil
	}
	if a == nil {
		return page, nil
	}
	rest := a.inbox.entries[a.inbox.after(o.After):]
	if len(rest) == 0 {
		return page, nil
	}
	if o.Into == nil {
		page.Entries = make([]event.Entry, 0, min(o.Limit, len(rest), pageHint))
	}
	full, bytes := false, 0
	for i := range rest {
		if rest[i].message == nil {
			continue
		}
		if full {
			page.Through = page.Entries[len(page.Entries)-1].Seq
			break
		}
		e := rest[i].event(name, !o.NoBodies)
		page.Entries = append(page.Entries, e)
		bytes += e.Size()
		full = len(page.Entries) == o.Limit || o.MaxBytes > 0 && bytes >= o.MaxBytes
	}
	return page, nil
}

// States implements [store.Store]. The order is by conversation and name. A page takes time in proportion to the
// registers that it passes over.
func (s *Store) States(ctx context.Context, name event.Account, o store.StateOptions) (store.StatePage, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.StatePage{}, err
	}
	if err := o.Validate(); err != nil {
		return store.StatePage{}, err
	}
	conversation, register, ok := strings.Cut(o.Cursor, "\n") // no identifier has a line feed
	if !ok && o.Cursor != "" {
		return store.StatePage{}, &event.InvalidError{Field: "cursor", Reason: "not of this store"}
	}
	if err := s.lock(ctx); err != nil {
		return store.StatePage{}, err
	}
	defer s.mu.Unlock()
	a := s.accounts[name]
	if a == nil {
		return store.StatePage{}, nil
	}
	next, _ := a.state(o.Conversation, "")
	if ok {
		if i, found := a.state(event.ConversationID(conversation), register); found {
			next = max(next, i+1)
		} else {
			next = max(next, i)
		}
	}
	var page store.StatePage
	for i := next; i < len(a.states); i++ {
		state := a.states[i]
		if o.Conversation != "" && state.Conversation != o.Conversation {
			break
		}
		if o.Newer != 0 && state.Seq <= o.Newer {
			continue
		}
		if len(page.States) == o.Limit {
			last := page.States[o.Limit-1]
			page.Next = string(last.Conversation) + "\n" + last.Name
			break
		}
		state.Value = slices.Clone(state.Value)
		page.States = append(page.States, state)
	}
	return page, nil
}

// Conversations implements [store.Store]. The order is that of the identifiers. A page takes time in proportion to all
// of the account's conversations.
func (s *Store) Conversations(ctx context.Context, name event.Account, o store.ConversationOptions) (store.ConversationPage, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.ConversationPage{}, err
	}
	if err := o.Validate(); err != nil {
		return store.ConversationPage{}, err
	}
	if err := s.lock(ctx); err != nil {
		return store.ConversationPage{}, err
	}
	defer s.mu.Unlock()
	a := s.accounts[name]
	if a == nil {
		return store.ConversationPage{}, nil
	}
	var ids []event.ConversationID
	for c := range a.counts {
		// The cursor ends with a line feed, which no identifier has, so that the conversation without a name comes once.
		if (o.Conversation == "" || c == o.Conversation) && (o.Cursor == "" || string(c)+"\n" > o.Cursor) {
			ids = append(ids, c)
		}
	}
	slices.Sort(ids)
	var page store.ConversationPage
	for _, c := range ids {
		if len(page.Conversations) == o.Limit {
			page.Next = string(page.Conversations[o.Limit-1].Conversation) + "\n"
			break
		}
		n := a.counts[c]
		page.Conversations = append(page.Conversations, store.Conversation{
			Conversation: c, Counted: n.counted, Uncounted: slices.Clone(n.uncounted),
		})
	}
	return page, nil
}

// Cursors implements [store.Store].
func (s *Store) Cursors(ctx context.Context, name event.Account) ([]store.Cursor, error) {
	if err := store.CheckAccount(name); err != nil {
		return nil, err
	}
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if a := s.accounts[name]; a != nil {
		return slices.Clone(a.cursors), nil
	}
	return nil, nil
}

// SaveCursors implements [store.Store].
func (s *Store) SaveCursors(ctx context.Context, cursors []store.Cursor) error {
	for i := range cursors {
		if err := cursors[i].Validate(); err != nil {
			return err
		}
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	for _, c := range cursors {
		if a := s.accounts[c.Account]; a != nil {
			a.save(c)
		}
	}
	return nil
}

// Trim implements [store.Store].
func (s *Store) Trim(ctx context.Context, name event.Account, through uint64, limit int) (store.Head, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Head{}, err
	}
	if err := store.CheckLimit(limit); err != nil {
		return store.Head{}, err
	}
	if err := s.lock(ctx); err != nil {
		return store.Head{}, err
	}
	defer s.mu.Unlock()
	a := s.accounts[name]
	if a == nil {
		return s.headLocked(nil), nil
	}
	box := &a.inbox
	through = min(through, box.seq)
	removed := 0
	for i := range box.entries {
		e := &box.entries[i]
		if e.seq > through || e.message != nil && removed == limit {
			through = min(through, e.seq-1)
			break
		}
		if e.message != nil {
			s.removedLocked(box.punchAt(i))
			removed++
		}
	}
	box.trim = max(box.trim, through)
	box.tidy()
	return s.headLocked(a), nil
}

// Void implements [store.Store].
func (s *Store) Void(ctx context.Context, name event.Account, seqs []uint64) (store.Head, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.Head{}, err
	}
	if err := s.lock(ctx); err != nil {
		return store.Head{}, err
	}
	defer s.mu.Unlock()
	a := s.accounts[name]
	if a == nil {
		return s.headLocked(nil), nil
	}
	for _, seq := range seqs {
		if e := a.inbox.punch(seq); e.message != nil {
			a.uncount(e.message.conversation, e.ordinal)
			s.removedLocked(e)
		}
	}
	a.inbox.tidy()
	return s.headLocked(a), nil
}
