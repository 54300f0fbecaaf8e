package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// agesAt are times from which an account may know a device, seen from a moment. The order is that of age: each device is
// older than those after it. Devices on one line are equally old as far as the account can tell.
func agesAt(now time.Time) [][]time.Time {
	return [][]time.Time{
		{{}}, // since ever
		{time.Unix(-1<<55, 0), time.Unix(-1<<40, 0)}, // long before there were devices
		{now.Add(-2 * time.Hour)},                    // old enough for a minimum age of 1 h
		{now.Add(-time.Hour)},                        // just old enough
		{now.Add(-time.Hour).Add(time.Millisecond)},
		{now.Add(-time.Minute), now.Add(-time.Minute + 999*time.Microsecond)}, // in one millisecond
		{now.Add(-time.Millisecond)},
		{now},
		// A clock was ahead: it is not known how old these are.
		{now.Add(time.Nanosecond), now.Add(time.Hour), now.Add(40 * 24 * time.Hour), time.Unix(1<<40, 0), time.Unix(1<<55, 0)},
	}
}

// K1.9: the minimum age protects a login from every device that is not older for certain, whatever the clocks said when
// they were registered. Who is protected does not depend on whether a newcomer evicts, replaces or kicks.
func TestMinAge_ClocksGiveNoRight(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	ages := agesAt(now)
	p := newPolicy(t, policy.Rules{PerPlatform: 1, MinAge: time.Hour})
	for i, mine := range ages {
		for j, its := range ages {
			for _, since := range mine {
				for _, other := range its {
					oldEnough := i < 4
					certain := j < len(ages)-1 // the victim's age
					want := oldEnough || i < j && certain
					victim := policy.Login{ID: "victim", Device: "d2", Platform: "ios", Admission: 2, Holds: true, Since: other}
					actor := policy.Login{ID: "actor", Device: "d1", Platform: "ios", Admission: 1, Since: since}

					permit := p.MayEnd(actor, victim, now)
					require.Equal(t, want, permit.OK, "known since %v kicks one known since %v", since, other)
					checkPermit(t, permit, time.Hour)

					back := policy.Newcomer{Device: "d1", Platform: "ios", Login: "actor"}
					d := p.Decide([]policy.Login{victim, actor}, back, now, nil)
					require.Equal(t, want, d.Verdict == policy.Admit, "comes back, known since %v, victim since %v", since, other)
					require.Equal(t, permit.Wait, d.Wait)

					if since.IsZero() {
						continue // for a newcomer, that means unknown
					}
					in := policy.Newcomer{Device: "d1", Platform: "ios", Since: since}
					d = p.Decide([]policy.Login{victim}, in, now, nil)
					require.Equal(t, want, d.Verdict == policy.Admit, "evicts, known since %v, victim since %v", since, other)
					require.Equal(t, permit, p.MayReplace(in, victim, now))
				}
			}
		}
	}
}

func checkPermit(t *testing.T, p policy.Permit, least time.Duration) {
	t.Helper()
	if p.OK {
		require.Equal(t, policy.Permit{OK: true}, p)
		return
	}
	require.Equal(t, policy.CauseMinAge, p.Cause)
	require.True(t, p.Wait > 0 && p.Wait <= least, "wait %v", p.Wait)
}

// Without a clock, a device that was always there is still older than all others.
func TestMinAge_SinceEverNeedsNoClock(t *testing.T) {
	p := newPolicy(t, policy.Rules{PerPlatform: 1, MinAge: time.Hour})
	ever, other := policy.Login{ID: "ever", Device: "d1"}, policy.Login{ID: "other", Device: "d2", Since: time.Unix(5, 0)}
	require.Equal(t, policy.Permit{OK: true}, p.MayEnd(ever, other, time.Time{}))
	require.Equal(t, policy.Permit{Cause: policy.CauseMinAge, Wait: time.Hour}, p.MayEnd(other, ever, time.Time{}))
}

