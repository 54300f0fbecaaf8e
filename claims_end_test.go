package manydevice_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport/transporttest"
)

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

// toAnn is a message to an account with a device.
func toAnn() fanout.SendRequest {
	return fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("x"), NoSenderCopy: true}
}

// TestClose_KeepsTheStoreWhileASendIsCommitted: a send of the host's that is being committed is work of the engine, so that the
// store is not free for another one (K20.8).
func TestClose_KeepsTheStoreWhileASendIsCommitted(t *testing.T) {
	calls := map[string]func(ctx context.Context, r *fanout.Router, bob event.LoginID) error{
		"Send": func(ctx context.Context, r *fanout.Router, bob event.LoginID) error {
			_, err := r.Send(ctx, toAnn())
			return err
		},
		"MarkRead": func(ctx context.Context, r *fanout.Router, bob event.LoginID) error {
			_, err := r.MarkRead(ctx, fanout.MarkReadRequest{Account: "bob", Conversation: "c", Seq: 2})
			return err
		},
		"Claim": func(ctx context.Context, r *fanout.Router, bob event.LoginID) error {
			_, err := r.Claim(ctx, fanout.ClaimRequest{Account: "bob", Key: "call", Origin: bob})
			return err
		},
		"ClearUnread": func(ctx context.Context, r *fanout.Router, bob event.LoginID) error {
			_, err := r.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: "bob"})
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			onBothStores(t, func(t *testing.T, inner store.Store) {
				st := storetest.WithFaults(inner)
				first, err := manydevice.Open(st, manydevice.Config{})
				require.NoError(t, err)
				bob, err := first.Sessions.Login(t.Context(), session.LoginRequest{Account: "bob", Device: "phone", Platform: "ios"})
				require.NoError(t, err)
				_, err = first.Router.Send(t.Context(), fanout.SendRequest{From: "ann", Conversation: "c", To: []event.Account{"bob"}, Payload: []byte("x")})
				require.NoError(t, err)
				free, done, reached := make(chan struct{}), make(chan error, 1), false
				st.Inject(storetest.Fault{Method: storetest.Commit, Account: "bob", Wait: free, Reached: func() { reached = true }})
				go func() { done <- call(context.Background(), first.Router, bob.Session.Login) }()
				synctest.Wait()
				require.True(t, reached)
				require.ErrorIs(t, first.Close(soon(t)), context.DeadlineExceeded)
				_, err = manydevice.Open(st, manydevice.Config{})
				require.ErrorIs(t, err, store.ErrInUse)
				close(free)
				require.NoError(t, <-done)
				require.NoError(t, first.Close(t.Context()))
				second, err := manydevice.Open(st, manydevice.Config{})
				require.NoError(t, err)
				require.NoError(t, errors.Join(second.Close(t.Context()), st.Close(t.Context())))
			})
		})
	}
}

// TestClose_AgainBesideTheNextEngine: a second Close, as a defer makes it, takes nothing from the engine that has the store by
// then: if that one dies, what it has sent counts as sent (K20.2).
func TestClose_AgainBesideTheNextEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memstore.New(memstore.Config{})
		first, err := manydevice.Open(inner, manydevice.Config{})
		require.NoError(t, err)
		phone, err := first.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, first.Close(t.Context()))
		time.Sleep(time.Minute)

		st := storetest.WithFaults(inner)
		second, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.NoError(t, first.Close(t.Context()))
		attach := fanout.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}
		pair := transporttest.NewPair(transporttest.PairConfig{})
		_, err = second.Router.Attach(t.Context(), attach, pair.Conn())
		require.NoError(t, err)
		_, err = second.Router.Send(t.Context(), toAnn())
		require.NoError(t, err)
		synctest.Wait()
		st.Break() // it dies, and has not noted what it has sent
		_ = second.Close(t.Context())

		third, err := manydevice.Open(inner, manydevice.Config{})
		require.NoError(t, err)
		pair = transporttest.NewPair(transporttest.PairConfig{})
		_, err = third.Router.Attach(t.Context(), attach, pair.Conn())
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 1, third.Stats().Router.Redelivered)
		require.NoError(t, errors.Join(third.Close(t.Context()), st.Close(t.Context())))
	})
}

