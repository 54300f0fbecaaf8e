package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/policy"
)

// KickRequest ends logins of one account. Exactly one of Logins, All, Others, Platform and Filter says which.
type KickRequest struct {
	Account event.Account
	Logins  []event.LoginID // these
	All     bool            // every one
	Others  event.LoginID   // every one but this, which must be there
	// Platform: all of this platform.
	Platform event.Platform
	// Filter: those for which it returns true. It is called outside the account's turn; a login that is admitted meanwhile
	// stays. If the state or the description of one that it was shown has changed by the time of the step, it is asked about
	// all again; so it should not look at LastSeen alone.
	Filter func(Session) bool
	// Reason must be one that ends logins. Empty means kicked_host, or kicked_self if By is set.
	Reason event.Reason
	// Note is shown to whoever uses the device: at most 512 bytes.
	Note string
	// By is the account's own login that asked for it. It is named as the cause. Empty: the host.
	By event.LoginID
	// KeepCredential: the revoke hook is not called, so what the host gave the device to log in with stays good. The
	// login's own token is void either way.
	KeepCredential bool
}

// KickResult is what became of one login.
type KickResult struct {
	Login event.LoginID
	Ended bool
	// Denied says why the login that asked may not end it. Empty, and not ended: the account has no such login.
	Denied policy.Cause
	// RetryAfter is, with [policy.CauseMinAge], when the login that asked is old enough to end this one.
	RetryAfter time.Duration
}

// denied returns a [*ProtectedError] if all logins that were there are protected from the one that asked.
func denied(results []KickResult) error {
	var e *ProtectedError
	for _, k := range results {
		switch {
		case k.Ended:
			return nil
		case k.Denied != "" && e == nil:
			e = &ProtectedError{Cause: k.Denied, RetryAfter: k.RetryAfter, Results: slices.Clone(results)}
		}
	}
	if e == nil {
		return nil
	}
	return e
}

func (q *KickRequest) validate() error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	ways := 0
	for _, on := range []bool{len(q.Logins) > 0, q.All, q.Others != "", q.Platform != "", q.Filter != nil} {
		if on {
			ways++
		}
	}
	if ways != 1 {
		return &event.InvalidError{Field: "logins", Reason: "want exactly one of a list, all, all others, a platform, a filter"}
	}
	for i, id := range q.Logins {
		if err := id.Validate(); err != nil {
			return fault.Item("logins", i, err)
		}
	}
	if q.Others != "" {
		if err := q.Others.Validate(); err != nil {
			return fault.Field("others", err)
		}
	}
	if q.By != "" {
		if err := q.By.Validate(); err != nil {
			return fault.Field("by", err)
		}
	}
	if err := checkNote(q.Note); err != nil {
		return err
	}
	if q.Platform != "" {
		p, err := event.ParsePlatform(string(q.Platform))
		if err != nil {
			return err
		}
		q.Platform = p
	}
	if q.Reason == "" {
		q.Reason = event.KickedHost
		if q.By != "" {
			q.Reason = event.KickedSelf
		}
	}
	if i, ok := q.Reason.Info(); !ok || !i.EndsLogin {
		return &event.InvalidError{Field: "reason", Reason: "not one that ends a login"}
	}
	return nil
}

// checkNote checks what a host says to whoever uses a device.
func checkNote(note string) error {
	switch {
	case len(note) > maxNote:
		return &event.InvalidError{Field: "note", Reason: fmt.Sprintf("%d bytes, at most %d", len(note), maxNote)}
	case note == "":
		return nil
	}
	return event.CheckText("note", note)
}

// Kick ends logins. When it returns, the ends are committed, no Send begins on their connections, and the revoke hook has
// run. A Send that runs has had its context ended; it is not waited for, nor is Conn.Close, which is called after the hook.
// Their devices keep their place in the inbox. The results are in order of the list,
// or of admission. A login that is not there is no error, so that a kick may be repeated; [ErrNotFound] is returned if By
// or Others is not a login of the account.
//
// If By is set, policy may protect some of the logins from it (see [policy.Policy.MayEnd]). What is not protected ends, and
// the results say what was denied. If all that were there are protected, that is a [*ProtectedError], which matches
// [ErrProtected], and has the results. If Config.DecidePolicy does not answer, it is a [*HookError], and nobody has ended.
//
// ctx bounds all waits before the commit. A [*ChangingError] means that the account changed each time while Filter or the host
// was asked.
func (r *Registry) Kick(ctx context.Context, q KickRequest) (_ []KickResult, err error) {
	defer fault.In("session", "kick", &err)
	return r.kick(ctx, q)
}

