package boltstore

import (
	"context"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// register returns a copy of a register, and false if there is none.
func (a *account) register(key string, c event.ConversationID, name string) (event.State, value, bool, error) {
	row, err := a.get(key)
	if err != nil || row == "" {
		return event.State{}, value{}, false, err
	}
	s, err := decodeState(row)
	if err != nil {
		return event.State{}, value{}, false, err
	}
	data, err := a.base.value(&s.value)
	return event.State{Conversation: c, Name: name, Number: s.number, Value: data, Seq: s.seq}, s.value, true, err
}

// States implements [store.Store]. The order is by conversation and name.
func (s *Store) States(ctx context.Context, name event.Account, o store.StateOptions) (store.StatePage, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.StatePage{}, err
	}
	if err := o.Validate(); err != nil {
		return store.StatePage{}, err
	}
	after, ok := decodeStateCursor(o.Cursor)
	if !ok {
		return store.StatePage{}, &event.InvalidError{Field: "cursor", Reason: "not of this store"}
	}
	var page store.StatePage
	err := s.view(ctx, func(v *view) error {
		page = store.StatePage{}
		a, err := v.account(name)
		if err != nil {
			return err
		}
		return a.registers(&page, after, &o)
	})
	if err != nil {
		return store.StatePage{}, err
	}
	return page, nil
}

const (
	someStates = 32 // that a page of all conversations has room for from the start
	smallValue = 64 // bytes; read marks have less
)

// registers puts registers into a page, beginning after the one with the given conversation, 0 and name.
func (a *account) registers(page *store.StatePage, after string, o *store.StateOptions) error {
	tag := string(rune(tagState))
	prefix := tag
	if o.Conversation != "" {
		prefix = stateRow(o.Conversation, "")
	}
	limit, size := min(o.Limit, maxPageEntries), 0
	last := ""
	var small []byte // values of many registers are copied to one slice
	return a.scan(prefix, tag+after, func(key, row string) (bool, error) {
		if key = key[1:]; key == after {
			return true, nil
		}
		st, err := decodeState(row)
		if err != nil || o.Newer != 0 && st.seq <= o.Newer {
			return err == nil, err
		}
		if len(page.States) == limit || size >= maxPageBytes {
			page.Next = encodeStateCursor(last)
			return false, nil
		}
		conversation, name, ok := strings.Cut(key, "\x00")
		if !ok {
			return false, corrupt("register key")
		}
		var data []byte
		if v := &st.value; v.blob == 0 && 0 < v.size && v.size <= smallValue {
			small = append(small, v.inline...)
			data = small[len(small)-v.size : len(small) : len(small)]
		} else if data, err = a.base.value(v); err != nil {
			return false, err
		}
		if page.States == nil && o.Conversation == "" {
			page.States = make([]event.State, 0, min(limit, someStates))
		}
		page.States = append(page.States, event.State{
			Conversation: event.ConversationID(conversation), Name: name, Number: st.number, Value: data, Seq: st.seq,
		})
		size += len(data)
		last = key
		return true, err
	})
}

// Conversations implements [store.Store]. The order is that of the identifiers' bytes.
func (s *Store) Conversations(ctx context.Context, name event.Account, o store.ConversationOptions) (store.ConversationPage, error) {
	if err := store.CheckAccount(name); err != nil {
		return store.ConversationPage{}, err
	}
	if err := o.Validate(); err != nil {
		return store.ConversationPage{}, err
	}
	var page store.ConversationPage
	err := s.view(ctx, func(v *view) error {
		page = store.ConversationPage{}
		a, err := v.account(name)
		if err != nil {
			return err
		}
		if o.Conversation != "" {
			return a.count(&page, &o)
		}
		return a.counts(&page, &o)
	})
	if err != nil {
		return store.ConversationPage{}, err
	}
	return page, nil
}

// counts puts counts of unread entries into a page.
func (a *account) counts(page *store.ConversationPage, o *store.ConversationOptions) error {
	tag := string(rune(tagCount))
	// The cursor is the last identifier and a line feed, which no identifier has, so that there is one for "" too.
	return a.scan(tag, tag+o.Cursor, func(key, row string) (bool, error) {
		if len(page.Conversations) == min(o.Limit, maxPageEntries) {
			page.Next = string(page.Conversations[len(page.Conversations)-1].Conversation) + "\n"
			return false, nil
		}
		return true, addCount(page, event.ConversationID(key[1:]), row)
	})
}

// count is counts of the one conversation that is asked for.
func (a *account) count(page *store.ConversationPage, o *store.ConversationOptions) error {
	if o.Cursor > string(o.Conversation) {
		return nil
	}
	row, err := a.get(countRow(o.Conversation))
	if err != nil || row == "" {
		return err
	}
	return addCount(page, o.Conversation, row)
}

func addCount(page *store.ConversationPage, c event.ConversationID, row string) error {
	counted, uncounted, err := decodeCount(row)
	page.Conversations = append(page.Conversations, store.Conversation{Conversation: c, Counted: counted, Uncounted: uncounted})
	return err
}
