package session

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
)

const enforcePage = 256 // accounts that are asked of the store at once

// Policy returns the policy that holds for accounts without an override.
func (r *Registry) Policy() *policy.Policy { return r.policy.Load() }

// SetPolicy replaces the policy from the next admission on. Nobody who is there ends; see [Registry.Enforce] for that.
func (r *Registry) SetPolicy(p *policy.Policy) error {
	if p == nil {
		return &event.InvalidError{Field: "policy", Reason: "nil"}
	}
	r.policy.Store(p)
	return nil
}

// EnforceRequest has the policy take effect on everybody at once.
type EnforceRequest struct {
	// After is where an earlier call stopped: its report's Next. Empty: from the beginning.
	After event.Account
	// PerSecond is the pace, in accounts. Zero means 1,000; negative means no bound.
	PerSecond int
	// DryRun: only count who would end.
	DryRun bool
}

// EnforceReport says what came of it.
type EnforceReport struct {
	Accounts int // looked at
	Affected int // of them, those in which logins end
	Logins   int // that end
	// Next is the last account that was done: the After of a call that goes on. Empty: all accounts were done.
	Next event.Account
}

// Enforce ends, in every account, the logins that are beyond the policy that holds for it, with reason policy_changed,
// as [policy.Policy.Enforce] names them. It goes through all accounts of the store at the given pace. If ctx ends or the
// store fails, the report says where to go on.
func (r *Registry) Enforce(ctx context.Context, q EnforceRequest) (EnforceReport, error) {
	report := EnforceReport{Next: q.After}
	pace := time.Second / time.Duration(max(cmp.Or(q.PerSecond, 1_000), 1))
	for {
		page, err := r.st.Accounts(ctx, report.Next, enforcePage)
		if err != nil {
			return report, fmt.Errorf("session: enforce: %w", err)
		}
		for _, id := range page {
			if q.PerSecond >= 0 {
				if err := pause(ctx, pace); err != nil {
					return report, err
				}
			}
			n, err := r.enforce(ctx, id, q.DryRun)
			if err != nil {
				return report, fmt.Errorf("session: enforce: %w", err)
			}
			report.Accounts++
			report.Logins += n
			if n > 0 {
				report.Affected++
			}
			report.Next = id
		}
		if len(page) < enforcePage {
			report.Next = ""
			return report, nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("session: enforce: %w", ctx.Err())
	}
}

// enforce does so for one account and returns how many logins end.
func (r *Registry) enforce(ctx context.Context, id event.Account, dryRun bool) (int, error) {
	n := 0
	if dryRun {
		rules := r.policy.Load()
		if r.cfg.Override != nil {
			rules = r.override(ctx, id)
		}
		rec, _, err := r.load(ctx, id)
		if err != nil {
			return 0, err
		}
		s := &step{r: r, a: r.peek(id), now: time.Now(), rec: rec.clone()}
		s.settle()
		return len(rules.Enforce(s.policyLogins(), nil)), nil
	}
	_, err := r.runAsking(ctx, id, func(s *step) error {
		rules, err := s.rules()
		if err != nil {
			return err
		}
		victims := rules.Enforce(s.policyLogins(), nil)
		n = len(victims)
		for _, v := range victims {
			s.end(v.Login, v.Reason.Closed(0), "")
		}
		return nil
	}, nil)
	return n, err
}
