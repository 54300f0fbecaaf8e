package session

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/counted"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/store"
)

// counters are what [Stats] is made of, as far as it is counted.
type counters struct {
	logins, newDevices, attaches, resumes, comebacks, kicks atomic.Uint64
	sendFailures, sendPanics                                atomic.Uint64
	tidyFailures, cleanings, cleaned                        atomic.Uint64
	leasesLost, looksRefused                                atomic.Uint64

	store counted.Counters

	refused       tally[Refusal]
	ended, closed tally[event.Reason]
	groups        groups
}

func (c *counters) init() {
	c.refused = tallyOf(Refusals())
	reasons := []event.Reason{""}
	for _, i := range event.Reasons() {
		reasons = append(reasons, i.Reason)
	}
	c.closed = tallyOf(reasons)
	c.ended = tallyOf(reasons[1:])
}

// tally counts by name. Its names are never changed, so that it needs no lock.
type tally[K ~string] map[K]*atomic.Uint64

func tallyOf[K ~string](names []K) tally[K] {
	t := make(tally[K], len(names))
	for _, k := range names {
		t[k] = new(atomic.Uint64)
	}
	return t
}

// add counts one; an unknown name counts as "".
func (t tally[K]) add(k K) {
	n := t[k]
	if n == nil {
		n = t[""]
	}
	if n != nil {
		n.Add(1)
	}
}

func (t tally[K]) counts() map[K]uint64 {
	all := make(map[K]uint64, len(t))
	for k, n := range t {
		all[k] = n.Load()
	}
	return all
}

// groups counts refusals by groups of policies, which come and go.
type groups struct {
	mu     sync.Mutex
	counts map[Refusal]uint64
}

// maxGroups bounds the groups that are counted by name.
const maxGroups = 64

// add reports whether there was room for the group.
func (g *groups) add(f Refusal) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.counts[f]; !known && len(g.counts) >= maxGroups {
		return false
	}
	if g.counts == nil {
		g.counts = make(map[Refusal]uint64)
	}
	g.counts[f]++
	return true
}

// addTo puts the groups into a map.
func (g *groups) addTo(all map[Refusal]uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.Copy(all, g.counts)
}

// refusal says why a call was turned down.
func refusal(err error) Refusal {
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return Refusal(e.Rule)
	}
	if e, ok := errors.AsType[*LimitedError](err); ok {
		return e.by
	}
	if e, ok := errors.AsType[*BannedError](err); ok && e.Ban.Reason == event.AccountDeleted {
		return RefusedDeleted
	}
	if _, ok := errors.AsType[*event.InvalidError](err); ok && !errors.Is(err, ErrHookFailed) || errors.Is(err, ErrListening) {
		return RefusedInvalid
	}
	for _, k := range []struct {
		is  error
		why Refusal
	}{
		{ErrHookFailed, RefusedHook}, // first, since what a hook returned may be one of the others
		{ErrBanned, RefusedBanned}, {ErrRecordFull, RefusedRecordFull}, {ErrTooManyParked, RefusedParked},
		{ErrProtected, RefusedProtected}, {ErrChanging, RefusedChanging}, {ErrEnded, RefusedEnded}, {ErrFenced, RefusedFenced},
		{ErrUnknownLogin, RefusedUnknown}, {ErrNotFound, RefusedNotFound},
		{ErrDraining, RefusedDraining}, {ErrNoLease, RefusedNoLease}, {ErrClosed, RefusedClosed},
		{store.ErrFull, RefusedFull}, {store.ErrFailed, RefusedStore}, {store.ErrClosed, RefusedStore}, {store.ErrUnknownOutcome, RefusedStore},
		{context.Canceled, RefusedCanceled}, {context.DeadlineExceeded, RefusedCanceled},
	} {
		if errors.Is(err, k.is) {
			return k.why
		}
	}
	var says interface{ Closed() event.Closed }
	if errors.As(err, &says) && says.Closed().Reason == event.Shutdown { // fan-out's word for it
		return RefusedClosed
	}
	return RefusedStore
}

// level says how loudly it is logged that a call was turned down.
func (f Refusal) level(err error) slog.Level {
	switch f {
	case RefusedCanceled, RefusedClosed, RefusedDraining, RefusedFenced, RefusedNotFound:
		return slog.LevelDebug // the caller knows, or another line says it for all
	case RefusedStore, RefusedFull:
		if silenced(err) {
			return slog.LevelDebug
		}
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// silenced reports whether an error follows from one that was logged when it came, for all: the store has failed, or is closed.
func silenced(err error) bool {
	return unusable(err) || errors.Is(err, ErrClosed)
}

// turned counts and logs a call that ended with an error; nil is none.
func (r *Registry) turned(text string, err error, account event.Account, about ...any) {
	if err == nil {
		return
	}
	why := refusal(err)
	if _, named := r.stats.refused[why]; named || !r.stats.groups.add(why) {
		if !named {
			why = RefusedGroup
		}
		r.stats.refused.add(why)
	}
	ctx := context.Background()
	if why == RefusedInvalid {
		return // it may hold anything, of any length, and its caller knows
	}
	if level := why.level(err); r.log.Enabled(ctx, level) {
		about = append([]any{"account", string(account)}, about...)
		r.log.Log(ctx, level, text, append(about, "why", string(why), trace.Err(err))...)
	}
}

// carriedOut is turned for calls that end logins: those that succeed are counted, too.
func (r *Registry) carriedOut(text string, err error, account event.Account, about ...any) {
	if err == nil {
		r.stats.kicks.Add(1)
		return
	}
	r.turned(text, err, account, about...)
}

// attached counts an attach.
func (c *counters) attached(in *arrival) {
	c.attaches.Add(1)
	if in.resumed {
		c.resumes.Add(1)
	}
	if in.cameBack {
		c.comebacks.Add(1)
	}
}

// noteEnds counts and logs the logins that a step has ended.
func (r *Registry) noteEnds(s *step) {
	for _, e := range s.ended {
		reason, v := e.Closed.Reason, &e.Session
		if slices.Contains(s.strange, v.Login) {
			continue
		}
		r.stats.ended.add(reason)
		if !r.log.Enabled(context.Background(), slog.LevelInfo) {
			continue
		}
		log := r.log.With("account", string(s.a.id), "login", string(v.Login), "device", string(v.Device), "reason", string(reason))
		if c := e.Closed.Cause; c != nil {
			log = log.With("by", string(c.Login))
		}
		switch reason {
		case event.EvictedQuota, event.EvictedSingle, event.PolicyChanged:
			log.Info("session: login evicted")
		case event.TokenReuse:
			log.Warn("session: login ended, since an old token of it was used again")
		case event.ExpiredIdle, event.ExpiredAbsolute:
			log.Info("session: login expired")
		case event.Replaced, event.Logout:
			log.Debug("session: login ended")
		default:
			log.Info("session: login kicked")
		}
	}
}

// noteClose logs that a connection has ended. What happens to all of them has a line of its own, and so have ends of logins and
// what fan-out finds wrong.
func (c *Connection) noteClose(reason event.Reason) {
	level := slog.LevelDebug
	switch reason {
	case event.ProtocolError, event.Slow, event.Flapping, event.RateLimited, event.Unknown:
		if c.ends == nil {
			level = slog.LevelInfo
		}
	}
	if ctx := context.Background(); c.r.log.Enabled(ctx, level) {
		c.log().Log(ctx, level, "session: connection closed", "reason", string(reason))
	}
}
