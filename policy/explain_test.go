package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// builtIn are the platforms that are always known, as texts name them.
const builtIn = "android, ios, web, windows, macos, linux, harmony"

// TestPlatforms (K12.7): the known platforms are listed in a fixed order, as the caller's own; a text of many is bounded.
func TestPlatforms(t *testing.T) {
	many := map[event.Platform]int{policy.Other: 1, "ios": 0}
	for i := range 30 {
		many[event.Platform(fmt.Sprintf("p%02d", i))] = 1
	}
	p := newPolicy(t, policy.Rules{Platforms: many, Unknown: policy.CountAsOther})
	all := p.Platforms()
	require.Len(t, all, 37)
	require.Equal(t, event.Platform("p29"), all[36])
	require.Equal(t, builtIn+", p00, p01, p02, p03, p04, p05, p06, p07, p08, p09, p10, p11, p12, p13, p14, p15, p16 and 13 more", all.String())
	all[0] = "x"
	require.Equal(t, event.Platform("android"), p.Platforms()[0])
	require.Equal(t, builtIn, new(policy.Policy).Platforms().String(), "also of the zero policy")
	require.Empty(t, policy.Platforms{}.String())
	require.Nil(t, newPolicy(t, policy.Rules{}).Explain(nil, policy.Newcomer{Platform: "ios"}, time.UnixMilli(5)).Known)
}

// The summary of a refusal says in words what it is about: the platform as the client named it, or the rule and how many
// logins would have to end (K9, K12.7).
func TestExplain_Summary(t *testing.T) {
	closed := map[event.Platform]int{"web": 0, policy.Other: 0}
	tests := []struct {
		name  string
		rules policy.Rules
		in    policy.Newcomer
		want  string
	}{
		{"unknown", policy.Rules{}, policy.Newcomer{Platform: "ipad"}, `refused: platform "ipad" is not one of ` + builtIn},
		{"no platform", policy.Rules{}, policy.Newcomer{}, `refused: platform "" is not one of ` + builtIn},
		{"reserved", policy.Rules{}, policy.Newcomer{Platform: policy.Other}, `refused: platform "other" is not one of ` + builtIn},
		{"unsafe and long", policy.Rules{}, policy.Newcomer{Platform: event.Platform("\x1b\n" + strings.Repeat("x", 1_000))},
			`refused: platform "\x1b\n` + strings.Repeat("x", 62) + `..." is not one of ` + builtIn},
		{"closed", policy.Rules{Platforms: closed, Unknown: policy.CountAsOther}, policy.Newcomer{Platform: "web"},
			`refused: platform "web" is closed`},
		{"unknown are closed", policy.Rules{Platforms: closed, Unknown: policy.CountAsOther}, policy.Newcomer{Platform: "ipad"},
			`refused: platform "ipad" is not one of ` + builtIn},
		{"unknown among own ones", policy.Rules{Platforms: map[event.Platform]int{"pad": 2, "kiosk": -1, "web": 0}}, policy.Newcomer{Platform: "ipad"},
			`refused: platform "ipad" is not one of ` + builtIn + ", kiosk, pad"},
		{"full", policy.Rules{PerPlatform: 2, AtPlatform: policy.RefuseNew}, policy.Newcomer{Platform: "ios"},
			`refused by "platform" (limit 2, count 4, 3 would have to end)`},
		{"too new", policy.Rules{PerPlatform: 2, MinAge: time.Hour}, policy.Newcomer{Platform: "ios", Since: time.UnixMilli(5)},
			`refused by "platform" (limit 2, count 4, 3 would have to end), since its device may not end older logins for another 1h0m0s`},
		{"bound", policy.Rules{MaxLogins: 2}, policy.Newcomer{Platform: "ios", Wish: policy.ForceEvict},
			`refused by "account" (limit 2, count 3, 2 would have to end)`},
		{"asked", policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost}, policy.Newcomer{Platform: "ios"},
			`the host is asked by "platform", at least 3 of 4 must end`},
		{"admitted", policy.Rules{PerPlatform: 2}, policy.Newcomer{Platform: "ios"}, "admitted on ios, 3 end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newPolicy(t, tt.rules).Explain(logins(4, "ios"), tt.in, time.UnixMilli(5))
			require.Equal(t, tt.want, e.Summary())
			require.True(t, strings.HasPrefix(e.String(), e.Summary()))
			require.Equal(t, tt.in, e.Newcomer)
		})
	}
}

// A preset made with 0, which would mean no limit, is refused.
func TestPresets_ZeroIsNotNoLimit(t *testing.T) {
	for name, rules := range map[string]policy.Rules{
		"per platform": policy.PresetPerPlatform(0), "total": policy.PresetTotal(0), "refuse": policy.PresetRefuse(0),
		"companions": policy.PresetCompanions(0),
	} {
		_, err := policy.New(rules)
		require.Error(t, err, name)
	}
	for _, n := range []int{policy.NoLimit, 1, 100} {
		newPolicy(t, policy.PresetPerPlatform(n))
		newPolicy(t, policy.PresetTotal(n))
	}
}
