package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Load repeats an operation with several workers for a while.
type Load struct {
	Workers    int
	Warm, Time time.Duration // at least; see Run
	// Op does the i-th operation of a worker, and returns how much that is: 1, or the deliveries that it led to.
	Op func(worker, i int) (int, error)
}

const (
	kept   = 1 << 16 // bounds the latencies that all workers of a load keep together
	tick   = time.Millisecond
	maxRun = 2 * time.Minute // that a load may take to get its operations done
)

// RunAndPay runs a load from its first operation on, then calls pay, which does what the operations have left to be done later. It
// returns how much was done per second of the whole time. Warm counts as Time does.
func (l Load) RunAndPay(ctx context.Context, pay func() error) (Sample, error) {
	var amount atomic.Int64
	op := l.Op
	l.Op = func(worker, i int) (int, error) {
		n, err := op(worker, i)
		amount.Add(int64(n))
		return n, err
	}
	l.Time, l.Warm = l.Time+l.Warm, 0
	from := time.Now()
	s, err := l.Run(ctx)
	if err == nil {
		err = pay()
	}
	s.Value = float64(amount.Load()) / time.Since(from).Seconds()
	return s, err
}

// progress is what the workers of a load share.
type progress struct {
	ops, amount atomic.Int64
	counting    atomic.Bool
	stop        atomic.Bool
}

// Run returns how much was done per second of the counted time, and latencies of operations that ended in it. The load is
// warm, and has been counted for long enough, not before there were as many operations as workers: so slow ones that go on
// side by side are neither missed nor counted as if they had begun and ended within it.
func (l Load) Run(ctx context.Context) (Sample, error) {
	var wg sync.WaitGroup
	var p progress
	errs := make([]error, l.Workers)
	latencies := make([][]time.Duration, l.Workers)
	for w := range l.Workers {
		wg.Go(func() { latencies[w], errs[w] = l.work(ctx, w, &p) })
	}
	_, err := p.pass(ctx, l.Workers, l.Warm)
	p.counting.Store(true)
	s := Sample{}
	if err == nil {
		s.Value, err = p.pass(ctx, l.Workers, l.Time)
	}
	p.stop.Store(true)
	wg.Wait()
	for _, mine := range latencies {
		s.Latencies = append(s.Latencies, mine...)
	}
	return s, errors.Join(append(errs, err)...)
}

// pass lets time and operations pass, and returns what was done per second.
func (p *progress) pass(ctx context.Context, ops int, d time.Duration) (float64, error) {
	from, done, amount := time.Now(), p.ops.Load(), p.amount.Load()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		took := time.Since(from)
		if p.stop.Load() || took > maxRun {
			return 0, fmt.Errorf("stopped after %v with %d of %d operations", took, p.ops.Load()-done, ops)
		}
		if took >= d && p.ops.Load()-done >= int64(ops) {
			return float64(p.amount.Load()-amount) / took.Seconds(), nil
		}
	}
}

func (l Load) work(ctx context.Context, w int, p *progress) ([]time.Duration, error) {
	room := max(kept/l.Workers, 1)
	var mine []time.Duration
	counted := 0
	for i := 0; !p.stop.Load() && ctx.Err() == nil; i++ {
		from := time.Now()
		n, err := l.Op(w, i)
		if err != nil {
			p.stop.Store(true)
			return nil, err
		}
		took := time.Since(from)
		p.amount.Add(int64(n))
		p.ops.Add(1)
		if !p.counting.Load() {
			continue
		}
		counted++
		if len(mine) < room {
			mine = append(mine, took)
		} else if j := rand.IntN(counted); j < room { // each one is kept with the same chance, whenever it came
			mine[j] = took
		}
	}
	return mine, nil
}

// Timed does an operation n times and returns the median of its latency, in the given unit, with all of them.
func Timed(n int, unit time.Duration, op func(i int) error) (Sample, error) {
	s := Sample{Latencies: make([]time.Duration, 0, n)}
	for i := range n {
		from := time.Now()
		if err := op(i); err != nil {
			return Sample{}, err
		}
		s.Latencies = append(s.Latencies, time.Since(from))
	}
	s.Value = In(Quantile(s.Latencies, 0.5), unit)
	return s, nil
}

// In returns a time in a unit.
func In(d, unit time.Duration) float64 { return float64(d) / float64(unit) }

// Pairs returns two runs that are measured together, operation by operation in turns, so that what the disk does meanwhile
// meets both alike. The first run does the work of both, so it must be called first.
func Pairs(n int, unit time.Duration, ours, reference func(i int) error) (Run, Run) {
	var second Sample
	first := func() (Sample, error) {
		var a Sample
		second = Sample{}
		for i := range n {
			t0 := time.Now()
			if err := ours(i); err != nil {
				return Sample{}, err
			}
			t1 := time.Now()
			if err := reference(i); err != nil {
				return Sample{}, err
			}
			a.Latencies = append(a.Latencies, t1.Sub(t0))
			second.Latencies = append(second.Latencies, time.Since(t1))
		}
		a.Value = In(Quantile(a.Latencies, 0.5), unit)
		second.Value = In(Quantile(second.Latencies, 0.5), unit)
		return a, nil
	}
	return first, func() (Sample, error) { return second, nil }
}

// Pending counts what was begun and has not arrived. It is made by NewPending.
type Pending struct {
	left    atomic.Int64
	arrived atomic.Int64
	zero    chan struct{}
}

// NewPending returns a Pending that waits for nothing.
func NewPending() *Pending { return &Pending{zero: make(chan struct{}, 1)} }

// Begin adds n things that have to arrive. It comes before they can.
func (p *Pending) Begin(n int) { p.left.Add(int64(n)) }

// Arrive takes n of them off.
func (p *Pending) Arrive(n int) {
	p.arrived.Add(int64(n))
	if p.left.Add(-int64(n)) == 0 {
		select {
		case p.zero <- struct{}{}:
		default:
		}
	}
}

// Arrived is how many have arrived so far.
func (p *Pending) Arrived() int64 { return p.arrived.Load() }

// Wait returns when everything has arrived. More than was begun is an error, and so is a wait of longer than 30 s.
func (p *Pending) Wait(ctx context.Context) error {
	var late <-chan time.Time
	for {
		left := p.left.Load()
		if left == 0 {
			return nil
		}
		if left < 0 {
			return fmt.Errorf("%d more arrived than were sent", -left)
		}
		if late == nil {
			t := time.NewTimer(30 * time.Second)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-p.zero:
		case <-late:
			return fmt.Errorf("%d did not arrive within 30 s", p.left.Load())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
