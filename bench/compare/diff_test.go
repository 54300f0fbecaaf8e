package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// outputs prints runs of one benchmark around a time and a rate.
func outputs(ns, rate float64) string {
	b := &strings.Builder{}
	b.WriteString("pkg: example.org/fast\n")
	for i := range 10 {
		jitter := 1 + float64(i)/1000
		fmt.Fprintf(b, "BenchmarkSend/senders=1-2 100 %f ns/op %f deliveries/s 0 allocs/op\n", ns*jitter, rate*jitter)
	}
	return b.String()
}

func TestDiff(t *testing.T) {
	tests := []struct {
		name       string
		base, head string
		worse      int
		want       string
	}{
		{"the same", outputs(100, 1000), outputs(100, 1000), 0, "0 worse, 0 better, 3 without"},
		{"slower", outputs(100, 1000), outputs(120, 1000), 1, "worse    +20.0%  example.org/fast.Send/senders=1-2"},
		{"faster", outputs(120, 1000), outputs(60, 1000), 0, "better   -50.0%"},
		{"lower rate", outputs(100, 1000), outputs(100, 500), 1, "deliveries/s"},
		{"higher rate", outputs(100, 1000), outputs(100, 2000), 0, "0 worse, 1 better"},
		{
			"first allocation", outputs(100, 1000), strings.ReplaceAll(outputs(100, 1000), "0 allocs/op", "1 allocs/op"), 1,
			"worse   +100.0%",
		},
		{"only on one side", outputs(100, 1000), "", 0, "0 worse, 0 better, 0 without"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changes, err := diff(strings.NewReader(tt.base), strings.NewReader(tt.head))
			require.NoError(t, err)
			var out strings.Builder
			require.Equal(t, tt.worse, report(&out, changes, false), out.String())
			require.Contains(t, out.String(), tt.want)
		})
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-count", "4", "a", "b"})
	require.NoError(t, err)
	require.Equal(t, "a", o.base)
	require.Equal(t, "b", o.head)
	for _, args := range [][]string{{"a"}, {"a", "b", "c"}, {"-count", "3", "a", "b"}} {
		_, err := parse(args)
		require.Error(t, err)
	}
}
