package policy

import (
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
)

// Login is one login that the account has.
type Login struct {
	ID        event.LoginID
	Device    event.DeviceID // empty: it is its own device
	Platform  event.Platform // as it was at its admission, whether or not it is known now
	Admission uint64         // number of its admission: the lower, the earlier
	Holds     bool           // it holds a slot
}

// Newcomer is who wants in.
type Newcomer struct {
	Device   event.DeviceID // empty: it is its own device
	Platform event.Platform // as event.ParsePlatform returns it
	// Login, if set, is a login of the account that has no slot any more and comes back for one. It stands among the
	// logins, is never its own victim and is not counted twice.
	Login event.LoginID
}

// Victim is a login that ends so that the newcomer gets in.
type Victim struct {
	Index  int           // into the logins that Decide was called with
	Login  event.LoginID // its ID
	Reason event.Reason  // replaced, evicted_single or evicted_quota
	Rule   string        // the rule that chose it
}

// Verdict is what becomes of a newcomer. The zero value refuses.
type Verdict uint8

const (
	// Refuse: the newcomer does not get in, and nobody ends.
	Refuse Verdict = iota
	// Admit: the newcomer gets in, and all victims end in the same step.
	Admit
)

// String returns "refuse" or "admit".
func (v Verdict) String() string {
	switch v {
	case Refuse:
		return "refuse"
	case Admit:
		return "admit"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// Decision is the answer of a [Policy].
type Decision struct {
	Verdict Verdict
	// Rule is the one that refused, or [RulePlatform] if the newcomer is admitted. Limit and Count are its own.
	Rule string
	// Limit is how many logins the rule allows at once, the newcomer included; [NoLimit]: any number. It is 0 for a
	// closed platform and for an unknown one.
	Limit int
	// Count is how many logins the rule counted before, without the newcomer and without victims of the rules before it.
	Count int
	// Platform is the one under which the newcomer is counted: its own or [Other]; empty if it is not known.
	Platform event.Platform
	// Victims end, in the order in which the rules chose them; those of one rule in order of admission. There are none
	// with Refuse.
	Victims []Victim
}

// Decide says what becomes of the newcomer. The logins are all that the account has, in any order; they are neither
// changed nor kept. now is the time of the decision; none of the present rules depends on it. Victims are appended to
// victims[:0], so the caller can use one buffer again and again; Decide allocates nothing, unless they do not fit or
// there are more logins than [MaxLogins].
//
// A comeback (Newcomer.Login) is decided like a login, but is refused by [RuleAccount] only if the account is beyond the
// bound already. Equal admission numbers, which do not happen, are ordered by login ID.
func (p *Policy) Decide(logins []Login, in Newcomer, now time.Time, victims []Victim) Decision {
	return p.decide(logins, in, victims, nil)
}

// decide is Decide and, if steps is not nil, notes there what each rule did.
func (p *Policy) decide(logins []Login, in Newcomer, victims []Victim, steps *[]Step) Decision {
	prog := p.programFor(in.Platform)
	if prog == nil {
		return Decision{Verdict: Refuse, Rule: RuleUnknownPlatform, Victims: victims[:0]}
	}
	d := Decision{Verdict: Admit, Platform: prog.platform}
	var marks [2][MaxLogins]bool // on the stack; an account has no more logins, unless its record is damaged
	q := question{policy: p, logins: logins, in: in}
	victims = victims[:0] // not in q: what is returned would take the marks to the heap with it
	q.out, q.counted = sized(marks[0][:], len(logins)), sized(marks[1][:], len(logins))
	q.leaveOutSelf()
	for i := range prog.rules {
		r := &prog.rules[i]
		before, first := q.count(r), len(victims)
		if r.counts == onPlatform || r.counts == onUnknown {
			d.Rule, d.Limit, d.Count = r.name, r.limit, before
		}
		excess := 0
		if r.limit != NoLimit {
			excess = max(0, before+1-r.limit)
		}
		refused := excess > 0 && (r.reason == "" || r.limit == 0)
		if excess > 0 && !refused {
			victims = q.evict(r, excess, victims)
		}
		if steps != nil {
			*steps = append(*steps, newStep(r, before, refused, victims[first:]))
		}
		if refused {
			d.Verdict, d.Rule, d.Limit, d.Count = Refuse, r.name, r.limit, before
			victims = victims[:0]
			break
		}
	}
	d.Victims = victims
	return d
}

// programFor returns the rules for a newcomer of the platform, nil if it is refused for its platform.
func (p *Policy) programFor(platform event.Platform) *program {
	if prog := p.known[platform]; prog != nil {
		return prog
	}
	return p.other
}

// sized returns the first n of marks, or as many new ones if there are fewer.
func sized(marks []bool, n int) []bool {
	if n <= len(marks) {
		return marks[:n]
	}
	return make([]bool, n)
}

// question is one decision in the making.
type question struct {
	policy  *Policy
	logins  []Login
	in      Newcomer
	out     []bool // by login: a victim of an earlier rule, or the one that comes back
	counted []bool // by login: counted by the rule at hand
}

// leaveOutSelf keeps the login that comes back from being counted beside itself.
func (q *question) leaveOutSelf() {
	if q.in.Login == "" {
		return
	}
	for i := range q.logins {
		q.out[i] = q.logins[i].ID == q.in.Login
	}
}

// count marks the logins that the rule counts, without the newcomer and the victims so far, and returns how many.
func (q *question) count(r *rule) int {
	n, out, counted := 0, q.out, q.counted
	for i := range q.logins {
		l := &q.logins[i]
		yes := !out[i] && (l.Holds || !r.holders)
		if yes {
			switch r.counts {
			case onDevice:
				yes = l.Device == q.in.Device && l.Device != ""
			case onPlatform:
				yes = l.Platform == q.in.Platform
			case onUnknown:
				yes = q.policy.known[l.Platform] == nil
			}
		}
		if counted[i] = yes; yes {
			n++
		}
	}
	return n
}

// evict appends the n earliest logins that the rule counted to the victims, earliest first. It sorts by insertion, which
// takes one pass if the logins are in order of admission, as they are in an account's record.
func (q *question) evict(r *rule, n int, victims []Victim) []Victim {
	first := len(victims) // those before it were chosen by earlier rules
	for i := range q.logins {
		if !q.counted[i] {
			continue
		}
		l, last := &q.logins[i], len(victims)-1
		switch {
		case len(victims)-first < n:
			victims = append(victims, Victim{Index: i, Login: l.ID, Reason: r.reason, Rule: r.name})
		case earlier(l, &q.logins[victims[last].Index]):
			victims[last] = Victim{Index: i, Login: l.ID, Reason: r.reason, Rule: r.name}
		default:
			continue
		}
		for j := len(victims) - 1; j > first && earlier(l, &q.logins[victims[j-1].Index]); j-- {
			victims[j-1], victims[j] = victims[j], victims[j-1]
		}
	}
	for i := range victims[first:] {
		q.out[victims[first+i].Index] = true
	}
	return victims
}

// earlier reports whether a was admitted before b.
func earlier(a, b *Login) bool {
	if a.Admission != b.Admission {
		return a.Admission < b.Admission
	}
	return a.ID < b.ID
}
