// Package clock tells the engine the time: elapsed time, which nobody can set, and the wall clock, which somebody may.
//
// What happens inside one process is measured with elapsed time: idle bounds, resume windows, leases, pushes that are due.
// What is stored is wall-clock time in Unix milliseconds, and is only comparable with the wall clock.
//
// # Steps and gaps
//
// A wall clock that is set, and a machine that was suspended, look the same: the wall clock has moved against elapsed time.
// More than [MaxDrift] is a step. A server that was off, or a process that stood still, for more than [MaxGap] is a gap. After
// either, the age of what is stored says nothing about how long a device had a chance to come back. So the clock begins a
// grace: until the process has been up for that long, nothing may be destroyed for its age.
//
//  1. A step is noticed by the first call that reads the wall clock after it, before that call returns.
//  2. Smaller differences, as NTP makes them, are adopted once an hour, so that they never add up to a step.
//  3. A process that stands still is noticed by the first such call after it, if somebody calls [Clock.Tick] regularly.
//  4. A grace that was not over when the process ended goes on in the next one: see [Clock.Left] and [Clock.Resume].
//
// Elapsed time alone was not enough: ages outlive the process. The wall clock alone was what closed 50 lively connections when
// it moved by 100 s, and locked an account out for a day when it had been ahead for a moment.
package clock

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxDrift is how far the wall clock may move against elapsed time before that counts as a step.
	MaxDrift = time.Minute
	// MaxGap is how long the server may be away before that counts as a gap.
	MaxGap = time.Hour

	adoptEvery = time.Hour       // how often smaller differences are adopted
	standstill = 5 * time.Second // a tick that is late by this much means that the process stood still
	maxJumps   = 16              // steps and gaps that wait to be told, and steps that Ago can take out
	maxGrace   = 30 * 365 * 24 * time.Hour
)

// Clock tells the time. It is safe for concurrent use.
type Clock struct {
	began time.Time        // for its monotonic reading
	wall  func() time.Time // nil: time.Now
	grace time.Duration

	spans  atomic.Pointer[[]span] // oldest first, never empty; replaced with mu held, never changed
	graced atomic.Int64           // Elapsed at which the grace is over; 0: there was none
	due    atomic.Int64           // Elapsed after which Tick is late; 0: nobody ticks
	woke   atomic.Int64           // Elapsed at which the process went on after it stood still last

	mu     sync.Mutex
	ticked time.Duration // Elapsed at the last Tick
	within time.Duration // after which the next one follows
	jumps  []Jump
}

// span is the time between two steps of the wall clock. Within it, wall-clock time is ref plus elapsed time.
type span struct {
	from, to time.Duration // Elapsed; to is math.MaxInt64 for the last one
	first    time.Time     // what the wall clock said at from
	ref      time.Time
	adopted  time.Duration // Elapsed at which ref was adopted
}

// Jump is a step or a gap.
type Jump struct {
	Gap bool          // the server was away; otherwise the wall clock moved
	By  time.Duration // how far the wall clock moved, forwards if positive, or how long the server was away; 0: not known
}

// Reading is both clocks at one moment.
type Reading struct {
	Now     time.Time     // of the wall clock, without a monotonic reading
	Elapsed time.Duration // see [Clock.Elapsed]
	Grace   bool          // nothing may be destroyed for its age

	clock *Clock
}

// New returns a clock that reads the given wall clock; nil means [time.Now]. A grace lasts for the given time; zero and
// negative mean that there is none.
func New(wall func() time.Time, grace time.Duration) *Clock {
	c := &Clock{began: time.Now(), wall: wall, grace: min(max(grace, 0), maxGrace)}
	elapsed, now := c.look()
	c.spans.Store(&[]span{{to: math.MaxInt64, first: now, ref: now.Add(-elapsed)}})
	return c
}

// Elapsed returns the time since New by the monotonic clock. It never goes back.
func (c *Clock) Elapsed() time.Duration { return time.Since(c.began) }

