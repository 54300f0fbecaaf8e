package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// allRules has every field set, and is testdata/rules.json.
func allRules() policy.Rules {
	return policy.Rules{
		PerPlatform: 3, AtPlatform: policy.EvictLeastActive,
		Platforms: map[event.Platform]int{"ios": 2, "linux": 0, "tv": policy.NoLimit, policy.Other: 1},
		Actions: map[event.Platform]policy.Action{
			"ios": policy.EvictEarliest, "tv": policy.RefuseNew, "web": policy.AskHost,
		},
		Unknown: policy.CountAsOther,
		Classes: map[string][]event.Platform{"phones": {"android", "ios"}, "screens": {"tv", policy.Other}},
		Groups: []policy.Group{
			{Name: "mobile", Members: []string{"phones", "harmony"}, Limit: 2, Action: policy.EvictOfflineFirst},
			{Name: "home", Members: []string{"screens", "web"}, Limit: 4},
		},
		Total: 6, AtTotal: policy.RefuseNew, Single: true, MaxLogins: 32, Unanswered: policy.RefuseNew, AllowForce: true,
		Primary: policy.PrimaryFree, Slots: policy.SlotEveryLogin, Reconnect: policy.ReconnectRefused,
		Tabs: map[event.Platform]int{"web": 8}, MinAge: 24 * time.Hour,
	}
}

// A19: the names of the fields and what they hold are stable.
func TestA19_Golden(t *testing.T) {
	golden, err := os.ReadFile("testdata/rules.json")
	require.NoError(t, err)
	got, err := policy.ParseJSON(golden)
	require.NoError(t, err)
	require.Equal(t, allRules(), got)

	var want bytes.Buffer
	require.NoError(t, json.Compact(&want, golden))
	b, err := json.Marshal(allRules())
	require.NoError(t, err)
	require.Equal(t, want.String(), string(b))

	b, err = json.Marshal(policy.Rules{})
	require.NoError(t, err)
	require.Equal(t, "{}", string(b))
	var within struct{ Rules policy.Rules }
	require.NoError(t, json.Unmarshal([]byte(`{"Rules": {"per_platform": {"limit": 2}}}`), &within))
	require.Equal(t, policy.Rules{PerPlatform: 2}, within.Rules)
	require.Error(t, json.Unmarshal([]byte(`{"Rules": {"per_platform": {"limit": -2}}}`), &within))
	require.Equal(t, policy.Rules{PerPlatform: 2}, within.Rules, "a bad document changes nothing")
}

// A19: all faults at once, each with its path.
func TestA19_Faults(t *testing.T) {
	tests := []struct {
		name, doc string
		want      []string
	}{
		{"nothing", ``, []string{"rules: not one JSON value, at byte 0"}},
		{"broken", `{"single": tru}`, []string{"rules: not one JSON value, at byte 15"}},
		{"two", `{} {}`, []string{"rules: not one JSON value, at byte 4"}},
		{"comma", `{"groups": [],}`, []string{"rules: not one JSON value, at byte 15"}},
		{"UTF-8", "{\"\xff\": 1}", []string{"rules: not valid UTF-8"}},
		{"null", `null`, []string{"rules: want an object"}},
		{"list", `[]`, []string{"rules: want an object"}},
		{"deep", `{"groups": [[[[[[[[[]]]]]]]]]}`, []string{"rules: nested too deeply"}},
		{"long", `{"min_age": "` + strings.Repeat(" ", policy.MaxJSON) + `"}`, []string{"rules: 65551 bytes, at most 65536"}},
		{"unknown field", `{"Single": true, "groups": [{"name": "a", "members": ["ios"], "limit": 1, "max": 1}]}`,
			[]string{`["Single"]: not a field`, `groups[0]["max"]: not a field`}},
		{"twice", `{"single": true, "single": true, "platforms": {"ios": {"limit": 1, "limit": 1}, "ios": {"limit": 2}}}`,
			[]string{"single: there twice", `platforms["ios"].limit: there twice`, `platforms["ios"]: there twice`}},
		{"types", `{"per_platform": 4, "platforms": {"ios": 4, "web": {"limit": "4", "action": 1, "tabs": 1.5}}, "unknown": 1,
			"classes": {"a": "ios", "b": [1]}, "groups": {}, "total": {"limit": true}, "single": "yes", "max_logins": 1e1,
			"unanswered": "never", "allow_force": 1, "primary": "", "slots": null, "reconnect": [], "min_age": 24}`,
			[]string{
				"per_platform: want an object", `platforms["ios"]: want an object`, `platforms["web"].limit: want a whole number`,
				`platforms["web"].action: want one of evict_earliest, evict_least_active, evict_offline_first, refuse, ask`,
				`platforms["web"].tabs: want a whole number`, "unknown: want one of refuse, count_as_other",
				`classes["a"]: want a list`, `classes["b"][0]: want a string`, "groups: want a list",
				"total.limit: want a whole number", "single: want true or false", "max_logins: want a whole number",
				"unanswered: want one of evict_earliest, evict_least_active, evict_offline_first, refuse, ask",
				"allow_force: want true or false", "primary: want one of protected, free, ordinary",
				"slots: want one of online, every_login", "reconnect: want one of evict, refuse",
				`min_age: want a span of time in a string, such as "24h"`,
			}},
		{"values", `{"per_platform": {"limit": -2}, "platforms": {"TV": {"limit": -2}, "car": {"action": "ask"}, "pad": {}, "web": {"tabs": 99}},
			"classes": {"ios": ["web"], "none": []}, "groups": [{}, {"name": "g", "members": ["car", "web", "web"], "limit": 0}],
			"total": {"limit": -2}, "max_logins": 65, "unanswered": "ask", "min_age": "-1h"}`,
			[]string{
				`platforms["pad"]: want limit, action or tabs`,
				"per_platform.limit: want -1 for no limit, 0 for the default, or more",
				`platforms["TV"].limit: want 1 to 32 lowercase letters a-z, digits, '.', '_' or '-'`,
				`platforms["TV"].limit: want -1 for no limit, 0 to close the platform, or more`,
				"max_logins: want 1 to 64, or 0 for the default",
				`platforms["car"].action: not a known platform; give it a limit first`,
				"unanswered: the host has been asked already",
				`classes["ios"]: the name of a platform`, `classes["none"]: empty`,
				"groups[0].name: want 1 to 32 lowercase letters a-z, digits, '.', '_' or '-'", "groups[0].members: empty",
				"groups[0].limit: want 1 or more",
				"groups[1].members[0]: neither a known platform nor a class", "groups[1].members[2]: there twice",
				"groups[1].limit: want 1 or more", "total.limit: want -1 or 0 for no limit, or more",
				`platforms["web"].tabs: want 1 to 32`, "min_age: -1h, want 1m to 100y, or 0",
			}},
		{"shape and values together", `{"groups": [{"name": 1, "members": ["tv"], "limit": -1, "why": 1}], "max_logins": 99}`,
			[]string{
				"groups[0].name: want a string", `groups[0]["why"]: not a field`, "max_logins: want 1 to 64, or 0 for the default",
				"groups[0].members[0]: neither a known platform nor a class", "groups[0].limit: want 1 or more",
			}},
		// Where 0 is the default in Go, it could be taken for "closed" here.
		{"zero", `{"per_platform": {"limit": 0}, "total": {"limit": 0}}`, []string{
			"per_platform.limit: 0, want at least 1, or -1 for none; what is left out has the default",
			"total.limit: 0, want at least 1, or -1 for none; what is left out has the default",
		}},
		{"long name", `{"` + strings.Repeat("x", 99) + `": 1}`, []string{`["` + strings.Repeat("x", 64) + `..."]: not a field`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := policy.ParseJSON([]byte(tt.doc))
			require.Equal(t, policy.Rules{}, r)
			joined, ok := errors.Unwrap(err).(interface{ Unwrap() []error })
			require.True(t, ok, "%v", err)
			var got []string
			for _, e := range joined.Unwrap() {
				invalid, ok := errors.AsType[*event.InvalidError](e)
				require.True(t, ok)
				got = append(got, invalid.Field+": "+invalid.Reason)
			}
			require.Equal(t, tt.want, got)
		})
	}
}

