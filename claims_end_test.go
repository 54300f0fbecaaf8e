package manydevice_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// TestClose_KeepsTheStoreWhileASendIsCommitted: a send of the host's that is being committed is work of the engine, so that the
// store is not free for another one (K20.8).
func TestClose_KeepsTheStoreWhileASendIsCommitted(t *testing.T) {
	calls := map[string]func(ctx context.Context, r *fanout.Router, bob event.LoginID) error{
		"Send": func(ctx context.Context, r *fanout.Router, bob event.LoginID) error {
			_, err := r.Send(ctx, fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte("x"), NoSenderCopy: true})
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
				first := openScene(t, st, manydevice.Config{})
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
				openScene(t, st, manydevice.Config{}).end(st)
			})
		})
	}
}

// deafStore does not listen to the context.
type deafStore struct {
	store.Store
	hang chan struct{}
}

func (s *deafStore) SaveCursors(_ context.Context, cursors []store.Cursor) error {
	<-s.hang
	return s.Store.SaveCursors(context.Background(), cursors)
}

// TestClose_KeepsTheStoreWhileItWritesCursors, also if the store does not listen to the context, and however often it is called
// (K20.8).
func TestClose_KeepsTheStoreWhileItWritesCursors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &deafStore{Store: memstore.New(memstore.Config{}), hang: make(chan struct{})}
		first := openScene(t, st, manydevice.Config{Fanout: fanout.Config{CursorFlush: time.Hour}})
		first.attach(first.login("phone"))
		first.deliver()
		for range 3 {
			require.Error(t, first.Close(soon(t)))
			time.Sleep(time.Minute)
			_, err := manydevice.Open(st, manydevice.Config{})
			require.ErrorIs(t, err, store.ErrInUse)
		}
		close(st.hang)
		require.NoError(t, first.Close(t.Context()))
		openScene(t, st, manydevice.Config{}).end(st)
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
		openScene(t, st, manydevice.Config{}).end(st)
	})
}

// TestClose_WritesCursorsBesideALoginThatHangs: what has been acknowledged is written in the time that Close has, though
// something else hangs (K20.1).
func TestClose_WritesCursorsBesideALoginThatHangs(t *testing.T) {
	for name, limit := range map[string]time.Duration{"5 s, which is the default": 0, "a second": time.Second, "10 s": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := storetest.WithFaults(memstore.New(memstore.Config{}))
				s := openScene(t, st, manydevice.Config{Fanout: fanout.Config{CursorFlush: time.Hour}})
				a, _ := s.attach(s.login("phone"))
				s.deliver()
				page, err := st.Read(t.Context(), "ann", store.ReadOptions{})
				require.NoError(t, err)
				require.NoError(t, a.Handle(t.Context(), &event.Ack{Position: event.Position{Epoch: page.Head.Epoch, Seq: page.Head.Seq}}))
				free := make(chan struct{})
				st.Inject(storetest.Fault{Method: storetest.Commit, Account: "eve", Wait: free})
				go func() {
					_, _ = s.Sessions.Login(context.Background(), session.LoginRequest{Account: "eve", Device: "phone", Platform: "ios"})
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
				require.ErrorIs(t, s.Close(ctx), context.DeadlineExceeded)
				require.Equal(t, took, time.Since(begun), "it waits as long as it may")
				cursors, err := st.Cursors(t.Context(), "ann")
				require.NoError(t, err)
				require.Equal(t, page.Head.Seq, cursors[0].Seq)
				close(free)
				s.end(st)
			})
		})
	}
}
