// Package owned keeps goroutines and calls that their owner waits for.
package owned

import "sync"

// Group waits for the goroutines that it started and for the calls that it let in. The zero value is ready. It is safe for
// concurrent use.
type Group struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

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
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wg.Add(1)
	return true
}

// Leave ends a call that Enter let in.
func (g *Group) Leave() { g.wg.Done() }

// Wait lets nothing in any more and waits for all that runs. It may be called again.
func (g *Group) Wait() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.wg.Wait()
}