// Now returns the time of the wall clock, without a monotonic reading.
func (c *Clock) Now() time.Time { return c.Read().Now }

// Read returns the time of both clocks. It notices steps, and that the process stood still.
func (c *Clock) Read() Reading {
	elapsed, now := c.look()
	last := c.last()
	drift := now.Sub(last.ref) - elapsed
	late := c.due.Load()
	if drift > MaxDrift || drift < -MaxDrift || elapsed-last.adopted >= adoptEvery || late != 0 && int64(elapsed) > late {
		c.notice(elapsed, now)
	}
	return Reading{Now: now, Elapsed: elapsed, Grace: c.graced.Load() > int64(elapsed), clock: c}
}

// look reads both clocks. A process may be stopped between the two, which must not look like a step.
func (c *Clock) look() (elapsed time.Duration, now time.Time) {
	if c.wall == nil {
		now = time.Now()
		return now.Sub(c.began), now.Round(0)
	}
	for range 3 {
		elapsed = c.Elapsed()
		if now = c.wall().Round(0); c.Elapsed()-elapsed < time.Second {
			break
		}
	}
	return elapsed, now
}

func (c *Clock) last() span {
	all := *c.spans.Load()
	return all[len(all)-1]
}

// notice takes in what a reading says about the clocks.
func (c *Clock) notice(elapsed time.Duration, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if due := c.due.Load(); due != 0 && int64(elapsed) > due {
		c.woke.Store(int64(elapsed))
		if stood := elapsed - c.ticked; stood > MaxGap {
			c.jumpLocked(Jump{Gap: true, By: stood}, elapsed)
		}
		c.tickLocked(elapsed)
	}
	all := slices.Clone(*c.spans.Load())
	last := &all[len(all)-1]
	drift := now.Sub(last.ref) - elapsed
	switch {
	case elapsed < last.from: // another goroutine has read later, and noticed a step
		return
	case drift > MaxDrift || drift < -MaxDrift:
		c.jumpLocked(Jump{By: drift}, elapsed)
		last.to = elapsed
		all = append(all[max(0, len(all)-maxJumps):], span{
			from: elapsed, to: math.MaxInt64, first: now, ref: now.Add(-elapsed), adopted: elapsed,
		})
	case elapsed-last.adopted >= adoptEvery:
		last.ref, last.adopted = now.Add(-elapsed), elapsed
	default:
		return
	}
	c.spans.Store(&all)
}

// jumpLocked notes a step or a gap, and begins a grace.
func (c *Clock) jumpLocked(j Jump, elapsed time.Duration) {
	c.jumps = append(c.jumps[max(0, len(c.jumps)-maxJumps+1):], j)
	c.graceLocked(elapsed, c.grace)
}

// graceLocked begins a grace, unless a longer one runs.
func (c *Clock) graceLocked(elapsed, grace time.Duration) {
	if grace > 0 {
		c.graced.Store(max(c.graced.Load(), int64(elapsed+grace)))
	}
}

// Tick is Read for the one caller that promises to call it again within a time. So the clock notices a process that stands
// still.
func (c *Clock) Tick(within time.Duration) Reading {
	r := c.Read()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.within = within
	c.tickLocked(r.Elapsed)
	return r
}

func (c *Clock) tickLocked(elapsed time.Duration) {
	c.ticked = elapsed
	c.due.Store(int64(elapsed + c.within + max(c.within, standstill)))
}

// Woke returns the Elapsed at which the process went on after it stood still last; 0 if it never did. Nobody could be heard
// before that.
func (c *Clock) Woke() time.Duration { return time.Duration(c.woke.Load()) }

// Note notes a step or a gap that is known from elsewhere, such as a stored heartbeat.
func (c *Clock) Note(j Jump) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jumpLocked(j, c.Elapsed())
}

// Jumps returns the steps and gaps since the last call, oldest first; of many the last 16.
func (c *Clock) Jumps() []Jump {
	c.Read()
	c.mu.Lock()
	defer c.mu.Unlock()
	jumps := c.jumps
	c.jumps = nil
	return jumps
}

