package policy_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/policy"
)

func told(d policy.Decision) []string {
	out := verdictOf(d.Verdict.String(), d.Rule, d.Cause, d.Need, d.Wait)
	for _, v := range d.Victims {
		out = append(out, fmt.Sprintf("%s %s %s", v.Login, v.Reason, v.Rule))
	}
	return out
}

// checkQuestion holds Decide, Resolve and their explanations against the oracle, and returns what was decided at last.
func checkQuestion(t *testing.T, q question) []policy.Decision {
	t.Helper()
	p, err := policy.New(q.rules)
	require.NoError(t, err)
	before := slices.Clone(q.logins)
	m := model{rules: p.Rules(), world: q.world}

	first := p.Decide(q.logins, q.in, q.now, nil)
	require.Equal(t, (&oracle{model: m, now: q.now}).decide(), told(first), "%+v", q)
	e := p.Explain(q.logins, q.in, q.now)
	require.Equal(t, first, e.Decision)
	require.NotEmpty(t, e.String())

	last := p.Resolve(q.logins, q.in, q.now, q.answer, nil)
	require.Equal(t, (&oracle{model: m, now: q.now, answer: &q.answer}).decide(), told(last), "%+v", q)
	require.NotEqual(t, policy.Ask, last.Verdict)
	require.Equal(t, last, p.ExplainAnswer(q.logins, q.in, q.now, q.answer).Decision)
	if first.Verdict != policy.Ask {
		require.Equal(t, first.Verdict == policy.Admit, last.Verdict == policy.Admit)
	}
	require.Equal(t, before, q.logins, "logins were changed")
	for _, d := range []policy.Decision{first, last} {
		for _, v := range d.Victims {
			require.Equal(t, v.Login, q.logins[v.Index].ID)
		}
		require.True(t, d.Wait >= 0 && d.Wait <= q.rules.MinAge, "wait %v", d.Wait)
	}
	checkPermits(t, p, q, e, last)
	return []policy.Decision{first, last}
}

// checkPermits checks that an admission ends no login that its device may not kick or replace, and that a refusal names
// exactly those that it may.
func checkPermits(t *testing.T, p *policy.Policy, q question, e policy.Explanation, last policy.Decision) {
	t.Helper()
	may := func(victim policy.Login) bool {
		for _, l := range q.logins {
			if q.in.Login != "" && l.ID == q.in.Login && q.in.Since.IsZero() {
				l.Device = q.in.Device
				return p.MayEnd(l, victim, q.now).OK
			}
		}
		return p.MayReplace(q.in, victim, q.now).OK
	}
	for _, v := range last.Victims {
		require.True(t, may(q.logins[v.Index]), "%s ends: %+v", v.Login, q)
		require.False(t, v.Rule == policy.RuleAccount && q.logins[v.Index].Holds, "the safety bound ended a login with a slot")
	}
	if n := len(e.Steps); n > 0 && e.Steps[n-1].Refused {
		for _, l := range q.logins {
			if slices.Contains(e.Steps[n-1].Removable, l.ID) {
				require.True(t, may(l), "%s could make room: %+v", l.ID, q)
			}
		}
	}
}

// I19: with groups that overlap, totals and every action, wish and protection, victims are exactly those of a slow
// reference. Every verdict and cause must have come up.
func TestI19_EqualsTheReference(t *testing.T) {
	rng := seeded(t)
	seen, spared := make(map[string]int), 0
	for range 8000 {
		q := drawQuestion(rng.IntN, 12)
		for _, d := range checkQuestion(t, q) {
			seen[d.Verdict.String()+" "+string(d.Cause)]++
		}
		p, _ := policy.New(q.rules)
		spared += len(p.ExplainAnswer(q.logins, q.in, q.now, q.answer).Spared)

		shuffled := q
		shuffled.logins = slices.Clone(q.logins)
		rng.Shuffle(len(q.logins), func(i, j int) {
			shuffled.logins[i], shuffled.logins[j] = shuffled.logins[j], shuffled.logins[i]
		})
		require.Equal(t, told(p.Resolve(q.logins, q.in, q.now, q.answer, nil)),
			told(p.Resolve(shuffled.logins, q.in, q.now, q.answer, nil)), "the order of the logins counts: %+v", q)
	}
	require.Positive(t, spared, "nobody was ever spared")
	require.Equal(t, []string{
		"admit ", "ask ", "refuse ", "refuse host", "refuse min_age", "refuse primary", "refuse reconnect",
		"refuse unanswered", "refuse wish",
	}, slices.Sorted(maps.Keys(seen)))
}

// FuzzResolve draws a question from the fuzzer's bytes and holds the answers against the reference.
func FuzzResolve(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkQuestion(t, drawQuestion(func(n int) int {
			if len(b) == 0 {
				return 0
			}
			v := int(b[0]) % n
			b = b[1:]
			return v
		}, 30))
	})
}
