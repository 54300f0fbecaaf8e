package session

import (
	"context"
	"errors"
	"iter"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/stream"
)

// maxTurns is how often within Config.SweepInterval it is told that one login has gone to background or has come back. After
// that the sweep tells how it is by then.
const maxTurns = 8

// ErrListening says that the registry has a fan-out. A second one is refused, and an Attach that does not come from it.
var ErrListening = errors.New("session: a fan-out serves the connections of this registry")

// Subscription is a stream of changes of logins, for a host that publishes presence or keeps an audit log. It is safe for
// concurrent use: of several calls of Next, each gets other changes.
//
// Changes of one account come in the order of its steps. The engine never blocks on a slow subscriber: what finds the buffer
// full is dropped and counted. The buffer has two lanes, so that presence, which clients can change as often as they like,
// never takes the place of an end:
//
//   - important: [ChangeLogin], [ChangeEnded], [ChangeContended], [ChangeForgotten], [ChangeDeleted] and every kind that
//     is not named here;
//   - frequent: [ChangeOnline], [ChangeOffline], [ChangeAway], [ChangeActive], [ChangeHookFailed].
//
// Of [ChangeAway] and [ChangeActive] of one login only the last one waits, and of a login that changes all the time 8 are
// told within Config.SweepInterval, and then how it is at the end of that. So a subscriber may be told of a state that it
// knows of already, and never of one that was not.
type Subscription struct{ s *stream.Subscription[Change] }

// Subscribe returns a stream of all changes from now on. Each of its two lanes holds buffer changes, from 1 to 1,048,576. A
// subscription that is not needed any more must be closed.
//
// Errors: [*event.InvalidError], [ErrClosed].
func (r *Registry) Subscribe(buffer int) (_ *Subscription, err error) {
	defer fault.In("session", "subscribe", &err)
	s, err := r.feed.Subscribe(buffer)
	if err != nil {
		return nil, err
	}
	return &Subscription{s}, nil
}

// Next returns the oldest change, and waits for one as long as ctx allows. After Close, of the subscription or of the
// registry, it returns what is left in the buffer, and then [ErrClosed].
func (s *Subscription) Next(ctx context.Context) (Change, error) {
	c, err := s.s.Next(ctx)
	fault.In("session", "next", &err)
	return c, err
}

// All returns the changes as they come, for a loop. It ends when ctx has ended, and when nothing is left after Close.
func (s *Subscription) All(ctx context.Context) iter.Seq[Change] { return s.s.All(ctx) }

// Dropped returns how many changes were lost because their lane was full. After a loss of frequent ones, ask
// [Registry.Presence] for what you need; after one of important ones, [Registry.List] and [Registry.Recent].
func (s *Subscription) Dropped() (important, frequent uint64) { return s.s.Dropped() }

// Close ends the stream. It may be called again.
func (s *Subscription) Close() { s.s.Close() }

// Listen lets the fan-out hear of every change, each at once and in the order of the account's steps. It is the seam between
// the engine's packages and no hook for hosts: the listener is called with the account's mutex held, so it must neither wait
// nor call the registry nor any code of the host's. Locks are taken in this order: the registry's shard, the account, then
// those of the listener.
//
// There is one listener: a second one is refused with [ErrListening] until the first was stopped. Two routers over one
// registry would not ring each other's doorbells.
func (r *Registry) Listen(l *stream.Listener[Change]) (stop func(), err error) {
	defer fault.In("session", "listen", &err)
	if l == nil || l.Hear == nil {
		return nil, &event.InvalidError{Field: "listener", Reason: "nil"}
	}
	drop, open := r.claim.join() // a router writes to the store, also after the registry was closed
	if !open {
		return nil, ErrClosed
	}
	if !r.listener.CompareAndSwap(nil, l) {
		drop()
		return nil, ErrListening
	}
	r.unwritten.Add(1)
	return func() {
		r.listener.CompareAndSwap(l, nil)
		drop()
	}, nil
}

// noteLocked makes changes known in the order in which they happen, which the account's mutex keeps. Nothing of it waits.
func (r *Registry) noteLocked(changes []Change) {
	if l := r.listener.Load(); l != nil {
		for _, c := range changes {
			l.Hear(c)
		}
	}
	r.publish(changes)
}

// publish brings changes to subscribers. Those of an account go by noteLocked.
func (r *Registry) publish(changes []Change) {
	if !r.feed.Watched() {
		return
	}
	for _, c := range changes {
		r.feed.Publish(c.item())
	}
}

// item says how a change is brought to subscribers.
func (c *Change) item() stream.Item[Change] {
	i := stream.Item[Change]{Value: *c}
	switch c.Kind {
	case ChangeAway, ChangeActive:
		i.Lane, i.Key = stream.Frequent, c.Session.Login
	case ChangeOnline, ChangeOffline, ChangeHookFailed:
		i.Lane = stream.Frequent
	}
	return i
}

// turnedLocked returns the change if the login has gone to background or come back from it.
func (r *Registry) turnedLocked(k *link) []Change {
	if !k.online() || !k.announced {
		return nil
	}
	away := k.state() == Away
	if away == k.away || k.turns >= maxTurns {
		return nil
	}
	k.turns++
	k.away = away
	kind := ChangeActive
	if away {
		kind = ChangeAway
	}
	now := r.clock.Read()
	v := k.view(r.cfg.Node, now)
	v.LoggedInAt = past(k.admitted, now)
	return []Change{{Kind: kind, Session: v}}
}

// calmLocked lets the login tell of its background again, and tells how it is by now if that was held back.
func (r *Registry) calmLocked(k *link) {
	if k.turns > 0 {
		k.turns = 0
		r.noteLocked(r.turnedLocked(k))
	}
}
