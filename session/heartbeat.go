package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// The heartbeat says when an engine last used the store, so that one that starts knows how long none did. It is a register
// of an account that has nothing else, and that stores therefore do not list. Several engines over one store share it. A
// host's account of that name does no harm: no register of a host's begins with '_'.
//
//  1. It is read once, when the registry is made. Older than clock.MaxGap means that the server was away; ahead of the wall
//     clock by more than clock.MaxDrift means that the clock was set back since. Either begins a grace.
//  2. A store that has accounts and no heartbeat counts as one from which the server was away. So does a store that does not
//     say: with a grace nothing is lost.
//  3. Its value is the rest of the grace, and whether the engine has ended in order; see orderly.go. A grace is counted in time
//     that an engine is up, over any number of starts.
//  4. It is written at the start, every 15 min, when a grace begins and at Close. Nothing waits for it.
//  5. Several engines over one store share a grace: where one has a clock that was set, others read what it wrote by it. Each
//     looks every minute, and before it ends or forgets anything for its age: after it has read that, since the engine whose
//     clock was set writes the heartbeat before it commits anything by that clock.
//  6. A heartbeat that is gone, since a host has deleted the account, took with it what it said of other engines' graces.
//     Nothing goes for its age until an engine has written another one, which begins a whole grace.
const (
	heartAccount      event.Account        = "_engine"
	heartConversation event.ConversationID = "_engine"
	heartRegister                          = "_heartbeat"

	beatEvery = 15 * time.Minute // a quarter of clock.MaxGap: three may fail
	beatRetry = time.Minute
	beatWait  = 5 * time.Second        // for the store to answer
	lastWait  = 500 * time.Millisecond // the same at Close, which has more to do
	lookEvery = time.Minute            // at what other engines wrote
	failedFor = time.Second            // how long one that failed is not tried again, by steps
)

// errNoHeartbeat: the store has none, or one that makes no sense.
var errNoHeartbeat = errors.New("session: there is no heartbeat")

// heartbeat is what the store has.
type heartbeat struct {
	at      int64 // Unix milliseconds
	left    time.Duration
	orderly bool  // it is the last one of an engine that ended in order
	doubt   int64 // of that engine; Unix milliseconds
	// of is the incarnation of the store when it ended. In one that was restored from a backup the mark says nothing: engines
	// after the backup have sent what they have sent.
	of uint32
}

// value returns what its register holds.
func (b heartbeat) value() []byte {
	v := strconv.AppendInt(nil, b.left.Milliseconds(), 10)
	if b.orderly {
		v = strconv.AppendInt(append(v, ' '), b.doubt, 10)
		v = strconv.AppendUint(append(v, ' '), uint64(b.of), 10)
	}
	return v
}

// parseHeartbeat is the opposite. What makes no sense is as good as none: the zero heartbeat.
func parseHeartbeat(s event.State) *heartbeat {
	grace, mark, orderly := strings.Cut(string(s.Value), " ")
	left, err := strconv.ParseUint(grace, 10, 40)
	b := &heartbeat{at: int64(s.Number), left: time.Duration(left) * time.Millisecond, orderly: orderly}
	if err != nil {
		return new(heartbeat)
	}
	if orderly {
		doubt, of, _ := strings.Cut(mark, " ")
		until, unclear := strconv.ParseInt(doubt, 10, 64)
		incarnation, odd := strconv.ParseUint(of, 10, 32)
		if cmp.Or(unclear, odd) != nil {
			return new(heartbeat)
		}
		b.doubt, b.of = until, uint32(incarnation)
	}
	return b
}

// shared is what is known of the graces of other engines.
type shared struct {
	mu     sync.Mutex
	beat   heartbeat     // as it was found, or written here, last
	since  time.Duration // it was written after this clock.Elapsed, or it is counted from then on
	looked time.Duration // clock.Elapsed of the last look

	begun atomic.Uint64 // looks of steps that have begun
	told  atomic.Int64  // clock.Elapsed at which the grace is over that the last heartbeat of this engine tells of

	steps    chan struct{} // has room for the one step that looks, or writes, for all that wait; guards what follows
	looks    uint64        // number of the newest look that succeeded
	noLook   time.Duration // clock.Elapsed when a look failed last; 0: the newest has not
	unbeaten time.Duration // clock.Elapsed when a step could not write the heartbeat last; 0: none did
}

