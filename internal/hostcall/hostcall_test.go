package hostcall_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
)

const limit = 2 * time.Second

var errHost = errors.New("host")

func TestCall_Outcomes(t *testing.T) {
	tests := []struct {
		name string
		fn   func(ctx context.Context) (int, error)
		want int
		took time.Duration
		is   error
	}{
		{"answers", func(context.Context) (int, error) { return 7, nil }, 7, 0, nil},
		{"fails", func(context.Context) (int, error) { return 0, errHost }, 0, 0, errHost},
		{"is late", func(context.Context) (int, error) { time.Sleep(time.Minute); return 7, nil }, 0, limit, hostcall.ErrTimeout},
		{"is just in time", func(context.Context) (int, error) { time.Sleep(limit - 1); return 7, nil }, 7, limit - 1, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h hostcall.Hook
				start := time.Now()
				got, err := hostcall.Call(t.Context(), &h, "ann", limit, tt.fn)
				require.Equal(t, tt.took, time.Since(start))
				require.Equal(t, tt.want, got)
				require.ErrorIs(t, err, tt.is)
				time.Sleep(time.Hour)
			})
		})
	}
}

// A hook that panics, or ends its goroutine as a test that fails does, is an error and never the zero answer.
func TestCall_NoAnswerIsAnError(t *testing.T) {
	var h hostcall.Hook
	for name, fn := range map[string]func(){"panics": func() { panic("host") }, "exits": runtime.Goexit} {
		_, err := hostcall.Call(t.Context(), &h, "", limit, func(context.Context) (bool, error) { fn(); return true, nil })
		p, ok := errors.AsType[*hostcall.PanicError](err)
		require.True(t, ok, name)
		if name == "panics" {
			require.Equal(t, "host", p.Value)
			require.Contains(t, string(p.Stack()), "hostcall_test")
			require.NotContains(t, err.Error(), "goroutine")
		}
	}
}

func TestCall_EndsWithTheCallersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hostcall.Hook
		why := errors.New("closed")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		start := time.Now()
		_, err := hostcall.Call(ctx, &h, "ann", limit, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, nil })
		require.Equal(t, time.Second, time.Since(start))
		require.True(t, err == nil || errors.Is(err, why))
	})
}

// K2.3, I35: 8 calls of one account that hang are the most, others go on, and when they return it is as before.
func TestCall_HangsAreCountedPerAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hostcall.Hook
		stop := make(chan struct{})
		var calls atomic.Int32
		ask := func(a event.Account) error {
			_, err := hostcall.Call(t.Context(), &h, a, limit, func(context.Context) (int, error) {
				if a != "ann" {
					calls.Add(1)
					<-stop
				}
				return 0, nil
			})
			return err
		}
		for range hostcall.MaxHanging {
			require.ErrorIs(t, ask("eve"), hostcall.ErrTimeout)
			require.NoError(t, ask("ann"))
		}
		start := time.Now()
		for range 100 {
			require.ErrorIs(t, ask("eve"), hostcall.ErrSkipped)
			require.NoError(t, ask("ann"))
		}
		require.Zero(t, time.Since(start))
		require.EqualValues(t, 100, h.Stats().Skipped)
		require.EqualValues(t, hostcall.MaxHanging, calls.Load())
		close(stop)
		synctest.Wait()
		require.NoError(t, ask("eve"))
	})
}

