package fanout_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/transport/transporttest"
)

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
		require.ErrorIs(t, att.Handle(context.Background(), &event.Ping{}), fanout.ErrDetached)
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

// The same for any other end: a host that gets ErrDetached may close the socket, since the client was told why.
func TestK3_DetachedIsToldBeforeHandleReturns(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := taking()
		c.onClose = func() { time.Sleep(300 * time.Millisecond) } // until the frame is out
		att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		start := time.Now()
		att.Close(event.KickedHost.Closed(0))
		require.Zero(w.t, time.Since(start))
		require.ErrorIs(w.t, att.Handle(context.Background(), &event.Ping{}), fanout.ErrDetached)
		require.Equal(w.t, 300*time.Millisecond, time.Since(start))
	})
}

// The wait is bounded: by the caller's context, and where Close waits for the very caller.
func TestK3_HandleWaitsForCloseABoundedTime(t *testing.T) {
	violate := func(ctx context.Context, a *fanout.Attachment) error { return a.HandleJSON(ctx, []byte("x")) }
	t.Run("a Close that hangs", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			hold := make(chan struct{})
			c := taking()
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
			c := taking()
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
			c := taking()
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
				err := c.attachment().Handle(context.Background(), &event.Ping{})
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

// TestHandle_NilFrame: a frame that is not there is the host's mistake. It is refused, nil pointers like nil, and the
// connection goes on (K20.10).
func TestHandle_NilFrame(t *testing.T) {
	w := newWorld(t, "", fanout.Config{})
	conn := transporttest.NewPair(transporttest.PairConfig{})
	att := w.hosted("ann", "phone", fanout.AttachRequest{}, conn.Conn())
	for _, f := range []event.ClientFrame{
		nil, (*event.Ack)(nil), (*event.Nack)(nil), (*event.ResetAck)(nil), (*event.TokenStored)(nil), (*event.Background)(nil), (*event.Ping)(nil),
	} {
		invalid, ok := errors.AsType[*event.InvalidError](att.Handle(context.Background(), f))
		require.True(t, ok, "%T", f)
		require.Equal(t, "frame", invalid.Field)
	}
	require.NoError(t, att.Handle(context.Background(), &event.Ping{Nonce: "still there"}))
}

// sent reports whether the device has sent a frame of that type.
func sent[F event.ClientFrame](d *device) bool {
	return slices.ContainsFunc(d.Sent(), func(f event.ClientFrame) bool { _, is := f.(F); return is })
}
