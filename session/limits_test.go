package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// K2.1: a stranger with an account of his own attaches in a loop. All others get in, at their first try, whatever he names.
func TestI35_AStrangerWhoLoopsOnAttach_K2_1(t *testing.T) {
	tests := []struct {
		name string
		ask  func(own *gadget, honest []*gadget, i int) session.AttachRequest
	}{
		{"with a login and a token that never were", func(*gadget, []*gadget, int) session.AttachRequest {
			return session.AttachRequest{Account: "stranger", Login: event.NewLoginID(), Token: event.NewResumeToken()}
		}},
		{"with the login of somebody else", func(_ *gadget, honest []*gadget, i int) session.AttachRequest {
			return session.AttachRequest{Account: "stranger", Login: honest[i%len(honest)].id, Token: event.NewResumeToken()}
		}},
		{"with his own login and a wrong token", func(own *gadget, _ []*gadget, _ int) session.AttachRequest {
			return session.AttachRequest{Account: "stranger", Login: own.id, Token: event.NewResumeToken()}
		}},
		{"with his own login and token", func(own *gadget, _ []*gadget, _ int) session.AttachRequest {
			return session.AttachRequest{Account: "stranger", Login: own.id, Token: own.token}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := setup{config: session.Config{AttachesPerSecond: 2_000, AttachesPerAccount: 10, IdleTimeout: -1}}
			onStores(t, s, func(w *world) {
				own := w.login("stranger", "d", "ios")
				var honest []*gadget
				for i := range 200 {
					honest = append(honest, w.login(event.Account(fmt.Sprint("u", i)), "d", "ios"))
				}
				var reads atomic.Int64
				w.st.set(func(f *faults) { f.load = func() error { reads.Add(1); return nil } })
				let := 0
				for i, g := range honest {
					for j := range 50 { // 10,000 tries, all at once in a bubble
						_, err := w.reg.Attach(w.t.Context(), tt.ask(own, honest, i+j), new(wire))
						if !errors.Is(err, session.ErrLimited) {
							let++
						}
					}
					g.attach()
				}
				require.Less(w.t, let, 100)
				require.Less(w.t, reads.Load(), int64(500), "what is refused reads nothing")
			})
		})
	}
}

// The same when the node really has too much to do: the advice of the others is that of their own crowd.
func TestI35_AdviceIsNotSetByAStranger_K2_1(t *testing.T) {
	inBubble(t, setup{config: session.Config{AttachesPerSecond: 100, AttachesPerAccount: 10, IdleTimeout: -1}}, func(w *world) {
		var crowd []*gadget
		for i := range 150 {
			crowd = append(crowd, w.login(event.Account(fmt.Sprint("u", i)), "d", "ios"))
		}
		for range 100_000 {
			_, _ = w.reg.Attach(w.t.Context(), session.AttachRequest{
				Account: "stranger", Login: event.NewLoginID(), Token: event.NewResumeToken(),
			}, new(wire))
		}
		refused := 0
		for _, g := range crowd {
			_, err := g.tryAttach(new(wire))
			if err == nil {
				continue
			}
			refused++
			require.LessOrEqual(w.t, limited(w.t, err, event.RateLimited), 3*time.Second, "70 of them, 100 a second")
		}
		require.LessOrEqual(w.t, refused, 70)
	})
}

// One login of an account that loops leaves half of the account's attaches to the others.
func TestI35_ALoginThatLoopsLeavesRoomForItsSiblings(t *testing.T) {
	inBubble(t, setup{config: session.Config{AttachesPerAccount: 10, IdleTimeout: -1}}, func(w *world) {
		mad, sane := w.login("ann", "mad", "ios"), w.login("ann", "sane", "ios")
		for round := range 60 {
			for range 100 {
				_, _ = mad.tryAttach(new(wire))
			}
			_, err := sane.tryAttach(new(wire))
			require.NoError(w.t, err, "round %d", round)
			w.pass(time.Second)
		}
		for range 200 {
			_, _ = mad.tryAttach(new(wire))
		}
		_, err := mad.tryAttach(new(wire))
		require.LessOrEqual(w.t, limited(w.t, err, event.RateLimited), 30*time.Second)
		w.pass(30 * time.Second)
		mad.attach()
	})
}

// The same if the client that loops names another login, or another device, each time.
func TestI35_AClientOfManyNamesLeavesRoomForItsSiblings(t *testing.T) {
	for name, next := range map[string]func(i int) session.AttachRequest{
		"logins": func(int) session.AttachRequest {
			return session.AttachRequest{Account: "ann", Login: event.NewLoginID(), Token: event.NewResumeToken()}
		},
		"devices, vouched for": func(i int) session.AttachRequest {
			return session.AttachRequest{Account: "ann", Device: event.DeviceID(fmt.Sprint("d", i)), Vouched: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, setup{config: session.Config{AttachesPerAccount: 10, IdleTimeout: -1}}, func(w *world) {
				sane, old := w.join("ann", "sane", "ios"), w.join("ann", "old", "ios")
				old.conn.Detach()
				for round := range 60 {
					for i := range 100 {
						_, err := w.reg.Attach(w.t.Context(), next(100*round+i), new(wire))
						require.Error(w.t, err)
					}
					sane.attach()
					old.attach().conn.Detach()
					w.pass(time.Second)
				}
			})
		})
	}
}