// What must be called is called beyond the most that may hang, and counts with the others of its hook.
func TestAlways_CallsHoweverManyHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hostcall.Hook
		stop := make(chan struct{})
		var calls atomic.Int32
		hang := func(context.Context) (int, error) { calls.Add(1); <-stop; return 0, nil }
		for range 3 * hostcall.MaxHanging {
			_, err := hostcall.Always(t.Context(), &h, "ann", limit, hang)
			require.ErrorIs(t, err, hostcall.ErrTimeout)
		}
		require.EqualValues(t, 3*hostcall.MaxHanging, calls.Load())
		require.EqualValues(t, 3*hostcall.MaxHanging, h.Stats().Timeouts)
		require.Zero(t, h.Stats().Skipped)
		_, err := hostcall.Call(t.Context(), &h, "ann", limit, hang)
		require.ErrorIs(t, err, hostcall.ErrSkipped)
		close(stop)
		synctest.Wait()
		accounts, all := h.Hanging()
		require.Zero(t, accounts+all)
		_, err = hostcall.Always(t.Context(), &h, "ann", limit, func(context.Context) (int, error) { return 0, nil })
		require.NoError(t, err)
		require.EqualValues(t, 3*hostcall.MaxHanging, h.Stats().Timeouts, "they were late all the same")
	})
}

// A caller that goes away makes nothing hang: what counts is whether the call is late.
func TestCall_CallersThatGoAwayAreNoHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hostcall.Hook
		slow := func(context.Context) (int, error) { time.Sleep(time.Second); return 7, nil }
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		var wg sync.WaitGroup
		for range 3 * hostcall.MaxHanging {
			wg.Go(func() { _, _ = hostcall.Call(gone, &h, "ann", limit, slow) })
		}
		wg.Wait()
		got, err := hostcall.Call(t.Context(), &h, "ann", limit, slow)
		require.NoError(t, err)
		require.Equal(t, 7, got)

		deaf := func(context.Context) (int, error) { time.Sleep(time.Hour); return 7, nil }
		for range hostcall.MaxHanging {
			wg.Go(func() { _, _ = hostcall.Call(gone, &h, "ann", limit, deaf) })
		}
		wg.Wait()
		time.Sleep(limit - 1)
		_, err = hostcall.Call(t.Context(), &h, "ann", limit, func(context.Context) (int, error) { return 0, nil })
		require.NoError(t, err)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		_, err = hostcall.Call(t.Context(), &h, "ann", limit, slow)
		require.ErrorIs(t, err, hostcall.ErrSkipped, "by now they are late")
		time.Sleep(time.Hour)
		_, err = hostcall.Call(t.Context(), &h, "ann", limit, slow)
		require.NoError(t, err)
	})
}

// The counts are right after any mixture of calls that are early, late and at the very moment of the time-out.
func TestCall_CountsComeBackToZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hostcall.Hook
		var wg sync.WaitGroup
		for i := range 1_000 {
			wg.Go(func() {
				_, _ = hostcall.Call(t.Context(), &h, event.Account([]string{"a", "b", "c"}[i%3]), limit, func(context.Context) (int, error) {
					time.Sleep(time.Duration(i%5) * limit / 2)
					return 0, nil
				})
			})
		}
		wg.Wait()
		time.Sleep(time.Hour)
		accounts, all := h.Hanging()
		require.Zero(t, accounts)
		require.Zero(t, all)
	})
}

// A panic at the moment in which the caller goes away is told to one of the two, and to one alone: to the caller or to Late.
func TestCall_NoPanicIsLostAsTheCallerGoes(t *testing.T) {
	var told, late atomic.Int64
	h := hostcall.Hook{Late: func(event.Account, error) { late.Add(1) }}
	const calls = 5_000
	for range calls {
		ctx, cancel := context.WithCancel(t.Context())
		begun := make(chan struct{})
		go func() {
			<-begun
			cancel()
		}()
		_, err := hostcall.Call(ctx, &h, "ann", time.Minute, func(ctx context.Context) (int, error) {
			close(begun)
			<-ctx.Done()
			panic("stopped")
		})
		if _, ok := errors.AsType[*hostcall.PanicError](err); ok {
			told.Add(1)
		} else {
			require.ErrorIs(t, err, context.Canceled)
		}
	}
	require.Eventually(t, func() bool { return told.Load()+late.Load() >= calls }, 5*time.Second, time.Millisecond)
	require.EqualValues(t, calls, told.Load()+late.Load())
	require.EqualValues(t, calls, h.Stats().Panics)
}
