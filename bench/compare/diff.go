package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
)

// change is one unit of one benchmark on both sides.
type change struct {
	name, unit string
	base, head float64 // medians
	by         float64 // relative; positive is worse
	runs       int
	p          float64 // that there is no difference
	real       bool
}

const confidence = 0.95

type key struct{ name, unit string }

// diff compares the outputs of two sides. Benchmarks that only one of them has are left out.
func diff(base, head io.Reader) ([]change, error) {
	before, err := samples(base)
	if err != nil {
		return nil, err
	}
	after, err := samples(head)
	if err != nil {
		return nil, err
	}
	var all []change
	for k, values := range before {
		if len(after[k]) == 0 {
			continue
		}
		all = append(all, compareSamples(k, values, after[k]))
	}
	slices.SortFunc(all, func(a, b change) int {
		return cmp.Or(-cmp.Compare(a.by, b.by), cmp.Compare(a.name, b.name), cmp.Compare(a.unit, b.unit))
	})
	return all, nil
}

func compareSamples(k key, before, after []float64) change {
	a := benchmath.NewSample(before, &benchmath.DefaultThresholds)
	b := benchmath.NewSample(after, &benchmath.DefaultThresholds)
	test := benchmath.AssumeNothing.Compare(a, b)
	c := change{
		name: k.name, unit: k.unit, base: benchmath.AssumeNothing.Summary(a, confidence).Center,
		head: benchmath.AssumeNothing.Summary(b, confidence).Center, runs: min(len(before), len(after)), p: test.P,
	}
	if c.base != 0 {
		c.by = (c.head - c.base) / c.base
	} else if c.head != 0 {
		c.by = 1 // from nothing to something, such as a first allocation
	}
	if moreIsBetter(k.unit) {
		c.by = -c.by
	}
	c.real = test.P < test.Alpha
	return c
}

// moreIsBetter reports whether a unit is a rate. Costs are given for an operation or another piece of work.
func moreIsBetter(unit string) bool { return strings.HasSuffix(unit, "/s") }

// samples reads what benchmarks printed.
func samples(r io.Reader) (map[key][]float64, error) {
	all := make(map[key][]float64)
	in := benchfmt.NewReader(r, "benchmarks")
	for in.Scan() {
		res, ok := in.Result().(*benchfmt.Result)
		if !ok {
			continue // units and lines that are no benchmarks
		}
		name := res.GetConfig("pkg") + "." + res.Name.String()
		for _, v := range res.Values {
			k := key{name: name, unit: v.Unit}
			all[k] = append(all[k], v.Value)
		}
	}
	return all, in.Err()
}

// report prints what got worse, then what got better, and returns how many got worse.
func report(w io.Writer, all []change, everything bool) int {
	worse, better := 0, 0
	for _, c := range all {
		if c.real && c.by > 0 {
			worse++
			c.write(w, "worse ")
		}
	}
	for _, c := range slices.Backward(all) {
		if c.real && c.by < 0 {
			better++
			c.write(w, "better")
		}
	}
	for _, c := range all {
		if everything && (!c.real || c.by == 0) {
			c.write(w, "same  ")
		}
	}
	fmt.Fprintf(w, "%d worse, %d better, %d without a difference beyond the noise\n", worse, better, len(all)-worse-better)
	return worse
}

func (c *change) write(w io.Writer, verdict string) {
	fmt.Fprintf(w, "%s %+7.1f%%  %-60s %12.5g → %-12.5g %s (p=%.3f, n=%d)\n", verdict, 100*c.by, c.name, c.base, c.head, c.unit, c.p, c.runs)
}
