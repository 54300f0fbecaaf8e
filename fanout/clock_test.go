package fanout_test

import (
	"context"
	"fmt"
	"path/filepath"
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
)

const day = 24 * time.Hour

// wallClock is a wall clock that tests move without moving elapsed time.
type wallClock struct{ off atomic.Int64 }

func (c *wallClock) now() time.Time { return time.Now().Add(time.Duration(c.off.Load())) }

// set moves the clock so that it is ahead of the right time by this much.
func (c *wallClock) set(ahead time.Duration) { c.off.Store(int64(ahead)) }

// overClocks runs a test over both stores, in a bubble, with an engine as hosts have it: idle devices are forgotten, inboxes
// are trimmed every minute. The test moves its wall clock.
func overClocks(t *testing.T, cfg fanout.Config, run func(w *world, wall *wallClock)) {
	t.Helper()
	for _, kind := range []string{"memory", "file"} {
		t.Run(kind, func(t *testing.T) {
			path := ""
			if kind == "file" {
				path = filepath.Join(t.TempDir(), "store.db")
			}
			synctest.Test(t, func(t *testing.T) {
				w, wall := newWorld(t, path, cfg), new(wallClock)
				w.stop()
				w.scfg.Wall, w.scfg.JanitorInterval = wall.now, 0
				w.again()
				run(w, wall)
			})
		})
	}
}

// away stops the engine for a time.
func (w *world) away(d time.Duration) {
	w.t.Helper()
	w.stop()
	time.Sleep(d)
	w.again()
}

// TestK1_5_UndeliveredEntriesAreThereAfterTheServerWasAway (I30): it was off for 40 days. A device that returns hours after the
// start, when inboxes were trimmed many times, gets what it had not got, at the place where it was.
func TestK1_5_UndeliveredEntriesAreThereAfterTheServerWasAway(t *testing.T) {
	for name, after := range map[string]time.Duration{"10 minutes": 10 * time.Minute, "10 hours": 10 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			overClocks(t, fanout.Config{}, func(w *world, _ *wallClock) {
				d := w.ready("ann", "a1")[0]
				w.feed("ann", 0, 3)
				w.fence("ann")
				d.acked()
				d.drop()
				w.feed("ann", 3, 10)
				w.away(40 * day)
				time.Sleep(after)
				d.online()
				require.Equal(w.t, numbers(0, 10), d.texts())
				require.Zero(w.t, len(framesOf[*event.Reset](d)), "its place was known")
			})
		})
	}
}

// TestK1_6_UndeliveredEntriesOfAFileThatWasOpenedWithTheClockAhead for 5 min, which were trimming time enough.
func TestK1_6_UndeliveredEntriesOfAFileThatWasOpenedWithTheClockAhead(t *testing.T) {
	overClocks(t, fanout.Config{}, func(w *world, wall *wallClock) {
		d := w.ready("ann", "a1")[0]
		d.drop()
		w.feed("ann", 0, 5)
		w.stop()
		wall.set(40 * day)
		w.again()
		w.feed("ann", 5, 6) // so that the inbox is looked at
		time.Sleep(5 * time.Minute)
		w.stop()
		wall.set(0)
		w.again()
		time.Sleep(3 * day)
		d.online()
		require.Equal(w.t, numbers(0, 6), d.texts())
	})
}

// TestI30_RetentionByAgeWaitsForTheGrace, and that by number does not.
func TestI30_RetentionByAgeWaitsForTheGrace(t *testing.T) {
	overClocks(t, fanout.Config{MaxAge: 30 * day, MaxEntries: 20}, func(w *world, wall *wallClock) {
		d := w.ready("ann", "a1", "a2")
		d[0].drop()
		w.feed("ann", 0, 10)
		w.fence("ann")
		wall.set(40 * day)
		time.Sleep(23 * time.Hour)
		require.Equal(w.t, numbers(0, 10), w.kept("ann"))
		w.feed("ann", 10, 30)
		w.fence("ann")
		time.Sleep(5 * time.Minute)
		require.Len(w.t, w.kept("ann"), 19, "and the fence")
		time.Sleep(2 * time.Hour)
		w.trim("ann")
		require.Len(w.t, w.kept("ann"), 19, "these are not old")
		wall.set(80 * day)
		time.Sleep(day + time.Minute)
		w.trim("ann")
		require.Empty(w.t, w.kept("ann"), "the clock has said for a day that they are")
	})
}

