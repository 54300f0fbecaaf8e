package store

import (
	"fmt"
	"sync"
)

// Claims counts the engines that use a store. A store embeds it and so has the method Claim. The zero value is ready. It is
// safe for concurrent use.
type Claims struct {
	mu     sync.Mutex
	held   int
	shared bool // those that hold it let others in
}

// Claim implements [Store].
func (c *Claims) Claim(shared bool) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.held == 0:
	case !c.shared:
		return nil, fmt.Errorf("%w, which is alone: it has no leases", ErrInUse)
	case !shared:
		return nil, fmt.Errorf("%w: without leases an engine has to be alone, and %d with leases are there", ErrInUse, c.held)
	}
	c.shared = shared
	c.held++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held--
	}), nil
}
