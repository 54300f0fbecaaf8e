package session

import (
	"bytes"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/seam"
	"github.com/manydevice/manydevice/store"
)

// AttachRequest binds a connection to a login. The host has authenticated the connection as the account. The login is
// found in one of two ways: the client shows Login and Token, or the host vouches.
type AttachRequest struct {
	Account event.Account
	Login   event.LoginID
	Token   event.ResumeToken
	// Vouched says that the host itself has established that the connection comes from the login's device, such as by a
	// client certificate, a signed token of its own, or an MQTT client ID that it has bound to the user. Then exactly one of
	// Login and Device is set, and no Token. Such a connection is handed no resume token, and confirms none. Without Vouched
	// a missing token is an error. JSON does not set it, so that no client can vouch for itself where a host decodes what the
	// client has sent into a request.
	Vouched bool `json:"-"`
	// Device, with Vouched, means the device's login that has not ended.
	Device event.DeviceID
	// Tab names the browser tab, window or process that the connection belongs to, where several share the login. A
	// connection of the same tab is replaced, since it must be an older one. At most 128 bytes; empty: not named. The
	// connection of another tab is told tab_replaced, and does not come back by itself: do not name what a user does not see,
	// such as a notification extension.
	Tab string
	// Description, if set, takes the place of the login's, as its other devices see it. Its texts are cleaned as in
	// [LoginRequest]. An IP address that alone has changed is written once an hour at most, or with something else. If the
	// account's record has no room for it, the old description stays.
	Description *Description
	// IdleTimeout is Config.IdleTimeout for this connection, such as one and a half times an MQTT client's keep-alive. Zero
	// means that of the registry; negative means never; from 1 s to 100 years.
	IdleTimeout time.Duration
	// Delivery is for fan-out, and no host can set it. Hosts that deliver by themselves learn of the end of a connection by
	// its Conn.Close, and begin to send when Attach has returned.
	Delivery *seam.Delivery[*Connection]
}

func (q *AttachRequest) validate() error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	if err := q.validateProof(); err != nil {
		return err
	}
	if q.Tab != "" {
		if err := event.CheckID("tab", q.Tab); err != nil {
			return err
		}
	}
	if err := checkIdle("idleTimeout", q.IdleTimeout, bounds.Zero|bounds.Negative); err != nil {
		return err
	}
	if q.Description != nil {
		d, err := q.Description.cleaned()
		if err != nil {
			return err
		}
		q.Description = &d // the caller's stays as it is
	}
	return nil
}

// validateProof checks that the request says in one way, and one only, whose connection it is.
func (q *AttachRequest) validateProof() error {
	switch {
	case !q.Vouched && q.Device != "":
		return &event.InvalidError{Field: "device", Reason: "names a login only if the host vouches"}
	case !q.Vouched:
		if err := q.ownLogin(); err != nil {
			return err
		}
		return fault.Field("token", q.Token.Validate())
	case !q.Token.IsZero():
		return &event.InvalidError{Field: "token", Reason: "the host vouches, so there must be none"}
	case (q.Login == "") == (q.Device == ""):
		return &event.InvalidError{Field: "login", Reason: "the host vouches: want either a login or a device"}
	case q.Device != "":
		return q.Device.Validate()
	}
	return q.ownLogin()
}

// ownLogin replaces the address of a login of the account by the login.
func (q *AttachRequest) ownLogin() (err error) {
	q.Login, err = q.Login.Of(q.Account)
	return fault.Field("login", err)
}

// onlyIfUnchanged returns the refusal as the step's failure, unless the step has to be committed all the same, because
// the refusal itself ended the login.
func onlyIfUnchanged(s *step, refusal error) error {
	if len(s.ended) > 0 {
		return nil
	}
	return refusal
}

// resume finds the login that a connection is for, and refuses one that is not the login's.
func (s *step) resume(q *AttachRequest, in *arrival) (*login, error) {
	in.proof, in.confirmed, in.token = proofToken, false, event.ResumeToken{}
	if q.Vouched {
		in.proof = proofVouched
		return s.vouched(q)
	}
	l := s.rec.login(q.Login)
	if l != nil {
		return l, s.authenticate(l, q.Token, in)
	}
	return nil, s.refuseUnknown(q)
}

// refuseUnknown finds the words for a login that is not there.
func (s *step) refuseUnknown(q *AttachRequest) error {
	if t := s.rec.tombstone(q.Login); t != nil && t.Tokens.has(q.Token) {
		return &EndedError{Why: t.Closed.closed()}
	}
	return ErrUnknownLogin
}

// vouched finds the login that the host means. A device has one at most, since it replaces its own.
func (s *step) vouched(q *AttachRequest) (*login, error) {
	var t *tombstone
	if q.Login != "" {
		if l := s.rec.login(q.Login); l != nil {
			return l, nil
		}
		t = s.rec.tombstone(q.Login)
	} else {
		if i := slices.IndexFunc(s.rec.Logins, func(l login) bool { return l.Device == q.Device }); i >= 0 {
			return &s.rec.Logins[i], nil
		}
		t = s.rec.lastTombstone(q.Device)
	}
	if t == nil {
		return nil, ErrUnknownLogin
	}
	return nil, &EndedError{Why: t.Closed.closed()}
}

// describeEvery is how often an IP address is written that alone has changed: a phone on the move has another one at each
// attach.
const describeEvery = time.Hour

// describe renews the login's description, if there is room for it. What is not worth a commit of its own is written only
// if the step commits something else.
func (s *step) describe(l *login, d *Description) {
	if d == nil || d.equal(&l.Description) {
		return
	}
	old, at := l.Description, l.DescribedAt
	address := old
	address.IP = d.IP
	l.Description, l.DescribedAt = *d, s.now.UnixMilli()
	l.Description.Extension = slices.Clone(d.Extension)
	if d.size() > old.size() && len(s.rec.encode()) > store.MaxRecordBytes-recordReserve {
		l.Description, l.DescribedAt = old, at
		return
	}
	if !d.equal(&address) || s.now.Sub(time.UnixMilli(at)).Abs() >= describeEvery {
		s.dirty = true
	}
}

func (d *Description) equal(o *Description) bool {
	return d.Name == o.Name && d.Model == o.Model && d.OS == o.OS && d.AppVersion == o.AppVersion && d.IP == o.IP &&
		bytes.Equal(d.Extension, o.Extension)
}

// size is what the description takes of its bound.
func (d *Description) size() int {
	return len(d.Name) + len(d.Model) + len(d.OS) + len(d.AppVersion) + len(d.IP) + len(d.Extension)
}
