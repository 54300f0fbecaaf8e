package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/bounds"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/trace"
)

const (
	defaultBack = time.Second            // DrainRequest.Back on one node
	soonest     = 250 * time.Millisecond // least advice: a load balancer needs some time to turn away from a node
	leastSpread = 100 * time.Millisecond // of a few clients
	burstPart   = 0.75                   // of the attaches that a node admits at once
	maxDrain    = 24 * time.Hour
	usualRate   = 2_000 // attaches per second that a node without a bound is taken to admit
)

// DrainRequest says how a node is left. The zero value is valid. Times that are not zero are at least a millisecond, and at
// most a day.
type DrainRequest struct {
	// Over bounds the drain. Where other nodes take the clients, connections are closed evenly over it, in random order. Where
	// the clients have to wait for the next process, they are closed all at once, since each one that is closed earlier only
	// waits longer; then it bounds how long fanout.Router.Drain writes what is pending before and after that. Zero and negative
	// mean at once; what is pending is then written for half a second at most.
	Over time.Duration
	// Back is when the next process takes connections, counted from when Drain closes them: the time that Close, the store's
	// Close, the start of the process and the store's open take together. No client is told to come back earlier. Zero means
	// 1 s on one node. On several nodes zero means that others take the clients at once; negative means that on one node, too.
	Back time.Duration
}

// Validate returns an [*event.InvalidError] for each time that is out of bounds. Drain calls it.
func (q *DrainRequest) Validate() (err error) {
	defer fault.In("session", "drain", &err)
	var check bounds.Check
	check.Duration("Over", q.Over, time.Millisecond, maxDrain, bounds.Zero|bounds.Negative)
	check.Duration("Back", q.Back, time.Millisecond, maxDrain, bounds.Zero|bounds.Negative)
	return check.Err()
}

// departure is the plan by which clients leave a node that stops, and come back.
//
//  1. A client is told to wait until the next process is there, counted from the moment at which it is told, so that one that
//     follows the advice does not meet this process again. Where other nodes take over at once there is nothing to wait for.
//  2. To that is added a part of a spread, in random order: the time in which a node admits all of them, by
//     Config.AttachesPerSecond. Of the calls that may come at once a quarter is left to others.
//  3. Those that come to this process in the meantime are refused with an advice by the same plan.
//
// The plan is fixed when the first of them is told. If the next process is later than was said, clients find no server, or are
// refused by the old one, and wait as for any server that does not answer.
//
// The obvious way, to close connections evenly over some seconds and to advise each to wait about as long, is right where
// others take over. On one node those that are closed first only wait longer, and many come back to the process that has sent
// them away. See docs/operations.md, and go run -C bench ./deploy.
type departure struct {
	back   time.Duration // clock.Elapsed from which the next process is there; 0: others are
	spread time.Duration
	closes bool // it is the plan of a Close without a drain
}

// retry returns how long the i-th of n clients waits that is told now.
func (d *departure) retry(now time.Duration, i, n int) time.Duration {
	part := (float64(i) + rand.Float64()) / float64(n)
	return max(d.back-now, soonest) + time.Duration(part*float64(d.spread))
}

// plan returns how n clients leave.
func (r *Registry) plan(q DrainRequest, n int) *departure {
	d := &departure{spread: r.spread(n)}
	if back := r.backAfter(q); back > 0 {
		d.back = r.elapsed() + back
	} else {
		d.spread = max(d.spread-max(q.Over, 0), 2*soonest) // what is closed over a while comes over a while
	}
	return d
}

// backAfter returns when the next process is there; 0 and less: others are.
func (r *Registry) backAfter(q DrainRequest) time.Duration {
	if q.Back == 0 && r.nodes == nil {
		return defaultBack
	}
	return q.Back
}

// spread returns in which time a node admits n clients.
func (r *Registry) spread(n int) time.Duration {
	rate := float64(r.cfg.AttachesPerSecond)
	if rate < 0 {
		rate = usualRate
	}
	return max(leastSpread, seconds((float64(n)-burstPart*rate)/rate))
}

