package policy_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// K9.8: the zero Policy decides like that of the zero Rules, whatever it is asked.
func TestZeroPolicy_IsThatOfTheZeroRules(t *testing.T) {
	var declared policy.Policy
	made := newPolicy(t, policy.Rules{})
	rng := seeded(t)
	for name, zero := range map[string]*policy.Policy{"declared": &declared, "composite": {}, "nil": nil} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, made.Rules(), zero.Rules())
			want, err := json.Marshal(made.Rules())
			require.NoError(t, err)
			got, err := json.Marshal(zero.Rules())
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
			for _, platform := range platforms {
				require.Equal(t, made.Tabs(platform), zero.Tabs(platform))
			}
			for range 200 {
				q := drawQuestion(rng.IntN, 12)
				require.Equal(t, made.Decide(q.logins, q.in, q.now, nil), zero.Decide(q.logins, q.in, q.now, nil))
				require.Equal(t, made.Resolve(q.logins, q.in, q.now, q.answer, nil), zero.Resolve(q.logins, q.in, q.now, q.answer, nil))
				require.Equal(t, made.Explain(q.logins, q.in, q.now).String(), zero.Explain(q.logins, q.in, q.now).String())
				require.Equal(t, made.ExplainAnswer(q.logins, q.in, q.now, q.answer), zero.ExplainAnswer(q.logins, q.in, q.now, q.answer))
				require.Equal(t, made.Enforce(q.logins, nil), zero.Enforce(q.logins, nil))
				for _, l := range q.logins {
					require.Equal(t, made.MayEnd(q.logins[0], l, q.now), zero.MayEnd(q.logins[0], l, q.now))
					require.Equal(t, made.MayReplace(q.in, l, q.now), zero.MayReplace(q.in, l, q.now))
				}
			}
		})
	}
}

// Zero values of the package's other types are valid where they are taken, and printable where they are returned.
func TestZeroValues_DoNotPanic(t *testing.T) {
	p := newPolicy(t, policy.Rules{Unknown: policy.CountAsOther, MinAge: time.Hour, Single: true})
	zero := make([]policy.Login, 3) // no ID, device, platform, admission or time
	require.NotPanics(t, func() {
		for _, logins := range [][]policy.Login{nil, zero} {
			p.Decide(logins, policy.Newcomer{}, time.Time{}, nil)
			p.Resolve(logins, policy.Newcomer{}, time.Time{}, policy.Answer{}, nil)
			p.ExplainAnswer(logins, policy.Newcomer{}, time.Time{}, policy.Answer{End: []event.LoginID{"", ""}})
			p.Enforce(logins, nil)
		}
		p.MayEnd(policy.Login{}, policy.Login{}, time.Time{})
		p.MayReplace(policy.Newcomer{}, policy.Login{}, time.Time{})
		require.NotEmpty(t, policy.Explanation{}.String())
		var tally policy.Tally
		tally.Add(0, nil, nil)
		require.Equal(t, policy.Tally{Accounts: 1}, tally)
	})
}
