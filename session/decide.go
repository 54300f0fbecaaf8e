package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/policy"
)

// Question is what the host is asked about a device that wants in. All of it is the host's to keep.
type Question struct {
	Account     event.Account
	Device      event.DeviceID // empty: it named none, or there is no device
	Platform    event.Platform
	Description Description
	Login       event.LoginID // a login that comes back; empty: a new one

	// What follows is set for DecideVictims alone.

	Rule       string    // the rule that asks
	Limit      int       // logins that it allows at once, the newcomer included
	Need       int       // how many of the candidates must end at least
	Candidates []Session // those who may end, earliest first
}

// askError takes a question out of the step: the host is not asked while it is the account's turn.
type askError struct {
	question Question
	about    asked
}

// asked is what the host is asked.
type asked uint8

const (
	aboutLogin   asked = iota // whether it may go on to the rules
	aboutPolicy               // which rules
	aboutVictims              // who makes room
)

func (e *askError) Error() string { return "session: the host has to be asked" }

// runAsking is run for steps that may have to ask the host. It asks each thing once at most; the next try decides with
// the answer, whatever has changed meanwhile.
func (r *Registry) runAsking(ctx context.Context, id event.Account, decide func(*step) error, apply func(*step)) (*step, error) {
	var own *policy.Policy
	var answer *policy.Answer
	admitted := r.cfg.DecideLogin == nil
	for {
		s, err := r.run(ctx, id, func(s *step) error {
			s.admitted, s.policy, s.answer = admitted, own, answer
			return decide(s)
		}, apply)
		ask, ok := errors.AsType[*askError](err)
		if !ok {
			return s, err
		}
		switch ask.about {
		case aboutLogin:
			if admitted = r.mayLogin(ctx, ask.question); !admitted {
				return nil, &RefusedError{Rule: RuleHost, Cause: policy.CauseHost}
			}
		case aboutPolicy:
			own = r.policyOf(ctx, ask.question)
		case aboutVictims:
			a := r.askHost(ctx, ask.question)
			answer = &a
		}
	}
}

// question names whom rules are asked for.
func (s *step) question() Question {
	q := s.who
	q.Account = s.a.id
	q.Description.Extension = slices.Clone(q.Description.Extension)
	return q
}

// rules returns the policy that holds for the account. The host may have to be asked for it first.
func (s *step) rules() (*policy.Policy, error) {
	if s.policy == nil {
		if s.r.cfg.DecidePolicy != nil {
			return nil, &askError{question: s.question(), about: aboutPolicy}
		}
		s.policy = s.r.policy.Load()
	}
	return s.policy, nil
}

// policyOf returns the account's own policy, which the host is asked for. If it has none, or fails, the registry's holds.
func (r *Registry) policyOf(ctx context.Context, q Question) *policy.Policy {
	if r.cfg.DecidePolicy == nil {
		return r.policy.Load()
	}
	p, err := hostcall.Call(ctx, &r.calls.policy, q.Account, r.cfg.HookTimeout, func(ctx context.Context) (*policy.Policy, error) {
		return r.cfg.DecidePolicy(ctx, q)
	})
	if err != nil {
		r.log.Warn("session: hook to decide the policy", "err", err)
	}
	if err != nil || p == nil {
		return r.policy.Load()
	}
	return p
}

// mayLogin asks the host whether a login may go on to the rules. If it fails, it may.
func (r *Registry) mayLogin(ctx context.Context, q Question) bool {
	admit, err := hostcall.Call(ctx, &r.calls.login, q.Account, r.cfg.HookTimeout, func(ctx context.Context) (bool, error) {
		return r.cfg.DecideLogin(ctx, q)
	})
	if err != nil {
		r.log.Warn("session: hook to decide logins", "err", err)
	}
	return admit || err != nil
}

// askHost returns the host's answer, or none if the hook fails.
func (r *Registry) askHost(ctx context.Context, q Question) policy.Answer {
	a, err := hostcall.Call(ctx, &r.calls.victims, q.Account, r.cfg.HookTimeout, func(ctx context.Context) (policy.Answer, error) {
		return r.cfg.DecideVictims(ctx, q)
	})
	if err != nil {
		r.log.Warn("session: hook to decide victims", "rule", q.Rule, "err", err)
		return policy.Answer{}
	}
	return a
}

// newcomer describes a device that wants in. Of a device that the account remembers, policy learns since when.
func (s *step) newcomer(id event.DeviceID, platform event.Platform, wish policy.Wish) policy.Newcomer {
	in := policy.Newcomer{Device: id, Platform: platform, Wish: wish}
	if d := s.rec.device(id); d != nil {
		in.Primary, in.Since = d.Primary, time.UnixMilli(d.First)
	}
	return in
}

// decide asks policy, and the host if policy says so. A refusal is a [*RefusedError].
func (s *step) decide(in policy.Newcomer) (policy.Decision, error) {
	rules, err := s.rules()
	if err != nil {
		return policy.Decision{}, err
	}
	logins, answer := s.policyLogins(), s.answer
	d := rules.Decide(logins, in, s.now, nil)
	if d.Verdict == policy.Ask {
		if answer == nil && s.r.cfg.DecideVictims != nil {
			return d, s.ask(d)
		}
		if answer == nil {
			answer = new(policy.Answer)
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

func (s *step) ask(d policy.Decision) error {
	q := s.question()
	q.Rule, q.Limit, q.Need = d.Rule, d.Limit, d.Need
	for _, v := range d.Victims {
		if l := s.rec.login(v.Login); l != nil {
			q.Candidates = append(q.Candidates, s.r.view(s.a, l, s.at, ""))
		}
	}
	return &askError{question: q, about: aboutVictims}
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
	e := &RefusedError{Rule: d.Rule, Limit: d.Limit, Need: d.Need, Cause: d.Cause, RetryAfter: d.Wait}
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
func (r *Registry) SetPrimary(ctx context.Context, account event.Account, id event.DeviceID) error {
	if err := account.Validate(); err != nil {
		return err
	}
	if id != "" {
		if err := id.Validate(); err != nil {
			return err
		}
	}
	_, err := r.run(ctx, account, func(s *step) error {
		if id != "" && s.rec.device(id) == nil {
			return fmt.Errorf("set primary: %w", ErrNotFound)
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
