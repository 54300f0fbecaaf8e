package policy_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// world is one question to a policy.
type world struct {
	rules  policy.Rules
	logins []policy.Login
	in     policy.Newcomer
}

// platforms are what random worlds draw from: known, custom, unknown and reserved ones.
var platforms = []event.Platform{"ios", "web", "ios-tablet", "toaster", "", policy.Other}

// draw makes a small random world out of a source of numbers below a bound.
func draw(below func(n int) int, maxLogins int) world {
	w := world{rules: policy.Rules{
		PerPlatform: below(5) - 1,
		Platforms:   map[event.Platform]int{"ios-tablet": below(4) - 1},
		Single:      below(6) == 0,
		Unknown:     policy.UnknownRule(below(2)),
		MaxLogins:   below(maxLogins+2) % (policy.MaxLogins + 1),
	}}
	if w.rules.Unknown == policy.CountAsOther && below(2) == 0 {
		w.rules.Platforms[policy.Other] = below(4) - 1
	}
	device := func() event.DeviceID { return event.DeviceID([]string{"", "d1", "d2", "d3", "d4"}[below(5)]) }
	for i := range below(maxLogins + 1) {
		w.logins = append(w.logins, policy.Login{
			ID:       event.LoginID(fmt.Sprintf("L%02d", i)),
			Device:   device(),
			Platform: platforms[below(len(platforms))],
			Holds:    below(4) != 0,
		})
	}
	for i := range w.logins { // admission numbers differ and are in no order
		w.logins[i].Admission = uint64(i + 1)
		j := below(i + 1)
		w.logins[i].Admission, w.logins[j].Admission = w.logins[j].Admission, w.logins[i].Admission
	}
	w.in = policy.Newcomer{Device: device(), Platform: platforms[below(len(platforms))]}
	if len(w.logins) > 0 && below(3) == 0 {
		back := w.logins[below(len(w.logins))]
		w.in = policy.Newcomer{Device: back.Device, Platform: back.Platform, Login: back.ID}
	}
	return w
}

// model is the reference: it says what may be, not how to find it.
type model struct {
	rules policy.Rules // with defaults
	world
}

func (m model) known(p event.Platform) bool {
	if _, ok := m.rules.Platforms[p]; ok && p != policy.Other {
		return true
	}
	return slices.Contains([]event.Platform{"android", "ios", "web", "windows", "macos", "linux", "harmony"}, p)
}

// bucket is the platform that p counts under, or false if it is unknown and refused.
func (m model) bucket(p event.Platform) (event.Platform, bool) {
	switch {
	case m.known(p):
		return p, true
	case m.rules.Unknown == policy.CountAsOther:
		return policy.Other, true
	}
	return "", false
}

func (m model) limit(bucket event.Platform) int {
	if n, ok := m.rules.Platforms[bucket]; ok {
		return n
	}
	return m.rules.PerPlatform
}

// broken returns the first rule that does not hold if the newcomer is in and only the logins in stay are left, or "".
func (m model) broken(stay []policy.Login) string {
	bucket, ok := m.bucket(m.in.Platform)
	if !ok {
		return policy.RuleUnknownPlatform
	}
	slots := 1
	for _, l := range stay {
		if m.in.Device != "" && l.Device == m.in.Device {
			return policy.RuleDevice
		}
		if b, ok := m.bucket(l.Platform); ok && b == bucket && l.Holds {
			slots++
		}
	}
	switch limit := m.limit(bucket); {
	case m.rules.Single && len(stay) > 0:
		return policy.RuleSingle
	case limit != policy.NoLimit && slots > limit:
		return policy.RulePlatform
	case len(stay)+1 > m.rules.MaxLogins:
		return policy.RuleAccount
	}
	return ""
}

// others are the logins beside the one that comes back, earliest first.
func (m model) others() []policy.Login {
	var s []policy.Login
	for _, l := range m.logins {
		if m.in.Login == "" || l.ID != m.in.Login {
			s = append(s, l)
		}
	}
	slices.SortFunc(s, func(a, b policy.Login) int { return cmp.Compare(a.Admission, b.Admission) })
	return s
}

// without returns the logins that are not among the victims.
func without(logins []policy.Login, victims []policy.Victim) []policy.Login {
	var stay []policy.Login
	for _, l := range logins {
		if !slices.ContainsFunc(victims, func(v policy.Victim) bool { return v.Login == l.ID }) {
			stay = append(stay, l)
		}
	}
	return stay
}

