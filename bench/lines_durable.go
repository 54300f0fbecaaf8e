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
	sequential   = "sequential puts on bbolt"
	batchPerSend = "pebble, a batch per send"
	oneCommitter = "pebble, one committer"

	durableNotes = "512 B from one account to another, copies in both inboxes, conversation, client message ID; answered when it is " +
		"on disk. Every account had entries before. "
	boundNotes = durableNotes + "The reference looks up and counts the same in memory, and puts a record of 640 B for each " +
		"message one after another, with a commit for all that waits. It keeps nothing in order and forgets its memory, so it is a " +
		"bound and no design."
	pebbleNotes = durableNotes + "The reference is a store on cockroachdb/pebble that looks up, counts and writes the same rows: a " +
		"batch for each send, synced together by pebble, tuned (package pebble in bench/internal says how). It has no engine: no " +
		"routes, no devices, no events. A lone sender's rate is one over its median latency, the two sides in turns operation by " +
		"operation."
	committerNotes = "As durable/pebble, but one goroutine makes one batch of up to 512 sends that wait."
)

// pebbleGoals are the goals against pebble, by senders.
var pebbleGoals = map[int]float64{1: 1, 64: 1.3, 1024: 2}

func durableLines(sc lab.Scale) []lab.Line {
	var all []lab.Line
	for _, n := range sc.Accounts {
		latency := ""
		if n == lab.Largest(sc.Accounts) {
			latency = "Latency of many senders"
		}
		all = append(all, lab.Line{
			Name: fmt.Sprintf("durable/senders=%d/accounts=%d", sc.Crowd, n), Unit: "messages/s", Against: sequential, Notes: boundNotes,
			Chart: "Durable messages over accounts", X: float64(n), Latency: latency, Prepare: durable(n, sc.Crowd, sequenceLog),
		})
	}
	for _, n := range sc.Senders {
		l := lab.Line{
			Name: fmt.Sprintf("durable/pebble/senders=%d", n), Unit: "messages/s", Against: batchPerSend, Notes: pebbleNotes,
			Goal: lab.Goal{AtLeast: pebbleGoals[n]}, Chart: "Durable messages over senders", X: float64(n),
			Prepare: durable(sc.Peer, n, pebbleBatches),
		}
		if n == sc.Crowd {
			l.Headline = fmt.Sprintf("messages/s on disk, %d senders, %d accounts", n, sc.Peer)
		}
		all = append(all, l)
	}
	middle := sc.Accounts[len(sc.Accounts)/2]
	return append(all,
		lab.Line{
			Name: fmt.Sprintf("durable/pebble-committer/senders=%d", sc.Crowd), Unit: "messages/s", Against: oneCommitter,
			Notes: committerNotes, Prepare: durable(sc.Peer, sc.Crowd, pebbleCommitter),
		},
		lab.Line{
			Name: "durable/against-file", Unit: "messages/s", Against: "append and fdatasync",
			Notes: "The same work against a plain file, with what is looked up in memory: one write and one fdatasync for all that " +
				"waits, 640 B each.",
			Prepare: durable(middle, sc.Crowd, fileLog),
		},
		lab.Line{
			Name: "durable/against-a-day", Unit: "messages/s", Against: "bbolt bucket per account", Goal: lab.AtLeast(5),
			Notes: "The same against what is written in a day: a bucket for each account, the payload in both inboxes, bbolt's own " +
				"batches. Its file begins empty.",
			Prepare: againstADay(middle, sc.Crowd),
		})
}

// durable compares sends to a file that has the accounts with a reference.
func durable(accounts, senders int, open openReference) func(*lab.Scene) (lab.Run, lab.Run, error) {
	return func(s *lab.Scene) (lab.Run, lab.Run, error) {
		r, err := open.filled(s, accounts, 0)
		if err != nil {
			return nil, nil, err
		}
		e, t, err := filledFile(s, accounts)
		if err != nil {
			return nil, nil, err
		}
		if senders == 1 {
			our, other := lab.Pairs(s.Scale.Ops, time.Second, func(int) error { return t.Send(s.Context(), e) },
				func(int) error { return r.send() })
			return perSecond(our), perSecond(other), nil
		}
		return trafficRun(s, e, t, senders), sends(s, senders, func(context.Context) error { return r.send() }, r.rest), nil
	}
}

