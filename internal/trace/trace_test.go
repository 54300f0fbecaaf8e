package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/internal/hostcall"
	"github.com/manydevice/manydevice/internal/trace"
)

// sink keeps what a host's handler was given.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

// lines returns the lines that were written, and forgets them.
func (s *sink) lines(t *testing.T) []map[string]any {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []map[string]any
	for l := range strings.SplitSeq(strings.TrimSpace(s.buf.String()), "\n") {
		if l == "" {
			continue
		}
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(l), &m))
		all = append(all, m)
	}
	s.buf.Reset()
	return all
}

func newLog() (*trace.Log, *sink) {
	s := new(sink)
	return trace.New(slog.New(slog.NewJSONHandler(s, nil))), s
}

// 1,000 lines alike are ten lines and one that says how many it stands for, with the last one's account.
func TestLog_FoldsRepeatedLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out := newLog()
		for i := range 1_000 {
			log.Warn("session: a record could not be read", "account", fmt.Sprintf("a%d", i), trace.Err(errors.New("broken")))
		}
		require.Len(t, out.lines(t), trace.Burst)
		time.Sleep(trace.Window - 1)
		require.Empty(t, out.lines(t), "the window is not over")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		got := out.lines(t)
		require.Len(t, got, 1)
		require.EqualValues(t, 990, got[0]["repeated"])
		require.Equal(t, "a999", got[0]["account"])
		require.Equal(t, "broken", got[0]["err"])
		require.Equal(t, "WARN", got[0]["level"])

		log.Warn("session: a record could not be read", "account", "later")
		require.Len(t, out.lines(t), 1, "a new window has begun")
	})
}

// The next line of another message notices that a window is over, and comes after what was left out before it.
func TestLog_AnotherLineEndsTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out := newLog()
		for range trace.Burst + 5 {
			log.Info("session: one")
		}
		out.lines(t)
		time.Sleep(trace.Window)
		log.Info("session: two")
		got := out.lines(t)
		require.Len(t, got, 2)
		require.EqualValues(t, 5, got[0]["repeated"])
		require.Equal(t, "session: two", got[1]["msg"])
		require.NotContains(t, got[1], "repeated")
	})
}

// Lines that differ in message or level are never folded together, and those with other attributes are.
func TestLog_DifferentMessagesAreNotFolded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out := newLog()
		for i := range 200 {
			log.Info(fmt.Sprintf("session: message %d", i))
			log.Warn(fmt.Sprintf("session: message %d", i))
		}
		require.Len(t, out.lines(t), 400)

		with, group := log.With("node", "n1"), log.WithGroup("g")
		for range trace.Burst {
			log.Info("session: shared")
		}
		with.Info("session: shared")
		group.Info("session: shared", "account", "ann")
		require.Len(t, out.lines(t), trace.Burst)
		log.Close()
		got := out.lines(t)
		require.Len(t, got, 1)
		require.Equal(t, map[string]any{"account": "ann", "repeated": 2.}, got[0]["g"])
	})
}

// Close loses nothing of what was left out, and nothing is left out after it.
func TestLog_CloseLosesNothing(t *testing.T) {
	log, out := newLog()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				log.Info(fmt.Sprintf("session: %d", i%4))
			}
		})
	}
	wg.Wait()
	log.Close()
	total := 0
	for _, l := range out.lines(t) {
		if n, ok := l["repeated"]; ok {
			total += int(n.(float64))
			continue
		}
		total++
	}
	require.Equal(t, 800, total)
	for range 3 * trace.Burst {
		log.Info("session: late")
	}
	require.Len(t, out.lines(t), 3*trace.Burst)
	log.Close()
	require.Empty(t, out.lines(t))
}

// Memory is bounded: messages beyond the bound are written and not kept.
func TestLog_ManyMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out := newLog()
		for i := range 3 * trace.MaxMessages {
			for range trace.Burst + 1 {
				log.Info(fmt.Sprintf("session: %d", i))
			}
		}
		require.Len(t, out.lines(t), trace.MaxMessages*trace.Burst+2*trace.MaxMessages*(trace.Burst+1))
		time.Sleep(trace.Window)
		synctest.Wait()
		require.Len(t, out.lines(t), trace.MaxMessages)
	})
}

// failing is a host's handler that fails and panics in turns.
type failing struct {
	slog.Handler
	calls int
}

func (f *failing) Handle(context.Context, slog.Record) error {
	if f.calls++; f.calls%2 == 0 {
		panic("full")
	}
	return errors.New("full")
}

// A handler of the host's that fails or panics takes down nothing and is counted.
func TestLog_AHandlerThatFails(t *testing.T) {
	log := trace.New(slog.New(&failing{Handler: slog.NewTextHandler(new(sink), nil)}))
	require.NotPanics(t, func() {
		log.Info("session: one")
		log.Info("session: two")
		log.Close()
	})
	require.EqualValues(t, 2, log.Failed())
	require.NotPanics(t, func() { trace.New(nil).Info("session: nowhere") })
}

