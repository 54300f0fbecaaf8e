package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
)

// queueConn is a connection that never waits: its queue holds a number of bytes of the reference encoding.
type queueConn struct {
	*hostConn
	most int

	mu      sync.Mutex
	ready   func()
	queue   []*event.Data
	sizes   []int // of the batches that are queued
	bytes   int
	largest int
	full    int // refusals
	calls   int
	refused bool
}

func (c *queueConn) NonBlocking() bool { return true }

// drainer is a queueConn that says when it has room.
type drainer struct{ *queueConn }

func (c drainer) NotifyDrained(ready func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = ready
}

func newQueueConn(most int) *queueConn {
	c := &queueConn{most: most}
	c.hostConn = newHostConn(func(_ context.Context, _ *hostConn, frames []event.Frame) error { return c.put(frames) })
	return c
}

func (c *queueConn) put(frames []event.Frame) error {
	n := 0
	for _, f := range frames {
		b, err := event.AppendFrame(nil, f)
		if err != nil {
			return err
		}
		n += len(b) + 1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.largest = max(c.largest, n)
	if c.bytes+n > c.most {
		c.full++
		c.refused = true
		return fmt.Errorf("no room: %w", transport.ErrFull)
	}
	c.bytes += n
	c.sizes = append(c.sizes, n)
	for _, f := range frames {
		if d, ok := f.(*event.Data); ok {
			copied := *d
			copied.Entries = append([]*event.Sealed(nil), d.Entries...)
			c.queue = append(c.queue, &copied)
		}
	}
	return nil
}

// drain writes all that is queued to the device, which acknowledges it.
func (c *queueConn) drain() (n int) {
	c.mu.Lock()
	data := c.queue
	c.queue, c.sizes, c.bytes = nil, nil, 0
	ready, refused := c.ready, c.refused
	c.refused = false
	if refused && ready != nil {
		ready() // with the lock that Send takes
	}
	c.mu.Unlock()
	for _, d := range data {
		c.wrote(d)
		n += len(d.Entries)
		_ = c.attachment().Handle(context.Background(), &event.Ack{Position: event.Position{Epoch: d.Epoch, Seq: d.Seq}})
	}
	return n
}

// A queue of a few hundred KiB and a catch-up of many times that: it never gets more than it can hold, and the connection
// lives (K11.7).
func TestK11_CatchUpThroughASmallQueue(t *testing.T) {
	for name, payload := range map[string]func(n int) []byte{
		"text": func(n int) []byte { return fmt.Appendf(nil, "%0*d", n, 7) },
		"escaped": func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = '"'
			}
			return b
		},
		"bytes": func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(i*7 + 128)
			}
			return b
		},
	} {
		for _, most := range []int{transport.MaxBatchBytes, 1 << 20} {
			for _, tells := range []bool{true, false} {
				t.Run(fmt.Sprint(name, " queue=", most, " tells=", tells), func(t *testing.T) {
					inMemory(t, fanout.Config{}, func(w *world) {
						res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
						require.NoError(w.t, err)
						for range 100 {
							w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: payload(60 << 10)})
						}
						for range 100 { // and live ones
							w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: payload(64 << 10)})
						}
						c := newQueueConn(most)
						var conn transport.Conn = c
						if tells {
							conn = drainer{c}
						}
						w.bound(fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, conn)
						got := 0
						for i := range 4_000 {
							if got >= 200 {
								break
							}
							if i%100 == 0 {
								_, err := w.r.Publish(context.Background(), fanout.PublishRequest{
									From: "bob", Kind: event.KindTyping, To: []event.Account{"ann"}, Subject: fmt.Sprint(i), Payload: payload(64 << 10),
								})
								require.NoError(w.t, err)
							}
							time.Sleep(100 * time.Millisecond)
							got += c.drain()
						}
						require.GreaterOrEqual(w.t, got, 200)
						require.Empty(w.t, c.reasons())
						require.LessOrEqual(w.t, c.largest, transport.MaxBatchBytes)
						seqs := c.seqs()
						for i := 1; i < len(seqs); i++ {
							require.Greater(w.t, seqs[i], seqs[i-1], "in order, each once")
						}
						require.Zero(w.t, w.r.Stats().Redelivered)
					})
				})
			}
		}
	}
}

// A full queue lets what comes gather: when there is room, it goes out in few batches. The sender does not notice.
func TestK11_EntriesGatherBehindAFullQueue(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := newQueueConn(1_000)
		w.hosted("ann", "a1", fanout.AttachRequest{}, drainer{c})
		synctest.Wait()
		c.drain()
		for i := range 60 {
			w.host("bob", fmt.Sprint(i), "ann")
		}
		synctest.Wait()
		c.mu.Lock()
		require.Equal(w.t, 1, c.full, "it is asked once")
		c.most = 1 << 20
		c.mu.Unlock()
		before := c.calls
		n := c.drain()
		synctest.Wait()
		n += c.drain()
		require.GreaterOrEqual(w.t, n, 60)
		require.LessOrEqual(w.t, c.calls-before, 3, "few batches")
		require.Empty(w.t, c.reasons())
	})
}

// A queue that is never drained is that of a slow device; acks and accepted batches are progress (K11.7).
func TestK11_FullQueueThatIsNotDrainedIsSlow(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := newQueueConn(1_000)
		w.hosted("ann", "a1", fanout.AttachRequest{}, drainer{c})
		w.feed("ann", 0, 60)
		start := time.Now()
		<-c.over
		require.Equal(w.t, []event.Reason{event.Slow}, c.reasons())
		require.InDelta(w.t, 10.5, time.Since(start).Seconds(), 1)
		require.EqualValues(w.t, 1, w.r.Stats().ByCause[fanout.CauseFrameWrite])
		require.Less(w.t, c.calls, 20, "asked again once a second")
	})
}

