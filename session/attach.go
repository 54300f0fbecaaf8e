package session

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/transport"
)

// Attach is for hosts that deliver by themselves. Over a registry with fan-out it is refused with [ErrListening], since it
// would show the login online and deliver nothing: there connections attach by fanout.Router.Attach.
//
// It binds a connection to a login that has not ended. A login has as many connections as the rules' Tabs say, one by
// default: an older connection of the same tab is closed with reason moved, and of the others the oldest beyond that
// number, with reason tab_replaced if they are told apart as tabs, moved otherwise. The advice that comes with moved is a
// delay, which grows while two connections displace each other in turns; the host hears of that once ([ChangeContended]).
// Among several nodes the connections of a login are all on one: the node of the newest takes it over.
//
// A login that still holds its slot comes back as it was: same ID, same age, nobody evicted, nothing written where there
// are no other nodes. One that has lost its slot is admitted again: policy may evict others, or refuse with a
// [*RefusedError]. A [*LimitedError] says to come back later, a [*StoppingError] when the next process or another node is
// there, [ErrNoLease] to try another node. If the
// login has ended, the holder of its token, or the host that vouches, gets an [*EndedError]; everybody else
// [ErrUnknownLogin].
//
// It waits for no older connection: a Send that runs on one has had its context ended, and its Close is called in its own
// time, while the new connection is served.
//
// If Attach succeeds, conn.Close is called exactly once, when the connection has ended for any reason.
//
// On any error the connection is the caller's: it is not closed, and nothing is sent on it any more.
// That goes also for a connection that ends while Attach runs: if its login is ended, Attach returns an [*EndedError], if
// a newer connection takes its place, a [*FencedError].
func (r *Registry) Attach(ctx context.Context, q AttachRequest, conn transport.Conn) (_ *Connection, err error) {
	defer fault.In("session", "attach", &err)
	defer func() {
		if d := q.Delivery; d == nil || d.Expected == nil || !d.Expected(err) {
			r.turned("session: attach refused", err, q.Account, "login", string(q.Login), "device", string(q.Device))
		}
	}()
	defer r.Stopping(&err)
	if d := q.Delivery; d != nil && d.Fault != nil {
		return nil, d.Fault
	}
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
	if q.Delivery == nil && r.listener.Load() != nil {
		return nil, ErrListening
	}
	if err := r.leaving(); err != nil {
		return nil, err
	}
	if err := r.limitAttach(q); err != nil {
		return nil, err
	}
	in := arrival{Connection: &Connection{r: r, conn: conn}, idle: q.IdleTimeout}
	if r.nodes != nil {
		if in.lease = r.nodes.lease(ctx); in.lease == 0 {
			if r.ctx.Err() != nil { // which gives it back
				return nil, ErrClosed
			}
			return nil, ErrNoLease
		}
	}
	if n, ok := conn.(transport.NonBlocker); ok {
		if in.instant, err = hostcall.Here(&r.calls.nonBlocking, func() (bool, error) { return n.NonBlocking(), nil }); err != nil {
			r.log.Error("session: Conn.NonBlocking panicked", "hook", string(HookNonBlocking), "account", string(q.Account),
				"login", string(q.Login), "device", string(q.Device), trace.Err(err))
			r.hookFailed(HookNonBlocking, q.Account, q.Login, err)
			return nil, &HookError{Hook: string(HookNonBlocking), Err: err, RetryAfter: r.soon()}
		}
	}
	var begin func(context.Context, *Connection) error
	if d := q.Delivery; d != nil {
		begin, in.ends = d.Begin, d.Ended
	}
	in.arrival.Store(&r.arriving)
	in.Touch()
	var refusal error
	_, err = r.runAsking(ctx, q.Account, func(s *step) error {
		var l *login
		if l, refusal = s.resume(&q, &in); refusal != nil {
			return onlyIfUnchanged(s, refusal)
		}
		s.describe(l, q.Description)
		return s.attach(l, &q, &in)
	}, func(s *step) {
		if refusal == nil {
			s.bind(&in, q.Tab)
			s.then = func() { refusal = r.serve(ctx, &in, begin) }
		}
	})
	if err = cmp.Or(err, refusal); err != nil {
		return nil, err
	}
	r.stats.attached(&in)
	return in.Connection, nil
}

// unknownClient stands for the clients whose logins are not in memory. It is no identifier.
const unknownClient = "?\n"

// limitAttach refuses an attach of an account that attaches too often, and then one of a crowd that is too much for the node.
// An account that loops takes no more of the node's than its own share, whatever login, device and token it names. Logins that
// are not in memory share one part of their account's, so that a client that names another one each time takes no more than
// that.
func (r *Registry) limitAttach(q AttachRequest) error {
	now, client := r.elapsed(), unknownClient
	if r.peek(q.Account).knows(q.Login, q.Device) {
		client = cmp.Or(string(q.Login), string(q.Device))
	}
	by, wait := RefusedAttachRate, r.attachesOf.take(now, q.Account, client)
	if wait == 0 {
		by, wait = RefusedNodeRate, r.attaches.take(now, "", "")
	}
	if wait == 0 {
		return nil
	}
	return &LimitedError{by: by, Reason: event.RateLimited, RetryAfter: wait}
}

// serve ends an arrival: the connection is served from now on, or it is the caller's as if it had never been there.
func (r *Registry) serve(ctx context.Context, in *arrival, begin func(context.Context, *Connection) error) (err error) {
	if begin != nil {
		err = in.begins(ctx, begin)
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

// begins calls Begin of the delivery. A panic of it is an error: the caller, who could recover from it, is on another goroutine.
func (in *arrival) begins(ctx context.Context, begin func(context.Context, *Connection) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("session: Begin: %w", hostcall.Panicked(p))
			in.log().Error("session: Begin panicked", trace.Err(err))
		}
	}()
	return begin(ctx, in.Connection)
}

