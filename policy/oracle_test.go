package policy_test

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// oracle answers a question in the plainest way: lists, loops, and no thought of speed.
type oracle struct {
	model
	now    time.Time
	answer *policy.Answer
	stay   []policy.Login
}

type oracleRule struct {
	name   string
	limit  int
	action policy.Action
	reason event.Reason
	quota  bool
	in     func(l policy.Login) bool
}

// slot reports whether the login holds a slot, whether or not that counts at limits.
func (o *oracle) slot(l policy.Login) bool { return l.Holds || o.rules.Slots == policy.SlotEveryLogin }

func (o *oracle) holds(l policy.Login) bool {
	return o.slot(l) && !(l.Primary && o.rules.Primary == policy.PrimaryFree)
}

// inGroup reports whether the platform is a member.
func (o *oracle) inGroup(g policy.Group, p event.Platform) bool {
	b, ok := o.bucket(p)
	return ok && slices.ContainsFunc(g.Members, func(m string) bool {
		return m == string(b) || slices.Contains(o.rules.Classes[m], b)
	})
}

func (o *oracle) list() []oracleRule {
	mine, _ := o.bucket(o.in.Platform)
	rules := []oracleRule{{policy.RuleDevice, 1, policy.EvictEarliest, event.Replaced, false, func(l policy.Login) bool {
		return l.Device != "" && l.Device == o.in.Device
	}}}
	if o.rules.Single {
		rules = append(rules, oracleRule{policy.RuleSingle, 1, policy.EvictEarliest, event.EvictedSingle, false, func(policy.Login) bool { return true }})
	}
	at := o.rules.AtPlatform
	if own, ok := o.rules.Actions[mine]; ok {
		at = own
	}
	rules = append(rules, oracleRule{policy.RulePlatform, o.limit(mine), at, event.EvictedQuota, true, func(l policy.Login) bool {
		b, ok := o.bucket(l.Platform)
		return ok && b == mine && o.holds(l)
	}})
	for _, g := range o.rules.Groups {
		if o.inGroup(g, o.in.Platform) {
			rules = append(rules, oracleRule{"group:" + g.Name, g.Limit, g.Action, event.EvictedQuota, true, func(l policy.Login) bool {
				return o.inGroup(g, l.Platform) && o.holds(l)
			}})
		}
	}
	if o.rules.Total > 0 {
		rules = append(rules, oracleRule{policy.RuleTotal, o.rules.Total, o.rules.AtTotal, event.EvictedQuota, true, o.holds})
	}
	return append(rules, oracleRule{policy.RuleAccount, o.rules.MaxLogins, policy.EvictEarliest, event.EvictedQuota, false, func(policy.Login) bool { return true }})
}

// excess is how many too many the rule counts if the newcomer is in.
func (o *oracle) excess(r oracleRule, stay []policy.Login) int {
	if r.limit == policy.NoLimit {
		return 0
	}
	n := len(filter(stay, r.in))
	if !r.quota || r.limit == 0 || !o.in.Primary || o.rules.Primary != policy.PrimaryFree {
		n++
	}
	return max(0, n-r.limit)
}

func filter(logins []policy.Login, keep func(policy.Login) bool) []policy.Login {
	var out []policy.Login
	for _, l := range logins {
		if keep(l) {
			out = append(out, l)
		}
	}
	return out
}

// order sorts logins as the action ends them.
func order(logins []policy.Login, a policy.Action) []policy.Login {
	rank := func(l policy.Login) (activity time.Time, online int) {
		switch {
		case a == policy.EvictLeastActive:
			return l.LastActive, 0
		case a == policy.EvictOfflineFirst && l.Online:
			return time.Time{}, 1
		}
		return time.Time{}, 0
	}
	return slices.SortedFunc(slices.Values(logins), func(x, y policy.Login) int {
		xActivity, xOnline := rank(x)
		yActivity, yOnline := rank(y)
		return cmp.Or(xActivity.Compare(yActivity), cmp.Compare(xOnline, yOnline), cmp.Compare(x.Admission, y.Admission))
	})
}

// acquaintance is what the account knows of the age of a device.
type acquaintance struct {
	ever  bool      // it was always there
	since time.Time // else from when on; zero: the account does not know it, or the time is yet to come and says nothing
}

func (o *oracle) acquaintance(since time.Time, ever bool) acquaintance {
	switch {
	case since.IsZero():
		return acquaintance{ever: ever}
	case since.After(o.now):
		return acquaintance{}
	}
	return acquaintance{since: since.Truncate(time.Millisecond)}
}

// newcomer returns the acquaintance with the newcomer's device: what is said of it, or what its login says.
func (o *oracle) newcomer() acquaintance {
	if o.in.Since.IsZero() && o.in.Login != "" {
		for _, l := range o.logins {
			if l.ID == o.in.Login {
				return o.acquaintance(l.Since, true)
			}
		}
	}
	return o.acquaintance(o.in.Since, false)
}

// wait returns how long until the newcomer's device may end older logins, and whether it may now.
func (o *oracle) wait() (time.Duration, bool) {
	me := o.newcomer()
	switch {
	case o.rules.MinAge == 0 || me.ever:
		return 0, true
	case !me.since.IsZero():
		age := o.now.Sub(me.since)
		return max(o.rules.MinAge-age, 0), age >= o.rules.MinAge
	case o.in.Since.IsZero() && !slices.ContainsFunc(o.logins, func(l policy.Login) bool {
		return o.in.Login != "" && l.ID == o.in.Login
	}):
		return 0, false
	}
	return o.rules.MinAge, false
}

