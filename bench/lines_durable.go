package main

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/bench/internal/day"
	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/store"
)

const (
	sequential = "sequential puts on bbolt"

	durableNotes = "512 B from one account to another, copies in both inboxes, conversation, client message ID; answered when it is " +
		"on disk. Every account had entries before. The reference puts 640 B, payload and all that belongs to it, one after " +
		"another, with a commit for all that waits, as ours does; it has no index by account, so it is a bound and no design."
)

func durableLines(sc lab.Scale) []lab.Line {
	var all []lab.Line
	for _, n := range sc.Accounts {
		goal, latency, headline := 0.5, "", ""
		if n == lab.Largest(sc.Accounts) {
			latency, headline = "Latency of many senders", fmt.Sprintf("messages/s on disk, %d senders, %d accounts", sc.Crowd, n)
			goal = 0.4 // the index of a million accounts does not fit into any cache
		}
		all = append(all, lab.Line{
			Name: fmt.Sprintf("durable/senders=%d/accounts=%d", sc.Crowd, n), Unit: "messages/s", Against: sequential,
			Goal: lab.AtLeast(goal), Notes: durableNotes, Chart: "Durable messages over accounts", X: float64(n),
			Latency: latency, Headline: headline, Prepare: durable(n, sc.Crowd, sequenceSide),
		})
	}
	middle := sc.Accounts[len(sc.Accounts)/2]
	for _, n := range sc.Senders {
		all = append(all, lab.Line{
			Name: fmt.Sprintf("durable/senders=%d", n), Unit: "messages/s", Against: sequential, Goal: lab.AtLeast(0.5), Notes: durableNotes,
			Chart: "Durable messages over senders", X: float64(n), Prepare: durable(middle, n, sequenceSide),
		})
	}
	return append(all,
		lab.Line{
			Name: "durable/against-file", Unit: "messages/s", Against: "append and fdatasync", Goal: lab.AtLeast(0.2),
			Notes: "The same against a plain file: one write and one fdatasync for all that waits, 640 B each. bbolt syncs twice.",
			Prepare: durable(middle, sc.Crowd, func(s *lab.Scene, _ int) (sendRaw, error) {
				f, err := raw.NewFile(s)
				if err != nil {
					return nil, err
				}
				record := make([]byte, raw.RecordBytes)
				return func(int, uint64) error { return f.Append(record) }, nil
			}),
		},
		lab.Line{
			Name: "durable/against-a-day", Unit: "messages/s", Against: "bbolt bucket per account", Goal: lab.AtLeast(5),
			Notes: "The same against what is written in a day: a bucket for each account, the payload in both inboxes, bbolt's own " +
				"batches. Its file begins empty.",
			Prepare: durable(middle, sc.Crowd, func(s *lab.Scene, accounts int) (sendRaw, error) {
				d, err := day.NewDurable(s)
				payload := ours.Payload(ours.PayloadBytes)
				return func(_ int, n uint64) error {
					from := ours.Scatter(n, accounts)
					return d.Send(string(ours.Account(from)), string(ours.Account(from^1)), strconv.FormatUint(n, 36), payload)
				}, err
			}),
		})
}

// sendRaw does what a reference does for the n-th message of all.
type sendRaw func(sender int, n uint64) error

func sequenceSide(s *lab.Scene, _ int) (sendRaw, error) {
	q, err := raw.NewSequence(s)
	if err != nil {
		return nil, err
	}
	record := make([]byte, raw.RecordBytes)
	var done atomic.Int64
	s.Cleanup(func() error {
		n, err := q.Count()
		if err == nil && int64(n) != done.Load() {
			err = fmt.Errorf("reference has %d records, want %d", n, done.Load())
		}
		return err
	})
	return func(int, uint64) error {
		done.Add(1)
		return q.Put(record)
	}, nil
}

// durable compares sends to a file that has the accounts with a reference.
func durable(accounts, senders int, other func(s *lab.Scene, accounts int) (sendRaw, error)) func(*lab.Scene) (lab.Run, lab.Run, error) {
	return func(s *lab.Scene) (lab.Run, lab.Run, error) {
		return sends(s, accounts, senders, s.Scale.Warm, s.Scale.Time, other)
	}
}

