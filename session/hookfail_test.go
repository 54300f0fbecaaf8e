package session_test

import (
	"context"
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
	"github.com/manydevice/manydevice/store/memstore"
)

// brokenHook makes one hook of a setup fail in one way.
func brokenHook(s *setup, hook string, fail func(context.Context) error) {
	c := &s.config
	switch hook {
	case "DecideLogin":
		c.DecideLogin = func(ctx context.Context, _ session.Question) (bool, error) { return true, fail(ctx) }
	case "DecidePolicy":
		c.DecidePolicy = func(ctx context.Context, _ session.Question) (*policy.Policy, error) { return nil, fail(ctx) }
	case "DecideVictims":
		c.DecideVictims = func(ctx context.Context, _ session.Question) (policy.Answer, error) {
			return policy.Answer{}, fail(ctx)
		}
	}
}

// Clause 2: a hook that decides and fails refuses, unless the config says otherwise, and that is told apart from what
// policy refuses.
func TestI35_HooksThatFail(t *testing.T) {
	ways := map[string]func(context.Context) error{
		"fails":  func(context.Context) error { return errDown },
		"panics": func(context.Context) error { panic("host") },
		"hangs":  func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Minute); return nil },
	}
	for _, hook := range []string{"DecideLogin", "DecidePolicy", "DecideVictims"} {
		for way, fail := range ways {
			for name, fallback := range map[string]session.Fallback{"refuse": session.Refuse, "admit": session.Admit} {
				t.Run(hook+" "+way+", "+name, func(t *testing.T) {
					broken := false
					s := setup{rules: policy.Rules{PerPlatform: 1, AtPlatform: policy.AskHost}, config: session.Config{
						DecideLoginFallback: fallback, DecidePolicyFallback: fallback, DecideVictimsFallback: fallback,
					}}
					brokenHook(&s, hook, func(ctx context.Context) error {
						if !broken {
							return nil
						}
						return fail(ctx)
					})
					inBubble(t, s, func(w *world) {
						old := w.join("ann", "a1", "ios")
						broken = true
						before, start := w.stored("ann"), time.Now()
						_, err := w.tryLogin(request("ann", "a2", "ios"))
						require.LessOrEqual(w.t, time.Since(start), 2*time.Second)
						if fallback == session.Admit {
							require.NoError(w.t, err)
							require.Equal(w.t, "a2", w.devices("ann"))
						} else {
							e := hookFailed(w.t, err, hook)
							require.Equal(w.t, event.RetryAfter, e.Closed().Retry)
							require.GreaterOrEqual(w.t, e.RetryAfter, time.Second)
							require.LessOrEqual(w.t, e.RetryAfter, 3*time.Second)
							require.Equal(w.t, before, w.stored("ann"))
							require.True(w.t, old.live())
						}
						w.pass(2 * time.Minute)
					})
				})
			}
		}
	}
}

// hookFailed requires that err says that a hook has failed, and nothing else.
func hookFailed(t *testing.T, err error, hook string) *session.HookError {
	t.Helper()
	require.ErrorIs(t, err, session.ErrHookFailed)
	require.NotErrorIs(t, err, session.ErrRefused)
	require.NotErrorIs(t, err, session.ErrLimited)
	e, ok := errors.AsType[*session.HookError](err)
	require.True(t, ok)
	require.Equal(t, hook, e.Hook)
	require.Error(t, e.Err)
	require.ErrorContains(t, err, hook)
	require.Equal(t, event.Unavailable, e.Closed().Reason)
	return e
}

