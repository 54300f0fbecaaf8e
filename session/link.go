package session

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
)

// account is what is known of an account beside its record: its connections, and whose turn it is. It exists while there
// is a connection, a resume window, or a step.
type account struct {
	id      event.Account
	refs    int32         // steps that run or wait; guarded by the shard's mutex
	waiting atomic.Int32  // steps that wait
	turn    chan struct{} // holds one token while a step runs; it is there as long as there are refs

	mu    sync.Mutex
	links []*link
	// steps counts those that have changed links. A record that was loaded while it stood still is at least as new as they.
	steps  uint64
	coming *coming // what the step that commits brings in
	// leaving are connections that are fenced, and on which a Send may still begin that had passed the fence; see
	// Connection.settled. Some of them may be settled by now.
	leaving []*Connection
	// unsure: it is not known whether a step has taken effect. A later one finds out.
	unsure   bool
	enforced uint64  // Registry.enforced before the first such step was decided
	doubts   []doubt // what such steps would have ended
}

// coming is a login that a step admits or attaches, as it is until the step has taken effect in memory, too.
type coming struct {
	login     event.LoginID
	state     State
	node      event.NodeID
	seen      time.Time
	admission uint64 // that it gets; 0: it holds its slot
}

// doubt is the end of a login by a step of which is not known whether it took effect.
type doubt struct {
	ended     Ended
	unrevoked bool // the revoke hook is not called for it
}

// link is one login's live side. What a login is does not change; the rest is guarded by the account's mutex. Times are those
// of clock.Elapsed but for admitted.
type link struct {
	a           *account
	login       event.LoginID
	device      event.DeviceID
	incarnation event.Incarnation
	platform    event.Platform

	conns    []*Connection  // its tabs, oldest first; none: detached
	slot     [1]*Connection // what conns is in as long as there is one
	since    time.Duration  // when the last one was detached, or the login admitted
	looked   time.Duration  // when it was compared with the record last
	admitted int64          // Unix milliseconds; 0: not known here yet
	reason   event.Reason   // why it was detached
	// announced: watchers were told that it is online, and must be told when it is offline.
	announced bool
	away      bool  // what they were told last
	turns     uint8 // how often they were told since the last sweep that it has gone to background or come back
	told      bool  // the record says that it is detached
	held      bool  // one that has arrived was displaced by one that has not
	served    bool  // it had a connection here
	// unsure: another node has sent what is not known here, and nothing was sent since.
	unsure atomic.Bool
}

// addLocked begins the live side of a login. Its strings outlive the record that l's share memory with.
func (a *account) addLocked(l *login) *link {
	k := &link{a: a, incarnation: l.Incarnation}
	k.login, k.device = event.LoginID(strings.Clone(string(l.ID))), event.DeviceID(strings.Clone(string(l.Device)))
	k.platform = event.Platform(strings.Clone(string(l.Platform)))
	k.conns = k.slot[:0]
	a.links = append(a.links, k)
	return k
}

// leavesLocked keeps a connection that is fenced for whoever has to know that no Send begins.
func (a *account) leavesLocked(c *Connection) {
	if c.unsettled() > 0 {
		a.leaving = append(a.leavingLocked(), c)
	}
}

// leavingLocked lets go of those that are settled and returns a copy of the others.
func (a *account) leavingLocked() []*Connection {
	var all []*Connection
	for _, c := range a.leaving {
		if c.unsettled() > 0 {
			all = append(all, c)
		}
	}
	a.leaving = all
	return slices.Clone(all)
}

// knows reports whether the login, or if that is empty one of the device, is in memory: it has a connection, or lingers.
func (a *account) knows(id event.LoginID, device event.DeviceID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.links, func(k *link) bool { return k.login == id || id == "" && k.device == device })
}

func (a *account) linkLocked(id event.LoginID) *link {
	for _, k := range a.links {
		if k.login == id {
			return k
		}
	}
	return nil
}

// unlinkLocked forgets a login's live side and returns the connections that it had.
func (a *account) unlinkLocked(id event.LoginID) []*Connection {
	for i, k := range a.links {
		if k.login == id {
			a.links = slices.Delete(a.links, i, i+1)
			return k.conns
		}
	}
	return nil
}

// attached reports whether the login has a connection here. A nil link has none.
func (k *link) attached() bool { return k != nil && len(k.conns) > 0 }

// online reports whether the login has a connection here that has arrived, or had one whose place is just being taken. A
// nil link has none.
func (k *link) online() bool {
	return k != nil && (k.held || slices.ContainsFunc(k.conns, (*Connection).arrived))
}

// state is Online, or Away if every connection says that its app is in background; Lingering if none has arrived.
func (k *link) state() State {
	switch {
	case !k.online():
		return Lingering
	case k.held && !k.away:
		return Online
	}
	if slices.ContainsFunc(k.conns, func(c *Connection) bool { return c.arrived() && !c.background.Load() }) {
		return Online
	}
	return Away
}

// seen returns when something was heard last on any of the connections. The link is attached.
func (k *link) seen() time.Duration {
	last := k.conns[0].seen.Load()
	for _, c := range k.conns[1:] {
		last = max(last, c.seen.Load())
	}
	return time.Duration(last)
}

// remove takes a connection out and reports whether it was there.
func (k *link) remove(c *Connection, reason event.Reason, now time.Duration) bool {
	i := slices.Index(k.conns, c)
	if i < 0 {
		return false
	}
	k.conns = slices.Delete(k.conns, i, i+1)
	k.held = k.held && slices.ContainsFunc(k.conns, func(c *Connection) bool { return !c.arrived() && !c.Fenced() })
	if len(k.conns) == 0 {
		k.since, k.reason = now, reason
	}
	return true
}

// view describes the login by what is known without its record. The link is online.
func (k *link) view(node event.NodeID, now clock.Reading) Session {
	return Session{
		Account: k.a.id, Login: k.login, Device: k.device, Incarnation: k.incarnation, Platform: k.platform,
		LastSeen: now.At(k.seen()), State: k.state(), Node: node,
	}
}

// holdsLocked reports whether a login holds its slot; k is its live side, nil if it has none. Without leases nothing is
// known, after a restart, of the connections of before, so every login that held a slot lingers from the time the registry
// was opened.
func (r *Registry) holdsLocked(k *link, l *login, now clock.Reading) bool {
	if k.attached() {
		return true
	}
	if !l.Slot {
		return false
	}
	var since time.Duration
	if k != nil {
		since = k.since
	}
	if r.nodes == nil {
		return r.lingers(since, now)
	}
	gone, attached := r.nodes.left(l)
	return attached || gone < max(r.cfg.ResumeWindow, 0) || k != nil && r.lingers(since, now)
}

// lingers reports whether the resume window of a login is not over that has been without a connection since a time. While the
// process stood still nobody could come back.
func (r *Registry) lingers(since time.Duration, now clock.Reading) bool {
	return now.Elapsed-max(since, r.clock.Woke()) < max(r.cfg.ResumeWindow, 0)
}
