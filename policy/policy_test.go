package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

func newPolicy(t testing.TB, r policy.Rules) *policy.Policy {
	t.Helper()
	p, err := policy.New(r)
	require.NoError(t, err)
	return p
}

func device(i int) event.DeviceID { return event.DeviceID(fmt.Sprintf("device-%029d", i)) }

// logins returns n logins in order of admission, spread over the platforms, each on a device of its own.
func logins(n int, platforms ...event.Platform) []policy.Login {
	s := make([]policy.Login, n)
	for i := range s {
		s[i] = policy.Login{
			ID:        event.LoginID(fmt.Sprintf("%032d", i)),
			Device:    device(i),
			Platform:  platforms[i%len(platforms)],
			Admission: uint64(i + 1),
			Holds:     true,
		}
	}
	return s
}

func TestNew_Faults(t *testing.T) {
	tests := []struct {
		name  string
		rules policy.Rules
		want  []string // fields, in order
	}{
		{"zero", policy.Rules{}, nil},
		{"no limits", policy.Rules{PerPlatform: policy.NoLimit, Platforms: map[event.Platform]int{"web": policy.NoLimit}}, nil},
		{"closed", policy.Rules{Platforms: map[event.Platform]int{"web": 0}}, nil},
		{"per platform", policy.Rules{PerPlatform: -2}, []string{"PerPlatform"}},
		{"too many logins", policy.Rules{MaxLogins: policy.MaxLogins + 1}, []string{"MaxLogins"}},
		{"no logins", policy.Rules{MaxLogins: -1}, []string{"MaxLogins"}},
		{"unknown rule", policy.Rules{Unknown: 7}, []string{"Unknown"}},
		{"limit", policy.Rules{Platforms: map[event.Platform]int{"tv": -2}}, []string{`Platforms["tv"]`}},
		{"empty name", policy.Rules{Platforms: map[event.Platform]int{"": 1}}, []string{`Platforms[""]`}},
		{"letter case", policy.Rules{Platforms: map[event.Platform]int{"iOS": 1}}, []string{`Platforms["iOS"]`}},
		{"long name", policy.Rules{Platforms: map[event.Platform]int{event.Platform(strings.Repeat("a", 33)): 1}},
			[]string{`Platforms["` + strings.Repeat("a", 33) + `"]`}},
		{"control character", policy.Rules{Platforms: map[event.Platform]int{"a\n": 1}}, []string{`Platforms["a\n"]`}},
		{"other is reserved", policy.Rules{Platforms: map[event.Platform]int{policy.Other: 1}}, []string{`Platforms["other"]`}},
		{"other is counted", policy.Rules{Unknown: policy.CountAsOther, Platforms: map[event.Platform]int{policy.Other: 1}}, nil},
		{"actions", policy.Rules{AtPlatform: 5, AtTotal: 6, Unanswered: 7, Actions: map[event.Platform]policy.Action{"ios": 9, "tv": 1}},
			[]string{"AtPlatform", `Actions["ios"]`, `Actions["tv"]`, "AtTotal", "Unanswered"}},
		{"asked twice", policy.Rules{Unanswered: policy.AskHost}, []string{"Unanswered"}},
		{"choices", policy.Rules{Primary: 3, Slots: 2, Reconnect: 2, MinAge: -1, Total: -2},
			[]string{"Total", "Primary", "Slots", "Reconnect", "MinAge"}},
		{"tabs", policy.Rules{Tabs: map[event.Platform]int{"ios": 0, "tv": 1, "web": policy.MaxTabs + 1}},
			[]string{`Tabs["ios"]`, `Tabs["tv"]`, `Tabs["web"]`}},
		{"classes", policy.Rules{Classes: map[string][]event.Platform{"ios": {"web"}, "other": {"web"}, "A": {"web"}, "b": {}, "c": {"web", "tv", "web"}}},
			[]string{`Classes["A"]`, `Classes["b"]`, `Classes["c"][1]`, `Classes["c"][2]`, `Classes["ios"]`, `Classes["other"]`}},
		{"groups", policy.Rules{Classes: map[string][]event.Platform{"c": {"web", "ios"}}, Groups: []policy.Group{
			{Name: "a", Members: []string{"c", "web"}, Limit: 1},
			{Name: "a", Members: []string{"web", "web", "tv", "other", "d"}, Limit: 0, Action: 5},
			{Name: "", Members: nil, Limit: -1},
		}}, []string{
			"Groups[1].Name", "Groups[1].Members[1]", "Groups[1].Members[2]", "Groups[1].Members[3]", "Groups[1].Members[4]",
			"Groups[1].Limit", "Groups[1].Action", "Groups[2].Name", "Groups[2].Members", "Groups[2].Limit",
		}},
		{"most groups", policy.Rules{Groups: groups(policy.MaxGroups)}, nil},
		{"too many groups", policy.Rules{Groups: groups(policy.MaxGroups + 1)}, []string{"Groups"}},
		{"other in a group", policy.Rules{Unknown: policy.CountAsOther, Groups: []policy.Group{{Name: "a", Members: []string{"other"}, Limit: 1}}}, nil},
		{"all at once", policy.Rules{PerPlatform: -9, MaxLogins: 65, Unknown: 2, Platforms: map[event.Platform]int{"B": -2, "A": 1}},
			[]string{"PerPlatform", `Platforms["A"]`, `Platforms["B"]`, `Platforms["B"]`, "Unknown", "MaxLogins"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := policy.New(tt.rules)
			if tt.want == nil {
				require.NoError(t, err)
				return
			}
			require.Nil(t, p)
			require.Equal(t, tt.want, fields(err))
		})
	}
}

