package session

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/clock"
	"github.com/manydevice/manydevice/store"
)

// The heartbeat says when an engine last used the store, so that one that starts knows how long nobody did. It is a register
// of an account that has nothing else, and that stores therefore do not list. Several engines over one store share it. A
// host's account of that name does no harm: no register of a host's begins with '_'.
//
//  1. It is read once, when the registry is made. Older than clock.MaxGap means that the server was away; ahead of the wall
//     clock by more than clock.MaxDrift means that the clock was set back since. Either begins a grace.
//  2. A store that has accounts and no heartbeat counts as one from which the server was away. So does a store that does not
//     say: with a grace nothing is lost.
//  3. Its value is the rest of the grace. A grace is counted in time that an engine is up, over any number of starts.
//     Among several nodes each reads it as often as it renews its lease, and takes over the grace of another one: a node whose
//     own clock is right must not count the age of what one with a wrong clock has stored.
//  4. It is written at the start, every 15 min, when a grace begins and at Close. Nothing waits for it.
const (
	heartAccount      event.Account        = "_engine"
	heartConversation event.ConversationID = "_engine"
	heartRegister                          = "_heartbeat"

	beatEvery = 15 * time.Minute // a quarter of clock.MaxGap: three may fail
	beatRetry = time.Minute
	beatWait  = 5 * time.Second // for the store to answer
)

// heartbeat is what the store has.
type heartbeat struct {
	at   int64 // Unix milliseconds
	left time.Duration
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
				left, err := strconv.ParseUint(string(s.Value), 10, 40)
				if err != nil {
					return new(heartbeat), nil // as good as none
				}
				return &heartbeat{at: int64(s.Number), left: time.Duration(left) * time.Millisecond}, nil
			}
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			return nil, nil
		}
	}
}

// wake finds out how long the server was away. It is called before the registry does anything.
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
		r.log.Warn("session: it is not known how long the server was away", "err", err)
	}
	if beat == nil {
		if used {
			r.clock.Note(clock.Jump{Gap: true})
		}
		return
	}
	r.clock.Resume(beat.left)
	switch since := r.clock.Now().Sub(time.UnixMilli(beat.at)); {
	case since > clock.MaxGap:
		r.clock.Note(clock.Jump{Gap: true, By: since})
	case since < -clock.MaxDrift:
		r.clock.Note(clock.Jump{By: since})
	}
}

// beatLoop keeps the heartbeat.
func (r *Registry) beatLoop() {
	failing := false
	for {
		wait := beatEvery
		if err := r.beat(r.ctx); err != nil && r.ctx.Err() == nil {
			wait = beatRetry
			if !failing {
				r.log.Warn("session: the heartbeat could not be written, it is tried again", "err", err)
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
	err := r.beat(ctx)
	if err != nil && !errors.Is(err, store.ErrClosed) && !errors.Is(err, store.ErrFailed) {
		r.log.Warn("session: the last heartbeat could not be written", "err", err)
	}
}

// follow takes over the grace of another node. Each heartbeat counts once, from when it is read first: its time is that of a
// clock that may be wrong, and of one that was read again and again the grace would never end. It reports whether the heartbeat
// could be read.
func (r *Registry) follow(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, beatWait)
	defer cancel()
	beat, err := r.readHeartbeat(ctx)
	if err != nil || beat == nil {
		return err == nil // the loop that writes it logs why
	}
	r.nodes.mu.Lock()
	known := r.nodes.beat != nil && *r.nodes.beat == *beat
	r.nodes.beat = beat
	r.nodes.mu.Unlock()
	if !known {
		r.clock.Resume(beat.left)
	}
	return true
}

// beginSure is begin, on what is stored, of a step that may be committed. Among several nodes nothing is destroyed for its age
// before the heartbeat was read once more: what looks old may have been stored by a node whose clock was set a moment ago. That
// node has written the heartbeat first, see beatFirst.
func (r *Registry) beginSure(ctx context.Context, a *account) (*step, store.Revision, error) {
	rec, rev, err := r.load(ctx, a.id)
	if err != nil {
		return nil, 0, err
	}
	s := r.begin(a, rec)
	if !s.aged || r.nodes == nil {
		return s, rev, nil
	}
	sure := r.follow(ctx)
	if sure && !r.clock.Read().Grace {
		return s, rev, nil
	}
	if rec, rev, err = r.load(ctx, a.id); err != nil {
		return nil, 0, err
	}
	at := r.clock.Read()
	at.Grace = true
	return r.beginAt(a, rec, at), rev, nil
}

// beatFirst writes the heartbeat before anything is stored with a clock that was set, if there are other nodes to be told.
func (r *Registry) beatFirst(ctx context.Context) {
	until := r.clock.Left()
	if r.nodes == nil || until == 0 || r.elapsed()+until-time.Duration(r.beatUntil.Load()) < time.Second {
		return
	}
	if err := r.beat(ctx); err != nil && r.ctx.Err() == nil {
		r.log.Warn("session: other nodes do not know of the clock that was set", "err", err)
	}
}

// beat writes the heartbeat. The rest of another engine's grace stays in it.
func (r *Registry) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatWait)
	defer cancel()
	old, err := r.readHeartbeat(ctx)
	now, left := r.clock.Now(), r.clock.Left()
	until := r.elapsed() + left
	if err != nil {
		return err
	}
	if old != nil {
		left = max(left, old.left-max(0, now.Sub(time.UnixMilli(old.at))))
	}
	_, err = r.st.Commit(ctx, store.Batch{
		Account: heartAccount, Now: now, OnlyIfChanged: true, Reserve: true,
		States: []store.StateUpdate{{
			Conversation: heartConversation, Name: heartRegister, Merge: store.MergeLast, Number: uint64(max(now.UnixMilli(), 0)),
			Value: strconv.AppendInt(nil, left.Milliseconds(), 10),
		}},
	})
	if err == nil {
		r.beatUntil.Store(int64(until))
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
	if len(jumps) == 0 {
		return
	}
	select {
	case r.beatSoon <- struct{}{}:
	default: // it is due already
	}
}
