package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
)

func TestMain(m *testing.M) {
	if ours.Child() {
		return
	}
	os.Exit(m.Run())
}

var (
	scaleName = flag.String("scale", "smoke", "sizes of the benchmarks: smoke, quick or full")
	counted   = flag.Duration("time", 0, "counted time of a run; 0: that of the scale")
)

// scaleOfBenchmarks is what the flags say.
func scaleOfBenchmarks() lab.Scale {
	scale := lab.Smoke()
	switch *scaleName {
	case "quick":
		scale = lab.Quick()
	case "full":
		scale = lab.Full()
	}
	if *counted > 0 {
		scale.Time = *counted
	}
	return scale
}

// TestLines runs each line once in its smallest size. Lines count what they do and fail if something is missing.
func TestLines(t *testing.T) {
	runner := newRunner(t, lab.Smoke())
	for _, l := range lines(lab.Smoke()) {
		t.Run(l.Name, func(t *testing.T) {
			res, err := runner.Run(t.Context(), l)
			require.NoError(t, err)
			ours, reference := res.Values()
			require.Positive(t, ours)
			require.Positive(t, reference)
			require.NotEmpty(t, l.Notes)
		})
	}
}

func TestLines_Names(t *testing.T) {
	for _, sc := range []lab.Scale{lab.Smoke(), lab.Quick(), lab.Full()} {
		seen := make(map[string]bool)
		for _, l := range lines(sc) {
			require.False(t, seen[l.Name], l.Name)
			require.NotContains(t, l.Name+l.Unit+l.Against, "\t")
			require.False(t, l.Goal.AtLeast > 0 && l.Goal.AtMost > 0, l.Name)
			seen[l.Name] = true
		}
	}
}

// BenchmarkLines has each side of each line as a benchmark. An iteration is one run; the value of the line is a metric.
func BenchmarkLines(b *testing.B) {
	scale := scaleOfBenchmarks()
	runner := newRunner(b, scale)
	for _, l := range lines(scale) {
		b.Run(l.Name, func(b *testing.B) {
			s := runner.Scene(b.Context())
			b.Cleanup(func() { require.NoError(b, s.Close()) })
			ours, reference, err := l.Prepare(s)
			require.NoError(b, err)
			side(b, "ours", l.Unit, ours)
			side(b, "reference", l.Unit, reference)
		})
	}
}

func side(b *testing.B, name, unit string, run lab.Run) {
	b.Run(name, func(b *testing.B) {
		var values []float64
		for b.Loop() {
			s, err := run()
			require.NoError(b, err)
			values = append(values, s.Value)
		}
		b.ReportMetric(lab.Median(values), strings.ReplaceAll(unit, " ", "-"))
	})
}

func newRunner(tb testing.TB, scale lab.Scale) *lab.Runner {
	runner, err := lab.NewRunner(scale, tb.TempDir())
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, runner.Close()) })
	return runner
}
