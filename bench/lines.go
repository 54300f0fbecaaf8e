package main

import (
	"regexp"

	"github.com/manydevice/manydevice/bench/internal/lab"
)

// lines returns all lines of the table at a scale, in the order in which they are run: first those on memory, which would
// see what others leave in pools.
func lines(sc lab.Scale) []lab.Line {
	var all []lab.Line
	for _, part := range []func(lab.Scale) []lab.Line{
		memoryLines, liveLines, connectionLines, policyLines, loginLines, durableLines, sustainedLines, latencyLines, markLines,
		peerLines, readLines, sizeLines, growthLines,
	} {
		all = append(all, part(sc)...)
	}
	return all
}

func chosen(all []lab.Line, pattern *regexp.Regexp) (some []lab.Line) {
	for _, l := range all {
		if pattern.MatchString(l.Name) {
			some = append(some, l)
		}
	}
	return some
}
