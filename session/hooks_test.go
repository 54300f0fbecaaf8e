package session_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport"
)

// badErr is an error of a host that panics when it is looked at: a nil one of it, such as `var e *badErr; return e`.
type badErr struct{ text string }

func (e *badErr) Error() string { return e.text }

// queueWire is a connection that says by itself whether it waits.
type queueWire struct {
	wire
	ask func() bool
}

func (q *queueWire) NonBlocking() bool { return q.ask() }

// hookStory makes the registry call one function of the host's, once.
type hookStory struct {
	hook  session.Hook
	rules policy.Rules
	set   func(c *session.Config, do func() error)
	call  func(w *world, do func() error)
}

var hookStories = []hookStory{
	{hook: session.HookDecideLogin, set: func(c *session.Config, do func() error) {
		c.DecideLogin = func(context.Context, session.Question) (bool, error) { return true, do() }
	}, call: func(w *world, _ func() error) { _ = loginAs(w, "a1", "ios") }},
	{hook: session.HookDecidePolicy, set: func(c *session.Config, do func() error) {
		c.DecidePolicy = func(context.Context, session.Question) (*policy.Policy, error) { return nil, do() }
	}, call: func(w *world, _ func() error) { _ = loginAs(w, "a1", "ios") }},
	{hook: session.HookDecideVictims, rules: policy.Rules{PerPlatform: 1, AtPlatform: policy.AskHost}, set: func(c *session.Config, do func() error) {
		c.DecideVictims = func(context.Context, session.Question) (policy.Answer, error) { return policy.Answer{}, do() }
	}, call: func(w *world, _ func() error) {
		w.login("ann", "a1", "ios")
		_ = loginAs(w, "a2", "ios")
	}},
	{hook: session.HookRevoke, set: func(c *session.Config, do func() error) {
		c.Revoke = func(context.Context, session.Ended) error { return do() }
	}, call: func(w *world, _ func() error) { w.kick("ann", w.login("ann", "a1", "ios").id) }},
	{hook: session.HookFilter, call: func(w *world, do func() error) {
		g := w.join("ann", "a1", "ios")
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Filter: func(session.Session) bool {
			if do() != nil { // it has no other way to fail
				panic("host")
			}
			return true
		}})
		require.ErrorIs(w.t, err, session.ErrHookFailed)
		require.True(w.t, g.live(), "nothing was changed")
	}},
	{hook: session.HookClose, call: func(w *world, do func() error) {
		g := w.login("ann", "a1", "ios")
		c, err := g.tryAttach(&wire{onClose: func(event.Closed) error { return do() }})
		require.NoError(w.t, err)
		c.Close(event.Lost.Closed(0))
		c.AwaitClose(context.Background())
	}},
}

// waysToFail are what code of a host's may do wrong.
var waysToFail = map[string]struct {
	do    func() error
	count func(s session.HookStats) uint64
	stack bool
}{
	"fails":                           {func() error { return errDown }, func(s session.HookStats) uint64 { return s.Failures + s.Panics }, false},
	"panics":                          {func() error { panic("host") }, func(s session.HookStats) uint64 { return s.Panics }, true},
	"ends its goroutine":              {func() error { runtime.Goexit(); return nil }, func(s session.HookStats) uint64 { return s.Panics }, true},
	"fails with an error that panics": {func() error { return (*badErr)(nil) }, func(s session.HookStats) uint64 { return s.Panics }, true},
	"is late":                         {func() error { time.Sleep(time.Hour); return nil }, func(s session.HookStats) uint64 { return s.Timeouts }, false},
	"is late, and panics then": {func() error { time.Sleep(time.Hour); panic("host") }, func(s session.HookStats) uint64 {
		return min(s.Timeouts, s.Panics)
	}, true},
}

