package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTry_Outcomes builds one mutant of each kind that does not belong into the list, and one that does.
func TestTry_Outcomes(t *testing.T) {
	root, err := moduleRoot(t.Context())
	require.NoError(t, err)
	b := bench{root: root, dir: t.TempDir()}
	for _, c := range []struct {
		mutant mutant
		want   outcome
		rule   string
		detail string
	}{
		{mutant: one("broken", "store.go", `epoch: a.epoch + 1}`, `epoch: a.epoch}`), want: caught, rule: "delete: everything goes"},
		{mutant: one("equivalent", "store.go", `const mostBytes = 1 << 50`, `const mostBytes = 1 << 51`), want: alive},
		{mutant: one("no Go", "store.go", `const mostBytes = 1 << 50`, `const mostBytes := 1`), want: noBuild, detail: "syntax error"},
		{mutant: one("no text", "store.go", `no such text`, ``), want: noText, detail: "0 times"},
		{mutant: one("text twice", "store.go", `s.mu.Lock()`, ``), want: noText, detail: "want once"},
		{mutant: one("no file", "none.go", `a`, `b`), want: noText, detail: "none.go"},
		{mutant: one("panic", "store.go", `return s.info }`, `panic(s.info) }`), want: panics, detail: "panic: "},
	} {
		t.Run(c.mutant.name, func(t *testing.T) {
			v := b.try(t.Context(), c.mutant.name, c.mutant)
			require.Equal(t, c.want, v.outcome, v.detail)
			require.Contains(t, v.rule, c.rule)
			require.Contains(t, v.detail, c.detail)
		})
	}
}

func TestJudge(t *testing.T) {
	exit := errors.New("exit status 1")
	for _, c := range []struct {
		name, out string
		err       error
		want      verdict
	}{
		{name: "passed", out: "PASS\n", want: verdict{outcome: alive}},
		{
			name: "a rule", err: exit, want: verdict{outcome: caught, rule: "trim: never beyond the head"},
			out: "--- FAIL: TestS74_Suite (0.02s)\n    --- FAIL: TestS74_Suite/trim:_never_beyond_the_head (0.00s)\nFAIL\n",
		},
		{
			name: "no rule", err: exit, out: "--- FAIL: TestS74_Suite (0.02s)\n",
			want: verdict{outcome: unnamed, detail: "--- FAIL: TestS74_Suite (0.02s)\nexit status 1\n"},
		},
		{
			name: "a hang", err: exit, out: "panic: test timed out after 1m0s\n",
			want: verdict{outcome: panics, detail: "panic: test timed out after 1m0s\n"},
		},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, judge(c.out, c.err)) })
	}
}

func TestRun_BadArguments(t *testing.T) {
	for _, c := range []struct {
		name, pattern string
		parallel      int
	}{{"pattern", "(", 1}, {"parallel", "x", 0}} {
		t.Run(c.name, func(t *testing.T) {
			require.Error(t, run(t.Context(), &bytes.Buffer{}, c.pattern, c.parallel))
		})
	}
	require.ErrorContains(t, run(t.Context(), &bytes.Buffer{}, "^no such mutant$", 1), "0 of 0", "a run of nothing is no success")
}
