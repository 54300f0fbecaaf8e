package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/store"
)

// LoginRequest asks for the admission of a device. The host has authenticated the account.
type LoginRequest struct {
	Account event.Account
	// Device is the ID that the client keeps over logins. Empty: the login is a device of its own, which is forgotten
	// when the login ends.
	Device event.DeviceID
	// Platform is the client's class, in any letter case.
	Platform event.Platform
	// Description is shown to the account's other devices. Its texts are cleaned.
	Description Description
	// BackFill lets a device that the account has not had before start so many sequence numbers before the head of the
	// inbox. Zero means at the head, except for the account's first device, which always starts at the oldest entry.
	BackFill uint64
	// BackFillSince does the same for the oldest entry that is not older than this; with both, the earlier one counts.
	BackFillSince time.Time
	// Wish is what the client asks for if a limit is reached: to be refused rather than to evict, or to evict where new
	// logins are refused, which the rules must allow.
	Wish policy.Wish

	replace []event.LoginID // to end in the same step
	since   uint64          // where BackFillSince is in the inbox: just before it; 0: not set, or before everything
}

// LoginResult is an admitted login.
type LoginResult struct {
	Session  Session
	Token    event.ResumeToken // hand its Reveal to the device and nobody else; it is not kept
	Position event.Position    // head of the account's inbox right after the admission
	Decision policy.Decision   // rule, limit and count that the admission met
	Victims  []Ended           // logins that had to end, earliest first
}

func (q *LoginRequest) validate() error {
	if err := q.Account.Validate(); err != nil {
		return err
	}
	if q.Device != "" {
		if err := q.Device.Validate(); err != nil {
			return err
		}
	}
	p, err := event.ParsePlatform(string(q.Platform))
	if err != nil {
		return err
	}
	q.Platform = p
	if q.Wish > policy.NeverEvict {
		return &event.InvalidError{Field: "wish", Reason: "none of those that there are"}
	}
	q.Description, err = q.Description.cleaned()
	return err
}

// question is what the host is asked about the request.
func (q *LoginRequest) question() Question {
	about := q.Description
	about.Extension = slices.Clone(about.Extension)
	return Question{Account: q.Account, Device: q.Device, Platform: q.Platform, Description: about}
}

// Login admits a device. In one step the newcomer is recorded and every login that policy names is ended; their
// connections are closed before Login returns. A [*RefusedError], a [*LimitedError] or a [*BannedError] means that nothing
// was changed, and so does a [*HookError], a [*ChangingError] or a [*RecordFullError]. The new login holds a slot from now on
// and has a resume window to attach in. ctx bounds all waits before the commit; a commit that has begun is seen through. A
// [*StoppingError] says when the next process or another node is there. An [*EndedError] means that the store could not say
// whether it was admitted, and when that was known, it had ended again.
func (r *Registry) Login(ctx context.Context, q LoginRequest) (_ *LoginResult, err error) {
	defer fault.In("session", "login", &err)
	return r.pacedLogin(ctx, q)
}

// pacedLogin is Login, without the name of the call in its errors.
func (r *Registry) pacedLogin(ctx context.Context, q LoginRequest) (_ *LoginResult, err error) {
	defer func() {
		r.turned("session: login refused", err, q.Account, "device", string(q.Device), "platform", string(q.Platform))
	}()
	defer r.Stopping(&err)
	if err := q.validate(); err != nil {
		return nil, err
	}
	if err := r.leaving(); err != nil {
		return nil, err
	}
	client := cmp.Or(string(q.Device), string(q.Platform))
	if wait := r.refusals.take(r.elapsed(), q.Account, client); wait > 0 {
		return nil, &LimitedError{by: RefusedLoginRate, Reason: event.RateLimited, RetryAfter: wait}
	}
	res, err := r.login(ctx, q)
	if err == nil {
		r.refusals.giveBack(r.elapsed(), q.Account, client)
	} else if e, ok := errors.AsType[*LimitedError](err); ok && e.Reason == event.Flapping {
		r.refusals.giveBack(r.elapsed(), q.Account, "") // the account's other devices have nothing to do with it
	}
	return res, err
}

