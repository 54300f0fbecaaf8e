package session

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/transport"
)

const (
	lookWait = time.Second // how long a step waits for another node to act, or for the heartbeat
	maxLooks = 4_096       // accounts that are looked at for other nodes at once; others find out within a lease's life
	maxAsked = 64          // nodes that are told when one look is done
)

// message is what nodes say to each other: one of Look, Seen and Revoked. All of them are hints. Handlers of a bus are
// called one at a time, so that none may wait: answers are messages, too.
type message struct {
	Look    event.Account `json:"look,omitempty"`    // what this account's record says has changed
	From    event.NodeID  `json:"from,omitempty"`    // who is to be told that it was looked at
	Ask     uint64        `json:"ask,omitempty"`     // the number of the question, which nobody can guess
	Seen    uint64        `json:"seen,omitempty"`    // the answer: what the record does not allow any more is fenced
	Revoked event.Account `json:"revoked,omitempty"` // the revoke hooks for what has ended in this account have run
}

// errMessage: a message is JSON, and none of those that nodes send.
var errMessage = errors.New("no message of a node")

// handle is called for each message of another node.
func (n *nodes) handle(raw []byte) []byte {
	var m message
	err := json.Unmarshal(raw, &m)
	switch {
	case err == nil && m.Seen != 0:
		n.answered(m.Seen)
	case err == nil && m.Revoked.Validate() == nil:
		n.released(m.Revoked)
	case err == nil && m.Look.Validate() == nil && event.CheckID("node", string(m.From)) == nil:
		n.lookSoon(m)
	default:
		n.r.log.Warn("session: a message of another node cannot be read", "bytes", len(raw), trace.Err(cmp.Or(err, errMessage)))
	}
	return nil
}

// lookSoon begins to look at an account for another node. If that is being done already, it is done once more afterwards, since
// the record may have been read before the change: an account for which that takes long, or that is asked for all the time,
// is looked at by one goroutine and keeps no other one waiting.
func (n *nodes) lookSoon(m message) {
	n.mu.Lock()
	next, runs := n.looks[m.Look]
	full := !runs && len(n.looks) >= maxLooks || len(next) >= maxAsked
	switch {
	case runs && !full:
		n.looks[m.Look] = append(next, m)
	case !runs && !full:
		n.looks[m.Look] = nil
	}
	n.mu.Unlock()
	switch {
	case full:
		n.r.stats.looksRefused.Add(1)
		n.r.log.Warn("session: too many looks of other nodes", "account", string(m.Look), "node", string(m.From))
	case !runs:
		n.r.owned.Do(func() { n.lookAt(m.Look, []message{m}) })
	}
}

// lookAt looks at an account until nobody has asked meanwhile.
func (n *nodes) lookAt(account event.Account, asked []message) {
	for len(asked) > 0 {
		n.lookFor(account, asked)
		n.mu.Lock()
		if asked = n.looks[account]; len(asked) > 0 {
			n.looks[account] = nil
		} else {
			delete(n.looks, account)
		}
		n.mu.Unlock()
	}
}

// lookFor looks at an account's record for other nodes, and answers when what it does not allow any more is fenced.
func (n *nodes) lookFor(account event.Account, asked []message) {
	ctx, cancel := context.WithTimeout(n.r.ctx, lookWait)
	defer cancel()
	answer := func() {
		atOnce(asked, func(m message) { n.say(ctx, m.From, message{Seen: m.Ask}) })
	}
	if !n.r.lives(account) {
		answer()
		return
	}
	var s *step
	var gone []*Connection
	a, err := n.r.enter(ctx, account)
	if err == nil {
		s, gone, err = n.r.turn(ctx, a, func(*step) error { return nil }, nil)
	}
	if err != nil {
		if !silenced(err) {
			n.r.log.Warn("session: an account cannot be looked at for another node", "account", string(account), trace.Err(err))
		}
		return
	}
	if len(s.strange) > 0 { // before the other node is told, since it will not say twice that its hooks have run
		s.revoked = n.revoked(account)
	}
	answer()
	n.r.owned.Do(func() { n.r.settled(s, gone) }) // hooks and connections that hang do not keep the next look waiting
}

