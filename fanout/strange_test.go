package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// strangeConn is a connection that skips entries, is full, fails in the middle of a batch, or hangs until it is closed.
type strangeConn struct {
	random  *rand.Rand // of Send, which is for one goroutine at a time
	instant bool
	skips   bool
	fails   int // one Send of this many fails on the way; 0: none
	hangs   int // one Send of this many hangs until Close; 0: none
	room    int // frames that the queue holds

	mu     sync.Mutex
	queue  []event.Frame
	ready  func()
	closed bool
	why    event.Closed
	more   chan struct{}
	over   chan struct{}
}

func (c *strangeConn) NonBlocking() bool { return c.instant }

// drainConn is a strangeConn that says when there is room.
type drainConn struct{ *strangeConn }

func (c drainConn) NotifyDrained(ready func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = ready
}

var errStrange = errors.New("the network is strange")

func (c *strangeConn) Send(ctx context.Context, frames []event.Frame) error {
	if c.instant {
		c.mu.Lock()
		full := len(c.queue) > 0 && len(c.queue)+len(frames) > c.room
		c.mu.Unlock()
		if full {
			return fmt.Errorf("queue: %w", transport.ErrFull)
		}
	}
	if c.hangs > 0 && c.random.IntN(c.hangs) == 0 && !c.instant {
		<-c.over
		return errStrange
	}
	for _, f := range frames {
		if c.fails > 0 && c.random.IntN(c.fails) == 0 {
			return errStrange
		}
		if d, ok := f.(*event.Data); ok && c.skips {
			for i, e := range d.Entries {
				if strings.HasPrefix(string(e.Payload), "big") {
					if short := transport.Before(d, i); short != nil {
						if err := c.put(ctx, short); err != nil {
							return err
						}
					}
					return fmt.Errorf("encode: %w", &transport.SkipError{Seq: e.Seq, Code: "too_large"})
				}
			}
		}
		if err := c.put(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (c *strangeConn) put(ctx context.Context, f event.Frame) error {
	if !c.instant && c.random.IntN(3) == 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(c.random.IntN(40)) * time.Millisecond):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errStrange
	}
	c.queue = append(c.queue, transporttest.Copy(f))
	select {
	case c.more <- struct{}{}:
	default:
	}
	return nil
}

func (c *strangeConn) Close(why event.Closed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		panic("closed twice")
	}
	c.closed, c.why = true, why
	close(c.over)
	return nil
}

// next returns the next frame; nil: the connection is over.
func (c *strangeConn) next() event.Frame {
	for {
		c.mu.Lock()
		if len(c.queue) > 0 && !c.closed {
			f := c.queue[0]
			c.queue = c.queue[1:]
			if c.ready != nil && len(c.queue) <= c.room/2 {
				c.ready() // with a lock that Send takes
			}
			c.mu.Unlock()
			return f
		}
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return nil
		}
		select {
		case <-c.more:
		case <-c.over:
		}
	}
}

// strangeClient follows docs/protocol.md over such connections.
type strangeClient struct {
	w      *world
	device event.DeviceID
	login  event.LoginID
	token  event.ResumeToken
	fails  func(format string, args ...any)

	mu   sync.Mutex
	pos  *event.Position
	ids  map[event.MessageID]bool
	got  map[string]int
	conn *strangeConn
	att  *fanout.Attachment
	wg   sync.WaitGroup
}

func (c *strangeClient) logIn() {
	res, err := c.w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: c.device, Platform: "ios"})
	require.NoError(c.w.t, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.login, c.token = res.Session.Login, res.Token
}

func (c *strangeClient) connect(random *rand.Rand, calm bool) {
	conn := &strangeConn{
		random: rand.New(rand.NewPCG(random.Uint64(), 2)), instant: random.IntN(2) == 0, skips: random.IntN(2) == 0, room: 1 + random.IntN(12),
		more: make(chan struct{}, 1), over: make(chan struct{}),
	}
	if !calm {
		conn.fails, conn.hangs = random.IntN(2)*20, random.IntN(2)*20
	}
	var tc transport.Conn = conn
	if conn.instant && random.IntN(2) == 0 {
		tc = drainConn{conn}
	}
	c.mu.Lock()
	q := fanout.AttachRequest{Account: "ann", Login: c.login, Token: c.token, Position: c.pos, Hold: random.IntN(4) == 0, Window: random.IntN(2) * (1 + random.IntN(8))}
	if random.IntN(5) == 0 {
		q.Position = nil
	}
	c.mu.Unlock()
	att, err := c.w.r.Attach(context.Background(), q, tc)
	if _, ok := errors.AsType[*session.EndedError](err); ok {
		c.logIn()
		c.mu.Lock()
		q.Login, q.Token = c.login, c.token
		c.mu.Unlock()
		att, err = c.w.r.Attach(context.Background(), q, tc)
	}
	require.NoError(c.w.t, err)
	c.mu.Lock()
	c.conn, c.att = conn, att
	c.mu.Unlock()
	if q.Hold {
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
		att.Start()
	}
	own := rand.New(rand.NewPCG(random.Uint64(), 3))
	c.wg.Go(func() { c.serve(conn, att, own, calm) })
}