// ready may come at any time and in any state, also from within Send.
func TestK11_ReadyAtAnyTime(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := newQueueConn(4_000)
		inner := c.send
		c.send = func(ctx context.Context, h *hostConn, frames []event.Frame) error {
			c.mu.Lock()
			ready := c.ready
			c.mu.Unlock()
			if ready != nil {
				ready()
			}
			return inner(ctx, h, frames)
		}
		att := w.hosted("ann", "a1", fanout.AttachRequest{Window: 8}, drainer{c})
		for range 10 {
			c.ready()
		}
		w.feed("ann", 0, 20)
		got := 0
		for range 200 {
			time.Sleep(10 * time.Millisecond)
			c.ready()
			got += c.drain()
		}
		require.GreaterOrEqual(w.t, got, 20)
		require.Less(w.t, c.calls, 3_000)
		att.Detach()
		c.ready()
		synctest.Wait()
		c.ready()
	})
}

// A connection that waits must not say that it is full: it is its own way of saying no.
func TestK11_FullIsForThoseThatDoNotWait(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := newHostConn(func(context.Context, *hostConn, []event.Frame) error { return transport.ErrFull })
		w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		time.Sleep(time.Minute)
		require.Equal(w.t, []event.Reason{event.Lost}, c.reasons())
		require.EqualValues(w.t, 1, w.r.Stats().SendFailures)
	})
}

// Registers with large values: each page of state goes into one batch, and the next page follows.
func TestK11_StateInBatches(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.login("ann", "a1")
		d.online()
		for i := range 100 {
			conv := event.ConversationID(fmt.Sprint("c", i))
			w.post(fanout.SendRequest{From: "bob", Conversation: conv, To: []event.Account{"ann"}, Payload: []byte("x")})
			w.post(fanout.SendRequest{
				From: "ann", Origin: d.Login(), Kind: event.KindConversationPin, Conversation: conv, Payload: fmt.Appendf(nil, "%060000d", i),
			})
		}
		fresh := w.login("ann", "a2")
		fresh.start()
		fresh.caughtUp()
		pages := framesOf[*event.StatePage](fresh)
		require.NotEmpty(w.t, pages)
		n := 0
		for _, p := range pages {
			b, err := event.AppendFrame(nil, p)
			require.NoError(w.t, err)
			require.LessOrEqual(w.t, len(b), transport.MaxBatchBytes)
			for _, s := range p.States {
				if len(s.Value) > 1_000 {
					n++
				}
			}
		}
		require.Equal(w.t, 100, n)
	})
}

// narrow is a connection that never waits, and has no room for entries.
type narrow struct{ *hostConn }

func (narrow) NonBlocking() bool { return true }

func newNarrow() narrow {
	return narrow{newHostConn(func(_ context.Context, _ *hostConn, frames []event.Frame) error {
		for _, f := range frames {
			if _, ok := f.(*event.Data); ok {
				return transport.ErrFull
			}
		}
		return nil
	})}
}

// An entry that the queue never had room for was not sent: it is not suspected of having defeated the device, it is not
// flagged as sent before, and it cannot be acknowledged.
func TestFull_WhatWasNotTakenWasNotSent(t *testing.T) {
	told := new(reports)
	inMemory(t, fanout.Config{OnPoison: told.hook}, func(w *world) {
		c := newNarrow()
		att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		q := fanout.AttachRequest{Account: "ann", Login: att.Login(), Vouched: true}
		w.host("bob", "x", "ann")
		for range 6 {
			time.Sleep(12 * time.Second)
			require.Equal(w.t, []event.Reason{event.Slow}, c.reasons())
			c = newNarrow()
			att = w.bound(q, c)
		}
		require.Zero(w.t, w.inspect("ann", fanout.InspectOptions{}).Devices[0].Attempts)
		require.Empty(w.t, told.take())
		synctest.Wait()
		head := w.head("ann")
		err := att.Handle(context.Background(), &event.Ack{Position: event.Position{Epoch: head.Epoch, Seq: head.Seq}})
		_, bad := errors.AsType[*fanout.ProtocolError](err)
		require.True(w.t, bad, "%v", err)

		wide := newQueueConn(1 << 20)
		w.bound(q, wide)
		synctest.Wait()
		require.False(w.t, wide.queue[0].Redelivered)
		require.Equal(w.t, 1, wide.drain())
	})
}

// An entry that is parked while it waits for room in the queue is no longer sent; the frame that it was in covers it.
func TestFull_ParkedMeanwhile(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		var open atomic.Bool
		c := newQueueConn(1 << 20)
		put := c.send
		c.send = func(ctx context.Context, h *hostConn, frames []event.Frame) error {
			if _, data := frames[0].(*event.Data); data && !open.Load() {
				return transport.ErrFull
			}
			return put(ctx, h, frames)
		}
		w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		synctest.Wait()
		w.host("bob", "0", "ann") // of which the batch is full that is there already
		w.host("bob", "1", "ann")
		w.host("bob", "2", "ann")
		require.NoError(w.t, w.r.Park(context.Background(), "ann", "a1", w.seqOf("ann", "0")))
		require.NoError(w.t, w.r.Park(context.Background(), "ann", "a1", w.seqOf("ann", "2")))
		open.Store(true)
		time.Sleep(2 * time.Second)
		c.drain()
		time.Sleep(10 * time.Second)
		c.drain()
		require.Equal(w.t, []uint64{w.seqOf("ann", "1").Seq}, c.seqs())
		w.flush()
		all, err := w.inner.Cursors(context.Background(), "ann")
		require.NoError(w.t, err)
		require.Equal(w.t, w.head("ann").Seq, all[0].Seq)
	})
}
