package event

import (
	"errors"
	"math/rand/v2"
	"time"
)

// The delay that [ClosedOf] advises where the error has none: long enough for a store or a node to come back, and
// spread, so that clients that were turned away together do not come back together.
const (
	minRetry = time.Second
	maxRetry = 3 * time.Second
)

// ClosedOf returns what to tell the client for an error of Login, LoginReplacing, Attach or Handle: the closing frame
// with its reason and advice. It is for errors after which the client has no connection. The error
// of a single request, such as Send, is the answer to that request and no reason to close.
//
//   - An error that has a method Closed() Closed says it by itself. All error types and sentinels of the engine that mean
//     something to a client do, and those of a host may. Wrapped and joined errors are searched as [errors.As] does; the
//     first one counts.
//   - Any other error (of a store, of a context, of unknown origin) is reason unavailable with advice to come back.
//   - nil is the zero Closed: there is nothing to tell.
//
// Where the advice is to wait and the error does not say how long, the delay is between 1 s and 3 s, by chance.
func ClosedOf(err error) Closed {
	if err == nil {
		return Closed{}
	}
	c := Unavailable.Closed(0)
	var says interface{ Closed() Closed }
	if errors.As(err, &says) {
		c = says.Closed()
	}
	if c.Retry == RetryAfter && c.After <= 0 {
		c.After = minRetry + rand.N(maxRetry-minRetry+1)
	}
	return c
}

// Closed returns what to tell a client whose request was not valid: to repeat it as it is would be of no use.
func (e *InvalidError) Closed() Closed { return ProtocolError.Closed(0) }

// Closed returns what to tell a client that sent what is no frame.
func (e *FrameError) Closed() Closed { return ProtocolError.Closed(0) }
