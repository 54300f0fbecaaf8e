package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// gate is a hook that waits until it is opened, the first time that it is called after it was shut.
type gate struct {
	mu    sync.Mutex
	here  chan struct{} // somebody waits
	open  chan struct{} // nil: open
	calls atomic.Int64
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.here, g.open = make(chan struct{}), make(chan struct{})
}

func (g *gate) pass() {
	g.calls.Add(1)
	g.mu.Lock()
	here, open := g.here, g.open
	g.here = nil
	g.mu.Unlock()
	if here != nil {
		close(here)
		<-open
	}
}

// while runs call, and meantime while it waits at the gate.
func (g *gate) while(t *testing.T, call func() error, meantime func()) error {
	t.Helper()
	g.shut()
	here := g.here
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case <-here:
	case err := <-done:
		require.FailNow(t, "the call has not waited", "%v", err)
	}
	meantime()
	close(g.open)
	return <-done
}

// rule sets rules and enforces them.
func (w *world) rule(r policy.Rules) {
	w.t.Helper()
	require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, r)))
	report, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1})
	require.NoError(w.t, err)
	require.Zero(w.t, report.Failed, "%v", report.Failures)
}

// gated is a setup in which one of the hooks waits at the gate. The others let everything pass.
func gated(g *gate, hook string, rules policy.Rules) setup {
	s := setup{rules: rules, config: session.Config{IdleTimeout: -1, HookTimeout: time.Hour}}
	at := func(name string) {
		if name == hook {
			g.pass()
		}
	}
	s.config.DecideLogin = func(context.Context, session.Question) (bool, error) {
		at("login")
		return true, nil
	}
	s.config.DecidePolicy = func(context.Context, session.Question) (*policy.Policy, error) {
		at("policy")
		return nil, nil
	}
	s.config.DecideVictims = func(_ context.Context, q session.Question) (policy.Answer, error) {
		at("victims")
		return policy.Answer{End: []event.LoginID{q.Candidates[0].Login}}, nil
	}
	return s
}

// K4.4: a login waits in a hook. Meanwhile new rules are set and enforced. Then it goes on: at rest they hold.
func TestI19_RulesOfTheCommitHold_K4_4(t *testing.T) {
	ask := policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost}
	for _, hook := range []string{"login", "policy", "victims"} {
		t.Run("a login that waits in the hook about the "+hook, func(t *testing.T) {
			var g gate
			onStores(t, gated(&g, hook, ask), func(w *world) {
				w.fill("ann", "ios", "a1", "a2")
				g.calls.Store(0)
				require.NoError(w.t, g.while(w.t, func() error {
					_, err := w.tryLogin(request("ann", "a3", "ios"))
					return err
				}, func() { w.rule(policy.Rules{Single: true}) }))
				require.Equal(w.t, "a3", w.devices("ann"))
			})
		})
	}
	t.Run("a login that replaces others", func(t *testing.T) {
		var g gate
		onStores(t, gated(&g, "policy", policy.Rules{PerPlatform: 3}), func(w *world) {
			all := w.fill("ann", "ios", "a1", "a2", "a3")
			require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "a1"))
			err := g.while(w.t, func() error {
				_, err := w.reg.LoginReplacing(w.t.Context(), request("ann", "a4", "ios"), all[2].id)
				return err
			}, func() { w.rule(policy.Rules{PerPlatform: 3, Total: 2, AtTotal: policy.RefuseNew}) })
			require.ErrorIs(w.t, err, session.ErrNotFound, "it was ended by the new rules")
			require.Len(w.t, w.list("ann"), 2)
		})
	})
	t.Run("a kick by an own device", func(t *testing.T) {
		var g gate
		onStores(t, gated(&g, "policy", policy.Rules{PerPlatform: 3}), func(w *world) {
			old := w.join("ann", "a1", "ios")
			w.tick()
			w.tick()
			thief := w.join("ann", "a2", "ios")
			err := g.while(w.t, func() error {
				_, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{old.id}, By: thief.id})
				return err
			}, func() { w.rule(policy.Rules{PerPlatform: 3, MinAge: time.Hour}) })
			require.ErrorIs(w.t, err, session.ErrProtected)
			require.True(w.t, old.live())
		})
	})
	t.Run("a removal of a device by another", func(t *testing.T) {
		var g gate
		onStores(t, gated(&g, "policy", policy.Rules{PerPlatform: 3, Primary: policy.PrimaryOrdinary}), func(w *world) {
			w.join("ann", "a1", "ios")
			by := w.join("ann", "a2", "ios")
			require.NoError(w.t, w.reg.SetPrimary(w.t.Context(), "ann", "a1"))
			err := g.while(w.t, func() error {
				return w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a1", By: by.id})
			}, func() { w.rule(policy.Rules{PerPlatform: 3}) })
			_, protected := errors.AsType[*session.ProtectedError](err)
			require.True(w.t, protected, "%v", err)
		})
	})
	t.Run("a further tab", func(t *testing.T) {
		var g gate
		onStores(t, gated(&g, "policy", policy.Rules{Tabs: map[event.Platform]int{"web": 2}}), func(w *world) {
			first := w.join("ann", "a1", "web")
			one := *first
			require.NoError(w.t, g.while(w.t, func() error {
				_, err := w.reg.Attach(w.t.Context(), session.AttachRequest{Account: "ann", Login: one.id, Token: one.token, Tab: "2"}, new(wire))
				return err
			}, func() { w.rule(policy.Rules{}) }))
			require.False(w.t, first.live(), "one connection is what the new rules allow")
		})
	})
}