// TestI30_AckedEntriesAreKeptForKeepMinimumOfRealTime, so that a device that lost its data can go back.
func TestI30_AckedEntriesAreKeptForKeepMinimumOfRealTime(t *testing.T) {
	overClocks(t, fanout.Config{}, func(w *world, wall *wallClock) {
		d := w.ready("ann", "a1")[0]
		w.feed("ann", 0, 5)
		w.fence("ann")
		d.acked()
		w.flush()
		wall.set(2 * day)
		time.Sleep(12 * time.Hour)
		w.trim("ann")
		require.Equal(w.t, numbers(0, 5), w.kept("ann"))
		time.Sleep(13 * time.Hour)
		w.trim("ann")
		require.Empty(w.t, w.kept("ann"))
	})
}

// TestK1_AnEntryOfTheFutureKeepsNoOthers: one that was written while the clock was a year ahead goes with its neighbours.
func TestK1_AnEntryOfTheFutureKeepsNoOthers(t *testing.T) {
	overClocks(t, fanout.Config{MaxAge: 10 * day, TrimInterval: -1}, func(w *world, wall *wallClock) {
		w.login("ann", "a1")
		wall.set(365 * day)
		w.feed("ann", 0, 3)
		wall.set(0)
		w.feed("ann", 3, 6)
		time.Sleep(9 * day)
		w.trim("ann")
		require.Equal(w.t, numbers(0, 6), w.kept("ann"))
		time.Sleep(2 * day)
		w.feed("ann", 6, 7)
		w.trim("ann")
		require.Equal(w.t, numbers(6, 7), w.kept("ann"))
	})
}

// TestI30_UndeliveredEntriesOfAClockThatWasBehind: it was set right a day ago, they are not as old as it says.
func TestI30_UndeliveredEntriesOfAClockThatWasBehind(t *testing.T) {
	overClocks(t, fanout.Config{MaxAge: 10 * day, TrimInterval: -1}, func(w *world, wall *wallClock) {
		d := w.ready("ann", "a1")[0]
		d.acked()
		w.flush()
		d.drop()
		time.Sleep(25 * time.Hour)
		w.trim("ann")
		wall.set(-26 * 365 * day)
		w.feed("ann", 0, 3)
		time.Sleep(time.Hour)
		wall.set(0)
		time.Sleep(25 * time.Hour)
		w.trim("ann")
		require.Equal(w.t, numbers(0, 3), w.kept("ann"))
		time.Sleep(9 * day)
		w.trim("ann")
		require.Empty(w.t, w.kept("ann"))
	})
}

// TestI30_AnUndecidedPushOutlivesASetClock: it is neither given up nor early nor late.
func TestI30_AnUndecidedPushOutlivesASetClock(t *testing.T) {
	for name, step := range map[string]time.Duration{"3 days ahead": 3 * day, "an hour back": -time.Hour, "30 s ahead": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			l := &pushLog{}
			overClocks(t, fanout.Config{Push: fanout.PushConfig{Hook: l.hook}}, func(w *world, wall *wallClock) {
				d := w.ready("ann", "a1")[0]
				d.drop()
				time.Sleep(time.Minute)
				w.host("bob", "x", "ann")
				begun := time.Now()
				time.Sleep(3 * time.Second)
				wall.set(step)
				w.pushes(1)
				require.Equal(w.t, []string{"ann: a1 x"}, l.take())
				if step > time.Minute || step < -time.Minute {
					require.WithinDuration(w.t, begun.Add(10*time.Second), time.Now(), time.Second)
				}
				wall.set(0)
				w.host("bob", "y", "ann")
				w.pushes(2)
				require.Equal(w.t, []string{"ann: a1 y"}, l.take())
			})
		})
	}
}

// TestPush_IsNotForWhatIsOldAfterAnAbsence: MaxAge says up to when a push is of use, and that is real time.
func TestPush_IsNotForWhatIsOldAfterAnAbsence(t *testing.T) {
	l := &pushLog{}
	overClocks(t, fanout.Config{Push: fanout.PushConfig{Hook: l.hook}}, func(w *world, _ *wallClock) {
		d := w.ready("ann", "a1")[0]
		d.drop()
		w.host("bob", "x", "ann")
		w.away(3 * day)
		w.host("bob", "y", "ann")
		w.pushes(1)
		require.Equal(w.t, []string{"ann: a1 y"}, l.take())
		d.online()
		require.Equal(w.t, []string{"x", "y"}, d.texts())
	})
}

