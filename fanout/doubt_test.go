package fanout_test

import (
	"cmp"
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport"
)

// hungLeases are leases that cannot be renewed for a while: the call hangs.
type hungLeases struct {
	store.Leases
	hung atomic.Bool
}

func (l *hungLeases) Renew(ctx context.Context, of store.Lease) error {
	for l.hung.Load() && ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond)
	}
	return cmp.Or(ctx.Err(), l.Leases.Renew(ctx, of))
}

// onDoubtfulNode tells a story with ann's phone attached on a node whose wall clock and leases the test sets.
func onDoubtfulNode(t *testing.T, conn transport.Conn, story func(t *testing.T, r *fanout.Router, leases *hungLeases, wall *wallClock)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st, leases, wall := memstore.New(memstore.Config{}), &hungLeases{Leases: memstore.NewLeases()}, new(wallClock)
		reg, err := session.New(st, session.Config{Node: "x", Leases: leases, Wall: wall.now})
		require.NoError(t, err)
		r, err := fanout.New(reg, st, fanout.Config{})
		require.NoError(t, err)
		defer func() {
			for _, c := range []interface{ Close(context.Context) error }{reg, r, st} {
				require.NoError(t, c.Close(context.Background()))
			}
			time.Sleep(time.Second) // a call of the leases that hung may take until then to return: nobody waits for it
		}()
		res, err := reg.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		require.NoError(t, err)
		_, err = r.Attach(t.Context(), fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, conn)
		require.NoError(t, err)
		time.Sleep(time.Second)
		story(t, r, leases, wall)
	})
}

func greetAnn(t *testing.T, r *fanout.Router) {
	t.Helper()
	_, err := r.Send(t.Context(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Kind: "text", Payload: []byte("hi")})
	require.NoError(t, err)
}

// quickConn takes everything at once.
type quickConn struct{}

func (quickConn) Send(context.Context, []event.Frame) error { return nil }
func (quickConn) Close(event.Closed) error                  { return nil }
func (quickConn) NonBlocking() bool                         { return true }

// noEntriesConn takes no entries.
type noEntriesConn struct{}

func (noEntriesConn) Send(ctx context.Context, frames []event.Frame) error {
	for _, f := range frames {
		if d, ok := f.(*event.Data); ok && len(d.Entries) > 0 {
			<-ctx.Done()
		}
	}
	return ctx.Err()
}

func (noEntriesConn) Close(event.Closed) error { return nil }

// TestI36_ASenderDoesNotWaitForTheLease of the node, which is in doubt since the clock was set forwards: recipients' connections
// that never wait themselves are not waited for on its goroutine.
func TestI36_ASenderDoesNotWaitForTheLease(t *testing.T) {
	onDoubtfulNode(t, quickConn{}, func(t *testing.T, r *fanout.Router, leases *hungLeases, wall *wallClock) {
		leases.hung.Store(true)
		wall.set(time.Hour)
		begun := time.Now()
		greetAnn(t, r)
		require.Less(t, time.Since(begun), time.Second)
		leases.hung.Store(false)
	})
}

// TestK3_2_AConnectionIsNotSlowWhileTheNodesLeaseIsInDoubt: nothing may be sent on it meanwhile. What it does once it may be
// sent on counts, and takes as long as ever.
func TestK3_2_AConnectionIsNotSlowWhileTheNodesLeaseIsInDoubt(t *testing.T) {
	onDoubtfulNode(t, noEntriesConn{}, func(t *testing.T, r *fanout.Router, leases *hungLeases, wall *wallClock) {
		leases.hung.Store(true)
		wall.set(time.Hour)
		greetAnn(t, r)
		time.Sleep(12 * time.Second)
		leases.hung.Store(false)
		time.Sleep(9 * time.Second)
		require.Zero(t, r.Stats().Slow)
		time.Sleep(3 * time.Second)
		require.EqualValues(t, 1, r.Stats().Slow, "10 s after it could be sent on")
	})
}
