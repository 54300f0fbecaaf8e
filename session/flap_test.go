package session_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
)

// robot logs in again as soon as it is out, every so often, whatever it is told, until the time is over.
func (w *world) robot(a event.Account, d event.DeviceID, p event.Platform, every, life time.Duration) (admitted int) {
	end := time.Now().Add(life)
	for time.Now().Before(end) {
		g, err := w.tryLogin(request(a, d, p))
		if err == nil {
			admitted++
			closed := make(chan struct{})
			var once sync.Once
			c := &wire{onClose: func(event.Closed) error { once.Do(func() { close(closed) }); return nil }}
			if _, err := g.tryAttach(c); err == nil {
				select {
				case <-closed:
				case <-time.After(time.Until(end)):
				}
			}
		} else {
			require.ErrorIs(w.t, err, session.ErrLimited)
		}
		time.Sleep(every)
	}
	return admitted
}

// K11.2: robots that log in again as soon as they are evicted, one more than the quota allows. They calm down, and the
// account's other platforms do not notice.
func TestS22_RobotsBeyondTheQuotaCalmDown_K11_2(t *testing.T) {
	for _, tt := range []struct {
		robots, quota int
		perMinute     int
		bursts        int // of devices that have to do with one another
	}{{2, 1, 10, 1}, {3, 2, 10, 1}, {5, 4, 10, 1}, {5, 4, -1, 1}, {9, 8, 20, 1}, {12, 4, 20, 3}} {
		t.Run(fmt.Sprintf("%d robots, quota %d, %d logins a minute", tt.robots, tt.quota, tt.perMinute), func(t *testing.T) {
			s := setup{rules: policy.Rules{Platforms: map[event.Platform]int{"ios": tt.quota}}, config: session.Config{
				FlapLimit: 3, LoginsPerMinute: tt.perMinute, IdleTimeout: -1,
			}}
			inBubble(t, s, func(w *world) {
				const life = 3 * time.Minute
				var admitted atomic.Int64
				var all sync.WaitGroup
				for i := range tt.robots {
					all.Go(func() {
						time.Sleep(time.Duration(i) * 10 * time.Millisecond)
						admitted.Add(int64(w.robot("ann", event.DeviceID(fmt.Sprint("robot", i)), "ios", 200*time.Millisecond, life)))
					})
				}
				w.pass(20 * time.Second)
				require.LessOrEqual(w.t, int(admitted.Load())+countEnded(w, "robot"), 2*(tt.robots+8), "95 evictions of five without the brake")
				for i := range 8 { // somebody at the web and the Mac
					w.login("ann", event.DeviceID(fmt.Sprint("web", i%2)), "web")
					w.login("ann", event.DeviceID(fmt.Sprint("mac", i%2)), "macos")
					w.pass(20 * time.Second)
				}
				all.Wait()
				require.LessOrEqual(w.t, countEnded(w, "robot"), 3+int(life/(5*time.Second))+tt.robots)
				require.LessOrEqual(w.t, countKind(w, session.ChangeContended), tt.bursts)
				require.Positive(w.t, countKind(w, session.ChangeContended))
			})
		})
	}
}

// countEnded returns how many logins of devices whose names begin like that have ended.
func countEnded(w *world, prefix string) int {
	n := 0
	for _, c := range w.history() {
		if c.Kind == session.ChangeEnded && len(c.Session.Device) > len(prefix) && string(c.Session.Device[:len(prefix)]) == prefix {
			n++
		}
	}
	return n
}

// Five in turns, over both stores: the one that has been evicted and comes back is refused, the others and strangers to the
// quarrel are not.
func TestS22_OnlyThoseWhoEvictInTurnsAreRefused_K11_2(t *testing.T) {
	s := setup{rules: policy.Rules{PerPlatform: 4}, config: session.Config{FlapLimit: 3, IdleTimeout: -1}}
	onStores(t, s, func(w *world) {
		w.fill("ann", "ios", "a", "b", "c", "d", "e") // e evicts a
		for _, d := range []event.DeviceID{"a", "b", "c"} {
			w.join("ann", d, "ios")
		}
		before := w.stored("ann")
		for range 10 {
			_, err := w.tryLogin(request("ann", "d", "ios"))
			require.LessOrEqual(w.t, limited(w.t, err, event.Flapping), 5*time.Second)
		}
		require.Equal(w.t, before, w.stored("ann"))
		require.Equal(w.t, "e a b c", w.devices("ann"))
		w.fill("ann", "macos", "m1", "m2", "m3", "m4", "m5", "m1", "m2") // m1 and m2 were evicted, but not by those
		w.join("ann", "new", "ios")                                      // evicts e, and was never evicted
		_, err := w.tryLogin(request("ann", "e", "ios"))
		limited(w.t, err, event.Flapping)
		w.join("ann", "c", "ios") // its own login again is no matter of the others
		w.restart(w.now)
		_, err = w.tryLogin(request("ann", "d", "ios"))
		limited(w.t, err, event.Flapping)
		require.Equal(w.t, 1, countKind(w, session.ChangeContended))
	})
}

// Swaps leave half of the account's logins a minute to others.
func TestS22_SwapsPayFirst_K11_2(t *testing.T) {
	inBubble(t, setup{rules: onePhone, config: session.Config{FlapLimit: 3, LoginsPerMinute: 10}}, func(w *world) {
		phones := []event.DeviceID{"x", "y"}
		in := 0
		for i := range 200 {
			if _, err := w.tryLogin(request("ann", phones[i%2], "ios")); err == nil {
				in++
			} else {
				require.ErrorIs(w.t, err, session.ErrLimited)
			}
			w.pass(300 * time.Millisecond) // a minute in all
		}
		require.Less(w.t, in, 5+10)
		for i := range 5 {
			w.login("ann", event.DeviceID(fmt.Sprint("w", i)), "web")
		}
	})
}