// I37, K10.1: whatever code of the host's does wrong, and wherever it is called, is logged with the account and, if it
// panics, the stack; it is counted, and a subscriber is told.
func TestHooks_FailAlike(t *testing.T) {
	for _, tt := range hookStories {
		for name, way := range waysToFail {
			t.Run(string(tt.hook)+" "+name, func(t *testing.T) {
				var log logbook
				s := setup{rules: tt.rules, config: session.Config{Logger: log.logger()}}
				once := func() func() error { // the second call is one too many
					n := 0
					return func() error {
						if n++; n > 1 {
							return nil
						}
						return way.do()
					}
				}()
				if tt.set != nil {
					tt.set(&s.config, once)
				}
				inBubble(t, s, func(w *world) {
					tt.call(w, once)
					w.pass(2 * time.Hour)
					got := w.reg.Stats().Hooks[tt.hook]
					require.NotZero(w.t, got.Calls)
					require.EqualValues(w.t, 1, way.count(got), "%+v", got)
					stacks, accounts := 0, 0
					for _, l := range log.lines(w.t, "") {
						if l["account"] == "ann" && l["hook"] == string(tt.hook) {
							accounts++
						}
						if l["stack"] != nil {
							stacks++
							require.Contains(w.t, l["stack"], "hooks_test.go")
						}
					}
					require.NotZero(w.t, accounts)
					require.Equal(w.t, way.stack || tt.hook == session.HookFilter && name == "fails", stacks > 0)
					var told []session.Change
					for _, c := range w.history() {
						if c.Kind == session.ChangeHookFailed {
							told = append(told, c)
						}
					}
					require.NotEmpty(w.t, told)
					require.Equal(w.t, tt.hook, told[0].Hook)
					require.Equal(w.t, event.Account("ann"), told[0].Session.Account)
					require.Error(w.t, told[0].Err)
				})
			})
		}
	}
}

// K20.4: a hook that takes 1.9 of its 2 seconds is seen before it fails: in its figures and in the log.
func TestHooks_AlmostTooSlow(t *testing.T) {
	for _, tt := range hookStories {
		if tt.hook == session.HookFilter || tt.hook == session.HookClose {
			continue // below
		}
		t.Run(string(tt.hook), func(t *testing.T) {
			var log logbook
			s := setup{rules: tt.rules, config: session.Config{Logger: log.logger()}}
			tt.set(&s.config, func() error { time.Sleep(1900 * time.Millisecond); return nil })
			inBubble(t, s, func(w *world) {
				tt.call(w, nil)
				got := w.reg.Stats().Hooks[tt.hook]
				require.Zero(w.t, got.Failures+got.Timeouts+got.Panics+got.Skipped)
				require.Equal(w.t, 1900*time.Millisecond, got.Longest)
				require.Equal(w.t, time.Duration(got.Calls)*1900*time.Millisecond, got.Total)
				lines := log.lines(w.t, "takes more than half of its time")
				require.NotEmpty(w.t, lines)
				require.Equal(w.t, "ann", lines[0]["account"])
				require.Equal(w.t, string(tt.hook), lines[0]["hook"])
			})
		})
	}
}

// K10.1: a Send that fails or panics is counted, and logged where no fan-out does that; one that was to end, or whose entry
// is not for the client, is neither.
func TestConnection_SendFailsVisibly(t *testing.T) {
	for _, tt := range []struct {
		name            string
		send            func(context.Context) error
		failures, panic uint64
	}{
		{"fails", func(context.Context) error { return errDown }, 1, 0},
		{"panics", func(context.Context) error { panic("host") }, 1, 1},
		{"fails with an error that panics", func(context.Context) error { return (*badErr)(nil) }, 1, 1},
		{"ends its goroutine", func(context.Context) error { runtime.Goexit(); return nil }, 1, 1},
		{"gives up with its context", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 0, 0},
		{"skips", func(context.Context) error { return &transport.SkipError{Seq: 1} }, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log logbook
			inBubble(t, setup{config: session.Config{Logger: log.logger()}}, func(w *world) {
				g := w.login("ann", "a1", "ios")
				c, err := g.tryAttach(&wire{onSend: tt.send})
				require.NoError(w.t, err)
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				done := make(chan struct{})
				go func() {
					defer close(done)
					err = c.Send(ctx, []event.Frame{&event.Pong{}})
				}()
				<-done
				s := w.reg.Stats()
				require.Equal(w.t, tt.failures, s.SendFailures)
				require.Equal(w.t, tt.panic, s.SendPanics)
				lines := log.lines(w.t, "Conn.Send")
				require.Len(w.t, lines, int(tt.failures))
				if tt.failures > 0 {
					require.Equal(w.t, "ann", lines[0]["account"])
					require.Equal(w.t, "a1", lines[0]["device"])
				}
				if tt.panic > 0 {
					require.Contains(w.t, lines[0]["stack"], "session_test")
				}
				if tt.name == "panics" {
					p, ok := errors.AsType[interface {
						error
						Stack() []byte
					}](err)
					require.True(w.t, ok, "%v", err)
					require.NotEmpty(w.t, p.Stack())
				}
			})
		})
	}
}

