package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Runner runs lines one after another.
type Runner struct {
	scale Scale
	suite *suite
	dir   string
}

// NewRunner returns a runner whose files are in a new folder below parent; empty means the system's place for them.
func NewRunner(scale Scale, parent string) (*Runner, error) {
	dir, err := os.MkdirTemp(parent, "manydevice-bench-")
	if err != nil {
		return nil, err
	}
	return &Runner{scale: scale, dir: dir, suite: &suite{dir: filepath.Join(dir, "once"), made: make(map[string]error)}}, nil
}

// Dir is the folder with all files of the runner.
func (r *Runner) Dir() string { return r.dir }

// Close removes all files.
func (r *Runner) Close() error { return os.RemoveAll(r.dir) }

// Scene returns a scene of the runner's scale. The caller closes it.
func (r *Runner) Scene(ctx context.Context) *Scene {
	return &Scene{Scale: r.scale, ctx: ctx, root: r.dir, suite: r.suite}
}

// Run measures a line: ours, the reference, ours, the reference, …
func (r *Runner) Run(ctx context.Context, l Line) (res Result, err error) {
	res.Line = l
	from := time.Now()
	s := r.Scene(ctx)
	defer func() {
		err = errors.Join(err, s.Close())
		settle()
		res.Took = time.Since(from)
	}()
	ours, reference, err := l.Prepare(s)
	if err != nil {
		return res, fmt.Errorf("%s: prepare: %w", l.Name, err)
	}
	for range r.scale.Runs {
		a, err := measure(ours)
		if err != nil {
			return res, fmt.Errorf("%s: ours: %w", l.Name, err)
		}
		b, err := measure(reference)
		if err != nil {
			return res, fmt.Errorf("%s: %s: %w", l.Name, l.Against, err)
		}
		ratio := l.Goal.ratio(a.Value, b.Value)
		if math.IsNaN(ratio) || math.IsInf(ratio, 0) {
			return res, fmt.Errorf("%s: %g against %g has no ratio", l.Name, a.Value, b.Value)
		}
		res.Ours, res.Reference, res.Ratios = append(res.Ours, a), append(res.Reference, b), append(res.Ratios, ratio)
	}
	return res, nil
}

func measure(run Run) (Sample, error) {
	settle()
	return run()
}

// settle lets each run begin without the garbage of the one before.
func settle() { InUse() }

// Memory is what a process uses after collection.
type Memory struct{ Heap, Stacks uint64 }

// InUse returns what is in use once that has come to rest: goroutines end and pools are given up a while after what needed
// them. It waits 2 s at most.
func InUse() Memory {
	const (
		pause  = 10 * time.Millisecond
		rounds = 200
		alike  = 1000 // parts of the whole that two readings may be apart by one
	)
	var last Memory
	calm := 0
	for range rounds {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		now := Memory{Heap: m.HeapAlloc, Stacks: m.StackInuse}
		if now.Heap+now.Heap/alike >= last.Heap && last.Heap+last.Heap/alike >= now.Heap {
			if calm++; calm == 3 {
				return now
			}
		} else {
			calm = 0
		}
		last = now
		time.Sleep(pause)
	}
	return last
}

// Since is how much more is in use than before. Stacks that the runtime has given back meanwhile make up for no heap.
func (m Memory) Since(before Memory) int {
	return int(m.Heap) - int(before.Heap) + max(int(m.Stacks)-int(before.Stacks), 0)
}
