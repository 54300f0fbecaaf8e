package boltstore

import (
	"bytes"
	"context"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// register returns a copy of a register, and false if there is none.
func (a *account) register(c event.ConversationID, name string) (event.State, bool, error) {
	a.key = stateRow(a.key[:0], c, name)
	row, err := a.get(a.key)
	if err != nil || row == nil {
		return event.State{}, false, err
	}
	s, err := decodeState(row)
	return event.State{Conversation: c, Name: name, Number: s.number, Value: clone(s.value), Seq: s.seq}, true, a.about(err)
}

// clone copies what is not empty.
func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
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
	prefix := []byte{tagState}
	start := append([]byte{tagState}, after...)
	if o.Conversation != "" {
		prefix = stateRow(nil, o.Conversation, "")
	}
	limit, size := min(o.Limit, maxPageEntries), 0
	var last []byte
	var small []byte // values of many registers are copied to one slice
	return a.scan(prefix, start, func(key, row []byte) (bool, error) {
		if key = key[1:]; string(key) == after {
			return true, nil
		}
		st, err := decodeState(row)
		if err != nil || o.Newer != 0 && st.seq <= o.Newer {
			return err == nil, a.about(err)
		}
		if len(page.States) == limit || size >= maxPageBytes {
			page.Next = encodeStateCursor(last)
			return false, nil
		}
		conversation, name, ok := strings.Cut(string(key), "\x00")
		if !ok {
			return false, a.about(corrupt("register key"))
		}
		data := st.value
		if n := len(data); 0 < n && n <= smallValue {
			small = append(small, data...)
			data = small[len(small)-n : len(small) : len(small)]
		} else {
			data = clone(data)
		}
		if page.States == nil && o.Conversation == "" {
			page.States = make([]event.State, 0, min(limit, someStates))
		}
		page.States = append(page.States, event.State{
			Conversation: event.ConversationID(conversation), Name: name, Number: st.number, Value: data, Seq: st.seq,
		})
		size += len(data)
		last = key
		return true, nil
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
	// The cursor is the last identifier and a line feed, which no identifier has, so that there is one for "" too.
	return a.scan([]byte{tagCount}, append([]byte{tagCount}, o.Cursor...), func(key, row []byte) (bool, error) {
		if len(page.Conversations) == min(o.Limit, maxPageEntries) {
			page.Next = string(page.Conversations[len(page.Conversations)-1].Conversation) + "\n"
			return false, nil
		}
		counted, uncounted, err := decodeCount(row)
		addCount(page, event.ConversationID(key[1:]), counted, uncounted)
		return true, a.about(err)
	})
}

// count is counts of the one conversation that is asked for.
func (a *account) count(page *store.ConversationPage, o *store.ConversationOptions) error {
	if o.Cursor > string(o.Conversation) {
		return nil
	}
	counted, uncounted, err := a.countOf(o.Conversation)
	if err == nil && counted != 0 {
		addCount(page, o.Conversation, counted, uncounted)
	}
	return err
}

func addCount(page *store.ConversationPage, c event.ConversationID, counted uint64, uncounted []uint64) {
	page.Conversations = append(page.Conversations, store.Conversation{Conversation: c, Counted: counted, Uncounted: uncounted})
}
