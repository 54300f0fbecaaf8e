package session

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/policy"
)

// RemoveDeviceRequest says which device an account is to forget.
type RemoveDeviceRequest struct {
	Account event.Account
	Device  event.DeviceID
	By      event.LoginID // login of the account that asks for it; empty: the host
	Note    string        // what its user is shown; see [KickRequest.Note]
}

func (q *RemoveDeviceRequest) validate() error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	if err := q.Device.Validate(); err != nil {
		return err
	}
	if err := ownLogin("by", q.Account, &q.By); err != nil {
		return err
	}
	q.Note = event.CleanText(q.Note, maxNote)
	return nil
}

// RemoveDevice ends the device's logins with reason device_removed and forgets the device with its place in the inbox.
// If it logs in again, it is a new device. [ErrNotFound] if the account has no such device, or By is no login of it; a
// [*ProtectedError] if By is set and policy protects the device from it (see [policy.Policy.MayEnd]).
func (r *Registry) RemoveDevice(ctx context.Context, q RemoveDeviceRequest) (err error) {
	defer fault.In("session", "remove device", &err)
	defer func() {
		r.carriedOut("session: removal of a device refused", err, q.Account, "device", string(q.Device), "by", string(q.By))
	}()
	if err := q.validate(); err != nil {
		return err
	}
	there := false
	_, err = r.runAsking(ctx, q.Account, func(s *step) error {
		s.lookAgain(nil)
		d := s.rec.device(q.Device)
		if there = there || d != nil; d == nil { // an earlier try may have taken effect
			return nil
		}
		gone, why := *d, event.DeviceRemoved.Closed(0)
		why.Note = q.Note
		if q.By != "" {
			by := s.rec.login(q.By)
			if by == nil {
				return fmt.Errorf("by: %w", ErrNotFound)
			}
			if err := s.mayRemove(by, gone); err != nil || s.lacks != nil {
				return err
			}
			why.Cause = by.cause()
		}
		for _, l := range slices.Clone(s.rec.Logins) {
			if l.Device == q.Device {
				s.end(l.ID, why, q.By)
			}
		}
		if d := s.rec.device(q.Device); d != nil {
			gone = *d // seen at the end of its logins
		}
		s.forgetDevice(gone)
		return nil
	}, nil)
	if err == nil && !there {
		err = ErrNotFound
	}
	return err
}

// mayRemove asks the policy whether a login may have a device forgotten, whether or not that is logged in.
func (s *step) mayRemove(by *login, d device) error {
	rules := s.rules()
	if rules == nil {
		return nil
	}
	target := policy.Login{Device: d.ID, Primary: d.Primary, Since: time.UnixMilli(d.First)}
	if p := rules.MayEnd(s.policyLogin(by), target, s.now); !p.OK {
		return &ProtectedError{Cause: p.Cause, RetryAfter: p.Wait}
	}
	return nil
}
