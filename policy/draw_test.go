package policy_test

import (
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// question is a world with every knob, at a time, with an answer of the host's ready.
type question struct {
	world
	now    time.Time
	answer policy.Answer
}

// drawQuestion makes a random question. Limits are low and platforms few, so that rules meet.
func drawQuestion(below func(n int) int, maxLogins int) question {
	q := question{world: draw(below, maxLogins), now: time.Unix(1_700_000_000, 0)}
	r := &q.rules
	r.Single = below(12) == 0
	r.PerPlatform = below(7) - 1
	r.MaxLogins = min(r.MaxLogins*2, policy.MaxLogins)
	action := func() policy.Action { return policy.Action(below(5)) }
	r.AtPlatform, r.AtTotal, r.Unanswered = action(), action(), policy.Action(below(4))
	r.Total = below(maxLogins+2) - 1
	r.Classes = map[string][]event.Platform{"apple": {"ios", "ios-tablet"}}
	members := []string{"ios", "web", "ios-tablet", "apple"}
	if r.Unknown == policy.CountAsOther {
		members = append(members, "other")
	}
	if below(2) == 0 {
		r.Actions = map[event.Platform]policy.Action{"ios": action(), "web": action()}
	}
	for i := range below(4) {
		g := policy.Group{Name: fmt.Sprintf("g%d", i), Limit: 1 + below(4), Action: action()}
		for _, m := range members {
			if below(2) == 0 {
				g.Members = append(g.Members, m)
			}
		}
		if len(g.Members) > 0 {
			r.Groups = append(r.Groups, g)
		}
	}
	r.AllowForce = below(2) == 0
	r.Primary, r.Slots, r.Reconnect = policy.PrimaryRule(below(3)), policy.SlotRule(below(4)/3), policy.ReconnectRule(below(3)/2)
	r.MinAge = time.Duration(below(2)*below(2)) * time.Hour
	// Few different times, so that many are equal; some are yet to come, and some say nothing.
	age := func() time.Time {
		switch below(12) {
		case 0:
			return time.Time{}
		case 1:
			return q.now
		case 2:
			return q.now.Add(time.Duration(below(3)) * time.Nanosecond)
		case 3:
			return q.now.Add(time.Duration(below(3)*below(120)) * time.Minute)
		case 4:
			return []time.Time{time.Unix(1<<40, 0), time.Unix(-1<<40, 0)}[below(2)]
		}
		return q.now.Add(-time.Duration(below(24)) * 5 * time.Minute)
	}
	for i := range q.logins {
		l := &q.logins[i]
		l.Online, l.Primary, l.LastActive, l.Since = l.Holds && below(2) == 0, below(6) == 0, age(), age()
		if below(3) == 0 {
			q.answer.End = append(q.answer.End, l.ID)
		}
	}
	q.answer.Refuse = below(6) == 0
	q.in.Wish, q.in.Primary = policy.Wish(below(6)/4*(1+below(2))), below(8) == 0
	if below(20) == 0 {
		q.in.Login = "gone" // it comes back, but has ended
	}
	if below(2) == 0 {
		q.in.Since = age()
	}
	if below(3) == 0 {
		q.openToAll(below)
	}
	return q
}

// openToAll leaves only groups that overlap in the newcomer's platform, are just full, and evict. So victims are chosen
// and spared rather than refused.
func (q *question) openToAll(below func(n int) int) {
	q.rules = policy.Rules{
		PerPlatform: policy.NoLimit, Unknown: policy.CountAsOther,
		Platforms: map[event.Platform]int{"ios-tablet": policy.NoLimit},
	}
	o := &oracle{model: model{rules: q.rules}}
	mine, _ := o.bucket(q.in.Platform)
	for i := range 4 {
		g := policy.Group{Name: fmt.Sprintf("g%d", i), Action: policy.Action(below(3))}
		for _, m := range []string{"ios", "web", "ios-tablet", "other"} {
			if m == string(mine) || below(3) == 0 {
				g.Members = append(g.Members, m)
			}
		}
		full := filter(q.logins, func(l policy.Login) bool { return l.Holds && o.inGroup(g, l.Platform) })
		g.Limit = max(1, len(full)-below(2))
		q.rules.Groups = append(q.rules.Groups, g)
	}
	q.in.Primary, q.in.Wish = false, policy.NoWish
	for i := range q.logins {
		q.logins[i].Primary = false
	}
}
