package raw_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/raw"
)

func scene(t *testing.T) *lab.Scene {
	r, err := lab.NewRunner(lab.Smoke(), t.TempDir())
	require.NoError(t, err)
	s := r.Scene(t.Context())
	t.Cleanup(func() { require.NoError(t, errors.Join(s.Close(), r.Close())) })
	return s
}

func TestCombiner(t *testing.T) {
	broken := errors.New("broken")
	var calls, running atomic.Int64
	got := make(map[int]int)
	c := raw.NewCombiner(0, func(batch []int) error {
		if running.Add(1) != 1 {
			return errors.New("two at a time")
		}
		defer running.Add(-1)
		calls.Add(1)
		time.Sleep(100 * time.Microsecond) // so that others wait
		for _, n := range batch {
			got[n]++
			if n == 500 {
				return broken
			}
		}
		return nil
	})
	const n = 1000
	var failed atomic.Int64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := c.Do(i); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	require.Positive(t, failed.Load(), "whoever is in a batch that fails is told")
	require.Equal(t, 1, got[500])
	require.Less(t, calls.Load(), int64(n), "those that wait share a call")
	for i := range n {
		require.LessOrEqual(t, got[i], 1, i)
	}
	require.NoError(t, c.Do(n), "it goes on after an error")
	require.Equal(t, 1, got[n])
}

func TestSequence(t *testing.T) {
	q, err := raw.NewSequence(scene(t))
	require.NoError(t, err)
	require.NoError(t, q.PutAll(25_000, 10))
	require.NoError(t, q.Put(make([]byte, 7)))
	n, err := q.Count()
	require.NoError(t, err)
	require.Equal(t, 25_001, n)
	n, size, err := q.Scan()
	require.NoError(t, err)
	require.Equal(t, []int{25_001, 250_007}, []int{n, size})
}

func TestFile(t *testing.T) {
	f, err := raw.NewFile(scene(t))
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, f.Append(make([]byte, 5)))
	}
	size, err := f.Size()
	require.NoError(t, err)
	require.Equal(t, int64(15), size)
}