// lives reports whether anything of the account is in memory.
func (r *Registry) lives(id event.Account) bool {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.accounts[id] != nil
}

// say sends a message, and reports whether it is on its way.
func (n *nodes) say(ctx context.Context, to event.NodeID, m message) bool {
	raw, err := json.Marshal(m)
	if err != nil {
		n.r.log.Error("session: a message to another node cannot be encoded", "node", string(to), trace.Err(err))
		return false
	}
	call := hostCall{ // one node that cannot be reached, and for which the bus hangs, is counted apart from the others
		text: "session: another node was not told", hook: HookBus, about: slog.String("node", string(to)), account: event.Account(to),
		limit: lookWait, quiet: transport.ErrGone,
	}
	_, err = callHost(ctx, n.r, call, func(ctx context.Context) (none, error) { return none{}, n.bus.Publish(ctx, to, raw) })
	return err == nil
}

// ask has other nodes look at the step's account, and waits until they have fenced what they must, a second at most. A node
// that does not answer finds out by itself within a lease's life.
func (n *nodes) ask(s *step) {
	if n == nil || n.bus == nil || s.asked {
		return
	}
	who := slices.Concat(s.remote, s.again)
	slices.Sort(who)
	if who = slices.Compact(who); len(who) == 0 {
		return
	}
	s.asked = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.r.ctx), lookWait)
	defer cancel()
	atOnce(who, func(node event.NodeID) { n.askNode(ctx, node, s.a.id) })
}

// askNode has another node look at an account, and waits until it has done so.
func (n *nodes) askNode(ctx context.Context, node event.NodeID, account event.Account) {
	id, seen := rand.Uint64()|1, make(chan struct{})
	n.mu.Lock()
	n.asked[id] = seen
	n.mu.Unlock()
	defer n.answered(id)
	if !n.say(ctx, node, message{Look: account, From: n.r.cfg.Node, Ask: id}) {
		return
	}
	select {
	case <-seen:
	case <-ctx.Done():
		n.r.log.Warn("session: another node does not answer", "account", string(account), "node", string(node))
	}
}

// answered wakes who waits for the answer to a question, if somebody does.
func (n *nodes) answered(id uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if seen, ok := n.asked[id]; ok {
		delete(n.asked, id)
		close(seen)
	}
}

// tellRevoked tells other nodes that the revoke hooks for what has ended in an account have run.
func (n *nodes) tellRevoked(account event.Account, who []event.NodeID) {
	if n == nil || n.bus == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.r.ctx), lookWait)
	defer cancel()
	atOnce(who, func(node event.NodeID) { n.say(ctx, node, message{Revoked: account}) })
}

// revoked returns a wait until the node that has ended logins of the account says that its revoke hooks have run. It is as
// long as that can take: a node that has died meanwhile, and one that did not know of the connection, do not say so.
func (n *nodes) revoked(account event.Account) (wait func()) {
	if n == nil || n.bus == nil || n.r.cfg.Revoke == nil {
		return func() {}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	said := n.partings[account]
	if said == nil {
		said = make(chan struct{})
		n.partings[account] = said
	}
	return func() {
		t := time.NewTimer(n.r.cfg.HookTimeout + fenceGap + lookWait)
		defer t.Stop()
		select {
		case <-said:
		case <-n.r.ctx.Done():
		case <-t.C:
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.partings[account] == said {
			delete(n.partings, account)
		}
	}
}

// released ends the wait of revoked.
func (n *nodes) released(account event.Account) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if said := n.partings[account]; said != nil {
		delete(n.partings, account)
		close(said)
	}
}
