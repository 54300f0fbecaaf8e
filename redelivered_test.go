package manydevice_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// redelivers opens the next engine, connects a login, and returns what it counts as delivered and as delivered before. Both end.
func redelivers(t *testing.T, st store.Store, cfg manydevice.Config, res *session.LoginResult) (delivered, again uint64) {
	t.Helper()
	s := openScene(t, st, cfg)
	s.attach(res)
	stats := s.Stats().Router
	s.end(st)
	return stats.Delivered, stats.Redelivered
}

// TestClose_AgainBesideTheNextEngine: a second Close, as a defer makes it, takes nothing from the engine that has the store by
// then: if that one dies, what it has sent counts as sent (K20.2).
func TestClose_AgainBesideTheNextEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memstore.New(memstore.Config{})
		first := openScene(t, inner, manydevice.Config{})
		phone := first.login("phone")
		time.Sleep(time.Minute)
		require.NoError(t, first.Close(t.Context()))
		time.Sleep(time.Minute)

		st := storetest.WithFaults(inner)
		second := openScene(t, st, manydevice.Config{})
		time.Sleep(time.Second)
		require.NoError(t, first.Close(t.Context()))
		second.attach(phone)
		second.deliver()
		second.dies(st)

		_, again := redelivers(t, inner, manydevice.Config{}, phone)
		require.EqualValues(t, 1, again)
	})
}

// TestClose_AgainSpeaksNotForTheEngineBetween: a router that could not write at its end is closed once more after another engine
// has come and died. It has written everything then, and the other one has not (K20.2).
func TestClose_AgainSpeaksNotForTheEngineBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memstore.New(memstore.Config{})
		st := storetest.WithFaults(inner)
		first := openScene(t, st, manydevice.Config{})
		phone := first.login("phone")
		first.attach(phone)
		first.deliver()
		away := st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Err: errors.New("away")})
		require.Error(t, first.Close(t.Context()))
		away()
		time.Sleep(time.Minute)

		broken := storetest.WithFaults(inner)
		second := openScene(t, broken, manydevice.Config{})
		time.Sleep(time.Second)
		second.attach(phone)
		second.deliver()
		second.dies(broken)
		time.Sleep(time.Minute)
		require.NoError(t, first.Close(t.Context()))

		delivered, again := redelivers(t, inner, manydevice.Config{}, phone)
		require.EqualValues(t, 2, again)
		require.Zero(t, delivered)
	})
}

// TestRestore_OfABackupFromBetweenTwoEngines: what the engine after it has sent counts as sent (K20.2).
func TestRestore_OfABackupFromBetweenTwoEngines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		st := openFile(t, filepath.Join(dir, "a"))
		first := openScene(t, st, manydevice.Config{})
		phone := first.login("phone")
		require.NoError(t, first.send("x"))
		time.Sleep(time.Minute)
		require.NoError(t, first.Close(t.Context()))
		var backup bytes.Buffer
		_, err := st.Backup(t.Context(), &backup)
		require.NoError(t, err)
		require.NoError(t, st.Close(t.Context()))
		time.Sleep(time.Minute)
		// Here another engine runs, delivers, and loses the file.
		require.NoError(t, boltstore.Restore(t.Context(), filepath.Join(dir, "b"), &backup))
		delivered, again := redelivers(t, openFile(t, filepath.Join(dir, "b")), manydevice.Config{}, phone)
		require.EqualValues(t, 1, again, "%d delivered", delivered)
	})
}

