package session

import (
	"context"
	"sync"
	"time"
)

// sendContext is the context of one Send. It ends as one of context.WithCancelCause does, but takes part in its parent's end
// only once somebody looks: a connection that writes without waiting for it costs nothing more.
type sendContext struct {
	context.Context // the caller's
	began           time.Time

	mu    sync.Mutex
	over  bool            // the Send has returned
	inner context.Context // nil: nobody has looked
	stop  context.CancelCauseFunc
}

// Done implements context.Context.
func (c *sendContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.innerLocked().Done()
}

// Err implements context.Context.
func (c *sendContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.inner != nil:
		return c.inner.Err()
	case c.over:
		return context.Canceled
	}
	return c.Context.Err()
}

// Value implements context.Context. Package context finds the cause of the end by it.
func (c *sendContext) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.Context.Value(key)
}

func (c *sendContext) innerLocked() context.Context {
	if c.inner == nil {
		c.inner, c.stop = context.WithCancelCause(c.Context)
		if c.over {
			c.stop(nil)
		}
	}
	return c.inner
}

// end ends the context: with a cause because of the fence, with none because the Send has returned.
func (c *sendContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cause != nil {
		c.innerLocked()
	} else {
		c.over = true
	}
	if c.stop != nil {
		c.stop(cause)
	}
}
