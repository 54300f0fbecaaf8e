package policy

import (
	"math/bits"
	"slices"
	"time"
)

// question is one decision in the making. It does not hold the victims: they are returned, and would take the marks,
// which live on the stack, to the heap with them.
type question struct {
	policy  *Policy
	program *program
	logins  []Login
	in      Newcomer
	now     time.Time
	answer  *Answer          // of the host; nil: it was not asked yet
	marks   []mark           // by login
	have    [goneShift]int32 // by bit of the marks: logins that have it and are not gone

	guarded bool // some login may be protected: there is a primary device, or the newcomer's is too new
	age     age  // of the newcomer's device
}

// outcome is what a rule says to an excess.
type outcome struct {
	verdict Verdict
	cause   Cause
	wait    time.Duration
}

// markLogins notes for each login what it counts as. at is the newcomer's platform.
func (q *question) markLogins(at *entry) {
	t, rules := &q.policy.table, &q.policy.rules
	every, free := rules.Slots == SlotEveryLogin, rules.Primary == PrimaryFree
	// Without groups, platforms matter only as far as they are the newcomer's, which comparing tells as well.
	simple := at != &t.unknown && at.groups == 0
	since, known, primary := q.in.Since, !q.in.Since.IsZero(), false
	var device, platform, total, all int32 // counts of the high marks, in registers
	for i := range q.logins {
		l := &q.logins[i]
		m := markAll
		if !(l.Holds || every) {
			m |= markIdle
		} else if !(free && l.Primary) {
			m |= markTotal
			if l.Platform == q.in.Platform {
				m |= markPlatform | at.groups
			} else if !simple {
				is := t.find(l.Platform)
				if m |= is.groups & at.groups; is == at {
					m |= markPlatform
				}
			}
		}
		if same(string(l.Device), string(q.in.Device)) {
			m |= markDevice
		}
		if same(string(l.ID), string(q.in.Login)) {
			if q.marks[i] = markGone; !known {
				since, known = l.Since, true
			}
			continue
		}
		q.marks[i] = m
		device += int32(m >> deviceShift & 1)
		platform += int32(m >> platformShift & 1)
		total += int32(m >> totalShift & 1)
		all++
		for groups := uint32(m); groups != 0; groups &= groups - 1 {
			q.have[bits.TrailingZeros32(groups)]++
		}
		primary = primary || l.Primary
	}
	copy(q.have[deviceShift:], []int32{device, platform, total, all})
	q.age = ageOf(since, known, q.now, rules.MinAge)
	q.guarded = primary || q.age.young
}

// same reports whether two IDs are equal and not empty. It looks at the last byte first: many IDs begin alike.
func same(a, b string) bool {
	n := len(a)
	return n > 0 && n == len(b) && a[n-1] == b[n-1] && a == b
}

// tally adds a login with the mark to the counts, or takes it out of them.
func (q *question) tally(m mark, by int32) {
	h := &q.have
	h[deviceShift] += by & -int32(m>>deviceShift&1)
	h[platformShift] += by & -int32(m>>platformShift&1)
	h[totalShift] += by & -int32(m>>totalShift&1)
	h[allShift] += by & -int32(m>>allShift&1)
	for groups := uint32(m); groups != 0; groups &= groups - 1 {
		h[bits.TrailingZeros32(groups)] += by
	}
}

// end takes a login out of all counts; stay puts it back.
func (q *question) end(i int) {
	q.tally(q.marks[i], -1)
	q.marks[i] |= markGone
}

func (q *question) stay(i int) {
	q.marks[i] &^= markGone
	q.tally(q.marks[i], 1)
}

// count returns how many logins the rule counts, without the newcomer and the victims so far.
func (q *question) count(r *rule) int { return int(q.have[r.shift%goneShift]) }

// newcomers returns how many the newcomer counts for. What is closed is closed to all.
func (q *question) newcomers(r *rule) int {
	if r.quota && r.limit != 0 && q.in.Primary && q.policy.rules.Primary == PrimaryFree {
		return 0
	}
	return 1
}

// counts reports whether the rule counts the login.
func (q *question) counts(r *rule, i int) bool { return q.marks[i]&(r.mark|markGone) == r.mark }

// endable reports whether the rule counts the login and may end it, unless it is protected.
func (q *question) endable(r *rule, i int) bool { return q.marks[i]&(r.ends|markGone) == r.ends }

// meet makes a rule hold that would be exceeded: it appends victims, refuses, or asks, with candidates in place of
// victims.
func (q *question) meet(r *rule, excess int, victims []Victim) ([]Victim, outcome) {
	if r.mark == markDevice { // a device may always replace its own logins
		return q.evict(r, EvictEarliest, excess, victims, false), outcome{verdict: Admit}
	}
	action, cause := q.action(r, excess)
	if action == RefuseNew {
		return victims, outcome{verdict: Refuse, cause: cause}
	}
	if q.guarded {
		if cause := q.shielded(r, excess); cause != CauseRule {
			return victims, outcome{verdict: Refuse, cause: cause, wait: q.age.waitFor(cause)}
		}
	}
	if action == AskHost {
		return q.ask(r, excess, victims)
	}
	return q.evict(r, action, excess, victims, q.guarded), outcome{verdict: Admit}
}

