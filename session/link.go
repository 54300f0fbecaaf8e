package session

import (
	"slices"
	"sync"
	"time"

	"github.com/manydevice/manydevice/event"
)

// account is what is known of an account beside its record: its connections, and whose turn it is. It exists while there
// is a connection, a resume window or a step.
type account struct {
	id   event.Account
	turn chan struct{} // holds one token while a step runs
	refs int           // steps that run or wait; guarded by the shard's mutex

	mu    sync.Mutex
	links []*link
	// unsure: a step may have ended logins without its getting known. A later one finds out.
	unsure bool
}

// link is one login's live side. It is guarded by the account's mutex.
type link struct {
	login  event.LoginID
	conns  []*Connection // its tabs, oldest first; none: detached
	since  time.Time     // when the last one was detached, or the login admitted
	reason event.Reason  // why it was detached
	// announced: watchers were told that it is online, and must be told when it is offline.
	announced bool
	away      bool      // what they were told last
	told      bool      // the record says that it is detached
	looked    time.Time // when it was compared with the record last
	admitted  time.Time // zero: not known here yet
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
			a.links = append(a.links[:i:i], a.links[i+1:]...)
			return k.conns
		}
	}
	return nil
}

// attached reports whether the login has a connection here. A nil link has none.
func (k *link) attached() bool { return k != nil && len(k.conns) > 0 }

// state is Online, or Away if every connection says that its app is in background. The link is attached.
func (k *link) state() State {
	if slices.ContainsFunc(k.conns, func(c *Connection) bool { return !c.background.Load() }) {
		return Online
	}
	return Away
}

// seen returns when something was heard last on any of the connections. The link is attached.
func (k *link) seen() time.Time {
	last := k.conns[0].seenAt()
	for _, c := range k.conns[1:] {
		if at := c.seenAt(); at.After(last) {
			last = at
		}
	}
	return last
}

// remove takes a connection out and reports whether it was there.
func (k *link) remove(c *Connection, reason event.Reason) bool {
	i := slices.Index(k.conns, c)
	if i < 0 {
		return false
	}
	k.conns = slices.Delete(k.conns, i, i+1)
	if len(k.conns) == 0 {
		k.conns, k.since, k.reason = nil, time.Now(), reason
	}
	return true
}

// displaced is a connection that another one of its login takes the place of.
type displaced struct {
	conn   *Connection
	reason event.Reason
}

// makeRoom takes out the connections that a new one displaces: that of the same tab, and the oldest beyond the number of
// tabs. They are fenced, and the caller's to shut.
func (k *link) makeRoom(in *Connection) []displaced {
	var gone []displaced
	out := func(i int, reason event.Reason) {
		c := k.conns[i]
		k.conns = slices.Delete(k.conns, i, i+1)
		if c.fence() {
			gone = append(gone, displaced{c, reason})
		}
	}
	for i := len(k.conns) - 1; in.tab != "" && i >= 0; i-- {
		if k.conns[i].tab == in.tab {
			out(i, event.Moved)
		}
	}
	for len(k.conns) >= in.tabs {
		reason := event.Moved
		if in.tabs > 1 || in.tab != "" && k.conns[0].tab != "" {
			reason = event.TabReplaced
		}
		out(0, reason)
	}
	return gone
}

// turnedLocked returns the change if the login has gone to background or come back from it.
func (r *Registry) turnedLocked(k *link) []Change {
	if !k.attached() || !k.announced {
		return nil
	}
	away := k.state() == Away
	if away == k.away {
		return nil
	}
	k.away = away
	kind := ChangeActive
	if away {
		kind = ChangeAway
	}
	c := k.conns[len(k.conns)-1]
	return []Change{{Kind: kind, Session: Session{
		Account: c.account, Login: c.login, Device: c.device, Incarnation: c.incarnation, Platform: c.platform,
		LoggedInAt: k.admitted, LastSeen: k.seen(), State: k.state(), Node: r.cfg.Node,
	}}}
}

// holdsLocked reports whether a login holds its slot. Without leases nothing is known, after a restart, of the
// connections of before, so every login that held a slot lingers from the time the registry was opened.
func (r *Registry) holdsLocked(a *account, l *login, now time.Time) bool {
	k := a.linkLocked(l.ID)
	if k.attached() {
		return true
	}
	if !l.Slot {
		return false
	}
	since := r.opened
	switch {
	case r.nodes != nil:
		var attached bool
		if since, attached = r.nodes.left(l); attached {
			return true
		}
	case k != nil:
		since = k.since
	}
	return now.Before(since.Add(max(r.cfg.ResumeWindow, 0)))
}