// fragile is a host's handler that panics wherever it can, or ends the goroutine.
type fragile struct {
	slog.Handler
	with, enabled, exit bool
}

func (f fragile) Enabled(ctx context.Context, l slog.Level) bool {
	if f.enabled {
		panic("enabled")
	}
	return f.Handler.Enabled(ctx, l)
}

func (f fragile) WithAttrs(attrs []slog.Attr) slog.Handler {
	if f.with {
		panic("attrs")
	}
	f.Handler = f.Handler.WithAttrs(attrs)
	return f
}

func (f fragile) WithGroup(string) slog.Handler { panic("group") }

func (f fragile) Handle(ctx context.Context, r slog.Record) error {
	if f.exit && r.Message == "session: exit" {
		runtime.Goexit()
	}
	return f.Handler.Handle(ctx, r)
}

// A handler of the host's that panics when it is asked or given attributes, or that ends the goroutine, takes down nothing, and
// the next line is written.
func TestLog_AHandlerThatPanicsAnywhere(t *testing.T) {
	for name, c := range map[string]struct {
		handler fragile
		write   func(*trace.Log)
		lost    int
	}{
		"enabled": {fragile{enabled: true}, func(l *trace.Log) { l.Info("session: one") }, 0},
		"attrs":   {fragile{with: true}, func(l *trace.Log) { l.With("account", "ann").Info("session: one") }, 1},
		"group":   {fragile{}, func(l *trace.Log) { l.WithGroup("g").Info("session: one", "account", "ann") }, 1},
		"goexit":  {fragile{exit: true}, func(l *trace.Log) { l.Info("session: exit") }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := new(sink)
				c.handler.Handler = slog.NewJSONHandler(out, nil)
				log := trace.New(slog.New(c.handler))
				require.NotPanics(t, func() { c.write(log) })
				log.Info("session: next")
				require.Len(t, out.lines(t), 2-c.lost)
				require.EqualValues(t, c.lost, log.Failed())
			})
		})
	}
}

// stuck is a host's handler that takes its time for each line.
type stuck struct {
	slog.Handler
	takes time.Duration
	over  chan struct{} // nil: it does not hang
}

func (s stuck) Handle(ctx context.Context, r slog.Record) error {
	time.Sleep(s.takes)
	if s.over != nil {
		<-s.over
	}
	return s.Handler.Handle(ctx, r)
}

// A handler that takes a second for each line holds up the first caller a little and the others not at all, and gets every line.
func TestLog_ASlowHandlerHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(sink)
		log := trace.New(slog.New(stuck{Handler: slog.NewJSONHandler(out, nil), takes: time.Second}))
		began := time.Now()
		for i := range 100 {
			log.Info(fmt.Sprintf("session: %d", i))
		}
		require.Equal(t, trace.Wait, time.Since(began))
		log.Close()
		got := out.lines(t)
		require.Len(t, got, 100, "Close waits as long as lines are taken")
		for i, l := range got {
			require.Equal(t, fmt.Sprintf("session: %d", i), l["msg"])
		}
		require.Zero(t, log.Failed())
		began = time.Now()
		log.Info("session: late")
		require.Equal(t, trace.Wait, time.Since(began), "it is tried again")
		log.Close()
	})
}

// A handler that hangs for good costs a bounded number of lines in memory, which are counted as lost beyond that, and Close does
// not wait for it for good.
func TestLog_AHandlerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(sink)
		over := make(chan struct{})
		log := trace.New(slog.New(stuck{Handler: slog.NewJSONHandler(out, nil), over: over}))
		began := time.Now()
		for i := range trace.MaxWaiting + 101 {
			log.Info(fmt.Sprintf("session: %d", i))
		}
		require.Equal(t, trace.Wait, time.Since(began))
		require.EqualValues(t, 100, log.Failed(), "one is with the handler")
		log.Close()
		require.Less(t, time.Since(began), 10*time.Second)
		require.Empty(t, out.lines(t))
		close(over)
		synctest.Wait()
		require.Len(t, out.lines(t), trace.MaxWaiting+1, "what has waited is written when it goes on")
	})
}

// The wrapped handler is as good a slog.Handler as the host's is.
func TestLog_IsASlogHandler(t *testing.T) {
	var out *sink
	slogtest.Run(t, func(*testing.T) slog.Handler {
		log, s := newLog()
		out = s
		return log.Handler()
	}, func(t *testing.T) map[string]any { return out.lines(t)[0] })
}

// A panic of a host's is shown with its stack, however deep it is wrapped.
func TestErr_ShowsTheStackOfAPanic(t *testing.T) {
	log, out := newLog()
	log.Warn("session: hook", trace.Err(fmt.Errorf("ask: %w", hostcall.Panicked("boom"))))
	log.Warn("session: hook", trace.Err(errors.New("no")))
	got := out.lines(t)
	require.Equal(t, "ask: panicked: boom", got[0]["err"])
	require.Contains(t, got[0]["stack"], "trace_test.go")
	require.NotContains(t, got[1], "stack")
}
