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
	Holds     bool           // it holds a slot, if [SlotOnline] is the rule
	Online    bool           // it has a connection; counts for [EvictOfflineFirst] alone
	Primary   bool           // its device is the account's primary one
	// LastActive is the time of the last sign of activity; counts for [EvictLeastActive] alone.
	LastActive time.Time
	// Since is the time from which the account has known the login's device. A caller that does not trust device IDs gives
	// the time of the login's admission instead. It counts for MinAge alone, in milliseconds; zero means since ever. A time
	// after the decision's own says nothing: see "Age" in the package comment.
	Since time.Time
}

// Newcomer is who wants in.
type Newcomer struct {
	Device   event.DeviceID // empty: it is its own device
	Platform event.Platform // as event.ParsePlatform returns it
	// Login, if set, is a login of the account that has no slot any more and comes back for one. It stands among the
	// logins, is never its own victim and is not counted twice.
	Login event.LoginID
	// Wish is what it asks for if a limit is reached.
	Wish Wish
	// Primary says that its device is the account's primary one.
	Primary bool
	// Since is the time from which the account has known its device; counts for MinAge alone. Zero means that the account
	// does not know it: it is newer than all others. For a comeback, zero means that Since of the login holds.
	Since time.Time
}

// Victim is a login that ends so that the newcomer gets in.
type Victim struct {
	Index  int           // into the logins that Decide was called with
	Login  event.LoginID // its ID
	Reason event.Reason  // replaced, evicted_single or evicted_quota; policy_changed from Enforce
	Rule   string        // the rule that chose it
}

// Verdict is what becomes of a newcomer. The zero value refuses.
type Verdict uint8

const (
	// Refuse: the newcomer does not get in, and nobody ends.
	Refuse Verdict = iota
	// Admit: the newcomer gets in, and all victims end in the same step.
	Admit
	// Ask: the host is to say who ends; see [Policy.Resolve]. Nothing is decided yet.
	Ask
)

// String returns "refuse", "admit" or "ask".
func (v Verdict) String() string {
	switch v {
	case Refuse:
		return "refuse"
	case Admit:
		return "admit"
	case Ask:
		return "ask"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// Decision is the answer of a [Policy].
type Decision struct {
	Verdict Verdict
	// Rule is the one that refused or asks, or [RulePlatform] if the newcomer is admitted. Limit and Count are its own.
	Rule string
	// Limit is how many logins the rule allows at once, the newcomer included; [NoLimit]: any number. It is 0 for a
	// closed platform and for an unknown one.
	Limit int
	// Count is how many logins the rule counted before, without the newcomer and without victims of the rules before it.
	Count int
	// Platform is the one under which the newcomer is counted: its own or [Other]; empty if it is not known.
	Platform event.Platform
	// Victims end, in the order in which the rules chose them; those of one rule in the order in which it prefers to end
	// them. There are none with Refuse. With Ask they are those that the host may choose from, earliest admission first.
	Victims []Victim
	// Need is how many of the logins that the rule counts must end at least before the newcomer gets in: with Ask, how many
	// of the candidates. It is 0 with Admit, and if ending logins does not help: the platform is closed or not known. With
	// Refuse, a later rule may still refuse after that.
	Need int
	// Cause says why the rule refuses instead of evicting. It is empty if the rule refuses by itself.
	Cause Cause
	// Wait is, with [CauseMinAge], how long it takes until the device is old enough: at most MinAge. It is 0 for a device
	// that the account does not know, since being refused does not make it known.
	Wait time.Duration
}

// Decide says what becomes of the newcomer. The logins are all that the account has, in any order; they are neither
// changed nor kept. now is the time of the decision; only MinAge depends on it. Victims are appended to victims[:0], so
// the caller can use one buffer again and again; Decide allocates nothing, unless they do not fit or there are more
// logins than [MaxLogins].
//
// A comeback (Newcomer.Login) is decided like a login, but is one of the account's logins already. So [RuleAccount] ends
// another login, or refuses, only if the account is beyond the bound. Equal admission numbers, which do not happen, are
// ordered by login ID.
func (p *Policy) Decide(logins []Login, in Newcomer, now time.Time, victims []Victim) Decision {
	return p.decide(logins, in, now, nil, victims, nil)
}

// decide is Decide, with the host's answer if it has been asked. If e is not nil, it notes there what each rule did.
func (p *Policy) decide(logins []Login, in Newcomer, now time.Time, a *Answer, victims []Victim, e *Explanation) Decision {
	p = p.compiled()
	at := p.table.find(in.Platform)
	program := &p.programs[at.id]
	d := Decision{Verdict: Admit, Platform: program.platform, Victims: victims[:0]}
	if d.Platform == "" {
		d.Verdict, d.Rule = Refuse, RuleUnknownPlatform
		return d
	}
	var marks [MaxLogins]mark // on the stack; an account has no more logins, unless its record is damaged
	q := question{policy: p, program: program, logins: logins, in: in, now: now, answer: a}
	if q.marks = marks[:min(len(logins), MaxLogins)]; len(logins) > MaxLogins {
		q.marks = make([]mark, len(logins))
	}
	victims = victims[:0]
	q.markLogins(at)
	evicted := 0 // rules that did; that of the device is left out, for no later one makes up for its victims
	for i := range program.rules {
		r := &program.rules[i]
		before, first := q.count(r), len(victims)
		if r.mark == markPlatform {
			d.Rule, d.Limit, d.Count = r.name, r.limit, before
		}
		o := outcome{verdict: Admit}
		excess := before + q.newcomers(r) - r.limit
		if excess > 0 && r.limit != NoLimit {
			victims, o = q.meet(r, excess, victims)
			if r.mark != markDevice {
				evicted++
			}
		}
		if e != nil {
			e.note(&q, r, before, o, victims[first:])
		}
		if o.verdict != Admit {
			d.Verdict, d.Rule, d.Limit, d.Count, d.Cause, d.Wait = o.verdict, r.name, r.limit, before, o.cause, o.wait
			if d.Victims = victims[:0]; o.verdict == Ask {
				d.Victims = append(victims[:0], victims[first:]...)
			}
			if r.limit > 0 { // a closed platform stays closed, whichever logins end
				d.Need = excess
			}
			return d
		}
	}
	if evicted > 1 {
		victims = q.spare(victims, e)
	}
	d.Victims = victims
	return d
}
