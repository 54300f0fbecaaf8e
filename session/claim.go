package session

import (
	"sync"

	"github.com/manydevice/manydevice/internal/fault"
	"github.com/manydevice/manydevice/store"
)

// claim is the registry's claim on its store. The router that listens to the registry writes to the store as well, also after
// the registry was closed, so it holds the claim too. The last holder gives it back.
type claim struct {
	st     store.Store
	shared bool // without leases the registry has to be alone

	mu      sync.Mutex
	holders int
	release func() // of the first holder; meaningless if there is none
}

// Over reports whether the registry uses the same store, wrapped or not. It is for fan-out, which has to be over that one; hosts
// have no use for it.
func (r *Registry) Over(st store.Store) bool {
	mine, other := r.st.Info(), st.Info()
	return mine.IDKey == other.IDKey && mine.Incarnation == other.Incarnation
}

// Hold keeps the store for the engine until drop is called. After it was given back it is claimed again: [store.ErrInUse] if
// another engine has it by then. It is for a router that is closed once more; hosts have no use for it.
func (r *Registry) Hold() (drop func(), err error) {
	defer fault.In("session", "hold", &err)
	return r.claim.take()
}

// take adds a holder; the first one claims the store. Calls of drop after the first do nothing.
func (c *claim) take() (drop func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders == 0 {
		if c.release, err = c.st.Claim(c.shared); err != nil { // which needs no I/O
			return nil, err
		}
	}
	return c.addLocked(), nil
}

// join is take that returns false if the claim was given back already.
func (c *claim) join() (drop func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders == 0 {
		return nil, false
	}
	return c.addLocked(), true
}

func (c *claim) addLocked() (drop func()) {
	c.holders++
	return sync.OnceFunc(c.drop)
}

func (c *claim) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders--; c.holders == 0 {
		c.release()
	}
}
