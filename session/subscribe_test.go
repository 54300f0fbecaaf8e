package session_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/stream"
	"github.com/manydevice/manydevice/session"
)

// lines describes changes, one a line.
func lines(all []session.Change) (texts []string) {
	for _, c := range all {
		texts = append(texts, line(c))
	}
	return texts
}

// B14: changes as a stream with a bounded buffer. A subscriber that does not read loses some, and knows it.
func TestSubscribe_LosesWhatDoesNotFitAndSaysSo(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		_, err := w.reg.Subscribe(0)
		require.Error(w.t, err)
		s, err := w.reg.Subscribe(16)
		require.NoError(w.t, err)
		slow, err := w.reg.Subscribe(1)
		require.NoError(w.t, err)
		g := w.join("ann", "a1", "ios")
		g.conn.Detach()
		w.pass(3 * time.Minute)
		w.kick("ann", g.id)
		slow.Close()
		slow.Close()
		w.shut(w.reg)
		all := []string{"login a1", "online a1", "offline a1 lost", "ended a1 kicked_host"}
		require.Equal(w.t, all, lines(collect(s)), "the registry's end is the stream's")
		important, frequent := s.Dropped()
		require.Zero(w.t, important+frequent)
		require.Equal(w.t, all[:2], lines(collect(slow)))
		important, frequent = slow.Dropped()
		require.EqualValues(w.t, 1, important)
		require.EqualValues(w.t, 1, frequent)
		_, err = slow.Next(w.t.Context())
		require.ErrorIs(w.t, err, session.ErrClosed)
		_, err = w.reg.Subscribe(1)
		require.ErrorIs(w.t, err, session.ErrClosed)
	})
}

// collect reads a subscription that was closed.
func collect(s *session.Subscription) (all []session.Change) {
	for c := range s.All(context.Background()) {
		all = append(all, c)
	}
	return all
}

// S28: a subscriber may call the registry for each change, and panic, and what comes of it is told afterwards.
func TestSubscribe_ASubscriberMayCallBack(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		sub := w.subscribe(w.reg)
		var wg sync.WaitGroup
		wg.Go(func() {
			for c := range sub.All(context.Background()) {
				if c.Kind == session.ChangeLogin && c.Session.Device == "a2" {
					_, _ = w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", All: true})
				}
			}
		})
		w.login("ann", "a1", "ios")
		w.login("ann", "a2", "web")
		w.pass(0)
		require.Equal(w.t, []string{"login a1", "login a2", "ended a1 kicked_host", "ended a2 kicked_host"}, w.events.take())
		sub.Close()
		wg.Wait()
	})
}

// K2.2, I28: a subscriber that never reads holds up nobody, whoever's changes they are, and costs what its buffer holds.
func TestSubscribe_NobodyWaitsForASubscriberThatHangs(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		hangs, err := w.reg.Subscribe(1_024)
		require.NoError(w.t, err)
		start := time.Now()
		for i := range 1_100 {
			w.login("ann", event.DeviceID(fmt.Sprint("d", i%4)), "ios") // an end and an admission each
			w.login(event.Account(fmt.Sprint("u", i%256)), "d", "ios")
		}
		require.Zero(w.t, time.Since(start))
		require.Len(w.t, w.events.take(), len(w.history()), "others hear everything")
		important, _ := hangs.Dropped()
		require.EqualValues(w.t, len(w.history())-1_024, important)
		require.Len(w.t, session.Drain(hangs), 1_024)
	})
}

// K18.2: a client that says a thousand times a second that its app is in background, or is not, drops nobody's end, costs
// a subscriber that sleeps one place, and one that reads a few changes in 5 s. In the end the host knows how it is.
func TestSubscribe_AFlippingClientDropsNobodysEnd(t *testing.T) {
	onStores(t, setup{config: session.Config{SweepInterval: 100 * time.Millisecond}}, func(w *world) {
		eve := w.join("eve", "e1", "ios")
		var others []*gadget
		for i := range 30 {
			others = append(others, w.join(event.Account(fmt.Sprint("user", i)), "d", "ios"))
		}
		sleeps, err := w.reg.Subscribe(32)
		require.NoError(w.t, err)
		reads := w.subscribe(w.reg)
		start := time.Now()
		for i := range 30_000 {
			eve.conn.SetBackground(i%2 == 0)
			if i%1_000 == 999 {
				w.kick(others[i/1_000].acc, others[i/1_000].id)
			}
		}
		eve.conn.SetBackground(true)
		eve.conn.SetBackground(false)
		eve.conn.SetBackground(true)
		sweeps := int(time.Since(start)/(100*time.Millisecond)) + 2
		deadline := time.Now().Add(10 * time.Second)
		var told []session.Change
		for last := ""; last != "away e1" && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
			for _, c := range session.Drain(reads) {
				if c.Session.Device == "e1" {
					told, last = append(told, c), line(c)
				}
			}
		}
		require.Equal(w.t, session.ChangeAway, told[len(told)-1].Kind)
		require.LessOrEqual(w.t, len(told), 10*sweeps)
		for i := 1; i < len(told); i++ {
			require.NotEqual(w.t, told[i-1].Kind, told[i].Kind, "in turns")
		}

		important, frequent := sleeps.Dropped()
		require.Zero(w.t, important+frequent)
		ends, flips := 0, 0
		for _, c := range session.Drain(sleeps) {
			switch c.Kind {
			case session.ChangeEnded:
				ends++
			case session.ChangeAway, session.ChangeActive:
				flips++
			}
		}
		require.Equal(w.t, 30, ends)
		require.Equal(w.t, 1, flips, "only the last one waits")
	})
}

