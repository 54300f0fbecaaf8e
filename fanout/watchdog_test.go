package fanout_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
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
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport"
)

// hostConn is a host's connection that does with each batch what a test says.
type hostConn struct {
	send    func(ctx context.Context, c *hostConn, frames []event.Frame) error
	onClose func()

	over chan struct{} // closed by Close

	mu      sync.Mutex
	att     *fanout.Attachment
	entries []uint64
	prevs   []string // of Data frames: (prev, seq]
	closed  []event.Closed
}

func newHostConn(send func(context.Context, *hostConn, []event.Frame) error) *hostConn {
	return &hostConn{send: send, over: make(chan struct{})}
}

func (c *hostConn) Send(ctx context.Context, frames []event.Frame) error {
	return c.send(ctx, c, frames)
}

func (c *hostConn) Close(why event.Closed) error {
	c.mu.Lock()
	c.closed = append(c.closed, why)
	if len(c.closed) == 1 {
		close(c.over)
	}
	c.mu.Unlock()
	if c.onClose != nil {
		c.onClose()
	}
	return nil
}

func (c *hostConn) reasons() []event.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []event.Reason
	for _, w := range c.closed {
		all = append(all, w.Reason)
	}
	return all
}

func (c *hostConn) attachment() *fanout.Attachment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.att
}

// wrote notes a Data as the client sees it.
func (c *hostConn) wrote(d *event.Data) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range d.Entries {
		c.entries = append(c.entries, e.Seq)
	}
	c.prevs = append(c.prevs, fmt.Sprintf("(%d,%d]", d.Prev, d.Seq))
}

func (c *hostConn) seqs() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.entries)
}

// hosted attaches a host's connection of a new device.
func (w *world) hosted(account event.Account, device event.DeviceID, q fanout.AttachRequest, conn transport.Conn) *fanout.Attachment {
	w.t.Helper()
	res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: account, Device: device, Platform: "ios"})
	require.NoError(w.t, err)
	q.Account, q.Login, q.Token = account, res.Session.Login, res.Token
	return w.bound(q, conn)
}

func (w *world) bound(q fanout.AttachRequest, conn transport.Conn) *fanout.Attachment {
	w.t.Helper()
	att, err := w.r.Attach(context.Background(), q, conn)
	require.NoError(w.t, err)
	w.t.Cleanup(att.Detach)
	if c, ok := conn.(interface{ bind(*fanout.Attachment) }); ok {
		c.bind(att)
	}
	return att
}

func (c *hostConn) bind(a *fanout.Attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.att = a
}

// deaf is a Send that takes until Close, whatever its context says, as one over a net.Conn does that is not told of it.
func deaf(_ context.Context, c *hostConn, _ []event.Frame) error {
	<-c.over
	return errors.New("closed")
}

// A Send that pays no heed to its context is ended by the watchdog, although its client pings (K3.2).
func TestK3_ClientThatPingsAndReadsNothingIsSlow(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  fanout.Config
		req  fanout.AttachRequest
		want time.Duration
	}{
		"by default":             {want: 10 * time.Second},
		"by the config":          {cfg: fanout.Config{FrameWrite: 4 * time.Second}, want: 4 * time.Second},
		"by a very short one":    {cfg: fanout.Config{FrameWrite: 200 * time.Millisecond}, want: 200 * time.Millisecond},
		"of the connection":      {req: fanout.AttachRequest{FrameWrite: time.Minute}, want: time.Minute},
		"shorter than the sweep": {req: fanout.AttachRequest{FrameWrite: time.Millisecond}, want: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, tt.cfg, func(w *world) {
				c := newHostConn(deaf)
				att := w.hosted("ann", "a1", tt.req, c)
				start := time.Now()
				for len(c.reasons()) == 0 && time.Since(start) < 30*time.Minute {
					time.Sleep(100 * time.Millisecond)
					_ = att.Handle(context.Background(), event.Ping{})
				}
				require.Equal(w.t, []event.Reason{event.Slow}, c.reasons())
				require.InDelta(w.t, tt.want.Seconds()+0.5, time.Since(start).Seconds(), 0.61)
				require.EqualValues(w.t, 1, w.r.Stats().Slow)
				require.EqualValues(w.t, 1, w.r.Stats().ByCause[fanout.CauseFrameWrite])
				time.Sleep(time.Minute)
				require.EqualValues(w.t, 1, w.r.Stats().Slow, "it is counted once")
				require.Zero(w.t, w.r.Stats().SendFailures, "that Send returns because of the Close is no failure of its own")
			})
		})
	}
}

