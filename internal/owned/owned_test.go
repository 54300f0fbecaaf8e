package owned_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/internal/owned"
)

func TestWait_WaitsForAllAndLetsNothingIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g owned.Group
		var done atomic.Int32
		require.True(t, g.Go(func() { time.Sleep(time.Second); done.Add(1) }))
		require.True(t, g.Enter())
		go func() {
			time.Sleep(2 * time.Second)
			done.Add(1)
			g.Leave()
		}()
		start := time.Now()
		var both sync.WaitGroup
		both.Go(g.Wait)
		both.Go(g.Wait)
		synctest.Wait()
		require.False(t, g.Go(func() { t.Error("it was let in") }))
		require.False(t, g.Enter())
		ran := false
		g.Do(func() { ran = true })
		require.True(t, ran, "on the caller's goroutine")
		both.Wait()
		require.Equal(t, 2*time.Second, time.Since(start))
		require.EqualValues(t, 2, done.Load())
		g.Wait()
	})
}

// Whatever Go said yes to has run when Wait returns, with any number of goroutines that start others meanwhile.
func TestGo_BesideWait(t *testing.T) {
	for range 200 {
		var g owned.Group
		var started, ran atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					if g.Go(func() { g.Do(func() { ran.Add(1) }) }) {
						started.Add(1)
					}
				}
			})
		}
		wg.Go(g.Wait)
		wg.Wait()
		g.Wait()
		require.Equal(t, started.Load(), ran.Load())
	}
}
