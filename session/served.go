package session

import (
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
)

// What follows answers one question: which other nodes may still send on a login's connections?
//
// A call that ends a login, or takes it over from another node, commits first, then tells the nodes that had it to look,
// and returns when they have fenced what they must. Between the commit and their look the record does not name them any
// more, so a second call would find nothing to end, and return while they still send. Therefore:
//
//  1. A login remembers the nodes that it was taken over from, a tombstone those that served the login at its end.
//  2. Who ends what has just ended tells these nodes to look again, and waits as the first one does. A look has no effect
//     the second time.
//  3. After a lease's life it is over: a node that was not told has looked by itself by then. Ten minutes are added, since the
//     time that the record names is that of another node's clock. Steps of this node's own clock are taken out. An attach,
//     which is more frequent and for which less depends on it, adds one.
const (
	servedSlack = 10 * time.Minute
	maxBefore   = 4 // nodes that a login was taken over from within that time
)

// recently reports whether nodes may not have noticed yet what happened then.
func (s *step) recently(at int64) bool { return s.unnoticed(at, servedSlack) }

// unnoticed reports whether nodes may not have noticed yet what happened then, if clocks differ by slack at most. Of several
// readings, as after a step back, the most recent one counts: to ask once too often costs a message.
func (s *step) unnoticed(at int64, slack time.Duration) bool {
	n := s.r.nodes
	if n == nil || n.bus == nil {
		return false
	}
	ago, said := s.r.clock.Ago(at)
	if !said { // by this clock
		ago = s.now.Sub(time.UnixMilli(at)).Abs()
	}
	return ago < n.life+slack
}

// before returns the nodes that the login was taken over from and that may not know it yet.
func (s *step) before(l *login) []event.NodeID {
	if len(l.Before) == 0 || !s.recently(l.Moved) {
		return nil
	}
	return l.Before
}

// movedFrom is before, with the node that the login is taken over from now.
func (s *step) movedFrom(l *login) []event.NodeID {
	all := slices.DeleteFunc(slices.Clone(s.before(l)), func(n event.NodeID) bool { return n == l.Node || n == s.r.cfg.Node })
	all = append(all, l.Node)
	return all[max(len(all)-maxBefore, 0):]
}

// served returns the nodes that may have a connection of the login, this one among them.
func (s *step) served(l *login) []event.NodeID {
	n := s.r.nodes
	if n == nil || l.Node == "" {
		return s.before(l)
	}
	all := slices.Clone(s.before(l))
	if (n.mine(l) || n.elsewhere(l)) && !slices.Contains(all, l.Node) {
		all = append(all, l.Node)
	}
	return all
}

// others adds to list the nodes of all but this one.
func (n *nodes) others(list, all []event.NodeID) []event.NodeID {
	for _, node := range all {
		if n != nil && node != n.r.cfg.Node {
			list = append(list, node)
		}
	}
	return list
}

// lookAgain has the nodes look once more that served logins which have just ended: those that the request names, or, if it
// does not say which, all of the account.
func (s *step) lookAgain(q *KickRequest) {
	n := s.r.nodes
	if n == nil || n.bus == nil {
		return
	}
	for item := range s.rec.Tombstones.all() {
		d := decoder{rest: string(item)}
		t := d.tombstone()
		if q != nil && q.Filter == nil && len(q.Logins) > 0 && !slices.Contains(q.Logins, t.Login) {
			continue
		}
		if ended := slices.ContainsFunc(s.ended, func(e Ended) bool { return e.Session.Login == t.Login }); !ended && s.recently(t.At) {
			s.again = n.others(s.again, t.Served)
		}
	}
}