// TestOpen_ThatFailsLeavesNothingInDoubt: after an orderly end, an engine that is refused for its config, or that nobody has
// connected to, has sent nothing, so that what comes meanwhile does not count as sent again (K20.2).
func TestOpen_ThatFailsLeavesNothingInDoubt(t *testing.T) {
	onBothStores(t, func(t *testing.T, st store.Store) {
		first := openScene(t, st, manydevice.Config{})
		phone := first.login("phone")
		first.attach(phone)
		time.Sleep(time.Minute)
		require.NoError(t, first.Close(t.Context()))
		time.Sleep(time.Minute)
		_, err := manydevice.Open(st, manydevice.Config{Fanout: fanout.Config{MaxAge: 30}})
		require.Error(t, err)
		time.Sleep(time.Minute)
		alone, err := session.New(st, session.Config{})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, alone.Close(t.Context()))
		time.Sleep(time.Minute)

		second := openScene(t, st, manydevice.Config{})
		require.NoError(t, second.send("x"))
		second.attach(phone)
		stats := second.Stats().Router
		require.Zero(t, stats.Redelivered)
		require.NotZero(t, stats.Delivered)
		second.end(st)
	})
}

// TestOpen_ANodeWithLeasesTakesTheMarkBack: the mark of an engine that was alone does not speak for a node with leases that came
// after it and died at once (K20.2).
func TestOpen_ANodeWithLeasesTakesTheMarkBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memstore.New(memstore.Config{})
		alone := openScene(t, inner, manydevice.Config{})
		alone.attach(alone.login("phone"))
		time.Sleep(time.Minute)
		require.NoError(t, alone.Close(t.Context()))
		time.Sleep(time.Minute)

		for range 2 { // of which the second one finds no mark
			st := storetest.WithFaults(inner)
			openScene(t, st, manydevice.Config{Session: session.Config{Node: "x", Leases: memstore.NewLeases()}}).dies(st)
		}
		alone = openScene(t, inner, manydevice.Config{})
		until, known := alone.Sessions.Doubt()
		require.True(t, known)
		require.True(t, until.After(time.Now()))
		alone.end(inner)
	})
}

// TestOpen_AfterAClockThatWasAheadForAWhile: what was stamped then is later than anything else, and was sent all the same
// (K20.2).
func TestOpen_AfterAClockThatWasAheadForAWhile(t *testing.T) {
	for name, c := range map[string]struct{ grace, ahead time.Duration }{
		"3 hours": {0, 3 * time.Hour}, "40 days": {0, 40 * day}, "3 hours, without a grace": {-1, 3 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := memstore.New(memstore.Config{})
				st := storetest.WithFaults(inner)
				var wrong atomic.Int64
				cfg := manydevice.Config{Session: session.Config{AgeGrace: c.grace, Wall: func() time.Time {
					return time.Now().Add(time.Duration(wrong.Load()))
				}}}
				first := openScene(t, st, cfg)
				phone := first.login("phone")
				first.attach(phone)
				time.Sleep(10 * time.Second)
				wrong.Store(int64(c.ahead))
				require.NoError(t, first.send("x"))
				time.Sleep(time.Second)
				wrong.Store(0)
				time.Sleep(time.Minute)
				first.dies(st)
				time.Sleep(5 * time.Minute)

				_, again := redelivers(t, inner, cfg, phone)
				require.EqualValues(t, 1, again)
			})
		})
	}
}

// TestClose_OfASecondRouterSpeaksNotForTheFirst, which could not write what it had sent (K20.2).
func TestClose_OfASecondRouterSpeaksNotForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := storetest.WithFaults(memstore.New(memstore.Config{}))
		reg, err := session.New(st, session.Config{})
		require.NoError(t, err)
		first, err := fanout.New(reg, st, fanout.Config{})
		require.NoError(t, err)
		s := &scene{Engine: &manydevice.Engine{Sessions: reg, Router: first}, t: t, ctx: t.Context()}
		phone := s.login("phone")
		time.Sleep(time.Minute)
		s.attach(phone)
		s.deliver()
		away := st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Err: errors.New("away")})
		require.Error(t, first.Close(t.Context()))
		away()
		second, err := fanout.New(reg, st, fanout.Config{})
		require.NoError(t, err)
		require.NoError(t, reg.Close(t.Context()))
		require.NoError(t, second.Close(t.Context()))
		time.Sleep(time.Minute)

		_, again := redelivers(t, st, manydevice.Config{}, phone)
		require.EqualValues(t, 1, again)
	})
}