func (r *Registry) kick(ctx context.Context, q KickRequest) ([]KickResult, error) {
	if err := q.validate(); err != nil {
		return nil, err
	}
	var shown []Session
	choose := func(ctx context.Context) (err error) {
		if shown, err = r.list(ctx, q.Account, q.By); err != nil {
			return err
		}
		q.Logins = nil
		for _, s := range shown {
			if q.Filter(s) {
				q.Logins = append(q.Logins, s.Login)
			}
		}
		return nil
	}
	if q.Filter != nil {
		if err := choose(ctx); err != nil {
			return nil, err
		}
	}
	var results []KickResult
	_, err := r.runAsking(ctx, q.Account, func(s *step) error {
		results = results[:0]
		if s.differs(shown) {
			s.lacks = &lack{about: aboutFilter, again: choose}
			return nil
		}
		landed := s.landedEnds(&q)
		if len(q.Logins) == 0 && q.Filter == nil {
			for _, id := range landed {
				results = append(results, KickResult{Login: id, Ended: true})
			}
		}
		why := q.Reason.Closed(0)
		why.Note = q.Note
		var actor *policy.Login
		if q.By != "" {
			by := s.rec.login(q.By)
			if by == nil && slices.Contains(landed, q.By) { // it was among them
				for _, id := range q.Logins {
					results = append(results, KickResult{Login: id, Ended: slices.Contains(landed, id)})
				}
				return nil
			}
			if by == nil {
				return fmt.Errorf("by: %w", ErrNotFound)
			}
			why.Cause = by.cause()
			if s.rules() == nil {
				return nil
			}
			as := s.policyLogin(by) // it may be the first to end
			actor = &as
		}
		if q.Others != "" && s.rec.login(q.Others) == nil {
			return fmt.Errorf("others: %w", ErrNotFound)
		}
		for _, id := range s.chosen(q) {
			if slices.Contains(landed, id) {
				results = append(results, KickResult{Login: id, Ended: true})
				continue
			}
			res := s.permitted(actor, id)
			if res.Ended {
				s.end(id, why, q.By)
				if q.KeepCredential {
					s.unrevoked = append(s.unrevoked, id)
				}
			}
			results = append(results, res)
		}
		s.lookAgain(&q)
		return nil
	}, nil)
	if err == nil {
		err = denied(results)
	}
	if err != nil {
		return nil, err
	}
	return results, nil
}

// landedEnds returns the logins, earliest first, that a step of unknown outcome turned out to have ended as the request
// would: mostly an earlier try of the same call.
func (s *step) landedEnds(q *KickRequest) []event.LoginID {
	var ids []event.LoginID
	for _, e := range s.endedFor(q.Reason) {
		id := e.Session.Login
		if !slices.Contains(s.strange, id) && id != q.Others && (q.Platform == "" || e.Session.Platform == q.Platform) {
			ids = append(ids, id)
		}
	}
	return ids
}

// differs reports whether one of the logins, if it has not ended, is not as it was shown. That it was heard of since is no
// difference.
func (s *step) differs(shown []Session) bool {
	return slices.ContainsFunc(shown, func(was Session) bool {
		l := s.rec.login(was.Login)
		return l != nil && (s.r.view(s.a, l, s.at, "").State != was.State || l.Primary != was.Primary || !l.Description.equal(&was.Description))
	})
}

// permitted says whether a login is there, and may be ended by the login that asks, if one does.
func (s *step) permitted(actor *policy.Login, id event.LoginID) KickResult {
	l := s.rec.login(id)
	if l == nil {
		return KickResult{Login: id}
	}
	if actor != nil {
		if p := s.policy.MayEnd(*actor, s.policyLogin(l), s.now); !p.OK {
			return KickResult{Login: id, Denied: p.Cause, RetryAfter: p.Wait}
		}
	}
	return KickResult{Login: id, Ended: true}
}

