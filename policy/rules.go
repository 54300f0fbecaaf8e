package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/manydevice/manydevice/event"
)

// Names of rules, as they stand in a [Decision], a [Victim] and a [Step]. They are stable.
const (
	RuleUnknownPlatform = "unknown_platform" // the platform is not known, and unknown ones are refused
	RuleDevice          = "device"           // one login for each device
	RuleSingle          = "single"           // one login in all
	RulePlatform        = "platform"         // so many logins at once on a platform
	RuleAccount         = "account"          // safety bound of the account
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
)

// UnknownRule says what to do with a platform that is not known.
type UnknownRule uint8

const (
	// RefuseUnknown refuses it.
	RefuseUnknown UnknownRule = iota
	// CountAsOther admits it and counts all unknown platforms together under [Other].
	CountAsOther
)

// String returns "refuse" or "count as other".
func (u UnknownRule) String() string {
	switch u {
	case RefuseUnknown:
		return "refuse"
	case CountAsOther:
		return "count as other"
	}
	return fmt.Sprintf("UnknownRule(%d)", uint8(u))
}

// Rules say how many logins an account may have. The zero value is valid: 4 on each platform, unknown platforms are
// refused, 64 in all.
type Rules struct {
	// PerPlatform is how many logins may hold a slot at once on each platform that has no own limit. Zero means
	// [DefaultPerPlatform]; [NoLimit] means that only MaxLogins bounds them.
	PerPlatform int
	// Platforms are own limits of platforms. A platform that stands here is known. Zero closes the platform; [NoLimit]
	// means that only MaxLogins bounds it. The limit of [Other] may be set with CountAsOther.
	Platforms map[event.Platform]int
	// Single allows one login in all: a new one ends every other. The limits of platforms stay in force, so a platform
	// that is closed stays closed.
	Single bool
	// Unknown says what to do with a platform that is not known.
	Unknown UnknownRule
	// MaxLogins is how many logins the account may have, whether or not they hold a slot. At the bound, a login that
	// ends no other is refused. Zero means [MaxLogins], which is also the most.
	MaxLogins int
}

func (r Rules) withDefaults() Rules {
	r.PerPlatform = cmp.Or(r.PerPlatform, DefaultPerPlatform)
	r.MaxLogins = cmp.Or(r.MaxLogins, MaxLogins)
	r.Platforms = maps.Clone(r.Platforms)
	return r
}

func (r Rules) validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &event.InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)})
	}
	if r.PerPlatform < NoLimit {
		bad("PerPlatform", "want %d for no limit, 0 for the default, or more", NoLimit)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Platforms)) {
		field := fmt.Sprintf("Platforms[%q]", string(name))
		if got, err := event.ParsePlatform(string(name)); err != nil || got != name {
			bad(field, "want 1 to %d lowercase letters a-z, digits, '.', '_' or '-'", event.MaxPlatformBytes)
		}
		if name == Other && r.Unknown != CountAsOther {
			bad(field, "reserved for unknown platforms that are counted together")
		}
		if r.Platforms[name] < NoLimit {
			bad(field, "want %d for no limit, 0 to close the platform, or more", NoLimit)
		}
	}
	if r.Unknown > CountAsOther {
		bad("Unknown", "want RefuseUnknown or CountAsOther")
	}
	if r.MaxLogins < 1 || r.MaxLogins > MaxLogins {
		bad("MaxLogins", "want 1 to %d, or 0 for the default", MaxLogins)
	}
	return errors.Join(errs...)
}

// Policy decides by a set of [Rules]. Make it with [New]. It never changes and is safe for concurrent use.
type Policy struct {
	rules Rules
	known map[event.Platform]*program
	other *program // for all other platforms; nil: they are refused
}

// New returns the policy of the rules. It keeps a copy of them. If they are not valid, the error joins one
// [*event.InvalidError] for each fault, whose Field is the path to it, such as `Platforms["ios"]`.
func New(r Rules) (*Policy, error) {
	r = r.withDefaults()
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("policy: rules: %w", err)
	}
	p := &Policy{rules: r, known: make(map[event.Platform]*program)}
	for _, name := range []event.Platform{"android", "ios", "web", "windows", "macos", "linux", "harmony"} {
		p.known[name] = r.compile(name, onPlatform)
	}
	for name := range r.Platforms {
		if name != Other {
			p.known[name] = r.compile(name, onPlatform)
		}
	}
	if r.Unknown == CountAsOther {
		p.other = r.compile(Other, onUnknown)
	}
	return p, nil
}

// Rules returns a copy of the rules, with the defaults filled in.
func (p *Policy) Rules() Rules {
	r := p.rules
	r.Platforms = maps.Clone(r.Platforms)
	return r
}

// program is what is asked of a newcomer of one platform: rules in written order.
type program struct {
	platform event.Platform // under which the newcomer is counted
	rules    []rule
}

// rule is one row: among the logins that it counts, the newcomer included, at most limit may stay.
type rule struct {
	name    string
	counts  scope
	holders bool         // count only logins that hold a slot
	limit   int          // NoLimit: count, but never act
	reason  event.Reason // why the earliest end beyond the limit; empty: the newcomer is refused instead
}

// scope says which logins a rule counts.
type scope uint8

const (
	inAccount  scope = iota // all
	onDevice                // those of the newcomer's device
	onPlatform              // those of the newcomer's platform
	onUnknown               // those of all platforms that are not known
)

// compile writes down the rules for newcomers that are counted under the platform.
func (r Rules) compile(platform event.Platform, counts scope) *program {
	limit, own := r.Platforms[platform]
	if !own {
		limit = r.PerPlatform
	}
	rules := []rule{{name: RuleDevice, counts: onDevice, limit: 1, reason: event.Replaced}}
	if r.Single {
		rules = append(rules, rule{name: RuleSingle, counts: inAccount, limit: 1, reason: event.EvictedSingle})
	}
	rules = append(rules,
		rule{name: RulePlatform, counts: counts, holders: true, limit: limit, reason: event.EvictedQuota},
		rule{name: RuleAccount, counts: inAccount, limit: r.MaxLogins},
	)
	return &program{platform: platform, rules: rules}
}
