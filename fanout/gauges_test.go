package fanout_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/storetest"
)

// What connections hold, and how far the last one is behind, is seen within a second (K20.4).
func TestStats_UnackedAndLag(t *testing.T) {
	inMemory(t, fanout.Config{Window: 4, AckWait: time.Hour, KeepMinimum: time.Hour}, func(w *world) {
		ann, bob := w.ready("ann", "a1")[0], w.ready("bob", "b1")[0]
		time.Sleep(10 * time.Second)
		s := w.r.Stats()
		require.Equal(w.t, 2, s.Attachments)
		require.Zero(w.t, s.Unacked+s.UnackedEntries+s.Readers+s.CursorsPending)
		require.Zero(w.t, s.Lag)
		require.Empty(w.t, s.LagAccount)
		ann.HoldAcks(true)
		w.feed("ann", 0, 20)
		w.feed("bob", 0, 20)
		synctest.Wait()
		time.Sleep(2 * time.Second)
		s = w.r.Stats()
		require.Equal(w.t, 1, s.Unacked, "bob has acknowledged everything")
		require.Equal(w.t, 4, s.UnackedEntries, "the window")
		require.Positive(w.t, s.UnackedBytes)
		require.EqualValues(w.t, 20, s.Lag)
		require.Equal(w.t, event.Account("ann"), s.LagAccount)
		ann.HoldAcks(false)
		ann.drop()
		bob.drop()
		time.Sleep(2 * time.Second)
		s = w.r.Stats()
		require.Zero(w.t, s.Attachments)
		require.Zero(w.t, s.Unacked+s.UnackedEntries+s.Readers)
		require.Zero(w.t, s.Lag)
		require.Zero(w.t, s.TailBytes)
	})
}

// A device that was sent all there is for it is not behind, although it has not acknowledged what was only covered.
func TestStats_LagOfADeviceAtRest(t *testing.T) {
	inMemory(t, fanout.Config{AckWait: time.Hour}, func(w *world) {
		all := w.ready("ann", "at rest", "behind")
		all[0].HoldAcks(true)
		send := func() {
			_, err := w.r.Send(w.t.Context(), fanout.SendRequest{
				From: "ann", Conversation: "c1", Payload: []byte("x"), Targets: []event.LoginID{all[1].Login()},
			})
			require.NoError(w.t, err)
		}
		for range 20 {
			send()
		}
		w.until("all are sent", func() bool { return len(all[1].texts()) == 20 })
		all[1].acked()
		all[1].HoldAcks(true)
		send()
		time.Sleep(time.Minute)
		require.Equal(w.t, w.head("ann").Seq, all[0].Position().Seq, "covered")
		require.EqualValues(w.t, 1, w.r.Stats().Lag)
	})
}

// A reader that waits for the store is at work.
func TestStats_Readers(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		hold := make(chan struct{})
		c := taking()
		w.feed("ann", 0, 3)
		att := w.hosted("ann", "a1", fanout.AttachRequest{Hold: true}, c)
		remove := w.st.Inject(storetest.Fault{Method: storetest.States, Times: -1, Wait: hold})
		att.Start()
		time.Sleep(2 * time.Second)
		require.Equal(w.t, 1, w.r.Stats().Readers)
		remove()
		close(hold)
		synctest.Wait()
		att.Detach()
	})
}

// Cursors and receipts that cannot be written are seen by how many they are and for how long they wait.
func TestStats_WhatCannotBeWritten(t *testing.T) {
	inMemory(t, fanout.Config{CursorFlush: 2 * time.Second}, func(w *world) {
		w.ready("ann", "a1")
		bob := w.ready("bob", "b1")[0]
		time.Sleep(10 * time.Second)
		ends := []func(){
			w.st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Err: errAway}),
			w.st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", Times: -1, Err: errAway}),
		}
		w.send(bob, "hello", "ann")
		synctest.Wait()
		time.Sleep(time.Minute)
		s := w.r.Stats()
		require.Equal(w.t, 2, s.CursorsPending, "%v", s)
		require.InDelta(w.t, time.Minute, s.CursorsAge, float64(2*time.Second))
		require.Equal(w.t, 1, s.ReceiptsPending)
		require.InDelta(w.t, time.Minute, s.ReceiptsAge, float64(3*time.Second))
		require.Positive(w.t, s.FlushFailures)
		for _, end := range ends {
			end()
		}
		time.Sleep(10 * time.Second)
		s = w.r.Stats()
		require.Zero(w.t, s.CursorsPending)
		require.Zero(w.t, s.CursorsAge)
		require.Zero(w.t, s.ReceiptsPending)
		require.Zero(w.t, s.ReceiptsAge)
	})
}