// Acks during a Send are progress: a client that takes one entry at a time is not slow, however long the batch (K3.5).
func TestK3_AcksDuringASendAreProgress(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := newHostConn(nil)
		c.send = func(ctx context.Context, c *hostConn, frames []event.Frame) error {
			for _, f := range frames {
				d, ok := f.(*event.Data)
				if !ok {
					continue
				}
				for _, e := range d.Entries { // an MQTT client with Receive Maximum 1
					select {
					case <-time.After(500 * time.Millisecond):
					case <-ctx.Done():
						return context.Cause(ctx)
					}
					if err := c.attachment().Handle(ctx, event.Ack{Position: event.Position{Epoch: d.Epoch, Seq: e.Seq}}); err != nil {
						return err
					}
				}
				c.wrote(d)
			}
			return nil
		}
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
		require.NoError(w.t, err)
		w.feed("ann", 0, 64)
		att := w.bound(fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token, Hold: true}, c)
		att.Start()
		time.Sleep(time.Minute)
		require.Empty(w.t, c.reasons())
		require.GreaterOrEqual(w.t, len(c.seqs()), 64)
		require.Zero(w.t, w.r.Stats().Slow)
	})
}

// A reader that waits for the store says nothing about its device.
func TestK3_ReaderThatWaitsForTheStoreIsNotSlow(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := newHostConn(func(context.Context, *hostConn, []event.Frame) error { return nil })
		w.feed("ann", 0, 10)
		att := w.hosted("ann", "a1", fanout.AttachRequest{Hold: true}, c)
		hold := make(chan struct{})
		remove := w.st.Inject(storetest.Fault{Method: storetest.Read, Times: -1, Wait: hold})
		att.Start()
		time.Sleep(10 * time.Minute)
		require.Empty(w.t, c.reasons())
		remove()
		close(hold)
		time.Sleep(time.Second)
	})
}

// A violation is answered after the client was told, so that a host that closes its socket then comes second (K3.4).
func TestK3_ViolationIsToldBeforeHandleReturns(t *testing.T) {
	w := newWorld(t, "", fanout.Config{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	for i := range 200 {
		client, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		server, err := listener.Accept()
		require.NoError(t, err)
		done := make(chan error, 1)
		att := w.hosted("ann", event.DeviceID(fmt.Sprint("d", i%8)), fanout.AttachRequest{}, lines{server})
		go func() { // README's loop
			defer server.Close()
			for in := bufio.NewScanner(server); in.Scan(); {
				if err := att.HandleJSON(context.Background(), in.Bytes()); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		_, err = io.WriteString(client, "{\"t\":\"nonsense\"}\n")
		require.NoError(t, err)
		all, err := io.ReadAll(client)
		require.NoError(t, err)
		got := strings.Split(strings.TrimSpace(string(all)), "\n")
		require.Contains(t, got[len(got)-1], `"reason":"protocol_error"`)
		violation := new(fanout.ProtocolError)
		require.ErrorAs(t, <-done, &violation)
		require.ErrorIs(t, att.Handle(context.Background(), event.Ping{}), fanout.ErrDetached)
		require.ErrorIs(t, att.HandleJSON(context.Background(), []byte("nonsense")), fanout.ErrDetached)
		client.Close()
	}
}

// lines is a host's connection, a frame a line, that is not told of contexts.
type lines struct{ net.Conn }

func (c lines) Send(_ context.Context, frames []event.Frame) (err error) {
	var b []byte
	for _, f := range frames {
		if b, err = event.AppendFrame(b, f); err != nil {
			return err
		}
		b = append(b, '\n')
	}
	_, err = c.Write(b)
	return err
}

func (c lines) Close(why event.Closed) error {
	b, err := event.AppendFrame(nil, &why)
	if err == nil {
		_, err = c.Write(append(b, '\n'))
	}
	return errors.Join(err, c.Conn.Close())
}

// The same for any other end: whoever hears ErrDetached may close the socket, since the client was told why.
func TestK3_DetachedIsToldBeforeHandleReturns(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := newHostConn(func(context.Context, *hostConn, []event.Frame) error { return nil })
		c.onClose = func() { time.Sleep(300 * time.Millisecond) } // until the frame is out
		att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		start := time.Now()
		att.Close(event.KickedHost.Closed(0))
		require.Zero(w.t, time.Since(start))
		require.ErrorIs(w.t, att.Handle(context.Background(), event.Ping{}), fanout.ErrDetached)
		require.Equal(w.t, 300*time.Millisecond, time.Since(start))
	})
}

// The wait is bounded: by the caller's context, and where Close waits for the very caller.
func TestK3_HandleWaitsForCloseABoundedTime(t *testing.T) {
	violate := func(ctx context.Context, a *fanout.Attachment) error { return a.HandleJSON(ctx, []byte("x")) }
	t.Run("a Close that hangs", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			hold := make(chan struct{})
			c := newHostConn(func(context.Context, *hostConn, []event.Frame) error { return nil })
			c.onClose = func() { <-hold }
			att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
			start := time.Now()
			violation := new(fanout.ProtocolError)
			require.ErrorAs(w.t, violate(context.Background(), att), &violation)
			require.Equal(w.t, time.Second, time.Since(start), "session.Config.CloseTimeout")
			require.ErrorIs(w.t, violate(context.Background(), att), fanout.ErrDetached)
			require.Equal(w.t, time.Second, time.Since(start))
			close(hold)
		})
	})
	t.Run("a context that ends", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			hold := make(chan struct{})
			c := newHostConn(func(context.Context, *hostConn, []event.Frame) error { return nil })
			c.onClose = func() { <-hold }
			att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			start := time.Now()
			violation := new(fanout.ProtocolError)
			require.ErrorAs(w.t, violate(ctx, att), &violation)
			require.Equal(w.t, 50*time.Millisecond, time.Since(start))
			close(hold)
		})
	})
	t.Run("a lock that Close needs", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			lock := make(chan struct{}, 1)
			c := newHostConn(func(context.Context, *hostConn, []event.Frame) error { return nil })
			c.onClose = func() { lock <- struct{}{}; <-lock }
			att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
			lock <- struct{}{}
			start := time.Now()
			require.Error(w.t, violate(context.Background(), att))
			require.Equal(w.t, time.Second, time.Since(start))
			<-lock
		})
	})
	t.Run("from Send and from Close", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			var errs []error
			c := newHostConn(nil)
			c.send = func(ctx context.Context, c *hostConn, frames []event.Frame) error {
				for c.attachment() == nil {
					time.Sleep(time.Millisecond)
				}
				err := violate(ctx, c.attachment())
				c.mu.Lock()
				errs = append(errs, err)
				c.mu.Unlock()
				return err
			}
			c.onClose = func() {
				err := c.attachment().Handle(context.Background(), event.Ping{})
				c.mu.Lock()
				errs = append(errs, err)
				c.mu.Unlock()
			}
			w.hosted("ann", "a1", fanout.AttachRequest{}, c)
			time.Sleep(time.Minute)
			c.mu.Lock()
			defer c.mu.Unlock()
			require.Len(w.t, errs, 2)
		})
	})
}

