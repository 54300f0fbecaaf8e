package session

import (
	"context"
	"errors"

	"github.com/manydevice/manydevice/internal/hostcall"
)

// maxUntold is how many changes of one account wait for a watcher that hangs. It is more than an account with all its
// logins goes through in one step.
const maxUntold = 1_024

// Watch has fn called for every change of a login after it was committed, before connections are closed for it. Changes of
// one account come one at a time, in the order in which they happened; those of different accounts at the same time. The
// call that made the change waits for fn, Config.HookTimeout at most; fn may call the registry, and what changes by that
// is told when fn has returned. A panic is logged. If fn hangs, the changes of that account wait, up to 1,024; what does
// not fit is left out and counted, see [Registry.HookDrops]. Watchers are meant to be added before the registry is used
// and cannot be removed.
func (r *Registry) Watch(fn func(Change)) {
	r.watchMu.Lock()
	defer r.watchMu.Unlock()
	var all []func(Change)
	if p := r.watchers.Load(); p != nil {
		all = append(all, *p...)
	}
	all = append(all, fn)
	r.watchers.Store(&all)
}

// noteLocked makes changes known in the order in which they happen, which the account's mutex keeps. Nothing of it waits:
// subscriptions have buffers, and watchers are called by tell, which has to follow when the mutex is free.
func (r *Registry) noteLocked(a *account, changes []Change) {
	if len(changes) == 0 {
		return
	}
	r.publish(changes)
	if r.watchers.Load() == nil {
		return
	}
	room := max(maxUntold-len(a.untold), 0)
	if n := len(changes) - room; n > 0 {
		r.untold.Add(uint64(n))
		changes = changes[:room]
	}
	a.untold = append(a.untold, changes...)
}

// tell has watchers called for what was noted. If another goroutine is at it already, it tells these, too.
func (r *Registry) tell(a *account) {
	a.mu.Lock()
	begin := len(a.untold) > 0 && !a.telling
	a.telling = a.telling || begin
	a.mu.Unlock()
	if !begin {
		return
	}
	_, err := hostcall.Call(context.WithoutCancel(r.ctx), &r.calls.watch, a.id, r.cfg.HookTimeout, func(context.Context) (struct{}, error) {
		for r.tellSome(a) {
		}
		r.forget(a)
		return struct{}{}, nil
	})
	if err == nil {
		return
	}
	r.log.Warn("session: watchers", "err", err)
	if errors.Is(err, hostcall.ErrSkipped) { // nobody is at it
		a.mu.Lock()
		r.untold.Add(uint64(len(a.untold)))
		a.untold, a.telling = nil, false
		a.mu.Unlock()
		r.forget(a)
	}
}

// tellSome tells what has come together and reports whether there was anything.
func (r *Registry) tellSome(a *account) bool {
	a.mu.Lock()
	some := a.untold
	a.untold, a.telling = nil, len(some) > 0
	a.mu.Unlock()
	for _, c := range some {
		for _, fn := range *r.watchers.Load() {
			r.heard(fn, c)
		}
	}
	return len(some) > 0
}

// heard calls code of the host's with a change and survives its panics.
func (r *Registry) heard(fn func(Change), c Change) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Warn("session: whoever was told of a change panicked", "change", string(c.Kind), "panic", p)
		}
	}()
	fn(c)
}