// Times of a clock that was ahead keep nobody out for longer than the pause and the window.
func TestS22_EvictionsOfAClockThatWasAhead(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"a day": 24 * time.Hour, "eight seconds": 8 * time.Second, "a day back": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, setup{rules: onePhone, config: session.Config{FlapLimit: 3}}, func(w *world) {
				for i := range 5 {
					w.join("ann", []event.DeviceID{"x", "y"}[i%2], "ios")
				}
				w.edit("ann", func(r *session.Record) {
					for i := range r.Evictions {
						r.Evictions[i].Time += ahead.Milliseconds()
					}
				})
				w.restart(w.now)
				start := time.Now()
				for {
					_, err := w.tryLogin(request("ann", "y", "ios"))
					if err == nil {
						break
					}
					limited(w.t, err, event.Flapping)
					w.pass(500 * time.Millisecond)
				}
				require.LessOrEqual(w.t, time.Since(start), 15*time.Second)
			})
		})
	}
}

// However many evict and are evicted, what the record keeps of it is bounded.
func TestI27_EvictionsTakeLittleRoom(t *testing.T) {
	s := setup{rules: policy.Rules{Single: true}, config: session.Config{FlapLimit: 16, MaxDevices: 64}}
	onStores(t, s, func(w *world) {
		for round := range 10 {
			require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, policy.Rules{PerPlatform: -1})))
			for i := range 20 {
				_, err := w.tryLogin(request("ann", event.DeviceID(fmt.Sprintf("a long name of a device %d", i)), "ios"))
				require.True(w.t, err == nil || errors.Is(err, session.ErrLimited), "%v", err)
			}
			require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, policy.Rules{Single: true})))
			_, err := w.tryLogin(request("ann", event.DeviceID(fmt.Sprint("new", round)), "ios"))
			require.NoError(w.t, err)
		}
		rec, err := session.DecodeRecord([]byte(w.stored("ann").data))
		require.NoError(w.t, err)
		require.LessOrEqual(w.t, len(rec.Evictions), 32)
	})
}

// K11.1: private windows of a browser, which come without a device ID and never log out. All of them get in, 64 logins are
// kept, and the devices that the account remembers stay.
func TestPrivateWindowsLockNobodyOut_K11_1(t *testing.T) {
	inBubble(t, setup{config: session.Config{MaxDevices: 32}}, func(w *world) {
		for i := range 32 { // they log in and out, and are remembered
			g := w.login("ann", event.DeviceID(fmt.Sprint("real", i)), "ios")
			require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", g.id))
		}
		for i := range 200 {
			g, err := w.tryLogin(session.LoginRequest{Account: "ann", Platform: "web"})
			require.NoError(w.t, err, "window %d", i)
			g.attach().conn.Detach()
			w.pass(3 * time.Minute)
			require.LessOrEqual(w.t, len(w.list("ann")), policy.MaxLogins)
		}
		require.Len(w.t, w.list("ann"), policy.MaxLogins)
		devices, err := w.reg.Devices(w.t.Context(), "ann")
		require.NoError(w.t, err)
		for i := range 32 {
			require.Contains(w.t, devices, event.DeviceID(fmt.Sprint("real", i)))
		}
		require.Len(w.t, devices, 32+policy.MaxLogins)
		phone := w.join("ann", "real0", "ios")
		require.True(w.t, phone.live())
	})
	t.Run("over both stores, all at once", func(t *testing.T) {
		onStores(t, setup{config: session.Config{ResumeWindow: -1, SweepInterval: time.Millisecond}}, func(w *world) {
			w.join("ann", "phone", "ios")
			for i := range 200 {
				g, err := w.tryLogin(session.LoginRequest{Account: "ann", Platform: "web"})
				require.NoError(w.t, err, "window %d", i)
				_ = g
			}
			require.LessOrEqual(w.t, len(w.list("ann")), policy.MaxLogins)
			require.Contains(w.t, w.devices("ann"), "phone")
		})
	})
}

// K11.2: two devices that each choose the other to make room, again and again, are slowed down like those that the rules
// choose, and the account's other platforms log in all the same.
func TestS22_DevicesThatReplaceEachOtherAreSlowedDown(t *testing.T) {
	rules := policy.Rules{Platforms: map[event.Platform]int{"ios": 1}, Actions: map[event.Platform]policy.Action{"ios": policy.RefuseNew}}
	inBubble(t, setup{rules: rules, config: session.Config{FlapLimit: 3, LoginsPerMinute: 20, IdleTimeout: -1}}, func(w *world) {
		id, admitted, told := w.join("ann", "a0", "ios").id, 0, 0
		for i := range 300 { // half a minute
			res, err := w.reg.LoginReplacing(w.t.Context(), request("ann", event.DeviceID(fmt.Sprint("a", (admitted+1)%2)), "ios"), id)
			if err == nil {
				id, admitted = res.Session.Login, admitted+1
			} else if e, ok := errors.AsType[*session.LimitedError](err); ok && e.Reason == event.Flapping {
				told++
			}
			if i == 150 {
				w.login("ann", "browser", "web")
			}
			w.pass(100 * time.Millisecond)
		}
		require.LessOrEqual(w.t, admitted, 4+6)
		require.Positive(w.t, told)
		require.Equal(w.t, 1, countKind(w, session.ChangeContended))
	})
}