// Rules that New refuses are not written.
func TestRules_MarshalFaults(t *testing.T) {
	_, err := json.Marshal(policy.Rules{PerPlatform: -2, Slots: 9})
	require.ErrorContains(t, err, "invalid PerPlatform")
	require.ErrorContains(t, err, "invalid Slots")
	_, err = json.Marshal(policy.Rules{Unanswered: policy.AskHost})
	require.Error(t, err)
}

// roundTrip checks that rules come back the same, and that what they mean is the same.
func roundTrip(t *testing.T, r policy.Rules) {
	t.Helper()
	b, err := json.Marshal(r)
	require.NoError(t, err)
	got, err := policy.ParseJSON(b)
	require.NoError(t, err, "%s", b)
	for _, m := range []*map[event.Platform]int{&r.Platforms, &r.Tabs} { // an empty map is written like none
		if len(*m) == 0 {
			*m = nil
		}
	}
	require.Equal(t, r, got, "%s", b)
	again, err := json.Marshal(got)
	require.NoError(t, err)
	require.Equal(t, string(b), string(again))
}

func TestA19_RoundTrip(t *testing.T) {
	rng := seeded(t)
	for range 700 {
		q := drawQuestion(rng.IntN, 10)
		if rng.IntN(2) == 0 {
			q.rules.Tabs = map[event.Platform]int{"web": 1 + rng.IntN(policy.MaxTabs)}
		}
		roundTrip(t, q.rules)
		roundTrip(t, newPolicy(t, q.rules).Rules())
	}
	for _, p := range policy.Presets() {
		roundTrip(t, p.Rules)
	}
}

// FuzzParseJSON reads anything: what is read is valid, and comes back the same.
func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"platforms": {"web": {"tabs": 3}}}`, `{"groups": [{"name": "a", "members": ["ios"], "limit": 1}]}`, `{"min_age": "1h"}`, `[{"a": null}]`} {
		f.Add([]byte(s))
	}
	golden, err := os.ReadFile("testdata/rules.json")
	require.NoError(f, err)
	f.Add(golden)
	f.Fuzz(func(t *testing.T, doc []byte) {
		r, err := policy.ParseJSON(doc)
		if err != nil {
			_, ok := errors.AsType[*event.InvalidError](err)
			require.True(t, ok, "%v", err)
			return
		}
		newPolicy(t, r)
		b, err := json.Marshal(r)
		require.NoError(t, err)
		again, err := policy.ParseJSON(b)
		require.NoError(t, err)
		b2, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(b), string(b2))
	})
}