// groups returns n groups, each of web alone.
func groups(n int) []policy.Group {
	all := make([]policy.Group, n)
	for i := range all {
		all[i] = policy.Group{Name: fmt.Sprintf("g%d", i), Members: []string{"web"}, Limit: n + 1 - i}
	}
	return all
}

// The most rules that there can be: every group evicts, down to the last one's limit.
func TestDecide_MostRules(t *testing.T) {
	p := newPolicy(t, policy.Rules{PerPlatform: 60, Groups: groups(policy.MaxGroups), Total: 60})
	d := p.Decide(logins(50, "web"), policy.Newcomer{Platform: "web"}, time.Time{}, nil)
	require.Equal(t, policy.Admit, d.Verdict)
	require.Len(t, d.Victims, 49)
	require.Equal(t, "group:g31", d.Victims[48].Rule)
}

// fields returns the field of every InvalidError that err joins.
func fields(err error) []string {
	if joined, ok := errors.Unwrap(err).(interface{ Unwrap() []error }); ok {
		var s []string
		for _, e := range joined.Unwrap() {
			if invalid, ok := errors.AsType[*event.InvalidError](e); ok {
				s = append(s, invalid.Field)
			}
		}
		return s
	}
	return nil
}

func TestRules_AreCopies(t *testing.T) {
	given := policy.Rules{Platforms: map[event.Platform]int{"tv": 1}}
	p := newPolicy(t, given)
	given.Platforms["tv"] = 0
	p.Rules().Platforms["tv"] = 0
	deep := policy.Rules{
		Classes: map[string][]event.Platform{"c": {"ios"}}, Groups: []policy.Group{{Name: "g", Members: []string{"c"}, Limit: 1}},
		Actions: map[event.Platform]policy.Action{"ios": policy.RefuseNew}, Tabs: map[event.Platform]int{"web": 2},
	}
	kept := newPolicy(t, deep)
	for _, r := range []policy.Rules{deep, kept.Rules()} {
		r.Classes["c"][0], r.Groups[0].Members[0], r.Groups[0].Limit = "web", "web", 9
		r.Actions["ios"], r.Tabs["web"] = policy.AskHost, 3
	}
	require.Equal(t, policy.Rules{
		PerPlatform: 4, MaxLogins: 64, Platforms: deep.Platforms,
		Classes: map[string][]event.Platform{"c": {"ios"}}, Groups: []policy.Group{{Name: "g", Members: []string{"c"}, Limit: 1}},
		Actions: map[event.Platform]policy.Action{"ios": policy.RefuseNew}, Tabs: map[event.Platform]int{"web": 2},
	}, kept.Rules())
	want := policy.Rules{PerPlatform: 4, Platforms: map[event.Platform]int{"tv": 1}, MaxLogins: 64}
	require.Equal(t, want, p.Rules())
	require.Equal(t, policy.Admit, p.Decide(nil, policy.Newcomer{Platform: "tv"}, time.Time{}, nil).Verdict)
	require.Equal(t, want, newPolicy(t, p.Rules()).Rules(), "rules with defaults mean the same")
}

