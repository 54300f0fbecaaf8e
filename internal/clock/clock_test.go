package clock_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/internal/clock"
)

const day = 24 * time.Hour

// world is a clock in a bubble whose wall clock can be set.
type world struct {
	*clock.Clock
	off atomic.Int64
}

func inBubble(t *testing.T, grace time.Duration, run func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := new(world)
		w.Clock = clock.New(func() time.Time { return time.Now().Add(time.Duration(w.off.Load())) }, grace)
		run(t, w)
	})
}

func (w *world) step(d time.Duration) { w.off.Add(int64(d)) }

func (w *world) stamp() int64 { return w.Now().UnixMilli() }

func TestRead_NoticesAStepAndBeginsAGrace(t *testing.T) {
	for name, tc := range map[string]struct {
		step  time.Duration
		noted bool
	}{
		"a minute at once":      {time.Minute, false},
		"61 s at once":          {61 * time.Second, true},
		"61 s back":             {-61 * time.Second, true},
		"an hour back":          {-time.Hour, true},
		"40 days ahead":         {40 * day, true},
		"back to the beginning": {-30 * 365 * day, true},
		"200 years ahead":       {200 * 365 * day, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, day, func(t *testing.T, w *world) {
				time.Sleep(time.Minute)
				w.step(tc.step)
				require.Equal(t, tc.noted, w.Read().Grace, "the first to read it knows")
				jumps := w.Jumps()
				if !tc.noted {
					require.Empty(t, jumps)
					return
				}
				require.Equal(t, []clock.Jump{{By: tc.step}}, jumps)
				require.Empty(t, w.Jumps(), "each is told once")
				time.Sleep(day - time.Second)
				require.True(t, w.Read().Grace)
				time.Sleep(time.Second)
				require.False(t, w.Read().Grace)
			})
		})
	}
}

// TestRead_DriftIsNoStep: 50 s in an hour, for a day, is a bad clock and not one that was set.
func TestRead_DriftIsNoStep(t *testing.T) {
	for name, each := range map[string]time.Duration{"fast": 50 * time.Second, "slow": -50 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, day, func(t *testing.T, w *world) {
				for range 24 * 60 {
					time.Sleep(time.Minute)
					w.step(each / 60)
					require.False(t, w.Read().Grace)
				}
				require.Empty(t, w.Jumps())
			})
		})
	}
}

func TestTick_NoticesAProcessThatStoodStill(t *testing.T) {
	for name, tc := range map[string]struct {
		stood    time.Duration
		woke     bool
		awayNote bool
	}{
		"on time":     {5 * time.Second, false, false},
		"a bit late":  {9 * time.Second, false, false},
		"two minutes": {2 * time.Minute, true, false},
		"40 days":     {40 * day, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, day, func(t *testing.T, w *world) {
				time.Sleep(time.Minute)
				w.Tick(5 * time.Second)
				time.Sleep(tc.stood)
				r := w.Read()
				require.Equal(t, tc.awayNote, r.Grace)
				if tc.woke {
					require.Equal(t, r.Elapsed, w.Woke())
				} else {
					require.Zero(t, w.Woke())
				}
				if tc.awayNote {
					require.Equal(t, []clock.Jump{{Gap: true, By: tc.stood}}, w.Jumps())
				}
				require.Empty(t, w.Jumps())
			})
		})
	}
}

func TestResume_GoesOnWithAGrace(t *testing.T) {
	inBubble(t, day, func(t *testing.T, w *world) {
		w.Resume(time.Hour)
		require.Equal(t, time.Hour, w.Left())
		w.Resume(time.Minute)
		require.Equal(t, time.Hour, w.Left(), "the longer one counts")
		w.Resume(100 * day)
		require.Equal(t, day, w.Left(), "none is longer than a whole one")
		w.Note(clock.Jump{Gap: true})
		require.Equal(t, []clock.Jump{{Gap: true}}, w.Jumps())
	})
	inBubble(t, -1, func(t *testing.T, w *world) {
		w.Note(clock.Jump{Gap: true})
		w.step(day)
		require.False(t, w.Read().Grace, "there is none")
		require.Len(t, w.Jumps(), 2, "it is told all the same")
	})
}

func TestAgo_TakesStepsOut(t *testing.T) {
	inBubble(t, day, func(t *testing.T, w *world) {
		ago := func(want time.Duration, stored int64) {
			t.Helper()
			have, ok := w.Ago(stored)
			require.True(t, ok)
			require.Equal(t, want, have)
		}
		before := w.Now().Add(-time.Hour).UnixMilli()
		ago(time.Hour, before)
		first := w.stamp()
		time.Sleep(time.Minute)
		w.step(3 * day)
		ago(time.Minute, first)
		second := w.stamp()
		time.Sleep(time.Minute)
		ago(2*time.Minute, first)
		ago(time.Minute, second)
		w.step(-3*day - time.Hour)
		third := w.stamp()
		time.Sleep(time.Minute)
		ago(3*time.Minute, first)
		ago(2*time.Minute, second)
		ago(time.Minute, third)
		_, ok := w.Ago(w.Now().Add(30 * day).UnixMilli())
		require.False(t, ok, "no clock has said that")
	})
}

func TestBefore_KnowsWhatThisProcessHasStored(t *testing.T) {
	inBubble(t, day, func(t *testing.T, w *world) {
		opened := w.stamp()
		time.Sleep(time.Minute)
		here := w.stamp()
		w.step(-time.Hour)
		time.Sleep(time.Second)
		w.Read()
		time.Sleep(time.Second)
		back := w.stamp()
		require.True(t, w.Before(opened))
		require.True(t, w.Before(opened-day.Milliseconds()))
		require.False(t, w.Before(here))
		require.False(t, w.Before(back))
	})
}

func TestReading_Ages(t *testing.T) {
	inBubble(t, day, func(t *testing.T, w *world) {
		r := w.Read()
		now := r.Now.UnixMilli()
		require.Equal(t, time.Hour, r.Age(now-time.Hour.Milliseconds()))
		require.Zero(t, r.Age(now+day.Milliseconds()), "of now")
		require.True(t, r.Old(now-1, 0))
		require.Equal(t, r.Now.Add(-time.Second), r.At(r.Elapsed-time.Second))
		w.step(day)
		require.False(t, w.Read().Old(now-40*day.Milliseconds(), time.Hour), "not while there is a grace")
	})
}

// TestRead_FromManyGoroutines: each step is noted once, whoever reads it first.
func TestRead_FromManyGoroutines(t *testing.T) {
	inBubble(t, day, func(t *testing.T, w *world) {
		for range 10 {
			time.Sleep(time.Minute)
			w.step(time.Hour)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					if !w.Read().Grace {
						t.Error("a step that was not noticed")
					}
					w.Tick(time.Minute)
					w.Left()
					w.Ago(0)
				})
			}
			all.Wait()
			require.Len(t, w.Jumps(), 1)
		}
	})
}

func BenchmarkNow(b *testing.B) {
	c := clock.New(nil, day)
	b.ReportAllocs()
	for b.Loop() {
		c.Now()
	}
}