// K18.10: 3,000 logins that are refused. The host is not asked 3,000 times, nor is the record decided on.
func TestRefusedLoginsArePaced_K18_10(t *testing.T) {
	var asked atomic.Int64
	refuse := policy.Rules{Platforms: map[event.Platform]int{"ios": 1}, AtPlatform: policy.RefuseNew}
	tests := []struct {
		name   string
		set    func(s *setup)
		device func(i int) event.DeviceID
		most   int64
	}{
		{"by the host", func(s *setup) {
			s.config.DecideLogin = func(context.Context, session.Question) (bool, error) { asked.Add(1); return false, nil }
		}, func(int) event.DeviceID { return "a1" }, 10},
		{"by the host, under as many device IDs", func(s *setup) {
			s.config.DecideLogin = func(context.Context, session.Question) (bool, error) { asked.Add(1); return false, nil }
		}, func(i int) event.DeviceID { return event.DeviceID(fmt.Sprint("a", i)) }, 40},
		{"by a hook that fails", func(s *setup) {
			s.config.DecidePolicy = func(context.Context, session.Question) (*policy.Policy, error) { asked.Add(1); return nil, errDown }
		}, func(int) event.DeviceID { return "" }, 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := setup{config: session.Config{LoginsPerMinute: 10}}
			tt.set(&s)
			onStores(t, s, func(w *world) {
				asked.Store(0)
				last := error(nil)
				for i := range 3_000 {
					_, last = w.tryLogin(request("ann", tt.device(i), "ios"))
					require.Error(w.t, last)
					if i < 10 {
						require.NotErrorIs(w.t, last, session.ErrLimited, "the first ones of a minute are free")
					}
				}
				limited(w.t, last, event.RateLimited)
				require.LessOrEqual(w.t, asked.Load(), tt.most+1)
			})
		})
	}
	t.Run("by the rules", func(t *testing.T) {
		onStores(t, setup{rules: refuse, config: session.Config{LoginsPerMinute: 10}}, func(w *world) {
			w.login("ann", "a1", "ios")
			var reads atomic.Int64
			w.st.set(func(f *faults) { f.load = func() error { reads.Add(1); return nil } })
			refused := 0
			for range 3_000 {
				if _, err := w.tryLogin(request("ann", "a2", "ios")); errors.Is(err, session.ErrRefused) {
					refused++
				}
			}
			require.LessOrEqual(w.t, refused, 11)
			require.GreaterOrEqual(w.t, refused, 10)
			require.LessOrEqual(w.t, reads.Load(), int64(40))
			w.login("ann", "w1", "web") // another device is not held up
			if w.real {
				return
			}
			for range 12 { // an honest one that tries every 6 s is told why each time
				w.pass(6 * time.Second)
				_, err := w.tryLogin(request("ann", "a2", "ios"))
				require.ErrorIs(w.t, err, session.ErrRefused)
			}
		})
	})
}

// Logins that are admitted do not count as refused ones, however many there are.
func TestAdmittedLoginsAreNotRefusals_K18_10(t *testing.T) {
	inBubble(t, setup{config: session.Config{LoginsPerMinute: 10}}, func(w *world) {
		for i := range 100 {
			w.login("ann", "a1", "ios")
			if i >= 9 {
				w.pass(6 * time.Second)
			}
		}
	})
}

// K2: another node asks 1,000 times to look at an account that hangs here. The end of a login of another account is seen at
// once all the same.
func TestI35_LooksAtAnAccountThatHangs(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		y.join("stuck", "d", "ios")
		phone := y.join("ann", "phone", "ios")
		goOn := make(chan struct{})
		c.st.set(func(f *faults) {
			f.before = func(b store.Batch) error {
				if b.Account == "stuck" {
					<-goOn
				}
				return nil
			}
		})
		go func() { _ = y.reg.SetPrimary(context.Background(), "stuck", "d") }()
		synctest.Wait()
		for i := range 1_000 {
			raw, err := json.Marshal(map[string]any{"look": "stuck", "from": "x", "ask": i + 1})
			require.NoError(c.t, err)
			require.NoError(c.t, c.bus.As("z").Publish(c.t.Context(), "y", raw))
		}
		synctest.Wait()
		start := time.Now()
		x.kick("ann", phone.id)
		require.Zero(c.t, time.Since(start))
		require.False(c.t, phone.live())
		close(goOn)
		c.pass(5 * time.Second)
	})
}