func TestDecide_KnownPlatforms(t *testing.T) {
	p := newPolicy(t, policy.Rules{})
	for _, name := range []event.Platform{"android", "ios", "web", "windows", "macos", "linux", "harmony"} {
		d := p.Decide(logins(4, name), policy.Newcomer{Platform: name}, time.Time{}, nil)
		require.Equal(t, policy.Decision{
			Verdict: policy.Admit, Rule: policy.RulePlatform, Limit: 4, Count: 4, Platform: name,
			Victims: []policy.Victim{{Login: logins(1, name)[0].ID, Reason: event.EvictedQuota, Rule: policy.RulePlatform}},
		}, d)
	}
}

// Equal admission numbers must not happen. If they do, the answer is still the same for the same logins.
func TestDecide_TieByLoginID(t *testing.T) {
	p := newPolicy(t, policy.Rules{PerPlatform: 2})
	all := logins(4, "ios")
	for i := range all {
		all[i].Admission = 7
	}
	want := []event.LoginID{all[0].ID, all[1].ID, all[2].ID}
	for range 2 {
		slices.Reverse(all)
		var got []event.LoginID
		for _, v := range p.Decide(all, policy.Newcomer{Platform: "ios"}, time.Time{}, nil).Victims {
			got = append(got, v.Login)
		}
		require.Equal(t, want, got)
	}
}

func TestS7_ClockDoesNotMatter(t *testing.T) {
	p := newPolicy(t, policy.Rules{})
	all := logins(9, "ios", "web")
	now := time.Unix(1_700_000_000, 0)
	want := p.Decide(all, policy.Newcomer{Platform: "ios"}, now, nil)
	require.Len(t, want.Victims, 2)
	for _, jump := range []time.Duration{-time.Hour, 24 * time.Hour, -1 << 62} {
		require.Equal(t, want, p.Decide(all, policy.Newcomer{Platform: "ios"}, now.Add(jump), nil))
	}
}

// More logins than any account may have are no valid input, but they must not break anything either.
func TestDecide_FarTooMany(t *testing.T) {
	p := newPolicy(t, policy.Rules{})
	all := logins(1000, "ios")
	d := p.Decide(all, policy.Newcomer{Platform: "ios"}, time.Time{}, nil)
	require.Equal(t, policy.Admit, d.Verdict)
	require.Len(t, d.Victims, 997)
	require.Equal(t, policy.Refuse, p.Decide(all, policy.Newcomer{Platform: "web"}, time.Time{}, nil).Verdict)
}

func TestDecide_Buffer(t *testing.T) {
	p := newPolicy(t, policy.Rules{Single: true})
	all := logins(16, "ios", "web")
	buffer := make([]policy.Victim, 3, 16)
	d := p.Decide(all, policy.Newcomer{Platform: "ios"}, time.Time{}, buffer)
	require.Len(t, d.Victims, 16, "what was in the buffer is gone")
	require.Same(t, &buffer[0], &d.Victims[0])

	buffer = buffer[:2]
	refused := p.Decide(all, policy.Newcomer{Platform: "toaster"}, time.Time{}, buffer)
	require.Equal(t, policy.Decision{Verdict: policy.Refuse, Rule: policy.RuleUnknownPlatform, Victims: buffer[:0]}, refused)
}

// questions are asked by the allocation test and by the benchmark: 16 logins each.
var questions = []struct {
	name  string
	rules policy.Rules
	in    policy.Newcomer
}{
	{"admitted", policy.Rules{PerPlatform: 8}, policy.Newcomer{Device: device(99), Platform: "ios"}},
	{"evicting", policy.Rules{}, policy.Newcomer{Device: device(99), Platform: "ios"}},
	{"replacing", policy.Rules{}, policy.Newcomer{Device: device(3), Platform: "ios"}},
	{"single", policy.Rules{Single: true}, policy.Newcomer{Device: device(99), Platform: "ios"}},
	{"other", policy.Rules{Unknown: policy.CountAsOther}, policy.Newcomer{Device: device(99), Platform: "toaster"}},
	{"refused", policy.Rules{MaxLogins: 8}, policy.Newcomer{Device: device(99), Platform: "macos"}},
	{"rules=6/admitted", sixRules(8), policy.Newcomer{Device: device(99), Platform: "ios"}},
	{"rules=6/evicting", sixRules(0), policy.Newcomer{Device: device(99), Platform: "ios"}},
	{"rules=6/refused", sixRules(-8), policy.Newcomer{Device: device(99), Platform: "ios"}},
	{"rules=6/asking", asking(sixRules(0)), policy.Newcomer{Device: device(99), Platform: "ios"}},
	{"too new", policy.Rules{MinAge: time.Hour}, policy.Newcomer{Device: device(99), Platform: "ios", Since: time.UnixMilli(1)}},
	{"comeback", policy.Rules{}, policy.Newcomer{Device: device(1), Platform: "ios", Login: "00000000000000000000000000000001"}},
}

