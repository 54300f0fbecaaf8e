package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport"
)

// nilError is an error that panics when it is asked anything: a nil pointer, as a host returns it by accident.
type nilError struct{ inner error }

func (e *nilError) Error() string { return e.inner.Error() }
func (e *nilError) Unwrap() error { return e.inner }

// faultyCode are the ways in which code of a host's goes wrong, and what the log says then.
var faultyCode = map[string]struct {
	do   func(stop <-chan struct{}) error
	says string
}{
	"panics":              {func(<-chan struct{}) error { panic("told to") }, "told to"},
	"ends its goroutine":  {func(<-chan struct{}) error { runtime.Goexit(); return nil }, "was ended"},
	"hangs":               {func(stop <-chan struct{}) error { <-stop; return nil }, "timed out"},
	"returns an error":    {func(<-chan struct{}) error { return errors.New("no such service") }, "no such service"},
	"returns a nil error": {func(<-chan struct{}) error { return (*nilError)(nil) }, "nil pointer"},
}

// heard returns the events of a kind that have come so far.
func (w *world) heard(s *fanout.Subscription, kind fanout.EventKind) (all []fanout.Event) {
	w.t.Helper()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		e, err := s.Next(ctx)
		cancel()
		if err != nil {
			return all
		}
		if e.Kind == kind {
			all = append(all, e)
		}
	}
}

// Each hook that goes wrong in any way leaves a log line with the account, an event and a figure, and nothing else happens
// (K10.1, K10.4, I37).
func TestK10_HookThatGoesWrongLeavesATrace(t *testing.T) {
	for _, hook := range fanout.Hooks() {
		for name, code := range faultyCode {
			if strings.HasPrefix(name, "returns") && hook != fanout.HookPush && hook != fanout.HookPushDecide {
				continue // it returns no error
			}
			t.Run(string(hook)+" "+name, func(t *testing.T) {
				var out lockedBuffer
				var stop chan struct{} // of the bubble
				cfg := fanout.Config{Logger: slog.New(slog.NewTextHandler(&out, nil)), Push: fanout.PushConfig{Tries: 1}}
				l := &pushLog{}
				cfg.Push.Hook = l.hook
				switch hook {
				case fanout.HookPush:
					cfg.Push.Hook = func(context.Context, fanout.Push) error { return code.do(stop) }
				case fanout.HookPushDecide:
					cfg.Push.Decide = func(context.Context, fanout.PushQuestion) ([]event.DeviceID, error) { return nil, code.do(stop) }
				case fanout.HookNack:
					cfg.OnNack = func(fanout.Nacked) { _ = code.do(stop) }
				case fanout.HookPoison:
					cfg.OnPoison = func(context.Context, fanout.Poison) { _ = code.do(stop) }
				}
				inMemory(t, cfg, func(w *world) {
					stop = make(chan struct{})
					events, err := w.r.Subscribe(64)
					require.NoError(w.t, err)
					w.provoke(hook, func() { _ = code.do(stop) })
					time.Sleep(2 * time.Minute)
					s := w.r.Stats().Hooks[hook]
					require.EqualValues(w.t, 1, s.Calls)
					require.EqualValues(w.t, 1, s.Failures+s.Timeouts+s.Panics)
					all := w.heard(events, fanout.EventHookFailed)
					require.Len(w.t, all, 1)
					require.Equal(w.t, string(hook), all[0].Call)
					require.Equal(w.t, event.Account("ann"), all[0].Account)
					require.ErrorContains(w.t, all[0].Err, code.says)
					text := out.String()
					require.Contains(w.t, text, "hook="+string(hook)+" account=ann")
					require.Contains(w.t, text, code.says)
					if name == "panics" {
						require.Contains(w.t, text, "level=ERROR")
						require.Contains(w.t, text, "hooks_test.go", "the stack")
					}
					close(stop)
				})
			})
		}
	}
}

// A hook that panics when its caller no longer waits leaves a trace of that, too.
func TestK10_HookThatPanicsTooLateLeavesATrace(t *testing.T) {
	var out lockedBuffer
	var hold chan struct{} // of the bubble
	cfg := fanout.Config{Logger: slog.New(slog.NewTextHandler(&out, nil)), OnNack: func(fanout.Nacked) { <-hold; panic("too late") }}
	inMemory(t, cfg, func(w *world) {
		hold = make(chan struct{})
		events, err := w.r.Subscribe(64)
		require.NoError(w.t, err)
		w.provoke(fanout.HookNack, nil)
		for _, says := range []string{"timed out", "panicked: too late"} {
			time.Sleep(10 * time.Second)
			all := w.heard(events, fanout.EventHookFailed)
			require.Len(w.t, all, 1)
			require.ErrorContains(w.t, all[0].Err, says)
			require.Equal(w.t, event.Account("ann"), all[0].Account)
			require.Contains(w.t, out.String(), says)
			if says == "timed out" {
				close(hold)
			}
		}
		require.EqualValues(w.t, 1, w.r.Stats().Hooks[fanout.HookNack].Panics)
	})
}