// check asks the policy and holds the answer against the model.
func check(t *testing.T, w world) policy.Decision {
	t.Helper()
	p, err := policy.New(w.rules)
	require.NoError(t, err)
	before := slices.Clone(w.logins)
	d := p.Decide(w.logins, w.in, time.Time{}, nil)
	require.Equal(t, before, w.logins, "logins were changed")

	e := p.Explain(w.logins, w.in, time.Time{})
	require.Equal(t, d.Victims, e.Victims, "Explain and Decide differ")
	require.Equal(t, []any{d.Verdict, d.Rule, d.Limit, d.Count, d.Platform},
		[]any{e.Verdict, e.Rule, e.Limit, e.Count, e.Platform}, "Explain and Decide differ")
	checkSteps(t, e)

	m := model{rules: p.Rules(), world: w}
	others := m.others()
	if d.Verdict == policy.Refuse {
		require.Empty(t, d.Victims)
		require.Contains(t, []string{policy.RuleUnknownPlatform, policy.RulePlatform, policy.RuleAccount}, d.Rule)
		checkRefusal(t, m, d)
		return d
	}
	stay := without(others, d.Victims)
	require.Len(t, stay, len(others)-len(d.Victims), "a victim is the newcomer, named twice, or none of the logins")
	require.Empty(t, m.broken(stay), "a rule does not hold after admission")
	for i, v := range d.Victims {
		require.Equal(t, v.Login, w.logins[v.Index].ID)
		checkVictim(t, m, w.logins[v.Index], v)
		rest := slices.Delete(slices.Clone(d.Victims), i, i+1)
		require.NotEmpty(t, m.broken(without(others, rest)), "victim %s ends in vain", v.Login)
	}
	return d
}

// checkVictim checks that the rule that chose the victim covers it.
func checkVictim(t *testing.T, m model, l policy.Login, v policy.Victim) {
	t.Helper()
	switch v.Rule {
	case policy.RuleDevice:
		require.Equal(t, event.Replaced, v.Reason)
		require.NotEmpty(t, l.Device)
		require.Equal(t, m.in.Device, l.Device)
	case policy.RuleSingle:
		require.Equal(t, event.EvictedSingle, v.Reason)
		require.True(t, m.rules.Single)
	case policy.RulePlatform:
		require.Equal(t, event.EvictedQuota, v.Reason)
		require.True(t, l.Holds)
		mine, _ := m.bucket(m.in.Platform)
		its, ok := m.bucket(l.Platform)
		require.True(t, ok && mine == its, "I19: evicted for another platform's login")
	case policy.RuleAccount:
		require.Equal(t, event.EvictedQuota, v.Reason)
		require.False(t, l.Holds, "the safety bound ended a login that holds a slot")
	default:
		t.Fatalf("victim of rule %q", v.Rule)
	}
}

// checkRefusal checks that the rule that refused cannot be met, even if all ends that rules before it may end.
func checkRefusal(t *testing.T, m model, d policy.Decision) {
	t.Helper()
	bucket, ok := m.bucket(m.in.Platform)
	require.Equal(t, d.Rule == policy.RuleUnknownPlatform, !ok)
	if !ok {
		return
	}
	require.Equal(t, d.Rule == policy.RulePlatform, m.limit(bucket) == 0)
	if d.Rule == policy.RuleAccount {
		require.Equal(t, policy.RuleAccount, m.broken(m.earliestOut()))
	}
}

// earliestOut returns the logins that stay if every rule ends what it may. It leaves out one login after the other, the
// earliest first, as long as a rule is broken that may end it. The safety bound may end logins without a slot.
func (m model) earliestOut() []policy.Login {
	stay := m.others()
	bucket, _ := m.bucket(m.in.Platform)
	for {
		rule := m.broken(stay)
		i := slices.IndexFunc(stay, func(l policy.Login) bool {
			its, ok := m.bucket(l.Platform)
			switch rule {
			case policy.RuleDevice:
				return l.Device == m.in.Device
			case policy.RuleSingle:
				return true
			case policy.RulePlatform:
				return l.Holds && ok && its == bucket
			case policy.RuleAccount:
				return !l.Holds
			}
			return false
		})
		if i < 0 {
			return stay
		}
		stay = slices.Delete(stay, i, i+1)
	}
}

