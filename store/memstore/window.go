package memstore

import (
	"cmp"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// expireStep is how many expired records a new one removes: more than one, so that a backlog of them shrinks.
const expireStep = 4

// window holds an account's idempotency records.
type window struct {
	byName map[attemptName]*attempt
	queue  []*attempt // by expiry; may hold records that another one took the name of
}

type attemptName struct {
	device   event.DeviceID
	clientID event.ClientMessageID
}

// attempt is one idempotency record.
type attempt struct {
	name    attemptName
	digest  [32]byte
	expires int64           // Unix milliseconds
	id      event.MessageID // of the first message; empty: the batch had none
	place   store.Place     // in the acting account's own inbox; Account is empty if there was none
}

// result is what a repetition gets.
func (r *attempt) result() store.Result {
	result := store.Result{Duplicate: true}
	if r.id != "" {
		placed := store.Placed{ID: r.id}
		if r.place.Account != "" {
			placed.To = []store.Place{r.place}
		}
		result.Messages = []store.Placed{placed}
	}
	return result
}

// check returns the first use of the name if it is still known, and an error if the batch must be refused.
func (w *window) check(i *store.Idempotency, now int64) (*attempt, error) {
	if r := w.byName[attemptName{i.Device, i.ClientID}]; r != nil && now < r.expires {
		if r.digest != i.Digest {
			return nil, store.ErrMismatch
		}
		return r, nil
	}
	for n := 0; len(w.queue) != 0 && w.queue[0].expires <= now && (n < expireStep || len(w.byName) >= i.Max); n++ {
		r := w.queue[0]
		w.queue[0] = nil
		w.queue = w.queue[1:]
		if w.byName[r.name] == r {
			delete(w.byName, r.name)
		}
	}
	if len(w.byName) >= i.Max {
		return nil, store.ErrWindowFull
	}
	return nil, nil
}

// add remembers what the batch did.
func (w *window) add(b *store.Batch, placed []store.Placed) {
	i := b.Idempotency
	r := &attempt{
		name: attemptName{i.Device, i.ClientID}, digest: i.Digest, expires: b.Now.UnixMilli() + i.Window.Milliseconds(),
	}
	if len(placed) != 0 {
		r.id = placed[0].ID
		for _, p := range placed[0].To {
			if p.Account == b.Account {
				r.place = p
			}
		}
	}
	if w.byName == nil {
		w.byName = make(map[attemptName]*attempt)
	}
	w.byName[r.name] = r
	if n := len(w.queue); n == 0 || w.queue[n-1].expires <= r.expires {
		w.queue = append(w.queue, r)
		return
	}
	// The clock went back, or the window got shorter.
	at, _ := slices.BinarySearchFunc(w.queue, r.expires+1, func(q *attempt, expires int64) int {
		return cmp.Compare(q.expires, expires)
	})
	w.queue = slices.Insert(w.queue, at, r)
}