// K4.4: the host has answered by its own rules of before, changes them, and has them enforced. What it said does not hold.
func TestI19_TheHostsOwnRulesHold_K4_4(t *testing.T) {
	var g gate
	var own atomic.Pointer[policy.Policy]
	var closed atomic.Bool
	s := setup{config: session.Config{IdleTimeout: -1, HookTimeout: time.Hour}}
	s.config.DecidePolicy = func(context.Context, session.Question) (*policy.Policy, error) {
		p := own.Load()
		g.pass()
		return p, nil
	}
	s.config.DecideLogin = func(context.Context, session.Question) (bool, error) { return !closed.Load(), nil }
	onStores(t, s, func(w *world) {
		own.Store(mustPolicy(w.t, policy.Rules{PerPlatform: 3}))
		closed.Store(false)
		w.fill("ann", "ios", "a1", "a2")
		another := func(d event.DeviceID, meantime func()) error {
			return g.while(w.t, func() error {
				_, err := w.tryLogin(request("ann", d, "ios"))
				return err
			}, func() {
				meantime()
				_, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1})
				require.NoError(w.t, err)
			})
		}
		require.NoError(w.t, another("a3", func() { own.Store(mustPolicy(w.t, policy.Rules{Single: true})) }))
		require.Equal(w.t, "a3", w.devices("ann"))
		err := another("a4", func() { closed.Store(true) })
		require.Equal(w.t, session.RuleHost, refusal(w.t, err).Rule)
		require.Equal(w.t, "a3", w.devices("ann"))
	})
}

// K4.4: a login comes back for a slot, and waits in a hook.
func TestI19_RulesOfTheCommitHoldForComebacks_K4_4(t *testing.T) {
	var g gate
	inBubble(t, gated(&g, "victims", policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost}), func(w *world) {
		back := w.join("ann", "a1", "ios")
		back.conn.Detach()
		w.pass(3 * time.Minute)
		w.fill("ann", "ios", "a2", "a3")
		require.NoError(w.t, g.while(w.t, func() error {
			_, err := back.tryAttach(new(wire))
			return err
		}, func() { w.rule(policy.Rules{Platforms: map[event.Platform]int{"ios": 1}}) }))
		holding := 0
		for _, s := range w.states("ann") {
			if s != session.Offline {
				holding++
			}
		}
		require.Equal(w.t, 1, holding)
	})
}

// K4.4: the account's first login has decided and hangs in its commit while Enforce goes through the accounts that the
// store has. It is not among them.
func TestI19_EnforceReachesALoginThatIsBeingCommitted_K4_4(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		begun, goOn := make(chan struct{}), make(chan struct{})
		var first sync.Once
		w.st.set(func(f *faults) {
			f.before = func(store.Batch) error {
				first.Do(func() { close(begun); <-goOn })
				return nil
			}
		})
		done := make(chan error, 1)
		go func() {
			_, err := w.tryLogin(request("ann", "a1", "ios"))
			done <- err
		}()
		<-begun
		w.rule(policy.Rules{Platforms: map[event.Platform]int{"ios": 0}})
		close(goOn)
		require.NoError(w.t, <-done)
		require.Eventually(w.t, func() bool { return w.devices("ann") == "" }, 10*time.Second, time.Millisecond)
	})
}

// The same if the host does not answer at first which rules hold for the account.
func TestI19_EnforceReachesALoginWhoseRulesAreNotKnownAtOnce_K4_4(t *testing.T) {
	var broken atomic.Int64
	s := setup{}
	brokenHook(&s, "DecidePolicy", func(context.Context) error {
		if broken.Add(-1) >= 0 {
			return errDown
		}
		return nil
	})
	inBubble(t, s, func(w *world) {
		var first sync.Once
		w.st.set(func(f *faults) {
			f.before = func(store.Batch) error {
				first.Do(func() {
					w.rule(policy.Rules{Platforms: map[event.Platform]int{"ios": 0}})
					broken.Store(12)
				})
				return nil
			}
		})
		w.login("ann", "a1", "ios")
		w.pass(time.Hour)
		require.Empty(w.t, w.devices("ann"))
	})
}