// mayEnd reports whether primary device and minimum age allow that the newcomer ends the login.
func (o *oracle) mayEnd(l policy.Login) policy.Cause {
	if l.Primary && o.rules.Primary != policy.PrimaryOrdinary {
		return policy.CausePrimary
	}
	if _, ok := o.wait(); ok {
		return ""
	}
	// Too new: it ends what came after it for certain, and nothing else.
	me, its := o.newcomer(), o.acquaintance(l.Since, true)
	if me.since.IsZero() || its.since.IsZero() || !me.since.Before(its.since) {
		return policy.CauseMinAge
	}
	return ""
}

// decide returns the verdict as text: what it is, by which rule, why, how many must end, how long to wait, and who ends
// for which rule.
func (o *oracle) decide() []string {
	if _, ok := o.bucket(o.in.Platform); !ok {
		return verdictOf("refuse", policy.RuleUnknownPlatform, "", 0, 0)
	}
	var victims []policy.Victim
	o.stay = o.others()
	for _, r := range o.list() {
		excess := o.excess(r, o.stay)
		if excess == 0 {
			continue
		}
		chosen, said, cause := o.choose(r, excess)
		if said != "admit" {
			need, wait := excess, time.Duration(0)
			if r.limit == 0 {
				need = 0 // no end makes room on a closed platform
			}
			if cause == policy.CauseMinAge {
				wait, _ = o.wait()
			}
			return append(verdictOf(said, r.name, cause, need, wait), texts(r, chosen)...)
		}
		for _, l := range chosen {
			victims = append(victims, policy.Victim{Login: l.ID, Reason: r.reason, Rule: r.name})
		}
		o.stay = without(o.stay, victims)
	}
	for i := len(victims) - 1; i >= 0; i-- {
		fewer := slices.Delete(slices.Clone(victims), i, i+1)
		stay := without(o.others(), fewer)
		if !slices.ContainsFunc(o.list(), func(r oracleRule) bool { return o.excess(r, stay) > 0 }) {
			victims = fewer
		}
	}
	out := verdictOf("admit", policy.RulePlatform, "", 0, 0)
	for _, v := range victims {
		out = append(out, fmt.Sprintf("%s %s %s", v.Login, v.Reason, v.Rule))
	}
	return out
}

func verdictOf(verdict, rule string, cause policy.Cause, need int, wait time.Duration) []string {
	return []string{verdict, rule, string(cause), fmt.Sprint(need), wait.String()}
}

func texts(r oracleRule, logins []policy.Login) []string {
	var out []string
	for _, l := range logins {
		out = append(out, fmt.Sprintf("%s %s %s", l.ID, r.reason, r.name))
	}
	return out
}

// choose returns who ends by the rule, or the candidates, with the verdict.
func (o *oracle) choose(r oracleRule, excess int) ([]policy.Login, string, policy.Cause) {
	counted := order(filter(o.stay, r.in), policy.EvictEarliest)
	if r.name == policy.RuleDevice {
		return counted, "admit", ""
	}
	if r.name == policy.RuleAccount { // only those without a slot make room
		counted = filter(counted, func(l policy.Login) bool { return !o.slot(l) })
	}
	action := r.action
	switch {
	case r.limit == 0, len(counted) < excess:
		return nil, "refuse", ""
	case action == policy.RefuseNew && (!o.rules.AllowForce || o.in.Wish != policy.ForceEvict):
		return nil, "refuse", ""
	case o.in.Wish == policy.NeverEvict:
		return nil, "refuse", policy.CauseWish
	case o.in.Login != "" && o.rules.Reconnect == policy.ReconnectRefused:
		return nil, "refuse", policy.CauseReconnect
	case action == policy.RefuseNew:
		action = policy.EvictEarliest
	}
	may := filter(counted, func(l policy.Login) bool { return o.mayEnd(l) == "" })
	if len(may) < excess {
		later := filter(counted, func(l policy.Login) bool { return o.mayEnd(l) != policy.CausePrimary })
		if len(later) >= excess { // age would help
			return nil, "refuse", policy.CauseMinAge
		}
		return nil, "refuse", policy.CausePrimary
	}
	if action != policy.AskHost {
		return order(may, action)[:excess], "admit", ""
	}
	if o.answer == nil {
		return may, "ask", ""
	}
	return o.answered(may, excess)
}

func (o *oracle) answered(may []policy.Login, excess int) ([]policy.Login, string, policy.Cause) {
	if o.answer.Refuse {
		return nil, "refuse", policy.CauseHost
	}
	var named []policy.Login
	for _, id := range o.answer.End {
		named = append(named, filter(may, func(l policy.Login) bool { return l.ID == id })...)
	}
	named = named[:min(len(named), excess)]
	if len(named) < excess {
		if o.rules.Unanswered == policy.RefuseNew {
			return nil, "refuse", policy.CauseUnanswered
		}
		rest := filter(may, func(l policy.Login) bool {
			return !slices.ContainsFunc(named, func(n policy.Login) bool { return n.ID == l.ID })
		})
		named = append(named, order(rest, o.rules.Unanswered)[:excess-len(named)]...)
	}
	return named, "admit", ""
}