// TestK1_LiveEventsAndReceiptsGoByElapsedTime: neither is dropped or held back when the clock is set.
func TestK1_LiveEventsAndReceiptsGoByElapsedTime(t *testing.T) {
	overClocks(t, fanout.Config{}, func(w *world, wall *wallClock) {
		a, b := w.ready("ann", "a1")[0], w.ready("bob", "b1")[0]
		for _, ahead := range []time.Duration{0, -time.Hour, 40 * day, 0} {
			wall.set(ahead)
			before := len(framesOf[*event.Live](a))
			_, err := w.r.Publish(context.Background(), fanout.PublishRequest{From: "bob", Kind: event.KindTyping, Conversation: "c1", To: []event.Account{"ann"}})
			require.NoError(w.t, err)
			w.until("the live event", func() bool { return len(framesOf[*event.Live](a)) > before })
			receipts := len(w.kinds("bob", event.KindDelivered))
			res := w.send(b, fmt.Sprint("to ann ", ahead), "ann")
			w.until("the receipt", func() bool {
				d := w.kinds("bob", event.KindDelivered)
				return len(d) > 0 && (len(d) > receipts || d[0].Seq > res.Position.Seq)
			})
		}
	})
}

// TestI30_ExpiriesGoByTheWallClock: a host has said until when a message is of use.
func TestI30_ExpiriesGoByTheWallClock(t *testing.T) {
	overClocks(t, fanout.Config{}, func(w *world, wall *wallClock) {
		d := w.ready("ann", "a1")[0]
		d.drop()
		w.post(fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Conversation: "c1", Payload: []byte("call"), TTL: time.Hour})
		w.host("bob", "stays", "ann")
		wall.set(2 * time.Hour)
		d.online()
		require.Equal(w.t, []string{"stays"}, d.texts())
	})
}

// TestRouter_TellsTheRegistrysTime: what it stores is of the clock that the host has given.
func TestRouter_TellsTheRegistrysTime(t *testing.T) {
	overClocks(t, fanout.Config{}, func(w *world, wall *wallClock) {
		w.login("ann", "a1")
		wall.set(40 * day)
		events, err := w.r.Subscribe(10)
		require.NoError(w.t, err)
		defer events.Close()
		w.host("bob", "x", "ann")
		log := w.page("ann", store.ReadOptions{Limit: 10}).Entries
		require.WithinDuration(w.t, time.Now().Add(40*day), log[len(log)-1].Time, time.Second)
		in, err := w.r.Inspect(context.Background(), "ann", fanout.InspectOptions{})
		require.NoError(w.t, err)
		require.WithinDuration(w.t, time.Now().Add(40*day), in.Time, time.Second)
		_, err = w.r.Send(context.Background(), fanout.SendRequest{})
		require.Error(w.t, err)
		told, err := events.Next(context.Background())
		require.NoError(w.t, err)
		require.WithinDuration(w.t, time.Now().Add(40*day), told.Time, time.Second)
	})
}

// TestI30_I40_AnotherNodesWrongClockTrimsNothing: what a node has written while its clock was set back is old for another node,
// which knows of that one's grace before it removes anything for its age.
func TestI30_I40_AnotherNodesWrongClockTrimsNothing(t *testing.T) {
	for name, wait := range map[string]time.Duration{"at once": 0, "after 10 s": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, leases, wall := memstore.New(memstore.Config{}), memstore.NewLeases(), new(wallClock)
				open := func(node event.NodeID, now func() time.Time) (*session.Registry, *fanout.Router) {
					reg, err := session.New(st, session.Config{Node: node, Leases: leases, Wall: now})
					require.NoError(t, err)
					r, err := fanout.New(reg, st, fanout.Config{TrimInterval: -1})
					require.NoError(t, err)
					return reg, r
				}
				xs, x := open("x", nil)
				zs, z := open("z", wall.now)
				defer func() {
					for _, c := range []interface{ Close(context.Context) error }{xs, zs, x, z, st} {
						require.NoError(t, c.Close(context.Background()))
					}
				}()
				time.Sleep(10*time.Minute + time.Second)
				require.True(t, xs.MayAge(t.Context()), "so far")
				wall.set(-26 * 365 * day)
				time.Sleep(wait)
				stays := func() {
					require.NoError(t, x.Trim(t.Context(), "ben"))
					page, err := st.Read(t.Context(), "ben", store.ReadOptions{})
					require.NoError(t, err)
					require.Zero(t, page.Head.Trim, "%+v", page.Entries)
				}
				_, err := z.Send(t.Context(), fanout.SendRequest{From: "bob", To: []event.Account{"ben"}, Kind: "text", Payload: []byte("hi")})
				require.NoError(t, err)
				stays()
				_, err = zs.Login(t.Context(), session.LoginRequest{Account: "ben", Device: "phone", Platform: "ios"})
				require.NoError(t, err)
				stays()
			})
		})
	}
}
