package session

import (
	"cmp"
	"slices"

	"github.com/manydevice/manydevice/event"
)

// settle brings the record up to date with what time alone has done: logins that lost their slot, those without contact
// for too long, tombstones that are no longer owed.
func (s *step) settle() {
	r := s.r
	s.doubts()
	s.strays()
	s.clampTimes()
	ttl := r.cfg.TombstoneTTL
	if s.rec.prune(func(until int64) bool { return s.at.Old(until-ttl.Milliseconds(), ttl-1) }) {
		s.aged, s.dirty = true, true
	}
	var idle []event.LoginID
	for i := range s.rec.Logins {
		l := &s.rec.Logins[i]
		l.Before = s.before(l)
		s.forgetNonce(l)
		s.a.mu.Lock()
		k := s.a.linkLocked(l.ID)
		s.place(l, k)
		holds, attached := r.holdsLocked(k, l, s.at), k.attached() || r.nodes.elsewhere(l)
		holds = holds || s.landedLocked(l)
		s.a.mu.Unlock()
		if l.Slot && !holds {
			l.Slot, s.dirty = false, true
			s.wentOffline(l, k)
		}
		if !l.Slot && k != nil && !k.attached() && !slices.Contains(s.unlink, l.ID) {
			s.unlink = append(s.unlink, l.ID) // another node has found out
		}
		if !attached && r.cfg.IdleDevice > 0 && s.at.Old(l.Seen, r.cfg.IdleDevice) && !l.Slot {
			idle = append(idle, l.ID)
		}
		if every := r.cfg.IdleDevice / refreshSeenPerIdle; attached && every > 0 && s.at.Age(l.Seen) > every {
			l.Seen, s.dirty = s.now.UnixMilli(), true
		}
	}
	for _, id := range idle {
		s.aged = true
		s.end(id, event.ExpiredIdle.Closed(0), "")
	}
	s.expire()
	s.forgetIdle()
	s.liftBan()
}

// landedLocked reports whether an earlier try of this step, of unknown outcome, has given the login its slot after all.
func (s *step) landedLocked(l *login) bool {
	c := s.a.coming
	return c != nil && c.login == l.ID && c.admission == l.Admission && l.Slot
}

// forgetDevice drops a device that no login uses, with its place in the inbox.
func (s *step) forgetDevice(d device) {
	s.rec.Devices = slices.DeleteFunc(s.rec.Devices, func(o device) bool { return o.ID == d.ID })
	s.forget, s.dirty = append(s.forget, d.Incarnation), true
	s.changes = append(s.changes, Change{Kind: ChangeForgotten, Session: Session{
		Account: s.a.id, Device: d.ID, Incarnation: d.Incarnation, Primary: d.Primary, State: Offline,
		LastSeen: past(d.Seen, s.at),
	}})
}

// capDevices forgets the devices that are more than an account may have, those seen longest ago first. Those of logins without
// a device ID do not count: they go with their logins.
func (s *step) capDevices() {
	own := 0
	for i := range s.rec.Logins {
		if s.rec.Logins[i].own() {
			own++
		}
	}
	for len(s.rec.Devices)-own > s.r.cfg.MaxDevices {
		d := s.rec.oldest()
		if d == nil {
			return
		}
		s.forgetDevice(*d)
	}
}

// forgetIdle forgets the devices that were not seen for too long.
func (s *step) forgetIdle() {
	if s.r.cfg.IdleDevice <= 0 {
		return
	}
	var idle []device
	for i := range s.rec.Devices {
		if d := &s.rec.Devices[i]; s.at.Old(d.Seen, s.r.cfg.IdleDevice) && s.rec.mayGo(d) {
			idle = append(idle, *d)
		}
	}
	slices.SortFunc(idle, func(a, b device) int { return cmp.Compare(a.Seen, b.Seen) })
	for _, d := range idle {
		s.aged = true
		s.forgetDevice(d)
	}
}

