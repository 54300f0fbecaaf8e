package session

import (
	"context"
	"time"

	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/trace"
)

// What was sent to a device, and not acknowledged, goes to it again as redelivered. How far that is, is in its cursor, which is
// written behind. So after a crash it is not known; after an orderly end it is, since the last thing that an engine does is to
// write the cursors of all its connections. This file answers, for an engine that is the only one over its store: which
// entries may have been sent by engines before it that did not end in order?
//
//  1. An engine that has written everything says so in its last heartbeat, with the doubt that it has found itself. So does one
//     that has never had a connection, such as one that could not be opened for a mistake in its config.
//  2. The next one goes on with that doubt, and takes the word back before it serves anybody. If it cannot, or does not find
//     the word, or the store was restored from a backup since, engines before it may have sent all that was committed up to
//     now: this moment is its doubt.
//  3. An entry is in doubt for a device if it was committed no later than the doubt says, and the device is that old. No later
//     entry is: only this engine, or those that ended in order, can have sent it.
//
// The obvious way, to doubt all entries when a device comes back, says of each message of an outage that it was sent
// before.
//
// Clocks may differ by clock.MaxDrift unnoticed. One that was ahead has stamped entries with a time that is still to come: its
// heartbeat shows that, or the grace that it has begun; if it was set back before the end, fan-out sees that the entries lie
// in the future.

// doubtAtStart returns up to when entries are in doubt, in Unix milliseconds, if no engine has said that it ended in order.
func (r *Registry) doubtAtStart(beat *heartbeat) int64 {
	now := r.clock.Now().UnixMilli()
	if beat != nil && beat.at > now {
		now = beat.at + beatEvery.Milliseconds()
	}
	if beat == nil || beat.left > 0 || *beat == (heartbeat{}) {
		now += defaultAgeGrace.Milliseconds()
	}
	return now + clock.MaxDrift.Milliseconds()
}

// settleDoubt finds out what is in doubt. It is called before the registry serves anybody.
func (r *Registry) settleDoubt(beat *heartbeat, used bool) {
	switch {
	case r.cfg.Leases != nil: // each node that takes a login over is in doubt of what the one before has sent
		if beat != nil && beat.orderly { // of one that was alone
			_ = r.takeBack()
		}
	case beat == nil && !used: // nothing was ever sent
	case beat != nil && beat.orderly && beat.of == r.st.Info().Incarnation && r.takeBack():
		r.doubt = beat.doubt
	default:
		r.doubt = r.doubtAtStart(beat)
	}
}

// takeBack writes the heartbeat without the mark of the last orderly end, and reports whether that is done.
func (r *Registry) takeBack() bool {
	err := r.beat(r.ctx)
	if r.begun = err == nil; !r.begun {
		r.log.Warn("session: entries may count as redelivered that are not: the mark of the last orderly end could not be taken back",
			trace.Err(err))
	}
	return r.begun
}

// inDoubt reports whether an engine before this one may have sent something to a device that was registered then.
func (r *Registry) inDoubt(registered int64) bool {
	return registered <= r.doubt && r.clock.Before(registered)
}

// Doubt returns up to when entries were committed that may have been sent to a connection that is [Connection.Restored]. False:
// that is not known, any may have been. It is for fan-out; hosts have no use for it.
func (r *Registry) Doubt() (time.Time, bool) { return time.UnixMilli(r.doubt), r.nodes == nil }

// Orderly notes that a router has written everything, so that all that was sent is known to the store if there was no other
// one. It returns false, and notes nothing, if the registry has not ended yet. The caller holds the store; see
// [Registry.Hold]. It is for fan-out, which calls it once; hosts have no use for it.
func (r *Registry) Orderly(ctx context.Context) bool {
	if !r.ended.Load() {
		return false
	}
	if r.unwritten.Add(-1) <= 0 && r.nodes == nil {
		r.mark(ctx)
	}
	return true
}

// mark puts the mark of an orderly end on the last heartbeat of this engine. If another one was there since, which is
// possible for a router that is closed once more, it speaks for itself.
func (r *Registry) mark(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWait)
	defer cancel()
	mine := r.shared.last()
	found, err := r.readHeartbeat(ctx)
	if err == nil && found != nil && *found == mine && !mine.orderly && mine != (heartbeat{}) {
		mine.orderly, mine.doubt, mine.of = true, r.doubt, r.st.Info().Incarnation
		err = r.writeHeartbeat(ctx, r.clock.Read(), mine)
	}
	if err != nil && !silenced(err) {
		r.log.Warn("session: the mark of an orderly end could not be written", trace.Err(err))
	}
}
