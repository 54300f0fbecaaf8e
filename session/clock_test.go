package session_test

import (
	"sync/atomic"
	"time"
)

// wallClock is a wall clock that tests move without moving elapsed time.
type wallClock struct{ off atomic.Int64 }

// now is for session.Config.Wall.
func (c *wallClock) now() time.Time { return time.Now().Add(time.Duration(c.off.Load())) }

// set moves the clock so that it is ahead of the right time by this much.
func (c *wallClock) set(ahead time.Duration) { c.off.Store(int64(ahead)) }
