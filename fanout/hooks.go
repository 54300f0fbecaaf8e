package fanout

import (
	"context"
	"errors"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
)

// Hooks of a router. Those of its registry are counted there.
const (
	HookPush       session.Hook = "Push.Hook"
	HookPushDecide session.Hook = "Push.Decide"
	HookNack       session.Hook = "OnNack"
	HookPoison     session.Hook = "OnPoison"
	HookDrained    session.Hook = "NotifyDrained" // of a [transport.Drainer]
)

// Hooks returns every hook that is counted in [Stats]. The slice is the caller's.
func Hooks() []session.Hook {
	return []session.Hook{HookPush, HookPushDecide, HookNack, HookPoison, HookDrained}
}

// hook returns what is known of the calls of a hook.
func (r *Router) hook(h session.Hook) *hostcall.Hook {
	switch h {
	case HookPush:
		return &r.push.calls
	case HookPushDecide:
		return &r.push.asked
	case HookNack:
		return &r.nackCalls
	case HookDrained:
		return &r.drainCalls
	}
	return &r.poisonCalls
}

// isPanic reports whether an error is a panic of the host's code.
func isPanic(err error) bool {
	_, ok := errors.AsType[*hostcall.PanicError](err)
	return ok
}

// initHooks sees to it that a panic leaves a trace although nobody waits for the call any longer.
func (r *Router) initHooks() {
	for _, h := range Hooks() {
		r.hook(h).Late = func(account event.Account, err error) { r.hookFailed(h, account, err) }
	}
}

// hookDone is hookFailed for hooks that return no error: any other than these is the end of the caller's context, which is no
// fault of the hook's.
func (r *Router) hookDone(h session.Hook, account event.Account, err error) {
	if isPanic(err) || err == hostcall.ErrTimeout || err == hostcall.ErrSkipped {
		r.hookFailed(h, account, err)
	}
}

// hookFailed tells of a call of the host's code that panicked, did not return in time, was left out, or returned an error. It is
// counted where it was made.
func (r *Router) hookFailed(h session.Hook, account event.Account, err error) {
	r.feed.emit(Event{Kind: EventHookFailed, Account: account, Call: string(h), Err: err})
	if isPanic(err) {
		r.log.Error("fanout: hook panicked", "hook", string(h), "account", string(account), trace.Err(err))
		return
	}
	r.log.Warn("fanout: hook failed", "hook", string(h), "account", string(account), trace.Err(err))
}

// notifyDrained hands a connection the function that it calls when its queue has room. Without it the sweep asks once a second.
func (a *Attachment) notifyDrained(ctx context.Context, d transport.Drainer) {
	_, err := hostcall.Call(ctx, &a.r.drainCalls, a.hub.account, nackWait, func(context.Context) (struct{}, error) {
		d.NotifyDrained(a.room)
		return struct{}{}, nil
	})
	a.r.hookDone(HookDrained, a.hub.account, err)
}