// A Send that fails or panics leaves an event, a counter and a line with the account (K10.1).
func TestK10_SendThatFailsLeavesATrace(t *testing.T) {
	for name, tt := range map[string]struct {
		send func() error
		log  []string
	}{
		"error": {func() error { return errors.New("broken pipe") }, []string{"fanout: send failed", "broken pipe", "account=ann", "device=a1"}},
		"panic": {func() error { panic("told to") }, []string{"level=ERROR", "fanout: send panicked", "told to", "account=ann", "watchdog_test.go"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out lockedBuffer
			inMemory(t, fanout.Config{Logger: slog.New(slog.NewTextHandler(&out, nil))}, func(w *world) {
				events, err := w.r.Subscribe(64)
				require.NoError(w.t, err)
				c := newHostConn(func(context.Context, *hostConn, []event.Frame) error { return tt.send() })
				w.hosted("ann", "a1", fanout.AttachRequest{}, c)
				synctest.Wait()
				require.Equal(w.t, []event.Reason{event.Lost}, c.reasons())
				require.EqualValues(w.t, 1, w.r.Stats().SendFailures)
				e, err := events.Next(w.t.Context())
				require.NoError(w.t, err)
				require.Equal(w.t, fanout.EventSendFailed, e.Kind)
				require.Equal(w.t, event.Account("ann"), e.Account)
				require.Error(w.t, e.Err)
				for _, word := range tt.log {
					require.Contains(w.t, out.String(), word)
				}
			})
		})
	}
}

// lockedBuffer takes log lines of several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A resume over a connection whose Send is blocked is not slower than over an idle one (K3.1, I36).
func TestI36_ResumeOverABlockedSend(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := newHostConn(nil)
		hold := make(chan struct{})
		c.send = func(context.Context, *hostConn, []event.Frame) error { <-hold; return errors.New("closed") }
		c.onClose = func() { <-hold }
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
		require.NoError(w.t, err)
		q := fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}
		w.bound(q, c)
		w.host("bob", "x", "ann")
		time.Sleep(3 * time.Second)
		start := time.Now()
		fresh := newHostConn(func(_ context.Context, c *hostConn, frames []event.Frame) error {
			for _, f := range frames {
				if d, ok := f.(*event.Data); ok {
					c.wrote(d)
				}
			}
			return nil
		})
		w.bound(q, fresh)
		synctest.Wait()
		require.Zero(w.t, time.Since(start))
		require.NotEmpty(w.t, fresh.seqs(), "and it is served")
		require.Equal(w.t, []event.Reason{event.Moved}, c.reasons())
		close(hold)
	})
}
