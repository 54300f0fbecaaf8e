package policy

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/manydevice/manydevice/event"
)

// Policy decides by a set of [Rules]. Make it with [New]. It never changes and is safe for concurrent use. The zero Policy,
// and a nil one, decide by the zero Rules; they compile them on every call, so New is faster.
type Policy struct {
	rules    Rules
	table    table
	programs []program // by entry.id; none: the zero Policy
}

// compiled returns p, or the policy of the zero Rules if p is the zero Policy. Every exported method begins with it.
func (p *Policy) compiled() *Policy {
	if p != nil && p.programs != nil {
		return p
	}
	return compile(Rules{}.withDefaults())
}

// New returns the policy of the rules. It keeps a copy of them. If they are not valid, the error joins one
// [*event.InvalidError] for each fault, whose Field is the path to it, such as `Platforms["ios"]` or `Groups[1].Limit`.
func New(r Rules) (*Policy, error) {
	r = r.withDefaults()
	if err := errors.Join(r.validate(false)...); err != nil {
		return nil, fmt.Errorf("policy: rules: %w", err)
	}
	return compile(r), nil
}

// compile makes the policy of rules that are valid and whose defaults are filled in.
func compile(r Rules) *Policy {
	names := r.platforms()
	groups := make(map[event.Platform]mark)
	for i := range r.Groups {
		for _, m := range r.members(&r.Groups[i]) {
			groups[m] |= 1 << i
		}
	}
	p := &Policy{rules: r, table: newTable(len(names))}
	// Program 0 is that of unknown platforms. It has no rules if they are refused.
	p.table.unknown.groups = groups[Other]
	if r.Unknown == CountAsOther {
		p.programs = append(p.programs, r.compile(Other, groups[Other]))
	} else {
		p.programs = append(p.programs, program{})
	}
	for _, name := range names {
		p.table.add(entry{name: name, groups: groups[name], id: len(p.programs)})
		p.programs = append(p.programs, r.compile(name, groups[name]))
	}
	return p
}

// Rules returns a copy of the rules, with the defaults filled in.
func (p *Policy) Rules() Rules { return p.compiled().rules.clone() }

// Platforms returns the platforms that are known: those that always are, in a fixed order, then those that the rules add, in
// alphabetical order. A closed platform is a known one. [Other] is none. The slice is the caller's.
func (p *Policy) Platforms() Platforms { return p.compiled().rules.platforms() }

// Tabs returns how many connections one login on the platform may have at once: 1 if the newest replaces the one
// before, and for platforms that are refused.
func (p *Policy) Tabs(platform event.Platform) int {
	p = p.compiled()
	if n := p.rules.Tabs[p.programs[p.table.find(platform).id].platform]; n > 0 {
		return n
	}
	return 1
}

// mark has a bit for each thing that a rule can count. The low 32 are the groups, in their order.
type mark uint64

const (
	markDevice   mark = 1 << (32 + iota) // of the newcomer's device
	markPlatform                         // on the newcomer's platform, with a slot
	markTotal                            // anywhere, with a slot
	markAll                              // anywhere
	markGone                             // a victim, or the one that comes back
	markIdle                             // without a slot; it has no count
)

// Where the bits of the marks are.
const (
	deviceShift = 32 + iota
	platformShift
	totalShift
	allShift
	goneShift
)

// program is what is asked of a newcomer of one platform: rules in written order.
type program struct {
	platform event.Platform // under which the newcomer is counted; empty: it is refused
	groups   mark           // that it is in
	rules    []rule
}

// rule is one row: among the logins that it counts, the newcomer included, at most limit may stay.
type rule struct {
	name   string
	mark   mark // of the logins that it counts
	ends   mark // of those of them that it may end
	shift  uint8
	quota  bool // about slots: the primary device may be free of it
	bound  bool // the safety bound
	limit  int  // NoLimit: count, but never act
	action Action
	reason event.Reason // why logins end
	words  string       // which logins it counts
}

// compile writes down the rules for newcomers that are counted under the platform.
func (r *Rules) compile(platform event.Platform, groups mark) program {
	slot := "with a slot "
	if r.Slots == SlotEveryLogin {
		slot = ""
	}
	where := "on " + string(platform)
	if platform == Other {
		where = "on unknown platforms"
	}
	rules := []rule{{name: RuleDevice, mark: markDevice, limit: 1, reason: event.Replaced, words: "of the same device"}}
	if r.Single {
		rules = append(rules, rule{
			name: RuleSingle, mark: markAll, limit: 1, reason: event.EvictedSingle, words: "in the account",
		})
	}
	rules = append(rules, rule{
		name: RulePlatform, mark: markPlatform, quota: true, limit: r.limit(platform), action: r.action(platform),
		reason: event.EvictedQuota, words: slot + where,
	})
	for i := range r.Groups {
		if g := &r.Groups[i]; groups&(1<<i) != 0 {
			rules = append(rules, rule{
				name: RuleGroup + g.Name, mark: 1 << i, quota: true, limit: g.Limit, action: g.Action,
				reason: event.EvictedQuota, words: slot + "in the group",
			})
		}
	}
	if r.Total > 0 {
		rules = append(rules, rule{
			name: RuleTotal, mark: markTotal, quota: true, limit: r.Total, action: r.AtTotal,
			reason: event.EvictedQuota, words: slot + "in the account",
		})
	}
	rules = append(rules, rule{
		name: RuleAccount, mark: markAll, ends: markIdle, bound: true, limit: r.MaxLogins, action: EvictEarliest,
		reason: event.EvictedQuota, words: "in the account",
	})
	for i := range rules {
		rules[i].ends |= rules[i].mark
		rules[i].shift = uint8(bits.TrailingZeros64(uint64(rules[i].mark)))
	}
	return program{platform: platform, groups: groups, rules: rules}
}

// table finds platforms by name, faster than a map does: a decision looks up the platform of every login.
type table struct {
	entries []entry // a power of two, at most a quarter of them used; entries with an empty name are free
	unknown entry   // for every other name
}

type entry struct {
	name   event.Platform
	groups mark
	id     int // into the programs
}

func newTable(n int) table {
	size := 1 << bits.Len(uint(4*n))
	return table{entries: make([]entry, size)}
}

// slot is where the search for a name that is not empty begins.
func (t *table) slot(name event.Platform) int {
	n := len(name)
	h := uint32(n)*0x9e3779b1 ^ uint32(name[0])*0x85ebca6b ^ uint32(name[n-1])*0xc2b2ae35 ^ uint32(name[n/2])*0x27d4eb2f
	return int(h>>16^h) & (len(t.entries) - 1)
}

func (t *table) add(e entry) {
	i := t.slot(e.name)
	for t.entries[i].name != "" {
		i = (i + 1) & (len(t.entries) - 1)
	}
	t.entries[i] = e
}

// find returns the entry of the name, or that of unknown platforms.
func (t *table) find(name event.Platform) *entry {
	if name == "" {
		return &t.unknown
	}
	for i := t.slot(name); ; i = (i + 1) & (len(t.entries) - 1) {
		switch e := &t.entries[i]; e.name {
		case name:
			return e
		case "":
			return &t.unknown
		}
	}
}
