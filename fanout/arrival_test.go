package fanout_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
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

// countedConn counts what the engine does with a connection.
type countedConn struct {
	mu            sync.Mutex
	sends, closes int
	returned      bool // Attach has returned an error
	late          bool // Send was called although it had
}

func (c *countedConn) Send(context.Context, []event.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sends++
	c.late = c.late || c.returned
	return nil
}

func (c *countedConn) Close(event.Closed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes++
	return nil
}

// TestAttach_TheConnectionIsTheCallersOnEveryError (K9.1): random attaches beside stores that fail, kicks, newer
// connections, drains and closes. On an error nothing was done to the connection; otherwise it is closed once.
func TestAttach_TheConnectionIsTheCallersOnEveryError(t *testing.T) {
	failed, attached := 0, 0
	round := func(w *world, seed int) {
		f, a := attachesAtRandom(w, seed)
		failed, attached = failed+f, attached+a
	}
	for seed := range 150 {
		synctest.Test(t, func(t *testing.T) { round(newWorld(t, "", fanout.Config{}), seed) })
	}
	for seed := range 10 {
		round(newWorld(t, filepath.Join(t.TempDir(), "store.db"), fanout.Config{}), seed)
	}
	require.Positive(t, failed)
	require.Positive(t, attached)
	t.Logf("%d attaches failed, %d did not", failed, attached)
}

func attachesAtRandom(w *world, seed int) (failed, attached int) {
	ctx := context.Background()
	random := rand.New(rand.NewPCG(uint64(seed), 9))
	var logins []*session.LoginResult
	for i := range 3 {
		res, err := w.reg.Login(ctx, session.LoginRequest{Account: "ann", Device: event.DeviceID(fmt.Sprint("a", i)), Platform: "ios"})
		require.NoError(w.t, err)
		logins = append(logins, res)
	}
	w.host("bob", "one", "ann")
	methods := []storetest.Method{storetest.Cursors, storetest.Read, storetest.Load, storetest.Commit, storetest.States}
	type try struct {
		conn *countedConn
		err  error
	}
	var tries []*try
	var wg sync.WaitGroup
	for i := range 24 {
		if random.IntN(2) == 0 {
			w.st.Inject(storetest.Fault{Method: methods[random.IntN(len(methods))], Account: "ann", Skip: random.IntN(2), Err: errAway})
		}
		t := &try{conn: new(countedConn)}
		tries = append(tries, t)
		res := logins[random.IntN(len(logins))]
		wg.Go(func() {
			q := fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}
			if i%3 == 0 {
				q.Position = &res.Position
			}
			_, t.err = w.r.Attach(ctx, q, t.conn)
			t.conn.mu.Lock()
			t.conn.returned = t.err != nil
			t.conn.mu.Unlock()
		})
		if i%8 == 7 {
			wg.Go(func() {
				_, _ = w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{logins[i/8].Session.Login}})
			})
		}
		if i%4 == 3 {
			time.Sleep(time.Millisecond)
		}
	}
	switch seed % 3 {
	case 0:
		require.NoError(w.t, w.reg.Drain(ctx, session.DrainRequest{}))
	case 1:
		require.NoError(w.t, w.reg.Close(ctx))
	}
	wg.Wait()
	require.NoError(w.t, w.reg.Close(ctx))
	for i, try := range tries {
		name := fmt.Sprintf("seed %d, attach %d: %v", seed, i, try.err)
		try.conn.mu.Lock()
		sends, closes, late := try.conn.sends, try.conn.closes, try.conn.late
		try.conn.mu.Unlock()
		if try.err != nil {
			failed++
			require.Zero(w.t, closes, name)
			require.False(w.t, late, name)
			require.Zero(w.t, sends, name)
			continue
		}
		attached++
		require.Equal(w.t, 1, closes, name)
	}
	return failed, attached
}