func (c *strangeClient) serve(conn *strangeConn, att *fanout.Attachment, random *rand.Rand, calm bool) {
	ctx := context.Background()
	var at event.Position // on this connection
	first := true
	for {
		f := conn.next()
		if f == nil {
			return
		}
		c.mu.Lock()
		if c.conn != conn && c.conn != nil { // the app has another connection: this one is not listened to
			c.mu.Unlock()
			return
		}
		switch f := f.(type) {
		case *event.Welcome:
			if !first {
				c.fails("a second welcome")
			}
			first, at = false, f.Position
			if f.Token != "" {
				c.token = f.Token
			}
			if c.pos == nil || c.pos.Seq < f.Position.Seq { // it has not named its position, and the cursor has passed what was skipped
				c.pos = &event.Position{Epoch: f.Position.Epoch, Seq: f.Position.Seq}
			}
		case *event.Reset:
			c.fails("reset %v", f)
		case *event.Data:
			if first || f.Epoch != at.Epoch || f.Prev != at.Seq {
				c.fails("%s: data (%d,%d] follows on %d (first %v)", c.device, f.Prev, f.Seq, at.Seq, first)
			}
			for _, e := range f.Entries {
				if e.Seq <= c.pos.Seq {
					continue
				}
				if c.ids[e.ID] {
					continue
				}
				c.ids[e.ID] = true
				c.got[string(e.Payload)]++
			}
			at.Seq = f.Seq
			if f.Seq > c.pos.Seq {
				c.pos = &event.Position{Epoch: f.Epoch, Seq: f.Seq}
			}
		}
		dies := !calm && random.IntN(60) == 0
		p := *c.pos
		c.mu.Unlock()
		if dies {
			if random.IntN(2) == 0 {
				att.Detach()
			}
			return // the other side finds out by itself
		}
		if _, ok := f.(*event.Data); ok && (calm || random.IntN(3) > 0) && at.Seq > 0 {
			if err := att.Handle(ctx, &event.Ack{Position: event.Position{Epoch: p.Epoch, Seq: min(at.Seq, p.Seq)}}); err != nil && !errors.Is(err, fanout.ErrDetached) {
				c.fails("ack: %v", err)
			}
		}
		if random.IntN(30) == 0 {
			if err := att.Handle(ctx, &event.Ping{}); err != nil && !errors.Is(err, fanout.ErrDetached) {
				c.fails("ping: %v", err)
			}
		}
	}
}

// TestI10_ExactlyOnceOverStrangeConnections: connections that skip, are full, fail, hang, are displaced, kicked, and engines
// that stop and crash. A client that follows the protocol applies every entry once, and misses only what was skipped.
func TestI10_ExactlyOnceOverStrangeConnections(t *testing.T) {
	for seed := range 40 {
		inMemory(t, fanout.Config{TrimInterval: -1, Window: 8, PageEntries: 7, AckWait: 2 * time.Second, FrameWrite: time.Second}, func(w *world) {
			random := rand.New(rand.NewPCG(uint64(seed), 1))
			fails := func(format string, args ...any) { panic(fmt.Sprintf("seed %d: ", seed) + fmt.Sprintf(format, args...)) }
			all := []*strangeClient{}
			for i := range 2 {
				c := &strangeClient{
					w: w, device: event.DeviceID(fmt.Sprint("a", i)), ids: map[event.MessageID]bool{}, got: map[string]int{}, fails: fails,
				}
				c.logIn()
				c.connect(random, false)
				all = append(all, c)
			}
			var sent []string
			for range 150 {
				c := all[random.IntN(2)]
				switch n := random.IntN(40); {
				case n < 20:
					text := fmt.Sprint("m", len(sent))
					if random.IntN(5) == 0 {
						text = fmt.Sprint("big", len(sent))
					}
					sent = append(sent, text)
					w.host("bob", text, "ann")
				case n < 26:
					time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
				case n < 36:
					c.connect(random, false)
				case n < 37:
					_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", All: true})
					require.NoError(t, err)
				case n < 38:
					w.restart()
				case n < 39:
					w.crash()
				default:
					time.Sleep(time.Duration(random.IntN(4000)) * time.Millisecond)
				}
			}
			for _, c := range all {
				c.connect(random, true)
			}
			time.Sleep(20 * time.Second)
			for _, c := range all {
				c.mu.Lock()
				for _, text := range sent {
					if n := c.got[text]; n > 1 || n == 0 && text[0] == 'm' {
						fails("%s: message %s applied %d times", c.device, text, n)
					}
				}
				c.mu.Unlock()
			}
			for _, c := range all {
				c.conn.mu.Lock()
				if c.conn.closed {
					fails("a calm connection was closed: %v", c.conn.why)
				}
				c.conn.mu.Unlock()
				c.att.Detach()
				c.wg.Wait()
			}
		})
	}
}
