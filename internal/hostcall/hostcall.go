// Package hostcall calls code of the host's. Such code may hang, panic or ignore its context; none of that reaches the engine.
//
// # How a call goes
//
// A call runs on a goroutine of its own, with a context that ends at the time-out. The caller waits for it that long and then
// goes on with an error; the call is left to itself and counts as hanging until it returns.
//
//  1. While [MaxHanging] calls of one hook hang for one account, the hook is not called for this account, and the caller has
//     its error at once. Other accounts do not notice.
//  2. While [MaxHangingAll] hang altogether it is called for no account. That takes a hook that hangs for thousands of
//     accounts, and keeps the memory of the process within bounds. What must be called all the same goes by [Always].
//  3. Calls that return in time are not bounded in number, since a crowd is no fault. So calls that were made at the same time
//     may all hang, beyond these numbers: as many as there were callers.
//  4. A call hangs from its time-out on, even if its caller went away earlier.
//  5. A panic is an error with its stack. The engine never panics because of a host.
package hostcall

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/event"
)

const (
	// MaxHanging is how many calls of one hook may hang for one account before it is skipped: enough for a backend that
	// stumbles.
	MaxHanging = 8
	// MaxHangingAll is how many calls of one hook may hang in all before it is skipped: some 100 MiB of goroutines.
	MaxHangingAll = 16_384
)

// Errors of [Call] besides those of the host.
var (
	// ErrTimeout: the call did not return in time. It may still run.
	ErrTimeout = errors.New("hook timed out")
	// ErrSkipped: the call was not made, since too many calls of the hook hang.
	ErrSkipped = errors.New("hook was not called, since too many calls of it hang")
)

// PanicError is the panic of a host's code.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("hook panicked: %v", e.Value) }

// Hook is one function of the host's, with what is known of its calls. The zero value is ready. It is safe for concurrent use.
type Hook struct {
	skipped, late atomic.Uint64

	mu      sync.Mutex
	hanging map[event.Account]int
	all     int
}

// Skipped returns how many calls were not made because too many hang.
func (h *Hook) Skipped() uint64 { return h.skipped.Load() }

// Late returns how many calls did not return in time, whether or not they have returned since.
func (h *Hook) Late() uint64 { return h.late.Load() }

// Hangs reports whether a call for the account hangs.
func (h *Hook) Hangs(account event.Account) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hanging[account] > 0
}

// mayCall reports whether so few calls hang that another one may be made.
func (h *Hook) mayCall(account event.Account) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all < MaxHangingAll && h.hanging[account] < MaxHanging
}

// count notes that a call began to hang, or that one has returned.
func (h *Hook) count(account event.Account, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hanging == nil {
		h.hanging = make(map[event.Account]int)
	}
	h.all += n
	if h.hanging[account] += n; h.hanging[account] == 0 {
		delete(h.hanging, account)
	}
}

// What becomes of a call.
const (
	runs int32 = iota
	returned
	hangs
)

// call is one call of a hook.
type call struct {
	h       *Hook
	account event.Account
	state   atomic.Int32
}

// hangs notes that the call is late, unless it has returned.
func (c *call) hangs() {
	c.h.count(c.account, 1)
	if !c.state.CompareAndSwap(runs, hangs) {
		c.h.count(c.account, -1)
		return
	}
	c.h.late.Add(1)
}

func (c *call) returns() {
	if !c.state.CompareAndSwap(runs, returned) {
		c.h.count(c.account, -1)
	}
}

// Call calls fn for an account ("" for what concerns none) and waits for it until limit is over or ctx ends. Its errors are
// [ErrTimeout], [ErrSkipped], a [*PanicError], that of ctx, and those of fn. What fn was given it may go on using after Call
// has returned.
func Call[T any](
	ctx context.Context, h *Hook, account event.Account, limit time.Duration, fn func(context.Context) (T, error),
) (T, error) {
	if !h.mayCall(account) {
		h.skipped.Add(1)
		var none T
		return none, ErrSkipped
	}
	return Always(ctx, h, account, limit, fn)
}

// Always is [Call] for what must be called, however many calls hang: it never returns [ErrSkipped].
func Always[T any](
	ctx context.Context, h *Hook, account event.Account, limit time.Duration, fn func(context.Context) (T, error),
) (T, error) {
	type answer struct {
		value T
		err   error
	}
	late := time.Now().Add(limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrTimeout)
	defer cancel()
	c := &call{h: h, account: account}
	done := make(chan answer, 1) // the call may go on when its caller no longer waits
	go func() {                  // not owned: a hook that ignores its context must not hold up the end of the engine
		a := answer{err: &PanicError{Value: "the hook's goroutine was ended"}} // by runtime.Goexit
		defer func() {
			if p := recover(); p != nil {
				a = answer{err: &PanicError{Value: p, Stack: debug.Stack()}}
			}
			done <- a
			c.returns()
		}()
		v, err := fn(ctx)
		a = answer{v, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
	}
	if left := time.Until(late); left <= 0 {
		c.hangs()
	} else { // the caller's context has ended, and that of the call with it
		time.AfterFunc(left, c.hangs)
	}
	var none T
	return none, context.Cause(ctx)
}
