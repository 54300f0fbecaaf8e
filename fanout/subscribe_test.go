package fanout_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// left returns what is left in a subscription that was closed.
func left(s *fanout.Subscription) (all []fanout.Event) {
	for e := range s.All(context.Background()) {
		all = append(all, e)
	}
	return all
}

// D4: each subscription has its own bounded buffer, and ends with Close, its own or the router's.
func TestSubscribe_LosesWhatDoesNotFitAndSaysSo(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		refuse := func(n int) {
			for range n {
				_, err := w.r.Send(context.Background(), fanout.SendRequest{})
				require.Error(w.t, err)
			}
		}
		for _, n := range []int{0, -1, 1<<20 + 1} {
			_, err := w.r.Subscribe(n)
			w.invalid(err, "buffer")
		}
		small, err := w.r.Subscribe(2)
		require.NoError(w.t, err)
		large, err := w.r.Subscribe(10)
		require.NoError(w.t, err)
		refuse(5)
		important, frequent := small.Dropped()
		require.Zero(w.t, important)
		require.Equal(w.t, uint64(3), frequent, "a slow subscriber delays no other")
		small.Close()
		small.Close()
		refuse(1)
		_, frequent = small.Dropped()
		require.Equal(w.t, uint64(3), frequent)
		require.Len(w.t, left(small), 2, "what was there can be read")
		_, err = small.Next(context.Background())
		require.ErrorIs(w.t, err, fanout.ErrClosed)

		var wg sync.WaitGroup // come and go while events are told
		for range 8 {
			wg.Go(func() {
				for range 100 {
					s, err := w.r.Subscribe(1)
					require.NoError(w.t, err)
					refuse(1)
					s.Close()
				}
			})
		}
		wg.Wait()
		require.NoError(w.t, w.r.Close(context.Background()))
		require.Len(w.t, left(large), 10, "closed with the router")
		large.Close()
		_, err = w.r.Subscribe(1)
		require.ErrorIs(w.t, err, fanout.ErrClosed)
	})
}

// K18.2: what a client can do as often as it likes does not take the place of what happens to others.
func TestSubscribe_RefusalsDropNothingElse(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		sub, err := w.r.Subscribe(4)
		require.NoError(w.t, err)
		for range 1_000 {
			_, err := w.r.Send(context.Background(), fanout.SendRequest{})
			require.Error(w.t, err)
		}
		w.host("bob", "x", "ann")
		w.fence("ann")
		require.NoError(w.t, w.r.Park(context.Background(), "ann", d.id, event.Position{Epoch: w.head("ann").Epoch, Seq: 1}))
		important, frequent := sub.Dropped()
		require.Zero(w.t, important)
		require.EqualValues(w.t, 996, frequent)
		sub.Close()
		events := left(sub)
		require.Equal(w.t, fanout.EventParked, events[len(events)-1].Kind)
	})
}

// K14.2: where a router delivers, the registry's own Attach would show the login online and deliver nothing. It is refused, and
// nothing has changed by it.
func TestRegistryAttach_IsRefusedWhereARouterDelivers(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		res, err := w.reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
		require.NoError(w.t, err)
		q := session.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}
		for _, vouched := range []bool{false, true} {
			if q.Vouched = vouched; vouched {
				q.Token = event.ResumeToken{}
			}
			_, err = w.reg.Attach(context.Background(), q, transporttest.NewPair(transporttest.PairConfig{}).Conn())
			require.ErrorIs(w.t, err, session.ErrListening)
		}
		all, err := w.reg.List(context.Background(), "ann", "")
		require.NoError(w.t, err)
		require.Equal(w.t, session.Lingering, all[0].State)

		require.NoError(w.t, w.r.Close(context.Background()))
		c, err := w.reg.Attach(context.Background(), q, transporttest.NewPair(transporttest.PairConfig{}).Conn())
		require.NoError(w.t, err, "a registry alone")
		c.Detach()
		w.r, err = fanout.New(w.reg, w.st, fanout.Config{})
		require.NoError(w.t, err)
	})
}

// A registry has one router: two of them would not ring each other's doorbells.
func TestNew_OneRouterForARegistry(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		_, err := fanout.New(w.reg, w.st, fanout.Config{})
		require.ErrorIs(w.t, err, session.ErrListening)
		require.NoError(w.t, w.r.Close(context.Background()))
		w.r, err = fanout.New(w.reg, w.st, fanout.Config{})
		require.NoError(w.t, err, "after the first one was closed")
		d := w.ready("ann", "a1")[0]
		w.host("bob", "x", "ann")
		d.until("x")
	})
}
