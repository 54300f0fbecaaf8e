package session

import (
	"context"
	"errors"
	"fmt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
)

// Authenticate finds out whose login a token is, for requests that come without a connection, such as those of a "your
// devices" page: it returns the login if it has not ended and the token is its last confirmed or last issued one.
//
// It changes nothing: no token is confirmed or replaced, no login comes back, ends or is touched. A token that was
// replaced is refused and, other than at [Registry.Attach], ends nothing. A page that was left open still has such a
// token without anybody having copied it, and a request that only reads must not be a way to log a device out.
//
// Errors: [*event.InvalidError]; [ErrUnknownLogin] for a login that is not there and for a wrong or replaced token,
// which it does not tell apart; an [*EndedError] for the holder of the token of a login that has ended; [ErrClosed]; the
// store's. Tokens are compared in constant time.
func (r *Registry) Authenticate(ctx context.Context, account event.Account, id event.LoginID, token event.ResumeToken) (_ Session, err error) {
	defer fault.In("session", "authenticate", &err)
	q := AttachRequest{Account: account, Login: id, Token: token}
	defer func() { r.turned("session: authentication refused", err, account, "login", string(q.Login)) }()
	if err := q.validate(); err != nil {
		return Session{}, err
	}
	// It is not limited like attaches: anybody may try it for any account, and would keep the account's own devices out.
	var refusal error
	view, err := r.looking(ctx, account, func(s *step) *login {
		l := s.rec.login(q.Login)
		refusal = nil
		switch {
		case l == nil:
			refusal = s.refuseUnknown(&q)
			return nil
		case l.issued(token), l.Token.is(token):
			return l
		}
		refusal = ErrUnknownLogin
		return nil
	})
	if refusal != nil {
		return Session{}, refusal
	}
	return view, err
}

// Current is [Registry.Get] for decisions about who may do what: a login whose time is over is not there, even if it was
// not ended yet because nobody has asked for the account. [ErrNotFound] if the account has no such login. It changes
// nothing.
func (r *Registry) Current(ctx context.Context, account event.Account, id event.LoginID) (_ Session, err error) {
	defer fault.In("session", "current", &err)
	if err := account.Validate(); err != nil {
		return Session{}, err
	}
	id, err = id.Of(account)
	if err != nil {
		return Session{}, fault.Field("login", err)
	}
	return r.looking(ctx, account, func(s *step) *login { return s.rec.login(id) })
}

// errLook gives a step up that was made to look only, so that nothing of it is committed.
var errLook = errors.New("session: only a look")

// looking returns a login as an account's next step would find it: after all that is due was done. Nothing is committed.
// [ErrNotFound] if find returns nil.
func (r *Registry) looking(ctx context.Context, account event.Account, find func(*step) *login) (Session, error) {
	var view Session
	_, err := r.run(ctx, account, func(s *step) error {
		l := find(s)
		if l == nil {
			return fmt.Errorf("login: %w", ErrNotFound)
		}
		view = r.view(s.a, l, s.at, "")
		return errLook
	}, nil)
	if !errors.Is(err, errLook) {
		return Session{}, err
	}
	return view, nil
}
