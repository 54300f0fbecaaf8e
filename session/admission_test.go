package session_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

func TestS1_ManyLoginsAtOnce(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		old := w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		var mu sync.Mutex
		most := 0
		w.st.set(func(f *faults) {
			f.before = func(b store.Batch) error {
				n := shapeOf(w.t, b.Record.Data).holders("ios")
				mu.Lock()
				defer mu.Unlock()
				most = max(most, n)
				return nil
			}
		})
		const newcomers = 50
		results := make([]*gadget, newcomers)
		var wg sync.WaitGroup
		for i := range newcomers {
			wg.Go(func() {
				g, err := w.tryLogin(request("ann", event.DeviceID(fmt.Sprintf("n%d", i)), "ios"))
				if err == nil {
					results[i] = g
				}
			})
		}
		wg.Wait()
		require.NotContains(w.t, results, (*gadget)(nil))
		require.Equal(w.t, 4, most, "no commit ever held more")

		victims := map[event.LoginID]int{}
		for _, g := range results {
			require.Len(w.t, g.res.Victims, 1)
			v := g.res.Victims[0]
			victims[v.Session.Login]++
			require.Equal(w.t, event.EvictedQuota, v.Closed.Reason)
			require.Equal(w.t, g.id, v.Closed.Cause.Login)
		}
		require.Len(w.t, victims, newcomers, "each login was evicted once")
		require.Len(w.t, w.revocations(), newcomers)
		for _, g := range old {
			require.Equal(w.t, 1, victims[g.id])
			require.Equal(w.t, []event.Reason{event.EvictedQuota}, g.wire.reasons())
		}
		var last []uint64
		for _, s := range w.list("ann") {
			last = append(last, s.Admission)
			require.Zero(w.t, victims[s.Login])
		}
		require.Equal(w.t, []uint64{51, 52, 53, 54}, last)
	})
}

func TestS2_OtherPlatformsStay(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		mobile := w.fill("ann", "android", "m1", "m2", "m3", "m4")
		w.fill("ann", "web", "w1", "w2", "w3", "w4")
		w.events.take()
		g := w.login("ann", "m5", "android")
		require.Len(w.t, g.res.Victims, 1)
		require.Equal(w.t, mobile[0].id, g.res.Victims[0].Session.Login)
		require.Equal(w.t, "m2 m3 m4 w1 w2 w3 w4 m5", w.devices("ann"))
		require.Equal(w.t, []event.Reason{event.EvictedQuota}, mobile[0].wire.reasons())
		require.Equal(w.t, []string{"ended m1 evicted_quota", "login m5"}, w.events.take())
		require.Equal(w.t, policy.RulePlatform, g.res.Decision.Rule)
		require.Equal(w.t, 4, g.res.Decision.Limit)
		require.Equal(w.t, 4, g.res.Decision.Count)
	})
}

func TestA11_S3_LoweredQuotaTakesAllExcessAtOnce(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		old := w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		w.restart(setup{rules: policy.Rules{PerPlatform: 2}})
		g := w.login("ann", "a5", "ios")
		require.Equal(w.t, "a4 a5", w.devices("ann"))
		require.Len(w.t, g.res.Victims, 3)
		for i, v := range g.res.Victims {
			require.Equal(w.t, old[i].id, v.Session.Login, "earliest first")
		}
	})
}

func TestA12_S4_SameDeviceReplacesItself(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		old := w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		g := w.login("ann", "a3", "ios")
		require.NotEqual(w.t, old[2].id, g.id)
		require.Equal(w.t, "a1 a2 a4 a3", w.devices("ann"))
		require.Equal(w.t, []event.Reason{event.Replaced}, old[2].wire.reasons())
		require.Equal(w.t, old[2].res.Session.Incarnation, g.res.Session.Incarnation, "same device, same place in the inbox")
		for _, i := range []int{0, 1, 3} {
			require.Empty(w.t, old[i].wire.ends())
			require.True(w.t, old[i].live())
		}
		require.Equal(w.t, event.Replaced, old[2].refused().Reason)
	})
}