// announce makes the arrival known, unless it has ended. Then it returns with what.
func (r *Registry) announce(in *arrival) *event.Closed {
	k, a := in.k, in.k.a
	a.mu.Lock()
	over := in.arrive()
	if over == nil {
		k.held = false
	}
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
	proof     proof   // what the request has shown
	confirmed bool    // its token was confirmed by this use
	token     event.ResumeToken
	parked    *parked
	idle      time.Duration // see AttachRequest.IdleTimeout
	tabs      int           // connections that the login may have
	moves     uint64        // displacements in turns so far, if the one before was on another node; see takeover
	announced bool          // watchers of another node were told that the login is online
	resumed   bool          // the login had a connection before
	cameBack  bool          // the login had lost its slot
}

// unserved says why the registry serves no connections any more that were bound under the lease, or nil.
func (r *Registry) unserved(lease uint64) error {
	if r.ctx.Err() == nil && r.nodes.standing(lease) == leaseOver { // a registry that is closed gives it back
		return ErrNoLease
	}
	return cmp.Or(r.leaving(), r.storeError(r.ctx))
}

// attach gives the login its slot back if it has lost it, and a new token if the old one is due.
func (s *step) attach(l *login, q *AttachRequest, in *arrival) error {
	s.a.mu.Lock()
	k := s.a.linkLocked(l.ID)
	landed := s.landedLocked(l)
	holds := landed || s.r.holdsLocked(k, l, s.at)
	attached := k.attached() && !slices.Contains(s.stale, l.ID)
	first, unsure := k == nil || !k.served, k != nil && k.unsure.Load()
	was := coming{login: l.ID}
	was.state, was.node, was.seen = s.r.reachLocked(s.a, l, s.at)
	others := 0
	if attached {
		others = k.besides(q.Tab)
	}
	s.a.mu.Unlock()
	s.coming = &was
	s.who = Question{Device: l.Device, Platform: l.Platform, Description: l.Description, Login: l.ID}
	in.tabs = 1
	if attached {
		if in.tabs = s.tabs(l.Platform); s.lacks != nil {
			return nil
		}
	}
	if !holds {
		var err error
		if l, err = s.comeBack(l); err != nil || s.lacks != nil {
			return err
		}
	}
	if landed || !holds {
		was.admission = l.Admission
	}
	elsewhere := s.r.nodes.elsewhere(l)
	if in.moves = 0; elsewhere {
		in.moves = s.move(l)
	}
	in.token = s.hand(l, q.Token, in.proof, in.tabs > 1 && others > 0)
	device := s.rec.registered(l)
	in.restored, in.announced = s.r.inDoubt(device), false
	in.cameBack, in.resumed = !holds, k == nil || k.served
	if n := s.r.nodes; n != nil {
		in.announced = l.attachedBefore()
		in.resumed = in.announced || k != nil && k.served
		in.restored = unsure || k == nil && in.announced || first && device != l.At
		if elsewhere {
			l.Before, l.Moved, s.dirty = s.movedFrom(l), s.now.UnixMilli(), true
		}
		if s.unnoticed(l.Moved, clock.MaxDrift) { // they have looked since, but the end of a login needs certainty
			s.remote = n.others(s.remote, s.before(l))
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
	rules := s.rules()
	if rules == nil {
		return nil, nil
	}
	if rules.Rules().Slots != policy.SlotEveryLogin {
		in := s.newcomer(l.Device, l.Platform, policy.NoWish)
		in.Login = l.ID
		d, err := s.decide(in)
		if err != nil || s.lacks != nil {
			return nil, err
		}
		if _, err := s.damp(l.Device, l.Platform, s.devicesOf(nil, d.Victims)); err != nil {
			return nil, err
		}
		s.evict(d.Victims, l, in.Login)
		l = s.rec.login(in.Login)
		s.rec.Admissions++
		l.Admission = s.rec.Admissions
	}
	l.Slot, l.Seen, s.dirty, s.admits = true, max(l.Seen, s.now.UnixMilli()), true, true
	return l, nil
}

// bind makes the arrival a connection of its login. Those that it displaces are fenced, and left to be closed.
func (s *step) bind(in *arrival, tab string) {
	a, c := s.a, in.Connection
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.linkLocked(in.view.Login)
	if k == nil {
		k = a.addLocked(s.rec.login(in.view.Login))
		k.announced = in.announced
	}
	c.k = k
	now, moves := s.r.elapsed(), in.moves
	if in.confirmed {
		s.r.replaced.add(s.rec.login(k.login), now)
	}
	s.fenced, s.displaced, moves = k.makeRoom(tab, in.tabs, moves, now)
	if tab != "" || !in.token.IsZero() || in.parked != nil || moves > 0 || in.idle != 0 {
		c.extra = &extra{token: in.token, tab: strings.Clone(tab), parked: in.parked, moves: moves, at: now, idle: in.idle}
	}
	k.conns = append(k.conns, c)
	k.admitted, k.looked, k.told = in.view.LoggedInAt.UnixMilli(), s.at.Elapsed, false
	if k.served = true; c.restored {
		k.unsure.Store(true)
	}
	c.generation = s.r.generation.Add(1) // here, where attaches of one login come one after another
	if moves == contendedMoves {
		s.changes = append(s.changes, Change{Kind: ChangeContended, Reason: event.Moved, Session: Session{
			Account: a.id, Login: k.login, Device: k.device, Incarnation: k.incarnation, Platform: k.platform,
			State: Online, Node: s.r.cfg.Node,
		}})
	}
}
