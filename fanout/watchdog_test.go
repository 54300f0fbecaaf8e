package fanout_test

import (
	"context"
	"errors"
	"log/slog"
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
)

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
		"shorter than the sweep": {req: fanout.AttachRequest{FrameWrite: 10 * time.Millisecond}, want: 10 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, tt.cfg, func(w *world) {
				c := newHostConn(deaf)
				att := w.hosted("ann", "a1", tt.req, c)
				start := time.Now()
				for len(c.reasons()) == 0 && time.Since(start) < 30*time.Minute {
					time.Sleep(100 * time.Millisecond)
					_ = att.Handle(context.Background(), &event.Ping{})
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
					if err := c.attachment().Handle(ctx, &event.Ack{Position: event.Position{Epoch: d.Epoch, Seq: e.Seq}}); err != nil {
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
		c := taking()
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

// A Send that fails or panics leaves an event, a counter and a line with the account (K10.1).
func TestK10_SendThatFailsLeavesATrace(t *testing.T) {
	for name, tt := range map[string]struct {
		send func() error
		log  []string
	}{
		"error": {func() error { return errors.New("broken pipe") }, []string{"fanout: Conn.Send failed", "broken pipe", "account=ann", "device=a1"}},
		"panic": {func() error { panic("told to") }, []string{"level=ERROR", "fanout: Conn.Send panicked", "told to", "account=ann", "watchdog_test.go"}},
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