// K4.4, with hooks that return at any moment beside SetPolicy, Enforce, comebacks and kicks.
func TestI19_RulesHoldAtRestWhateverHangs_K4_4(t *testing.T) {
	nap := func() { time.Sleep(rand.N(400 * time.Microsecond)) }
	s := setup{config: session.Config{IdleTimeout: -1}}
	s.config.DecideLogin = func(context.Context, session.Question) (bool, error) {
		nap()
		return true, nil
	}
	s.config.DecidePolicy = func(context.Context, session.Question) (*policy.Policy, error) {
		nap()
		return nil, nil
	}
	s.config.DecideVictims = func(_ context.Context, q session.Question) (policy.Answer, error) {
		nap()
		return policy.Answer{End: []event.LoginID{q.Candidates[rand.IntN(len(q.Candidates))].Login}}, nil
	}
	lax := policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost}
	onStores(t, s, func(w *world) {
		rounds := 300
		if w.real {
			rounds = 60
		}
		for round := range rounds {
			a := event.Account(fmt.Sprint("ann", round))
			require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, lax)))
			first := w.join(a, "a0", "ios")
			var all sync.WaitGroup
			for i := range 4 {
				all.Go(func() {
					nap()
					_, err := w.tryLogin(request(a, event.DeviceID(fmt.Sprint("a", 1+i)), "ios"))
					if err != nil {
						require.ErrorIs(w.t, err, session.ErrChanging)
					}
				})
			}
			all.Go(func() { nap(); _, _ = first.tryAttach(new(wire)) })
			all.Go(func() {
				nap()
				nap()
				require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, policy.Rules{Single: true})))
				_, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1, After: event.Account(fmt.Sprint("ann", round-1))})
				require.NoError(w.t, err)
			})
			all.Wait()
			require.LessOrEqual(w.t, len(w.list(a)), 1, "round %d", round)
		}
	})
}

// The host chose among logins that are not there any more: it is asked again, with those that are.
func TestA7_VictimsAreOfTheCommit_K4_4(t *testing.T) {
	var w *world
	var asked []session.Question
	s := setup{rules: policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost}, config: session.Config{IdleTimeout: -1}}
	change := func() {}
	s.config.DecideVictims = func(_ context.Context, q session.Question) (policy.Answer, error) {
		asked = append(asked, q)
		change()
		return policy.Answer{End: []event.LoginID{q.Candidates[1].Login}}, nil
	}
	onStores(t, s, func(in *world) {
		w, asked, change = in, nil, func() {}
		all := w.fill("ann", "ios", "a1", "a2")
		var once sync.Once
		change = func() {
			once.Do(func() { // a2 makes room for a4, and the choice is between a1 and a4
				w.kick("ann", all[1].id)
				w.join("ann", "a4", "ios")
			})
		}
		w.join("ann", "a3", "ios")
		require.Len(w.t, asked, 2)
		require.Equal(w.t, event.DeviceID("a2"), asked[0].Candidates[1].Device)
		require.Equal(w.t, event.DeviceID("a4"), asked[1].Candidates[1].Device)
		require.Equal(w.t, "a1 a3", w.devices("ann"))
	})
}

// An account that changes each time while the host is asked: that ends, with an error that says so.
func TestA7_AnAccountThatNeverRests(t *testing.T) {
	var w *world
	var asked atomic.Int64
	s := setup{rules: policy.Rules{PerPlatform: 2, AtPlatform: policy.AskHost}, config: session.Config{IdleTimeout: -1}}
	s.config.DecideVictims = func(_ context.Context, q session.Question) (policy.Answer, error) {
		if q.Device != "a9" {
			return policy.Answer{}, nil
		}
		asked.Add(1)
		_, err := w.tryLogin(request("ann", event.DeviceID(fmt.Sprint("b", asked.Load())), "ios"))
		return policy.Answer{}, err
	}
	onStores(t, s, func(in *world) {
		w = in
		asked.Store(0)
		w.fill("ann", "ios", "a1", "a2")
		_, err := w.tryLogin(request("ann", "a9", "ios"))
		require.ErrorIs(w.t, err, session.ErrChanging)
		e, ok := errors.AsType[*session.ChangingError](err)
		require.True(w.t, ok)
		require.GreaterOrEqual(w.t, e.RetryAfter, time.Second)
		require.Equal(w.t, event.Unavailable, e.Closed().Reason)
		require.Equal(w.t, event.RetryAfter, e.Closed().Retry)
		require.EqualValues(w.t, 8, asked.Load())
		require.Len(w.t, w.list("ann"), 2)
	})
}