// TestRestore_OfABackupFromBetweenTwoEngines: what the engine after it has sent counts as sent (K20.2).
func TestRestore_OfABackupFromBetweenTwoEngines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		st, err := boltstore.Open(filepath.Join(dir, "a"), boltstore.Config{})
		require.NoError(t, err)
		first, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		phone, err := first.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		require.NoError(t, err)
		_, err = first.Router.Send(t.Context(), toAnn())
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, first.Close(t.Context()))
		var backup bytes.Buffer
		_, err = st.Backup(t.Context(), &backup)
		require.NoError(t, err)
		require.NoError(t, st.Close(t.Context()))
		time.Sleep(time.Minute)
		// Here another engine runs, delivers, and loses the file.
		require.NoError(t, boltstore.Restore(t.Context(), filepath.Join(dir, "b"), &backup))
		st, err = boltstore.Open(filepath.Join(dir, "b"), boltstore.Config{})
		require.NoError(t, err)
		engine, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		pair := transporttest.NewPair(transporttest.PairConfig{})
		_, err = engine.Router.Attach(t.Context(), fanout.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}, pair.Conn())
		require.NoError(t, err)
		synctest.Wait()
		stats := engine.Stats().Router
		require.EqualValues(t, 1, stats.Redelivered, "%d delivered", stats.Delivered)
		require.NoError(t, errors.Join(engine.Close(t.Context()), st.Close(t.Context())))
	})
}

// deaf is a store that does not listen to the context.
type deafStore struct {
	store.Store
	hang chan struct{}
}

func (s *deafStore) SaveCursors(_ context.Context, cursors []store.Cursor) error {
	if s.hang != nil {
		<-s.hang
	}
	return s.Store.SaveCursors(context.Background(), cursors)
}

// TestClose_KeepsTheStoreWhileItWritesCursors, also if the store does not listen to the context, and however often it is called
// (K20.8).
func TestClose_KeepsTheStoreWhileItWritesCursors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &deafStore{Store: memstore.New(memstore.Config{}), hang: make(chan struct{})}
		first, err := manydevice.Open(st, manydevice.Config{Fanout: fanout.Config{CursorFlush: time.Hour}})
		require.NoError(t, err)
		phone, err := first.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		require.NoError(t, err)
		pair := transporttest.NewPair(transporttest.PairConfig{})
		_, err = first.Router.Attach(t.Context(), fanout.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}, pair.Conn())
		require.NoError(t, err)
		_, err = first.Router.Send(t.Context(), toAnn())
		require.NoError(t, err)
		synctest.Wait()
		for range 3 {
			require.Error(t, first.Close(soon(t)))
			time.Sleep(time.Minute)
			_, err = manydevice.Open(st, manydevice.Config{})
			require.ErrorIs(t, err, store.ErrInUse)
		}
		close(st.hang)
		require.NoError(t, first.Close(t.Context()))
		second, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		require.NoError(t, errors.Join(second.Close(t.Context()), st.Close(t.Context())))
	})
}

type panickyStore struct {
	store.Store
	on bool
}

func (s *panickyStore) States(ctx context.Context, a event.Account, o store.StateOptions) (store.StatePage, error) {
	if s.on {
		panic("a wrapper's")
	}
	return s.Store.States(ctx, a, o)
}

// TestOpen_APanicOfTheStore: a host that recovers may open another engine (K20.8).
func TestOpen_APanicOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &panickyStore{Store: memstore.New(memstore.Config{}), on: true}
		require.Panics(t, func() { _, _ = manydevice.Open(st, manydevice.Config{}) })
		st.on = false
		engine, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		require.NoError(t, errors.Join(engine.Close(t.Context()), st.Close(t.Context())))
	})
}

