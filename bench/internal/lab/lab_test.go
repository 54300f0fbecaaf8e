package lab_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

// counting returns a line whose sides return the given values, one after another.
func counting(goal lab.Goal, ours, reference []float64) lab.Line {
	side := func(values []float64) lab.Run {
		i := -1
		return func() (lab.Sample, error) {
			i++
			return lab.Sample{Value: values[i], Latencies: []time.Duration{time.Millisecond, 3 * time.Millisecond}}, nil
		}
	}
	return lab.Line{
		Name: "a/b=1", Unit: "things/s", Against: "other", Goal: goal, Notes: "Why.", Chart: "Things over b", X: 1, Latency: "Latency of b", Headline: "things",
		Prepare: func(*lab.Scene) (lab.Run, lab.Run, error) { return side(ours), side(reference), nil },
	}
}

func newRunner(t *testing.T, runs int) *lab.Runner {
	scale := lab.Smoke()
	scale.Runs = runs
	r, err := lab.NewRunner(scale, t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func TestRunner_RatioOfPairs(t *testing.T) {
	r := newRunner(t, 3)
	res, err := r.Run(t.Context(), counting(lab.AtLeast(2), []float64{10, 30, 20}, []float64{10, 10, 5}))
	require.NoError(t, err)
	ours, reference := res.Values()
	require.Equal(t, []float64{20, 10}, []float64{ours, reference})
	require.Equal(t, []float64{1, 3, 4}, res.Ratios)
	require.InDelta(t, 3, res.Ratio(), 0, "the median of the pairs, not the ratio of the medians")
	require.True(t, res.Met())
}

func TestRunner_Errors(t *testing.T) {
	r := newRunner(t, 1)
	_, err := r.Run(t.Context(), counting(lab.AtLeast(1), []float64{0}, []float64{0}))
	require.ErrorContains(t, err, "no ratio")
	broken := errors.New("broken")
	_, err = r.Run(t.Context(), lab.Line{Name: "x", Prepare: func(s *lab.Scene) (lab.Run, lab.Run, error) {
		s.Cleanup(func() error { return broken }) // such as a count that is wrong at the end
		return lab.Constant(1), lab.Constant(1), nil
	}})
	require.ErrorIs(t, err, broken)
}

func TestGoal(t *testing.T) {
	tests := []struct {
		goal    lab.Goal
		text    string
		met, no float64
	}{
		{lab.AtLeast(10), ">=10", 10, 9.9},
		{lab.AtMost(1.5), "<=1.5", 1.5, 1.6},
		{lab.AtMostMore(3), "<=+3", -1, 3.1},
	}
	require.Equal(t, "none", lab.Goal{}.String())
	require.True(t, lab.Goal{}.Met(7), "for information")
	for _, tt := range tests {
		require.Equal(t, tt.text, tt.goal.String())
		require.True(t, tt.goal.Met(tt.met), tt.text)
		require.False(t, tt.goal.Met(tt.no), tt.text)
	}
	r := newRunner(t, 1)
	res, err := r.Run(t.Context(), counting(lab.AtMostMore(3), []float64{5}, []float64{4}))
	require.NoError(t, err)
	require.InDelta(t, 1, res.Ratio(), 0, "a difference")
}

func TestMedianAndQuantile(t *testing.T) {
	require.Zero(t, lab.Median(nil))
	require.InDelta(t, 2, lab.Median([]float64{3, 1, 2}), 0)
	require.InDelta(t, 2.5, lab.Median([]float64{4, 1, 2, 3}), 0)
	require.Zero(t, lab.Quantile(nil, 0.5))
	all := []time.Duration{5, 1, 4, 2, 3}
	require.Equal(t, time.Duration(3), lab.Quantile(all, 0.5))
	require.Equal(t, time.Duration(5), lab.Quantile(all, 1))
}

func TestLoad_CountsNoLessThanOneOperationOfEachWorker(t *testing.T) {
	const op = 100 * time.Millisecond
	var done atomic.Int64
	s, err := lab.Load{Workers: 8, Warm: time.Millisecond, Time: time.Millisecond, Op: func(int, int) (int, error) {
		time.Sleep(op) // longer than the counted time
		done.Add(1)
		return 2, nil
	}}.Run(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, done.Load(), int64(16), "warm, then counted")
	require.Positive(t, s.Value)
	require.Less(t, s.Value, 5*2*8/op.Seconds(), "a window of 1 ms would have 100 times what eight workers can do")
	require.NotEmpty(t, s.Latencies)
	require.GreaterOrEqual(t, lab.Quantile(s.Latencies, 0), op)
}

func TestLoad_RunAndPay(t *testing.T) {
	const pay = 50 * time.Millisecond
	var done atomic.Int64
	load := lab.Load{Workers: 2, Time: time.Millisecond, Op: func(int, int) (int, error) {
		done.Add(1)
		time.Sleep(100 * time.Microsecond)
		return 1, nil
	}}
	s, err := load.RunAndPay(t.Context(), func() error {
		time.Sleep(pay)
		return nil
	})
	require.NoError(t, err)
	require.LessOrEqual(t, s.Value, float64(done.Load())/pay.Seconds(), "the debt counts")
	require.NotEmpty(t, s.Latencies)
	broken := errors.New("broken")
	_, err = load.RunAndPay(t.Context(), func() error { return broken })
	require.ErrorIs(t, err, broken)
}

func TestLoad_KeepsLatenciesOfAllOfTheTime(t *testing.T) {
	const slow, early = 100 * time.Microsecond, 1000
	s, err := lab.Load{Workers: 1, Time: 300 * time.Millisecond, Op: func(_, i int) (int, error) {
		for from := time.Now(); i < early && time.Since(from) < slow; {
			continue
		}
		return 1, nil // millions follow, each of which is faster
	}}.Run(t.Context())
	require.NoError(t, err)
	kept := 0
	for _, d := range s.Latencies {
		if d >= slow {
			kept++
		}
	}
	require.Greater(t, kept, 5, "of %d", len(s.Latencies))
}

func TestLoad_Errors(t *testing.T) {
	broken := errors.New("broken")
	load := lab.Load{Workers: 2, Time: time.Hour, Op: func(w, i int) (int, error) {
		if w == 1 && i == 3 {
			return 0, broken
		}
		return 1, nil
	}}
	_, err := load.Run(t.Context())
	require.ErrorIs(t, err, broken)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = lab.Load{Workers: 1, Time: time.Hour, Op: func(int, int) (int, error) { return 1, nil }}.Run(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestPairs_TakeTurns(t *testing.T) {
	var order []string
	note := func(who string) func(int) error {
		return func(int) error {
			order = append(order, who)
			return nil
		}
	}
	a, b := lab.Pairs(2, time.Nanosecond, note("a"), note("b"))
	first, err := a()
	require.NoError(t, err)
	second, err := b()
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "a", "b"}, order)
	require.Len(t, first.Latencies, 2)
	require.Len(t, second.Latencies, 2)
}

func TestPending(t *testing.T) {
	p := lab.NewPending()
	require.NoError(t, p.Wait(t.Context()))
	p.Begin(3)
	go func() {
		p.Arrive(1)
		p.Arrive(2)
	}()
	require.NoError(t, p.Wait(t.Context()))
	require.Equal(t, int64(3), p.Arrived())
	p.Arrive(1)
	require.ErrorContains(t, p.Wait(t.Context()), "1 more arrived")
}

func TestScene(t *testing.T) {
	r := newRunner(t, 1)
	s := r.Scene(t.Context())
	path, err := s.File()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	var order []int
	for i := range 2 {
		s.Cleanup(func() error {
			order = append(order, i)
			return nil
		})
	}
	built := 0
	for range 2 {
		dir, err := s.Once("fixture", func(string) error {
			built++
			return nil
		})
		require.NoError(t, err)
		require.DirExists(t, dir)
	}
	require.NoError(t, s.Close())
	require.Equal(t, []int{1, 0}, order)
	require.Equal(t, 1, built)
	require.NoFileExists(t, path)
}

func TestWriteTSV(t *testing.T) {
	r := newRunner(t, 1)
	res, err := r.Run(t.Context(), counting(lab.AtLeast(10), []float64{30}, []float64{10}))
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, lab.WriteTSV(&out, []lab.Result{res}))
	require.Equal(t, "name\tours\tunit\treference\treference_value\tratio\tgoal\tmet\truns\tmin\tmax\n"+
		"a/b=1\t30\tthings/s\tother\t10\t3\t>=10\tno\t1\t3\t3\n", out.String())
	out.Reset()
	lab.WriteLine(&out, &res, true)
	require.Contains(t, out.String(), "ratio 3")
	require.Contains(t, out.String(), "p50/p99 3ms/3ms against 3ms/3ms")
	require.Contains(t, out.String(), "Why.")
}

func TestPage_Replace(t *testing.T) {
	r := newRunner(t, 1)
	res, err := r.Run(t.Context(), counting(lab.AtLeast(10), []float64{30_000}, []float64{10_000}))
	require.NoError(t, err)
	page := lab.Page{Command: "run it", Environment: []string{"cpu: fast"}, Results: []lab.Result{res}, Charts: []string{"p/things.svg"}}
	path := filepath.Join(t.TempDir(), "page.md")
	require.NoError(t, os.WriteFile(path, []byte("no marks"), 0o600))
	require.Error(t, page.Replace(path))
	const frame = "before\n<!-- begin of what the bench writes -->old<!-- end of what the bench writes -->\nafter\n"
	require.NoError(t, os.WriteFile(path, []byte(frame), 0o600))
	for range 2 { // again and again
		require.NoError(t, page.Replace(path))
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		text := string(b)
		require.True(t, strings.HasPrefix(text, "before\n"))
		require.True(t, strings.HasSuffix(text, "\nafter\n"))
		require.NotContains(t, text, "old")
		require.Contains(t, text, "| `a/b=1` | 30k things/s | other, 10k | 3 (3–3), 1 run | ≥ 10 | no |")
		require.Contains(t, text, "Not met: `a/b=1`.")
		require.Contains(t, text, "![things](p/things.svg)")
	}
}

func TestPage_Summary(t *testing.T) {
	r := newRunner(t, 1)
	res, err := r.Run(t.Context(), counting(lab.AtLeast(10), []float64{30}, []float64{10}))
	require.NoError(t, err)
	quiet := res
	quiet.Headline, quiet.Against = "", "nobody"
	path := filepath.Join(t.TempDir(), "page.md")
	require.NoError(t, os.WriteFile(path, []byte("<!-- begin of what the bench writes --><!-- end of what the bench writes -->"), 0o600))
	page := lab.Page{Results: []lab.Result{res, quiet}}
	require.NoError(t, page.Summary(path))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(b), "| things | other | 3 | ≥ 10 |")
	require.NotContains(t, string(b), "nobody")
}

func TestWritePlots(t *testing.T) {
	r := newRunner(t, 1)
	var results []lab.Result
	for x := 1.0; x <= 4; x *= 2 {
		l := counting(lab.AtLeast(1), []float64{x * 10}, []float64{x})
		l.X = x
		res, err := r.Run(t.Context(), l)
		require.NoError(t, err)
		results = append(results, res)
	}
	dir := t.TempDir()
	names, err := lab.WritePlots(dir, results[:2])
	require.NoError(t, err)
	require.Equal(t, []string{"things-over-b.svg", "latency-of-b.svg", "latency-of-b.svg"}, names)
	b, err := os.ReadFile(filepath.Join(dir, names[0]))
	require.NoError(t, err)
	require.Contains(t, string(b), "<svg")
	names, err = lab.WritePlots(dir, results[:1])
	require.NoError(t, err)
	require.Equal(t, []string{"latency-of-b.svg"}, names, "one point is no chart")
}

func TestEnvironment(t *testing.T) {
	facts := strings.Join(lab.Environment(t.TempDir()), "\n")
	require.Contains(t, facts, "cores")
	require.Contains(t, facts, "GOMAXPROCS")
	require.Contains(t, facts, "files: ")
}
