package session

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/transport"
)

// AttachRequest binds a connection to a login. The host has authenticated the connection as the account.
type AttachRequest struct {
	Account event.Account
	Login   event.LoginID
	Token   event.ResumeToken
	// Tab names the browser tab, window or process that the connection belongs to, where several share the login. A
	// connection of the same tab is replaced, since it must be an older one. At most 128 bytes; empty: not named.
	Tab string
}

func (q *AttachRequest) validate() error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	if err := q.Login.Validate(); err != nil {
		return err
	}
	if q.Tab != "" {
		if err := event.CheckID("tab", q.Tab); err != nil {
			return err
		}
	}
	return q.Token.Validate()
}

// Attach binds a connection to a login that has not ended. A login has as many connections as the rules' Tabs say, one by
// default: an older connection of the same tab is closed with reason moved, and of the others the oldest beyond that
// number, with reason tab_replaced if they are told apart as tabs, moved otherwise. Among several nodes the connections of
// a login are all on one: the node of the newest takes it over.
//
// A login that still holds its slot comes back as it was: same ID, same age, nobody evicted, nothing written where there are no other nodes. One that
// has lost its slot is admitted again: policy may evict others, or refuse with a [*RefusedError]. A [*LimitedError] says
// to come back later, [ErrDraining] and [ErrNoLease] to try another node. If the login has ended,
// the holder of its token gets an [*EndedError]; everybody else [ErrUnknownLogin].
//
// ended is called once, when the connection has ended for any reason, before conn.Close; nil is allowed. It must return
// quickly. conn.Close is called exactly once if Attach succeeds. If it fails, the connection stays the
// caller's to close, except when the registry is closed meanwhile.
func (r *Registry) Attach(ctx context.Context, q AttachRequest, conn transport.Conn, ended func(event.Closed)) (*Connection, error) {
	if err := q.validate(); err != nil {
		return nil, err
	}
	if conn == nil {
		return nil, &event.InvalidError{Field: "conn", Reason: "nil"}
	}
	if r.draining.Load() {
		return nil, ErrDraining
	}
	if wait := r.attaches.take(time.Now()); wait > 0 {
		return nil, &LimitedError{Reason: event.RateLimited, RetryAfter: wait}
	}
	c := &Connection{r: r, conn: conn, ends: ended, account: q.Account, login: q.Login, tab: q.Tab}
	if r.nodes != nil {
		if c.lease = r.nodes.lease(); c.lease == 0 {
			return nil, ErrNoLease
		}
	}
	c.Touch()
	var older []displaced
	var refusal error
	_, err := r.runAsking(ctx, q.Account, func(s *step) error {
		c.token, refusal = "", nil
		l := s.rec.login(q.Login)
		if l == nil {
			return s.refuseUnknown(q)
		}
		if refusal = s.authenticate(l, digestOf(q.Token)); refusal != nil {
			return onlyIfUnchanged(s, refusal)
		}
		return s.attach(l, c)
	}, func(s *step) {
		if refusal == nil {
			older = s.bind(c)
		}
	})
	if err == nil {
		err = refusal
	}
	if err != nil {
		return nil, err
	}
	for _, o := range older {
		o.conn.shut(o.reason.Closed(0))
	}
	if !r.nodes.serves(c.lease) { // it was lost meanwhile
		c.end(event.LeaseLost.Closed(0))
		return nil, ErrNoLease
	}
	if r.ctx.Err() != nil { // Close may have looked for connections before this one was there
		c.end(event.Shutdown.Closed(time.Second))
		return nil, ErrClosed
	}
	return c, nil
}

// onlyIfUnchanged returns the refusal as the step's failure, unless the step has to be committed all the same, because
// the refusal itself ended the login.
func onlyIfUnchanged(s *step, refusal error) error {
	if len(s.ended) > 0 {
		return nil
	}
	return refusal
}

// refuseUnknown finds the words for a login that is not there.
func (s *step) refuseUnknown(q AttachRequest) error {
	t := s.rec.tombstone(q.Login)
	if t == nil || !t.matches(digestOf(q.Token)) {
		return ErrUnknownLogin
	}
	return &EndedError{Closed: t.Closed.closed()}
}

// authenticate compares the token's digest with those of the login. The first use of an issued token confirms it. The
// use of one that was replaced after its confirmation means that it was copied: the login ends.
func (s *step) authenticate(l *login, d digest) error {
	issued, confirmed, replaced := l.Issued.equal(d), l.Token.equal(d), l.Replaced.equal(d)
	switch {
	case issued:
		l.confirm()
		s.dirty = true
		return nil
	case confirmed:
		return nil
	case replaced:
		why := event.TokenReuse.Closed(0)
		s.end(l.ID, why, "")
		return &EndedError{Closed: why}
	}
	return ErrUnknownLogin
}

