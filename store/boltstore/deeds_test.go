package boltstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// deed is one operation that any store can do. Revisions and epochs, which stores choose, are asked for when it is done.
type deed struct {
	Batch   *store.Batch
	Cursors []store.Cursor
	Trim    *trimming
	Void    *voiding
	Delete  event.Account
}

type trimming struct {
	Account event.Account
	Through uint64
	Limit   int
}

type voiding struct {
	Account event.Account
	Seqs    []uint64
}

// do does it, and returns the answer in a form that is the same for all stores.
func (d *deed) do(ctx context.Context, s store.Store) (string, error) {
	switch {
	case d.Batch != nil:
		return d.commit(ctx, s)
	case d.Cursors != nil:
		return "", s.SaveCursors(ctx, d.Cursors)
	case d.Trim != nil:
		h, err := s.Trim(ctx, d.Trim.Account, d.Trim.Through, d.Trim.Limit)
		return headText(h), err
	case d.Void != nil:
		h, err := s.Void(ctx, d.Void.Account, d.Void.Seqs)
		return headText(h), err
	}
	r, err := s.Load(ctx, d.Delete)
	if err != nil {
		return "", err
	}
	return "", s.Delete(ctx, d.Delete, r.Revision)
}

func (d *deed) commit(ctx context.Context, s store.Store) (string, error) {
	b := *d.Batch
	if b.Record != nil {
		r, err := s.Load(ctx, b.Account)
		if err != nil {
			return "", err
		}
		b.Record = &store.RecordUpdate{Expect: r.Revision, Data: b.Record.Data}
	}
	b.Messages = slices.Clone(b.Messages)
	for i := range b.Messages {
		to := slices.Clone(b.Messages[i].To)
		b.Messages[i].To = to
		for j := range to {
			if to[j].Replaces.Seq == 0 {
				continue
			}
			p, err := s.Read(ctx, to[j].Account, store.ReadOptions{})
			if err != nil {
				return "", err
			}
			to[j].Replaces.Epoch = p.Head.Epoch
		}
	}
	r, err := s.Commit(ctx, b)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "duplicate=%t unchanged=%t states=%v", r.Duplicate, r.Unchanged, r.States)
	for _, m := range r.Messages {
		fmt.Fprintf(&text, " %s%s", m.ID, placesText(m.To, true))
	}
	return text.String(), nil
}

func headText(h store.Head) string {
	h.Epoch = event.Epoch(uint32(h.Epoch)) // the upper half is the store's own
	return fmt.Sprintf("%+v", h)
}

func placesText(places []store.Place, ordinals bool) string {
	var text strings.Builder
	for _, p := range places {
		if !ordinals {
			p.Ordinal = 0
		}
		fmt.Fprintf(&text, " %s/%d/%d/%d", p.Account, uint32(p.Epoch), p.Seq, p.Ordinal)
	}
	return text.String()
}

// payloadText is a hash of a payload, and its beginning, which says whose it is.
func payloadText(p []byte) string {
	h := fnv.New64a()
	_, _ = h.Write(p) // never fails
	return fmt.Sprintf("%d:%x:%q", len(p), h.Sum64(), p[:bytes.IndexByte(p, '>')+1])
}

// question is something that a store can be asked without changing it.
type question struct {
	account event.Account // whose it is; empty: it is not one account's
	name    string
	ask     func(ctx context.Context, s store.Store) (string, error)
}

// questions ask for all that a store has of accounts and messages.
func questions(accounts []event.Account, ids []event.MessageID) []question {
	list := []question{{"", "accounts", askAccounts}}
	for _, a := range accounts {
		list = append(list, accountQuestions(a)...)
	}
	for _, id := range ids {
		list = append(list, question{"", "message " + string(id), func(ctx context.Context, s store.Store) (string, error) {
			m, err := s.Message(ctx, id)
			if errors.Is(err, store.ErrNotFound) {
				return "none", nil
			}
			m.Time = m.Time.UTC()
			text := placesText(m.To, false)
			m.To = nil
			return fmt.Sprintf("%+v %s", m, text), err
		}})
	}
	return list
}

func askAccounts(ctx context.Context, s store.Store) (string, error) {
	var all []event.Account
	for after := event.Account(""); ; {
		page, err := s.Accounts(ctx, after, 7)
		if err != nil {
			return "", err
		}
		all = append(all, page...)
		if len(page) < 7 {
			slices.Sort(all)
			return fmt.Sprint(all), nil
		}
		after = page[len(page)-1]
	}
}

func accountQuestions(a event.Account) []question {
	return []question{
		{a, "record", func(ctx context.Context, s store.Store) (string, error) {
			r, err := s.Load(ctx, a)
			return fmt.Sprint(r.Revision != 0, payloadText(r.Data)), err
		}},
		{a, "inbox", func(ctx context.Context, s store.Store) (string, error) {
			list, head, err := readAll(ctx, s, a)
			var text strings.Builder
			text.WriteString(headText(head))
			for _, e := range list {
				p := payloadText(e.Payload)
				e.Payload, e.Time, e.Expires = nil, e.Time.UTC(), e.Expires.UTC()
				if len(e.Targets) == 0 {
					e.Targets = nil
				}
				fmt.Fprintf(&text, "\n%+v %s", e, p)
			}
			return text.String(), err
		}},
		{a, "states", func(ctx context.Context, s store.Store) (string, error) {
			var all []string
			for o := (store.StateOptions{Limit: 11}); ; {
				p, err := s.States(ctx, a, o)
				if err != nil {
					return "", err
				}
				for _, r := range p.States {
					all = append(all, fmt.Sprintf("%s %s %d %d %s", r.Conversation, r.Name, r.Number, r.Seq, payloadText(r.Value)))
				}
				if o.Cursor = p.Next; p.Next == "" {
					slices.Sort(all)
					return strings.Join(all, "\n"), nil
				}
			}
		}},
		{a, "conversations", func(ctx context.Context, s store.Store) (string, error) {
			var all []string
			for o := (store.ConversationOptions{Limit: 5}); ; {
				p, err := s.Conversations(ctx, a, o)
				if err != nil {
					return "", err
				}
				for _, c := range p.Conversations {
					all = append(all, fmt.Sprintf("%s %d %v", c.Conversation, c.Counted, append([]uint64{}, c.Uncounted...)))
				}
				if o.Cursor = p.Next; p.Next == "" {
					slices.Sort(all)
					return strings.Join(all, "\n"), nil
				}
			}
		}},
		{a, "cursors", func(ctx context.Context, s store.Store) (string, error) {
			list, err := s.Cursors(ctx, a)
			slices.SortFunc(list, func(c, d store.Cursor) int { return int(c.Incarnation) - int(d.Incarnation) })
			return fmt.Sprintf("%+v", list), err
		}},
	}
}

// typed reports whether an error says that the file is damaged.
func typed(err error) bool {
	return errors.Is(err, boltstore.ErrCorrupt) && !errors.Is(err, store.ErrFailed)
}
