package main

import (
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/bench/internal/pebble"
	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/bench/internal/rows"
)

// reference is a store that does the work of package rows, and is sent messages between accounts that have an entry each.
type reference struct {
	rows.Sender
	rest func() error // returns when nothing is done in the background
	pay  func() error // does all that is left to be done later

	accounts int
	payload  []byte
	sent     atomic.Uint64
}

// openReference opens a new store, with memory as lab.Scale has it.
type openReference func(s *lab.Scene, memory int64) (*reference, error)

// filled opens one and gives each account an entry. When the scene ends, all of what was sent must be there.
func (open openReference) filled(s *lab.Scene, accounts int, memory int64) (*reference, error) {
	r, err := open(s, memory)
	if err != nil {
		return nil, err
	}
	r.accounts, r.payload = accounts, ours.Payload(ours.PayloadBytes)
	var n uint64
	if err := rows.Fill(r, accounts, account, func() uint64 { n++; return n }); err != nil {
		return nil, err
	}
	s.Cleanup(r.allThere)
	return r, r.pay()
}

func account(i int) string { return string(ours.Account(i)) }

// send sends the next message, between the accounts that ours.Traffic would take.
func (r *reference) send() error {
	n := r.sent.Add(1)
	from := ours.Scatter(n, r.accounts)
	to := from ^ 1
	if to >= r.accounts {
		to = 0
	}
	_, err := r.Send(rows.New(account(from), account(to), string(ours.Conversation(from)), strconv.FormatUint(n, 36), r.payload,
		uint64(r.accounts)+n))
	return err
}

// allThere checks that the inboxes together have got what was sent.
func (r *reference) allThere() error {
	var got uint64
	for i := range r.accounts {
		h, err := r.Head(account(i))
		if err != nil {
			return err
		}
		got += h.Seq
	}
	if want := uint64(r.accounts) + 2*r.sent.Load(); got != want {
		return fmt.Errorf("reference has got %d entries, want %d", got, want)
	}
	return nil
}

// synced is a reference whose commits leave nothing for later.
func synced(s rows.Sender) *reference {
	nothing := func() error { return nil }
	return &reference{Sender: s, rest: nothing, pay: nothing}
}

func sequenceLog(s *lab.Scene, _ int64) (*reference, error) {
	l, err := raw.NewSequenceLog(s)
	return synced(l), err
}

func fileLog(s *lab.Scene, _ int64) (*reference, error) {
	l, err := raw.NewFileLog(s)
	return synced(l), err
}

func orderedKeys(s *lab.Scene, _ int64) (*reference, error) {
	o, err := raw.NewOrdered(s)
	return synced(o), err
}

func pebbleBatches(s *lab.Scene, memory int64) (*reference, error) {
	db, err := pebble.Open(s, pebble.Options{Memory: memory})
	if err != nil {
		return nil, err
	}
	return &reference{Sender: pebble.NewBatches(db), rest: db.Rest, pay: db.Pay}, nil
}

func pebbleCommitter(s *lab.Scene, memory int64) (*reference, error) {
	db, err := pebble.Open(s, pebble.Options{Memory: memory})
	if err != nil {
		return nil, err
	}
	return &reference{Sender: pebble.NewCommitter(db), rest: db.Rest, pay: db.Pay}, nil
}