// K1.9: a device that the account does not know is the newest of all, also of those that were registered in the same
// millisecond or while a clock was ahead. Waiting does not make it known.
func TestMinAge_AnUnknownDeviceIsTheNewest(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	p := newPolicy(t, policy.Rules{PerPlatform: 1, MinAge: time.Hour})
	for _, line := range agesAt(now) {
		for _, since := range line {
			victim := policy.Login{ID: "victim", Device: "d2", Platform: "ios", Admission: 1, Holds: true, Since: since}
			for _, in := range []policy.Newcomer{
				{Platform: "ios"},
				{Device: "d1", Platform: "ios"},
				{Device: "d1", Platform: "ios", Login: "gone"}, // comes back for a login that is no more
			} {
				d := p.Decide([]policy.Login{victim}, in, now, nil)
				require.Equal(t, policy.Decision{
					Verdict: policy.Refuse, Rule: policy.RulePlatform, Limit: 1, Count: 1, Platform: "ios", Need: 1,
					Cause: policy.CauseMinAge,
				}, d, "evicted one known since %v", since)
				require.Equal(t, policy.Permit{Cause: policy.CauseMinAge}, p.MayReplace(in, victim, now))
			}
		}
	}
}

// A device that was registered while the clock was ahead does not wait for longer than the minimum age.
func TestMinAge_WaitIsBounded(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	victim := policy.Login{ID: "victim", Device: "d2", Platform: "ios", Holds: true}
	for _, least := range []time.Duration{time.Minute, time.Hour, 100 * 365 * 24 * time.Hour} {
		p := newPolicy(t, policy.Rules{PerPlatform: 1, MinAge: least})
		for _, line := range agesAt(now) {
			for _, since := range line {
				d := p.Decide([]policy.Login{victim}, policy.Newcomer{Platform: "ios", Since: since}, now, nil)
				require.True(t, d.Wait >= 0 && d.Wait <= least, "known since %v, minimum %v: wait %v", since, least, d.Wait)
				if d.Verdict == policy.Refuse && !since.IsZero() {
					require.Positive(t, d.Wait)
					require.False(t, since.Before(now.Add(-least)), "known since %v, minimum %v", since, least)
				}
			}
		}
	}
}

// Two logins without an ID or a device are strangers: equal emptiness gives no right.
func TestMayEnd_NamelessLoginsAreStrangers(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	p := newPolicy(t, policy.Rules{MinAge: time.Hour})
	young := policy.Login{Since: now}
	require.Equal(t, policy.Permit{Cause: policy.CauseMinAge, Wait: time.Hour}, p.MayEnd(young, policy.Login{}, now))
	require.Equal(t, policy.Permit{Cause: policy.CausePrimary}, p.MayEnd(young, policy.Login{Primary: true}, now))
	require.Equal(t, policy.Permit{Cause: policy.CauseMinAge}, p.MayReplace(policy.Newcomer{}, policy.Login{}, now))
}

// To wait is the advice only if it helps: with too few logins apart from the primary device's, age does not.
func TestMinAge_IsTheCauseOnlyIfWaitingHelps(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	p := newPolicy(t, policy.Rules{PerPlatform: 1, MinAge: time.Hour})
	all := logins(2, "ios")
	in := policy.Newcomer{Device: "new", Platform: "ios", Since: now}
	d := p.Decide(all, in, now, nil)
	require.Equal(t, []any{policy.CauseMinAge, time.Hour, 2}, []any{d.Cause, d.Wait, d.Need})
	all[0].Primary = true
	d = p.Decide(all, in, now, nil)
	require.Equal(t, []any{policy.CausePrimary, time.Duration(0), 2}, []any{d.Cause, d.Wait, d.Need})
}

