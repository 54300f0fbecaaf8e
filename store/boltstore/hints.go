package boltstore

import (
	"context"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// hints are what a caller has looked up for its batch, so that the goroutine that commits for all need not: accounts that
// were not used for a while are all over the file, and those that were all over memory. What was found in the file holds as
// long as no other window is folded: until then all that changes is in memory, which is asked first.
type hints struct {
	newest uint64 // window that was folded last
	layer  *layer // window that was written then
	list   []hint // in order of first use
	done   int    // so many have been looked up
	next   int    // where the search for one begins
}

// hint is what is known of an account.
type hint struct {
	name   event.Account
	seated bool // it has a seat in the layer
	seat   uint32
	number uint64 // that goes with the seat
	aid    uint64 // that the file has; 0: not looked for
	place  slot
	rows   []row // that the batch needs, as the file has them
}

// hintAccounts is how many accounts are looked up in one transaction.
const hintAccounts = 256

// hints returns what a caller looks up. What it cannot find out is left to whoever commits.
func (s *Store) hints(ctx context.Context, b *store.Batch, attempt string) *hints {
	n := 1
	for i := range b.Messages {
		n += len(b.Messages[i].To)
	}
	h := &hints{list: make([]hint, 0, n)}
	h.list = append(h.list, hint{name: b.Account})
	if attempt != "" {
		h.list[0].need(attempt)
	}
	for i := range b.Messages {
		m := &b.Messages[i]
		for j := range m.To {
			h.message(m, &m.To[j])
		}
	}
	if !s.seats(h) {
		return h
	}
	for h.done < len(h.list) {
		if s.viewAccounts(ctx, h.some) != nil {
			return nil
		}
	}
	return h
}

func (h *hint) need(key string) { h.rows = append(h.rows, row{key: key}) }

// message adds what is needed to append a message to an inbox.
func (h *hints) message(m *store.Message, to *store.Inbox) {
	if to.Account != h.list[0].name {
		h.list = append(h.list, hint{name: to.Account}) // twice if several messages go there, which does no harm
	}
	one := &h.list[len(h.list)-1]
	if to.Account == h.list[0].name {
		one = &h.list[0]
	}
	if (m.Flags|to.Flags)&event.FlagUnread != 0 {
		one.need(countRow(m.Conversation))
	}
	for _, key := range [...]string{m.Key, m.Drop} {
		if key != "" {
			one.need(keyRow(key))
		}
	}
}

// seats finds accounts in memory, and reports whether something has to be looked for in the file.
func (s *Store) seats(h *hints) bool {
	s.state.RLock()
	defer s.state.RUnlock()
	h.layer, h.newest = s.active, newest(s.windows)
	missing := false
	for i := range h.list {
		one := &h.list[i]
		one.number, one.aid = 0, 0
		if one.seat, one.seated = s.active.find(one.name); one.seated {
			one.number = s.active.seat(one.seat).aid
		}
		missing = missing || !one.seated || len(one.rows) != 0
	}
	return missing
}

// some looks up some of the accounts. If another window was folded meanwhile, all begins anew: names may have got other
// numbers in it.
func (h *hints) some(v *view) error {
	if h.newest != v.newest() {
		h.done = 0
		if v.s.seats(h); h.newest != v.newest() {
			return errStale // the view is behind
		}
	}
	for n := 0; h.done < len(h.list) && n < hintAccounts; n++ {
		if err := v.hint(&h.list[h.done]); err != nil {
			return err
		}
		h.done++
	}
	return nil
}

func (v *view) hint(one *hint) error {
	if one.seated && len(one.rows) == 0 {
		return nil // memory has all that is needed
	}
	a := &account{name: one.name, base: &v.base, aid: one.number}
	if !one.seated && !v.s.number(a) {
		var err error
		if a.aid, err = v.named(one.name); err != nil || a.aid == 0 {
			return err
		}
	}
	place, err := a.slot()
	if err != nil {
		return err
	}
	one.aid, one.place = a.aid, *place
	for i := range one.rows {
		if one.rows[i].value, err = a.below(one.rows[i].key); err != nil {
			return err
		}
	}
	return nil
}

// of returns what is known of an account, nil if nothing. Nearly all batches have few accounts; in a large one the order
// of use is that of the list.
func (h *hints) of(name event.Account) *hint {
	if h == nil {
		return nil
	}
	for i := range h.list {
		at := (h.next + i) % len(h.list)
		if h.list[at].name == name {
			h.next = at + 1
			return &h.list[at]
		}
	}
	return nil
}

// use takes over what the file has of an account.
func (h *hints) use(a *account, one *hint, newest uint64) {
	if one != nil && one.aid != 0 && h.newest == newest {
		a.hinted, a.place, a.looked, a.known = one.aid, one.place, true, append(a.known, one.rows...)
	}
}

// seated takes over the seat of an account, unless it got another number since.
func (h *hints) seated(a *account, one *hint, active *layer) bool {
	if one == nil || !one.seated || h.layer != active {
		return false
	}
	s := active.seat(one.seat)
	if s.gone {
		return false
	}
	a.seat, a.index = s, one.seat
	return true
}
