package session

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault"
)

// Drain prepares for a stop: from now on Login and Attach return [ErrDraining], and the connections are closed with
// reason shutdown, spread evenly over the given time in random order. Each is advised to come back after a delay of its
// own, between one second and one second more than that time, so that they do not all reach the next node at once. Logins
// do not end. It returns when the last connection is fenced or ctx ends; there is no way back but a new registry.
func (r *Registry) Drain(ctx context.Context, over time.Duration) (err error) {
	defer fault.In("session", "drain", &err)
	r.draining.Store(true)
	over = max(over, 0)
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
			c.Close(event.Shutdown.Closed(time.Second + rand.N(over+1)))
		}
		over = 0 // those that came in while the others were closed
	}
}