// action returns what the rule does to this newcomer and, if it refuses for the newcomer's sake, why.
func (q *question) action(r *rule, excess int) (Action, Cause) {
	rules := &q.policy.rules
	switch {
	case r.limit == 0 || r.bound && q.idle(r) < excess:
		return RefuseNew, CauseRule
	case r.action == RefuseNew && !(q.in.Wish == ForceEvict && rules.AllowForce):
		return RefuseNew, CauseRule
	case q.in.Wish == NeverEvict:
		return RefuseNew, CauseWish
	case q.in.Login != "" && rules.Reconnect == ReconnectRefused:
		return RefuseNew, CauseReconnect
	case r.action == RefuseNew: // forced
		return EvictEarliest, CauseRule
	}
	return r.action, CauseRule
}

// protected returns why the newcomer may not end the login, which is another device's; empty if it may.
func (q *question) protected(l *Login) Cause {
	if l.Primary && q.policy.rules.Primary != PrimaryOrdinary {
		return CausePrimary
	}
	if q.age.young && !q.age.before(l.Since, q.now) {
		return CauseMinAge
	}
	return CauseRule
}

// idle returns how many logins without a slot the rule may end, protected or not.
func (q *question) idle(r *rule) int {
	n := 0
	for i := range q.logins {
		if q.endable(r, i) {
			n++
		}
	}
	return n
}

// shielded returns why protection leaves fewer logins for the rule to end than the excess; empty if it leaves enough. The
// minimum age is the cause only if waiting for it would help.
func (q *question) shielded(r *rule, excess int) Cause {
	may, later := 0, 0
	for i := range q.logins {
		if !q.endable(r, i) {
			continue
		}
		switch q.protected(&q.logins[i]) {
		case CauseRule:
			may++
		case CauseMinAge:
			later++
		}
	}
	switch {
	case may >= excess:
		return CauseRule
	case may+later >= excess:
		return CauseMinAge
	}
	return CausePrimary
}

// evict chooses n logins and takes them out of all counts.
func (q *question) evict(r *rule, order Action, n int, victims []Victim, protect bool) []Victim {
	first := len(victims) // those before it were chosen by earlier rules
	victims = q.choose(r, order, n, victims, protect)
	for i := first; i < len(victims); i++ {
		q.end(victims[i].Index)
	}
	return victims
}

// choose appends n of the logins that the rule may end to the victims, in the order of the action; only those that are
// not protected, if that matters. It sorts by insertion, which takes one pass if the logins are in that order, as they
// are by admission in an account's record.
func (q *question) choose(r *rule, order Action, n int, victims []Victim, protect bool) []Victim {
	first := len(victims)
	for i := range q.logins {
		if !q.endable(r, i) {
			continue
		}
		l, last := &q.logins[i], len(victims)-1
		switch {
		case protect && q.protected(l) != CauseRule:
			continue
		case len(victims)-first < n:
			last++
			if last == cap(victims) {
				victims = slices.Grow(victims, 1)
			}
			victims = victims[:last+1]
		case !order.before(l, &q.logins[victims[last].Index]):
			continue
		}
		for ; last > first && order.before(l, &q.logins[victims[last-1].Index]); last-- {
			victims[last] = victims[last-1]
		}
		r.victim(&victims[last], i, l)
	}
	return victims
}

// victim fills in what the rule says about a victim. It writes in place, since copying took as long as all the rest.
func (r *rule) victim(v *Victim, i int, l *Login) {
	v.Index, v.Login, v.Reason, v.Rule = i, l.ID, r.reason, r.name
}

// spare takes those from the victims without whom every rule holds all the same, because victims of later rules count
// for earlier ones too. The latest choice is looked at first, so that it yields to the earlier one. One pass does: who
// is needed stays needed when others are spared.
func (q *question) spare(victims []Victim, e *Explanation) []Victim {
	for v := len(victims) - 1; v >= 0; v-- {
		q.stay(victims[v].Index)
		if q.broken() {
			q.end(victims[v].Index)
			continue
		}
		if e != nil {
			e.Spared = append(e.Spared, victims[v])
		}
		victims = slices.Delete(victims, v, v+1)
	}
	return victims
}

// broken reports whether some rule is exceeded with the newcomer in.
func (q *question) broken() bool {
	for i := range q.program.rules {
		if r := &q.program.rules[i]; r.limit != NoLimit && q.count(r)+q.newcomers(r) > r.limit {
			return true
		}
	}
	return false
}

// earlier reports whether a was admitted before b.
func earlier(a, b *Login) bool {
	if a.Admission != b.Admission {
		return a.Admission < b.Admission
	}
	return a.ID < b.ID
}
