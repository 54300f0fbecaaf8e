package session

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
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
	// all again; so it should not look at LastSeen alone. It has Config.HookTimeout for all logins of the account; if it takes
	// longer or panics, that is a [*HookError].
	Filter func(Session) bool
	// Reason must be one that ends logins. Empty means kicked_host, or kicked_self if By is set.
	Reason event.Reason
	// Note is shown on the device: one line of at most 512 bytes. It is cleaned and cut by [event.CleanText],
	// so that no kick fails for it.
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
	q.Logins = slices.Clone(q.Logins)
	for i, id := range q.Logins {
		var err error
		if q.Logins[i], err = id.Of(q.Account); err != nil {
			return fault.Item("logins", i, err)
		}
	}
	if err := cmp.Or(ownLogin("others", q.Account, &q.Others), ownLogin("by", q.Account, &q.By)); err != nil {
		return err
	}
	q.Note = event.CleanText(q.Note, maxNote)
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

// Kick ends logins. When it returns, the ends are committed, no Send begins on their connections, and the revoke hook has
// run. The context of a Send that runs has ended; Kick does not wait for it, nor for Conn.Close, which is called after the
// hook. The devices keep their place in the inbox. The results are in order of the list, or of admission. A login that is
// not there is no error, so that a kick may be repeated; [ErrNotFound] is returned if By or Others is not a login of the
// account.
//
// If By is set, policy may protect some of the logins from it (see [policy.Policy.MayEnd]). What is not protected ends, and
// the results say what was denied. If all that were there are protected, that is a [*ProtectedError], which matches
// [ErrProtected], and has the results. If Config.DecidePolicy does not answer, it is a [*HookError], and no login has ended.
//
// ctx bounds all waits before the commit. After the commit Kick waits for other nodes that served the logins, a second at
// most, and then for the hook, Config.HookTimeout at most, whatever ctx says: what it promises holds when it returns. A
// [*ChangingError] means that the account changed each time while Filter or the host was asked.
func (r *Registry) Kick(ctx context.Context, q KickRequest) (_ []KickResult, err error) {
	defer fault.In("session", "kick", &err)
	defer func() { r.carriedOut("session: kick refused", err, q.Account, "by", string(q.By)) }()
	return r.kick(ctx, q)
}

// kick is Kick, without the name of the call in its errors and without counting it.
func (r *Registry) kick(ctx context.Context, q KickRequest) (_ []KickResult, err error) {
	if err := q.validate(); err != nil {
		return nil, err
	}
	var shown []Session
	choose := func(ctx context.Context) (err error) {
		if shown, err = r.list(ctx, q.Account, q.By); err != nil {
			return err
		}
		q.Logins, err = r.filter(ctx, q.Account, slices.Clone(shown), q.Filter)
		return err
	}
	if q.Filter != nil {
		if err := choose(ctx); err != nil {
			return nil, err
		}
	}
	var results []KickResult
	_, err = r.runAsking(ctx, q.Account, func(s *step) (err error) {
		if s.differs(shown) {
			s.lacks = &lack{about: aboutFilter, again: choose}
			return nil
		}
		results, err = s.kick(&q)
		return err
	}, nil)
	if err == nil {
		err = denied(results)
	}
	if err != nil {
		return nil, err
	}
	return results, nil
}

// filter asks the host which logins a kick is for. If it does not answer that is a [*HookError].
func (r *Registry) filter(ctx context.Context, account event.Account, shown []Session, fn func(Session) bool) ([]event.LoginID, error) {
	call := hostCall{
		text: "session: the filter of a kick did not answer", hook: HookFilter, about: slog.String("account", string(account)),
		account: account, limit: r.cfg.HookTimeout,
	}
	ids, err := callHost(ctx, r, call, func(context.Context) (ids []event.LoginID, _ error) {
		for _, s := range shown {
			if fn(s) {
				ids = append(ids, s.Login)
			}
		}
		return ids, nil
	})
	if err != nil && ctx.Err() == nil {
		err = &HookError{Hook: string(HookFilter), Err: err, RetryAfter: r.soon()}
	}
	return ids, err
}

// kick ends the logins that the request chooses, except those that policy protects from the login that asks.
func (s *step) kick(q *KickRequest) (results []KickResult, _ error) {
	landed := s.landedEnds(q)
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
		switch {
		case by == nil && slices.Contains(landed, q.By): // it was among them
			for _, id := range q.Logins {
				results = append(results, KickResult{Login: id, Ended: slices.Contains(landed, id)})
			}
			return results, nil
		case by == nil:
			return nil, fmt.Errorf("by: %w", ErrNotFound)
		case s.rules() == nil:
			return nil, nil
		}
		why.Cause = by.cause()
		actor = new(s.policyLogin(by)) // now: it may be the first to end
	}
	if q.Others != "" && s.rec.login(q.Others) == nil {
		return nil, fmt.Errorf("others: %w", ErrNotFound)
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
	s.lookAgain(q)
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

func (s *step) chosen(q *KickRequest) []event.LoginID {
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
	defer func() { r.carriedOut("session: logout refused", err, account, "login", string(id)) }()
	id, err = id.Of(account)
	if err != nil {
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
