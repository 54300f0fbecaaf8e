// Package trace writes the engine's log lines, so that a fault that hits thousands of accounts does not write thousands of
// lines.
//
//  1. Lines of one level and one message are alike, whatever their attributes. The first [Burst] of them within a [Window] are
//     written as they come. The others are counted.
//  2. When the window is over, the last line that was left out is written, with the attribute "repeated": how many lines it
//     stands for. The next line of any message notices that, and so does [Log.Flush], which the owner calls now and then.
//  3. Lines of different messages are never counted together. Of each message that was left out one line is held in memory, and
//     of at most [MaxMessages] messages. Lines beyond that are written as they come.
//  4. [Log.Close] writes what was left out. Lines that come later are written as they come.
//  5. A host's handler that fails or panics ends nothing. [Log.Failed] counts it.
package trace

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manydevice/manydevice/internal/hostcall"
)

const (
	// Burst is how many lines alike are written within a window: enough to see that it is not one account's trouble.
	Burst = 10
	// Window is the time within which lines alike are counted.
	Window = 10 * time.Second
	// MaxMessages bounds the messages that are counted at once. The engine has about a hundred.
	MaxMessages = 512
)

// Log is a host's logger in which repeated lines are folded. Loggers made from it by With and WithGroup count together with it.
// It is safe for concurrent use.
type Log struct {
	*slog.Logger
	lines *lines
}

// New wraps a host's logger. Nil discards everything.
func New(host *slog.Logger) *Log {
	next := slog.DiscardHandler
	if host != nil {
		next = host.Handler()
	}
	all := &lines{seen: make(map[kind]*seen)}
	return &Log{Logger: slog.New(&handler{next: next, lines: all}), lines: all}
}

// Flush writes what was left out in windows that are over. It costs next to nothing if there are none.
func (l *Log) Flush() { l.lines.flush(time.Now()) }

// Close writes what was left out, and leaves nothing out from now on. It may be called again.
func (l *Log) Close() { l.lines.write(l.lines.over(time.Now(), true)) }

// Failed returns how many lines the host's handler has not taken, since it returned an error or panicked.
func (l *Log) Failed() uint64 { return l.lines.failed.Load() }

// Err is how a log line shows an error: as "err", and with "stack" if it is a panic of the host's code.
func Err(err error) slog.Attr {
	attrs := []slog.Attr{slog.Any("err", err)}
	if p, ok := errors.AsType[*hostcall.PanicError](err); ok {
		attrs = append(attrs, slog.String("stack", string(p.Stack())))
	}
	return slog.Attr{Value: slog.GroupValue(attrs...)} // a group without a name is written as its members
}

// kind is what lines have in common that are alike.
type kind struct {
	level   slog.Level
	message string
}

// lines is what is known of the lines that were written lately.
type lines struct {
	failed atomic.Uint64

	mu     sync.Mutex
	seen   map[kind]*seen
	due    time.Time // the first window with lines left out ends then; zero: none were
	closed bool
}

// seen is one kind of lines within its window.
type seen struct {
	until   time.Time
	written int
	left    int  // lines left out
	last    line // of those left out
}

// line is a line and the handler that writes it.
type line struct {
	to     slog.Handler
	record slog.Record
}

// handler counts lines and hands those on that are not left out.
type handler struct {
	next  slog.Handler
	lines *lines
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{next: h.next.WithAttrs(attrs), lines: h.lines}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{next: h.next.WithGroup(name), lines: h.lines}
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	now := time.Now()
	h.lines.flush(now)
	if h.lines.take(now, line{h.next, r}) {
		h.lines.write([]line{{h.next, r}})
	}
	return nil
}

func (a *lines) flush(now time.Time) {
	a.mu.Lock()
	due := !a.due.IsZero() && !now.Before(a.due)
	a.mu.Unlock()
	if due {
		a.write(a.over(now, false))
	}
}

// take counts a line and reports whether it is to be written now.
func (a *lines) take(now time.Time, l line) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return true
	}
	k := kind{l.record.Level, l.record.Message}
	s := a.seen[k]
	if s == nil || s.left == 0 && !now.Before(s.until) {
		if s == nil && len(a.seen) >= MaxMessages && !a.forgetLocked(now) {
			return true
		}
		s = &seen{until: now.Add(Window)}
		a.seen[k] = s
	}
	if s.written < Burst {
		s.written++
		return true
	}
	s.left++
	s.last = line{l.to, l.record.Clone()}
	if a.due.IsZero() || s.until.Before(a.due) {
		a.due = s.until
	}
	return false
}

// forgetLocked drops windows that are over and have left nothing out. It reports whether there were any.
func (a *lines) forgetLocked(now time.Time) bool {
	before := len(a.seen)
	for k, s := range a.seen {
		if s.left == 0 && !now.Before(s.until) {
			delete(a.seen, k)
		}
	}
	return len(a.seen) < before
}

// over ends the windows that are over, or all of them for good, and returns a line for each that has left lines out, the oldest
// first.
func (a *lines) over(now time.Time, all bool) []line {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = a.closed || all
	a.due = time.Time{}
	var out []line
	for k, s := range a.seen {
		if !all && now.Before(s.until) {
			if s.left > 0 && (a.due.IsZero() || s.until.Before(a.due)) {
				a.due = s.until
			}
			continue
		}
		delete(a.seen, k)
		if s.left > 0 {
			s.last.record.AddAttrs(slog.Int("repeated", s.left))
			out = append(out, s.last)
		}
	}
	slices.SortFunc(out, func(x, y line) int { return x.record.Time.Compare(y.record.Time) })
	return out
}

// write hands lines to the host.
func (a *lines) write(all []line) {
	for _, l := range all {
		if err := hand(l); err != nil {
			a.failed.Add(1)
		}
	}
}

func hand(l line) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = hostcall.Panicked(p)
		}
	}()
	return l.to.Handle(context.Background(), l.record)
}
