package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
)

// limited requires that err says to come back later, and returns when.
func limited(t *testing.T, err error, reason event.Reason) time.Duration {
	t.Helper()
	require.ErrorIs(t, err, session.ErrLimited)
	e, ok := errors.AsType[*session.LimitedError](err)
	require.True(t, ok)
	require.Equal(t, reason, e.Reason)
	require.Positive(t, e.RetryAfter)
	require.Contains(t, e.Error(), string(reason))
	require.Equal(t, reason.Closed(e.RetryAfter), e.Closed())
	require.Equal(t, event.RetryAfter, e.Closed().Retry)
	return e.RetryAfter
}

func TestD10_LoginRate(t *testing.T) {
	onStores(t, setup{config: session.Config{LoginsPerMinute: 3}}, func(w *world) {
		for i := range 3 {
			w.login("ann", event.DeviceID(fmt.Sprintf("a%d", i)), "ios")
		}
		before := w.stored("ann")
		_, err := w.tryLogin(request("ann", "a9", "ios"))
		wait := limited(w.t, err, event.RateLimited)
		require.InDelta(w.t, 20*time.Second, wait, float64(5*time.Second))
		require.Equal(w.t, before, w.stored("ann"), "nothing was written")
		w.login("bea", "b1", "ios") // of another account

		w.restart(w.now)
		_, err = w.tryLogin(request("ann", "a9", "ios"))
		limited(w.t, err, event.RateLimited)
		if w.real {
			return
		}
		w.pass(wait - time.Millisecond)
		_, err = w.tryLogin(request("ann", "a9", "ios"))
		limited(w.t, err, event.RateLimited)
		w.pass(time.Millisecond)
		w.login("ann", "a9", "ios")
		_, err = w.tryLogin(request("ann", "a8", "ios"))
		limited(w.t, err, event.RateLimited)
		w.pass(time.Minute)
		for i := range 3 {
			w.login("ann", event.DeviceID(fmt.Sprintf("c%d", i)), "ios")
		}
	})
}

func TestD10_LoginRateDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, err := session.New(memstore.New(memstore.Config{}), session.Config{})
		require.NoError(t, err)
		defer func() { require.NoError(t, reg.Close(context.Background())) }()
		for i := range 11 {
			_, err = reg.Login(t.Context(), request("ann", event.DeviceID(fmt.Sprintf("a%d", i)), "ios"))
			if i < 10 {
				require.NoError(t, err)
			}
		}
		require.Equal(t, 6*time.Second, limited(t, err, event.RateLimited), "10 a minute")
	})
}

func TestD10_LoginRateCountsAdmissionsOnly(t *testing.T) {
	refuse := policy.Rules{Platforms: map[event.Platform]int{"ios": 1}, AtPlatform: policy.RefuseNew}
	inBubble(t, setup{rules: refuse, config: session.Config{LoginsPerMinute: 3}}, func(w *world) {
		w.login("ann", "a1", "ios")
		for i := range 20 {
			_, err := w.tryLogin(request("ann", "a2", "ios"))
			if i < 3 { // refusals are counted apart
				require.ErrorIs(w.t, err, session.ErrRefused)
			} else {
				limited(w.t, err, event.RateLimited)
			}
		}
		for i := range 2 {
			w.login("ann", event.DeviceID(fmt.Sprint("w", i)), "web")
		}
	})
}

// TestK1_4_LoginRateAfterAClockThatWasAhead: a clock that was ahead for one login locks nobody out when it is right again, and
// the rate holds from then on.
func TestK1_4_LoginRateAfterAClockThatWasAhead(t *testing.T) {
	for name, ahead := range map[string]time.Duration{
		"half a minute": 30 * time.Second, "three minutes": 3 * time.Minute, "a day": 24 * time.Hour, "a century": 100 * 365 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			wall := new(wallClock)
			s := setup{config: session.Config{LoginsPerMinute: 2, Wall: wall.now}}
			inBubble(t, s, func(w *world) {
				wall.set(ahead)
				w.login("ann", "a1", "ios")
				wall.set(0)
				last, tries := time.Now(), 0
				for range 10 { // whoever obeys the advice gets in, at half a minute each
					_, err := w.tryLogin(request("ann", "a2", "ios"))
					for ; err != nil && time.Since(last) <= time.Minute; tries++ {
						wait := limited(w.t, err, event.RateLimited)
						require.LessOrEqual(w.t, wait, time.Minute)
						w.pass(wait)
						_, err = w.tryLogin(request("ann", "a2", "ios"))
					}
					require.NoError(w.t, err, "within a minute")
					last = time.Now()
				}
				require.GreaterOrEqual(w.t, tries, 8, "the rate holds")
			})
		})
	}
}