// login is pacedLogin of a request that is valid, and as far as it has not been refused too often.
func (r *Registry) login(ctx context.Context, q LoginRequest) (*LoginResult, error) {
	q.Description.Extension = slices.Clone(q.Description.Extension)
	if err := r.backFill(ctx, &q); err != nil {
		return nil, err
	}
	res := &LoginResult{Token: event.NewResumeToken()}
	id, fresh := event.NewLoginID(), false
	s, err := r.runAsking(ctx, q.Account, func(s *step) error {
		if l := s.rec.login(id); l != nil { // an earlier try of unknown outcome has landed after all
			res.Session = r.view(s.a, l, s.at, id)
			res.Session.State = Lingering
			s.changes = append(s.changes, Change{Kind: ChangeLogin, Session: res.Session})
			return nil
		}
		if t := s.rec.tombstone(id); t != nil { // it has landed, and another node has ended it
			return &EndedError{Why: t.Closed.closed()}
		}
		err := s.admit(q, id, res)
		fresh = len(s.begin) > 0
		return err
	}, func(s *step) {
		s.a.mu.Lock()
		k := s.a.addLocked(s.rec.login(id))
		k.since, k.admitted, k.reason = s.at.Elapsed, s.now.UnixMilli(), event.Lost
		s.a.mu.Unlock()
	})
	if err != nil {
		return nil, err
	}
	r.stats.logins.Add(1)
	if fresh {
		r.stats.newDevices.Add(1)
	}
	res.Position, res.Victims = s.head, s.victims(id)
	if res.Position.Seq == 0 {
		page, err := r.st.Read(context.WithoutCancel(ctx), q.Account, store.ReadOptions{})
		if err != nil {
			return nil, fmt.Errorf("session: login %s was admitted, but its position cannot be read: %w", id, err)
		}
		res.Position = event.Position{Epoch: page.Head.Epoch, Seq: page.Head.Seq}
	}
	return res, nil
}

// LoginReplacing is Login that ends the given logins of the account in the same step, for a user who was refused and has
// chosen who is to make room. They end with reason kicked_self and are among the victims; who is named twice ends once.
// [ErrNotFound] if one of them is not there; a [*RefusedError] with rule [RuleReplace] if the policy protects one of them
// from this device, with those that it may end. Nothing has changed then.
func (r *Registry) LoginReplacing(ctx context.Context, q LoginRequest, logins ...event.LoginID) (_ *LoginResult, err error) {
	defer fault.In("session", "login replacing", &err)
	for i, id := range logins {
		id, err := id.Of(q.Account)
		if err != nil {
			err = fault.Item("logins", i, err)
			r.turned("session: login refused", err, q.Account)
			return nil, err
		}
		if !slices.Contains(q.replace, id) {
			q.replace = append(q.replace, id)
		}
	}
	return r.pacedLogin(ctx, q)
}

// replace ends the logins that the newcomer takes the place of.
func (s *step) replace(ids []event.LoginID, newcomer *login) error {
	rules := s.rules()
	if rules == nil {
		return nil
	}
	in := s.newcomer(newcomer.Device, newcomer.Platform, policy.NoWish)
	for _, id := range ids {
		l := s.rec.login(id)
		if l == nil {
			return fmt.Errorf("replace: %w", ErrNotFound)
		}
		if p := rules.MayReplace(in, s.policyLogin(l), s.now); !p.OK {
			return s.protected(rules, in, p)
		}
		why := event.KickedSelf.Closed(0)
		why.Cause = newcomer.cause()
		s.end(id, why, newcomer.ID)
	}
	return nil
}

// protected refuses a newcomer that has chosen a login that it may not end, and says which it may.
func (s *step) protected(rules *policy.Policy, in policy.Newcomer, p policy.Permit) error {
	e := &RefusedError{Rule: RuleReplace, Platform: s.who.Platform, Cause: p.Cause, RetryAfter: p.Wait}
	for i := range s.rec.Logins {
		if l := &s.rec.Logins[i]; rules.MayReplace(in, s.policyLogin(l), s.now).OK {
			e.Logins = append(e.Logins, s.r.view(s.a, l, s.at, ""))
		}
	}
	sortSessions(e.Logins)
	return e
}

// victims returns the logins that the step ended for the sake of another one, earliest first.
func (s *step) victims(newcomer event.LoginID) []Ended {
	var all []Ended
	for _, e := range s.ended {
		if c := e.Closed.Cause; c != nil && c.Login == newcomer {
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b Ended) int { return cmp.Compare(a.Session.Admission, b.Session.Admission) })
	return all
}

