package fanout_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
)

// picky is a connection that skips entries with a payload beyond a size, as an MQTT client with a Maximum Packet Size does.
// It checks that what is written follows without a gap, and acknowledges what it is told to.
type picky struct {
	*hostConn
	most    int
	instant bool

	pos     uint64
	texts   []string
	skipped []uint64
	faults  []string
	calls   int
	ack     func(p event.Position) // called with each Data that was written; nil: nothing is
}

func (c *picky) NonBlocking() bool { return c.instant }

func newPicky(most int) *picky {
	c := &picky{most: most}
	c.hostConn = newHostConn(func(_ context.Context, _ *hostConn, frames []event.Frame) error { return c.write(frames) })
	return c
}

func (c *picky) write(frames []event.Frame) error {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	for _, f := range frames {
		switch f := f.(type) {
		case *event.Welcome:
			c.mu.Lock()
			c.pos = f.Position.Seq
			c.mu.Unlock()
		case *event.Data:
			i := slices.IndexFunc(f.Entries, func(e *event.Sealed) bool { return len(e.Payload) > c.most })
			if i < 0 {
				c.put(f)
				continue
			}
			if short := transport.Before(f, i); short != nil {
				c.put(short)
			}
			c.mu.Lock()
			c.skipped = append(c.skipped, f.Entries[i].Seq)
			c.mu.Unlock()
			return fmt.Errorf("too big: %w", &transport.SkipError{Seq: f.Entries[i].Seq, Code: "packet_too_large"})
		}
	}
	return nil
}

func (c *picky) put(d *event.Data) {
	c.mu.Lock()
	if d.Prev != c.pos {
		c.faults = append(c.faults, fmt.Sprintf("prev is %d, position %d", d.Prev, c.pos))
	}
	for _, e := range d.Entries {
		if e.Seq <= c.pos || e.Seq > d.Seq {
			c.faults = append(c.faults, fmt.Sprintf("entry %d in (%d,%d]", e.Seq, d.Prev, d.Seq))
		}
		if e.Kind == event.KindMessage {
			c.texts = append(c.texts, strings.TrimRight(string(e.Payload), "."))
		}
	}
	c.pos = d.Seq
	ack := c.ack
	p := event.Position{Epoch: d.Epoch, Seq: d.Seq}
	c.mu.Unlock()
	if ack != nil {
		ack(p)
	}
}

func (c *picky) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.texts)
}

// nacks collects what the host is told.
type nacks struct {
	mu  sync.Mutex
	all []fanout.Nacked
}

func (n *nacks) hook(k fanout.Nacked) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, k)
}

func (n *nacks) take() []fanout.Nacked {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.all
	n.all = nil
	return all
}

// sized sends messages that are numbered; those that are named are too big for a picky client.
func (w *world) sized(n int, big ...int) (want []string) {
	for i := range n {
		text := fmt.Sprint(i)
		if slices.Contains(big, i) {
			w.host("bob", text+strings.Repeat(".", 1_000), "ann")
			continue
		}
		w.host("bob", text, "ann")
		want = append(want, text)
	}
	return want
}