// StoppingError reports that the node is about to stop, or has been stopped: it takes no logins and connections any more. It
// matches [ErrDraining] or [ErrClosed]. Nothing was changed.
type StoppingError struct {
	// RetryAfter is when it is worth to try again, more than zero: when the next process is there, or another node, with some
	// random time, as those are told that the node closes.
	RetryAfter time.Duration
	Err        error // what it wraps
}

// Closed returns what to tell the client.
func (e *StoppingError) Closed() event.Closed { return event.Shutdown.Closed(e.RetryAfter) }

func (e *StoppingError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *StoppingError) Unwrap() error { return e.Err }

// leaving returns ErrClosed or ErrDraining if the node takes no logins and connections any more.
func (r *Registry) leaving() error {
	d := r.departure.Load()
	switch {
	case r.ctx.Err() != nil || d != nil && d.closes:
		return ErrClosed
	case d != nil:
		return ErrDraining
	}
	return nil
}

// Stopping makes a [*StoppingError] of an error that says that the node stops, or has stopped, and not how long to wait. Any
// other one stays as it is. It is for fan-out; hosts have no use for it.
func (r *Registry) Stopping(err *error) {
	d := r.departure.Load()
	if *err == nil || d == nil {
		return
	}
	var says interface{ Closed() event.Closed }
	if errors.As(*err, &says) && says.Closed() == event.Shutdown.Closed(0) {
		*err = &StoppingError{RetryAfter: d.retry(r.elapsed(), 0, 1), Err: *err}
	}
}

// Shutdown returns what to tell the i-th of n clients because the node stops. It is for fan-out; hosts have no use for it.
func (r *Registry) Shutdown(i, n int) event.Closed {
	d := r.departure.Load()
	if d == nil {
		d = r.plan(DrainRequest{}, n)
	}
	return event.Shutdown.Closed(d.retry(r.elapsed(), i, n))
}

// Drain prepares for a stop: from now on Login and Attach return a [*StoppingError] that matches [ErrDraining], and all
// connections are closed with reason shutdown. Each client is advised to come back once the next process is there, or another
// node, with some random time that fits Config.AttachesPerSecond. Logins do not end.
//
// It returns when all have been told, which Config.CloseTimeout bounds, or when ctx ends. There is no way back but a new
// registry. With fan-out drain by fanout.Router.Drain or the engine's Drain, which also write what is pending.
func (r *Registry) Drain(ctx context.Context, q DrainRequest) (err error) {
	defer fault.In("session", "drain", &err)
	if err := q.Validate(); err != nil {
		return err
	}
	all, begin := r.connections(), r.elapsed()
	first := r.plan(q, len(all))
	if !r.departure.CompareAndSwap(nil, first) {
		first = r.departure.Load()
	}
	over := max(q.Over, 0)
	if first.back > 0 {
		over = 0
	}
	r.log.Info("session: drain begins", "node", string(r.cfg.Node), "connections", len(all), "over", over,
		"back", max(first.back-begin, 0), "spread", first.spread)
	closed := 0
	for ; len(all) > 0 && err == nil; all = r.connections() { // those that came in while the others were closed
		err = r.closeAll(ctx, all, over)
		over = 0
		closed += len(all)
	}
	r.noteDrained(closed, r.elapsed()-begin, err)
	return err
}

// closeAll closes connections evenly over a time, and waits until they are told.
func (r *Registry) closeAll(ctx context.Context, all []*Connection, over time.Duration) error {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	start := r.elapsed()
	for i, c := range all {
		err := ctx.Err()
		if wait := start + over/time.Duration(len(all))*time.Duration(i) - r.elapsed(); wait > 0 && err == nil {
			err = pause(ctx, wait)
		}
		if err != nil {
			return fmt.Errorf("%d of %d connections are closed: %w", i, len(all), err)
		}
		c.Close(r.Shutdown(i, len(all)))
	}
	for _, c := range all {
		c.AwaitClose(ctx)
	}
	return ctx.Err()
}

// noteDrained logs the end of a drain.
func (r *Registry) noteDrained(closed int, took time.Duration, err error) {
	log := r.log.With("node", string(r.cfg.Node), "connections", closed, "took", took)
	if err != nil {
		log.Warn("session: drain was given up", trace.Err(err))
		return
	}
	log.Info("session: drain is over")
}
