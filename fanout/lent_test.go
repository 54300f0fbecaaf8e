package fanout_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

// endless is a connection that never waits for its device, which has somebody send it the next message each time it gets
// one. From a hundredth message on it waits for the first sender to be free, once.
type endless struct {
	w    *world
	free chan struct{} // closed when the first sender is

	mu       sync.Mutex
	att      *fanout.Attachment
	messages int
}

const endlessMessages = 200

func (c *endless) NonBlocking() bool { return true }

func (c *endless) Close(event.Closed) error { return nil }

func (c *endless) Send(ctx context.Context, frames []event.Frame) error {
	for _, f := range frames {
		if data, ok := f.(*event.Data); ok {
			if err := c.take(ctx, data); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *endless) take(ctx context.Context, f *event.Data) error {
	c.mu.Lock()
	att := c.att
	for _, e := range f.Entries {
		if e.Kind == event.KindMessage {
			c.messages++
		}
	}
	n := c.messages
	c.mu.Unlock()
	if att == nil || n == 0 {
		return nil
	}
	if n == endlessMessages/2 {
		select {
		case <-c.free:
		case <-time.After(time.Minute):
			c.w.t.Error("the sender still delivers")
		}
	}
	if err := att.Handle(ctx, &event.Ack{Position: event.Position{Epoch: f.Epoch, Seq: f.Seq}}); err != nil {
		return err
	}
	if n < endlessMessages {
		c.w.host("bob", "another", "ann")
	}
	return nil
}

// A sender lends its goroutine to a connection that never waits, but not for longer than a few frames.
func TestLentGoroutineIsGivenBack(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
		require.NoError(w.t, err)
		c := &endless{w: w, free: make(chan struct{})}
		att, err := w.r.Attach(context.Background(), fanout.AttachRequest{
			Account: "ann", Login: res.Session.Login, Token: res.Token,
		}, c)
		require.NoError(w.t, err)
		c.mu.Lock()
		c.att = att
		c.mu.Unlock()
		synctest.Wait() // until nothing is left to be sent
		w.host("bob", "one", "ann")
		close(c.free)
		w.until("all that followed from it", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.messages == endlessMessages
		})
		att.Detach()
	})
}
