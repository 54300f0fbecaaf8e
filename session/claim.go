package session

import (
	"sync"

	"github.com/manydevice/manydevice/store"
)

// claim is the registry's claim on its store. The router that listens to the registry writes to the store as well, also after
// the registry was closed, so it holds the claim too. The last holder gives it back.
type claim struct {
	release func()

	mu      sync.Mutex
	holders int
}

// claimStore takes the store for the registry. Without leases the registry has to be alone.
func claimStore(st store.Store, shared bool) (*claim, error) {
	release, err := st.Claim(shared)
	if err != nil {
		return nil, err
	}
	return &claim{release: release}, nil
}

// Over reports whether the registry uses the same store, wrapped or not. It is for fan-out, which has to be over that one; hosts
// have no use for it.
func (r *Registry) Over(st store.Store) bool {
	mine, other := r.st.Info(), st.Info()
	return mine.Secret == other.Secret && mine.Incarnation == other.Incarnation
}

// hold adds a holder, and returns what takes it away again; calls after the first do nothing. It returns false if the claim was
// given back already.
func (c *claim) hold(first bool) (drop func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders == 0 && !first {
		return nil, false
	}
	c.holders++
	return sync.OnceFunc(c.drop), true
}

func (c *claim) drop() {
	c.mu.Lock()
	c.holders--
	last := c.holders == 0
	c.mu.Unlock()
	if last {
		c.release()
	}
}