func sends(
	s *lab.Scene, accounts, senders int, warm, counted time.Duration, other func(s *lab.Scene, accounts int) (sendRaw, error),
) (lab.Run, lab.Run, error) {
	our, err := filledFile(s, accounts)
	if err != nil {
		return nil, nil, err
	}
	reference, err := other(s, accounts)
	if err != nil {
		return nil, nil, err
	}
	var n atomic.Uint64
	run := func(op func(w int) error) lab.Run {
		return func() (lab.Sample, error) {
			return lab.Load{
				Workers: senders, Warm: warm, Time: counted, Op: func(w, _ int) (int, error) { return 1, op(w) },
			}.Run(s.Context())
		}
	}
	return run(func(int) error { return our(s.Context()) }), run(func(w int) error { return reference(w, n.Add(1)) }), nil
}

// filledFile returns a way to send a message in a new file in which each account has an entry. When the scene ends, all of
// what was sent must be there.
func filledFile(s *lab.Scene, accounts int) (func(context.Context) error, error) {
	cfg, err := ours.Config()
	if err != nil {
		return nil, err
	}
	e, err := ours.File(s, cfg)
	if err != nil {
		return nil, err
	}
	if err := ours.Fill(s.Context(), e.Store, accounts, 1, make([]byte, 16)); err != nil {
		return nil, err
	}
	t := ours.NewTraffic(accounts, ours.Payload(ours.PayloadBytes))
	s.Cleanup(func() error { return allThere(e.Store, accounts, accounts+2*t.Sent()) })
	return func(ctx context.Context) error { return t.Send(ctx, e) }, nil
}

// entries counts what the inboxes of the accounts together have got so far.
func entries(st store.Store, accounts int) (int, error) {
	var n uint64
	for i := range accounts {
		page, err := st.Read(context.Background(), ours.Account(i), store.ReadOptions{})
		if err != nil {
			return 0, err
		}
		n += page.Head.Seq
	}
	return int(n), nil
}

// allThere checks that count.
func allThere(st store.Store, accounts, want int) error {
	got, err := entries(st, accounts)
	if err == nil && got != want {
		err = fmt.Errorf("inboxes have got %d entries, want %d", got, want)
	}
	return err
}

func sustainedLines(sc lab.Scale) []lab.Line {
	n := lab.Largest(sc.Accounts)
	return []lab.Line{{
		Name: fmt.Sprintf("sustained/senders=%d/accounts=%d", sc.Crowd, n), Unit: "messages/s", Against: "keys ordered by account",
		Goal: lab.AtLeast(5), Latency: "Latency under sustained load",
		Notes: fmt.Sprintf("The last sixth of %v, against the same entries in bbolt under keys ordered by account: payload once, entry "+
			"and head for two inboxes, a record for the client message ID, heads also in memory; the same commits. Runs go on in "+
			"the same files.", sc.Long),
		Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
			return sends(s, n, s.Scale.Crowd, s.Scale.Long*5/6, s.Scale.Long/6, orderedSide)
		},
	}}
}

func orderedSide(s *lab.Scene, accounts int) (sendRaw, error) {
	o, err := raw.NewOrdered(s, accounts)
	if err != nil {
		return nil, err
	}
	payload := ours.Payload(ours.PayloadBytes)
	return func(_ int, n uint64) error { return o.Send(ours.Scatter(n, accounts), payload) }, nil
}

func latencyLines(sc lab.Scale) []lab.Line {
	n := sc.Accounts[len(sc.Accounts)/2]
	return []lab.Line{{
		Name: "latency/senders=1", Unit: "µs p50", Against: "one commit of bbolt", Goal: lab.AtMost(1.2),
		Latency: "Latency of one sender", Headline: "time until one message is on disk, one sender",
		Notes: fmt.Sprintf("One sender, %d accounts, 512 B; against one put of 640 B and its commit. The two sides take turns operation "+
			"by operation.", n),
		Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
			our, err := filledFile(s, n)
			if err != nil {
				return nil, nil, err
			}
			reference, err := sequenceSide(s, n)
			if err != nil {
				return nil, nil, err
			}
			a, b := lab.Pairs(s.Scale.Ops, time.Microsecond, func(int) error { return our(s.Context()) },
				func(i int) error { return reference(0, uint64(i)) })
			return a, b, nil
		},
	}}
}
