package session

import (
	"cmp"
	"context"
	"fmt"
	"slices"

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
	// Begin, if set, is called once the connection is bound, before Attach returns: the place to read what delivery begins
	// with, since nothing is missed from then on. Nothing can be sent before Attach has returned. If Begin fails, the
	// connection is unbound as if it had never been there, and Attach returns the error.
	Begin func(ctx context.Context, c *Connection) error
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
// A login that still holds its slot comes back as it was: same ID, same age, nobody evicted, nothing written where there
// are no other nodes. One that has lost its slot is admitted again: policy may evict others, or refuse with a
// [*RefusedError]. A [*LimitedError] says to come back later, [ErrDraining] and [ErrNoLease] to try another node. If the
// login has ended, the holder of its token gets an [*EndedError]; everybody else [ErrUnknownLogin].
//
// ended is called once, when the connection has ended for any reason, before conn.Close, which waits for it as long as
// Config.HookTimeout allows; nil is allowed. conn.Close is called exactly once if Attach succeeds.
//
// On any error the connection is the caller's: it is not closed, nothing is sent on it any more, and ended is not called.
// That goes also for a connection that ends while Attach runs: if its login is ended, Attach returns an [*EndedError], if
// a newer connection takes its place, a [*FencedError].
func (r *Registry) Attach(ctx context.Context, q AttachRequest, conn transport.Conn, ended func(event.Closed)) (*Connection, error) {
	if err := q.validate(); err != nil {
		return nil, err
	}
	if conn == nil {
		return nil, &event.InvalidError{Field: "conn", Reason: "nil"}
	}
	if !r.owned.Enter() {
		return nil, ErrClosed
	}
	defer r.owned.Leave()
	if r.draining.Load() {
		return nil, ErrDraining
	}
	if wait := r.attaches.take(r.clock.Elapsed()); wait > 0 {
		return nil, &LimitedError{Reason: event.RateLimited, RetryAfter: wait}
	}
	in := arrival{Connection: &Connection{r: r, conn: conn, ends: ended}}
	if r.nodes != nil {
		if in.lease = r.nodes.lease(ctx); in.lease == 0 {
			if r.ctx.Err() != nil { // which gives it back
				return nil, ErrClosed
			}
			return nil, ErrNoLease
		}
	}
	if n, ok := conn.(transport.NonBlocker); ok {
		in.instant = n.NonBlocking()
	}
	in.arrival.Store(&r.arriving)
	in.Touch()
	var refusal error
	_, err := r.runAsking(ctx, q.Account, func(s *step) error {
		in.token, refusal = "", nil
		l := s.rec.login(q.Login)
		if l == nil {
			return s.refuseUnknown(q)
		}
		if refusal = s.authenticate(l, digestOf(q.Token)); refusal != nil {
			return onlyIfUnchanged(s, refusal)
		}
		return s.attach(l, &in)
	}, func(s *step) {
		if refusal == nil {
			s.bind(&in, q.Tab)
			s.then = func() { refusal = r.serve(ctx, &in, q.Begin) }
		}
	})
	if err = cmp.Or(err, refusal); err != nil {
		return nil, err
	}
	return in.Connection, nil
}

// serve ends an arrival: the connection is served from now on, or it is the caller's as if it had never been there.
func (r *Registry) serve(ctx context.Context, in *arrival, begin func(context.Context, *Connection) error) (err error) {
	if begin != nil {
		err = begin(ctx, in.Connection)
	}
	// What closes all connections may have looked for them before this one was there.
	if err == nil {
		err = r.unserved(in.lease)
	}
	if err != nil {
		in.detach(event.Lost.Closed(0))
	}
	over := r.announce(in)
	switch {
	case over == nil:
		return nil
	case ends(over.Reason):
		return &EndedError{Why: *over}
	}
	if gone := r.unserved(in.lease); gone != nil { // which is why it has ended
		return gone
	}
	return cmp.Or(err, error(&FencedError{Why: *over}))
}

// announce makes the arrival known, unless it has ended. Then it returns with what.
func (r *Registry) announce(in *arrival) *event.Closed {
	k, a := in.k, in.k.a
	a.mu.Lock()
	over := in.arrive()
	if over == nil && slices.Contains(a.links, k) {
		if !k.announced {
			k.announced = true
			v := in.view
			v.State, v.Node = Online, r.cfg.Node
			r.noteLocked([]Change{{Kind: ChangeOnline, Session: v}})
		}
		r.noteLocked(r.turnedLocked(k))
	}
	a.mu.Unlock()
	return over
}

// arrival is a connection on its way in.
type arrival struct {
	*Connection
	view      Session // of the login, as it attaches
	token     event.ResumeToken
	parked    *parked
	tabs      int  // connections that the login may have
	announced bool // watchers of another node were told that the login is online
}

// unserved says why the registry serves no connections any more that were bound under the lease, or nil.
func (r *Registry) unserved(lease uint64) error {
	switch {
	case r.ctx.Err() != nil: // which gives the lease back
		return ErrClosed
	case r.nodes.standing(lease) == leaseOver:
		return ErrNoLease
	case r.draining.Load():
		return ErrDraining
	}
	return nil
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
	return &EndedError{Why: t.Closed.closed()}
}

// authenticate compares the token's digest with those of the login. The first use of an issued token confirms it. The
// use of one that was replaced after its confirmation means that it was copied: the login ends.
func (s *step) authenticate(l *login, d digest) error {
	issued, confirmed, replaced := l.Issued.equal(d), l.Token.equal(d), anyOf(l.Replaced, d)
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
		return &EndedError{Why: why}
	}
	return ErrUnknownLogin
}

