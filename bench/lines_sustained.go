package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
)

// sustainedLines are for what a store puts off: it flushes and compacts later, and a short run ends before that. Here a run is over
// when nothing is left to be done, and that time counts, too.
func sustainedLines(sc lab.Scale) []lab.Line {
	all := sustained(sc, sc.Peer)
	if n := lab.Largest(sc.Accounts); n != sc.Peer {
		all = append(all, sustained(sc, n)[:2]...)
	}
	return all
}

// sustained returns the lines for a number of accounts. They share the runs of our side, since one takes a minute.
func sustained(sc lab.Scale, accounts int) []lab.Line {
	name := fmt.Sprintf("senders=%d/accounts=%d", sc.Crowd, accounts)
	var shared sharedRuns
	against := func(name, against string, goal lab.Goal, open openReference, notes string) lab.Line {
		return lab.Line{
			Name: name, Unit: "messages/s", Against: against, Goal: goal, Notes: notes,
			Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
				our := shared.run(s.Fresh(func(s *lab.Scene) (lab.Sample, error) { return ourSustained(s, accounts) }))
				return our, s.Fresh(func(s *lab.Scene) (lab.Sample, error) { return sustainedOn(s, accounts, open) }), nil
			},
		}
	}
	ordered := against("sustained/"+name, "keys ordered by account", lab.AtLeast(2.5), orderedKeys,
		fmt.Sprintf("Messages as in the durable lines for %v, over that time and the time until nothing is left to be done in the "+
			"background: for ours until it is closed. Against the same rows in bbolt under keys ordered by account, looked up, counted "+
			"and written in the same commits. Each run has a new file. Memtables and caches may take %s.", sc.Long, memoryOf(sc)))
	ordered.Latency = "Latency under sustained load"
	if accounts == lab.Largest(sc.Accounts) && accounts != sc.Peer {
		ordered.Latency = "Latency under sustained load, many accounts"
	}
	tail := lab.Line{
		Name: "sustained/tail/" + name, Unit: "ms p99.9", Against: "its own p50", Goal: lab.AtMost(4),
		Notes: "Latency of the sends in the runs of ours of the line above.",
		Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
			run := shared.run(s.Fresh(func(s *lab.Scene) (lab.Sample, error) { return ourSustained(s, accounts) }))
			var p50 lab.Sample
			return func() (lab.Sample, error) {
				sample, err := run()
				latencies := slices.Clone(sample.Latencies)
				p50.Value = lab.In(lab.Quantile(latencies, 0.5), time.Millisecond)
				return lab.Sample{Value: lab.In(lab.Quantile(latencies, 0.999), time.Millisecond)}, err
			}, func() (lab.Sample, error) { return p50, nil }, nil
		},
	}
	return []lab.Line{
		ordered, tail,
		against("sustained/pebble/"+name, batchPerSend, lab.Goal{}, pebbleBatches,
			"The runs of ours of the line above, against a store on pebble with a batch per send, over the time until it has flushed and "+
				"no compaction is left."),
		against("sustained/pebble-committer/"+name, oneCommitter, lab.Goal{}, pebbleCommitter,
			"The same, but one goroutine makes one batch of up to 512 sends that wait."),
	}
}

func memoryOf(sc lab.Scale) string {
	if sc.Memory == 0 {
		return "what they take by themselves"
	}
	return fmt.Sprintf("%d MiB", sc.Memory>>20)
}

// sharedRuns lets lines that are measured one after another have the same runs of one side: the i-th run of each line is the
// same, measured by the line that comes first.
type sharedRuns struct{ samples []lab.Sample }

func (r *sharedRuns) run(measure lab.Run) lab.Run {
	i := 0
	return func() (lab.Sample, error) {
		if i == len(r.samples) {
			sample, err := measure()
			if err != nil {
				return sample, err
			}
			r.samples = append(r.samples, sample)
		}
		i++
		return r.samples[i-1], nil
	}
}

// ourSustained sends to a new file until it is closed. All must be there when it is opened again.
func ourSustained(s *lab.Scene, accounts int) (lab.Sample, error) {
	path, err := s.File()
	if err != nil {
		return lab.Sample{}, err
	}
	ctx := s.Context()
	if err := ours.FillFile(ctx, path, accounts, 1, make([]byte, 16)); err != nil {
		return lab.Sample{}, err
	}
	cfg, err := ours.Config()
	if err != nil {
		return lab.Sample{}, err
	}
	e, err := ours.OpenFileWith(s, path, s.Scale.Memory, cfg)
	if err != nil {
		return lab.Sample{}, err
	}
	t := ours.NewTraffic(accounts, ours.Payload(ours.PayloadBytes))
	sample, err := longLoad(s, func() error { return t.Send(ctx, e) }).RunAndPay(ctx, func() error { return e.PayOff(ctx) })
	if err != nil {
		return sample, err
	}
	st, err := ours.OpenStore(path, 0)
	if err != nil {
		return sample, err
	}
	return sample, errors.Join(allThere(st, accounts, accounts+2*t.Sent()), st.Close(ctx))
}

func sustainedOn(s *lab.Scene, accounts int, open openReference) (lab.Sample, error) {
	r, err := open.filled(s, accounts, s.Scale.Memory)
	if err != nil {
		return lab.Sample{}, err
	}
	return longLoad(s, r.send).RunAndPay(s.Context(), r.pay)
}

func longLoad(s *lab.Scene, send func() error) lab.Load {
	return lab.Load{
		Workers: s.Scale.Crowd, Time: s.Scale.Long, Op: func(int, int) (int, error) { return 1, send() },
	}
}