// TestS7_ClocksDoNotMatter gives the logins times in the opposite order, as a clock that went back would have done.
func TestS7_ClocksDoNotMatter(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		for _, d := range []event.DeviceID{"a1", "a2", "a3", "a4"} {
			w.login("ann", d, "ios")
			time.Sleep(time.Second)
		}
		w.edit("ann", func(r *session.Record) {
			for i, j := 0, len(r.Logins)-1; i < j; i, j = i+1, j-1 {
				first, last := &r.Logins[i], &r.Logins[j]
				first.At, last.At = last.At, first.At
				first.Seen, last.Seen = last.Seen, first.Seen
				first.TokenAt, last.TokenAt = last.TokenAt, first.TokenAt
			}
			for i, j := 0, len(r.Devices)-1; i < j; i, j = i+1, j-1 {
				first, last := &r.Devices[i], &r.Devices[j]
				first.First, last.First = last.First, first.First
				first.Seen, last.Seen = last.Seen, first.Seen
			}
		})
		all := w.list("ann")
		require.True(w.t, all[0].LoggedInAt.After(all[3].LoggedInAt), "the clock says that the first came last")
		require.Equal(w.t, event.DeviceID("a1"), w.login("ann", "a5", "ios").res.Victims[0].Session.Device)
	})
}

func TestS8_SameDeviceTwiceAtOnce(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		for round := range 20 {
			a := event.Account(fmt.Sprintf("ann %d", round))
			both := make([]*gadget, 2)
			var wg sync.WaitGroup
			for i := range both {
				wg.Go(func() {
					g, err := w.tryLogin(request(a, "phone", "ios"))
					if err != nil {
						return
					}
					g.wire = new(wire)
					_, err = g.tryAttach(g.wire) // the one that lost may be too late
					if err == nil || errors.Is(err, session.ErrEnded) {
						both[i] = g
					}
				})
			}
			wg.Wait()
			require.NotContains(w.t, both, (*gadget)(nil))
			slices.SortFunc(both, func(x, y *gadget) int { return int(x.res.Session.Admission) - int(y.res.Session.Admission) })
			all := w.list(a)
			require.Len(w.t, all, 1)
			require.Equal(w.t, both[1].id, all[0].Login)
			require.Equal(w.t, session.Online, all[0].State)
			require.Equal(w.t, event.Replaced, both[0].refused().Reason)
			require.Subset(w.t, []event.Reason{event.Replaced}, both[0].wire.reasons())
			require.Empty(w.t, both[1].wire.ends())
		}
	})
}

// TestS9_TwoRegistriesOneSlot: two engines over one store admit two devices at the same time.
func TestS9_TwoRegistriesOneSlot(t *testing.T) {
	inBubble(t, setup{crowd: true, rules: policy.Rules{Single: true}}, func(w *world) {
		regs := []*session.Registry{w.reg, w.open(w.now)}
		for round := range 50 {
			a := event.Account(fmt.Sprintf("ann %d", round))
			results := make([]*session.LoginResult, 2)
			var wg sync.WaitGroup
			for i, reg := range regs {
				wg.Go(func() {
					res, err := reg.Login(w.t.Context(), request(a, event.DeviceID(fmt.Sprint("d", i)), "ios"))
					if err == nil {
						results[i] = res
					}
				})
			}
			wg.Wait()
			require.NotContains(w.t, results, (*session.LoginResult)(nil))
			slices.SortFunc(results, func(x, y *session.LoginResult) int { return len(x.Victims) - len(y.Victims) })
			require.Empty(w.t, results[0].Victims)
			require.Len(w.t, results[1].Victims, 1, "one evicts the other, never each other")
			require.Equal(w.t, results[0].Session.Login, results[1].Victims[0].Session.Login)
			for _, reg := range regs {
				all, err := reg.List(w.t.Context(), a, "")
				require.NoError(w.t, err)
				require.Len(w.t, all, 1)
				require.Equal(w.t, results[1].Session.Login, all[0].Login)
			}
		}
	})
}

