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
	// Newcomer is the one that was decided about. A refusal by [RuleUnknownPlatform] is about its Platform.
	Newcomer Newcomer
	// Known are the platforms that are known, if the newcomer is refused because its own is not. Nil otherwise.
	Known Platforms
	// Steps are the rules that were asked, in order. A rule that refuses or asks is the last. There are none if the
	// platform is unknown.
	Steps []Step
	// Spared were chosen by a rule, but do not end: victims of later rules made up for them.
	Spared []Victim
}

// Step is what one rule found and did.
type Step struct {
	Rule    string
	Limit   int   // logins that it allows at once, the newcomer included; NoLimit: any number
	Before  int   // logins that it counted, without the newcomer and victims of the rules before it
	After   int   // logins that it counts if the newcomer gets in, the newcomer included
	Refused bool  // it turned the newcomer down
	Asked   bool  // it leaves the choice to the host
	Cause   Cause // why it refused instead of evicting
	// Removable are, if it refused, those that it counted and that the newcomer's device may end if its user wants to. None:
	// nobody can make room.
	Removable []event.LoginID
	// Victims are those that it chose, in its order. They do not end if a later rule refuses or asks, or if they are
	// spared.
	Victims []Victim
	// Why says in words what it counted and why it did what it did. The wording is not stable.
	Why string
}

// Explain decides as [Policy.Decide] does, by the same code, and says how it came to it. Nothing is changed, so it also
// answers what would happen if. What it returns is the caller's.
func (p *Policy) Explain(logins []Login, in Newcomer, now time.Time) Explanation {
	e := Explanation{Newcomer: in}
	e.Decision = p.decide(logins, in, now, nil, nil, &e)
	e.know(p)
	return e
}

// ExplainAnswer decides as [Policy.Resolve] does and says how it came to it.
func (p *Policy) ExplainAnswer(logins []Login, in Newcomer, now time.Time, a Answer) Explanation {
	e := Explanation{Newcomer: in}
	e.Decision = p.decide(logins, in, now, &a, nil, &e)
	e.know(p)
	return e
}

// know notes which platforms are known, if that is what the newcomer is refused for.
func (e *Explanation) know(p *Policy) {
	if e.Rule == RuleUnknownPlatform || e.Verdict == Refuse && e.Rule == RulePlatform && e.Limit == 0 && e.Platform == Other {
		e.Known = p.Platforms()
	}
}

// Summary returns the verdict as one line of text for people. A refusal names what it is about: the platform that is not
// known, with those that are, or that is closed, or the rule with its limit, how many logins must end, and why it did not
// evict. The wording is not stable.
func (e Explanation) Summary() string {
	switch {
	case len(e.Known) > 0:
		return fmt.Sprintf("refused: platform %s is not one of %v", e.platform(), e.Known)
	case e.Verdict == Refuse && e.Rule == RulePlatform && e.Limit == 0:
		return fmt.Sprintf("refused: platform %s is closed", e.platform())
	case e.Verdict == Refuse:
		return fmt.Sprintf("refused by %q (limit %d, count %d, %d would have to end)%s",
			e.Rule, e.Limit, e.Count, e.Need, e.Cause.words(e.Wait))
	case e.Verdict == Ask:
		return fmt.Sprintf("the host is asked by %q, at least %d of %d must end", e.Rule, e.Need, len(e.Victims))
	}
	return fmt.Sprintf("admitted on %s, %d end", e.Platform, len(e.Victims))
}

// platform returns the newcomer's platform in quotes. It is the client's word and may be anything.
func (e Explanation) platform() string {
	name := string(e.Newcomer.Platform)
	if len(name) > maxInPath {
		name = name[:maxInPath] + "..."
	}
	return fmt.Sprintf("%q", name)
}

