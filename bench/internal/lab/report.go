package lab

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// WriteLine prints a result as one line of text, with latencies if it has any, and its notes below if they are wanted.
func WriteLine(w io.Writer, r *Result, notes bool) {
	ours, reference := r.Values()
	low, high := r.span()
	fmt.Fprintf(w, "%-40s %9s %-12s  %9s %-34s  %s %-7s goal %-7s met %-3s  runs %d, %s–%s%s\n", r.Name, number(ours), r.Unit,
		number(reference), r.Against, r.Goal.compares(), number(r.Ratio()), r.Goal, r.Goal.verdict(r.Ratio()), len(r.Ratios), number(low), number(high), r.latencies())
	if notes && r.Notes != "" {
		fmt.Fprintf(w, "    %s\n", r.Notes)
	}
}

func (r *Result) span() (low, high float64) {
	if len(r.Ratios) == 0 {
		return 0, 0
	}
	return slices.Min(r.Ratios), slices.Max(r.Ratios)
}

func (r *Result) latencies() string {
	ours, reference := latenciesOf(r.Ours), latenciesOf(r.Reference)
	if len(ours) == 0 || len(reference) == 0 {
		return ""
	}
	return fmt.Sprintf("  p50/p99 %s/%s against %s/%s", short(Quantile(ours, 0.5)), short(Quantile(ours, 0.99)),
		short(Quantile(reference, 0.5)), short(Quantile(reference, 0.99)))
}

func short(d time.Duration) string {
	switch {
	case d < 10*time.Microsecond:
		return d.String()
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// number writes three significant digits, with a suffix for thousands and millions.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 999_500:
		return digits(v/1e6) + "M"
	case a >= 9_995:
		return digits(v/1e3) + "k"
	}
	return digits(v)
}

func digits(v float64) string {
	if math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// Header is the first line of the table for machines.
const Header = "name\tours\tunit\treference\treference_value\tratio\tgoal\tmet\truns\tmin\tmax"

// WriteTSV prints results as a table for machines. min and max are of the ratio.
func WriteTSV(w io.Writer, results []Result) error {
	if _, err := fmt.Fprintln(w, Header); err != nil {
		return err
	}
	for i := range results {
		r := &results[i]
		ours, reference := r.Values()
		low, high := r.span()
		fields := []string{
			r.Name, exact(ours), r.Unit, r.Against, exact(reference), exact(r.Ratio()), r.Goal.String(), r.Goal.verdict(r.Ratio()),
			strconv.Itoa(len(r.Ratios)), exact(low), exact(high),
		}
		if _, err := fmt.Fprintln(w, strings.Join(fields, "\t")); err != nil {
			return err
		}
	}
	return nil
}

func exact(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
