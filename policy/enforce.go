package policy

import (
	"cmp"
	"maps"
	"slices"

	"github.com/manydevice/manydevice/event"
)

// Enforce names the logins that must end so that the rules hold for those that are there, without a newcomer: for rules
// that were replaced and are to be in force at once. All victims have the reason policy_changed. They are appended to
// victims[:0]. Enforcing twice names nobody the second time.
//
// Logins on closed and unknown platforms end, with a slot or without. Of several logins of one device the newest stays,
// with Single the newest of all. At each limit those end that its action evicts. Where it refuses, the newest end, which
// would have been refused; where it asks, Unanswered decides. At MaxLogins those go first that are neither online nor
// within their resume window, then the earliest. Rules are asked in the order of [Policy.Decide], and victims whose end
// was not needed are spared in the same way. A protected primary device keeps its newest login, even if a rule stays
// broken. Wishes, Reconnect and MinAge do not matter.
func (p *Policy) Enforce(logins []Login, victims []Victim) []Victim {
	return p.enforce(logins, victims).victims
}

// Protected names the logins that stay beyond a rule when [Policy.Enforce] has named its victims, since their device is the
// primary one and protected. Each stands with the first rule that it breaks, and without a reason, since it does not end.
func (p *Policy) Protected(logins []Login) []Victim {
	f := p.enforce(logins, nil)
	var stay []Victim
	named := make([]bool, len(logins))
	for _, r := range f.done {
		over := f.left(&r) - r.limit
		for _, i := range r.members {
			if over <= 0 {
				break
			}
			if l := &f.logins[i]; !f.gone[i] && l.Primary {
				over--
				if !named[i] {
					named[i] = true
					stay = append(stay, Victim{Index: i, Login: l.ID, Rule: r.rule})
				}
			}
		}
	}
	return stay
}

func (p *Policy) enforce(logins []Login, victims []Victim) *enforcement {
	f := &enforcement{policy: p.compiled(), logins: logins, gone: make([]bool, len(logins)), victims: victims[:0]}
	for _, row := range f.rows() {
		f.meet(row)
	}
	f.spare()
	return f
}

// enforcement is the use of rules on logins that are there.
type enforcement struct {
	policy  *Policy
	logins  []Login
	gone    []bool
	done    []row
	victims []Victim
}

// row is a rule about some of the logins: at most limit of them may stay.
type row struct {
	rule    string
	limit   int
	members []int // into the logins, first to end first
	device  bool  // about one device: not even the primary one is protected
}

// rows returns what must hold, in written order.
func (f *enforcement) rows() []row {
	rules := &f.policy.rules
	var rows []row
	add := func(rule string, limit int, order func(x, y *Login) int, in func(l *Login) bool) {
		r := row{rule: rule, limit: limit, device: rule == RuleDevice}
		for i := range f.logins {
			if in(&f.logins[i]) {
				r.members = append(r.members, i)
			}
		}
		slices.SortFunc(r.members, func(x, y int) int { return order(&f.logins[x], &f.logins[y]) })
		rows = append(rows, r)
	}
	devices, platforms := make(map[event.DeviceID]bool), make(map[event.Platform]bool)
	for i := range f.logins {
		devices[f.logins[i].Device] = true
		platforms[f.counted(&f.logins[i]).platform] = true
	}
	for _, d := range slices.Sorted(maps.Keys(devices)) {
		if d != "" {
			add(RuleDevice, 1, EvictEarliest.compare, func(l *Login) bool { return l.Device == d })
		}
	}
	if rules.Single {
		add(RuleSingle, 1, EvictEarliest.compare, func(*Login) bool { return true })
	}
	for _, name := range slices.Sorted(maps.Keys(platforms)) {
		on := func(l *Login) bool { return f.counted(l).platform == name }
		switch limit := rules.limit(name); {
		case name == "":
			add(RuleUnknownPlatform, 0, EvictEarliest.compare, on)
		case limit == 0:
			add(RulePlatform, 0, EvictEarliest.compare, on)
		case limit != NoLimit:
			add(RulePlatform, limit, rules.enforced(rules.action(name)), func(l *Login) bool { return on(l) && f.holds(l) })
		}
	}
	for i := range rules.Groups {
		g := &rules.Groups[i]
		add(RuleGroup+g.Name, g.Limit, rules.enforced(g.Action), func(l *Login) bool {
			return f.counted(l).groups&(1<<i) != 0 && f.holds(l)
		})
	}
	if rules.Total > 0 {
		add(RuleTotal, rules.Total, rules.enforced(rules.AtTotal), f.holds)
	}
	add(RuleAccount, rules.MaxLogins, func(x, y *Login) int {
		return cmp.Or(compareBool(x.Holds, y.Holds), EvictEarliest.compare(x, y))
	}, func(*Login) bool { return true })
	return rows
}