// found notes a heartbeat and returns what is left of its grace. Which clock it was written by is not known, so that it is not
// older than the look before the one that found it.
func (s *shared) found(b heartbeat, began time.Duration, now clock.Reading) (left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b != s.beat {
		s.beat, s.since = b, s.looked
	}
	s.looked = max(s.looked, began)
	return b.left - min(now.Age(b.at), now.Elapsed-s.since)
}

// wrote notes a heartbeat of this engine.
func (s *shared) wrote(b heartbeat, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beat, s.since = b, now
}

// last returns the heartbeat that this engine has found, or written, last.
func (s *shared) last() heartbeat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beat
}

// exists reports whether this engine has found a heartbeat, or written one.
func (s *shared) exists() bool { return s.last() != heartbeat{} }

// share goes on with the grace of another engine if that is longer, and returns what is left of it.
func (r *Registry) share(ctx context.Context) (left time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatWait)
	defer cancel()
	began := r.clock.Elapsed()
	b, err := r.readHeartbeat(ctx)
	if err != nil {
		return 0, err
	}
	if b == nil || *b == (heartbeat{}) {
		return 0, errNoHeartbeat
	}
	left = r.shared.found(*b, began, r.clock.Read())
	r.clock.Resume(left)
	return left, nil
}

// shareLoop looks whether another engine has begun a grace.
func (r *Registry) shareLoop() {
	for r.nodes.sleep(lookEvery) {
		if _, err := r.share(r.ctx); errors.Is(err, errNoHeartbeat) { // beatLoop tells if it fails otherwise
			r.beatNow()
		}
	}
}

// MayAge reports whether it is certain that there is no grace, neither of this engine nor of another one over the store. It is
// for fan-out, which asks it before it removes entries for their age, after it has read them; hosts have no use for it.
func (r *Registry) MayAge(ctx context.Context) bool { return r.clock.Left() == 0 && r.mayAge(ctx) }

// mayAge reports whether it is certain that no other engine has begun a grace that this one did not know of. It looks, or waits
// for a look that began after the call: what an earlier one has found may be older than what the caller has read.
func (r *Registry) mayAge(ctx context.Context) bool {
	if r.nodes == nil {
		return true
	}
	s := &r.shared
	before := s.begun.Load()
	select {
	case s.steps <- struct{}{}:
		defer func() { <-s.steps }()
	case <-ctx.Done():
		return false
	}
	if s.looks > before {
		return r.clock.Left() == 0
	}
	if s.noLook > 0 && r.clock.Elapsed()-s.noLook < failedFor {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	look := s.begun.Add(1)
	if _, err := r.share(ctx); err != nil {
		s.noLook = r.clock.Elapsed()
		return false
	}
	s.looks, s.noLook = look, 0
	return r.clock.Left() == 0
}

// CommitTime returns what the wall clock says, for what is about to be stored. If the clock was set, other engines over the store
// know of it when CommitTime returns, unless the heartbeat could not be written within a second or ctx ended. It is for fan-out;
// hosts have no use for it.
func (r *Registry) CommitTime(ctx context.Context) time.Time {
	now := r.clock.Now()
	r.beatFirst(ctx)
	return now
}

// untold reports whether other engines do not know yet of the grace of this one.
func (r *Registry) untold() bool {
	if r.nodes == nil { // before the clock is asked: this is on the way of every message
		return false
	}
	left := r.clock.Left()
	return left > 0 && left-(time.Duration(r.shared.told.Load())-r.clock.Elapsed()) > time.Second
}

// beatFirst writes the heartbeat, if need be, before anything is stored by a clock that was set. If it cannot be written within a
// second the caller goes on.
func (r *Registry) beatFirst(ctx context.Context) {
	if !r.untold() {
		return
	}
	select {
	case r.shared.steps <- struct{}{}:
		defer func() { <-r.shared.steps }()
	case <-ctx.Done():
		return
	}
	if !r.untold() || r.shared.unbeaten > 0 && r.clock.Elapsed()-r.shared.unbeaten < failedFor {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	if err := r.beat(ctx); err != nil && r.ctx.Err() == nil {
		r.shared.unbeaten = r.clock.Elapsed()
		r.log.Warn("session: other nodes do not know yet that the clock was set", trace.Err(err))
	}
}

// readHeartbeat returns the stored heartbeat; nil if there is none.
func (r *Registry) readHeartbeat(ctx context.Context) (*heartbeat, error) {
	o := store.StateOptions{Conversation: heartConversation, Limit: 16}
	for {
		page, err := r.st.States(ctx, heartAccount, o)
		if err != nil {
			return nil, fmt.Errorf("session: read heartbeat: %w", err)
		}
		for _, s := range page.States {
			if s.Name == heartRegister && s.Conversation == heartConversation {
				return parseHeartbeat(s), nil
			}
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			return nil, nil
		}
	}
}

// wake finds out how long the server was away, and what is in doubt since then. It is called before the registry does anything.
func (r *Registry) wake() {
	ctx, cancel := context.WithTimeout(r.ctx, beatWait)
	defer cancel()
	beat, err := r.readHeartbeat(ctx)
	used := err != nil
	if err == nil && beat == nil {
		accounts, failed := r.st.Accounts(ctx, "", 1)
		used, err = failed != nil || len(accounts) > 0, failed
	}
	if err != nil {
		r.log.Warn("session: it is not known how long the server was away", trace.Err(err))
	}
	defer r.settleDoubt(beat, used)
	if beat == nil {
		if used {
			r.clock.Note(clock.Jump{Gap: true})
		}
		return
	}
	r.clock.Resume(beat.left)
	r.shared.wrote(*beat, r.clock.Elapsed()) // nobody was up since
	switch since := r.clock.Now().Sub(time.UnixMilli(beat.at)); {
	case since > clock.MaxGap:
		r.clock.Note(clock.Jump{Gap: true, By: since})
	case since < -clock.MaxDrift:
		r.clock.Note(clock.Jump{By: since})
	}
}

// beatLoop keeps the heartbeat.
func (r *Registry) beatLoop() {
	failing, written := false, r.begun // by settleDoubt
	for {
		wait := beatEvery
		if written {
			written = false
		} else if err := r.beat(r.ctx); err != nil && r.ctx.Err() == nil {
			wait = beatRetry
			if !failing && !silenced(err) {
				r.log.Warn("session: the heartbeat could not be written, it is tried again", trace.Err(err))
			}
			failing = true
		} else {
			failing = false
		}
		t := time.NewTimer(wait)
		select {
		case <-r.ctx.Done():
		case <-r.beatSoon:
		case <-t.C:
		}
		t.Stop()
		if r.ctx.Err() != nil {
			return
		}
	}
}

// lastBeat writes the heartbeat when the registry is closed.
func (r *Registry) lastBeat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastWait)
	defer cancel()
	err := r.beat(ctx)
	if err != nil && !silenced(err) {
		r.log.Warn("session: the last heartbeat could not be written", trace.Err(err))
	}
}

