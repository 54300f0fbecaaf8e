package fanout_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// inboxes reads what all accounts have in the end.
func (w *world) inboxes() []transporttest.Inbox {
	w.t.Helper()
	accounts, err := w.inner.Accounts(context.Background(), "", 1<<20)
	require.NoError(w.t, err)
	var all []transporttest.Inbox
	for _, a := range accounts {
		page := w.page(a, store.ReadOptions{Limit: 1 << 20})
		all = append(all, transporttest.Inbox{
			Account: a, Epoch: page.Head.Epoch, Trim: page.Head.Trim, Seq: page.Head.Seq, Entries: page.Entries,
		})
	}
	w.atomic(all)
	return all
}

// validate holds all that devices were sent against the inboxes.
func (w *world) validate(inboxes []transporttest.Inbox) {
	w.t.Helper()
	var streams []transporttest.Stream
	for _, d := range w.devices {
		streams = append(streams, d.Stream(string(d.account)+"/"+string(d.id)+d.tab, d.account, d.incs...))
	}
	require.Empty(w.t, transporttest.Validate(inboxes, streams))
}

// atomic checks that a message is in all inboxes that the store says it went to, unless something took it away there (I2).
func (w *world) atomic(inboxes []transporttest.Inbox) {
	w.t.Helper()
	boxes := map[event.Account]*transporttest.Inbox{}
	for i := range inboxes {
		boxes[inboxes[i].Account] = &inboxes[i]
	}
	seen := map[event.MessageID]bool{}
	for _, box := range boxes {
		for i := range box.Entries {
			e := &box.Entries[i]
			if seen[e.ID] {
				continue
			}
			seen[e.ID] = true
			info, err := w.inner.Message(context.Background(), e.ID)
			if errors.Is(err, store.ErrNotFound) {
				w.t.Errorf("entry %d of %s: its message is not known", e.Seq, box.Account)
				continue
			}
			require.NoError(w.t, err)
			for _, p := range info.To {
				other := boxes[p.Account]
				if other == nil && w.head(p.Account).Epoch != p.Epoch { // it was deleted since
					continue
				}
				if other == nil || !holds(other, p, e) {
					w.t.Errorf("I2: message %s is in the inbox of %s, but not in that of %s at %d", e.ID, box.Account, p.Account, p.Seq)
				}
			}
		}
	}
}

// holds reports whether an inbox has a message at a place, or shows why it has not.
func holds(box *transporttest.Inbox, p store.Place, e *event.Entry) bool {
	if box.Epoch != p.Epoch || p.Seq <= box.Trim {
		return true
	}
	first, _ := slices.BinarySearchFunc(box.Entries, p.Seq, func(o event.Entry, seq uint64) int { return cmp.Compare(o.Seq, seq) })
	for i := range box.Entries[first:] {
		o := &box.Entries[first+i]
		switch {
		case o.Seq == p.Seq:
			return o.ID == e.ID && bytes.Equal(o.Payload, e.Payload)
		case o.Seq > p.Seq && e.Key != "" && o.Key == e.Key:
			return true
		case o.Seq > p.Seq && changed(o.Key) == e.ID: // an edit, a recall, a deletion
			return true
		case o.Seq > p.Seq && changed(e.Key) != "" && changed(o.Key) == changed(e.Key): // an edit that was recalled
			return true
		}
	}
	return false
}

// changed returns the message that an entry is about by its key.
func changed(key string) event.MessageID {
	group, rest, _ := strings.Cut(key, "\n")
	if group != "edit" && group != "recall" && group != "hide" {
		return ""
	}
	id, _, _ := strings.Cut(rest, "\n")
	return event.MessageID(id)
}
