package fanout_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
)

// K2.2: hosts' code that never returns, and subscribers that never read, for hundreds of accounts, do not keep the engine from
// telling an account's other devices of a login and of an end at once.
func TestChanges_HostsThatHangDelayNobodysNews(t *testing.T) {
	for _, who := range []string{"nobody", "subscribers", "revoke hook"} {
		t.Run(who, func(t *testing.T) {
			inMemory(t, fanout.Config{}, func(w *world) {
				free := make(chan struct{})
				if who == "revoke hook" {
					w.stop()
					w.scfg.Revoke = func(context.Context, session.Ended) error { <-free; return nil }
					w.openStore()
					w.start()
				}
				if who == "subscribers" {
					for range 8 {
						_, err := w.reg.Subscribe(1)
						require.NoError(w.t, err)
					}
				}
				var wg sync.WaitGroup
				for i := range 300 {
					a := event.Account(fmt.Sprint("u", i))
					d := w.login(a, "d")
					wg.Go(func() {
						_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: a, Logins: []event.LoginID{d.Login()}})
						require.NoError(w.t, err)
					})
				}
				synctest.Wait()
				phone := w.ready("ann", "phone")[0]
				start := time.Now()
				other := w.login("ann", "other")
				synctest.Wait() // or its end would take the place of the entry
				wg.Go(func() {
					_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{other.Login()}})
					require.NoError(w.t, err)
				})
				synctest.Wait()
				require.Zero(w.t, time.Since(start))
				var told []string
				for _, e := range phone.Entries() {
					told = append(told, string(e.Kind))
				}
				require.Equal(w.t, []string{"device.login", "device.ended"}, told[len(told)-2:], "the one after the other, at once")
				close(free)
				wg.Wait()
			})
		})
	}
}

// caller is a connection that never waits and calls the engine about its account from each Send.
type caller struct {
	w     *world
	calls atomic.Int32
}

func (c *caller) NonBlocking() bool { return true }

func (c *caller) Close(event.Closed) error { return nil }

func (c *caller) Send(ctx context.Context, _ []event.Frame) error {
	if _, err := c.w.reg.List(ctx, "ann", ""); err != nil {
		return err
	}
	if _, err := c.w.reg.Presence(ctx, "ann"); err != nil {
		return err
	}
	c.calls.Add(1)
	return nil
}

// The news of a login or an end reaches connections that never wait on goroutines of their own: what their Send does, or
// waits for, is nothing to the account's step.
func TestChanges_NoConnectionIsServedInsideAStep(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
		require.NoError(w.t, err)
		c := &caller{w: w}
		att, err := w.r.Attach(context.Background(), fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, c)
		require.NoError(w.t, err)
		synctest.Wait()
		before := c.calls.Load()
		other := w.ready("ann", "a2")[0]
		_, err = w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{other.Login()}})
		require.NoError(w.t, err)
		synctest.Wait()
		require.GreaterOrEqual(w.t, c.calls.Load(), before+2)
		att.Detach()
	})
}

// sponge is a connection that takes everything and acknowledges it.
type sponge struct {
	instant bool
	att     atomic.Pointer[fanout.Attachment]
}

func (c *sponge) NonBlocking() bool { return c.instant }

func (c *sponge) Close(event.Closed) error { return nil }

func (c *sponge) Send(ctx context.Context, frames []event.Frame) error {
	att := c.att.Load()
	for _, f := range frames {
		if data, ok := f.(*event.Data); ok && att != nil {
			_ = att.Handle(ctx, &event.Ack{Position: event.Position{Epoch: data.Epoch, Seq: data.Seq}})
		}
	}
	return nil
}

// Everything that takes locks of the registry, of hubs and of subscriptions, at once and on few accounts. Locks that are taken
// in different orders would end this in a deadlock; the deadline would show it.
func TestChanges_LocksAreTakenInOneOrder(t *testing.T) {
	w := newWorld(t, "", fanout.Config{})
	w.stop()
	w.scfg.SweepInterval, w.scfg.ResumeWindow = 5*time.Millisecond, -1
	w.fcfg.Push.Hook = func(context.Context, fanout.Push) error { return nil }
	w.fcfg.Push.Delay, w.fcfg.CursorFlush = 20*time.Millisecond, 20*time.Millisecond
	w.openStore()
	w.start()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	changes, err := w.reg.Subscribe(8)
	require.NoError(t, err)
	events, err := w.r.Subscribe(8)
	require.NoError(t, err)
	accounts := []event.Account{"ann", "bob", "cyd"}
	var wg, readers sync.WaitGroup
	readers.Go(func() {
		for range changes.All(context.Background()) {
		}
	})
	readers.Go(func() {
		for range events.All(context.Background()) {
		}
	})
	var steps atomic.Int64
	for i := range 16 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for ctx.Err() == nil {
				stress(w, random, accounts[random.IntN(len(accounts))], accounts)
				steps.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("a deadlock")
	}
	require.NotZero(t, steps.Load())
	for _, a := range accounts { // some were left attached
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: a, All: true})
		require.NoError(t, err)
	}
	changes.Close()
	events.Close()
	readers.Wait()
}

// stress is one device that comes, does this and that, and is ended.
func stress(w *world, random *rand.Rand, a event.Account, all []event.Account) {
	ctx := context.Background()
	device := event.DeviceID(fmt.Sprint("d", random.IntN(6)))
	res, err := w.reg.Login(ctx, session.LoginRequest{Account: a, Device: device, Platform: "ios"})
	if err != nil {
		return
	}
	c := &sponge{instant: random.IntN(2) == 0}
	att, err := w.r.Attach(ctx, fanout.AttachRequest{Account: a, Login: res.Session.Login, Token: res.Token}, c)
	if err != nil { // another one has ended it
		return
	}
	c.att.Store(att)
	for range 20 {
		switch random.IntN(9) {
		case 0:
			_ = att.Handle(ctx, &event.Background{On: random.IntN(2) == 0})
		case 1:
			_, _ = w.r.Send(ctx, fanout.SendRequest{From: a, Origin: res.Session.Login, Conversation: "c", To: all, Payload: []byte("x")})
		case 2:
			_, _ = w.r.Publish(ctx, fanout.PublishRequest{From: a, Kind: "typing", To: all, Mirror: true})
		case 3:
			_, _ = w.reg.List(ctx, a, "")
		case 4:
			_, _ = w.r.Inspect(ctx, a, fanout.InspectOptions{})
		case 5:
			_, _ = w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: a, Conversation: "c", Seq: 1})
		case 6:
			_ = att.Handle(ctx, &event.Ping{})
		case 7:
			_ = w.r.Flush(ctx)
		case 8:
			_, _ = w.reg.Presence(ctx, a)
		}
	}
	switch random.IntN(4) {
	case 0:
		att.Detach()
	case 1:
		_, _ = w.reg.Kick(ctx, session.KickRequest{Account: a, All: true})
	case 2:
		if random.IntN(10) == 0 {
			_, _ = w.reg.DeleteAccount(ctx, session.DeleteRequest{Account: a})
		}
	case 3:
		_ = w.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: a, Device: device})
	}
}
