// Package lab runs measurements side by side: ours, the reference, ours, the reference, …, and reports the ratios.
package lab

import (
	"fmt"
	"slices"
	"time"
)

// Sample is what one run of one side measured.
type Sample struct {
	Value     float64
	Latencies []time.Duration // of single operations, where they matter; in any order
}

// Run measures once. What it needs is there already, unless making it is what is measured.
type Run func() (Sample, error)

// Line is one row of the table: the same work done by us and by a reference.
type Line struct {
	Name    string // parts divided by slashes, axes as name=value
	Unit    string // of both values
	Against string // what the reference is
	Goal    Goal
	Notes   string // what bounds it, and where the two sides differ
	// Chart, if set, draws the line as a point of the chart with that name, at X. Lines of a chart belong together.
	Chart string
	X     float64
	// Latency, if set, is the title of a chart of the latencies of single operations, for lines that have them.
	Latency string
	// Headline, if set, puts the line into the summary, in these words.
	Headline string
	// Prepare makes what both sides need. Each run is then called Scale.Runs times.
	Prepare func(s *Scene) (ours, reference Run, err error)
}

// Goal is a bound on the ratio of our value to the reference's. At most one of the two bounds is set; if neither is, the line is for
// information, and every ratio meets it.
type Goal struct {
	AtLeast, AtMost float64
	Difference      bool // not our value over the reference's, but our value less the reference's
}

// AtLeast is the goal of a rate.
func AtLeast(ratio float64) Goal { return Goal{AtLeast: ratio} }

// AtMost is the goal of a cost.
func AtMost(ratio float64) Goal { return Goal{AtMost: ratio} }

// AtMostMore is the goal of a cost that may exceed the reference's by an amount.
func AtMostMore(amount float64) Goal { return Goal{AtMost: amount, Difference: true} }

func (g Goal) ratio(ours, reference float64) float64 {
	if g.Difference {
		return ours - reference
	}
	return ours / reference
}

// compares says what ratio returns.
func (g Goal) compares() string {
	if g.Difference {
		return "more "
	}
	return "ratio"
}

// Met reports whether a ratio is within the goal.
func (g Goal) Met(ratio float64) bool {
	switch {
	case g.AtLeast > 0:
		return ratio >= g.AtLeast
	case g.none():
		return true
	}
	return ratio <= g.AtMost
}

func (g Goal) none() bool { return g == Goal{} }

// verdict says in tables whether a ratio is within the goal.
func (g Goal) verdict(ratio float64) string {
	switch {
	case g.none():
		return "-"
	case g.Met(ratio):
		return "yes"
	}
	return "no"
}

// String returns the goal as it stands in tables.
func (g Goal) String() string {
	switch {
	case g.AtLeast > 0:
		return fmt.Sprintf(">=%g", g.AtLeast)
	case g.none():
		return "none"
	case g.Difference:
		return fmt.Sprintf("<=+%g", g.AtMost)
	}
	return fmt.Sprintf("<=%g", g.AtMost)
}

// Constant is a reference that is no measurement.
func Constant(v float64) Run { return func() (Sample, error) { return Sample{Value: v}, nil } }

// Result is a line after its runs.
type Result struct {
	Line
	Ours, Reference []Sample
	Ratios          []float64 // one for each pair of runs
	Took            time.Duration
}

// Ratio is the median over the pairs, so that what disturbs both sides of a pair alike falls out.
func (r *Result) Ratio() float64 { return Median(r.Ratios) }

// Met reports whether the median of the ratios is within the goal.
func (r *Result) Met() bool { return r.Goal.Met(r.Ratio()) }

// Values returns the medians of both sides.
func (r *Result) Values() (ours, reference float64) { return medianOf(r.Ours), medianOf(r.Reference) }

func medianOf(all []Sample) float64 {
	values := make([]float64, len(all))
	for i, s := range all {
		values[i] = s.Value
	}
	return Median(values)
}

// Median returns the median, 0 of nothing.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Quantile returns the latency that the share q of all does not exceed, 0 of nothing. It sorts them.
func Quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(int(q*float64(len(all))), len(all)-1)]
}

func latenciesOf(all []Sample) []time.Duration {
	var out []time.Duration
	for _, s := range all {
		out = append(out, s.Latencies...)
	}
	return out
}