// Resume goes on with a grace of which this much was left when the last process ended. It is never longer than a whole one.
func (c *Clock) Resume(left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.graceLocked(c.Elapsed(), min(left, c.grace))
}

// Left returns how much of the grace is left; 0: there is none.
func (c *Clock) Left() time.Duration { return max(0, time.Duration(c.graced.Load())-c.Elapsed()) }

// Ago returns how long ago the wall clock said a stored time, in Unix milliseconds, where steps since then are taken out. If
// several readings are possible, as after a step back, it is the shortest. It reports false for a time that was never said:
// it is of a clock that was ahead by more than MaxDrift.
func (c *Clock) Ago(stored int64) (ago time.Duration, ok bool) {
	elapsed, at := c.Read().Elapsed, time.UnixMilli(stored)
	for _, s := range *c.spans.Load() {
		end := min(s.to, elapsed)
		if e := at.Sub(s.ref); e <= end+MaxDrift && (!ok || elapsed-min(e, end) < ago) {
			ago, ok = elapsed-min(e, end), true
		}
	}
	return ago, ok
}

// AgoAtMost is Ago, but if several readings are possible it is the longest: after a step back the clock says the times of
// before once more, and what was stored then is not of now.
func (c *Clock) AgoAtMost(stored int64) (ago time.Duration, ok bool) {
	elapsed, at := c.Read().Elapsed, time.UnixMilli(stored)
	for _, s := range *c.spans.Load() {
		end := min(s.to, elapsed)
		if e := at.Sub(s.ref); e >= s.from-time.Millisecond && e <= end+MaxDrift {
			ago, ok = max(ago, elapsed-min(e, end)), true
		}
	}
	if !ok { // it is of before New, or was never said
		return c.Ago(stored)
	}
	return ago, ok
}

// corrected returns a stored time, in Unix milliseconds, as a clock that was right would have said it. What was stored while
// the clock was behind, because it was set back and then forwards again, is no older than the step back: right before that
// the clock had said a later time.
func (c *Clock) corrected(stored int64, now Reading) time.Time {
	at, spans := time.UnixMilli(stored), *c.spans.Load()
	when := at
	for i := 1; i < len(spans)-1; i++ {
		s, end := spans[i], spans[i-1].ref.Add(spans[i-1].to)
		here := !at.Before(s.first.Truncate(time.Millisecond)) && !at.After(s.ref.Add(s.to+MaxDrift)) // it drifts
		if here && s.ref.Before(spans[i-1].ref) && s.ref.Before(spans[i+1].ref) && end.After(when) && !end.After(now.Now) {
			when = end
		}
	}
	return when
}

// Before reports whether a stored time, in Unix milliseconds, was not said by the wall clock since New, as far as can be told.
func (c *Clock) Before(stored int64) bool {
	elapsed, at := c.Read().Elapsed, time.UnixMilli(stored)
	return !slices.ContainsFunc(*c.spans.Load(), func(s span) bool {
		return at.After(s.first) && !at.After(s.ref.Add(min(s.to, elapsed)+MaxDrift)) // it drifts
	})
}

// Age returns how old something is that was stored at a wall-clock time, in Unix milliseconds. What lies in the future,
// because the clock was ahead when it was stored, is of now.
func (r Reading) Age(stored int64) time.Duration { return max(0, r.Now.Sub(time.UnixMilli(stored))) }

// Old reports whether something may be destroyed for its age: it was stored longer ago than the limit, and there is no grace.
func (r Reading) Old(stored int64, limit time.Duration) bool {
	return !r.Grace && r.Age(stored) > limit && r.Now.Sub(r.clock.corrected(stored, r)) > limit
}

// At returns what the wall clock would have said at an Elapsed, as it goes now, in whole milliseconds like all that is stored.
func (r Reading) At(elapsed time.Duration) time.Time {
	return r.Now.Add(elapsed - r.Elapsed).Truncate(time.Millisecond)
}