// An entry that its connection cannot take is nacked, and everything else flows on the same connection: before, in the middle,
// at the end, several, all, while it is away and live (K11.6).
func TestK11_SkippedEntryIsNackedAndDeliveryGoesOn(t *testing.T) {
	for name, big := range map[string][]int{
		"none": nil, "the first": {0}, "one": {7}, "neighbours": {7, 8, 9}, "several": {3, 9, 27}, "the last": {39}, "the last two": {38, 39},
		"all but one": slices.DeleteFunc(ints(40), func(i int) bool { return i == 20 }), "all": ints(40),
	} {
		for _, instant := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " instant=", instant), func(t *testing.T) {
				told := new(nacks)
				overStores(t, fanout.Config{OnNack: told.hook, CursorFlush: 20 * time.Millisecond, Window: 16}, func(w *world) {
					told.take()
					res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
					require.NoError(w.t, err)
					q := fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}
					want := w.sized(40, big...)
					c := newPicky(500)
					c.instant = instant
					c.ack = func(p event.Position) {
						if a := c.attachment(); a != nil {
							go a.Handle(context.Background(), &event.Ack{Position: p}) //nolint
						}
					}
					q.Hold = true
					w.bound(q, c).Start()
					w.until("all there was", func() bool { return len(c.got()) == len(want) && len(c.skips()) == len(big) })
					want = append(want, w.sized(40, big...)...)
					w.until("all that came", func() bool { return len(c.got()) == len(want) && len(c.skips()) == 2*len(big) })
					require.Equal(w.t, want, c.got())
					require.Empty(w.t, c.faults)
					require.Empty(w.t, c.reasons(), "one connection")
					var all []fanout.Nacked
					w.until("the host was told of each", func() bool {
						all = append(all, told.take()...)
						return len(all) >= 2*len(big)
					})
					require.Len(w.t, all, 2*len(big), "each once")
					for _, n := range all {
						require.Equal(w.t, "packet_too_large", n.Code)
						require.Equal(w.t, event.DeviceID("a1"), n.Device)
					}
					require.EqualValues(w.t, 2*len(big), w.r.Stats().Nacked)
					require.EqualValues(w.t, len(want), w.r.Stats().Delivered-w.r.Stats().Redelivered)

					// It holds for the device: the next connection does not get them either.
					w.until("acknowledged", func() bool {
						n, _, _, _ := c.attachment().Window()
						return n == 0
					})
					c.attachment().Detach()
					again := newPicky(500)
					w.bound(fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, again)
					w.until("attached", func() bool { again.mu.Lock(); defer again.mu.Unlock(); return again.calls > 0 })
					time.Sleep(5 * time.Millisecond)
					require.Empty(w.t, again.got())
				})
			})
		}
	}
}

func (c *picky) skips() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.skipped)
}

func ints(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// deviceCursor returns the i-th cursor of an account as it is on disk.
func (w *world) deviceCursor(account event.Account, i int) uint64 {
	w.t.Helper()
	all, err := w.inner.Cursors(context.Background(), account)
	require.NoError(w.t, err)
	if i >= len(all) {
		return 0
	}
	return all[i].Seq
}

// A skip acknowledges nothing that stands before it: the cursor passes it only with what is acknowledged.
func TestK11_SkipAcknowledgesNothingElse(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		c := newPicky(500)
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
		require.NoError(w.t, err)
		q := fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}
		w.bound(q, c)
		base := w.head("ann").Seq
		epoch := w.head("ann").Epoch
		ack := func(seq uint64) {
			require.NoError(w.t, c.attachment().Handle(context.Background(), &event.Ack{Position: event.Position{Epoch: epoch, Seq: seq}}))
			w.flush()
		}
		w.sized(5, 2) // base+1 … base+5, of which base+3 is skipped
		w.until("all", func() bool { return len(c.got()) == 4 })
		w.flush()
		require.LessOrEqual(w.t, w.deviceCursor("ann", 0), base)
		n, _, _, _ := c.attachment().Window()
		require.Equal(w.t, 4, n)
		ack(base + 1)
		require.Equal(w.t, base+1, w.deviceCursor("ann", 0))
		ack(base + 2)
		require.Equal(w.t, base+3, w.deviceCursor("ann", 0), "nothing before the skip is left")
		ack(base + 5)
		require.Equal(w.t, base+5, w.deviceCursor("ann", 0))
		w.sized(1, 0)
		w.until("skipped", func() bool { return len(c.skips()) == 2 })
		w.until("passed at once", func() bool { w.flush(); return w.deviceCursor("ann", 0) == base+6 })
		require.Empty(w.t, c.faults)
	})
}

// A SkipError for what is not in the batch is an error as any other: no loop.
func TestK11_SkipOfSomethingElseIsAFailure(t *testing.T) {
	for _, seq := range []uint64{0, 1, 1 << 40} {
		inMemory(t, fanout.Config{}, func(w *world) {
			c := newHostConn(func(_ context.Context, _ *hostConn, frames []event.Frame) error {
				if _, ok := frames[0].(*event.Data); ok {
					return &transport.SkipError{Seq: seq}
				}
				return nil
			})
			w.hosted("ann", "a1", fanout.AttachRequest{}, c)
			w.host("bob", "x", "ann")
			time.Sleep(time.Second)
			require.Equal(w.t, []event.Reason{event.Lost}, c.reasons())
			require.EqualValues(w.t, 1, w.r.Stats().SendFailures)
		})
	}
}