// TestClose_WritesCursorsBesideALoginThatHangs: what has been acknowledged is written in the time that Close has, though something else hangs
// (K20.1).
func TestClose_WritesCursorsBesideALoginThatHangs(t *testing.T) {
	for name, limit := range map[string]time.Duration{"5 s, which is the default": 0, "a second": time.Second, "10 s": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := storetest.WithFaults(memstore.New(memstore.Config{}))
				engine, err := manydevice.Open(st, manydevice.Config{Fanout: fanout.Config{CursorFlush: time.Hour}})
				require.NoError(t, err)
				phone, err := engine.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
				require.NoError(t, err)
				a, err := engine.Router.Attach(t.Context(), fanout.AttachRequest{
					Account: "ann", Login: phone.Session.Login, Token: phone.Token,
				}, transporttest.NewPair(transporttest.PairConfig{}).Conn())
				require.NoError(t, err)
				_, err = engine.Router.Send(t.Context(), toAnn())
				require.NoError(t, err)
				synctest.Wait()
				page, err := st.Read(t.Context(), "ann", store.ReadOptions{})
				require.NoError(t, err)
				require.NoError(t, a.Handle(t.Context(), &event.Ack{Position: event.Position{Epoch: page.Head.Epoch, Seq: page.Head.Seq}}))
				free := make(chan struct{})
				st.Inject(storetest.Fault{Method: storetest.Commit, Account: "eve", Wait: free})
				go func() {
					_, _ = engine.Sessions.Login(context.Background(), session.LoginRequest{Account: "eve", Device: "phone", Platform: "ios"})
				}()
				synctest.Wait()

				ctx, took := context.Background(), 5*time.Second
				if limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, limit)
					defer cancel()
					took = limit
				}
				begun := time.Now()
				require.ErrorIs(t, engine.Close(ctx), context.DeadlineExceeded)
				require.Equal(t, took, time.Since(begun), "it waits as long as it may")
				cursors, err := st.Cursors(t.Context(), "ann")
				require.NoError(t, err)
				require.Equal(t, page.Head.Seq, cursors[0].Seq)
				close(free)
				require.NoError(t, errors.Join(engine.Close(t.Context()), st.Close(t.Context())))
			})
		})
	}
}

// TestOpen_ThatFailsLeavesNothingInDoubt: after an orderly end, an engine that is refused for its config, or that nobody has
// connected to, has sent nothing, so that what comes meanwhile does not count as sent again (K20.2).
func TestOpen_ThatFailsLeavesNothingInDoubt(t *testing.T) {
	onBothStores(t, func(t *testing.T, st store.Store) {
		engine, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		phone, err := engine.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		require.NoError(t, err)
		attach := fanout.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}
		_, err = engine.Router.Attach(t.Context(), attach, transporttest.NewPair(transporttest.PairConfig{}).Conn())
		require.NoError(t, err)
		synctest.Wait()
		time.Sleep(time.Minute)
		require.NoError(t, engine.Close(t.Context()))
		time.Sleep(time.Minute)
		_, err = manydevice.Open(st, manydevice.Config{Fanout: fanout.Config{MaxAge: 30}})
		require.Error(t, err)
		time.Sleep(time.Minute)
		alone, err := session.New(st, session.Config{})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, alone.Close(t.Context()))
		time.Sleep(time.Minute)
		engine, err = manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		_, err = engine.Router.Send(t.Context(), toAnn())
		require.NoError(t, err)
		_, err = engine.Router.Attach(t.Context(), attach, transporttest.NewPair(transporttest.PairConfig{}).Conn())
		require.NoError(t, err)
		synctest.Wait()
		stats := engine.Stats().Router
		require.Zero(t, stats.Redelivered)
		require.NotZero(t, stats.Delivered)
		require.NoError(t, errors.Join(engine.Close(t.Context()), st.Close(t.Context())))
	})
}