// How long a push is overdue is seen while a hook hangs, while it fails, and while the store does.
func TestStats_PushesOverdue(t *testing.T) {
	for _, what := range []string{"hook hangs", "hook fails", "store fails"} {
		t.Run(what, func(t *testing.T) {
			cfg := fanout.Config{Push: fanout.PushConfig{HookTimeout: 30 * time.Second, Tries: 100, Concurrency: 1}}
			pushInMemory(t, cfg, func(w *world, l *pushLog) {
				hang := make(chan struct{})
				var end func()
				switch what {
				case "hook hangs":
					l.first(func(ctx context.Context, p fanout.Push) error { <-hang; return nil })
				case "hook fails":
					l.first(func(ctx context.Context, p fanout.Push) error {
						select {
						case <-hang:
							return nil
						default:
							return errPush
						}
					})
				}
				for i := range 3 {
					w.login(event.Account(fmt.Sprint("a", i)), "d")
				}
				require.Zero(w.t, w.r.Stats().PushWaiting)
				if what == "store fails" {
					end = w.st.Inject(storetest.Fault{Method: storetest.Cursors, Times: -1, Err: errAway})
				}
				for i := range 3 {
					w.host("bob", "x", event.Account(fmt.Sprint("a", i)))
				}
				time.Sleep(9 * time.Second)
				require.Equal(w.t, 3, w.r.Stats().PushWaiting)
				require.Zero(w.t, w.r.Stats().PushOverdue, "none is due")
				time.Sleep(26 * time.Second)
				require.InDelta(w.t, 25*time.Second, w.r.Stats().PushOverdue, float64(2*time.Second))
				if end != nil {
					end()
					require.Positive(w.t, w.r.Stats().PushFailures)
				}
				close(hang)
				w.decided()
				require.Zero(w.t, w.r.Stats().PushWaiting)
				require.Zero(w.t, w.r.Stats().PushOverdue)
			})
		})
	}
}

// What needs no push any longer, since its device has come, is not overdue.
func TestStats_PushThatIsNoLongerNeeded(t *testing.T) {
	pushInMemory(t, fanout.Config{Push: fanout.PushConfig{Tries: 100}}, func(w *world, l *pushLog) {
		l.first(func(context.Context, fanout.Push) error { return errPush })
		d := w.login("ann", "a1")
		w.host("bob", "x", "ann")
		time.Sleep(15 * time.Second)
		require.Positive(w.t, w.r.Stats().PushOverdue)
		d.online()
		w.fence("ann")
		w.decided()
		time.Sleep(time.Minute)
		require.Zero(w.t, w.r.Stats().PushWaiting)
		require.Zero(w.t, w.r.Stats().PushOverdue)
	})
}

// The account that takes up the engine is named, by its inbox or by its devices, with its share.
func TestStats_HotAccount(t *testing.T) {
	for _, hot := range []string{"inbox", "devices"} {
		t.Run(hot, func(t *testing.T) {
			inMemory(t, fanout.Config{MaxEntries: -1}, func(w *world) {
				require.Zero(w.t, w.r.Stats().HotSamples)
				if hot == "devices" {
					w.ready("ann", "a1", "a2", "a3", "a4", "a5")
				}
				for i := range 4_000 {
					w.host("bob", "x", event.Account(fmt.Sprint("to", i%500)))
					if hot == "inbox" || i%4 == 0 {
						_, err := w.r.Send(w.t.Context(), fanout.SendRequest{From: "ann", Conversation: "c1", Payload: []byte("x")})
						require.NoError(w.t, err)
					}
				}
				synctest.Wait()
				s := w.r.Stats()
				require.Contains(w.t, []event.Account{"ann", "bob"}, s.HotAccount)
				require.Greater(w.t, s.HotSamples, 50)
				want := 1.0 / 3 // bob's own inbox and ann's have as much to do as all others together
				if hot == "devices" {
					want = 6.0 / (6 + 8)
					require.Equal(w.t, event.Account("ann"), s.HotAccount)
				}
				require.InDelta(w.t, want, s.HotShare, 0.15)
				time.Sleep(2 * time.Minute)
				require.Zero(w.t, w.r.Stats().HotSamples, "that was long ago")
				require.Empty(w.t, w.r.Stats().HotAccount)
			})
		})
	}
}
