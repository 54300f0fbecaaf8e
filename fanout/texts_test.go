package fanout_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/internal/fault/faulttest"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// scene is an account with a device that is attached and has one unread message.
type scene struct {
	*world
	d   *device
	sub *fanout.Subscription // since before it came
	got fanout.SendResult    // the message
}

// called is what is known of one call.
type called struct {
	text   string // how errors name it
	do     func(ctx context.Context, s *scene) error
	fields []badField
	fails  []failure
	// closes: after Close it fails with ErrClosed. reads: it needs the store, and time. Other calls may succeed by what is in
	// memory.
	closes, reads bool
	shuts         bool // there is no engine afterwards
}

// badField is a field with values that it must not have.
type badField struct {
	field  string
	values []string // none: call knows them
	call   func(ctx context.Context, s *scene, value string) error
}

// failure is a call that fails for a reason that hosts branch on: a sentinel, or an error with data.
type failure struct {
	is   error
	has  func(error) bool
	call func(ctx context.Context, s *scene) error
}

func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// given drops what a call returns besides its error.
func given[T any](_ T, err error) error { return err }

func (w *world) scene() *scene {
	s := &scene{world: w}
	var err error
	s.sub, err = w.r.Subscribe(16)
	require.NoError(w.t, err)
	s.d = w.ready("ann", "a1")[0]
	s.d.rough = true
	s.got = w.post(fanout.SendRequest{From: "bob", Conversation: "c1", To: []event.Account{"ann"}, Receipts: fanout.ReceiptsOff})
	w.fence("ann")
	return s
}

// TestErrors_EveryCallHasARow (K9.6): the table below knows each exported call that returns an error.
func TestErrors_EveryCallHasARow(t *testing.T) {
	require.Equal(t, faulttest.Calls(t, "."), slices.Sorted(maps.Keys(calledTable())))
}

// TestErrors_BeginWithTheCallThatFailed (K9.6): whatever a call fails for (a bad field, a reason that hosts branch on, the
// store, the end of the engine or of the context), its text begins with the call, once, and the error says what it is.
func TestErrors_BeginWithTheCallThatFailed(t *testing.T) {
	for name, c := range calledTable() {
		t.Run(name, func(t *testing.T) {
			if len(c.fields) > 0 {
				overStores(t, fanout.Config{}, func(w *world) { c.field(w.scene()) })
			}
			for _, f := range c.fails {
				t.Run("failure", func(t *testing.T) {
					inMemory(t, fanout.Config{}, func(w *world) {
						err := f.call(context.Background(), w.scene())
						faulttest.Begins(w.t, err, "fanout", c.text, "failure")
						if f.is != nil {
							require.ErrorIs(w.t, err, f.is)
						}
						require.True(w.t, f.has == nil || f.has(err), "%v", err)
						c.after(w)
					})
				})
			}
			c.ends(t)
		})
	}
}

func (c *called) field(s *scene) {
	before := []store.Head{s.head("ann"), s.head("bob")}
	for _, f := range c.fields {
		values := f.values
		if values == nil {
			values = []string{""}
		}
		for _, v := range values {
			faulttest.Names(s.t, f.call(context.Background(), s, v), "fanout", c.text, f.field, v)
		}
	}
	require.Equal(s.t, before, []store.Head{s.head("ann"), s.head("bob")}, "nothing was written")
	require.True(s.t, s.d.Connected())
}

var allMethods = []storetest.Method{
	storetest.Load, storetest.Commit, storetest.Read, storetest.States, storetest.Conversations, storetest.Cursors,
	storetest.Message, storetest.SaveCursors, storetest.Trim,
}

// ends makes the call where there is no store, no engine or no time left.
func (c *called) ends(t *testing.T) {
	t.Helper()
	for _, m := range allMethods {
		t.Run("without "+string(m), func(t *testing.T) {
			inMemory(t, fanout.Config{}, func(w *world) {
				s := w.scene()
				heal := w.st.Inject(storetest.Fault{Method: m, Times: -1, Err: errAway})
				c.requireEnd(s, c.do(context.Background(), s), false, errAway)
				heal()
				c.after(w)
			})
		})
	}
	t.Run("store failed", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			s := w.scene()
			w.st.Break()
			c.requireEnd(s, c.do(context.Background(), s), c.reads, store.ErrFailed)
			w.crash()
		})
	})
	t.Run("closed", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			ctx := context.Background()
			s := w.scene()
			require.NoError(w.t, w.reg.Close(ctx))
			require.NoError(w.t, w.r.Close(ctx))
			c.requireEnd(s, c.do(ctx, s), c.closes, fanout.ErrClosed, session.ErrClosed, fanout.ErrDetached)
			w.reopen()
		})
	})
	t.Run("context over", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			s := w.scene()
			c.requireEnd(s, c.do(ctx, s), c.reads, context.Canceled)
			c.after(w)
		})
	})
}

// after opens an engine again if the call has closed the one that was there.
func (c *called) after(w *world) {
	if c.shuts {
		w.reopen()
	}
}

// reopen closes the engine, as far as that was not done, and opens another one.
func (w *world) reopen() {
	ctx := context.Background()
	require.NoError(w.t, w.reg.Close(ctx))
	require.NoError(w.t, w.r.Close(ctx))
	w.left(ctx)
	w.again()
}

// requireEnd checks the error of a call that had no store, engine or time.
func (c *called) requireEnd(s *scene, err error, must bool, is ...error) {
	s.t.Helper()
	if err == nil {
		require.False(s.t, must)
		return
	}
	faulttest.Begins(s.t, err, "fanout", c.text, "end")
	require.True(s.t, slices.ContainsFunc(is, func(is error) bool { return errors.Is(err, is) }), "%v", err)
}

// pending returns an attachment whose device has a token that it has not confirmed yet.
func (s *scene) pending() *fanout.Attachment {
	s.d.drop()
	time.Sleep(25 * time.Hour)
	q := fanout.AttachRequest{Account: "ann", Login: s.d.Login(), Token: s.d.Token()}
	a, err := s.r.Attach(context.Background(), q, mute{})
	require.NoError(s.t, err)
	s.t.Cleanup(a.Detach)
	return a
}

func (s *scene) kick() {
	_, err := s.reg.Kick(context.Background(), session.KickRequest{Account: "ann", All: true})
	require.NoError(s.t, err)
	s.d.closed()
}

// unknown returns a login that does not exist.
func unknown() event.LoginID { return event.NewLoginID() }
