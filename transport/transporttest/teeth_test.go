package transporttest

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/transport"
)

// flawedConn is a connection that breaks the contract where a function is set.
type flawedConn struct {
	transport.Conn
	send  func(ctx context.Context, frames []event.Frame) error
	close func(why event.Closed) error
}

func (c *flawedConn) Send(ctx context.Context, frames []event.Frame) error {
	if c.send != nil {
		return c.send(ctx, frames)
	}
	return c.Conn.Send(ctx, frames)
}

func (c *flawedConn) Close(why event.Closed) error {
	if c.close != nil {
		return c.close(why)
	}
	return c.Conn.Close(why)
}

// alias is a connection that keeps the engine's frames. It is its own peer.
type alias struct {
	frames chan event.Frame
	over   chan struct{}
}

func (a *alias) Send(_ context.Context, frames []event.Frame) error {
	for _, f := range frames {
		a.frames <- f
	}
	return nil
}

func (a *alias) Close(event.Closed) error { return nil }

func (a *alias) Receive(ctx context.Context) (event.Frame, error) {
	select {
	case f := <-a.frames:
		return f, nil
	case <-a.over:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *alias) Hangup() { close(a.over) }

// powers is a connection that misreports what it can do.
type powers struct {
	*flawedConn
	calls       atomic.Int32
	nonBlocking bool
}

func (p *powers) RemoteAddr() string {
	if p.nonBlocking {
		return "same"
	}
	return string(rune('a' + p.calls.Add(1)))
}

func (p *powers) NonBlocking() bool { return p.nonBlocking }

// edit returns a connection that changes every frame before it is sent.
func edit(change func(f event.Frame)) func(p *Pair, c *flawedConn) {
	return func(_ *Pair, c *flawedConn) {
		c.send = func(ctx context.Context, frames []event.Frame) error {
			var out []event.Frame
			for _, f := range frames {
				f = Copy(f)
				change(f)
				out = append(out, f)
			}
			return c.Conn.Send(ctx, out)
		}
	}
}

// never makes calls that do not return before the end of the test.
func never(t testing.TB) func() {
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	return func() { <-hold }
}

// connFlaw breaks one rule.
type connFlaw struct {
	rule string
	flaw func(t testing.TB, p *Pair, c *flawedConn)
}

func plain(flaw func(p *Pair, c *flawedConn)) func(testing.TB, *Pair, *flawedConn) {
	return func(_ testing.TB, p *Pair, c *flawedConn) { flaw(p, c) }
}

// connFlaws are flaws of single frames and of Send.
func connFlaws() []connFlaw {
	deaf := plain(func(_ *Pair, c *flawedConn) {
		c.send = func(_ context.Context, frames []event.Frame) error { return c.Conn.Send(context.Background(), frames) }
	})
	swallow := plain(func(_ *Pair, c *flawedConn) {
		c.send = func(ctx context.Context, frames []event.Frame) error { _ = c.Conn.Send(ctx, frames); return nil }
	})
	endless := plain(func(p *Pair, _ *flawedConn) { p.cfg.MaxBytes = 0 })
	idle := plain(func(_ *Pair, c *flawedConn) { c.close = func(event.Closed) error { return nil } })
	mute := plain(func(p *Pair, c *flawedConn) { c.close = func(event.Closed) error { p.Cut(); return nil } })
	stuck := func(t testing.TB, _ *Pair, c *flawedConn) {
		wait := never(t)
		c.close = func(event.Closed) error { wait(); return nil }
	}
	return []connFlaw{
		{"every kind of frame arrives as it was sent", plain(edit(forgetRedelivered))},
		{"every kind of frame arrives as it was sent", plain(edit(roundPosition))},
		{"every kind of frame arrives as it was sent", plain(edit(dropValues))},
		{"frames arrive in order over Sends and batches", plain(reverseBatches)},
		{"an empty batch is no error", plain(refuseEmpty)},
		{"big frames arrive whole", plain(edit(shorten))},
		{"Send with an ended context returns an error", deaf},
		{"Send returns when its context ends", deaf},
		{"Send returns when its context ends", endless},
		{"Send returns when its context is cancelled", deaf},
		{"Send returns when its context is cancelled", endless},
		{"Send returns when its context is cancelled", plain(deadlineOnly)},
		{"Close makes a running Send return", idle},
		{"Close makes a running Send return", endless},
		{"Close ends the connection for the device", idle},
		{"Close ends the connection for the device", mute},
		{"Close ends the connection for the device", stuck},
		{"Send after Close returns an error", swallow},
		{"Send after the device is gone returns an error", swallow},
		{"Close after the device is gone returns", stuck},
		{"Close and Send at the same moment", swallow},
	}
}

func forgetRedelivered(f event.Frame) {
	if d, ok := f.(*event.Data); ok {
		d.Redelivered = false
	}
}

func roundPosition(f event.Frame) {
	if d, ok := f.(*event.CaughtUp); ok {
		d.Position.Seq = uint64(float64(d.Position.Seq))
	}
}

func dropValues(f event.Frame) {
	if d, ok := f.(*event.StatePage); ok {
		for i := range d.States {
			d.States[i].Value = nil
		}
	}
}

func shorten(f event.Frame) {
	d, ok := f.(*event.Data)
	if !ok {
		return
	}
	for i, e := range d.Entries {
		short := e.Entry
		short.Payload = short.Payload[:min(len(short.Payload), 32<<10)]
		d.Entries[i] = event.Seal(short)
	}
}

func reverseBatches(_ *Pair, c *flawedConn) {
	c.send = func(ctx context.Context, frames []event.Frame) error {
		frames = slices.Clone(frames)
		slices.Reverse(frames)
		return c.Conn.Send(ctx, frames)
	}
}

func refuseEmpty(_ *Pair, c *flawedConn) {
	c.send = func(ctx context.Context, frames []event.Frame) error {
		if len(frames) == 0 {
			return errors.New("nothing to send")
		}
		return c.Conn.Send(ctx, frames)
	}
}

// deadlineOnly is told of a context's deadline, and of nothing else.
func deadlineOnly(_ *Pair, c *flawedConn) {
	c.send = func(ctx context.Context, frames []event.Frame) error {
		own := context.Background()
		if d, ok := ctx.Deadline(); ok {
			limited, cancel := context.WithDeadline(own, d)
			defer cancel()
			own = limited
		}
		return c.Conn.Send(own, frames)
	}
}

// queue is a connection that never waits and breaks the contract where a function is set.
type queue struct {
	*Conn
	send   func(ctx context.Context, frames []event.Frame) error
	notify func(ready func())
}

func (q *queue) Send(ctx context.Context, frames []event.Frame) error {
	if q.send != nil {
		return q.send(ctx, frames)
	}
	return q.Conn.Send(ctx, frames)
}

func (q *queue) NotifyDrained(ready func()) {
	if q.notify != nil {
		q.notify(ready)
		return
	}
	q.Conn.NotifyDrained(ready)
}

// queueFlaws break the rules about full queues and skipped entries.
func queueFlaws() map[string][]func(q *queue) {
	return map[string][]func(q *queue){
		"a queue holds a whole batch": {func(q *queue) {
			q.send = func(ctx context.Context, frames []event.Frame) error {
				if size(frames[0]) > 256<<10 {
					return transport.ErrFull
				}
				return q.Conn.Send(ctx, frames)
			}
		}},
		"a full queue takes nothing of a batch and says when it has room": {
			func(q *queue) { // it takes the first frame
				q.send = func(ctx context.Context, frames []event.Frame) error {
					err := q.Conn.Send(ctx, frames)
					if errors.Is(err, transport.ErrFull) {
						q.p.g.Lock()
						q.p.appendLocked(frames[0])
						q.p.g.Unlock()
					}
					return err
				}
			},
			func(q *queue) { q.notify = func(func()) {} },
		},
		"an entry that the client cannot take is skipped": {
			func(q *queue) { q.p.cfg.MaxEntry = 0 }, // it takes all
			func(q *queue) { // it writes what stands behind
				q.send = func(ctx context.Context, frames []event.Frame) error {
					err := q.Conn.Send(ctx, frames)
					if _, ok := errors.AsType[*transport.SkipError](err); ok {
						_ = q.Conn.Send(ctx, frames[len(frames)-1:])
					}
					return err
				}
			},
			func(q *queue) { // it writes nothing of the batch
				q.send = func(ctx context.Context, frames []event.Frame) error {
					if _, err := q.p.takes(frames); err != nil {
						return err
					}
					return q.Conn.Send(ctx, frames)
				}
			},
			func(q *queue) { // it names another entry
				q.send = func(ctx context.Context, frames []event.Frame) error {
					err := q.Conn.Send(ctx, frames)
					if s, ok := errors.AsType[*transport.SkipError](err); ok {
						return &transport.SkipError{Seq: s.Seq + 1}
					}
					return err
				}
			},
		},
	}
}

// TestConnSuiteHasTeeth runs each rule against connections that break it.
func TestConnSuiteHasTeeth(t *testing.T) {
	rules := map[string]connRule{}
	for _, r := range connRules {
		rules[r.name] = r
	}
	broken := map[string]bool{}
	run := func(name string, open func(t testing.TB) (transport.Conn, Peer)) {
		broken[name] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Error(t, rules[name].run(t, ConnHarness{Timeout: 500 * time.Millisecond, Open: open}))
		})
	}
	for _, f := range connFlaws() {
		run(f.rule, func(t testing.TB) (transport.Conn, Peer) {
			p := NewPair(PairConfig{MaxBytes: 2 << 20, NoRecord: true})
			c := &flawedConn{Conn: p.Conn()}
			f.flaw(t, p, c)
			return c, p
		})
	}
	run("frames are the engine's again after Send", func(testing.TB) (transport.Conn, Peer) {
		a := &alias{make(chan event.Frame, 64), make(chan struct{})}
		return a, a
	})
	for _, nonBlocking := range []bool{false, true} {
		run("optional powers", func(testing.TB) (transport.Conn, Peer) {
			p := NewPair(PairConfig{MaxBytes: 1 << 10})
			return &powers{flawedConn: &flawedConn{Conn: p.Conn()}, nonBlocking: nonBlocking}, p
		})
	}
	for rule, flaws := range queueFlaws() {
		for _, flaw := range flaws {
			broken[rule] = true
			t.Run(rule, func(t *testing.T) {
				t.Parallel()
				require.Error(t, rules[rule].run(t, ConnHarness{
					Timeout: 500 * time.Millisecond, MaxEntry: 1 << 10, Open: func(testing.TB) (transport.Conn, Peer) {
						p := NewPair(PairConfig{MaxBytes: 1 << 20, MaxEntry: 64 << 10, NonBlocking: true})
						if rule == "an entry that the client cannot take is skipped" {
							p.cfg.MaxEntry = 1 << 10
						}
						q := &queue{Conn: p.Conn()}
						flaw(q)
						return q, p
					},
				}))
			})
		}
	}
	for _, r := range connRules {
		require.True(t, broken[r.name], "nothing breaks %q", r.name)
	}
}