// beat writes the heartbeat. The rest of another engine's grace stays in it.
func (r *Registry) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatWait)
	defer cancel()
	left, err := r.share(ctx)
	switch {
	case errors.Is(err, errNoHeartbeat):
		if r.nodes != nil && r.shared.exists() {
			r.clock.Resume(r.cfg.AgeGrace)
		}
	case err != nil:
		return err
	}
	now := r.clock.Read()
	return r.writeHeartbeat(ctx, now, heartbeat{at: max(now.Now.UnixMilli(), 0), left: max(left, r.clock.Left()).Truncate(time.Millisecond)})
}

func (r *Registry) writeHeartbeat(ctx context.Context, now clock.Reading, b heartbeat) error {
	_, err := r.st.Commit(ctx, store.Batch{
		Account: heartAccount, Now: now.Now, OnlyIfChanged: true, Reserve: true,
		States: []store.StateUpdate{{
			Conversation: heartConversation, Name: heartRegister, Merge: store.MergeLast, Number: uint64(b.at),
			Value: b.value(),
		}},
	})
	if err == nil {
		r.shared.wrote(b, now.Elapsed)
		r.shared.told.Store(int64(now.Elapsed + b.left))
	}
	return err
}

// tellClock tells of steps and gaps that were noticed.
func (r *Registry) tellClock() {
	jumps := r.clock.Jumps()
	for _, j := range jumps {
		kind, text := ChangeClockStepped, "session: the wall clock was set"
		if j.Gap {
			kind, text = ChangeServerAway, "session: the server was away"
		}
		r.log.Warn(text, "by", j.By, "grace", r.clock.Left())
		r.publish([]Change{{Kind: kind, By: j.By}})
	}
	if len(jumps) > 0 {
		r.beatNow()
	}
}

// beatNow has beatLoop write the heartbeat before its time.
func (r *Registry) beatNow() {
	select {
	case r.beatSoon <- struct{}{}:
	default: // it is due already
	}
}
