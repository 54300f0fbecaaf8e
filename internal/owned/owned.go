// Package owned keeps goroutines and calls that their owner waits for.
package owned

import (
	"math"
	"sync"
	"sync/atomic"
)

// Group waits for the goroutines that it started and for the calls that it let in. The zero value is ready. It is safe for
// concurrent use. Enter and Leave take no lock, since each send of the host's is such a call.
type Group struct {
	inside atomic.Int64 // calls and goroutines; closed is added once nothing is let in any more

	mu   sync.Mutex
	gone chan struct{} // closed when the last of them has left, then replaced; nil: nobody waits
}

const closed = math.MinInt64

// Go runs fn on a goroutine of its own and reports whether it did: after Wait was called it does not.
func (g *Group) Go(fn func()) bool {
	if !g.Enter() {
		return false
	}
	go func() {
		defer g.Leave()
		fn()
	}()
	return true
}

// Do is Go that runs fn on the caller's goroutine if it can start none.
func (g *Group) Do(fn func()) {
	if !g.Go(fn) {
		fn()
	}
}

// Enter lets a call in and reports whether it did: after Wait was called it does not. It must be followed by Leave.
func (g *Group) Enter() bool {
	if g.inside.Add(1) < 0 {
		g.Leave()
		return false
	}
	return true
}

// Leave ends a call that Enter let in.
func (g *Group) Leave() {
	if g.inside.Add(-1) != closed {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone != nil {
		close(g.gone)
		g.gone = nil
	}
}

// Wait lets nothing in any more and waits for all that runs. It may be called again.
func (g *Group) Wait() {
	for n := g.inside.Load(); n >= 0; n = g.inside.Load() {
		g.inside.CompareAndSwap(n, n+closed)
	}
	for gone := g.going(); gone != nil; gone = g.going() {
		<-gone
	}
}

// going returns what is closed when the last call has left; nil: it has.
func (g *Group) going() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside.Load() == closed { // a call that leaves later than this looks for gone, and waits for the lock
		return nil
	}
	if g.gone == nil {
		g.gone = make(chan struct{})
	}
	return g.gone
}
