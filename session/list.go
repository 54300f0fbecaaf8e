package session

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
)

// looksBeside is how often a read tries to find the account at rest before it takes a turn of its own.
const looksBeside = 4

// look returns the account's record with its logins as they are at one moment: each as before a step or as after it, and
// never with the record of one and the connections of the other.
//
// A step commits the record first and changes links then. So links never know of a step that a record, loaded while no
// step has changed links, does not. What the record knows of and links do not yet is an end (the login is not in the
// record any more) or the one login that the step brings in, which account.coming describes.
func (r *Registry) look(ctx context.Context, id event.Account, self event.LoginID) (*record, []Session, error) {
	a := r.hold(id)
	defer r.drop(a)
	for range looksBeside {
		a.mu.Lock()
		steps := a.steps
		a.mu.Unlock()
		rec, _, err := r.load(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		a.mu.Lock()
		if a.steps == steps {
			defer a.mu.Unlock()
			return rec, r.viewsLocked(a, rec, self), nil
		}
		a.mu.Unlock()
	}
	if _, err := r.enter(ctx, id); err != nil { // the account has no rest
		return nil, nil, err
	}
	defer r.leave(a)
	rec, _, err := r.load(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return rec, r.viewsLocked(a, rec, self), nil
}

func (r *Registry) viewsLocked(a *account, rec *record, self event.LoginID) []Session {
	now := r.clock.Read()
	all := make([]Session, 0, len(rec.Logins))
	for i := range rec.Logins {
		all = append(all, r.viewLocked(a, &rec.Logins[i], now, self))
	}
	sortSessions(all)
	return all
}

// List returns the account's logins, online and offline, earliest first. self marks the one that asks; "" marks none. A
// step that runs meanwhile is either in it or not; no login is shown in a state that it never had.
func (r *Registry) List(ctx context.Context, account event.Account, self event.LoginID) (_ []Session, err error) {
	defer fault.In("session", "list", &err)
	return r.list(ctx, account, self)
}

// list is List, without the name of the call in its errors.
func (r *Registry) list(ctx context.Context, account event.Account, self event.LoginID) ([]Session, error) {
	if err := account.Validate(); err != nil {
		return nil, err
	}
	if err := ownLogin("self", account, &self); err != nil {
		return nil, err
	}
	_, all, err := r.look(ctx, account, self)
	return all, err
}

// ownLogin replaces the address of a login of the account by the login. An empty one stays empty.
func ownLogin(field string, account event.Account, id *event.LoginID) (err error) {
	if *id != "" {
		*id, err = id.Of(account)
	}
	return fault.Field(field, err)
}

// Get returns one login. [ErrNotFound] if the account has none of that ID.
func (r *Registry) Get(ctx context.Context, account event.Account, id event.LoginID) (_ Session, err error) {
	defer fault.In("session", "get", &err)
	if err := account.Validate(); err != nil {
		return Session{}, err
	}
	id, err = id.Of(account)
	if err != nil {
		return Session{}, fault.Field("login", err)
	}
	_, all, err := r.look(ctx, account, "")
	if err != nil {
		return Session{}, err
	}
	for i := range all {
		if all[i].Login == id {
			return all[i], nil
		}
	}
	return Session{}, fmt.Errorf("login: %w", ErrNotFound)
}

// Peers returns the addresses of the account's other logins, earliest first, with their state.
func (r *Registry) Peers(ctx context.Context, account event.Account, self event.LoginID) (_ []Peer, err error) {
	defer fault.In("session", "peers", &err)
	all, err := r.list(ctx, account, self)
	if err != nil {
		return nil, err
	}
	peers := make([]Peer, 0, len(all))
	for _, s := range all {
		if !s.Self {
			peers = append(peers, Peer{
				Address: event.Address{Account: account, Login: s.Login}, Device: s.Device, Platform: s.Platform,
				Name: s.Description.Name, State: s.State,
			})
		}
	}
	return peers, nil
}

// Presence returns how reachable an account is. An error means unknown, not offline.
func (r *Registry) Presence(ctx context.Context, account event.Account) (_ Presence, err error) {
	defer fault.In("session", "presence", &err)
	all, err := r.list(ctx, account, "")
	if err != nil {
		return Presence{}, err
	}
	p := Presence{State: Offline, Devices: all}
	rank := map[State]int{Offline: 0, Lingering: 1, Away: 2, Online: 3}
	for _, s := range all {
		if rank[s.State] > rank[p.State] {
			p.State = s.State
		}
	}
	return p, nil
}

// Devices returns the registrations that the account remembers, whether logged in or not.
func (r *Registry) Devices(ctx context.Context, account event.Account) (_ map[event.DeviceID]event.Incarnation, err error) {
	defer fault.In("session", "devices", &err)
	if err := account.Validate(); err != nil {
		return nil, err
	}
	rec, _, err := r.load(ctx, account)
	if err != nil {
		return nil, err
	}
	all := make(map[event.DeviceID]event.Incarnation, len(rec.Devices))
	for _, d := range rec.Devices {
		all[d.ID] = d.Incarnation
	}
	return all, nil
}

// Bound is what a login stands for: its device and the device's registration.
type Bound struct {
	Device      event.DeviceID
	Incarnation event.Incarnation
}

// Resolve returns the device of a login that has not ended. [ErrNotFound] otherwise. It needs no I/O for a login that is
// attached here.
func (r *Registry) Resolve(ctx context.Context, account event.Account, id event.LoginID) (_ Bound, err error) {
	defer fault.In("session", "resolve", &err)
	a := r.peek(account)
	a.mu.Lock()
	k := a.linkLocked(id)
	if k.attached() {
		defer a.mu.Unlock()
		return Bound{Device: k.device, Incarnation: k.incarnation}, nil
	}
	a.mu.Unlock()
	if err := account.Validate(); err != nil {
		return Bound{}, err
	}
	id, err = id.Of(account)
	if err != nil {
		return Bound{}, fault.Field("login", err)
	}
	rec, _, err := r.load(ctx, account)
	if err != nil {
		return Bound{}, err
	}
	l := rec.login(id)
	if l == nil {
		return Bound{}, fmt.Errorf("login: %w", ErrNotFound)
	}
	return Bound{Device: l.Device, Incarnation: l.Incarnation}, nil
}

// Event is one line of an account's log: a login was admitted, or has ended.
type Event struct {
	Login    event.LoginID
	Device   event.DeviceID
	Platform event.Platform
	Name     string       // of the device
	IP       string       // as its description said
	Reason   event.Reason // why it ended; empty: it was admitted
	Time     time.Time
}

// Recent returns the account's last 32 admissions and ends, newest first. There may be fewer if descriptions are long.
func (r *Registry) Recent(ctx context.Context, account event.Account) (_ []Event, err error) {
	defer fault.In("session", "recent", &err)
	if err := account.Validate(); err != nil {
		return nil, err
	}
	rec, _, err := r.load(ctx, account)
	if err != nil {
		return nil, err
	}
	lines := unpack(&rec.Recent, (*decoder).recent)
	all := make([]Event, 0, len(lines))
	for _, l := range slices.Backward(lines) {
		all = append(all, Event{
			Login: l.Login, Device: l.Device, Platform: l.Platform, Name: l.Name, IP: l.IP, Reason: l.Reason,
			Time: time.UnixMilli(l.At),
		})
	}
	return all, nil
}