// What a connection says about itself is code of the host's, too: the connection stays the caller's.
func TestAttach_NonBlockingPanics(t *testing.T) {
	var log logbook
	inBubble(t, setup{config: session.Config{Logger: log.logger()}}, func(w *world) {
		g := w.login("ann", "a1", "ios")
		q := session.AttachRequest{Account: "ann", Login: g.id, Token: g.token}
		bad := &queueWire{ask: func() bool { panic("host") }}
		_, err := w.reg.Attach(w.t.Context(), q, bad)
		require.ErrorIs(w.t, err, session.ErrHookFailed)
		require.Empty(w.t, bad.called())
		require.EqualValues(w.t, 1, w.reg.Stats().Refused[session.RefusedHook])
		require.EqualValues(w.t, 1, w.reg.Stats().Hooks[session.HookNonBlocking].Panics)
		require.Equal(w.t, 1, countKind(w, session.ChangeHookFailed))
		lines := log.lines(w.t, "Conn.NonBlocking panicked")
		require.Len(w.t, lines, 1)
		require.Equal(w.t, "ERROR", lines[0]["level"])
		require.Equal(w.t, "ann", lines[0]["account"])
		require.Contains(w.t, lines[0]["stack"], "hooks_test.go")
		g.attach()
	})
}

// A wall clock of the host's that panics is logged and counted, and the system's stands in for it.
func TestWall_Panics(t *testing.T) {
	var log logbook
	var broken atomic.Bool
	s := setup{config: session.Config{Logger: log.logger(), Wall: func() time.Time {
		if broken.Load() {
			panic("host")
		}
		return time.Now()
	}}}
	inBubble(t, s, func(w *world) {
		broken.Store(true)
		w.join("ann", "a1", "ios")
		w.pass(10 * time.Second)
		broken.Store(false)
		require.NotZero(w.t, w.reg.Stats().Hooks[session.HookWall].Panics)
		lines := log.lines(w.t, "Config.Wall")
		require.NotEmpty(w.t, lines)
		require.Contains(w.t, lines[0]["stack"], "hooks_test.go")
	})
}

// wildBus and wildLeases panic.
type wildBus struct{ transport.Bus }

func (wildBus) Publish(context.Context, event.NodeID, []byte) error { panic("bus") }

type wildLeases struct{ *memstore.Leases }

func (wildLeases) Renew(context.Context, store.Lease) error { panic("leases") }

func (wildLeases) List(context.Context) ([]store.Lease, error) { panic("liveness") }

// I37: leases and bus of the host's that panic end nothing, are logged with their stack, and counted.
func TestHooks_LeasesAndBusThatPanic(t *testing.T) {
	var log logbook
	onNodes(t, setup{}, func(c *cluster, x, _ *world) {
		s := setup{config: session.Config{Logger: log.logger(), Bus: wildBus{c.bus.As("z")}}}
		s.config.Node, s.config.Leases = "z", wildLeases{c.leases}
		z := &world{t: c.t, st: c.st}
		z.open(s)
		g := x.join("ann", "a1", "ios")
		z.kick("ann", g.id) // tells x
		c.pass(10 * time.Second)
		got := z.reg.Stats().Hooks
		for hook, text := range map[session.Hook]string{
			session.HookBus: "another node was not told", session.HookLeases: "lease not renewed", session.HookLiveness: "leases cannot be listed",
		} {
			require.NotZero(c.t, got[hook].Panics, hook)
			lines := log.lines(c.t, text)
			require.NotEmpty(c.t, lines, text)
			require.Contains(c.t, lines[0]["stack"], "hooks_test.go")
		}
	})
}

// A message that no node sends is logged with what is wrong about it.
func TestBus_AMessageThatMakesNoSense(t *testing.T) {
	var log logbook
	onNodes(t, setup{config: session.Config{Logger: log.logger()}}, func(c *cluster, x, _ *world) {
		from := c.bus.As("z")
		for _, raw := range []string{"{", "{}", `{"look":""}`} {
			require.NoError(c.t, from.Publish(c.t.Context(), "x", []byte(raw)))
		}
		c.pass(time.Second)
		lines := log.lines(c.t, "message of another node")
		require.Len(c.t, lines, 3)
		for _, l := range lines {
			require.NotEmpty(c.t, l["err"])
		}
		x.join("ann", "a1", "ios")
	})
}
