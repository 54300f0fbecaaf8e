package session

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// end ends a login within the step. by is the login of the account that asked for it, if one did: it gets no entry.
func (s *step) end(id event.LoginID, why event.Closed, by event.LoginID) {
	l := s.rec.login(id)
	if l == nil {
		return
	}
	v := s.r.view(s.a, l, s.at, "")
	served := s.served(l)
	s.remote = s.r.nodes.others(s.remote, served)
	l.Seen = max(l.Seen, v.LastSeen.UnixMilli()) // for its device, which stays
	own := s.rec.remove(id, tombstone{
		Closed: recordOf(why), Node: s.r.cfg.Node, Until: s.now.Add(s.r.cfg.TombstoneTTL).UnixMilli(),
		Served: served, At: s.now.UnixMilli(),
	})
	if own != 0 {
		s.forget = append(s.forget, own)
	}
	s.dirty = true
	s.ended = append(s.ended, Ended{Session: v, Closed: why})
	s.changes = append(s.changes, Change{Kind: ChangeEnded, Session: v, Reason: why.Reason})
	s.record(event.KindDeviceEnded, v, why.Reason, by)
}

// record appends an entry about the step's last change to the account's own inbox.
func (s *step) record(kind event.Kind, v Session, reason event.Reason, by event.LoginID) {
	payload, err := event.DeviceChange{
		Login: v.Login, Device: v.Device, Platform: v.Platform, Name: v.Description.Name, Reason: reason, Time: s.now.UTC().Truncate(event.Millis),
	}.MarshalJSON()
	if err != nil {
		s.r.log.Error("session: a device change cannot be encoded", "account", string(s.a.id), "login", string(v.Login),
			"device", string(v.Device), trace.Err(err))
		return
	}
	s.messages = append(s.messages, store.Message{
		ID: s.r.issuer.Issue(), Kind: kind, From: s.a.id, Origin: by, Payload: payload,
		Key: event.DeviceKey(v.Device), To: []store.Inbox{{Account: s.a.id}},
	})
	s.about = append(s.about, len(s.changes)-1)
	s.rec.note(recent{
		Login: v.Login, Device: v.Device, Platform: v.Platform, Name: v.Description.Name, IP: v.Description.IP,
		Reason: reason, At: s.now.UnixMilli(),
	})
}

// detachEnded takes out of memory what has ended, or is attached on another node now, and fences its connections. From
// here on no Send begins on them but one that is just beginning. It returns those that are this step's to close.
func (s *step) detachEnded() []*Connection {
	var gone []*Connection
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	s.a.unsure, s.a.doubts = false, nil
	s.a.steps++
	out := func(id event.LoginID, why event.Closed) {
		for _, c := range s.a.unlinkLocked(id) {
			if _, owes := c.stop(why); owes {
				gone = append(gone, c)
			}
			s.a.leavesLocked(c)
			s.fenced = append(s.fenced, c)
		}
	}
	for _, e := range s.ended {
		out(e.Session.Login, e.Closed)
	}
	s.stale = slices.DeleteFunc(s.stale, func(id event.LoginID) bool { // who settles the end shuts the connection
		return slices.ContainsFunc(s.ended, func(e Ended) bool { return e.Session.Login == id })
	})
	for _, id := range s.stale {
		out(id, event.Moved.Closed(s.rec.movedDelay(id)))
	}
	for _, id := range s.unlink {
		s.a.unlinkLocked(id)
	}
	for _, k := range s.a.links {
		k.looked, k.told = s.at.Elapsed, !k.attached()
	}
	return gone
}

// finish tells the host and the connections of what has ended. The connections are fenced already, and closed in their own
// time when the revoke hook has run. finish waits for the hooks of this step, and not for those of another node.
func (r *Registry) finish(s *step, gone []*Connection) {
	var tasks []func()
	for _, e := range s.ended {
		id := e.Session.Login
		conns := slices.DeleteFunc(slices.Clone(gone), func(c *Connection) bool { return c.Login() != id })
		shut := func() {
			for _, c := range conns {
				r.owned.Do(c.closeConn)
			}
		}
		switch {
		case !slices.Contains(s.strange, id):
			tasks = append(tasks, func() {
				if !slices.Contains(s.unrevoked, id) {
					r.revoke(e)
				}
				shut()
			})
		case len(conns) > 0:
			if s.revoked == nil {
				s.revoked = r.nodes.revoked(s.a.id)
			}
			r.owned.Do(func() {
				s.revoked()
				shut()
			})
		}
	}
	for _, c := range gone {
		if slices.Contains(s.stale, c.Login()) {
			r.owned.Do(c.closeConn)
		}
	}
	together(tasks)
	if len(s.remote) > 0 && r.cfg.Revoke != nil {
		r.owned.Do(func() { r.nodes.tellRevoked(s.a.id, s.remote) })
	}
}

// together runs all tasks at once and waits for them.
func together(tasks []func()) { atOnce(tasks, func(task func()) { task() }) }

// atOnce runs do for all at once and waits for them.
func atOnce[T any](all []T, do func(T)) {
	if len(all) == 1 {
		do(all[0])
		return
	}
	var wg sync.WaitGroup
	for _, one := range all {
		wg.Go(func() { do(one) })
	}
	wg.Wait()
}

// revoke calls the host's hook, waits for it a bounded time, and survives its panics.
func (r *Registry) revoke(e Ended) {
	if r.cfg.Revoke == nil {
		return
	}
	call := hostCall{
		text: "session: a credential may not be revoked", hook: HookRevoke, account: e.Session.Account, limit: r.cfg.HookTimeout,
		about: slog.Group("", "account", string(e.Session.Account), "login", string(e.Session.Login), "device", string(e.Session.Device)),
	}
	_, _ = callHost(context.WithoutCancel(r.ctx), r, call, func(ctx context.Context) (none, error) { return none{}, r.cfg.Revoke(ctx, e) })
}
