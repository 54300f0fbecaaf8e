package policy_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// enforced is what must hold of an account without a newcomer: a name and which logins may be at most so many.
type enforced struct {
	limit   int
	members []policy.Login
}

// demands returns everything that the rules ask of the logins that are there.
func demands(m model) []enforced {
	o := &oracle{model: m}
	var out []enforced
	for _, l := range m.logins {
		if l.Device != "" {
			out = append(out, enforced{1, filter(m.logins, func(x policy.Login) bool { return x.Device == l.Device })})
		}
		b, ok := m.bucket(l.Platform)
		on := filter(m.logins, func(x policy.Login) bool {
			xb, xok := m.bucket(x.Platform)
			return xok == ok && xb == b
		})
		switch {
		case !ok || m.limit(b) == 0:
			out = append(out, enforced{0, on})
		case m.limit(b) != policy.NoLimit:
			out = append(out, enforced{m.limit(b), filter(on, o.holds)})
		}
	}
	for _, g := range m.rules.Groups {
		out = append(out, enforced{g.Limit, filter(m.logins, func(l policy.Login) bool { return o.inGroup(g, l.Platform) && o.holds(l) })})
	}
	if m.rules.Total > 0 {
		out = append(out, enforced{m.rules.Total, filter(m.logins, o.holds)})
	}
	if m.rules.Single {
		out = append(out, enforced{1, m.logins})
	}
	return append(out, enforced{m.rules.MaxLogins, m.logins})
}

// A17: enforced rules hold, unless the primary device is in the way; nobody ends in vain; once is enough; and the order of
// the logins does not matter.
func TestEnforce_RandomWorlds(t *testing.T) {
	rng := seeded(t)
	ends := 0
	for range 2000 {
		q := drawQuestion(rng.IntN, 12)
		p := newPolicy(t, q.rules)
		victims := p.Enforce(q.logins, nil)
		ends += len(victims)
		m := model{rules: p.Rules(), world: q.world}
		protected := func(l policy.Login) bool { return l.Primary && m.rules.Primary != policy.PrimaryOrdinary }
		for _, d := range demands(m) {
			stay := without(d.members, victims)
			if !slices.ContainsFunc(stay, protected) {
				require.LessOrEqual(t, len(stay), d.limit, "%+v: %v", q, victims)
			}
		}
		for i, v := range victims {
			require.Equal(t, event.PolicyChanged, v.Reason)
			require.Equal(t, q.logins[v.Index].ID, v.Login)
			if protected(q.logins[v.Index]) {
				require.Equal(t, policy.RuleDevice, v.Rule)
			}
			fewer := slices.Delete(slices.Clone(victims), i, i+1)
			require.True(t, slices.ContainsFunc(demands(m), func(d enforced) bool {
				return len(without(d.members, fewer)) > d.limit && slices.ContainsFunc(d.members, func(l policy.Login) bool { return l.ID == v.Login })
			}), "%s ends in vain: %+v: %v", v.Login, q, victims)
		}
		require.Empty(t, p.Enforce(without(q.logins, victims), nil), "the second time names somebody")
		shuffled := slices.Clone(q.logins)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		require.Equal(t, victimNames(victims), victimNames(p.Enforce(shuffled, nil)))
	}
	require.Greater(t, ends, 500)
}

func victimNames(victims []policy.Victim) []string {
	var out []string
	for _, v := range victims {
		out = append(out, fmt.Sprintf("%s %s", v.Login, v.Rule))
	}
	return out
}

// Whoever was let in by the rules has nothing to fear from their enforcement: Decide never leaves an account that
// Enforce would change.
func TestI19_AdmissionsNeedNoEnforcement(t *testing.T) {
	rng := seeded(t)
	admitted := 0
	for range 300 {
		q := drawQuestion(rng.IntN, 0)
		p := newPolicy(t, q.rules)
		var logins []policy.Login
		for step := range 60 {
			now := q.now.Add(time.Duration(step) * time.Minute)
			in := policy.Newcomer{
				Device:   event.DeviceID([]string{"", "d1", "d2", "d3", "d4", "d5"}[rng.IntN(6)]),
				Platform: platforms[rng.IntN(len(platforms))],
			}
			in.Primary = in.Device == "d1"
			if i := rng.IntN(len(logins) + 3); i < len(logins) {
				if rng.IntN(2) == 0 {
					logins[i].Holds, logins[i].Online = false, false
					continue
				}
				l := logins[i]
				in = policy.Newcomer{Device: l.Device, Platform: l.Platform, Login: l.ID, Primary: l.Primary}
			}
			d := p.Resolve(logins, in, now, policy.Answer{}, nil)
			if d.Verdict == policy.Refuse {
				continue
			}
			id := in.Login
			if id == "" {
				id = event.LoginID(fmt.Sprintf("L%d", step))
			}
			logins = append(without(logins, append(d.Victims, policy.Victim{Login: id})), policy.Login{
				ID: id, Device: in.Device, Platform: in.Platform, Admission: uint64(step), Holds: true, Primary: in.Primary,
				LastActive: now, Since: now,
			})
			require.Empty(t, p.Enforce(logins, nil), "%+v", q.rules)
			admitted++
		}
	}
	require.Greater(t, admitted, 3000)
}