func (s *step) chosen(q KickRequest) []event.LoginID {
	if len(q.Logins) > 0 || q.Filter != nil {
		return q.Logins
	}
	var ids []event.LoginID
	all := slices.Clone(s.rec.Logins)
	slices.SortFunc(all, func(a, b login) int { return int(a.Admission) - int(b.Admission) })
	for _, l := range all {
		if l.ID != q.Others && (q.Platform == "" || l.Platform == q.Platform) {
			ids = append(ids, l.ID)
		}
	}
	return ids
}

// Logout ends a login at its own wish. [ErrNotFound] if it is not there.
func (r *Registry) Logout(ctx context.Context, account event.Account, id event.LoginID) (err error) {
	defer fault.In("session", "logout", &err)
	if err := id.Validate(); err != nil {
		return fault.Field("login", err)
	}
	res, err := r.kick(ctx, KickRequest{Account: account, Logins: []event.LoginID{id}, Reason: event.Logout})
	if err != nil {
		return err
	}
	if !res[0].Ended {
		return ErrNotFound
	}
	return nil
}

// RemoveDeviceRequest says which device an account is to forget.
type RemoveDeviceRequest struct {
	Account event.Account
	Device  event.DeviceID
	By      event.LoginID // login of the account that asks for it; empty: the host
	Note    string        // what its user is shown, at most 512 bytes
}

func (q *RemoveDeviceRequest) validate() error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	if err := q.Device.Validate(); err != nil {
		return err
	}
	if q.By != "" {
		if err := q.By.Validate(); err != nil {
			return fault.Field("by", err)
		}
	}
	return checkNote(q.Note)
}

// RemoveDevice ends the device's logins with reason device_removed and forgets the device with its place in the inbox.
// If it logs in again, it is a new device. [ErrNotFound] if the account has no such device, or By is no login of it; a
// [*ProtectedError] if By is set and policy protects the device from it (see [policy.Policy.MayEnd]).
func (r *Registry) RemoveDevice(ctx context.Context, q RemoveDeviceRequest) (err error) {
	defer fault.In("session", "remove device", &err)
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

// finish tells the host and the connections of what has ended. The connections are fenced already, and closed in their own
// time when the revoke hook has run. finish waits for the hooks of this step, and not for those of another node.
func (r *Registry) finish(s *step, gone []*Connection) {
	var tasks []func()
	for _, e := range s.ended {
		id := e.Session.Login
		conns := slices.DeleteFunc(slices.Clone(gone), func(c *Connection) bool { return c.Login() != id })
		shut := func() {
			for _, c := range conns {
				r.owned.Do(c.closeConn)
			}
		}
		switch {
		case !slices.Contains(s.strange, id):
			tasks = append(tasks, func() {
				if !slices.Contains(s.unrevoked, id) {
					r.revoke(e)
				}
				shut()
			})
		case len(conns) > 0:
			if s.revoked == nil {
				s.revoked = r.nodes.revoked(s.a.id)
			}
			r.owned.Do(func() {
				s.revoked()
				shut()
			})
		}
	}
	for _, c := range gone {
		if slices.Contains(s.stale, c.Login()) {
			r.owned.Do(c.closeConn)
		}
	}
	together(tasks)
	if len(s.remote) > 0 && r.cfg.Revoke != nil {
		r.owned.Do(func() { r.nodes.tellRevoked(s.a.id, s.remote) })
	}
}

// together runs all tasks at once and waits for them.
func together(tasks []func()) { atOnce(tasks, func(task func()) { task() }) }

// atOnce runs do for all at once and waits for them.
func atOnce[T any](all []T, do func(T)) {
	if len(all) == 1 {
		do(all[0])
		return
	}
	var wg sync.WaitGroup
	for _, one := range all {
		wg.Go(func() { do(one) })
	}
	wg.Wait()
}

// revoke calls the host's hook, waits for it a bounded time, and survives its panics.
func (r *Registry) revoke(e Ended) {
	if r.cfg.Revoke == nil {
		return
	}
	_, err := hostcall.Call(context.WithoutCancel(r.ctx), &r.calls.revoke, e.Session.Account, r.cfg.HookTimeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.cfg.Revoke(ctx, e)
	})
	if err != nil {
		r.warn("session: revoke hook", err, "account", string(e.Session.Account), "login", string(e.Session.Login))
	}
}
