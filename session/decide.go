package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

// Question is what the host is asked when a rule of its policy leaves it to the host who makes room.
type Question struct {
	Account     event.Account
	Device      event.DeviceID
	Platform    event.Platform
	Description Description
	Login       event.LoginID // a login that comes back; empty: a new one
	Rule        string        // the rule that asks
	Limit       int           // logins that it allows at once, the newcomer included
	Need        int           // how many of the candidates must end at least
	Candidates  []Session     // those who may end, earliest first
}

// askError takes a question out of the step: the host is not asked while it is the account's turn.
type askError struct {
	question *Question // nil: which policy the account has
}

func (e *askError) Error() string { return "session: the host has to be asked" }

// runAsking is run for steps that may have to ask the host. It asks each thing once at most; the next try decides with
// the answer, whatever has changed meanwhile.
func (r *Registry) runAsking(ctx context.Context, id event.Account, decide func(*step) error, apply func(*step)) (*step, error) {
	var own *policy.Policy
	var answer *policy.Answer
	for {
		s, err := r.run(ctx, id, func(s *step) error {
			s.policy, s.answer = own, answer
			return decide(s)
		}, apply)
		ask, ok := errors.AsType[*askError](err)
		switch {
		case !ok:
			return s, err
		case ask.question == nil:
			own = r.override(ctx, id)
		default:
			a := r.askHost(ctx, *ask.question)
			answer = &a
		}
	}
}

// rules returns the policy that holds for the account. The host may have to be asked for it first.
func (s *step) rules() (*policy.Policy, error) {
	if s.policy == nil {
		if s.r.cfg.Override != nil {
			return nil, &askError{}
		}
		s.policy = s.r.policy.Load()
	}
	return s.policy, nil
}

// override asks the host for the account's own policy. If it has none, or fails, the registry's holds.
func (r *Registry) override(ctx context.Context, id event.Account) *policy.Policy {
	p, err := bounded(ctx, r.cfg.HookTimeout, func(ctx context.Context) (*policy.Policy, error) {
		return r.cfg.Override(ctx, id)
	})
	if err != nil {
		r.log.Warn("session: hook to override the policy", "err", err)
	}
	if err != nil || p == nil {
		return r.policy.Load()
	}
	return p
}

// askHost returns the host's answer, or none if the hook fails.
func (r *Registry) askHost(ctx context.Context, q Question) policy.Answer {
	a, err := bounded(ctx, r.cfg.HookTimeout, func(ctx context.Context) (policy.Answer, error) {
		return r.cfg.DecideVictims(ctx, q)
	})
	if err != nil {
		r.log.Warn("session: hook to decide victims", "rule", q.Rule, "err", err)
		return policy.Answer{}
	}
	return a
}

// bounded calls code that is not the registry's, waits for it so long at most, and survives its panics. The result goes
// through a channel, for the call may go on after nobody waits for it any more.
func bounded[T any](ctx context.Context, limit time.Duration, call func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan answer, 1)
	go func() { // not owned: a hook that ignores its context must not hold up the engine
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("panic: %v", p)
			}
			done <- a
		}()
		a.value, a.err = call(ctx)
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("timed out: %w", ctx.Err())
	}
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
func (s *step) decide(in policy.Newcomer, about *Description) (policy.Decision, error) {
	rules, err := s.rules()
	if err != nil {
		return policy.Decision{}, err
	}
	logins := s.policyLogins()
	var d policy.Decision
	if s.answer == nil {
		d = rules.Decide(logins, in, s.now, nil)
	} else {
		d = rules.Resolve(logins, in, s.now, *s.answer, nil)
	}
	if d.Verdict == policy.Ask {
		if s.r.cfg.DecideVictims != nil {
			return d, s.ask(in, about, d)
		}
		d = rules.Resolve(logins, in, s.now, policy.Answer{}, nil)
	}
	if d.Verdict == policy.Admit {
		return d, nil
	}
	return d, s.refused(d)
}

func (s *step) ask(in policy.Newcomer, about *Description, d policy.Decision) error {
	q := Question{
		Account: s.a.id, Device: in.Device, Platform: in.Platform, Description: *about, Login: in.Login,
		Rule: d.Rule, Limit: d.Limit, Need: d.Need,
	}
	q.Description.Extension = append([]byte(nil), about.Extension...)
	for _, v := range d.Victims {
		if l := s.rec.login(v.Login); l != nil {
			q.Candidates = append(q.Candidates, s.r.view(s.a, l, s.now, ""))
		}
	}
	return &askError{question: &q}
}

func (s *step) policyLogins() []policy.Login {
	logins := make([]policy.Login, 0, 16)
	for i := range s.rec.Logins {
		logins = append(logins, s.policyLogin(&s.rec.Logins[i]))
	}
	return logins
}

func (s *step) policyLogin(l *login) policy.Login {
	v := s.r.view(s.a, l, s.now, "")
	p := policy.Login{
		ID: l.ID, Device: l.Device, Platform: l.Platform, Admission: l.Admission, Holds: v.State != Offline,
		Online: v.State == Online || v.State == Away, Primary: l.Primary, LastActive: v.LastSeen,
	}
	if d := s.rec.device(l.Device); d != nil {
		p.Since = time.UnixMilli(d.First)
	}
	return p
}

func (s *step) refused(d policy.Decision) error {
	e := &RefusedError{Rule: d.Rule, Limit: d.Limit, Cause: d.Cause, RetryAfter: d.Wait}
	every := s.policy.Rules().Slots == policy.SlotEveryLogin
	for i := range s.rec.Logins {
		if v := s.r.view(s.a, &s.rec.Logins[i], s.now, ""); every || v.State != Offline {
			e.Logins = append(e.Logins, v)
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