func TestA20_S22_SwapsAreSlowedDown(t *testing.T) {
	one := policy.Rules{Platforms: map[event.Platform]int{"ios": 1}}
	onStores(t, setup{rules: one, config: session.Config{FlapLimit: 3}}, func(w *world) {
		phones := []event.DeviceID{"x", "y"}
		// x, y evicts x, and three swaps: x evicts y, y evicts x, x evicts y.
		for i := range 5 {
			w.join("ann", phones[i%2], "ios")
		}
		events := len(w.entries("ann"))
		before := w.stored("ann")
		for range 50 {
			_, err := w.tryLogin(request("ann", "y", "ios"))
			require.LessOrEqual(w.t, limited(w.t, err, event.Flapping), 5*time.Second)
		}
		require.Equal(w.t, before, w.stored("ann"), "the other one stays, nothing is written")
		require.Equal(w.t, "x", w.devices("ann"))
		require.Len(w.t, w.entries("ann"), events)
		require.Equal(w.t, 1, countKind(w, session.ChangeContended))
		w.join("ann", "z", "ios") // a third device has nothing to do with it
		if w.real {
			return
		}
		w.pass(5 * time.Second)
		w.join("ann", "y", "ios")
		require.Equal(w.t, "y", w.devices("ann"))
	})
}

// Two phones that ignore all advice for a minute: what they can do to the account is bounded.
func TestS22_VolumeIsBounded(t *testing.T) {
	one := policy.Rules{Platforms: map[event.Platform]int{"ios": 1}}
	inBubble(t, setup{rules: one, config: session.Config{FlapLimit: 3}}, func(w *world) {
		phones := []event.DeviceID{"x", "y"}
		admitted := 0
		for i := range 6_000 { // each tries every 20 ms
			if _, err := w.tryLogin(request("ann", phones[i%2], "ios")); err == nil {
				admitted++
			} else if errors.Is(err, session.ErrLimited) {
				require.Contains(w.t, "x y", w.devices("ann"), "one of them is there all the time")
			}
			w.pass(10 * time.Millisecond)
		}
		require.LessOrEqual(w.t, admitted, 60, "about three swaps and one that is none in 5 s; without the brake 6,000")
	})
}

func TestS23_ClonedDeviceID(t *testing.T) {
	onStores(t, setup{config: session.Config{FlapLimit: 3}}, func(w *world) {
		var last *gadget
		for range 5 { // two machines, in turns
			last = w.join("ann", "laptop", "macos")
		}
		_, err := w.tryLogin(request("ann", "laptop", "macos"))
		limited(w.t, err, event.Flapping)
		require.True(w.t, last.live())
		require.Equal(w.t, 1, countKind(w, session.ChangeContended))
		for _, c := range w.history() {
			if c.Kind == session.ChangeContended {
				require.Equal(w.t, event.DeviceID("laptop"), c.Session.Device)
				require.Equal(w.t, event.Account("ann"), c.Session.Account)
				require.Equal(w.t, event.Flapping, c.Reason)
			}
		}
		w.join("ann", "phone", "ios")
	})
}