// Where the account's own rules are not known, nobody ends others by those of all.
func TestI35_UnknownRulesEndNobody(t *testing.T) {
	for name, fallback := range map[string]session.Fallback{"refuse": session.Refuse, "admit": session.Admit} {
		t.Run(name, func(t *testing.T) {
			var broken atomic.Bool
			s := setup{config: session.Config{DecidePolicyFallback: fallback, IdleTimeout: -1}}
			brokenHook(&s, "DecidePolicy", func(context.Context) error {
				if broken.Load() {
					return errDown
				}
				return nil
			})
			onStores(t, s, func(w *world) {
				broken.Store(false)
				all := w.fill("ann", "ios", "a1", "a2", "a3")
				broken.Store(true)
				by := all[2].id
				_, kick := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Others: by, By: by})
				remove := w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a2", By: by})
				_, tab := all[2].tryAttach(new(wire))
				if fallback == session.Admit {
					require.NoError(w.t, errors.Join(kick, remove, tab))
					all = all[2:]
				} else {
					hookFailed(w.t, kick, "DecidePolicy")
					hookFailed(w.t, remove, "DecidePolicy")
					require.NoError(w.t, tab, "one connection there may be by any rules")
				}
				require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, policy.Rules{Platforms: map[event.Platform]int{"ios": 0}})))
				for _, dry := range []bool{true, false} {
					report, err := w.reg.Enforce(w.t.Context(), session.EnforceRequest{PerSecond: -1, DryRun: dry})
					require.NoError(w.t, err)
					require.Equal(w.t, 1, report.Failed)
					hookFailed(w.t, report.Failures[0].Err, "DecidePolicy")
					require.Len(w.t, w.list("ann"), len(all))
				}
				// The host itself needs no rules.
				w.kick("ann", by)
			})
		})
	}
}

// Clause 2: DecidePolicy does not answer, and a device reconnects beside its old connection. How many there may be is not
// known. The strictest rule holds, one: the new one gets in, and all older ones go.
func TestI35_WithUnknownRulesALoginHasOneConnection(t *testing.T) {
	for name, fail := range map[string]func(context.Context) error{
		"fails":  func(context.Context) error { return errDown },
		"panics": func(context.Context) error { panic("host") },
		"hangs":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			var broken atomic.Bool
			s := setup{rules: threeTabs, config: session.Config{IdleTimeout: -1}}
			brokenHook(&s, "DecidePolicy", func(ctx context.Context) error {
				if broken.Load() {
					return fail(ctx)
				}
				return nil
			})
			inBubble(t, s, func(w *world) {
				g := w.login("ann", "browser", "web")
				one, two := g.tab("1"), g.tab("2")
				broken.Store(true)
				start := time.Now()
				three := g.tab("3")
				require.LessOrEqual(w.t, time.Since(start), 2*time.Second)
				require.Equal(w.t, []bool{false, false, true}, []bool{one.live(), two.live(), three.live()})
				same := g.tab("3")
				require.Equal(w.t, []event.Reason{event.Moved}, three.wire.reasons())

				broken.Store(false)
				g.tab("1")
				require.True(w.t, same.live(), "three again")
			})
		})
	}
}

// A login beside whose old connection the host was asked in vain has lost that connection, and its slot, by the time of the
// step: that is an admission, and those need the account's rules.
func TestI35_AnAnswerForTabsAdmitsNobody(t *testing.T) {
	var g gate
	var broken atomic.Bool
	s := setup{rules: policy.Rules{Platforms: map[event.Platform]int{"ios": 2}}, config: session.Config{
		IdleTimeout: -1, ResumeWindow: -1, HookTimeout: time.Hour, SweepInterval: time.Hour,
	}}
	s.config.DecidePolicy = func(context.Context, session.Question) (*policy.Policy, error) {
		g.pass()
		if broken.Load() {
			return nil, errDown
		}
		return nil, nil
	}
	onStores(t, s, func(w *world) {
		broken.Store(false)
		a := w.join("ann", "a1", "ios")
		broken.Store(true)
		calls := g.calls.Load()
		err := g.while(w.t, func() error {
			_, err := a.tryAttach(new(wire))
			return err
		}, func() { a.conn.Detach() })
		hookFailed(w.t, err, "DecidePolicy")
		require.Equal(w.t, calls+2, g.calls.Load(), "asked once more, for what needs an answer")
		broken.Store(false)
		a.attach()
	})
}

