// Package clock tells the time to the engine: elapsed time, which nobody can set, and the wall clock, which somebody may.
//
// What happens inside one process is measured with Elapsed: idle bounds, resume windows, pacing, leases. What is stored is
// wall-clock time in Unix milliseconds, and is only comparable with the wall clock.
//
// # Steps and gaps
//
// A wall clock that is set, and a machine that was suspended, show in the same way: the wall clock has moved against elapsed
// time. More than a minute is a step. A store that nobody has kept a heartbeat in for more than an hour shows a gap: the
// server was away. After either, ages computed from stored times say nothing about how long a device had a chance to come
// back. So the clock counts a grace: until the process has been up for that long, nothing may be destroyed for its age.
//
//  1. A step is noticed by the first call that reads the wall clock after it, before that call returns.
//  2. Small differences, as NTP makes them, are taken over once an hour, so that they never add up to a step.
//  3. A grace that was not over when the process ended goes on in the next one; see [Clock.Left] and [Clock.Resume].
package clock

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxDrift is how far the wall clock may move against elapsed time before that counts as a step.
	MaxDrift = time.Minute
	// adopt is how often smaller differences are taken over.
	adopt = time.Hour
)

// Clock tells the time. It is safe for concurrent use.
type Clock struct {
	began time.Time // for its monotonic reading
	wall  func() time.Time
	grace time.Duration

	graced atomic.Int64 // Elapsed at which the grace is over; 0: there is none

	mu      sync.Mutex
	ref     time.Time     // what the wall clock would say at Elapsed 0
	adopted time.Duration // Elapsed when ref was taken over last
	steps   []time.Duration
}

// New returns a clock that reads the given wall clock; nil means [time.Now]. After a step or a gap, nothing is to be
// destroyed for its age until grace has elapsed; zero and negative mean that there is no grace.
func New(wall func() time.Time, grace time.Duration) *Clock {
	if wall == nil {
		wall = time.Now
	}
	c := &Clock{began: time.Now(), wall: wall, grace: max(grace, 0)}
	c.ref = wall().Round(0)
	return c
}

// Elapsed returns the time since New by the monotonic clock. It never goes back, and stands still while the machine is
// suspended.
func (c *Clock) Elapsed() time.Duration { return time.Since(c.began) }

// Now returns the time of the wall clock, without a monotonic reading, and notices a step.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed, now := c.Elapsed(), c.wall().Round(0)
	drift := now.Sub(c.ref) - elapsed
	switch {
	case drift > MaxDrift || drift < -MaxDrift:
		c.steps = append(c.steps[max(0, len(c.steps)-maxSteps+1):], drift)
		c.begin(elapsed, c.grace)
	case elapsed-c.adopted < adopt:
		return now
	}
	c.ref, c.adopted = now.Add(-elapsed), elapsed
	return now
}

// maxSteps bounds the steps that wait to be told.
const maxSteps = 16

// Steps returns the steps since the last call, oldest first, by how far the wall clock has moved; of many the last 16.
func (c *Clock) Steps() []time.Duration {
	c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	steps := c.steps
	c.steps = nil
	return steps
}

// begin begins a grace, unless a longer one runs.
func (c *Clock) begin(elapsed, grace time.Duration) {
	if until := int64(elapsed + grace); grace > 0 && until > c.graced.Load() {
		c.graced.Store(until)
	}
}

// Away begins a grace because the server was away.
func (c *Clock) Away() { c.Resume(c.grace) }

// Resume goes on with a grace of which so much was left when the last process ended. It is never longer than a whole one.
func (c *Clock) Resume(left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin(c.Elapsed(), min(left, c.grace))
}

// Left returns how much of the grace is left; 0 means that what is old may go.
func (c *Clock) Left() time.Duration {
	until := c.graced.Load()
	if until == 0 {
		return 0
	}
	return max(0, time.Duration(until)-c.Elapsed())
}

// Age returns how old something is that was stored at a wall-clock time, in Unix milliseconds, at the given time. What lies
// in the future, because the clock was ahead when it was written, is of now.
func Age(stored int64, now time.Time) time.Duration {
	return max(0, now.Sub(time.UnixMilli(stored)))
}

// Clamp returns a stored time, in Unix milliseconds, that is not later than now.
func Clamp(stored int64, now time.Time) int64 { return min(stored, now.UnixMilli()) }
