package fanout_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/fanout"
)

func TestD4_Subscriptions(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		refuse := func(n int) {
			for range n {
				_, err := w.r.Send(context.Background(), fanout.SendRequest{})
				require.Error(w.t, err)
			}
		}
		for _, n := range []int{0, -1, 1<<20 + 1} {
			_, err := w.r.Subscribe(n)
			w.invalid(err, "buffer")
		}
		small, err := w.r.Subscribe(2)
		require.NoError(w.t, err)
		large, err := w.r.Subscribe(10)
		require.NoError(w.t, err)
		refuse(5)
		require.Len(w.t, small.Events(), 2)
		require.Equal(w.t, uint64(3), small.Dropped(), "nobody waits for who is slow")
		require.Len(w.t, large.Events(), 5)
		small.Close()
		small.Close()
		refuse(1)
		require.Len(w.t, large.Events(), 6)
		require.Equal(w.t, uint64(3), small.Dropped())
		n := 0
		for range small.Events() {
			n++
		}
		require.Equal(w.t, 2, n, "closed, and what was there can be read")

		var wg sync.WaitGroup // come and go while events are told
		for range 8 {
			wg.Go(func() {
				for range 100 {
					s, err := w.r.Subscribe(1)
					require.NoError(w.t, err)
					refuse(1)
					s.Close()
				}
			})
		}
		wg.Wait()
		require.NoError(w.t, w.r.Close(context.Background()))
		for range large.Events() {
			n++
		}
		require.Equal(w.t, 12, n, "closed with the router")
		large.Close()
		_, err = w.r.Subscribe(1)
		require.ErrorIs(w.t, err, fanout.ErrClosed)
	})
}
