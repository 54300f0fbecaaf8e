package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// maxHung is how many calls of one hook may hang before it is not called any more until one of them has returned: enough
// for a backend that stumbles, few enough for a process that has to live with one that never answers.
const maxHung = 256

var errHung = errors.New("left out, since too many calls of it hang")

// hook is one kind of code that is not the registry's.
type hook struct {
	hung    atomic.Int64 // calls that nobody waits for any more and that have not returned
	skipped atomic.Uint64
}

// calls are the hooks of a registry, each with a count of its own: one that hangs does not silence the others.
type calls struct{ revoke, policy, victims, login, ended, watch, leases hook }

// HookSkips returns how many calls of the host's code were left out because 256 calls of the same hook had not returned
// in time and were still running. What stands in for the answer is what stands in for one that comes too late.
func (r *Registry) HookSkips() uint64 {
	c, n := &r.calls, uint64(0)
	for _, h := range []*hook{&c.revoke, &c.policy, &c.victims, &c.login, &c.ended, &c.watch, &c.leases} {
		n += h.skipped.Load()
	}
	return n
}

// What becomes of a call.
const (
	callRuns int32 = iota
	callReturned
	callHangs
)

// bounded calls code that is not the registry's, waits for it so long at most, and survives its panics. The result goes
// through a channel, for the call may go on after nobody waits for it any more.
func bounded[T any](ctx context.Context, limit time.Duration, h *hook, call func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	if h.hung.Load() >= maxHung {
		h.skipped.Add(1)
		var none T
		return none, errHung
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var state atomic.Int32
	done := make(chan answer, 1)
	go func() { // not owned: a hook that ignores its context must not hold up the engine
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("panic: %v", p)
			}
			done <- a
			if !state.CompareAndSwap(callRuns, callReturned) {
				h.hung.Add(-1)
			}
		}()
		a.value, a.err = call(ctx)
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		h.hung.Add(1)
		if !state.CompareAndSwap(callRuns, callHangs) {
			h.hung.Add(-1)
		}
		var none T
		return none, fmt.Errorf("timed out: %w", ctx.Err())
	}
}
