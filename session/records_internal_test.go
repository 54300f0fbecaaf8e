package session

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// TestI27_RecordCacheIsBounded by number and by bytes: accounts with large records push each other out.
func TestI27_RecordCacheIsBounded(t *testing.T) {
	fill := func(n, size int) (c *recordCache, there int) {
		c, err := newRecordCache()
		require.NoError(t, err)
		id := func(i int) event.Account { return event.Account(fmt.Sprint("ann", i)) }
		data := make([]byte, size)
		for i := range n {
			c.put(id(i), cached{data: make([]byte, 1)})
			c.put(id(i), cached{data: data}) // in place of the one before
		}
		for i := range n {
			if _, ok := c.get(id(i)); ok {
				there++
			}
		}
		_, last := c.get(id(n - 1))
		require.True(t, last)
		require.Equal(t, there*size, c.bytes)
		return c, there
	}
	_, there := fill(2*recordsCached, 1_000)
	require.Equal(t, recordsCached, there)
	c, there := fill(2*recordsCached, store.MaxRecordBytes)
	require.Equal(t, recordsBytes/store.MaxRecordBytes, there)
	c.drop(event.Account(fmt.Sprint("ann", 2*recordsCached-1)))
	require.Equal(t, recordsBytes-store.MaxRecordBytes, c.bytes)
}
