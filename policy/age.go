package policy

import "time"

// Permit says whether one login may end another one.
type Permit struct {
	OK    bool
	Cause Cause         // why not: CausePrimary or CauseMinAge
	Wait  time.Duration // with CauseMinAge: how long until it may
}

// MayEnd says whether the actor, a login of the account, may end the victim, another one of it, for instance by a kick.
// It may always end itself and other logins of its own device. Otherwise it may not end a login of the primary device,
// unless that is [PrimaryOrdinary], nor, before its device is MinAge old, one that is older than its own device by Since.
// Limits and actions do not matter. What the host itself ends needs no permit.
func (p *Policy) MayEnd(actor, victim Login, now time.Time) Permit {
	if actor.ID == victim.ID || actor.Device == victim.Device && actor.Device != "" {
		return Permit{OK: true}
	}
	q := question{policy: p, now: now}
	q.age(actor.Since, false)
	switch cause := q.protected(&victim); cause {
	case CauseRule:
		return Permit{OK: true}
	case CauseMinAge:
		return Permit{Cause: cause, Wait: q.wait}
	default:
		return Permit{Cause: cause}
	}
}
