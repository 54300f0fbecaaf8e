package policy

import "fmt"

// Action says what happens when a newcomer would bring a limit to be exceeded.
type Action uint8

const (
	// EvictEarliest ends the logins that were admitted earliest.
	EvictEarliest Action = iota
	// EvictLeastActive ends the logins whose last sign of activity is oldest, by the clock of whoever noted it; among
	// equals the earliest admission first.
	EvictLeastActive
	// EvictOfflineFirst ends logins without a connection before those that have one; among equals the earliest admission
	// first.
	EvictOfflineFirst
	// RefuseNew refuses the newcomer; those who are there stay.
	RefuseNew
	// AskHost leaves the choice to the host: see [Policy.Resolve].
	AskHost
)

// String returns the name of the action in JSON.
func (a Action) String() string {
	switch a {
	case EvictEarliest:
		return "evict_earliest"
	case EvictLeastActive:
		return "evict_least_active"
	case EvictOfflineFirst:
		return "evict_offline_first"
	case RefuseNew:
		return "refuse"
	case AskHost:
		return "ask"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// before reports whether a login ends before another one if the action evicts.
func (a Action) before(x, y *Login) bool {
	switch a {
	case EvictLeastActive:
		if !x.LastActive.Equal(y.LastActive) {
			return x.LastActive.Before(y.LastActive)
		}
	case EvictOfflineFirst:
		if x.Online != y.Online {
			return y.Online
		}
	}
	return earlier(x, y)
}

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

// PrimaryRule says what it means for a device to be the account's primary one. A policy takes [Login.Primary] and
// [Newcomer.Primary] as they are given; it does not choose the primary device.
type PrimaryRule uint8

const (
	// PrimaryProtected never ends a login of the primary device for another device's, and lets no other login end it. If
	// only such logins could make room, the newcomer is refused.
	PrimaryProtected PrimaryRule = iota
	// PrimaryFree protects it as well and does not count it at the limits of platforms, groups and Total.
	PrimaryFree
	// PrimaryOrdinary treats it like every other device.
	PrimaryOrdinary
)

// String returns the name of the rule in JSON.
func (p PrimaryRule) String() string {
	switch p {
	case PrimaryProtected:
		return "protected"
	case PrimaryFree:
		return "free"
	case PrimaryOrdinary:
		return "ordinary"
	}
	return fmt.Sprintf("PrimaryRule(%d)", uint8(p))
}

// SlotRule says which logins hold a slot, and so count at the limits of platforms, groups and Total.
type SlotRule uint8

const (
	// SlotOnline: those whose [Login.Holds] is set, which are online or within their resume window.
	SlotOnline SlotRule = iota
	// SlotEveryLogin: every login that has not ended, however long its device was away.
	SlotEveryLogin
)

// String returns the name of the rule in JSON.
func (s SlotRule) String() string {
	switch s {
	case SlotOnline:
		return "online"
	case SlotEveryLogin:
		return "every_login"
	}
	return fmt.Sprintf("SlotRule(%d)", uint8(s))
}

// ReconnectRule says what a login may do that comes back without a slot while the limit is reached.
type ReconnectRule uint8

const (
	// ReconnectEvicts: the same as a new login.
	ReconnectEvicts ReconnectRule = iota
	// ReconnectRefused: it evicts no login and is refused, beyond MaxLogins too. Other logins of its own device are still
	// replaced.
	ReconnectRefused
)

// String returns the name of the rule in JSON.
func (r ReconnectRule) String() string {
	switch r {
	case ReconnectEvicts:
		return "evict"
	case ReconnectRefused:
		return "refuse"
	}
	return fmt.Sprintf("ReconnectRule(%d)", uint8(r))
}

// Wish is what a newcomer asks for at a limit.
type Wish uint8

const (
	// NoWish leaves it to the rules.
	NoWish Wish = iota
	// ForceEvict asks to be let in where the action is [RefuseNew]. It counts only with AllowForce. It never opens a closed
	// platform, ends no login with a slot at MaxLogins, and does nothing against MinAge or the primary device.
	ForceEvict
	// NeverEvict asks to be refused rather than to end another device's login. It always counts, at MaxLogins too.
	NeverEvict
)

// String returns "none", "force" or "never evict".
func (w Wish) String() string {
	switch w {
	case NoWish:
		return "none"
	case ForceEvict:
		return "force"
	case NeverEvict:
		return "never evict"
	}
	return fmt.Sprintf("Wish(%d)", uint8(w))
}

// Cause says why a rule ended nobody although its action is not to refuse. The values are stable.
type Cause string

const (
	// CauseRule, the empty cause: the rule refuses by itself. Its action is [RefuseNew], the platform is closed or not
	// known, or it is the safety bound and too few logins are without a slot.
	CauseRule Cause = ""
	// CauseWish: the newcomer asked to be refused rather than to evict.
	CauseWish Cause = "wish"
	// CauseReconnect: a login that comes back may not evict.
	CauseReconnect Cause = "reconnect"
	// CausePrimary: there is no room unless the primary device's login ends, and it does not.
	CausePrimary Cause = "primary"
	// CauseMinAge: the newcomer's device is too new to end logins that would have to end. Once it is old enough, it may.
	CauseMinAge Cause = "min_age"
	// CauseHost: the host was asked and refused.
	CauseHost Cause = "host"
	// CauseUnanswered: the host was asked, did not name enough logins, and the rules say to refuse then.
	CauseUnanswered Cause = "unanswered"
)
