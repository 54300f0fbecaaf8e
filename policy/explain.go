package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
)

// Explanation is a [Decision] with the way to it.
type Explanation struct {
	Decision
	// Newcomer is the one that was decided about.
	Newcomer Newcomer
	// Steps are the rules that were asked, in order. A rule that refuses is the last. There are none if the platform is
	// unknown.
	Steps []Step
}

// Step is what one rule found and did.
type Step struct {
	Rule    string
	Limit   int  // logins that it allows at once, the newcomer included; NoLimit: any number
	Before  int  // logins that it counted, without the newcomer and victims of the rules before it
	After   int  // logins that it counts if the newcomer gets in, the newcomer included
	Refused bool // it turned the newcomer down
	// Victims are those that it chose, earliest first. If a later rule refuses they do not end.
	Victims []Victim
	// Why says in words what it counted and why it did what it did. The wording is not stable.
	Why string
}

// Explain decides as [Policy.Decide] does, by the same code, and says how it came to it. Nothing is changed, so it also
// answers what would happen if. What it returns is the caller's.
func (p *Policy) Explain(logins []Login, in Newcomer, now time.Time) Explanation {
	e := Explanation{Newcomer: in}
	e.Decision = p.decide(logins, in, nil, &e.Steps)
	return e
}

// String returns the explanation as text for people, a line for the verdict and one for each step. The wording is not
// stable.
func (e Explanation) String() string {
	var b strings.Builder
	switch {
	case e.Rule == RuleUnknownPlatform:
		fmt.Fprintf(&b, "refused: platform %q is not known", string(e.Newcomer.Platform))
	case e.Verdict == Refuse:
		fmt.Fprintf(&b, "refused by %q, nobody ends", e.Rule)
	default:
		fmt.Fprintf(&b, "admitted on %s, %d end", e.Platform, len(e.Victims))
	}
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "\n%s: %s", s.Rule, s.Why)
		for i, v := range s.Victims {
			sep := ", "
			if i == 0 {
				sep = ": "
			}
			fmt.Fprintf(&b, "%s%s (%s)", sep, v.Login, v.Reason)
		}
	}
	return b.String()
}

// newStep notes what the rule did.
func newStep(r *rule, before int, refused bool, victims []Victim) Step {
	s := Step{
		Rule: r.name, Limit: r.limit, Before: before, After: before + 1 - len(victims),
		Refused: refused, Victims: slices.Clone(victims),
	}
	s.Why = fmt.Sprintf("%d %s, %d with the newcomer, limit %s; %s",
		before, r.counts.words(r.holders), before+1, limitWords(r.limit), s.outcome(r.reason))
	return s
}

// outcome says what the rule did about the count.
func (s *Step) outcome(reason event.Reason) string {
	switch {
	case s.Refused && s.Limit == 0:
		return "closed, so the newcomer is refused"
	case s.Refused:
		return "the newcomer is refused"
	case len(s.Victims) == 0:
		return "nothing to do"
	case reason == event.EvictedQuota:
		return fmt.Sprintf("picks %d, the earliest", len(s.Victims))
	}
	return fmt.Sprintf("picks %d, all of them", len(s.Victims))
}

// words says which logins are counted.
func (c scope) words(holders bool) string {
	w := "in the account"
	switch c {
	case onDevice:
		w = "of the same device"
	case onPlatform:
		w = "on the platform"
	case onUnknown:
		w = "on unknown platforms"
	}
	if holders {
		return "with a slot " + w
	}
	return w
}

func limitWords(limit int) string {
	if limit == NoLimit {
		return "none"
	}
	return fmt.Sprint(limit)
}