// counted returns the program of the platform under which a login counts.
func (f *enforcement) counted(l *Login) *program {
	return &f.policy.programs[f.policy.table.find(l.Platform).id]
}

// holds reports whether a login takes a slot at limits.
func (f *enforcement) holds(l *Login) bool {
	rules := &f.policy.rules
	return (l.Holds || rules.Slots == SlotEveryLogin) && !(l.Primary && rules.Primary == PrimaryFree)
}

// meet ends as many members of the row as it takes.
func (f *enforcement) meet(r row) {
	f.done = append(f.done, r)
	stay := f.left(&r)
	for _, i := range r.members {
		l := &f.logins[i]
		if stay <= r.limit {
			return
		}
		if f.gone[i] || !r.device && l.Primary && f.policy.rules.Primary != PrimaryOrdinary {
			continue
		}
		f.gone[i] = true
		stay--
		f.victims = append(f.victims, Victim{Index: i, Login: l.ID, Reason: event.PolicyChanged, Rule: r.rule})
	}
}

// left returns how many members of the row stay.
func (f *enforcement) left(r *row) int {
	n := 0
	for _, i := range r.members {
		if !f.gone[i] {
			n++
		}
	}
	return n
}

// spare lets those stay without whom every rule holds all the same, or is broken no worse than by a protected device.
func (f *enforcement) spare() {
	for v := len(f.victims) - 1; v >= 0; v-- {
		i := f.victims[v].Index
		needed := slices.ContainsFunc(f.done, func(r row) bool {
			return slices.Contains(r.members, i) && f.left(&r) >= r.limit
		})
		if !needed {
			f.gone[i] = false
			f.victims = slices.Delete(f.victims, v, v+1)
		}
	}
}

// enforced returns the order in which logins end if the action is enforced on those that are there.
func (r *Rules) enforced(a Action) func(x, y *Login) int {
	if a == AskHost {
		a = r.Unanswered
	}
	if a == RefuseNew {
		return func(x, y *Login) int { return EvictEarliest.compare(y, x) }
	}
	return a.compare
}

// compare orders logins for sorting: those that the action ends first come first.
func (a Action) compare(x, y *Login) int {
	return compareBool(a.before(y, x), a.before(x, y))
}

// compareBool orders false before true.
func compareBool(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

// Tally counts what [Policy.Enforce] names over many accounts, as a preview of rules before they are enforced. The zero
// value is empty. It is not safe for concurrent use.
type Tally struct {
	Accounts int            // looked at
	Affected int            // of which logins would end
	Logins   int            // of all of them
	Ends     int            // logins that would end
	ByRule   map[string]int // those by the rule that names them
	// Protected counts logins that are beyond a rule and stay, see [Policy.Protected], by that rule. Nil: there are none.
	Protected map[string]int
}

// Add counts an account with this number of logins: the victims would end, and the protected ones are beyond a rule and stay.
func (t *Tally) Add(logins int, victims, protected []Victim) {
	t.Accounts++
	t.Logins += logins
	t.Ends += len(victims)
	if len(victims) > 0 {
		t.Affected++
	}
	t.ByRule = byRule(t.ByRule, victims)
	t.Protected = byRule(t.Protected, protected)
}

func byRule(counts map[string]int, logins []Victim) map[string]int {
	if counts == nil && len(logins) > 0 {
		counts = make(map[string]int)
	}
	for _, v := range logins {
		counts[v.Rule]++
	}
	return counts
}
