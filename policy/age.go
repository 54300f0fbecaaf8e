package policy

import (
	"math"
	"time"
)

// age is what MinAge knows of the device that wants to end logins. All devices stand in one order: those that the account
// has known for ever, those that it has known since a time that has been, by milliseconds, and last those of which nothing
// is certain: the device is not known, or its time is yet to come, because a clock was ahead. A device that is too young
// ends only logins that stand after it in this order by a time that has been. So equal times protect both sides from each
// other, and a time that is yet to come protects a login and gives its owner no right.
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
	case since.After(now): // its age begins when the time is put right
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

// millis returns Unix milliseconds, also of times that are too far away for them.
func millis(t time.Time) int64 {
	switch s := t.Unix(); {
	case s >= math.MaxInt64/1000:
		return math.MaxInt64
	case s <= math.MinInt64/1000:
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
// It may always end itself and other logins of its own device. Otherwise it may not end a login of the primary device,
// unless that is [PrimaryOrdinary], nor, before its device is MinAge old, any but those whose devices are younger than its
// own for certain. Limits and actions do not matter. What the host itself ends needs no permit.
func (p *Policy) MayEnd(actor, victim Login, now time.Time) Permit {
	if same(string(actor.ID), string(victim.ID)) {
		return Permit{OK: true}
	}
	return p.permit(Newcomer{Device: actor.Device, Since: actor.Since}, true, victim, now)
}

// MayReplace says the same of a newcomer that wants to end a login of the account in order to take its place. A device
// that the account does not know (Since is zero) is the newest of all. Only the newcomer's Device and Since matter.
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