// confirm makes the issued token the confirmed one.
func (l *login) confirm() {
	old := l.Token
	l.Replaced, l.Token, l.TokenAt, l.Issued, l.IssuedAt = &old, *l.Issued, l.IssuedAt, nil, 0
}

// attach gives the login its slot back if it has lost it, and a new token if the old one is due.
func (s *step) attach(l *login, c *Connection) error {
	s.a.mu.Lock()
	k, holds := s.a.linkLocked(l.ID), s.r.holdsLocked(s.a, l, s.now)
	attached := k.attached() && !slices.Contains(s.stale, l.ID)
	s.a.mu.Unlock()
	c.tabs = 1
	if attached {
		rules, err := s.rules()
		if err != nil {
			return err
		}
		c.tabs = rules.Tabs(l.Platform)
	}
	if !holds {
		var err error
		if l, err = s.comeBack(l); err != nil {
			return err
		}
	}
	if every := s.r.cfg.TokenRotation; every > 0 && !attached && s.now.Sub(time.UnixMilli(l.TokenAt)) > every {
		c.token = event.NewResumeToken()
		d := digestOf(c.token)
		l.Issued, l.IssuedAt, s.dirty = &d, s.now.UnixMilli(), true
	}
	c.device, c.incarnation, c.platform = l.Device, l.Incarnation, l.Platform
	c.restored = k == nil && !time.UnixMilli(l.At).After(s.r.opened) // both may be of the same millisecond
	c.announced = false
	if n := s.r.nodes; n != nil {
		c.announced = l.attachedBefore()
		c.restored = k == nil && c.announced
		if n.elsewhere(l) {
			s.remote = append(s.remote, l.Node)
		}
		if l.Node != n.r.cfg.Node || l.Lease != c.lease {
			l.Node, l.Lease, l.Left, s.dirty = n.r.cfg.Node, c.lease, 0, true
		}
	}
	c.view = s.r.view(s.a, l, s.now, "")
	return nil
}

// comeBack gives a login its slot back. Unless the rules have kept it, that is a new admission. It returns where the
// login stands now: evictions move it.
func (s *step) comeBack(l *login) (*login, error) {
	rules, err := s.rules()
	if err != nil {
		return nil, err
	}
	if rules.Rules().Slots != policy.SlotEveryLogin {
		in := s.newcomer(l.Device, l.Platform, policy.NoWish)
		in.Login = l.ID
		d, err := s.decide(in, &l.Description)
		if err != nil {
			return nil, err
		}
		if err := s.damp(l.Device, l.Platform, d.Victims); err != nil {
			return nil, err
		}
		s.evict(d.Victims, l, in.Login)
		l = s.rec.login(in.Login)
		s.rec.Admissions++
		l.Admission = s.rec.Admissions
	}
	l.Slot, l.Seen, s.dirty = true, s.now.UnixMilli(), true
	return l, nil
}

// bind makes c a connection of its login and returns those that it displaces, fenced, for the caller to shut.
func (s *step) bind(c *Connection) (older []displaced) {
	a := s.a
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.linkLocked(c.login)
	if k == nil {
		k = &link{login: c.login, announced: c.announced}
		a.links = append(a.links, k)
	}
	older = k.makeRoom(c)
	k.conns, k.admitted, k.looked, k.told = append(k.conns, c), c.view.LoggedInAt, s.now, false
	c.generation = s.r.generation.Add(1) // here, where attaches of one login come one after another
	if !k.announced {
		k.announced = true
		v := c.view
		v.State, v.Node = Online, s.r.cfg.Node
		s.changes = append(s.changes, Change{Kind: ChangeOnline, Session: v})
	}
	s.changes = append(s.changes, s.r.turnedLocked(k)...)
	c.view = Session{}
	return older
}

// ConfirmToken says that the device has stored the token of [Connection.Token]. The one before is void from now on.
// Without a new token it does nothing.
func (r *Registry) ConfirmToken(ctx context.Context, c *Connection) error {
	if c.token == "" {
		return nil
	}
	_, err := r.run(ctx, c.account, func(s *step) error {
		l := s.rec.login(c.login)
		if l == nil {
			return fmt.Errorf("confirm token: %w", ErrNotFound)
		}
		if l.Issued.equal(digestOf(c.token)) {
			l.confirm()
			s.dirty = true
		}
		return nil
	}, nil)
	return err
}