// checkSteps checks that the steps of an explanation add up to its decision.
func checkSteps(t *testing.T, e policy.Explanation) {
	t.Helper()
	var victims []policy.Victim
	for i, s := range e.Steps {
		victims = append(victims, s.Victims...)
		require.NotEmpty(t, s.Why)
		require.Equal(t, s.Before+1-len(s.Victims), s.After)
		require.Equal(t, e.Verdict == policy.Refuse && i == len(e.Steps)-1, s.Refused)
		if !s.Refused && s.Limit != policy.NoLimit {
			require.LessOrEqual(t, s.After, s.Limit)
		}
		if s.Rule == e.Rule {
			require.Equal(t, []int{e.Limit, e.Count}, []int{s.Limit, s.Before})
		}
	}
	if e.Verdict == policy.Admit {
		require.Equal(t, len(e.Victims), len(victims))
		for i := range victims {
			require.Equal(t, e.Victims[i], victims[i])
		}
	}
}

func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// I19: victims are exactly those that the policy names, no limit is exceeded afterwards, nobody ends in vain, and nobody
// for another platform's login.
func TestI19_RandomWorlds(t *testing.T) {
	rng := seeded(t)
	for range 5000 {
		w := draw(rng.IntN, 12)
		d := check(t, w)
		shuffled := w
		shuffled.logins = slices.Clone(w.logins)
		rng.Shuffle(len(shuffled.logins), func(i, j int) {
			shuffled.logins[i], shuffled.logins[j] = shuffled.logins[j], shuffled.logins[i]
		})
		other := check(t, shuffled)
		require.Equal(t, names(d), names(other), "the order of the logins counts: %+v", w)
	}
}

func names(d policy.Decision) []string {
	s := []string{d.Verdict.String(), d.Rule, fmt.Sprint(d.Limit, d.Count), string(d.Platform)}
	for _, v := range d.Victims {
		s = append(s, fmt.Sprintf("%s %s %s", v.Login, v.Reason, v.Rule))
	}
	return s
}

// Among all sets of victims that bring the account within its rules, the policy's is the smallest; among those, it ends
// the fewest logins that hold a slot; and among those, the earliest. All sets are tried.
func TestI19_FewestAndEarliest(t *testing.T) {
	rng := seeded(t)
	admitted, bounded := 0, 0
	for range 1500 {
		w := draw(rng.IntN, 7)
		d := check(t, w)
		if d.Verdict == policy.Refuse {
			continue
		}
		admitted++
		p, err := policy.New(w.rules)
		require.NoError(t, err)
		m := model{rules: p.Rules(), world: w}
		require.Equal(t, m.best(), admissions(w, d), "%+v", w)
		bounded += len(filter(w.logins, func(l policy.Login) bool {
			return slices.ContainsFunc(d.Victims, func(v policy.Victim) bool { return v.Login == l.ID && v.Rule == policy.RuleAccount })
		}))
	}
	require.Greater(t, admitted, 300, "too few worlds admit to prove anything")
	require.Positive(t, bounded, "the safety bound never ended a login")
}

// best tries all sets of the other logins: the fewest logins, then the fewest with a slot, then the earliest.
func (m model) best() []uint64 {
	others := m.others()
	var best []uint64
	slots, found := 0, false
	for set := range 1 << len(others) {
		var out []uint64
		var stay []policy.Login
		holders := 0
		for i, l := range others {
			if set&(1<<i) == 0 {
				stay = append(stay, l)
				continue
			}
			if out = append(out, l.Admission); l.Holds {
				holders++
			}
		}
		if rule := m.broken(stay); rule != "" {
			continue
		}
		if !found || cmp.Or(cmp.Compare(len(out), len(best)), cmp.Compare(holders, slots), slices.Compare(out, best)) < 0 {
			best, slots, found = out, holders, true
		}
	}
	return best
}

func admissions(w world, d policy.Decision) []uint64 {
	var s []uint64
	for _, v := range d.Victims {
		s = append(s, w.logins[v.Index].Admission)
	}
	slices.Sort(s)
	return s
}

// FuzzDecide draws a world from the fuzzer's bytes and holds the answer against the model.
func FuzzDecide(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		b := make([]byte, 120)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check(t, draw(func(n int) int {
			if len(b) == 0 {
				return 0
			}
			v := int(b[0]) % n
			b = b[1:]
			return v
		}, 70))
	})
}
