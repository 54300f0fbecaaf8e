package fanout_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/storetest"
)

func TestC23_Restart(t *testing.T) {
	t.Run("closed before the decision", func(t *testing.T) {
		pushOverStores(t, anyOffline(), func(w *world, l *pushLog) {
			a := w.ready("ann", "a1", "a2")
			for _, d := range a {
				d.acked()
				d.leave()
			}
			w.host("bob", "x", "ann")
			w.restart()
			require.Empty(w.t, l.take())
			a[1].online()
			a[1].acked()
			a[1].leave()
			w.pushes(1)
			w.decided()
			require.Equal(w.t, map[string]string{"a1": "x"}, l.got(), "once, who has not come back")
			w.restart()
			w.host("bob", "y", "ann")
			w.pushes(1)
			w.decided()
			require.Equal(w.t, map[string]string{"a1": "y", "a2": "y"}, l.got(), "what is decided stays decided")
		})
	})
	t.Run("muted before the restart", func(t *testing.T) {
		pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
			a := w.ready("ann", "a1", "a2")
			a[0].leave()
			w.host("bob", "x", "ann")
			a[1].until("x")
			a[1].acked()
			w.decided()
			w.restart()
			w.host("bob", "y", "ann")
			w.pushes(1)
			w.decided()
			require.Equal(w.t, map[string]string{"a1": "y", "a2": "y"}, l.got())
		})
	})
	t.Run("too old", func(t *testing.T) {
		pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
			w.login("ann", "a1")
			w.host("bob", "old", "ann")
			time.Sleep(5 * time.Second)
			w.host("bob", "young", "ann")
			w.stop()
			time.Sleep(time.Hour - 13*time.Second)
			w.openStore()
			w.start()
			time.Sleep(9 * time.Second)
			require.Empty(w.t, l.take(), "devices have the time to come back")
			time.Sleep(2 * time.Second)
			w.decided()
			require.Equal(w.t, []string{"ann: a1 young"}, l.take())
			require.Equal(w.t, w.head("ann").Seq, w.pushMark("ann"))
		})
	})
	t.Run("the look fails at first", func(t *testing.T) {
		pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
			for _, a := range numbers(0, 300) { // more than a page
				w.login(event.Account(a), event.DeviceID(a))
				w.host("bob", "x", event.Account(a))
			}
			w.restart()
			w.st.Inject(storetest.Fault{Method: storetest.Accounts, Skip: 1, Err: errAway})
			w.st.Inject(storetest.Fault{Method: storetest.Cursors, Account: "100", Err: errAway})
			time.Sleep(11 * time.Second)
			w.decided()
			time.Sleep(20 * time.Second)
			w.decided()
			require.Len(w.t, l.got(), 300)
			require.EqualValues(w.t, 300, w.r.Stats().Pushes)
		})
	})
	t.Run("closed while the host is told", func(t *testing.T) {
		pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
			w.login("ann", "a1")
			in := make(chan struct{})
			l.first(func(context.Context, fanout.Push) error {
				close(in)
				time.Sleep(300 * time.Millisecond)
				return nil
			})
			w.host("bob", "x", "ann")
			<-in
			l.first(nil)
			w.restart()
			w.host("bob", "y", "ann")
			w.pushes(1)
			w.decided()
			require.Equal(w.t, map[string]string{"a1": "x y"}, l.got(), "an orderly end tells nothing twice")
		})
	})
}

func TestC23_CrashBetweenHookAndMark(t *testing.T) {
	cfg := anyOffline()
	cfg.Push.HookTimeout = time.Minute
	pushOverStores(t, cfg, func(w *world, l *pushLog) {
		w.login("ann", "a1")
		ids := map[string]event.MessageID{}
		fed := make(chan struct{})
		var calls []int
		l.first(func(_ context.Context, p fanout.Push) error {
			missed := p.Devices[0].Missed
			calls = append(calls, len(missed))
			if len(calls) == 1 {
				<-fed
			} else {
				w.st.Break()
				for _, e := range missed {
					ids[string(e.Payload)] = e.ID
				}
			}
			return nil
		})
		w.feed("ann", 0, 250)
		time.Sleep(time.Second) // all of it is due
		close(fed)
		w.pushes(2)
		marked, told := calls[0], calls[0]+calls[1]
		require.LessOrEqual(w.t, calls[0], 100)
		require.Equal(w.t, 100, calls[1], "the bound")
		require.Equal(w.t, map[string]string{"a1": strings.Join(numbers(0, told), " ")}, l.got())
		l.first(func(_ context.Context, p fanout.Push) error {
			for _, e := range p.Devices[0].Missed {
				if id, told := ids[string(e.Payload)]; told {
					require.Equal(w.t, id, e.ID, "the same IDs")
				}
			}
			return nil
		})
		w.crash()
		w.eventually("told", func() bool { return w.r.Stats().PushEntries == uint64(250-marked) })
		w.decided()
		require.Equal(w.t, map[string]string{"a1": strings.Join(numbers(marked, 250), " ")}, l.got(), "at most 100 twice, none not at all")
		w.restart()
		w.host("bob", "y", "ann")
		w.pushes(1)
		w.decided()
		require.Equal(w.t, map[string]string{"a1": "y"}, l.got())
	})
}

// TestC23_I29_ClosesInTime: a hook that never returns does not hold up the end.
func TestC23_I29_ClosesInTime(t *testing.T) {
	pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
		free := make(chan struct{})
		l.first(func(context.Context, fanout.Push) error { <-free; return nil })
		w.login("ann", "a1")
		w.host("bob", "x", "ann")
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		begin := time.Now()
		w.stop()
		require.LessOrEqual(w.t, time.Since(begin), 2*time.Second)
		close(free)
		w.openStore()
		w.start()
	})
}

// TestC23_RestoredCopy: a file that is put back begins a new incarnation, and its numbers go on.
func TestC23_RestoredCopy(t *testing.T) {
	l := &pushLog{}
	path := filepath.Join(t.TempDir(), "store.db")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, path, fanout.Config{Push: fanout.PushConfig{Hook: l.hook}})
		w.login("ann", "a1")
		w.host("bob", "x", "ann")
		w.decided()
		require.Equal(w.t, []string{"ann: a1 x"}, l.take())
		w.bolt.NewIncarnation = true
		w.restart()
		w.bolt.NewIncarnation = false
		w.host("bob", "y", "ann")
		w.decided()
		require.Equal(w.t, []string{"ann: a1 y"}, l.take())
	})
}
