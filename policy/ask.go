package policy

import (
	"time"

	"github.com/manydevice/manydevice/event"
)

// Answer is what the host says when a rule asks it. The zero value is no answer: the host failed, or took too long.
type Answer struct {
	// Refuse turns the newcomer down.
	Refuse bool
	// End names logins that are to end, the preferred ones first.
	End []event.LoginID
}

// Resolve decides with the host's answer to a decision whose verdict was [Ask]. It looks at everything anew, so the
// logins may have changed since. It never asks again: the answer holds for every rule that would.
//
// A rule that asks takes as many of the named logins as it must, in the order in which they are named. Those that it
// does not count, that may not end, or that are gone are passed over. If they are too few, Unanswered says what happens:
// its order chooses the rest, or the newcomer is refused.
func (p *Policy) Resolve(logins []Login, in Newcomer, now time.Time, a Answer, victims []Victim) Decision {
	return p.decide(logins, in, now, &a, victims, nil)
}

// ask appends candidates if the host is still to answer, else those that it named. Enough logins may end.
func (q *question) ask(r *rule, excess int, victims []Victim) ([]Victim, outcome) {
	switch {
	case q.answer == nil:
		return q.choose(r, EvictEarliest, len(q.logins), victims, q.guarded), outcome{verdict: Ask}
	case q.answer.Refuse:
		return victims, outcome{verdict: Refuse, cause: CauseHost}
	}
	first := len(victims)
	for _, id := range q.answer.End {
		if len(victims)-first == excess {
			break
		}
		for i := range q.logins {
			l := &q.logins[i]
			if l.ID == id && q.endable(r, i) && q.protected(l) == CauseRule {
				victims = append(victims, Victim{})
				r.victim(&victims[len(victims)-1], i, l)
				q.end(i)
				break
			}
		}
	}
	left := excess - (len(victims) - first)
	switch unanswered := q.policy.rules.Unanswered; {
	case left == 0:
	case unanswered == RefuseNew:
		return victims[:first], outcome{verdict: Refuse, cause: CauseUnanswered}
	default:
		victims = q.evict(r, unanswered, left, victims, q.guarded)
	}
	return victims, outcome{verdict: Admit}
}