// A login that has lost its slot comes back by an attach, which is an admission as well.
func TestS22_ComebacksCount(t *testing.T) {
	one := policy.Rules{Platforms: map[event.Platform]int{"ios": 1}, Reconnect: policy.ReconnectEvicts}
	inBubble(t, setup{rules: one, config: session.Config{FlapLimit: 1, ResumeWindow: -1, SweepInterval: time.Millisecond}}, func(w *world) {
		x := w.join("ann", "x", "ios")
		x.conn.Detach()
		w.pass(10 * time.Millisecond)
		w.join("ann", "y", "ios")
		x.attach() // evicts y
		w.join("ann", "y", "ios")
		require.Equal(w.t, "y", w.devices("ann"), "the first swap")
		require.Equal(w.t, event.EvictedQuota, x.refused().Reason)
		_, err := w.tryLogin(request("ann", "x", "ios"))
		limited(w.t, err, event.Flapping)
	})
}

func countKind(w *world, k session.ChangeKind) int {
	n := 0
	for _, c := range w.history() {
		if c.Kind == k {
			n++
		}
	}
	return n
}

func TestD10_S66_AttachLimiter(t *testing.T) {
	inBubble(t, setup{config: session.Config{AttachesPerSecond: 50, IdleTimeout: -1}}, func(w *world) {
		var crowd []*gadget
		for i := range 1_000 {
			crowd = append(crowd, w.login(event.Account(fmt.Sprintf("u%d", i)), "d", "ios"))
		}
		var reads atomic.Int64
		w.st.set(func(f *faults) {
			f.load = func() error {
				reads.Add(1)
				return nil
			}
		})
		var mu sync.Mutex
		waits := map[time.Duration]int{}
		in := 0
		var all sync.WaitGroup
		for _, g := range crowd {
			all.Go(func() {
				_, err := g.tryAttach(new(wire))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					in++
					return
				}
				waits[limited(w.t, err, event.RateLimited)]++
			})
		}
		all.Wait()
		require.Equal(w.t, 50, in)
		require.LessOrEqual(w.t, reads.Load(), int64(50), "those who were refused have read nothing")
		require.Greater(w.t, len(waits), 900, "the advice is spread")
		for d := range waits {
			require.GreaterOrEqual(w.t, d, time.Second)
			require.LessOrEqual(w.t, d, 30*time.Second)
		}

		// Everybody does as told, until all are in.
		start := time.Now()
		tries := 0
		for _, g := range crowd {
			all.Go(func() {
				for {
					_, err := g.tryAttach(new(wire))
					if err == nil {
						return
					}
					mu.Lock()
					tries++
					mu.Unlock()
					time.Sleep(limited(w.t, err, event.RateLimited))
				}
			})
		}
		all.Wait()
		require.Less(w.t, time.Since(start), 2*time.Minute, "20 s at best")
		require.Less(w.t, tries, 8_000)
	})
}

func TestD10_LimitsAreChecked(t *testing.T) {
	_, err := session.New(memstore.New(memstore.Config{}), session.Config{LoginsPerMinute: 60_001, FlapLimit: 17})
	require.ErrorContains(t, err, "LoginsPerMinute")
	require.ErrorContains(t, err, "FlapLimit")
}

// TestK1_AClockThatIsSetBackDoesNotProlongAPause: a step too small to count as one.
func TestK1_AClockThatIsSetBackDoesNotProlongAPause(t *testing.T) {
	for _, back := range []time.Duration{time.Second, 9 * time.Second, 50 * time.Second, time.Hour} {
		t.Run(back.String(), func(t *testing.T) {
			s, wall := withWall(setup{rules: policy.Rules{PerPlatform: 1}, config: session.Config{FlapLimit: 3}})
			inBubble(t, s, func(w *world) {
				var err error
				turn := func() error {
					_, err = w.tryLogin(request("ann", "a", "ios"))
					if err == nil {
						_, err = w.tryLogin(request("ann", "b", "ios"))
					}
					return err
				}
				for turn() == nil {
					w.pass(time.Millisecond)
				}
				limited(w.t, err, event.Flapping)
				wall.set(-back)
				w.pass(5 * time.Second)
				_, err = w.tryLogin(request("ann", "a", "ios"))
				if err != nil {
					_, err = w.tryLogin(request("ann", "b", "ios"))
				}
				require.NoError(w.t, err)
			})
		})
	}
}