// TestOpen_ANodeWithLeasesTakesTheMarkBack: the mark of an engine that was alone does not speak for a node with leases that came
// after it and died at once (K20.2).
func TestOpen_ANodeWithLeasesTakesTheMarkBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memstore.New(memstore.Config{})
		alone, err := manydevice.Open(inner, manydevice.Config{})
		require.NoError(t, err)
		phone, err := alone.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		require.NoError(t, err)
		attach := fanout.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}
		_, err = alone.Router.Attach(t.Context(), attach, transporttest.NewPair(transporttest.PairConfig{}).Conn())
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, alone.Close(t.Context()))
		time.Sleep(time.Minute)

		for range 2 { // of which the second one finds no mark
			st := storetest.WithFaults(inner)
			node, err := manydevice.Open(st, manydevice.Config{Session: session.Config{Node: "x", Leases: memstore.NewLeases()}})
			require.NoError(t, err)
			st.Break()
			_ = node.Close(t.Context())
		}
		alone, err = manydevice.Open(inner, manydevice.Config{})
		require.NoError(t, err)
		until, known := alone.Sessions.Doubt()
		require.True(t, known)
		require.True(t, until.After(time.Now()))
		require.NoError(t, errors.Join(alone.Close(t.Context()), inner.Close(t.Context())))
	})
}

// TestOpen_AfterAClockThatWasAheadForAWhile: what was stamped then is later than anything else, and was sent all the same (K20.2).
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
				engine, err := manydevice.Open(st, cfg)
				require.NoError(t, err)
				phone, err := engine.Sessions.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
				require.NoError(t, err)
				attach := fanout.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}
				_, err = engine.Router.Attach(t.Context(), attach, transporttest.NewPair(transporttest.PairConfig{}).Conn())
				require.NoError(t, err)
				time.Sleep(10 * time.Second)
				wrong.Store(int64(c.ahead))
				_, err = engine.Router.Send(t.Context(), toAnn())
				require.NoError(t, err)
				time.Sleep(time.Second)
				wrong.Store(0)
				time.Sleep(time.Minute)
				st.Break() // it dies
				_ = engine.Close(t.Context())
				time.Sleep(5 * time.Minute)

				engine, err = manydevice.Open(inner, cfg)
				require.NoError(t, err)
				_, err = engine.Router.Attach(t.Context(), attach, transporttest.NewPair(transporttest.PairConfig{}).Conn())
				require.NoError(t, err)
				synctest.Wait()
				require.EqualValues(t, 1, engine.Stats().Router.Redelivered)
				require.NoError(t, errors.Join(engine.Close(t.Context()), st.Close(t.Context())))
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
		phone, err := reg.Login(t.Context(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
		require.NoError(t, err)
		attach := fanout.AttachRequest{Account: "ann", Login: phone.Session.Login, Token: phone.Token}
		time.Sleep(time.Minute)
		for i := range 2 {
			router, err := fanout.New(reg, st, fanout.Config{})
			require.NoError(t, err)
			if i == 1 {
				require.NoError(t, reg.Close(t.Context()))
				require.NoError(t, router.Close(t.Context()))
				break
			}
			_, err = router.Attach(t.Context(), attach, transporttest.NewPair(transporttest.PairConfig{}).Conn())
			require.NoError(t, err)
			_, err = router.Send(t.Context(), toAnn())
			require.NoError(t, err)
			synctest.Wait()
			away := st.Inject(storetest.Fault{Method: storetest.SaveCursors, Times: -1, Err: errors.New("away")})
			require.Error(t, router.Close(t.Context()))
			away()
		}
		time.Sleep(time.Minute)
		engine, err := manydevice.Open(st, manydevice.Config{})
		require.NoError(t, err)
		_, err = engine.Router.Attach(t.Context(), attach, transporttest.NewPair(transporttest.PairConfig{}).Conn())
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 1, engine.Stats().Router.Redelivered)
		require.NoError(t, errors.Join(engine.Close(t.Context()), st.Close(t.Context())))
	})
}
