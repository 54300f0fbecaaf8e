package session_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// randomRules returns a policy of random limits.
func randomRules(t *testing.T, rng *rand.Rand) *policy.Policy {
	t.Helper()
	r := policy.Rules{PerPlatform: rng.IntN(5) - 1, Total: rng.IntN(6) - 1, MaxLogins: rng.IntN(10)}
	if rng.IntN(2) == 0 {
		r.Platforms = map[event.Platform]int{"ios": rng.IntN(4) - 1, "web": rng.IntN(4) - 1, "android": rng.IntN(3)}
	}
	if rng.IntN(2) == 0 {
		r.Groups = []policy.Group{{Name: "g", Members: []string{"ios", "web"}, Limit: 1 + rng.IntN(3)}}
	}
	if rng.IntN(3) == 0 {
		r.Primary = policy.PrimaryProtected
	}
	if rng.IntN(3) == 0 {
		r.Slots = policy.SlotEveryLogin
	}
	if rng.IntN(3) == 0 {
		r.Tabs = map[event.Platform]int{"web": 1 + rng.IntN(3)}
	}
	p, err := policy.New(r)
	if err != nil { // the numbers do not fit together
		return randomRules(t, rng)
	}
	return p
}

// TestEnforce_RehearsalsOfRandomAccounts: whatever logins there are, with primary devices, tabs, policies of accounts' own
// and logins that have lost their slot, a rehearsal says what happens, and afterwards nobody is left to end (K20.11).
func TestEnforce_RehearsalsOfRandomAccounts(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 20))
		own := map[event.Account]*policy.Policy{}
		s := setup{config: session.Config{
			LoginsPerMinute: -1, FlapLimit: -1, AttachesPerAccount: -1, IdleDevice: 20 * time.Minute,
			DecidePolicy: func(_ context.Context, q session.Question) (*policy.Policy, error) { return own[q.Account], nil },
		}}
		inBubble(t, s, func(w *world) {
			accounts, platforms := []event.Account{"ann", "bob", "cyd"}, []event.Platform{"ios", "web", "android"}
			var all []*gadget
			for range 60 {
				a, d := accounts[rng.IntN(3)], event.DeviceID(fmt.Sprint("d", rng.IntN(8)))
				switch rng.IntN(8) {
				case 0:
					_ = w.reg.SetPrimary(w.t.Context(), a, d) // there may be none
				case 1:
					w.pass(time.Duration(rng.IntN(8)) * time.Minute)
				case 2:
					if len(all) > 0 {
						g := all[rng.IntN(len(all))]
						_, _ = w.reg.Attach(w.t.Context(), session.AttachRequest{
							Account: g.acc, Login: g.id, Token: g.token, Tab: fmt.Sprint(rng.IntN(3)),
						}, new(wire)) // it may have ended
					}
				case 3:
					if rng.IntN(3) == 0 {
						own[a] = randomRules(w.t, rng)
						continue
					}
					require.NoError(w.t, w.reg.SetPolicy(randomRules(w.t, rng)))
				default:
					if g, err := w.tryLogin(request(a, d, platforms[rng.IntN(3)])); err == nil {
						all = append(all, g)
					}
				}
			}
			candidate := randomRules(w.t, rng)
			rehearsed, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{Candidate: candidate, PerSecond: -1})
			require.NoError(w.t, err)
			require.NoError(w.t, w.reg.SetPolicy(candidate))
			for range 2 {
				done, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1})
				require.NoError(w.t, err)
				require.Equal(w.t, rehearsed.Ends, done.Ends, "seed %d", seed)
				if done.Ends > 0 {
					require.Equal(w.t, rehearsed, done, "seed %d", seed)
				}
				rehearsed.Ends = 0
			}
		})
	}
}