func TestS10_OneVictimForTwoRules(t *testing.T) {
	onStores(t, setup{rules: policy.Rules{MaxLogins: 4}}, func(w *world) {
		w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		g := w.login("ann", "a5", "ios")
		require.Len(w.t, g.res.Victims, 1, "the platform's victim makes room in the account as well")
		require.Equal(w.t, "a2 a3 a4 a5", w.devices("ann"))

		w.restart(setup{rules: policy.Rules{PerPlatform: 2, Single: true}})
		g = w.login("ann", "a6", "ios")
		require.Len(w.t, g.res.Victims, 4)
		require.Equal(w.t, "a6", w.devices("ann"))
		require.Len(w.t, w.revocations(), 5, "nobody ended twice")
	})
}

func TestS11_Refused(t *testing.T) {
	tests := []struct {
		name  string
		rules policy.Rules
		rule  string
		limit int
	}{
		{"platform is closed", policy.Rules{Platforms: map[event.Platform]int{"web": 0}}, policy.RulePlatform, 0},
		{"account is full", policy.Rules{MaxLogins: 2}, policy.RuleAccount, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{rules: tt.rules}, func(w *world) {
				old := w.fill("ann", "ios", "a1", "a2")
				before, noted := w.stored("ann"), len(w.history())
				_, err := w.tryLogin(request("ann", "a3", "web"))
				require.ErrorIs(w.t, err, session.ErrRefused)
				refused, ok := errors.AsType[*session.RefusedError](err)
				require.True(w.t, ok)
				require.Equal(w.t, tt.rule, refused.Rule)
				require.Equal(w.t, tt.limit, refused.Limit)
				require.Len(w.t, refused.Logins, tt.limit, "nobody can make room on a closed platform")
				for i, s := range refused.Logins {
					require.Equal(w.t, old[i].id, s.Login, "earliest first")
				}
				require.Contains(w.t, err.Error(), tt.rule)
				require.Equal(w.t, before, w.stored("ann"))
				require.Len(w.t, w.history(), noted)
				require.True(w.t, old[0].live() && old[1].live())
			})
		})
	}
}

func TestS14_Platforms(t *testing.T) {
	tests := []struct {
		name     string
		platform event.Platform
		unknown  policy.UnknownRule
		counted  event.Platform // under which name it is known; empty: refused by policy
		invalid  bool
	}{
		{name: "letter case", platform: "iOS", counted: "ios"},
		{name: "unknown", platform: "toaster"},
		{name: "unknown, counted together", platform: "toaster", unknown: policy.CountAsOther, counted: "toaster"},
		{name: "empty", platform: "", invalid: true},
		{name: "spaces", platform: " ios", invalid: true},
		{name: "letters that look alike", platform: "iоs", invalid: true},
		{name: "too long", platform: event.Platform(strings.Repeat("a", 33)), invalid: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{rules: policy.Rules{Unknown: tt.unknown, PerPlatform: 2}}, func(w *world) {
				for i := range 6 {
					g, err := w.tryLogin(request("ann", event.DeviceID(fmt.Sprint("d", i)), tt.platform))
					switch {
					case tt.invalid:
						bad, ok := errors.AsType[*event.InvalidError](err)
						require.True(w.t, ok, "%v", err)
						require.Equal(w.t, "platform", bad.Field)
					case tt.counted == "":
						refused, ok := errors.AsType[*session.RefusedError](err)
						require.True(w.t, ok, "%v", err)
						require.Equal(w.t, policy.RuleUnknownPlatform, refused.Rule)
					default:
						require.NoError(w.t, err)
						require.Equal(w.t, tt.counted, g.res.Session.Platform)
					}
				}
				want := 2
				if tt.invalid || tt.counted == "" {
					want = 0
					require.Equal(w.t, stored{head: w.stored("bob").head}, w.stored("ann"))
				}
				require.Len(w.t, w.list("ann"), want, "never a bucket without limit")
			})
		})
	}
}
