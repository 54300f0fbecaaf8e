package policy

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
)

// Names of rules, as they stand in a [Decision], a [Victim] and a [Step]. They are stable.
const (
	RuleUnknownPlatform = "unknown_platform" // the platform is not known, and unknown ones are refused
	RuleDevice          = "device"           // one login for each device
	RuleSingle          = "single"           // one login in all
	RulePlatform        = "platform"         // limit of logins with a slot on a platform
	RuleGroup           = "group:"           // the same in a group, whose name follows: "group:mobile"
	RuleTotal           = "total"            // the same over all platforms
	RuleAccount         = "account"          // safety bound: limit of all logins of the account
)

const (
	// Other is the platform under which unknown ones are counted with [CountAsOther]. It can have its own limit then.
	Other event.Platform = "other"
	// NoLimit turns a limit off.
	NoLimit = -1
	// DefaultPerPlatform is the limit of a platform that has no own one.
	DefaultPerPlatform = 4
	// MaxLogins is the highest safety bound of an account, and its default.
	MaxLogins = 64
	// MaxGroups is how many groups there may be.
	MaxGroups = 32
	// MaxTabs is the highest number of connections that one login may have at once.
	MaxTabs = 32
)

// Rules say how many logins an account may have. The zero value is valid: 4 on each platform, the earliest login makes
// room, unknown platforms are refused, 64 in all. Rules can be written as JSON and read by [ParseJSON].
type Rules struct {
	// PerPlatform is how many logins may hold a slot at once on each platform that has no own limit. Zero means
	// [DefaultPerPlatform]; [NoLimit] means that only MaxLogins bounds them.
	PerPlatform int
	// Platforms are own limits of platforms. A platform that stands here is known. Zero closes the platform; [NoLimit]
	// means that only MaxLogins bounds it. The limit of [Other] may be set with CountAsOther.
	Platforms map[event.Platform]int
	// AtPlatform is what happens at the limit of a platform that has no own action.
	AtPlatform Action
	// Actions are own actions of known platforms, and of [Other] with CountAsOther.
	Actions map[event.Platform]Action
	// Unknown says what to do with a platform that is not known.
	Unknown UnknownRule

	// Classes are names for sets of known platforms, to be used in groups. They count nothing by themselves. A name is
	// spelled like a platform's, and is none.
	Classes map[string][]event.Platform
	// Groups are limits over several platforms, asked in this order after the platform's own. At most [MaxGroups].
	Groups []Group

	// Total is how many logins may hold a slot at once over all platforms. Zero and [NoLimit] mean that only MaxLogins
	// bounds them.
	Total int
	// AtTotal is what happens at Total.
	AtTotal Action
	// Single allows one login in all: a new one ends every other. The limits of platforms stay in force, so a platform
	// that is closed stays closed.
	Single bool
	// MaxLogins is the safety bound: how many logins the account may have, whether or not they hold a slot. At the bound,
	// logins without a slot end first, whatever their platform, the earliest admission first. If too few are without one,
	// the newcomer is refused. Zero means [MaxLogins], which is also the most.
	MaxLogins int

	// Unanswered is what happens at a limit with [AskHost] if the host does not answer, or ends fewer than it takes. It
	// is not AskHost itself.
	Unanswered Action
	// AllowForce lets a newcomer with the wish [ForceEvict] evict the earliest at a limit with [RefuseNew]. Without it,
	// that wish changes nothing. [NeverEvict] needs no leave.
	AllowForce bool
	// Primary says what it means for a device to be the account's primary one.
	Primary PrimaryRule
	// Slots says which logins hold a slot.
	Slots SlotRule
	// Reconnect says what a login that comes back without a slot may do.
	Reconnect ReconnectRule
	// Tabs is how many connections a login on the platform may have at once; all of them get everything. One more takes
	// the place of the oldest. A platform that does not stand here has 1: the newest tab replaces the one before. It is
	// data for whoever holds the connections; no decision depends on it. From 1 to [MaxTabs], for known platforms, and
	// [Other] with CountAsOther.
	Tabs map[event.Platform]int
	// MinAge is how long the account must have known a device before that device may end logins of devices that are older
	// than itself. It holds for evictions, [Policy.MayEnd] and [Policy.MayReplace]; see the package comment. Zero turns it
	// off; otherwise from 1 min to 100 years.
	MinAge time.Duration
}

// Group is a limit over several platforms. Its logins may evict each other, whatever their platforms.
type Group struct {
	// Name tells groups apart and stands in decisions: 1 to 32 lowercase letters a-z, digits, '.', '_' or '-'.
	Name string
	// Members are known platforms and names of classes; [Other] with CountAsOther. A platform may be in several groups.
	Members []string
	// Limit is how many logins may hold a slot at once in the group: 1 or more. To close platforms, close each of them.
	Limit int
	// Action is what happens at the limit.
	Action Action
}

func (r Rules) withDefaults() Rules {
	r = r.clone()
	r.PerPlatform = cmp.Or(r.PerPlatform, DefaultPerPlatform)
	r.MaxLogins = cmp.Or(r.MaxLogins, MaxLogins)
	return r
}

// clone returns a copy that shares nothing with r.
func (r Rules) clone() Rules {
	r.Platforms = maps.Clone(r.Platforms)
	r.Actions = maps.Clone(r.Actions)
	r.Tabs = maps.Clone(r.Tabs)
	r.Classes = maps.Clone(r.Classes)
	for name, platforms := range r.Classes {
		r.Classes[name] = slices.Clone(platforms)
	}
	r.Groups = slices.Clone(r.Groups)
	for i := range r.Groups {
		r.Groups[i].Members = slices.Clone(r.Groups[i].Members)
	}
	return r
}

// builtIn are the platforms that are always known.
func builtIn() []event.Platform {
	return []event.Platform{"android", "ios", "web", "windows", "macos", "linux", "harmony"}
}

// known reports whether the platform is a known one.
func (r *Rules) known(p event.Platform) bool {
	if p == Other {
		return false
	}
	_, own := r.Platforms[p]
	return own || slices.Contains(builtIn(), p)
}

// counted reports whether the platform has a count of its own: it is known, or stands for all unknown ones.
func (r *Rules) counted(p event.Platform) bool {
	return r.known(p) || p == Other && r.Unknown == CountAsOther
}

// action returns what happens at the limit of a platform.
func (r *Rules) action(p event.Platform) Action {
	if a, own := r.Actions[p]; own {
		return a
	}
	return r.AtPlatform
}

// limit returns how many logins may hold a slot on a platform.
func (r *Rules) limit(p event.Platform) int {
	if n, own := r.Platforms[p]; own {
		return n
	}
	return r.PerPlatform
}

// members returns the platforms of a group, each once, in the order in which they are written.
func (r *Rules) members(g *Group) []event.Platform {
	var all []event.Platform
	for _, m := range g.Members {
		platforms, class := r.Classes[m]
		if !class {
			platforms = []event.Platform{event.Platform(m)}
		}
		for _, p := range platforms {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}
