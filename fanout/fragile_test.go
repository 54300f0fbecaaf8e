package fanout_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// fragile is a client that dies on some messages, before it has stored anything of the frame that they come in.
type fragile struct {
	w       *world
	account event.Account
	device  event.DeviceID
	login   event.LoginID
	token   event.ResumeToken
	pos     *event.Position // what it has stored; nil: nothing yet
	texts   []string        // messages that it has stored
	deadly  []string        // messages that it dies on
	shown   int             // connections on which one of them came
	batches int             // frames with more than one entry
	conn    *inlet
	att     *fanout.Attachment
	end     func() // how it dies
}

func (w *world) fragile(account event.Account, device event.DeviceID, deadly ...string) *fragile {
	w.t.Helper()
	res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: account, Device: device, Platform: "ios"})
	require.NoError(w.t, err)
	f := &fragile{w: w, account: account, device: device, login: res.Session.Login, token: res.Token, deadly: deadly}
	f.end = func() { f.att.Detach() }
	w.t.Cleanup(func() {
		if f.att != nil {
			f.att.Detach()
		}
	})
	return f
}

// inlet hands frames to whoever reads them.
type inlet struct {
	frames chan event.Frame
	done   chan struct{}
	once   sync.Once
}

func (c *inlet) Send(ctx context.Context, frames []event.Frame) error {
	for _, f := range frames {
		select {
		case c.frames <- transporttest.Copy(f):
		case <-ctx.Done():
			return ctx.Err()
		case <-c.done:
			return errors.New("hung up")
		}
	}
	return nil
}

func (c *inlet) Close(event.Closed) error {
	c.once.Do(func() { close(c.done) })
	return nil
}

// connect attaches and takes what comes until the client dies, which it reports, or has everything.
func (f *fragile) connect() (died bool) {
	f.w.t.Helper()
	conn := &inlet{frames: make(chan event.Frame), done: make(chan struct{})}
	f.conn = conn
	var err error
	f.att, err = f.w.r.Attach(context.Background(), fanout.AttachRequest{
		Account: f.account, Login: f.login, Token: f.token, Position: f.pos,
	}, conn)
	require.NoError(f.w.t, err)
	for {
		select {
		case frame := <-conn.frames:
			switch frame := frame.(type) {
			case *event.Data:
				if !f.take(frame) {
					f.shown++
					f.end()
					f.gone()
					return true
				}
			case *event.CaughtUp:
				return false
			}
		case <-time.After(time.Minute):
			require.FailNow(f.w.t, "nothing comes any more")
		}
	}
}

// gone waits until the engine has let go of the connection.
func (f *fragile) gone() {
	f.w.until("detached", func() bool {
		return errors.Is(f.att.Handle(context.Background(), &event.Ping{}), fanout.ErrDetached)
	})
}

// leave ends the connection.
func (f *fragile) leave() {
	f.att.Detach()
	f.gone()
}

// take stores a frame and acknowledges it, or dies.
func (f *fragile) take(d *event.Data) bool {
	if len(d.Entries) > 1 {
		f.batches++
	}
	for _, e := range d.Entries {
		if slices.Contains(f.deadly, string(e.Payload)) {
			return false
		}
	}
	for _, e := range d.Entries {
		if e.Kind == event.KindMessage && e.Conversation != "fence" {
			f.texts = append(f.texts, string(e.Payload))
		}
	}
	f.pos = &event.Position{Epoch: d.Epoch, Seq: d.Seq}
	require.NoError(f.w.t, f.att.Handle(context.Background(), &event.Ack{Position: *f.pos}))
	return true
}

// seqOf returns where a message stands.
func (w *world) seqOf(account event.Account, text string) event.Position {
	w.t.Helper()
	for _, e := range w.log(account) {
		if string(e.Payload) == text {
			return event.Position{Epoch: w.head(account).Epoch, Seq: e.Seq}
		}
	}
	require.FailNow(w.t, "no such message", text)
	return event.Position{}
}

// reports collects what the host is told.
type reports struct {
	mu  sync.Mutex
	all []fanout.Poison
}

func (r *reports) hook(_ context.Context, p fanout.Poison) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, p)
}

func (r *reports) take() []fanout.Poison {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// wait waits for one report.
func (r *reports) wait(w *world) fanout.Poison {
	w.t.Helper()
	var got []fanout.Poison
	w.until("a report", func() bool {
		got = append(got, r.take()...)
		return len(got) > 0
	})
	require.Len(w.t, got, 1)
	return got[0]
}