// K9.7: Need is how many logins must end, for refusals as well as for Ask, and not one more: the primary device may take
// no slot.
func TestNeed(t *testing.T) {
	free := policy.Rules{PerPlatform: 2, AtPlatform: policy.RefuseNew, Primary: policy.PrimaryFree}
	tests := []struct {
		name   string
		rules  policy.Rules
		logins int
		in     policy.Newcomer
		want   int
	}{
		{"admitted", policy.Rules{PerPlatform: 2}, 1, policy.Newcomer{}, 0},
		{"evicting", policy.Rules{PerPlatform: 2}, 4, policy.Newcomer{}, 0},
		{"full", policy.Rules{PerPlatform: 2, AtPlatform: policy.RefuseNew}, 2, policy.Newcomer{}, 1},
		{"too many", policy.Rules{PerPlatform: 2, AtPlatform: policy.RefuseNew}, 5, policy.Newcomer{}, 4},
		{"takes no slot", free, 2, policy.Newcomer{Primary: true}, 0},
		{"takes no slot where there are too many", free, 4, policy.Newcomer{Primary: true}, 2},
		{"asked", policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost}, 3, policy.Newcomer{}, 2},
		{"asked, takes no slot", policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost, Primary: policy.PrimaryFree}, 3,
			policy.Newcomer{Primary: true}, 1},
		{"wish", policy.Rules{Single: true}, 3, policy.Newcomer{Wish: policy.NeverEvict}, 3},
		{"bound", policy.Rules{PerPlatform: policy.NoLimit, MaxLogins: 2}, 3, policy.Newcomer{}, 2},
		{"bound is about logins, not slots", policy.Rules{PerPlatform: policy.NoLimit, MaxLogins: 2, Primary: policy.PrimaryFree}, 3,
			policy.Newcomer{Primary: true}, 2},
		{"closed", policy.Rules{Platforms: map[event.Platform]int{"ios": 0}}, 3, policy.Newcomer{}, 0},
		{"unknown", policy.Rules{}, 3, policy.Newcomer{Platform: "ipad"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.Platform == "" {
				tt.in.Platform = "ios"
			}
			p, all := newPolicy(t, tt.rules), logins(tt.logins, "ios")
			d := p.Decide(all, tt.in, time.Time{}, nil)
			require.Equal(t, tt.want, d.Need)
			require.Equal(t, d, p.Explain(all, tt.in, time.Time{}).Decision)
			if d.Verdict == policy.Refuse && tt.want > 0 {
				require.Equal(t, policy.Admit, p.Decide(all[d.Need:], tt.in, time.Time{}, nil).Verdict, "that many are enough")
				require.Equal(t, policy.Refuse, p.Decide(all[d.Need-1:], tt.in, time.Time{}, nil).Verdict, "one fewer is not")
			}
		})
	}
}

// Random histories in which the clock jumps back and forth by hours. Registrations are noted by that clock, and times still
// to come are put right at each step, as a registry does. An unknown device never ends another device's login, and no
// device that is too new by its own noted time ends a login of one that was registered before it.
func TestMinAge_RandomClocks(t *testing.T) {
	type registration struct {
		noted time.Time
		order int // in which the devices were truly registered, from 1
	}
	rng := seeded(t)
	evicted := 0
	for range 3000 {
		least := time.Duration(1+rng.IntN(3)) * time.Hour
		p := newPolicy(t, policy.Rules{PerPlatform: 1 + rng.IntN(2), MaxLogins: 2 + rng.IntN(3), MinAge: least})
		now := time.UnixMilli(1_700_000_000_000)
		devices := make(map[event.DeviceID]registration)
		var logins []policy.Login
		for step := range 15 {
			if now = now.Add(time.Duration(rng.IntN(3)) * 20 * time.Minute); rng.IntN(4) == 0 {
				now = now.Add(time.Duration(rng.IntN(9)-4) * 40 * time.Minute)
			}
			for id, d := range devices {
				if d.noted.After(now) {
					devices[id] = registration{now, d.order}
				}
			}
			for i := range logins {
				logins[i].Since = devices[logins[i].Device].noted
				logins[i].Holds = logins[i].Holds && rng.IntN(6) > 0
			}
			id := event.DeviceID(fmt.Sprint("d", rng.IntN(4)))
			me, known := devices[id]
			in := policy.Newcomer{Device: id, Platform: []event.Platform{"ios", "web"}[rng.IntN(2)], Since: me.noted}
			d := p.Decide(logins, in, now, nil)
			for _, v := range d.Victims {
				if v.Rule == policy.RuleDevice {
					continue
				}
				evicted++
				require.True(t, known, "an unknown device evicts")
				if now.Sub(me.noted) < least {
					require.Less(t, me.order, devices[logins[v.Index].Device].order, "a device that is too new evicts an older one")
				}
			}
			if d.Verdict != policy.Admit {
				continue
			}
			if !known {
				devices[id] = registration{now, len(devices) + 1}
			}
			logins = append(without(logins, d.Victims), policy.Login{
				ID: event.LoginID(fmt.Sprint("L", step)), Device: id, Platform: in.Platform, Admission: uint64(step + 1), Holds: true,
			})
		}
	}
	require.Greater(t, evicted, 1000)
}