// sixRules are six rules for a newcomer on ios: device, platform, two groups, total and account. Of the 16 logins there
// are 6 on ios, 5 on web and 5 on android; room says how many of each more are allowed than there are.
func sixRules(room int) policy.Rules {
	r := policy.Rules{
		PerPlatform: 6 + max(room, 0), Total: 16 + max(room, 0), AtTotal: policy.EvictLeastActive,
		Groups: []policy.Group{
			{Name: "phones", Members: []string{"ios", "android"}, Limit: 11 + max(room, 0)},
			{Name: "screens", Members: []string{"ios", "web"}, Limit: 11 + max(room, 0)},
		},
	}
	if room < 0 {
		r.AtTotal, r.PerPlatform = policy.RefuseNew, 7
	}
	return r
}

func asking(r policy.Rules) policy.Rules {
	r.AtPlatform = policy.AskHost
	return r
}

func TestDecide_DoesNotAllocate(t *testing.T) {
	for _, q := range questions {
		t.Run(q.name, func(t *testing.T) {
			p, all := newPolicy(t, q.rules), logins(16, "ios", "web", "android")
			buffer := make([]policy.Victim, 0, len(all))
			got := testing.AllocsPerRun(100, func() {
				buffer = p.Decide(all, q.in, time.Time{}, buffer).Victims
			})
			require.Zero(t, got)
		})
	}
}

// The goal is at most 300 ns with six rules, on an idle machine.
func BenchmarkDecide(b *testing.B) {
	for _, q := range questions {
		b.Run("logins=16/"+q.name, func(b *testing.B) {
			p, all := newPolicy(b, q.rules), logins(16, "ios", "web", "android")
			buffer := make([]policy.Victim, 0, len(all))
			b.ReportAllocs()
			for b.Loop() {
				buffer = p.Decide(all, q.in, time.Time{}, buffer).Victims
			}
		})
	}
}

func TestStrings(t *testing.T) {
	tests := []struct {
		name string
		got  fmt.Stringer
		want string
	}{
		{"refuse", policy.Refuse, "refuse"},
		{"admit", policy.Admit, "admit"},
		{"ask", policy.Ask, "ask"},
		{"verdict", policy.Verdict(9), "Verdict(9)"},
		{"earliest", policy.EvictEarliest, "evict_earliest"},
		{"least active", policy.EvictLeastActive, "evict_least_active"},
		{"offline first", policy.EvictOfflineFirst, "evict_offline_first"},
		{"refuse new", policy.RefuseNew, "refuse"},
		{"ask host", policy.AskHost, "ask"},
		{"action", policy.Action(9), "Action(9)"},
		{"protected", policy.PrimaryProtected, "protected"},
		{"free", policy.PrimaryFree, "free"},
		{"ordinary", policy.PrimaryOrdinary, "ordinary"},
		{"primary", policy.PrimaryRule(9), "PrimaryRule(9)"},
		{"online", policy.SlotOnline, "online"},
		{"every login", policy.SlotEveryLogin, "every_login"},
		{"slots", policy.SlotRule(9), "SlotRule(9)"},
		{"reconnect evicts", policy.ReconnectEvicts, "evict"},
		{"reconnect refused", policy.ReconnectRefused, "refuse"},
		{"reconnect", policy.ReconnectRule(9), "ReconnectRule(9)"},
		{"no wish", policy.NoWish, "none"},
		{"force", policy.ForceEvict, "force"},
		{"never", policy.NeverEvict, "never evict"},
		{"wish", policy.Wish(9), "Wish(9)"},
		{"unknown refused", policy.RefuseUnknown, "refuse"},
		{"unknown counted", policy.CountAsOther, "count as other"},
		{"unknown rule", policy.UnknownRule(9), "UnknownRule(9)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, tt.got.String()) })
	}
}

func TestExplain_IsTheCallers(t *testing.T) {
	p := newPolicy(t, policy.Rules{PerPlatform: 1})
	all := logins(2, "ios")
	e := p.Explain(all, policy.Newcomer{Platform: "ios"}, time.Time{})
	text := e.String()
	e.Victims[0].Login = "changed"
	require.Equal(t, text, e.String(), "the steps share memory with the victims")
	require.Equal(t, text, p.Explain(all, policy.Newcomer{Platform: "ios"}, time.Time{}).String())
}
