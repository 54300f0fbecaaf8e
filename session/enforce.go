package session

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/policy"
)

const (
	enforcePage = 256 // accounts that are asked of the store at once
	maxFailures = 100 // that a report lists: enough to see what is wrong
	// enforceWait is how long one account may take, beside the hook and up to its commit. One that hangs is a failure.
	enforceWait = 10 * time.Second
	againMost   = 32 // times as long as after the first failure is waited at most: one to two minutes by default, six at most
)

// Policy returns the policy that holds for accounts without an override.
func (r *Registry) Policy() *policy.Policy { return r.policy.Load() }

// SetPolicy replaces the policy from the next admission on; one that is being decided, and waits for a hook, is decided by the
// new one. Nobody who is there ends; see [Registry.Enforce] for that. It holds on this node alone.
func (r *Registry) SetPolicy(p *policy.Policy) (err error) {
	defer fault.In("session", "set policy", &err)
	if p == nil {
		return &event.InvalidError{Field: "policy", Reason: "nil"}
	}
	r.policy.Store(p)
	r.ruled.Add(1)
	return nil
}

// EnforceRequest has the policy take effect on everybody at once.
type EnforceRequest struct {
	// After is where an earlier call stopped: its report's Next. Empty: from the beginning.
	After event.Account
	// PerSecond is the pace, in accounts. Zero means 1,000; at most 1,000,000; negative means no bound.
	PerSecond int
	// DryRun: only count who would end.
	DryRun bool
	// Candidate, if set, is rehearsed: only count who would end if it were the registry's policy, before it is set. DryRun is
	// implied, and nothing changes. What Config.DecidePolicy returns for an account holds instead of it, as it would afterwards.
	Candidate *policy.Policy
}

// EnforceReport says what came of it.
type EnforceReport struct {
	// Tally counts accounts and logins that were looked at and those that end, also by the rule that names them.
	policy.Tally
	// Own is how many of the accounts have a policy of their own, by Config.DecidePolicy. The registry's and a candidate do not
	// count for them.
	Own int
	// Failed is how many accounts could not be read or written. They are passed over.
	Failed int
	// Failures are the first 100 of them.
	Failures []EnforceFailure
	// Next is the last account that was done: the After of a call that goes on. Empty: all accounts were done.
	Next event.Account
}

// EnforceFailure is an account that was passed over.
type EnforceFailure struct {
	Account event.Account
	Err     error
}

// Enforce ends, in every account, the logins that are beyond the policy that holds for it, with reason policy_changed,
// as [policy.Policy.Enforce] names them. It goes through all accounts of the store at the given pace. An account that
// cannot be read or written within 10 s, or for which Config.DecidePolicy does not answer, is reported and passed over. If ctx
// ends or the store fails, the report says where to go on.
//
// After it, no account of this node is above the rules, whatever hung meanwhile: a login that was being decided when Enforce
// began asks the host anew, and one that was being committed is looked at once more. Among several nodes it has to be called
// on each, after SetPolicy on each.
//
// With EnforceRequest.DryRun or Candidate nothing is changed or committed, and logins go on meanwhile: each account is counted as
// it stands when it is read. If nothing changes in between, SetPolicy of the candidate and Enforce come to the same report.
func (r *Registry) Enforce(ctx context.Context, q EnforceRequest) (_ EnforceReport, err error) {
	defer fault.In("session", "enforce", &err)
	if err := bounds.Count("perSecond", int64(q.PerSecond), 1, maxPerSecond, bounds.Zero|bounds.Negative); err != nil {
		return EnforceReport{}, err
	}
	q.DryRun = q.DryRun || q.Candidate != nil
	if !q.DryRun {
		r.ruled.Add(1) // first; see Registry.begin
		r.enforced.Add(1)
	}
	report := EnforceReport{Next: q.After}
	pace := time.Second / time.Duration(max(cmp.Or(q.PerSecond, 1_000), 1))
	for {
		page, err := r.st.Accounts(ctx, report.Next, enforcePage)
		if err != nil {
			return report, err
		}
		for _, id := range page {
			if q.PerSecond >= 0 {
				if err := pause(ctx, pace); err != nil {
					return report, err
				}
			}
			if err := report.add(ctx, r, id, &q); err != nil {
				return report, err
			}
			report.Next = id
		}
		if len(page) < enforcePage {
			report.Next = ""
			return report, nil
		}
	}
}

// add enforces the rules on one account and counts it. An error means that others would fare no better.
func (e *EnforceReport) add(ctx context.Context, r *Registry, id event.Account, q *EnforceRequest) error {
	found, err := r.enforce(ctx, id, q)
	switch {
	case err == nil:
		e.Tally.Add(found.logins, found.victims, found.protected)
		if found.own {
			e.Own++
		}
		return nil
	case errors.Is(err, ErrHookFailed): // whatever the hook returned
	case ctx.Err() != nil, errors.Is(err, ErrClosed), unusable(err):
		return err
	}
	if e.Failed++; len(e.Failures) < maxFailures {
		e.Failures = append(e.Failures, EnforceFailure{Account: id, Err: err})
	}
	return nil
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// enforced is what the rules say about the logins of an account.
type enforced struct {
	logins             int
	victims, protected []policy.Victim
	own                bool // the rules are the account's own
}

// look holds a policy against the logins of the step.
func (e *enforced) look(s *step, rules *policy.Policy, own bool) {
	logins := s.policyLogins()
	*e = enforced{logins: len(logins), victims: rules.Enforce(logins, nil), protected: rules.Protected(logins), own: own}
}

// enforce has the rules hold for one account, or only looks, as the request says. If the host has rules of its own for accounts
// and does not say which hold here, nobody ends, whatever the hook's fallback.
func (r *Registry) enforce(ctx context.Context, id event.Account, q *EnforceRequest) (found enforced, err error) {
	if !r.owned.Enter() { // so that nobody is asked for a registry that is closed
		return found, ErrClosed
	}
	defer r.owned.Leave()
	ctx, cancel := context.WithTimeout(ctx, enforceWait+r.cfg.HookTimeout)
	defer cancel()
	if q.DryRun {
		own, err := r.askPolicy(ctx, Question{Account: id})
		if err = cmp.Or(err, own.err); err != nil {
			return found, err
		}
		s, err := r.glance(ctx, id)
		if err != nil {
			return found, err
		}
		found.look(s, cmp.Or(own.value, q.Candidate, r.policy.Load()), own.value != nil)
		return found, nil
	}
	_, err = r.runAsking(ctx, id, func(s *step) error {
		rules := s.rules()
		if rules == nil {
			return nil
		}
		if err := s.answers.policy.err; err != nil {
			return err
		}
		found.look(s, rules, s.answers.policy.value != nil)
		for _, v := range found.victims {
			s.end(v.Login, v.Reason.Closed(0), "")
		}
		return nil
	}, nil)
	return found, err
}

// enforceAgain enforces the rules on an account that a login came to while Enforce went through the others. Nobody else would
// do so, so it is tried again until it is done, ever more slowly.
func (r *Registry) enforceAgain(id event.Account) {
	for try := time.Duration(1); ; try = min(2*try, againMost) {
		_, err := r.enforce(r.ctx, id, &EnforceRequest{})
		if err == nil || r.ctx.Err() != nil || unusable(err) {
			return
		}
		r.log.Warn("session: rules are not enforced yet", "account", string(id), trace.Err(err))
		if pause(r.ctx, try*r.soon()) != nil {
			return
		}
	}
}