// admit puts a new login into the step's record, in place of those that policy says must end.
func (s *step) admit(q LoginRequest, id event.LoginID, res *LoginResult) error {
	device := q.Device
	if device == "" {
		device = event.DeviceID(id)
	}
	now := s.now.UnixMilli()
	l := login{
		ID: id, Device: device, Platform: q.Platform, At: now, Seen: now, Slot: true,
		Description: q.Description, Token: digestOf(res.Token), TokenAt: now, TokenStore: s.r.st.Info().Incarnation,
	}
	if err := cmp.Or(s.banned(), s.pace()); err != nil {
		return err
	}
	s.who = q.question()
	switch yes, ok := s.admitted(); {
	case !ok:
		return nil
	case !yes:
		return &RefusedError{Rule: RuleHost, Platform: q.Platform, Cause: policy.CauseHost}
	}
	gone := s.appendDevices(nil, q.replace...)
	if len(q.replace) > 0 {
		if err := s.replace(q.replace, &l); err != nil || s.lacks != nil {
			return err
		}
	}
	d, err := s.decide(s.newcomer(device, q.Platform, q.Wish))
	if err != nil || s.lacks != nil {
		return err
	}
	slow, err := s.damp(device, q.Platform, s.devicesOf(gone, d.Victims))
	if slow && err == nil {
		err = s.leaveHalf()
	}
	if err != nil {
		return err
	}
	res.Decision = d
	s.rec.Admissions++
	l.Admission = s.rec.Admissions
	s.evict(d.Victims, &l, id)
	if dev := s.rec.device(device); dev != nil {
		dev.Seen, l.Incarnation, l.Primary = max(dev.Seen, now), dev.Incarnation, dev.Primary
	} else {
		l.Incarnation = newIncarnation()
		s.rec.Devices = append(s.rec.Devices, deviceOf(&l))
		back := q.BackFill
		if s.rec.Admissions == 1 { // the account's first device begins at the oldest entry
			back = math.MaxUint64
		}
		s.begin = append(s.begin, store.Begin{Incarnation: l.Incarnation, Back: back, At: q.since})
	}
	s.rec.Logins = append(s.rec.Logins, l)
	s.capDevices()
	s.dirty, s.grows, s.admits = true, true, true
	s.coming = &coming{login: id, state: Lingering, seen: s.now, admission: l.Admission} // it holds its slot and has no connection yet
	res.Session = s.r.view(s.a, &l, s.at, id)
	res.Session.State = Lingering
	s.changes = append(s.changes, Change{Kind: ChangeLogin, Session: res.Session})
	s.record(event.KindDeviceLogin, res.Session, "", id)
	return nil
}

// newIncarnation returns a number that no registration of the account had before. It is random, so that this holds even
// if the account was deleted meanwhile and nothing is known of its former devices.
func newIncarnation() event.Incarnation { return event.Incarnation(rand.Uint64() | 1) }

func deviceOf(l *login) device {
	return device{ID: l.Device, Incarnation: l.Incarnation, First: l.At, Seen: l.Seen}
}

// DryRun says what the rules would do to a Login, and why, without doing it. A ban is a [*BannedError], as for Login. The
// host is asked for the account's policy (a [*HookError] if it does not answer and its fallback is [Refuse]), but neither whether
// the login may be nor who makes room: where it would be asked that, the verdict is policy.Ask. How fast logins come, and whether
// devices evict each other in turns, does not matter.
func (r *Registry) DryRun(ctx context.Context, q LoginRequest) (_ policy.Explanation, err error) {
	defer fault.In("session", "dry run", &err)
	if err := q.validate(); err != nil {
		return policy.Explanation{}, err
	}
	own, err := r.askPolicy(ctx, q.question())
	if err != nil {
		return policy.Explanation{}, err
	}
	s, err := r.glance(ctx, q.Account)
	if err != nil {
		return policy.Explanation{}, err
	}
	if err := s.banned(); err != nil {
		return policy.Explanation{}, err
	}
	return cmp.Or(own.value, r.policy.Load()).Explain(s.policyLogins(), s.newcomer(q.Device, q.Platform, q.Wish), s.now), nil
}

func sortSessions(all []Session) {
	slices.SortFunc(all, func(a, b Session) int { return cmp.Compare(a.Admission, b.Admission) })
}
