package main

import (
	"context"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/bench/internal/day"
	"github.com/manydevice/manydevice/bench/internal/fuge"
	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

const (
	centrifuge = "Centrifuge"
	// liveKept is how many messages of an account both sides keep for devices that come back.
	liveKept = 256

	liveNotes = "512 B to every device of one account after another, in rounds; a round is over when all of it has arrived. " +
		"Both sides keep the last 256 messages of an account in memory and encode each message once. Ours also takes an " +
		"acknowledgement from each device, moves its cursor and gives exactly-once after a reconnect; Centrifuge takes none. " +
		"Neither side has a socket."
)

// fanOut is a way to bring a message to all devices of an account.
type fanOut struct {
	send    func(ctx context.Context, account int) error
	pending []*lab.Pending // one for each sender: accounts are dealt out to senders in turns
}

// makeFanOut builds one with its devices.
type makeFanOut func(s *lab.Scene, accounts, devices, senders int) (*fanOut, error)

func liveLines(sc lab.Scale) []lab.Line {
	var all []lab.Line
	for _, n := range sc.Devices {
		headline := ""
		if n == 4 {
			headline = "deliveries/s, 512 B to 4 devices, in memory, acknowledged"
		}
		all = append(all, lab.Line{
			Name: fmt.Sprintf("live/devices=%d", n), Unit: "deliveries/s", Against: "Centrifuge with history", Goal: lab.AtLeast(10),
			Notes: liveNotes, Chart: "Live deliveries over devices", X: float64(n), Headline: headline,
			Prepare: live(n, 1, ourFanOut, fugeFanOut(liveKept)),
		})
	}
	four := func(name, against string, senders int, goal lab.Goal, notes string, other makeFanOut) lab.Line {
		return lab.Line{
			Name: name, Unit: "deliveries/s", Against: against, Goal: goal, Notes: notes, Prepare: live(4, senders, ourFanOut, other),
		}
	}
	return append(all,
		four("live/senders=2", "Centrifuge with history", 2, lab.AtLeast(10), "As live/devices=4, with two senders.",
			fugeFanOut(liveKept)),
		four("live/against-no-history", "Centrifuge without history", 1, lab.AtLeast(10),
			"As live/devices=4, but Centrifuge keeps nothing, so that what a device misses is lost; ours keeps all it promises.",
			fugeFanOut(0)),
		four("live/against-a-day", "map, goroutine and channel", 1, lab.AtLeast(1),
			"As live/devices=4, against what is written in a day: a map under a lock, and for each connection a channel and a "+
				"goroutine that counts. It numbers nothing, keeps nothing, encodes nothing and resumes nothing.", dayFanOut),
		lab.Line{
			Name: "live/blocked-sibling", Unit: "µs p99", Against: "ours, no sibling blocked", Goal: lab.AtMost(1.1),
			Notes: "Time from the send until three devices have a message of 512 B, 99th percentile, while a fourth device of the " +
				"account takes nothing; against the same while it takes everything.",
			Prepare: blockedSibling, Latency: "Latency beside a blocked sibling",
		},
	)
}

func live(devices, senders int, our, other makeFanOut) func(*lab.Scene) (lab.Run, lab.Run, error) {
	return func(s *lab.Scene) (lab.Run, lab.Run, error) {
		run := func(build makeFanOut) lab.Run {
			return s.Fresh(func(s *lab.Scene) (lab.Sample, error) {
				// The same number of connections on every line, so that only their grouping differs.
				accounts := max(s.Scale.Live*4/devices, senders)
				f, err := build(s, accounts, devices, senders)
				if err != nil {
					return lab.Sample{}, err
				}
				return f.run(s, accounts, devices, senders)
			})
		}
		return run(our), run(other), nil
	}
}

// run has each sender go through its accounts again and again.
func (f *fanOut) run(s *lab.Scene, accounts, devices, senders int) (lab.Sample, error) {
	ctx := s.Context()
	sent := make([]int64, senders)
	const round = 256
	sample, err := lab.Load{
		Workers: senders, Warm: s.Scale.Warm, Time: s.Scale.Time,
		Op: func(w, i int) (int, error) {
			p := f.pending[w]
			for j := range round {
				p.Begin(devices)
				account := w + (i*round+j)%(accounts/senders)*senders
				if err := f.send(ctx, account); err != nil {
					return 0, err
				}
			}
			sent[w] += round
			return round * devices, p.Wait(ctx)
		},
	}.Run(ctx)
	if err != nil {
		return sample, err
	}
	sample.Latencies = nil // they are those of rounds
	for w, p := range f.pending {
		if got, want := p.Arrived(), sent[w]*int64(devices); got != want {
			return sample, fmt.Errorf("sender %d: %d deliveries, want %d", w, got, want)
		}
	}
	return sample, nil
}

func newPending(n int) []*lab.Pending {
	all := make([]*lab.Pending, n)
	for i := range all {
		all[i] = lab.NewPending()
	}
	return all
}

func ourFanOut(s *lab.Scene, accounts, devices, senders int) (*fanOut, error) {
	cfg, err := ours.Config()
	if err != nil {
		return nil, err
	}
	cfg.Fanout.MaxEntries, cfg.Fanout.TrimInterval = liveKept, time.Second
	e, err := ours.Memory(s, cfg)
	if err != nil {
		return nil, err
	}
	f := &fanOut{pending: newPending(senders)}
	for i := range accounts {
		each := func(_ int, d *ours.Device) { d.Pending = f.pending[i%senders] }
		if _, err := e.Devices(s.Context(), ours.Account(i), devices, each); err != nil {
			return nil, err
		}
	}
	names := make([][]event.Account, accounts)
	for i := range names {
		names[i] = []event.Account{ours.Account(i)}
	}
	payload := ours.Payload(ours.PayloadBytes)
	f.send = func(ctx context.Context, account int) error {
		_, err := e.Router.Send(ctx, fanout.SendRequest{
			From: "host", To: names[account], NoSenderCopy: true, Receipts: fanout.ReceiptsOff, Payload: payload,
		})
		return err
	}
	return f, nil
}

func fugeFanOut(history int) makeFanOut {
	return func(s *lab.Scene, accounts, devices, senders int) (*fanOut, error) {
		node, err := fuge.NewNode(s, history)
		if err != nil {
			return nil, err
		}
		f := &fanOut{pending: newPending(senders)}
		names := make([]string, accounts)
		for i := range names {
			names[i] = string(ours.Account(i))
			for range devices {
				t := &fuge.Transport{Pending: f.pending[i%senders]}
				c, err := node.Connect(fuge.User(s.Context(), names[i]), t)
				if err != nil {
					return nil, err
				}
				s.Cleanup(c.Close)
			}
		}
		payload := ours.Payload(ours.PayloadBytes)
		f.send = func(_ context.Context, account int) error { return node.Publish(names[account], payload) }
		return f, nil
	}
}

func dayFanOut(s *lab.Scene, accounts, devices, senders int) (*fanOut, error) {
	l := day.NewLive()
	s.Cleanup(l.Close)
	f := &fanOut{pending: newPending(senders)}
	names := make([]string, accounts)
	for i := range names {
		names[i] = string(ours.Account(i))
		for range devices {
			l.Connect(names[i], f.pending[i%senders])
		}
	}
	payload := ours.Payload(ours.PayloadBytes)
	f.send = func(ctx context.Context, account int) error { return l.Send(ctx, names[account], payload) }
	return f, nil
}

func blockedSibling(s *lab.Scene) (lab.Run, lab.Run, error) {
	run := func(block bool) lab.Run {
		return s.Fresh(func(s *lab.Scene) (lab.Sample, error) { return siblings(s, block) })
	}
	return run(true), run(false), nil
}

// siblings measures how long three devices wait for a message, with a fourth that takes nothing or takes everything.
func siblings(s *lab.Scene, block bool) (lab.Sample, error) {
	cfg, err := ours.Config()
	if err != nil {
		return lab.Sample{}, err
	}
	e, err := ours.Memory(s, cfg)
	if err != nil {
		return lab.Sample{}, err
	}
	const free = 3
	arrived := lab.NewPending()
	gate := make(chan struct{})
	s.Cleanup(func() error {
		close(gate)
		return nil
	})
	_, err = e.Devices(s.Context(), "ann", free+1, func(i int, d *ours.Device) {
		if i < free {
			d.Pending = arrived
		} else if block {
			d.Block = gate
		}
	})
	if err != nil {
		return lab.Sample{}, err
	}
	q := fanout.SendRequest{
		From: "host", To: []event.Account{"ann"}, NoSenderCopy: true, Receipts: fanout.ReceiptsOff, Payload: ours.Payload(ours.PayloadBytes),
	}
	sample, err := lab.Timed(s.Scale.Ops*10, time.Microsecond, func(int) error {
		arrived.Begin(free)
		if _, err := e.Router.Send(s.Context(), q); err != nil {
			return err
		}
		return arrived.Wait(s.Context())
	})
	sample.Value = lab.In(lab.Quantile(sample.Latencies, 0.99), time.Microsecond)
	return sample, err
}
