package policy

import (
	"math"
	"time"
)

// age is the age of a device that wants to end logins. There is one order of all devices, oldest first:
//
//  1. those that the account has always known,
//  2. those that it knows since a time that has passed, by milliseconds,
//  3. those of which nothing is certain: the account does not know them, or the time is still to come, since a clock was
//     ahead when it was noted.
//
// A device that is too young ends only logins of the second kind that stand after it. So equal times protect both devices
// from each other, and a time that is still to come protects a login and gives its device no right.
type age struct {
	young bool          // too new to end older logins
	since int64         // Unix milliseconds; math.MaxInt64: newer than all
	wait  time.Duration // until it is old enough; 0: waiting does not help
}

// ageOf returns the age of a device that is known since a time, or is not known. A known device with the zero time was
// always there. A [time.Time] is not kept: it holds a pointer, and with it the marks of a question would go to the heap.
func ageOf(since time.Time, known bool, now time.Time, least time.Duration) age {
	switch {
	case least == 0 || known && since.IsZero():
		return age{}
	case !known:
		return age{young: true, since: math.MaxInt64}
	case since.After(now): // it has no age until the caller puts the time right
		return age{young: true, since: math.MaxInt64, wait: least}
	}
	wait := least - now.Sub(since)
	return age{young: wait > 0, since: millis(since), wait: max(wait, 0)}
}

// before reports whether the device is known for certain longer than one that is known since the given time.
func (a age) before(since, now time.Time) bool {
	return !since.IsZero() && !since.After(now) && a.since < millis(since)
}

// waitFor returns how long a newcomer waits that was refused for the cause.
func (a age) waitFor(c Cause) time.Duration {
	if c == CauseMinAge {
		return a.wait
	}
	return 0
}

// millis returns Unix milliseconds of a time that has passed, also of one that is too long ago for them.
func millis(t time.Time) int64 {
	if t.Unix() <= math.MinInt64/1000 {
		return math.MinInt64
	}
	return t.UnixMilli()
}

// Permit says whether one login may end another one.
type Permit struct {
	OK    bool
	Cause Cause         // why not: CausePrimary or CauseMinAge
	Wait  time.Duration // with CauseMinAge: how long until it may, at most MinAge; 0: waiting does not help
}

// MayEnd says whether the actor, a login of the account, may end the victim, another one of it, for instance by a kick.
// It may always end itself and other logins of its own device. It may not end a login of the primary device, unless that is
// [PrimaryOrdinary]. Before its device is MinAge old, it may end only logins of younger devices; see "Age" in the package
// comment. Limits and actions do not matter. What the host itself ends needs no permit.
func (p *Policy) MayEnd(actor, victim Login, now time.Time) Permit {
	if same(string(actor.ID), string(victim.ID)) {
		return Permit{OK: true}
	}
	return p.permit(Newcomer{Device: actor.Device, Since: actor.Since}, true, victim, now)
}

// MayReplace says whether a newcomer may end the victim, a login of the account, to take its place. It is like MayEnd for
// a device that has no login yet: a device that the account does not know (Since is zero) is the newest of all, and
// waiting does not help it. Only the newcomer's Device and Since matter.
func (p *Policy) MayReplace(in Newcomer, victim Login, now time.Time) Permit {
	return p.permit(in, !in.Since.IsZero(), victim, now)
}

func (p *Policy) permit(in Newcomer, known bool, victim Login, now time.Time) Permit {
	if same(string(in.Device), string(victim.Device)) {
		return Permit{OK: true}
	}
	p = p.compiled()
	q := question{policy: p, now: now, age: ageOf(in.Since, known, now, p.rules.MinAge)}
	cause := q.protected(&victim)
	return Permit{OK: cause == CauseRule, Cause: cause, Wait: q.age.waitFor(cause)}
}
