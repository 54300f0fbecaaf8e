package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

const (
	policyBudget   = 300 // ns
	loginsAtOnce   = 256
	loginsOfOne    = 16
	eventsOfALogin = 600 // bytes of the entries for the account's other devices: one came, one went
	endsOfOne      = 64  // logins that have ended and that an account remembers: from then on its record stays as long as it is
)

func policyLines(lab.Scale) []lab.Line {
	return []lab.Line{{
		Name: "policy/logins=16/rules=6", Unit: "ns", Against: "budget", Goal: lab.AtMost(1),
		Notes:   "One decision that evicts, among 16 logins under six rules. An allocation fails the line.",
		Prepare: func(*lab.Scene) (lab.Run, lab.Run, error) { return decide, lab.Constant(policyBudget), nil },
	}}
}

func decide() (lab.Sample, error) {
	p, err := policy.New(policy.Rules{
		PerPlatform: 6, Total: 16, AtTotal: policy.EvictLeastActive,
		Groups: []policy.Group{
			{Name: "phones", Members: []string{"ios", "android"}, Limit: 11},
			{Name: "screens", Members: []string{"ios", "web"}, Limit: 11},
		},
	})
	if err != nil {
		return lab.Sample{}, err
	}
	platforms := []event.Platform{"ios", "web", "android"}
	logins := make([]policy.Login, loginsOfOne)
	for i := range logins {
		logins[i] = policy.Login{
			ID: event.LoginID(fmt.Sprintf("%032d", i)), Device: event.DeviceID(fmt.Sprint("d", i)),
			Platform: platforms[i%len(platforms)], Admission: uint64(i + 1), Holds: true,
		}
	}
	in := policy.Newcomer{Device: "new", Platform: "ios"}
	victims := make([]policy.Victim, 0, loginsOfOne)
	var decision policy.Decision
	once := func() {
		decision = p.Decide(logins, in, time.Time{}, victims)
		victims = decision.Victims
	}
	if once(); decision.Verdict != policy.Admit || len(decision.Victims) == 0 {
		return lab.Sample{}, fmt.Errorf("not a decision that evicts: %+v", decision)
	}
	if n := testing.AllocsPerRun(100, once); n != 0 {
		return lab.Sample{}, fmt.Errorf("%g allocations", n)
	}
	const batches, many = 101, 500 // batches so short that most are not interrupted
	each := make([]float64, batches)
	for i := range each {
		from := time.Now()
		for range many {
			once()
		}
		each[i] = float64(time.Since(from)) / many
	}
	return lab.Sample{Value: lab.Median(each)}, nil
}

func loginLines(lab.Scale) []lab.Line {
	return []lab.Line{{
		Name: "login/evicting/at-once=256", Unit: "logins/s", Against: "sequential puts on bbolt", Goal: lab.AtLeast(0.3),
		Notes: "256 accounts that are full at 16 logins and remember 64 that have ended; each login evicts the earliest, writes the account's " +
			"record and two entries for its other devices, and is answered when that is durable. Against as many bytes put in sequence " +
			"by as many callers.",
		Prepare: evictingLogins, Latency: "Latency of an evicting login",
	}}
}

func evictingLogins(s *lab.Scene) (lab.Run, lab.Run, error) {
	cfg, err := ours.Config()
	if err != nil {
		return nil, nil, err
	}
	e, err := ours.File(s, cfg)
	if err != nil {
		return nil, nil, err
	}
	ctx := s.Context()
	callers := min(loginsAtOnce, s.Scale.Crowd)
	var group errgroup.Group
	for w := range callers {
		group.Go(func() error {
			for i := range loginsOfOne + endsOfOne {
				if _, err := e.Login(ctx, ours.Account(w), i%(loginsOfOne+1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	record, err := e.Store.Load(ctx, ours.Account(0))
	if err != nil {
		return nil, nil, err
	}
	seq, err := raw.NewSequence(s)
	if err != nil {
		return nil, nil, err
	}
	value := make([]byte, len(record.Data)+eventsOfALogin)
	next := make([]int, callers) // devices come in turns, 17 of them for 16 places
	load := func(op func(w int) error) lab.Run {
		return func() (lab.Sample, error) {
			return lab.Load{
				Workers: callers, Warm: s.Scale.Warm, Time: s.Scale.Time,
				Op: func(w, _ int) (int, error) { return 1, op(w) },
			}.Run(ctx)
		}
	}
	return load(func(w int) error {
			i := loginsOfOne + endsOfOne + next[w]
			next[w]++
			res, err := e.Login(ctx, ours.Account(w), i%(loginsOfOne+1))
			if err != nil {
				return err
			}
			return evicted(res)
		}),
		load(func(int) error { return seq.Put(value) }), nil
}

func evicted(res *session.LoginResult) error {
	if len(res.Victims) != 1 {
		return errors.New("login evicted nobody")
	}
	return nil
}
