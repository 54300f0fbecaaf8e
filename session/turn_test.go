package session_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// TestContext_WhileWaitingForTheTurn: ctx bounds the wait, not the commit that has begun.
func TestContext_WhileWaitingForTheTurn(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		stop := make(chan struct{})
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { <-stop; return nil } })
		first, cancelFirst := context.WithCancel(w.t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := w.reg.Login(first, request("ann", "a1", "ios"))
			done <- err
		}()
		w.pass(0)
		second, cancel := context.WithTimeout(w.t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := w.reg.Login(second, request("ann", "a2", "ios"))
		require.ErrorIs(w.t, err, context.DeadlineExceeded)
		require.Equal(w.t, time.Minute, time.Since(start))
		cancelFirst()
		w.pass(time.Second)
		close(stop)
		require.NoError(w.t, <-done, "the commit is seen through")
		require.Equal(w.t, "a1", w.devices("ann"))
	})
}

func TestContext_OverBeforeTheCall(t *testing.T) {
	for _, tt := range calls {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				all := ready(w)
				before := w.stored("ann")
				ctx, cancel := context.WithCancel(w.t.Context())
				cancel()
				for range 20 {
					require.ErrorIs(w.t, tt.call(ctx, w, all), context.Canceled)
				}
				require.Equal(w.t, before, w.stored("ann"))
			})
		})
	}
}

// TestS15_OtherAccountsDoNotWait: one account's store operation stalls.
func TestS15_OtherAccountsDoNotWait(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		stop := make(chan struct{})
		w.st.set(func(f *faults) {
			f.before = func(b store.Batch) error {
				if b.Account == "stalled" {
					<-stop
				}
				return nil
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { w.login("stalled", "a1", "ios") })
		w.pass(0)
		for i := range 1_000 { // every shard is met
			a := event.Account(fmt.Sprint("ann", i))
			w.join(a, "a1", "ios")
			require.Len(w.t, w.list(a), 1)
		}
		require.Empty(w.t, w.list("stalled"))
		close(stop)
		wg.Wait()
		require.Equal(w.t, "a1", w.devices("stalled"))
	})
}
