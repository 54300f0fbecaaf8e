package session

import (
	"context"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/policy"
)

// newcomer describes a device that wants in. Of a device that the account remembers, policy learns since when.
func (s *step) newcomer(id event.DeviceID, platform event.Platform, wish policy.Wish) policy.Newcomer {
	in := policy.Newcomer{Device: id, Platform: platform, Wish: wish}
	if d := s.rec.device(id); d != nil {
		in.Primary, in.Since = d.Primary, time.UnixMilli(d.First)
	}
	return in
}

// decide asks policy, and the host if policy says so. A refusal is a [*RefusedError]. With the verdict Ask, the host has to
// be asked first.
func (s *step) decide(in policy.Newcomer) (policy.Decision, error) {
	rules := s.rules()
	if rules == nil {
		return policy.Decision{Verdict: policy.Ask}, nil
	}
	logins := s.policyLogins()
	d := rules.Decide(logins, in, s.now, nil)
	var answer *policy.Answer
	if d.Verdict == policy.Ask {
		if answer = s.choice(d); answer == nil {
			return d, nil
		}
		d = rules.Resolve(logins, in, s.now, *answer, nil)
	}
	if d.Verdict == policy.Admit {
		return d, nil
	}
	why := rules.Explain(logins, in, s.now)
	if answer != nil {
		why = rules.ExplainAnswer(logins, in, s.now, *answer)
	}
	return d, s.refused(why)
}

func (s *step) policyLogins() []policy.Login {
	logins := make([]policy.Login, 0, len(s.rec.Logins))
	for i := range s.rec.Logins {
		logins = append(logins, s.policyLogin(&s.rec.Logins[i]))
	}
	return logins
}

func (s *step) policyLogin(l *login) policy.Login {
	s.a.mu.Lock()
	state, _, seen := s.r.reachLocked(s.a, l, s.at)
	s.a.mu.Unlock()
	p := policy.Login{
		ID: l.ID, Device: l.Device, Platform: l.Platform, Admission: l.Admission, Holds: state != Offline,
		Online: state == Online || state == Away, Primary: l.Primary, LastActive: seen,
	}
	if d := s.rec.device(l.Device); d != nil {
		p.Since = time.UnixMilli(d.First)
	}
	return p
}

// refused says who could make room: of those that the rule counts, whom LoginReplacing may end for this device.
func (s *step) refused(d policy.Explanation) error {
	e := &RefusedError{
		Rule: d.Rule, Limit: d.Limit, Platform: s.who.Platform, Known: d.Known, Need: d.Need, Cause: d.Cause, RetryAfter: d.Wait,
	}
	if n := len(d.Steps); n > 0 {
		for _, id := range d.Steps[n-1].Removable {
			e.Logins = append(e.Logins, s.r.view(s.a, s.rec.login(id), s.at, ""))
		}
	}
	sortSessions(e.Logins)
	return e
}

// evict ends the victims that policy named, with the newcomer as the cause.
func (s *step) evict(victims []policy.Victim, newcomer *login, by event.LoginID) {
	cause := newcomer.cause() // a comeback stands in the record itself, where it moves when others are taken out
	for _, v := range victims {
		why := v.Reason.Closed(0)
		why.Cause = cause
		s.end(v.Login, why, by)
	}
}

// SetPrimary makes a device the account's primary one, which policy protects, and no other. An empty ID means that there
// is none any more. [ErrNotFound] if the account has no such device.
func (r *Registry) SetPrimary(ctx context.Context, account event.Account, id event.DeviceID) (err error) {
	defer fault.In("session", "set primary", &err)
	defer func() { r.turned("session: primary device refused", err, account, "device", string(id)) }()
	if err := account.Validate(); err != nil {
		return err
	}
	if id != "" {
		if err := id.Validate(); err != nil {
			return err
		}
	}
	_, err = r.run(ctx, account, func(s *step) error {
		if id != "" && s.rec.device(id) == nil {
			return ErrNotFound
		}
		for i := range s.rec.Devices {
			d := &s.rec.Devices[i]
			s.dirty = s.dirty || d.Primary != (d.ID == id)
			d.Primary = d.ID == id
		}
		for i := range s.rec.Logins {
			s.rec.Logins[i].Primary = s.rec.Logins[i].Device == id
		}
		return nil
	}, nil)
	return err
}
