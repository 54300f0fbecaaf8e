package session

import (
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

const (
	recordsCached = 16_384   // accounts; at most 4 KiB each, which is what an account with some devices takes
	recordsBytes  = 64 << 20 // of them together: an account may have 64 KiB
)

// cached is a record as it was committed last, encoded: that takes a fraction of the room and of the collector's time,
// and is decoded in no more time than a copy would take. Nobody changes it.
type cached struct {
	data []byte
	rev  store.Revision
}

// recordCache keeps the records that were used last, so many and so many bytes. It is safe for concurrent use.
type recordCache struct {
	mu    sync.Mutex
	bytes int
	used  *simplelru.LRU[event.Account, cached]
}

func newRecordCache() (*recordCache, error) {
	c := new(recordCache)
	var err error
	c.used, err = simplelru.NewLRU(recordsCached, func(_ event.Account, out cached) { c.bytes -= len(out.data) })
	if err != nil {
		return nil, fmt.Errorf("session: record cache: %w", err)
	}
	return c, nil
}

func (c *recordCache) get(id event.Account) (cached, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used.Get(id)
}

func (c *recordCache) put(id event.Account, in cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used.Remove(id)
	c.bytes += len(in.data)
	c.used.Add(id, in)
	for c.bytes > recordsBytes {
		c.used.RemoveOldest()
	}
}

// size returns how many records there are, and how many bytes they have.
func (c *recordCache) size() (records, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used.Len(), c.bytes
}

func (c *recordCache) drop(id event.Account) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used.Remove(id)
}