// provoke makes the engine call a hook for ann, once.
func (w *world) provoke(hook session.Hook, drained func()) {
	switch hook {
	case fanout.HookPush, fanout.HookPushDecide:
		w.login("ann", "a1")
		w.host("bob", "x", "ann")
	case fanout.HookNack:
		c := taking()
		att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		w.host("bob", "x", "ann")
		synctest.Wait()
		head := w.head("ann")
		require.NoError(w.t, att.Handle(context.Background(), &event.Nack{Position: event.Position{Epoch: head.Epoch, Seq: head.Seq}, Code: "x"}))
	case fanout.HookPoison:
		f := w.fragile("ann", "a1", "deadly")
		w.host("bob", "deadly", "ann")
		for range 5 {
			f.connect()
		}
	case fanout.HookDrained:
		c := drainedBy{newQueueConn(1 << 20), drained}
		w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		w.host("bob", "x", "ann")
		synctest.Wait()
		require.NotEmpty(w.t, c.sizes, "it gets what there is all the same")
	}
}

// drainedBy is a connection whose NotifyDrained does what a test says.
type drainedBy struct {
	*queueConn
	do func()
}

func (c drainedBy) NotifyDrained(func()) { c.do() }

// A Send that goes wrong in any way ends its connection and leaves a trace; on the goroutine that is lent, other devices of the
// account get the message all the same (K10.1).
func TestK10_SendThatGoesWrongEndsItsConnectionOnly(t *testing.T) {
	for name, code := range faultyCode {
		if name == "hangs" { // the watchdog's, see TestWatchdog
			continue
		}
		for _, instant := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", never waits ", instant), func(t *testing.T) {
				var out lockedBuffer
				inMemory(t, fanout.Config{Logger: slog.New(slog.NewTextHandler(&out, nil))}, func(w *world) {
					events, err := w.r.Subscribe(64)
					require.NoError(w.t, err)
					good := make([]*moody, 3)
					for i := range good[:2] {
						good[i] = w.moody(event.DeviceID(fmt.Sprint("g", i)), instant)
					}
					bad := w.moody("bad", instant)
					good[2] = w.moody("g2", instant)
					synctest.Wait()
					bad.mu.Lock()
					bad.code = func() error { return code.do(nil) }
					bad.mu.Unlock()
					done := make(chan struct{})
					go func() { // which a Send may end
						defer close(done)
						w.host("bob", "x", "ann")
					}()
					<-done
					synctest.Wait()
					for i, c := range good {
						require.Contains(w.t, c.seqs(), w.head("ann").Seq, "device %d", i)
						require.Empty(w.t, c.reasons())
					}
					require.Equal(w.t, []event.Reason{event.Lost}, bad.reasons())
					require.EqualValues(w.t, 1, w.r.Stats().SendFailures)
					all := w.heard(events, fanout.EventSendFailed)
					require.Len(w.t, all, 1)
					require.Equal(w.t, event.DeviceID("bad"), all[0].Device)
					require.ErrorContains(w.t, all[0].Err, code.says)
					require.Contains(w.t, out.String(), "account=ann")
					require.Contains(w.t, out.String(), "device=bad")
					require.Contains(w.t, out.String(), code.says)
					w.host("bob", "y", "ann")
					synctest.Wait()
					for i, c := range good {
						require.Contains(w.t, c.seqs(), w.head("ann").Seq, "device %d", i)
					}
				})
			})
		}
	}
}

// moody is a connection whose Send does what a test says.
type moody struct {
	*hostConn
	instant bool
	code    func() error
}

func (c *moody) NonBlocking() bool { return c.instant }

func (w *world) moody(device event.DeviceID, instant bool) *moody {
	c := &moody{instant: instant}
	c.hostConn = newHostConn(func(_ context.Context, h *hostConn, frames []event.Frame) error {
		h.mu.Lock()
		code := c.code
		h.mu.Unlock()
		if code != nil {
			return code()
		}
		for _, f := range frames {
			if d, ok := f.(*event.Data); ok {
				h.wrote(d)
			}
		}
		return nil
	})
	w.hosted("ann", device, fanout.AttachRequest{}, c)
	return c
}

// What a connection says of an entry that it skips is cleaned and cut.
func TestSkipCode_IsCleaned(t *testing.T) {
	var nacks chan fanout.Nacked // of the bubble
	inMemory(t, fanout.Config{OnNack: func(n fanout.Nacked) { nacks <- n }}, func(w *world) {
		nacks = make(chan fanout.Nacked, 1)
		skipped := false
		c := newHostConn(func(_ context.Context, _ *hostConn, frames []event.Frame) error {
			for _, f := range frames {
				if d, ok := f.(*event.Data); ok && len(d.Entries) > 0 && !skipped {
					skipped = true
					return &transport.SkipError{Seq: d.Entries[0].Seq, Code: "too\x00 big\n" + strings.Repeat("!", 10_000)}
				}
			}
			return nil
		})
		w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		w.host("bob", "x", "ann")
		n := <-nacks
		require.Equal(w.t, event.CleanName(n.Code), n.Code)
		require.True(w.t, strings.HasPrefix(n.Code, "too big !!"), n.Code)
	})
}

// A store that is away for minutes writes some lines of each kind, and says how many it left out (K20.4).
func TestLog_RepeatedLinesAreFolded(t *testing.T) {
	var out lockedBuffer
	inMemory(t, fanout.Config{CursorFlush: 10 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&out, nil))}, func(w *world) {
		w.ready("ann", "a1")
		time.Sleep(time.Second)
		remove := w.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Err: errAway})
		w.feed("ann", 0, 3)
		w.fence("ann")
		time.Sleep(5 * time.Minute)
		lines := strings.Count(out.String(), "could not be written yet")
		require.Greater(w.t, w.r.Stats().FlushFailures, uint64(10_000))
		require.LessOrEqual(w.t, lines, 11*31)
		require.Contains(w.t, out.String(), "repeated=")
		remove()
	})
}
