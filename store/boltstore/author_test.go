package boltstore_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// author makes up deeds for a few accounts. The same seed and key make the same deeds, with other IDs.
type author struct {
	rnd      *rand.Rand
	issuer   *event.Issuer
	accounts []event.Account
	ids      []event.MessageID
	seq      map[event.Account]uint64 // entries so far, since the last deletion
	now      time.Time
	n        int
	large    int // of this many payloads one is long
}

func newAuthor(seed uint64, key event.IDKey, accounts int) *author {
	a := &author{
		rnd: rand.New(rand.NewPCG(seed, 3)), issuer: event.NewIssuer(key), seq: map[event.Account]uint64{}, now: start, large: 12,
	}
	for i := range accounts {
		a.accounts = append(a.accounts, event.Account(fmt.Sprintf("account-%c%c", 'a'+i%26, 'a'+i/26)))
	}
	return a
}

// secret is in all that belongs to an account alone.
func secret(a event.Account) string { return "<of " + string(a) + ">" }

// foreign reports whether an answer about an account has something that belongs to others alone.
func (w *author) foreign(a event.Account, text string) bool {
	for _, other := range w.accounts {
		if other != a && strings.Contains(text, secret(other)) && !strings.Contains(text, secret(a)) {
			return true
		}
	}
	for rest := text; ; {
		_, after, found := strings.Cut(rest, "<to ")
		if !found {
			return false
		}
		list, end, _ := strings.Cut(after, ">")
		if len(list) < 2000 && !slices.Contains(strings.Split(list, " "), string(a)) {
			return true
		}
		rest = end
	}
}

// beginnings make the accounts' records, devices and registers.
func (w *author) beginnings() (list []deed) {
	for i, a := range w.accounts {
		b := store.Batch{Account: a, Now: w.now, Record: &store.RecordUpdate{Data: append([]byte(secret(a)), make([]byte, 50*i)...)}}
		for d := range event.Incarnation(3) {
			b.Begin = append(b.Begin, store.Begin{Incarnation: d + 1})
		}
		for n := range 4 {
			b.States = append(b.States, store.StateUpdate{
				Conversation: event.ConversationID(fmt.Sprint("talk", n%3)), Name: fmt.Sprint("register", n),
				Merge: store.MergeLast, Number: uint64(n), Value: append([]byte(secret(a)), make([]byte, 20*n*n)...),
			})
		}
		list = append(list, deed{Batch: &b})
	}
	return list
}

// payload says who gets it, and is empty, short, or long.
func (w *author) payload(to []event.Account) []byte {
	var names []string
	for _, a := range to {
		names = append(names, string(a))
	}
	p := []byte("<to " + strings.Join(names, " ") + ">")
	switch n := w.rnd.IntN(w.large * 3); {
	case n == 0:
		p = append(p, make([]byte, 4096+w.rnd.IntN(20_000))...)
	case n < 3:
		p = append(p, make([]byte, 900+w.rnd.IntN(4000))...)
	default:
		p = append(p, make([]byte, w.rnd.IntN(300))...)
	}
	for i := range p { // zeroes would hide what was not copied
		if p[i] == 0 {
			p[i] = byte(w.rnd.Uint32())
		}
	}
	return p
}

