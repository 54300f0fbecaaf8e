package session

import (
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
)

// State is how reachable a login is.
type State string

const (
	Online    State = "online"    // a connection is attached
	Away      State = "away"      // a connection is attached, and its app is in background; known on its own node only
	Lingering State = "lingering" // the connection is gone, but the resume window is not over
	Offline   State = "offline"   // gone for longer; the login holds no slot
)

// Session is one login, as of the moment it was asked for.
type Session struct {
	Account     event.Account
	Login       event.LoginID
	Device      event.DeviceID
	Incarnation event.Incarnation
	Platform    event.Platform
	Description Description
	Admission   uint64 // orders the account's logins: the lower, the earlier
	LoggedInAt  time.Time
	LastSeen    time.Time
	State       State
	Node        event.NodeID // where it is attached; empty: nowhere
	Self        bool         // it is the login that asked
	Primary     bool         // its device is the account's primary one
}

// Peer is the address of another login of the account, for messages to it.
type Peer struct {
	Address  event.Address
	Device   event.DeviceID
	Platform event.Platform
	Name     string
	State    State
}

// Presence is how reachable an account is.
type Presence struct {
	State   State // the best of its logins; Offline if it has none
	Devices []Session
}

// Ended is a login that has ended, and why.
type Ended struct {
	Session Session
	Closed  event.Closed
}

// ChangeKind says what happened to a login, or to a device or an account.
type ChangeKind string

const (
	ChangeLogin   ChangeKind = "login"   // it was admitted: it lingers, since it holds its slot and has no connection yet
	ChangeOnline  ChangeKind = "online"  // it was offline or new and is attached now
	ChangeOffline ChangeKind = "offline" // it was detached and the resume window is over
	ChangeEnded   ChangeKind = "ended"   // it is over; the session is as it was right before

	// ChangeAway and ChangeActive: its app has gone to background, on all of its connections, or has come back. Of the
	// session, Description, Admission and Primary are not set.
	ChangeAway   ChangeKind = "away"
	ChangeActive ChangeKind = "active"
	// ChangeContended: something is taken in turns. With reason flapping, logins of the device and of another one evict each
	// other, or two machines have the same device ID; only Account, Device and Platform are set. With reason moved,
	// connections of one login displace each other, as those of two machines with a copied token do, or of a client that
	// reconnects in a loop; Login and Incarnation are set, too.
	ChangeContended ChangeKind = "contended"
	// ChangeForgotten: the account does not remember the device any more, nor its place in the inbox. Only Account, Device,
	// Incarnation, Primary and LastSeen are set, and State: offline.
	ChangeForgotten ChangeKind = "forgotten"
	// ChangeDeleted: the account and all it had is gone. Only Account is set, and State: offline.
	ChangeDeleted ChangeKind = "deleted"
	// ChangeClockStepped: the wall clock was set, or the machine was suspended. Only By is set.
	ChangeClockStepped ChangeKind = "clock_stepped"
	// ChangeServerAway: no engine used the store for more than an hour, or the process stood still that long. Only By is set.
	ChangeServerAway ChangeKind = "server_away"
	// ChangeHookFailed: a call of the host's own code failed, panicked, took too long or was left out. Only Hook and Err are set,
	// and Account and Login if it was about them.
	ChangeHookFailed ChangeKind = "hook_failed"
)

// Change is one change of one login, device or account, or of the clock. Watchers get it after it was committed.
type Change struct {
	Kind     ChangeKind
	Session  Session
	Reason   event.Reason   // ChangeEnded: why; ChangeOffline: why the connection ended; ChangeContended: flapping or moved
	Position event.Position // of the entry about it in the account's inbox; Seq 0: there is none
	// By is, for ChangeClockStepped, how far the wall clock moved, forwards if positive; for ChangeServerAway, how long the
	// server was away, 0 if that is not known.
	By time.Duration
	// Hook and Err are, for ChangeHookFailed, whose call failed, and how. If it panicked, Err wraps an error with a method
	// Stack() []byte.
	Hook Hook
	Err  error
}

// view describes a login as it is in the given state of the account's connections.
func (r *Registry) view(a *account, l *login, now clock.Reading, self event.LoginID) Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return r.viewLocked(a, l, now, self)
}

func (r *Registry) viewLocked(a *account, l *login, now clock.Reading, self event.LoginID) Session {
	s := Session{
		Account: a.id, Login: l.ID, Device: l.Device, Incarnation: l.Incarnation, Platform: l.Platform,
		Description: l.Description, Admission: l.Admission, LoggedInAt: past(l.At, now),
		Self: self != "" && l.ID == self, Primary: l.Primary,
	}
	s.Description.Extension = append([]byte(nil), l.Description.Extension...)
	s.State, s.Node, s.LastSeen = r.reachLocked(a, l, now)
	return s
}

// reachLocked returns the part of a view that the record alone does not know.
func (r *Registry) reachLocked(a *account, l *login, now clock.Reading) (state State, node event.NodeID, seen time.Time) {
	k := a.linkLocked(l.ID)
	seen = past(l.Seen, now)
	if k.online() {
		return k.state(), r.cfg.Node, now.At(k.seen())
	}
	if c := a.coming; c != nil && c.login == l.ID {
		return c.state, c.node, c.seen
	}
	if k != nil {
		seen = later(seen, now.At(k.since))
	}
	switch {
	case r.nodes.elsewhere(l):
		return Online, l.Node, seen
	case r.holdsLocked(k, l, now):
		return Lingering, "", seen
	}
	return Offline, "", seen
}