// K2.3: DecideLogin hangs for one account, as often as it may. Another account is asked about all the same, and obeyed.
func TestI35_AHookThatHangsForOneAccount_K2_3(t *testing.T) {
	var stop chan struct{}
	var asked atomic.Int64
	s := setup{config: session.Config{LoginsPerMinute: -1}}
	s.config.DecideLogin = func(_ context.Context, q session.Question) (bool, error) {
		if q.Account == "stuck" {
			<-stop
			return true, nil
		}
		asked.Add(1)
		return false, nil
	}
	inBubble(t, s, func(w *world) {
		stop = make(chan struct{})
		var all sync.WaitGroup
		for i := range 300 {
			all.Go(func() {
				_, err := w.tryLogin(request("stuck", event.DeviceID(fmt.Sprint("d", i)), "ios"))
				hookFailed(w.t, err, "DecideLogin")
			})
		}
		all.Wait()
		for i := range 300 {
			start := time.Now()
			_, err := w.tryLogin(request(event.Account(fmt.Sprint("ann", i)), "d", "ios"))
			require.Equal(w.t, session.RuleHost, refusal(w.t, err).Rule)
			require.Zero(w.t, time.Since(start))
		}
		require.EqualValues(w.t, 300, asked.Load())
		_, err := w.tryLogin(request("stuck", "d", "ios"))
		hookFailed(w.t, err, "DecideLogin")
		require.Empty(w.t, w.list("stuck"), "nobody gets in unasked")
		close(stop)
		w.pass(time.Second)
		w.login("stuck", "d", "ios")
	})
}

// What ends because the caller waits no longer is no failure of the hook, whatever its fallback.
func TestI36_ACallThatEndsInAHook(t *testing.T) {
	for name, fallback := range map[string]session.Fallback{"refuse": session.Refuse, "admit": session.Admit} {
		for _, hook := range []string{"DecideLogin", "DecidePolicy", "DecideVictims"} {
			t.Run(hook+", "+name, func(t *testing.T) {
				var hang atomic.Bool
				s := setup{rules: policy.Rules{PerPlatform: 1, AtPlatform: policy.AskHost}, config: session.Config{
					DecideLoginFallback: fallback, DecidePolicyFallback: fallback, DecideVictimsFallback: fallback,
				}}
				brokenHook(&s, hook, func(ctx context.Context) error {
					if !hang.Load() {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				})
				inBubble(t, s, func(w *world) {
					w.join("ann", "a1", "ios")
					hang.Store(true)
					for _, why := range []error{context.DeadlineExceeded, context.Canceled} {
						ctx, cancel := context.WithTimeout(w.t.Context(), 100*time.Millisecond)
						if why == context.Canceled {
							time.AfterFunc(50*time.Millisecond, cancel)
						}
						start := time.Now()
						_, err := w.reg.Login(ctx, request("ann", "a2", "ios"))
						cancel()
						require.ErrorIs(w.t, err, why)
						require.NotErrorIs(w.t, err, session.ErrHookFailed)
						require.LessOrEqual(w.t, time.Since(start), 100*time.Millisecond)
						require.Equal(w.t, "a1", w.devices("ann"))
					}
				})
			})
		}
	}
}

func TestFallbacksAreChecked(t *testing.T) {
	_, err := session.New(memstore.New(memstore.Config{}), session.Config{DecideLoginFallback: 2, DecidePolicyFallback: 3, DecideVictimsFallback: 4})
	for _, field := range []string{"DecideLoginFallback", "DecidePolicyFallback", "DecideVictimsFallback"} {
		require.ErrorContains(t, err, field)
	}
}

// TestHookError_AdviceIsShort: a client is not told to stay away for half of a long HookTimeout (K20.7).
func TestHookError_AdviceIsShort(t *testing.T) {
	s := setup{config: session.Config{HookTimeout: 100 * 365 * day, DecideLogin: func(context.Context, session.Question) (bool, error) {
		return false, errDown
	}}}
	inBubble(t, s, func(w *world) {
		for range 20 {
			_, err := w.tryLogin(request("ann", "a1", "ios"))
			if limited, ok := errors.AsType[*session.LimitedError](err); ok {
				time.Sleep(limited.RetryAfter)
				continue
			}
			require.LessOrEqual(w.t, hookFailed(w.t, err, "DecideLogin").RetryAfter, 11*time.Second)
		}
	})
}
