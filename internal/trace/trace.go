// Package trace writes the engine's log lines, so that a fault that hits thousands of accounts does not write thousands of
// lines.
//
//  1. Lines of one level and one message are alike, whatever their attributes. The first [Burst] of them within a [Window] are
//     written as they come. The others are counted.
//  2. When the window is over, the last line that was left out is written, with the attribute "repeated": how many lines it
//     stands for. A timer sees to that, so that a storm is told of though nothing comes after it.
//  3. Lines of different messages are never counted together. Of each message that was left out one line is held in memory, and
//     of at most [MaxMessages] messages. Lines beyond that are written as they come.
//  4. [Log.Close] writes what was left out. Lines that come later are written as they come.
//  5. A host's handler that fails, panics or ends its goroutine ends nothing. [Log.Failed] counts it.
//  6. One that is slow or hangs holds up nobody. Lines are handed over one after another, on a goroutine of their own. Who writes a
//     line waits for that, [Wait] at most, and not at all while an earlier line takes longer. [MaxWaiting] lines wait for the
//     handler; those beyond that are lost, and counted by [Log.Failed].
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
	// Wait is how long a line is waited for: long enough for any handler that works, so that with it a line is written when
	// the call returns, and short enough for a call of a client's.
	Wait = 50 * time.Millisecond
	// MaxWaiting bounds the lines that wait for a handler that is slow: ten of each message of the engine.
	MaxWaiting = 1_024
	// closeWait is how long Close waits for a handler that takes no line.
	closeWait = 2 * time.Second
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
	return &Log{Logger: slog.New(&handler{host: next, lines: all}), lines: all}
}

// Close writes what was left out, and leaves nothing out from now on. It waits until the host's handler has taken all lines, or
// has taken none for two seconds. It may be called again.
func (l *Log) Close() {
	all := l.lines
	all.put(all.over(time.Now(), true)...)
	all.settle()
}

// Failed returns how many lines the host's handler has not taken, since it returned an error, panicked, or was too slow.
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
	queue  queue

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

// line is a line and how it is written.
type line struct {
	to     *handler
	record slog.Record
	done   chan struct{} // closed when the host's handler has it; nil: nobody waits
}

// handler counts lines and hands those on that are not left out. What a logger was given by With and WithGroup is told to the
// host's handler with each line, so that all of its code runs in the same place.
type handler struct {
	host  slog.Handler
	with  []with
	lines *lines
}

// with is a call of WithGroup, or of WithAttrs.
type with struct {
	group string
	attrs []slog.Attr
}

func (h *handler) and(w with) *handler {
	return &handler{host: h.host, with: append(slices.Clip(h.with), w), lines: h.lines}
}

// Enabled asks the host's handler. One that panics gets the line.
func (h *handler) Enabled(ctx context.Context, l slog.Level) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = true
		}
	}()
	return h.host.Enabled(ctx, l)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler { return h.and(with{attrs: attrs}) }

func (h *handler) WithGroup(name string) slog.Handler { return h.and(with{group: name}) }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	now := time.Now()
	h.lines.flush(now)
	l := line{to: h, record: r.Clone()}
	if h.lines.take(now, l) {
		l.done = make(chan struct{})
		h.lines.await(l)
	}
	return nil
}

func (a *lines) flush(now time.Time) {
	a.mu.Lock()
	due := !a.due.IsZero() && !now.Before(a.due)
	a.mu.Unlock()
	if due {
		a.put(a.over(now, false)...)
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
	s.last = l
	a.awaitLocked(s.until, now)
	return false
}

// awaitLocked has the lines written that were left out, once the window is over that ends first.
func (a *lines) awaitLocked(until, now time.Time) {
	if a.due.IsZero() || until.Before(a.due) {
		a.due = until
		time.AfterFunc(until.Sub(now), func() { a.flush(time.Now()) })
	}
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
			if s.left > 0 {
				a.awaitLocked(s.until, now)
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

// queue are the lines that wait for the host's handler.
type queue struct {
	mu      sync.Mutex
	waiting []line
	running bool          // a goroutine hands them over
	late    bool          // the handler takes longer than Wait for a line
	taken   uint64        // lines that were handed over
	idle    chan struct{} // closed when none are left; nil: nobody waits for that
}

// put has lines handed to the host, in order. It reports whether its caller should wait for that.
func (a *lines) put(all ...line) (worth bool) {
	q := &a.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range all {
		if len(q.waiting) >= MaxWaiting {
			a.failed.Add(1)
			continue
		}
		q.waiting = append(q.waiting, l)
		worth = !q.late
	}
	if !q.running && len(q.waiting) > 0 {
		q.running = true
		go a.work() // Close waits for it
	}
	return worth
}

// await puts a line and waits until the host has it, unless that takes too long.
func (a *lines) await(l line) {
	if !a.put(l) {
		return
	}
	t := time.NewTimer(Wait)
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
		a.queue.mu.Lock()
		a.queue.late = a.queue.running
		a.queue.mu.Unlock()
	}
}

// work hands lines over until none are left.
func (a *lines) work() {
	over := false
	defer func() {
		if !over { // the handler has ended the goroutine
			go a.work()
		}
	}()
	for l, ok := a.next(); ok; l, ok = a.next() {
		a.hand(l)
	}
	over = true
}

// next takes the line that comes next.
func (a *lines) next() (l line, ok bool) {
	q := &a.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.waiting, q.running, q.late = nil, false, false
		if q.idle != nil {
			close(q.idle)
			q.idle = nil
		}
		return l, false
	}
	l = q.waiting[0]
	q.waiting[0] = line{}
	q.waiting = q.waiting[1:]
	return l, true
}

// hand gives a line to the host's handler.
func (a *lines) hand(l line) {
	taken := false
	defer func() {
		_ = recover() // which is counted
		if !taken {
			a.failed.Add(1)
		}
		a.queue.mu.Lock()
		a.queue.taken++
		a.queue.mu.Unlock()
		if l.done != nil {
			close(l.done)
		}
	}()
	to := l.to.host
	for _, w := range l.to.with {
		if w.group != "" {
			to = to.WithGroup(w.group)
		} else {
			to = to.WithAttrs(w.attrs)
		}
	}
	taken = to.Handle(context.Background(), l.record) == nil
}

// settle waits until no line waits for the host, or until the host has taken none for closeWait.
func (a *lines) settle() {
	q := &a.queue
	for before := uint64(0); ; {
		q.mu.Lock()
		running, taken := q.running, q.taken
		if running && q.idle == nil {
			q.idle = make(chan struct{})
		}
		idle := q.idle
		q.mu.Unlock()
		if !running || before > 0 && taken+1 == before {
			return
		}
		before = taken + 1
		t := time.NewTimer(closeWait)
		select {
		case <-idle:
			t.Stop()
		case <-t.C:
		}
	}
}
