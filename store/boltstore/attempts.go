package boltstore

import (
	"bytes"
	"math"
	"slices"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// Idempotency records of an account are found by their name, and counted. They go when they have expired:
//
//  1. When an account has as many as it may have, all are looked through. That is not done again before one of handful of what it may
//     have has expired: so a commit looks at handful of them on average, however many they are, and a bound of more
//     than that is kept about.
//  2. So that they do not stay until then, each eighth record that is added has a few looked at, from where the last
//     look ended: a clock hand, which goes through all of them again and again.
const (
	handful   = 128
	handEvery = 8
	handLooks = 16
	handGone  = 256 // removed ones that memory has, and that one look passes over
)

// checkAttempt looks for an earlier batch of the same name. If there is none, it makes room for one.
func (w *writer) checkAttempt(b *store.Batch, p *plan) error {
	a, now := p.account, uint64(b.Now.UnixMilli())
	w.row = attemptRow(w.row[:0], b.Idempotency.Device, b.Idempotency.ClientID)
	row, err := a.get(w.row)
	if err != nil {
		return err
	}
	if row != nil {
		first, err := decodeAttempt(row)
		if err != nil {
			return a.about(err)
		}
		if now < first.expires {
			if !bytes.Equal(first.digest, b.Idempotency.Digest[:]) {
				return store.ErrMismatch
			}
			p.answer = w.repeated(b.Account, &first)
			return nil
		}
		p.again = true
	}
	w.s.meters.filled(b.Account, a.head.attempts, b.Idempotency.Max)
	if a.head.attempts < uint64(b.Idempotency.Max) {
		return nil
	}
	if now < a.head.recount {
		return store.ErrWindowFull
	}
	if err := p.expire(now, b.Idempotency.Max/handful); err != nil {
		return err
	}
	if p.attempts >= uint64(b.Idempotency.Max) {
		w.forgetAttempts(p) // and count no more until another one expires
		p.refusal = store.ErrWindowFull
	}
	return nil
}

// expire counts the idempotency records of an account, and finds the expired ones. They are not looked through again before so many
// more have expired.
func (p *plan) expire(now uint64, more int) error {
	var left []uint64
	err := p.account.scan(attemptRows, nil, func(key, value []byte) (bool, error) {
		at, err := attemptExpiry(value)
		if at <= now {
			p.forgets = append(p.forgets, bytes.Clone(key))
		} else {
			left = append(left, at)
		}
		return true, err
	})
	slices.Sort(left)
	p.attempts, p.recount = uint64(len(left)), math.MaxUint64
	if len(left) > 0 {
		p.recount = left[min(more, len(left)-1)]
	}
	return err
}

// repeated is the result for a batch that was here before.
func (w *writer) repeated(name event.Account, first *attempt) *store.Result {
	r := &store.Result{Duplicate: true}
	if first.id != "" {
		placed := store.Placed{ID: first.id}
		if first.placed {
			own := first.place
			own.account = name
			placed.To = []store.Place{w.s.epochs.place(&own)}
		}
		r.Messages = []store.Placed{placed}
	}
	return r
}

// forgetAttempts removes the expired idempotency records that were found when they were counted.
func (w *writer) forgetAttempts(p *plan) {
	for _, key := range p.forgets {
		w.unset(p.account, key)
	}
	p.account.head.attempts, p.account.head.recount, p.account.touched = p.attempts, p.recount, true
}

func (w *writer) addAttempt(b *store.Batch, p *plan, own place, placed bool) error {
	i, a := b.Idempotency, p.account
	if p.recount != 0 { // they were counted
		w.forgetAttempts(p)
		p.again = false
	}
	t := attempt{
		digest: i.Digest[:], expires: uint64(b.Now.UnixMilli() + i.Window.Milliseconds()),
		placed: placed, place: own,
	}
	if len(b.Messages) != 0 {
		t.id = b.Messages[0].ID
	}
	a.touched = true
	w.row, w.value = attemptRow(w.row[:0], i.Device, i.ClientID), t.append(w.value[:0])
	w.set(a, w.row, w.value)
	if a.head.attempts == 0 || t.expires < a.head.recount {
		a.head.recount = t.expires
	}
	if p.again {
		return nil
	}
	if a.head.attempts++; a.head.attempts%handEvery != 0 {
		return nil
	}
	return w.turnHand(a, uint64(b.Now.UnixMilli()))
}

// turnHand looks at the next idempotency records, and removes those that have expired.
func (w *writer) turnHand(a *account, now uint64) error {
	hand, err := a.get(handRow)
	if err != nil {
		return err
	}
	looks, passed := 0, 0
	var next []byte // nil: from the beginning
	err = a.walkRows(attemptRows, hand, func(key, value []byte, gone bool) (bool, error) {
		if gone {
			passed++
		} else {
			looks++
		}
		if looks > handLooks || passed > handGone {
			next = key
			return false, nil
		}
		if gone {
			return true, nil
		}
		at, err := attemptExpiry(value)
		if err == nil && at <= now && a.head.attempts > 0 {
			w.unset(a, key)
			a.head.attempts--
		}
		return true, err
	})
	switch {
	case err != nil:
		return err
	case next != nil:
		w.set(a, handRow, next)
	case hand != nil:
		w.unset(a, handRow)
	}
	return nil
}
