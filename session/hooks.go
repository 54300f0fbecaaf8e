package session

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
)

// calls are the hooks of a registry, each with figures of its own: one that hangs does not silence the others. Questions
// about other nodes' leases that hang do not keep this node from renewing its own. Those of bus are counted per node. closes are
// calls of Conn.Close, which are never left out.
type calls struct {
	login, policy, victims, revoke, filter, leases, liveness, bus, wall, closes, nonBlocking hostcall.Hook
}

// of returns a hook by its name.
func (c *calls) of(name Hook) *hostcall.Hook {
	switch name {
	case HookDecideLogin:
		return &c.login
	case HookDecidePolicy:
		return &c.policy
	case HookDecideVictims:
		return &c.victims
	case HookRevoke:
		return &c.revoke
	case HookFilter:
		return &c.filter
	case HookLeases:
		return &c.leases
	case HookLiveness:
		return &c.liveness
	case HookBus:
		return &c.bus
	case HookWall:
		return &c.wall
	case HookNonBlocking:
		return &c.nonBlocking
	default:
		return &c.closes
	}
}

// watchHooks lets the registry hear of panics for which nobody waits any longer.
func (r *Registry) watchHooks() {
	for _, name := range Hooks() {
		who := "account"
		if name == HookBus {
			who = "node"
		}
		r.calls.of(name).Late = func(account event.Account, err error) {
			log := r.log.With("hook", string(name))
			if account != "" {
				log = log.With(who, string(account))
			}
			log.Error("session: a hook panicked after it was given up", trace.Err(err))
			c := hostCall{hook: name, account: account}
			r.hookFailed(name, c.concerns(), "", err)
		}
	}
}

// hostCall says what is called of the host's, and what is logged if that fails.
type hostCall struct {
	text    string // of the log line
	hook    Hook
	about   slog.Attr     // whom it concerns
	account event.Account // or node, for which calls that hang are counted
	limit   time.Duration
	quiet   error // is not logged; nil: all are
}

// callHost calls a function of the host's. It logs if that panics, or fails before ctx ends, and if it takes more than half
// of its time.
func callHost[T any](ctx context.Context, r *Registry, c hostCall, fn func(context.Context) (T, error)) (T, error) {
	began := time.Now()
	v, err := hostcall.Call(ctx, r.calls.of(c.hook), c.account, c.limit, fn)
	_, panicked := errors.AsType[*hostcall.PanicError](err)
	switch took := time.Since(began); {
	case err != nil && (panicked || ctx.Err() == nil) && (c.quiet == nil || !errors.Is(err, c.quiet)):
		r.log.Warn(c.text, "hook", string(c.hook), c.about, trace.Err(err))
		r.hookFailed(c.hook, c.concerns(), "", err)
	case err == nil && took > c.limit/2:
		r.log.Warn("session: a hook takes more than half of its time", "hook", string(c.hook), c.about, "took", took, "limit", c.limit)
	}
	return v, err
}

// concerns returns the account that the call concerns; empty: none.
func (c *hostCall) concerns() event.Account {
	if c.hook == HookBus {
		return ""
	}
	return c.account
}

// hookFailed tells of a call that failed.
func (r *Registry) hookFailed(h Hook, account event.Account, login event.LoginID, err error) {
	r.publish([]Change{{Kind: ChangeHookFailed, Session: Session{Account: account, Login: login}, Hook: h, Err: err}})
}

// none is what calls without a result return.
type none = struct{}

// wall reads the host's clock. If that panics, the system's stands in for it.
func (r *Registry) wall() time.Time {
	now, err := hostcall.Here(&r.calls.wall, func() (time.Time, error) { return r.cfg.Wall(), nil })
	if err != nil {
		panicked := err              // only now: the clock is read all the time
		r.wallPanic.Store(&panicked) // the sweep logs it, since the clock is read with locks held
		return time.Now()
	}
	return now
}
