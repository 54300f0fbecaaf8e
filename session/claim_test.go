package session_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/stream"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport"
	"github.com/manydevice/manydevice/transport/membus"
)

// onPlainStores runs fn in a bubble over each store, wrapped so that it can be made to fail.
func onPlainStores(t *testing.T, fn func(t *testing.T, st *storetest.Faulty)) {
	t.Helper()
	for name, open := range map[string]func(t *testing.T) store.Store{
		"memory": func(*testing.T) store.Store { return memstore.New(memstore.Config{}) },
		"file": func(t *testing.T) store.Store {
			st, err := boltstore.Open(filepath.Join(t.TempDir(), "store"), boltstore.Config{})
			require.NoError(t, err)
			return st
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := storetest.WithFaults(open(t))
				fn(t, st)
				require.NoError(t, st.Close(context.Background()))
			})
		})
	}
}

// TestNew_ASecondEngineOnAStore is refused before it has read or written anything, until the first was closed (K20.8).
func TestNew_ASecondEngineOnAStore(t *testing.T) {
	onPlainStores(t, func(t *testing.T, st *storetest.Faulty) {
		first, err := session.New(st, session.Config{})
		require.NoError(t, err)
		synctest.Wait()
		before := allCalls(st)
		_, err = session.New(st, session.Config{})
		require.ErrorIs(t, err, store.ErrInUse)
		_, err = session.New(storetest.WithFaults(st), session.Config{})
		require.ErrorIs(t, err, store.ErrInUse, "a wrapper passes the claim on")
		require.Equal(t, before, allCalls(st))

		require.NoError(t, first.Close(t.Context()))
		require.NoError(t, first.Close(t.Context()), "which gives the claim back once")
		second, err := session.New(st, session.Config{})
		require.NoError(t, err)
		require.NoError(t, first.Close(t.Context()))
		_, err = session.New(st, session.Config{})
		require.ErrorIs(t, err, store.ErrInUse, "the first one's third Close has not freed the second one's store")
		require.NoError(t, second.Close(t.Context()))
	})
}

func allCalls(st *storetest.Faulty) (n int) {
	for _, m := range []storetest.Method{
		storetest.Load, storetest.Commit, storetest.Read, storetest.States, storetest.Accounts, storetest.SaveCursors,
	} {
		n += st.Calls(m)
	}
	return n
}

// TestNew_LeasesLetOthersIn: engines with leases share a store, and one without has to be alone (K20.8).
func TestNew_LeasesLetOthersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, leases, bus := memstore.New(memstore.Config{}), memstore.NewLeases(), membus.New(membus.Config{})
		node := func(name string) (*session.Registry, error) {
			return session.New(st, session.Config{Node: event.NodeID(name), Leases: leases, Bus: bus})
		}
		x, err := node("x")
		require.NoError(t, err)
		y, err := node("y")
		require.NoError(t, err)
		_, err = session.New(st, session.Config{})
		require.ErrorIs(t, err, store.ErrInUse)
		_, err = node("x")
		require.Error(t, err, "its name is taken on the bus")
		require.NoError(t, x.Close(t.Context()))
		_, err = session.New(st, session.Config{})
		require.ErrorIs(t, err, store.ErrInUse, "the other is still there, and the one that failed half-way gave its claim back")
		require.NoError(t, y.Close(t.Context()))

		alone, err := session.New(st, session.Config{})
		require.NoError(t, err)
		_, err = node("x")
		require.ErrorIs(t, err, store.ErrInUse)
		require.NoError(t, alone.Close(t.Context()))
		require.NoError(t, bus.Close(t.Context()))
	})
}

// TestClose_KeepsTheStoreWhileItWorks: a Close that ran into its context has not freed the store, since work goes on. The next
// Close waits for that (K20.8).
func TestClose_KeepsTheStoreWhileItWorks(t *testing.T) {
	onPlainStores(t, func(t *testing.T, st *storetest.Faulty) {
		reg, err := session.New(st, session.Config{})
		require.NoError(t, err)
		free := make(chan struct{})
		st.Inject(storetest.Fault{Method: storetest.Commit, Account: "ann", After: true, Wait: free})
		go func() {
			_, _ = reg.Login(context.Background(), request("ann", "phone", "ios"))
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, reg.Close(ctx), context.DeadlineExceeded)
		_, err = session.New(st, session.Config{})
		require.ErrorIs(t, err, store.ErrInUse)
		close(free)
		require.NoError(t, reg.Close(t.Context()))
		next, err := session.New(st, session.Config{})
		require.NoError(t, err)
		require.NoError(t, next.Close(t.Context()))
	})
}

// TestClose_TheRouterKeepsTheStore: fan-out writes after the registry was closed, so the store is free when both are (K20.8).
func TestClose_TheRouterKeepsTheStore(t *testing.T) {
	onPlainStores(t, func(t *testing.T, st *storetest.Faulty) {
		reg, err := session.New(st, session.Config{})
		require.NoError(t, err)
		stop, err := reg.Listen(&stream.Listener[session.Change]{Hear: func(session.Change) {}})
		require.NoError(t, err)
		require.NoError(t, reg.Close(t.Context()))
		_, err = session.New(st, session.Config{})
		require.ErrorIs(t, err, store.ErrInUse)
		stop()
		stop()
		_, err = reg.Listen(&stream.Listener[session.Change]{Hear: func(session.Change) {}})
		require.ErrorIs(t, err, session.ErrClosed)
		next, err := session.New(st, session.Config{})
		require.NoError(t, err)
		require.NoError(t, next.Close(t.Context()))
	})
}

// lateBus subscribes later than is waited for.
type lateBus struct {
	transport.Bus
	late time.Duration
}

func (b *lateBus) Subscribe(node event.NodeID, handle func([]byte) []byte) (func(), error) {
	time.Sleep(b.late)
	return b.Bus.Subscribe(node, handle)
}

// TestNew_ABusThatAnswersLate leaves no subscription to a registry that was never there, so that New can be tried again (K20.8).
func TestNew_ABusThatAnswersLate(t *testing.T) {
	for name, late := range map[string]time.Duration{"a second too late": 3 * time.Second, "just then": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, inner := memstore.New(memstore.Config{}), membus.New(membus.Config{})
				cfg := session.Config{Node: "x", Leases: memstore.NewLeases(), Bus: &lateBus{inner, late}}
				reg, err := session.New(st, cfg)
				if err != nil {
					time.Sleep(time.Minute)
					cfg.Bus = inner
					reg, err = session.New(st, cfg)
				}
				require.NoError(t, err)
				require.NoError(t, reg.Close(t.Context()))
				require.NoError(t, inner.Close(t.Context()))
			})
		})
	}
}