// Whom enforcement ends at a limit of 2, of 4 logins on ios: the action's choice.
func TestA17_EnforceWhom(t *testing.T) {
	at := func(m int) time.Time { return time.Unix(int64(60*m), 0) }
	all := logins(4, "ios")
	all[0].LastActive, all[1].LastActive, all[2].LastActive, all[3].LastActive = at(4), at(3), at(2), at(1)
	all[0].Online, all[2].Online = true, true
	primary := slices.Clone(all)
	primary[0].Primary, primary[1].Primary = true, true
	same := slices.Clone(primary)
	same[1].Device = same[0].Device
	tests := []struct {
		name   string
		rules  policy.Rules
		logins []policy.Login
		want   []int
	}{
		{"earliest", policy.Rules{}, all, []int{0, 1}},
		{"least active", policy.Rules{AtPlatform: policy.EvictLeastActive}, all, []int{3, 2}},
		{"offline first", policy.Rules{AtPlatform: policy.EvictOfflineFirst}, all, []int{1, 3}},
		{"refuse", policy.Rules{AtPlatform: policy.RefuseNew}, all, []int{3, 2}},
		{"ask", policy.Rules{AtPlatform: policy.AskHost, Unanswered: policy.EvictLeastActive}, all, []int{3, 2}},
		{"ask, else refuse", policy.Rules{AtPlatform: policy.AskHost, Unanswered: policy.RefuseNew}, all, []int{3, 2}},
		{"protected", policy.Rules{}, primary, []int{2, 3}},
		{"all protected but too many", policy.Rules{Platforms: map[event.Platform]int{"ios": 1}}, primary, []int{2, 3}},
		{"older logins of the primary device", policy.Rules{}, same, []int{0, 2}},
		{"free", policy.Rules{Primary: policy.PrimaryFree}, primary, nil},
		{"ordinary", policy.Rules{Primary: policy.PrimaryOrdinary}, primary, []int{0, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.rules.PerPlatform = 2
			var got []int
			for _, v := range newPolicy(t, tt.rules).Enforce(tt.logins, nil) {
				got = append(got, v.Index)
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestTally(t *testing.T) {
	p := newPolicy(t, policy.Rules{PerPlatform: 1, MaxLogins: 3})
	var tally policy.Tally
	var buffer []policy.Victim
	for _, all := range [][]policy.Login{logins(1, "ios"), logins(3, "ios"), logins(4, "ios", "web", "macos", "linux"), nil} {
		buffer = p.Enforce(all, buffer)
		tally.Add(len(all), buffer, nil)
	}
	require.Equal(t, policy.Tally{
		Accounts: 4, Affected: 2, Logins: 8, Ends: 3,
		ByRule: map[string]int{policy.RulePlatform: 2, policy.RuleAccount: 1},
	}, tally)
}

func TestA21_MayEnd(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	hour := func(h int) time.Time { return now.Add(time.Duration(h) * time.Hour) }
	old := policy.Login{ID: "old", Device: "d1", Since: hour(-48)}
	young := policy.Login{ID: "young", Device: "d2", Since: hour(-2)}
	youngest := policy.Login{ID: "youngest", Device: "d3", Since: hour(-1)}
	ever := policy.Login{ID: "ever", Device: "d4"}
	primary := policy.Login{ID: "primary", Device: "d5", Primary: true, Since: hour(-3)}
	tests := []struct {
		name          string
		rules         policy.Rules
		actor, victim policy.Login
		want          policy.Permit
	}{
		{"no minimum", policy.Rules{}, young, old, policy.Permit{OK: true}},
		{"old enough", policy.Rules{MinAge: 24 * time.Hour}, old, young, policy.Permit{OK: true}},
		{"old enough, though newer", policy.Rules{MinAge: 2 * time.Hour}, young, old, policy.Permit{OK: true}},
		{"too young", policy.Rules{MinAge: 24 * time.Hour}, young, old, policy.Permit{Cause: policy.CauseMinAge, Wait: 22 * time.Hour}},
		{"young ends younger", policy.Rules{MinAge: 24 * time.Hour}, young, youngest, policy.Permit{OK: true}},
		{"since ever", policy.Rules{MinAge: 24 * time.Hour}, ever, old, policy.Permit{OK: true}},
		{"against since ever", policy.Rules{MinAge: 24 * time.Hour}, young, ever, policy.Permit{Cause: policy.CauseMinAge, Wait: 22 * time.Hour}},
		{"itself", policy.Rules{MinAge: 24 * time.Hour}, young, young, policy.Permit{OK: true}},
		{"own device", policy.Rules{MinAge: 24 * time.Hour}, young, policy.Login{ID: "x", Device: "d2"}, policy.Permit{OK: true}},
		{"primary", policy.Rules{}, old, primary, policy.Permit{Cause: policy.CausePrimary}},
		{"free primary", policy.Rules{Primary: policy.PrimaryFree}, old, primary, policy.Permit{Cause: policy.CausePrimary}},
		{"ordinary primary", policy.Rules{Primary: policy.PrimaryOrdinary}, old, primary, policy.Permit{OK: true}},
		{"primary itself", policy.Rules{}, primary, primary, policy.Permit{OK: true}},
		{"no devices", policy.Rules{MinAge: 24 * time.Hour}, policy.Login{ID: "a", Since: hour(-1)}, policy.Login{ID: "b", Since: hour(-2)},
			policy.Permit{Cause: policy.CauseMinAge, Wait: 23 * time.Hour}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, newPolicy(t, tt.rules).MayEnd(tt.actor, tt.victim, now))
		})
	}
}

func TestA15_Tabs(t *testing.T) {
	p := newPolicy(t, policy.Rules{Unknown: policy.CountAsOther, Tabs: map[event.Platform]int{"web": 8, policy.Other: 3}})
	for platform, want := range map[event.Platform]int{"web": 8, "ios": 1, "toaster": 3, policy.Other: 3, "": 3} {
		require.Equal(t, want, p.Tabs(platform), platform)
	}
	require.Equal(t, 1, newPolicy(t, policy.Rules{}).Tabs("toaster"))
}

// TestProtected_NamesWhoStaysBeyondARule: a protected primary device that keeps a rule broken is named with the rule (K20.11).
func TestProtected_NamesWhoStaysBeyondARule(t *testing.T) {
	logins := []policy.Login{
		{ID: "first", Device: "phone", Platform: "ios", Admission: 1, Holds: true, Primary: true},
		{ID: "second", Device: "tablet", Platform: "ios", Admission: 2, Holds: true},
		{ID: "third", Device: "laptop", Platform: "web", Admission: 3, Holds: true},
	}
	tests := []struct {
		name      string
		rules     policy.Rules
		ends      []event.LoginID
		protected map[event.LoginID]string
	}{
		{"nobody is beyond", policy.Rules{}, nil, nil},
		{"others make room", policy.Rules{PerPlatform: 1}, []event.LoginID{"second"}, nil},
		{"its platform is closed", policy.Rules{Platforms: map[event.Platform]int{"ios": 0, "web": 1}}, []event.LoginID{"second"}, map[event.LoginID]string{"first": policy.RulePlatform}},
		{"nobody protects it", policy.Rules{Platforms: map[event.Platform]int{"ios": 0, "web": 1}, Primary: policy.PrimaryOrdinary}, []event.LoginID{"second", "first"}, nil},
		{"single, and it is the older one", policy.Rules{Single: true}, []event.LoginID{"second", "third"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPolicy(t, tt.rules)
			var ends []event.LoginID
			for _, v := range p.Enforce(logins, nil) {
				ends = append(ends, v.Login)
			}
			require.ElementsMatch(t, tt.ends, ends)
			var stay map[event.LoginID]string
			for _, v := range p.Protected(logins) {
				if stay == nil {
					stay = map[event.LoginID]string{}
				}
				stay[v.Login] = v.Rule
				require.Empty(t, v.Reason)
				require.Equal(t, v.Login, logins[v.Index].ID)
			}
			require.Equal(t, tt.protected, stay)
		})
	}
}
