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
//  4. A call hangs from its time-out on, even if its caller went away earlier. What it answers at the time-out or later does not
//     count, so that one that returns because its context has ended is late in any case.
//  5. A panic is an error with its stack. The engine never panics because of a host. One that comes when
//     nobody waits for an answer any longer is told to [Hook].Late.
//  6. An error that panics when it is looked at is a panic of the call that returned it.
//  7. What calls take and what becomes of them is counted; see [Stats]. So a hook that takes most of its time is seen before it
//     takes all of it.
//
// What must not wait for a goroutine is called by [Here], without a bound. What has no time for that either, such as a Send,
// turns what recover returns into the same error by [Panicked].
package hostcall

import (
	"context"
	"errors"
	"fmt"
	"math"
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
	stack []byte
}

// Panicked returns the error for what recover has returned, with the stack. Call it in the deferred function that recovers. Nil
// means that the host ended the goroutine, by [runtime.Goexit] as a test does that fails.
func Panicked(value any) *PanicError {
	if value == nil {
		value = "the goroutine of the call was ended"
	}
	return &PanicError{Value: value, stack: debug.Stack()}
}

func (e *PanicError) Error() string { return fmt.Sprintf("panicked: %v", e.Value) }

// Stack returns where it panicked; nil if that is not known. Hosts, who cannot name the type, find it by this method.
func (e *PanicError) Stack() []byte { return e.stack }

// Stats are what has become of a hook's calls. Counters only rise.
type Stats struct {
	Calls    uint64        // that were made
	Failures uint64        // of them returned an error in time
	Timeouts uint64        // had not returned at the time-out
	Panics   uint64        // panicked, in time or later
	Skipped  uint64        // were not made, since too many hang
	Total    time.Duration // that those took together which have returned
	Longest  time.Duration // that one of them took, or was waited for
}

// Hook is one function of the host's, with what is known of its calls. The zero value is ready. It is safe for concurrent use.
type Hook struct {
	// Late, if set, is told of a panic that came when nobody waited for the call any longer. It is set before the first call.
	Late func(account event.Account, err error)

	calls, failures, timeouts, panics, skipped atomic.Uint64
	total, longest                             atomic.Int64

	mu      sync.Mutex
	hanging map[event.Account]int
	all     int
}

// Stats returns what has become of the calls so far.
func (h *Hook) Stats() Stats {
	return Stats{
		Calls: h.calls.Load(), Failures: h.failures.Load(), Timeouts: h.timeouts.Load(), Panics: h.panics.Load(),
		Skipped: h.skipped.Load(), Total: time.Duration(h.total.Load()), Longest: time.Duration(h.longest.Load()),
	}
}

// took notes how long a call took.
func (h *Hook) took(d time.Duration) {
	for {
		most := h.longest.Load()
		if int64(d) <= most || h.longest.CompareAndSwap(most, int64(d)) {
			return
		}
	}
}

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
	begun   time.Time
	limit   time.Duration
	state   atomic.Int32
	parted  atomic.Bool // its caller went away early, or it has an answer for him: whichever came first
}

// hangs notes that the call is late, unless it has returned. It reports whether it is.
func (c *call) hangs() bool {
	c.h.count(c.account, 1)
	if !c.state.CompareAndSwap(runs, hangs) {
		c.h.count(c.account, -1)
		return false
	}
	c.h.timeouts.Add(1)
	c.h.took(c.limit)
	return true
}

// returns notes what became of the call. It reports whether it was late.
func (c *call) returns(err error) (late bool) {
	took := time.Since(c.begun)
	c.h.total.Add(int64(took))
	c.h.took(took)
	if late = !c.state.CompareAndSwap(runs, returned); late {
		c.h.count(c.account, -1)
	}
	_, panicked := err.(*PanicError)
	switch {
	case panicked:
		c.h.panics.Add(1)
	case err == nil, late: // a late one was counted when it was
	case took >= c.limit: // it has looked at its context
		c.h.timeouts.Add(1)
	default:
		c.h.failures.Add(1)
	}
	return late
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
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrTimeout)
	defer cancel()
	c := &call{h: h, account: account, begun: time.Now(), limit: limit}
	h.calls.Add(1)
	done := make(chan answer, 1) // the call may go on when its caller no longer waits
	go func() {                  // not owned: a hook that ignores its context must not hold up the end of the engine
		var a answer
		returned := false
		defer func() {
			if p := recover(); p != nil || !returned {
				a = answer{err: Panicked(p)}
			}
			late, gone := c.returns(a.err), c.parted.Swap(true)
			done <- a
			if _, ok := a.err.(*PanicError); ok && (late || gone) && h.Late != nil {
				h.Late(account, a.err)
			}
		}()
		v, err := fn(ctx)
		a, returned = answer{v, Asked(err)}, true
		if _, panicked := a.err.(*PanicError); !panicked && time.Since(c.begun) >= limit {
			a = answer{err: ErrTimeout} // its caller may have given up at the same moment, or not
		}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
	}
	var none T
	if left := time.Until(c.begun.Add(limit)); left <= 0 {
		if c.hangs() {
			return none, context.Cause(ctx)
		}
		a := <-done // it has come at the same moment
		return a.value, a.err
	} else if c.parted.Swap(true) {
		a := <-done // the same
		return a.value, a.err
	} else {
		time.AfterFunc(left, func() { c.hangs() }) // the caller's context has ended, and that of the call with it
	}
	return none, context.Cause(ctx)
}

// Here calls fn on the caller's goroutine and waits for it as long as it takes. A panic is a [*PanicError].
func Here[T any](h *Hook, fn func() (T, error)) (v T, err error) {
	c := &call{h: h, begun: time.Now(), limit: math.MaxInt64}
	h.calls.Add(1)
	returned := false
	defer func() {
		if p := recover(); p != nil || !returned {
			err = Panicked(p)
		}
		c.returns(err)
	}()
	v, err = fn()
	err, returned = Asked(err), true
	return v, err
}

// Asked returns an error of the host's, once it was asked what the engine and its log ask errors. One that panics at that, such
// as a nil pointer whose methods look into it, does so here, where the caller recovers.
func Asked(err error) error {
	if err != nil {
		_ = err.Error()
		_ = errors.Is(err, ErrTimeout)
		_, _ = errors.AsType[*PanicError](err)
	}
	return err
}
