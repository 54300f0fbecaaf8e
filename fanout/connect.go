package fanout

import (
	"context"
	"errors"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
)

// Connect is for hosts that authenticate every connection and whose clients keep no resume token, such as those of MQTT. It
// attaches the connection to the device's login, by the host's word (see [session.AttachRequest.Vouched]). A device that has
// none is logged in first; in.Device must not be empty. The result of that login is nil if there was no need for it.
//
// A login that has ended is taken up by a new one only where its advice is [event.RetryLogin], as after a long absence.
// Otherwise the [*session.EndedError] is returned, so that a kicked device does not come back by itself; if its user wants
// it to, the host calls [session.Registry.Login]. An account remembers its last 64 ends, for Config.TombstoneTTL. To keep a
// device out for longer, make its credential void in Config.Revoke. All other errors are those of Attach and
// Login. If the device was logged in and could not be attached, the result is returned with the error.
//
// in.Description replaces that of an existing login, also if it is empty: give it with each connection.
//
// q describes the connection: Tab, Position and the like. Its Login, Token, Device and Description must be empty, and its
// Account empty or that of in.
func (r *Router) Connect(
	ctx context.Context, in session.LoginRequest, q AttachRequest, conn transport.Conn,
) (_ *Attachment, _ *session.LoginResult, err error) {
	defer fault.In("fanout", "connect", &err)
	for _, f := range [...]struct {
		name string
		set  bool
	}{
		{"account", q.Account != "" && q.Account != in.Account}, {"login", q.Login != ""}, {"token", !q.Token.IsZero()},
		{"device", q.Device != ""}, {"description", q.Description != nil},
	} {
		if f.set {
			return nil, nil, &event.InvalidError{Field: f.name, Reason: "of the attach request: the login request has it"}
		}
	}
	if err := in.Device.Validate(); err != nil {
		return nil, nil, err
	}
	q.Account, q.Device, q.Vouched, q.Description = in.Account, in.Device, true, &in.Description
	a, err := r.attach(ctx, q, conn, needsLogin)
	if !needsLogin(err) {
		return a, nil, err
	}
	res, err := r.reg.Login(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	q.Device, q.Login, q.Description = "", res.Session.Login, nil
	a, err = r.attach(ctx, q, conn, nil)
	return a, res, err
}

// needsLogin reports whether a device that could not be attached has to be logged in first.
func needsLogin(err error) bool {
	if ended, ok := errors.AsType[*session.EndedError](err); ok {
		return ended.Why.Retry == event.RetryLogin
	}
	return errors.Is(err, session.ErrUnknownLogin) || errors.Is(err, session.ErrEnded)
}