// place brings the login's place among several nodes up to date: it was detached here, or its node is dead, or it is
// attached on another one although there are connections here.
func (s *step) place(l *login, k *link) {
	n := s.r.nodes
	switch {
	case n == nil:
	case n.mine(l) && k.attached():
	case k != nil && (l.Node == "" || n.mine(l)) && !k.attached():
		if l.Node != "" {
			l.Node, l.Lease, l.Left, s.dirty = "", 0, s.at.At(k.since).UnixMilli(), true
		}
	case n.elsewhere(l):
		if k != nil {
			s.stale = append(s.stale, l.ID)
		}
	case k.attached(): // the record says that it is attached nowhere, or on a node that is dead
		s.stale = append(s.stale, l.ID)
	case l.Node != "":
		gone, _ := n.left(l)
		l.Node, l.Lease, l.Left, s.dirty = "", 0, s.now.Add(-gone).UnixMilli(), true
	}
}

// expire ends the logins whose lifetime is over.
func (s *step) expire() {
	life := s.r.cfg.AbsoluteLifetime
	if life <= 0 {
		return
	}
	for i := len(s.rec.Logins) - 1; i >= 0; i-- {
		if l := &s.rec.Logins[i]; s.at.Age(l.At) >= life {
			s.end(l.ID, event.ExpiredAbsolute.Closed(0), "")
		}
	}
}

// doubts finds out what became of ends whose outcome was not known. Those that took effect are this step's to tell of: to
// the hook, to connections, and to the node that the login was attached on. There is an entry about each already.
func (s *step) doubts() {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if s.a.unsure { // once this step is committed, that one cannot take effect; if it has before, it may have admitted a login
		s.dirty, s.admits, s.enforced = true, true, s.a.enforced
	}
	for _, d := range s.a.doubts {
		v := d.ended.Session
		if s.rec.login(v.Login) != nil {
			continue
		}
		if t := s.rec.tombstone(v.Login); t != nil && t.Node != s.r.cfg.Node {
			continue // another engine has ended it
		}
		if d.unrevoked {
			s.unrevoked = append(s.unrevoked, v.Login)
		}
		if v.Node != "" && v.Node != s.r.cfg.Node {
			s.remote = append(s.remote, v.Node)
		}
		s.ended = append(s.ended, d.ended)
		s.changes = append(s.changes, Change{Kind: ChangeEnded, Session: v, Reason: d.ended.Closed.Reason})
	}
}

// strays ends what lives here of logins that another engine has ended. It has called the hook, or does.
func (s *step) strays() {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	for _, k := range s.a.links {
		if s.rec.login(k.login) != nil || slices.ContainsFunc(s.ended, func(e Ended) bool { return e.Session.Login == k.login }) {
			continue
		}
		if !k.attached() { // whoever has ended it has told of it
			s.unlink = append(s.unlink, k.login)
			continue
		}
		why := event.Unknown.Closed(0)
		if t := s.rec.tombstone(k.login); t != nil {
			why = t.Closed.closed()
		}
		v := k.view(s.r.cfg.Node, s.at)
		s.ended = append(s.ended, Ended{Session: v, Closed: why})
		s.changes = append(s.changes, Change{Kind: ChangeEnded, Session: v, Reason: why.Reason})
		s.strange = append(s.strange, k.login)
	}
}

// wentOffline notes that a login's resume window is over. One that never had a connection was never announced.
func (s *step) wentOffline(l *login, k *link) {
	reason := event.Lost
	told := s.r.nodes == nil || l.attachedBefore()
	l.Node, l.Lease, l.Left = "", 0, 0
	if k != nil {
		l.Seen = max(l.Seen, s.at.At(k.since).UnixMilli())
		reason = k.reason
		s.unlink = append(s.unlink, l.ID)
		told = k.announced
	}
	if !told {
		return
	}
	s.changes = append(s.changes, Change{Kind: ChangeOffline, Session: s.r.view(s.a, l, s.at, ""), Reason: reason})
}
