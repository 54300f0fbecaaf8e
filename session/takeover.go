package session

import (
	"math/bits"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
)

// A newer connection of a login displaces an older one, which is told to come back after a while: it may be an app whose
// notification extension has attached for a moment. If both mean to stay, they displace each other in turns. Such turns
// are counted, and with each one the delay doubles, so that two machines with a copied token end up minutes apart.
//
// A connection that displaces nobody begins a new count, so that an app which comes back when its extension has gone
// waits for the shortest delay each time, however often that happens.
const (
	movedFirst     = 2 * time.Second
	movedMost      = 5 * time.Minute
	movedQuiet     = 10 * time.Second // in addition to twice the last delay: then the turns are over
	contendedMoves = 3                // turns after which the host is told: within 10 s, if the advice is followed
)

// movedDelay is the advice to a connection that is displaced by the turn of that number.
func movedDelay(moves uint64) time.Duration {
	shift := min(max(moves, 1)-1, uint64(bits.Len64(uint64(movedMost/movedFirst))))
	return min(movedFirst<<shift, movedMost)
}

// nextMove numbers a turn that comes so long after the one before, which had the number moves; 0: there was none.
func nextMove(moves uint64, after time.Duration) uint64 {
	if moves == 0 || after > 2*movedDelay(moves)+movedQuiet {
		return 1
	}
	return moves + 1
}

// move counts that a connection of the login on another node is displaced.
func (s *step) move(l *login) uint64 {
	l.Moves, l.MovedAt = nextMove(l.Moves, s.since(l.MovedAt)), s.now.UnixMilli()
	return l.Moves
}

// movedDelay is the advice to the connections of a login that is attached on another node now.
func (r *record) movedDelay(id event.LoginID) time.Duration {
	if l := r.login(id); l != nil {
		return movedDelay(l.Moves)
	}
	return movedFirst
}

// makeRoom takes out the connections that a new one displaces: that of the same tab, and the oldest beyond the number of
// tabs that there may be, beside those that have ended already. They are fenced; fan-out is to be told of all, and the owed
// ones are the caller's to close. moves numbers a turn that has displaced connections on another node, 0 if none has; what is
// returned is the number of this one.
func (k *link) makeRoom(tab string, tabs int, moves uint64, now time.Duration) (all, owed []*Connection, _ uint64) {
	type displaced struct {
		conn   *Connection
		reason event.Reason
	}
	var gone []displaced
	out := func(i int, reason event.Reason) {
		c := k.conns[i]
		k.conns = slices.Delete(k.conns, i, i+1)
		k.held = k.held || c.arrived()
		gone = append(gone, displaced{c, reason})
		if reason == event.Moved {
			moves = max(moves, c.nextMove(now))
		}
	}
	for i := len(k.conns) - 1; i >= 0; i-- {
		switch {
		case k.conns[i].Fenced(): // whoever has ended it has not got to the link yet
			out(i, "")
		case tab != "" && k.conns[i].tab() == tab:
			out(i, event.Moved)
		}
	}
	for len(k.conns) >= tabs {
		reason := event.Moved
		if tabs > 1 || tab != "" && k.conns[0].tab() != "" {
			reason = event.TabReplaced
		}
		out(0, reason)
	}
	for _, o := range gone {
		if _, owes := o.conn.stop(o.reason.Closed(movedDelay(moves))); owes {
			owed = append(owed, o.conn)
		}
		k.a.leavesLocked(o.conn)
		all = append(all, o.conn)
	}
	return all, owed, moves
}

// nextMove numbers the turn by which the connection is displaced.
func (c *Connection) nextMove(now time.Duration) uint64 {
	if c.extra == nil {
		return 1
	}
	return nextMove(c.extra.moves, now-c.extra.at)
}

// besides returns how many connections the login has beside those of the tab.
func (k *link) besides(tab string) int {
	n := 0
	for _, c := range k.conns {
		if tab == "" || c.tab() != tab {
			n++
		}
	}
	return n
}