// What a subscriber hears of an account is an order that was, whatever is dropped and merged: each change stands where it
// happened, and some are missing. At random, with subscribers of every speed.
func TestSubscribe_TheOrderIsOneThatWas(t *testing.T) {
	for seed := range uint64(8) {
		s := setup{config: session.Config{ResumeWindow: -1, SweepInterval: time.Second, IdleTimeout: -1}}
		inBubble(t, s, func(w *world) {
			accounts := []event.Account{"ann", "bob", "cyd"}
			var mu sync.Mutex
			var all []session.Change
			_, err := w.reg.Listen(&stream.Listener[session.Change]{Hear: func(c session.Change) {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, c)
			}})
			require.NoError(w.t, err)
			var slow [3]*session.Subscription
			var heard [3][]session.Change
			var readers, wg sync.WaitGroup
			for i := range slow {
				var err error
				slow[i], err = w.reg.Subscribe(1 + 3*i)
				require.NoError(w.t, err)
				readers.Go(func() {
					for c := range slow[i].All(context.Background()) {
						heard[i] = append(heard[i], c)
						time.Sleep(time.Duration(i) * 300 * time.Millisecond)
					}
				})
			}
			for i := range 6 {
				random := rand.New(rand.NewPCG(seed, uint64(i)))
				wg.Go(func() {
					for range 100 {
						play(w, random, accounts[random.IntN(3)])
					}
				})
			}
			wg.Wait()
			w.shut(w.reg)
			readers.Wait()
			for i := range slow {
				require.NotEmpty(w.t, heard[i])
				for _, a := range accounts {
					requireWithin(w.t, of(a, heard[i]), of(a, all))
				}
			}
		})
	}
}

// play is one device that comes, goes to background and comes back, and goes.
func play(w *world, random *rand.Rand, a event.Account) {
	g, err := w.tryLogin(request(a, event.DeviceID(fmt.Sprint("d", random.IntN(3))), "ios"))
	if err != nil {
		return
	}
	if g.conn, err = g.tryAttach(new(wire)); err != nil { // it was replaced meanwhile
		return
	}
	for range random.IntN(12) {
		g.conn.SetBackground(random.IntN(2) == 0)
	}
	time.Sleep(time.Duration(random.IntN(3)) * time.Second)
	switch random.IntN(4) {
	case 0:
		_ = w.reg.Logout(context.Background(), a, g.id)
	case 1:
		g.conn.Detach()
	}
}

// of returns the changes of an account, in words.
func of(a event.Account, all []session.Change) (some []string) {
	for _, c := range all {
		if c.Session.Account == a {
			some = append(some, line(c)+" "+string(c.Session.Login))
		}
	}
	return some
}

// requireWithin requires that some are all in their order, with some left out.
func requireWithin(t *testing.T, some, all []string) {
	t.Helper()
	at := 0
	for _, c := range some {
		for at < len(all) && all[at] != c {
			at++
		}
		require.Less(t, at, len(all), "%s is out of order", c)
		at++
	}
}

// The engine's own listener hears every change at once and in order, before any subscriber, and is alone.
func TestListen_EveryChangeInOrder(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		for _, bad := range []*stream.Listener[session.Change]{nil, {}} {
			_, err := w.reg.Listen(bad)
			require.Error(w.t, err)
		}
		var heard []session.Change
		l := &stream.Listener[session.Change]{Hear: func(c session.Change) { heard = append(heard, c) }}
		stop, err := w.reg.Listen(l)
		require.NoError(w.t, err)
		_, err = w.reg.Listen(&stream.Listener[session.Change]{Hear: func(session.Change) {}})
		require.ErrorIs(w.t, err, session.ErrListening)
		hangs, err := w.reg.Subscribe(1)
		require.NoError(w.t, err)
		for i := range 2_000 {
			w.login("ann", event.DeviceID(fmt.Sprint("d", i)), "ios")
		}
		require.Equal(w.t, w.history(), heard)
		important, _ := hangs.Dropped()
		require.NotZero(w.t, important)
		stop()
		w.login("ann", "later", "ios")
		require.Len(w.t, heard, len(w.history())-3, "an end, an admission, and a device that is forgotten")
		stop, err = w.reg.Listen(l)
		require.NoError(w.t, err, "there is room for another one")
		stop()
	})
}