// perSecond makes a rate of a run that measures how long one operation takes.
func perSecond(run lab.Run) lab.Run {
	return func() (lab.Sample, error) {
		sample, err := run()
		sample.Value = 1 / sample.Value
		return sample, err
	}
}

func againstADay(accounts, senders int) func(*lab.Scene) (lab.Run, lab.Run, error) {
	return func(s *lab.Scene) (lab.Run, lab.Run, error) {
		d, err := day.NewDurable(s)
		if err != nil {
			return nil, nil, err
		}
		payload := ours.Payload(ours.PayloadBytes)
		var sent atomic.Uint64
		send := func(context.Context) error {
			n := sent.Add(1)
			from := ours.Scatter(n, accounts)
			return d.Send(account(from), account(from^1), strconv.FormatUint(n, 36), payload)
		}
		e, t, err := filledFile(s, accounts)
		if err != nil {
			return nil, nil, err
		}
		return trafficRun(s, e, t, senders), sends(s, senders, send, func() error { return nil }), nil
	}
}

func trafficRun(s *lab.Scene, e *ours.Engine, t *ours.Traffic, senders int) lab.Run {
	return sends(s, senders, func(ctx context.Context) error { return t.Send(ctx, e) },
		func() error { return ours.Rest(s.Context(), e.Store) })
}

// sends returns a run of senders. What they leave to be done in the background is done before the other side's turn, and is not
// counted: see sustainedLines.
func sends(s *lab.Scene, senders int, send func(context.Context) error, rest func() error) lab.Run {
	return func() (lab.Sample, error) {
		sample, err := lab.Load{
			Workers: senders, Warm: s.Scale.Warm, Time: s.Scale.Time,
			Op: func(int, int) (int, error) { return 1, send(s.Context()) },
		}.Run(s.Context())
		if err != nil {
			return sample, err
		}
		return sample, rest()
	}
}

// filledFile opens a new file in which each account has an entry, and makes traffic for it. When the scene ends, all of what was
// sent must be there.
func filledFile(s *lab.Scene, accounts int) (*ours.Engine, *ours.Traffic, error) {
	cfg, err := ours.Config()
	if err != nil {
		return nil, nil, err
	}
	e, err := ours.File(s, cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := ours.Fill(s.Context(), e.Store, accounts, 1, make([]byte, 16)); err != nil {
		return nil, nil, err
	}
	t := ours.NewTraffic(accounts, ours.Payload(ours.PayloadBytes))
	s.Cleanup(func() error { return allThere(e.Store, accounts, accounts+2*t.Sent()) })
	return e, t, nil
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

func latencyLines(sc lab.Scale) []lab.Line {
	n := sc.Accounts[len(sc.Accounts)/2]
	return []lab.Line{{
		Name: "latency/senders=1", Unit: "µs p50", Against: "one commit of bbolt", Goal: lab.AtMost(1.15),
		Latency: "Latency of one sender", Headline: "time until one message is on disk, one sender",
		Notes: fmt.Sprintf("One sender, %d accounts, 512 B; against one put of 640 B and its commit. The two sides take turns operation "+
			"by operation.", n),
		Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
			e, t, err := filledFile(s, n)
			if err != nil {
				return nil, nil, err
			}
			q, err := raw.NewSequence(s)
			if err != nil {
				return nil, nil, err
			}
			record := make([]byte, raw.RecordBytes)
			a, b := lab.Pairs(s.Scale.Ops, time.Microsecond, func(int) error { return t.Send(s.Context(), e) },
				func(int) error { return q.Put(record) })
			return a, b, nil
		},
	}}
}
