package session

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/internal/trace"
)

// Drain prepares for a stop: from now on Login and Attach return [ErrDraining], and the connections are closed with
// reason shutdown, spread evenly over the given time in random order. Each is advised to come back after a delay of its
// own, between one second and one second more than that time, so that they do not all reach the next node at once. Logins
// do not end. It returns when the last connection is fenced or ctx ends; there is no way back but a new registry.
func (r *Registry) Drain(ctx context.Context, over time.Duration) (err error) {
	defer fault.In("session", "drain", &err)
	r.draining.Store(true)
	over = max(over, 0)
	begun, closed := r.clock.Elapsed(), 0
	r.log.Info("session: drain begins", "node", string(r.cfg.Node), "connections", len(r.connections()), "over", over)
	defer func() { r.noteDrained(closed, r.clock.Elapsed()-begun, err) }()
	for {
		all := r.connections()
		if len(all) == 0 {
			return nil
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		start := r.clock.Elapsed()
		for i, c := range all {
			due := start + over/time.Duration(len(all))*time.Duration(i)
			if err := pause(ctx, due-r.clock.Elapsed()); err != nil {
				return err
			}
			if c.Close(event.Shutdown.Closed(time.Second + rand.N(over+1))) {
				closed++
			}
		}
		over = 0 // those that came in while the others were closed
	}
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
