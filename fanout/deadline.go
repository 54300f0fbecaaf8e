package fanout

import (
	"context"
	"sync"
	"time"
)

// sendContext is the context of one Send. It ends as one of context.WithDeadline does, but has a timer only once somebody
// waits for its end: a connection that makes do with the deadline, or is done before, costs none.
type sendContext struct {
	context.Context // the router's
	deadline        time.Time

	mu    sync.Mutex
	over  bool // the Send has returned
	inner context.Context
	stop  context.CancelFunc
}

func (c *sendContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *sendContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.stop = context.WithDeadline(c.Context, c.deadline)
		if c.over {
			c.stop()
		}
	}
	return c.inner.Done()
}

func (c *sendContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.inner != nil:
		return c.inner.Err()
	case c.Context.Err() != nil:
		return c.Context.Err()
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	case c.over:
		return context.Canceled
	}
	return nil
}

// end frees what it took. Whoever still waits for it is told.
func (c *sendContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.stop != nil {
		c.stop()
	}
}
