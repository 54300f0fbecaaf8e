package hostcall_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
)

// nilErr is an error that panics when it is looked at, if it is a nil one.
type nilErr struct{ text string }

func (e *nilErr) Error() string { return e.text }

// K20.4: what becomes of calls, and how long they take, is counted once each.
func TestHook_Stats(t *testing.T) {
	for _, tt := range []struct {
		name string
		fn   func(context.Context) (int, error)
		want hostcall.Stats
	}{
		{"answers", func(context.Context) (int, error) { time.Sleep(1900 * time.Millisecond); return 1, nil },
			hostcall.Stats{Total: 1900 * time.Millisecond, Longest: 1900 * time.Millisecond}},
		{"fails", func(context.Context) (int, error) { return 0, errHost }, hostcall.Stats{Failures: 1}},
		{"panics", func(context.Context) (int, error) { panic("host") }, hostcall.Stats{Panics: 1}},
		{"ends its goroutine", func(context.Context) (int, error) { runtime.Goexit(); return 0, nil }, hostcall.Stats{Panics: 1}},
		{"fails with an error that panics", func(context.Context) (int, error) { return 0, (*nilErr)(nil) }, hostcall.Stats{Panics: 1}},
		{"looks at its context", func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() },
			hostcall.Stats{Timeouts: 1, Total: limit, Longest: limit}},
		{"is late", func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil },
			hostcall.Stats{Timeouts: 1, Total: time.Minute, Longest: time.Minute}},
		{"is late and fails", func(context.Context) (int, error) { time.Sleep(time.Minute); return 0, errHost },
			hostcall.Stats{Timeouts: 1, Total: time.Minute, Longest: time.Minute}},
		{"is late and panics", func(context.Context) (int, error) { time.Sleep(time.Minute); panic("host") },
			hostcall.Stats{Timeouts: 1, Panics: 1, Total: time.Minute, Longest: time.Minute}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h hostcall.Hook
				_, _ = hostcall.Call(t.Context(), &h, "ann", limit, tt.fn)
				if tt.want.Timeouts > 0 && tt.name != "looks at its context" {
					require.Equal(t, limit, h.Stats().Longest, "it shows before it returns")
				}
				time.Sleep(time.Hour)
				tt.want.Calls = 1
				require.Equal(t, tt.want, h.Stats())
			})
		})
	}
}

// A panic is told also when its caller has gone, and only once when it has not.
func TestHook_LatePanics(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after time.Duration // the call panics
		gone  time.Duration // its caller goes away
		told  int32
	}{
		{"in time", time.Second, time.Hour, 0},
		{"after the time-out", time.Minute, time.Hour, 1},
		{"after its caller has gone", time.Second + time.Millisecond, time.Second, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told atomic.Int32
				h := hostcall.Hook{Late: func(a event.Account, err error) {
					require.Equal(t, event.Account("ann"), a)
					require.ErrorContains(t, err, "host")
					told.Add(1)
				}}
				ctx, cancel := context.WithTimeout(t.Context(), tt.gone)
				defer cancel()
				_, err := hostcall.Call(ctx, &h, "ann", limit, func(context.Context) (int, error) { time.Sleep(tt.after); panic("host") })
				require.Error(t, err)
				time.Sleep(time.Hour)
				require.Equal(t, tt.told, told.Load())
				require.EqualValues(t, 1, h.Stats().Panics)
			})
		})
	}
}

// Here is for what cannot wait for a goroutine: the same errors and figures, without a bound.
func TestHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hostcall.Hook
		v, err := hostcall.Here(&h, func() (int, error) { time.Sleep(time.Minute); return 7, nil })
		require.NoError(t, err)
		require.Equal(t, 7, v)
		_, err = hostcall.Here(&h, func() (int, error) { return 0, errHost })
		require.ErrorIs(t, err, errHost)
		_, err = hostcall.Here(&h, func() (int, error) { panic("host") })
		require.ErrorContains(t, err, "panicked: host")
		_, err = hostcall.Here(&h, func() (int, error) { return 0, (*nilErr)(nil) })
		require.ErrorContains(t, err, "panicked")
		require.Equal(t, hostcall.Stats{Calls: 4, Failures: 1, Panics: 2, Total: time.Minute, Longest: time.Minute}, h.Stats())
	})
}