// String returns the explanation as text for people, the summary and a line for each step. The wording is not stable.
func (e Explanation) String() string {
	var b strings.Builder
	b.WriteString(e.Summary())
	if e.Verdict == Ask {
		writeVictims(&b, e.Victims)
	}
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "\n%s: %s", s.Rule, s.Why)
		writeVictims(&b, s.Victims)
	}
	if len(e.Spared) > 0 {
		b.WriteString("\nspared, since later victims make up for them")
		writeVictims(&b, e.Spared)
	}
	return b.String()
}

func writeVictims(b *strings.Builder, victims []Victim) {
	for i, v := range victims {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(b, "%s%s (%s)", sep, v.Login, v.Reason)
	}
}

// note adds the step of a rule.
func (e *Explanation) note(q *question, r *rule, before int, o outcome, victims []Victim) {
	s := Step{
		Rule: r.name, Limit: r.limit, Before: before, Refused: o.verdict == Refuse, Asked: o.verdict == Ask, Cause: o.cause,
	}
	if !s.Asked {
		s.Victims = slices.Clone(victims)
	}
	if s.Refused {
		s.Removable = q.removable(r)
	}
	with := before + q.newcomers(r)
	s.After = with - len(s.Victims)
	limit := fmt.Sprint(r.limit)
	if r.limit == NoLimit {
		limit = "none"
	}
	s.Why = fmt.Sprintf("%d %s, %d with the newcomer, limit %s; %s", before, r.words, with, limit, s.outcome(q, r, o, with-r.limit))
	e.Steps = append(e.Steps, s)
}

// removable returns the logins that the rule counts and that are not protected from the newcomer's device.
func (q *question) removable(r *rule) []event.LoginID {
	if r.limit == 0 {
		return nil
	}
	var all []event.LoginID
	for i := range q.logins {
		if l := &q.logins[i]; q.counts(r, i) && q.protected(l) == CauseRule {
			all = append(all, l.ID)
		}
	}
	return all
}

// outcome says what the rule did about the excess.
func (s *Step) outcome(q *question, r *rule, o outcome, excess int) string {
	switch {
	case s.Refused && s.Limit == 0:
		return "closed, so the newcomer is refused"
	case s.Refused && r.bound && o.cause == CauseRule:
		return "the newcomer is refused, since " + s.idle(q, r)
	case s.Refused:
		return "the newcomer is refused" + o.cause.words(o.wait)
	case s.Asked:
		return fmt.Sprintf("the host says which %d", excess)
	case len(s.Victims) == 0:
		return "nothing to do"
	case r.bound:
		return fmt.Sprintf("picks %d, the earliest without a slot", len(s.Victims))
	case r.reason != event.EvictedQuota:
		return fmt.Sprintf("picks %d, all of them", len(s.Victims))
	}
	action, _ := q.action(r, excess)
	return fmt.Sprintf("picks %d, %s", len(s.Victims), action.words())
}

// idle says why the safety bound finds too few logins to end.
func (s *Step) idle(q *question, r *rule) string {
	if n := q.idle(r); n > 0 {
		return fmt.Sprintf("only %d without a slot may make room", n)
	}
	return "every login holds a slot"
}

// words says whom the action picks.
func (a Action) words() string {
	switch a {
	case EvictLeastActive:
		return "the least recently active"
	case EvictOfflineFirst:
		return "the earliest, offline ones first"
	case AskHost:
		return "as the host chose"
	}
	return "the earliest"
}

// words says why a newcomer is refused where others may be let in.
func (c Cause) words(wait time.Duration) string {
	switch c {
	case CauseWish:
		return ", as it asked for"
	case CauseReconnect:
		return ", since a reconnect may not evict"
	case CausePrimary:
		return ", since the primary device's login may not end"
	case CauseMinAge:
		if wait == 0 {
			return ", since its device is unknown, and so is newer than all others"
		}
		return fmt.Sprintf(", since its device may not end older logins for another %v", wait)
	case CauseHost:
		return " by the host"
	case CauseUnanswered:
		return ", since the host named too few"
	}
	return ""
}
