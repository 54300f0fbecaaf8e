// Package seam joins the engine's packages where hosts have no part: hosts cannot name what is here.
package seam

import (
	"context"

	"github.com/manydevice/manydevice/event"
)

// Delivery is what fan-out asks to be called for on a connection that it attaches. C is the connection.
type Delivery[C any] struct {
	// Begin is called once the connection is bound, before the attach returns: the place to read what delivery begins with,
	// since nothing is missed from then on. Nothing can be sent before the attach has returned. If Begin fails, the connection
	// is unbound as if it had never been there, and the attach returns the error.
	Begin func(ctx context.Context, c C) error
	// Ended is called once, if the attach has succeeded, when the connection has ended for any reason: by whoever ended it,
	// before Close of the host's connection begins, before the call that ended it returns, and before Begin of any later
	// connection of the login. So what the device was sent is known to its next connection. Ended waits for nothing but
	// short locks, and calls neither the registry nor any code of the host's. It is called with no lock held.
	Ended func(why event.Closed)
	// Fault, if set, is why fan-out turns the attach down. The registry returns it, and counts it as any other refusal.
	Fault error
	// Expected, if set, reports whether the caller goes on by itself after an error, so that nothing was refused.
	Expected func(err error) bool
}