// Random skips, acks and ends of connections: every entry is written or nacked, in order, and no cursor passes one that is
// neither.
func TestK11_RandomSkips(t *testing.T) {
	for seed := range uint64(40) {
		told := new(nacks)
		inMemory(t, fanout.Config{OnNack: told.hook, Window: 7, WindowBytes: 4_000, AckWait: time.Hour}, func(w *world) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
			require.NoError(w.t, err)
			q := fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}
			var want []string
			seen := map[string]bool{}
			var c *picky
			for i := range 300 {
				if c == nil {
					c = newPicky(500)
					c.instant = rnd.IntN(2) == 0
					w.bound(q, c)
				}
				text := fmt.Sprint(i)
				if rnd.IntN(4) == 0 {
					w.host("bob", text+strings.Repeat(".", 1_000), "ann")
				} else {
					w.host("bob", text, "ann")
					want = append(want, text)
				}
				if rnd.IntN(3) == 0 {
					time.Sleep(time.Millisecond)
					c.mu.Lock()
					p := event.Position{Epoch: w.head("ann").Epoch, Seq: c.pos}
					c.mu.Unlock()
					require.NoError(w.t, c.attachment().Handle(context.Background(), &event.Ack{Position: p}), "seed %d", seed)
				}
				if rnd.IntN(40) == 0 {
					c = w.note(c, seen)
				}
			}
			if c == nil {
				c = newPicky(500)
				w.bound(q, c)
			}
			for range 200 {
				time.Sleep(10 * time.Millisecond)
				c.mu.Lock()
				p := event.Position{Epoch: w.head("ann").Epoch, Seq: c.pos}
				c.mu.Unlock()
				require.NoError(w.t, c.attachment().Handle(context.Background(), &event.Ack{Position: p}), "seed %d", seed)
			}
			w.note(c, seen)
			for _, text := range want {
				require.True(w.t, seen[text], "seed %d: %s never came", seed, text)
			}
			require.NotEmpty(w.t, told.take())
		})
	}
}

// note ends a connection and notes what was written on it.
func (w *world) note(c *picky, seen map[string]bool) *picky {
	w.t.Helper()
	c.attachment().Detach()
	time.Sleep(time.Millisecond)
	require.Empty(w.t, c.faults)
	last := -1
	for _, text := range c.got() {
		var n int
		_, err := fmt.Sscan(text, &n)
		require.NoError(w.t, err)
		require.Greater(w.t, n, last)
		last = n
		seen[text] = true
	}
	return nil
}

// OnNack that hangs for one account holds up neither who sends to it nor its connection, for longer than 2 s (I35).
func TestI35_OnNackThatHangs(t *testing.T) {
	for _, instant := range []bool{false, true} {
		t.Run(fmt.Sprint("instant=", instant), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := make(chan struct{})
				w := newWorld(t, "", fanout.Config{OnNack: func(fanout.Nacked) { <-stop }})
				t.Cleanup(func() { close(stop) })
				c := newPicky(500)
				c.instant = instant
				att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
				synctest.Wait()
				start := time.Now()
				want := w.sized(3, 1)
				require.Zero(w.t, time.Since(start), "of who sends")
				time.Sleep(3 * time.Second)
				require.Equal(w.t, want, c.got())
				w.host("bob", "x", "ann")
				synctest.Wait()
				start = time.Now()
				head := w.head("ann")
				require.NoError(w.t, att.Handle(context.Background(), &event.Nack{Position: event.Position{Epoch: head.Epoch, Seq: head.Seq}, Code: "odd"}))
				require.LessOrEqual(w.t, time.Since(start), 2*time.Second)
				require.Empty(w.t, c.reasons())
			})
		})
	}
}