// confirm makes the issued token the confirmed one.
func (l *login) confirm() {
	l.Replaced = slices.Concat(l.Replaced[max(len(l.Replaced)-maxReplaced+1, 0):], []digest{l.Token})
	l.Token, l.TokenAt, l.Issued, l.IssuedAt = *l.Issued, l.IssuedAt, nil, 0
}

// attach gives the login its slot back if it has lost it, and a new token if the old one is due.
func (s *step) attach(l *login, in *arrival) error {
	s.a.mu.Lock()
	k := s.a.linkLocked(l.ID)
	holds := s.r.holdsLocked(k, l, s.at)
	attached := k.attached() && !slices.Contains(s.stale, l.ID)
	first, unsure := k == nil || !k.served, k != nil && k.unsure.Load()
	s.a.mu.Unlock()
	s.who = Question{Device: l.Device, Platform: l.Platform, Description: l.Description, Login: l.ID}
	in.tabs = 1
	if attached {
		rules, err := s.rules()
		if err != nil {
			return err
		}
		in.tabs = rules.Tabs(l.Platform)
	}
	if !holds {
		var err error
		if l, err = s.comeBack(l); err != nil {
			return err
		}
	}
	elsewhere := s.r.nodes.elsewhere(l)
	if every := s.r.cfg.TokenRotation; every > 0 && !attached && !elsewhere && s.at.Age(l.TokenAt) > every {
		in.token = event.NewResumeToken()
		d := digestOf(in.token)
		l.Issued, l.IssuedAt, s.dirty = &d, s.now.UnixMilli(), true
	}
	device, before := s.rec.registered(l), s.r.clock.Before
	in.restored = unsure || k == nil && before(l.At) || first && device != l.At && before(device)
	in.announced = false
	if n := s.r.nodes; n != nil {
		in.announced = l.attachedBefore()
		in.restored = unsure || k == nil && in.announced || first && device != l.At
		if elsewhere {
			s.remote = append(s.remote, l.Node)
		}
		if l.Node != n.r.cfg.Node || l.Lease != in.lease {
			l.Node, l.Lease, l.Left, s.dirty = n.r.cfg.Node, in.lease, 0, true
		}
	}
	in.parked = nil
	if d := s.rec.device(l.Device); d != nil {
		in.parked = d.Parked // never changed, only replaced
	}
	in.view = s.r.view(s.a, l, s.at, "")
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
		d, err := s.decide(in)
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
	l.Slot, l.Seen, s.dirty = true, max(l.Seen, s.now.UnixMilli()), true
	return l, nil
}

// bind makes the arrival a connection of its login. Those that it displaces are fenced, and left to be shut.
func (s *step) bind(in *arrival, tab string) {
	a, c := s.a, in.Connection
	if tab != "" || in.token != "" || in.parked != nil {
		c.extra = &extra{token: in.token, tab: tab, parked: in.parked}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.linkLocked(in.view.Login)
	if k == nil {
		k = a.addLocked(s.rec.login(in.view.Login))
		k.announced = in.announced
	}
	c.k = k
	s.displaced = k.makeRoom(tab, in.tabs)
	k.conns = append(k.conns, c)
	k.admitted, k.looked, k.told = in.view.LoggedInAt.UnixMilli(), s.at.Elapsed, false
	if k.served = true; c.restored {
		k.unsure.Store(true)
	}
	c.generation = s.r.generation.Add(1) // here, where attaches of one login come one after another
}

// ConfirmToken says that the device has stored the token of [Connection.Token]. The one before is void from now on.
// Without a new token it does nothing. If the login has ended it returns an [*EndedError], or [ErrNotFound] if it is not
// known any more why.
func (r *Registry) ConfirmToken(ctx context.Context, c *Connection) error {
	token := c.Token()
	if token == "" {
		return nil
	}
	_, err := r.run(ctx, c.Account(), func(s *step) error {
		l := s.rec.login(c.Login())
		if l == nil {
			if t := s.rec.tombstone(c.Login()); t != nil {
				return &EndedError{Why: t.Closed.closed()}
			}
			return fmt.Errorf("confirm token: %w", ErrNotFound)
		}
		if l.Issued.equal(digestOf(token)) {
			l.confirm()
			s.dirty = true
		}
		return nil
	}, nil)
	return err
}