// send is a message from one account to some others and itself.
func (w *author) send(from event.Account, others int) deed {
	to := []event.Account{from}
	for _, i := range w.rnd.Perm(len(w.accounts)) {
		if len(to) > others {
			break
		}
		if w.accounts[i] != from {
			to = append(to, w.accounts[i])
		}
	}
	w.n++
	w.now = w.now.Add(time.Second)
	id := w.issuer.Issue()
	if w.n%9 == 0 {
		id = event.MessageID(fmt.Sprint("foreign-id-", w.n)) // a host's own
	}
	m := store.Message{
		ID: id, Kind: event.KindMessage, From: from, Conversation: event.ConversationID(fmt.Sprint("talk", w.rnd.IntN(3))),
		ClientID: event.ClientMessageID(fmt.Sprint("client", w.n)), Payload: w.payload(to),
	}
	switch w.rnd.IntN(6) {
	case 0:
		m.Key = fmt.Sprint("key", w.rnd.IntN(4))
	case 1:
		if len(w.ids) != 0 {
			m.Of = w.ids[w.rnd.IntN(len(w.ids))]
		}
	case 2:
		m.Expires = w.now.Add(time.Hour)
	}
	for i, a := range to {
		in := store.Inbox{Account: a}
		if i > 0 {
			in.Flags = event.FlagUnread
		}
		if m.Of != "" && w.seq[a] > 3 {
			in.Replaces.Seq = w.seq[a] - uint64(w.rnd.IntN(3))
		}
		if w.rnd.IntN(8) == 0 {
			in.Targets = []event.Incarnation{1, 2}
		}
		m.To = append(m.To, in)
		w.seq[a]++
	}
	w.ids = append(w.ids, id)
	b := &store.Batch{Account: from, Now: w.now, Messages: []store.Message{m}}
	if w.rnd.IntN(2) == 0 {
		b.Idempotency = &store.Idempotency{Device: "phone", ClientID: m.ClientID, Window: 1000 * time.Hour, Max: 1 << 16}
	}
	if w.rnd.IntN(5) == 0 {
		b.States = []store.StateUpdate{{Conversation: m.Conversation, Name: "read", Number: w.seq[from]}}
	}
	return deed{Batch: b}
}

// pick returns a random account.
func (w *author) pick() event.Account { return w.accounts[w.rnd.IntN(len(w.accounts))] }

// some returns n deeds of all kinds.
func (w *author) some(n int) (list []deed) {
	for range n {
		a := w.pick()
		switch k := w.rnd.IntN(100); {
		case k < 70:
			list = append(list, w.send(a, 1+w.rnd.IntN(3)))
		case k < 73:
			list = append(list, w.send(a, len(w.accounts))) // a group of all
		case k < 80:
			list = append(list, w.cursor(a))
		case k < 88:
			list = append(list, w.mark(a))
		case k < 93:
			list = append(list, deed{Trim: &trimming{a, w.seq[a] / 3, 1 + w.rnd.IntN(20)}})
		case k < 98:
			list = append(list, deed{Void: &voiding{a, []uint64{1 + w.rnd.Uint64N(w.seq[a]+1)}}})
		case w.seq[a] > 20:
			list = append(list, w.deletion(a))
		}
	}
	return list
}

func (w *author) cursor(a event.Account) deed {
	return deed{Cursors: []store.Cursor{{Account: a, Incarnation: event.Incarnation(1 + w.rnd.IntN(3)), Seq: w.seq[a], Sent: w.seq[a]}}}
}

func (w *author) mark(a event.Account) deed {
	return deed{Batch: &store.Batch{Account: a, Now: w.now, Reserve: true, States: []store.StateUpdate{{
		Conversation: event.ConversationID(fmt.Sprint("talk", w.rnd.IntN(3))), Name: fmt.Sprint("mark", w.rnd.IntN(5)),
		Merge: store.MergeLast, Number: w.rnd.Uint64N(1000), Value: []byte(secret(a)),
	}}}}
}

func (w *author) deletion(a event.Account) deed {
	w.seq[a] = 0
	return deed{Delete: a}
}

// afterwards are deeds that touch every account: sends, marks, cursors, trims, voids, one deletion.
func (w *author) afterwards() (list []deed) {
	for i, a := range w.accounts {
		list = append(list, w.send(a, 1), w.mark(a), w.cursor(a), deed{Trim: &trimming{a, w.seq[a] / 2, 1000}},
			deed{Void: &voiding{a, []uint64{w.seq[a]}}})
		if i == len(w.accounts)/2 {
			list = append(list, w.deletion(a))
		}
	}
	return list
}

// repeats are batches with an idempotency name that were done before, once more: not those of accounts that were deleted since.
func repeats(done []deed, most int) (list []deed) {
	deleted := map[event.Account]bool{}
	for i := len(done) - 1; i >= 0 && len(list) < most; i-- {
		if d := done[i].Delete; d != "" {
			deleted[d] = true
		}
		if b := done[i].Batch; b != nil && b.Idempotency != nil && !deleted[b.Account] {
			list = append(list, done[i])
		}
	}
	return list
}
