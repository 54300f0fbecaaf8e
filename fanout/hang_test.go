package fanout_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
)

// stuckStore is a store that hangs, whatever its context says, as long as its gate is shut.
type stuckStore struct {
	store.Store
	gate chan struct{} // closed: it answers
	shut bool
}

func (s *stuckStore) SaveCursors(ctx context.Context, all []store.Cursor) error {
	if s.shut {
		<-s.gate
	}
	return s.Store.SaveCursors(ctx, all)
}

func (s *stuckStore) Commit(ctx context.Context, b store.Batch) (store.Result, error) {
	if s.shut {
		<-s.gate
	}
	return s.Store.Commit(ctx, b)
}

// Whatever hangs (Send, Close, hooks, the store) and in whatever order they are closed, registry and router return within the
// context of Close, and their subscriptions end; once nothing hangs a second Close ends all (I29).
func TestI29_CloseWithEverythingHanging(t *testing.T) {
	for _, order := range []string{"registry, router", "router, registry"} {
		for _, what := range []string{"send", "close", "revoke", "nack", "store"} {
			t.Run(order+", "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					gate := make(chan struct{})
					hang := func(of string) {
						if of == what {
							<-gate
						}
					}
					st := &stuckStore{Store: memstore.New(memstore.Config{}), gate: gate}
					p, err := policy.New(policy.Rules{})
					require.NoError(t, err)
					reg, err := session.New(st, session.Config{Policy: p, Revoke: func(context.Context, session.Ended) error {
						hang("revoke")
						return nil
					}})
					require.NoError(t, err)
					r, err := fanout.New(reg, st, fanout.Config{OnNack: func(fanout.Nacked) { hang("nack") }})
					require.NoError(t, err)
					w := &world{t: t, reg: reg, r: r, inner: st}
					sending := false
					conn := newHostConn(func(context.Context, *hostConn, []event.Frame) error {
						if sending {
							hang("send")
						}
						return nil
					})
					conn.onClose = func() { hang("close") }
					att := w.hosted("ann", "a1", fanout.AttachRequest{}, conn)
					w.host("bob", "0", "ann")
					synctest.Wait()
					sending = true
					head := w.head("ann")
					go att.Handle(context.Background(), &event.Nack{Position: event.Position{Epoch: head.Epoch, Seq: head.Seq}}) //nolint
					w.host("bob", "1", "ann")
					synctest.Wait()
					st.shut = what == "store"
					ctx := context.Background()
					go reg.Kick(ctx, session.KickRequest{Account: "ann", All: true})                       //nolint
					go reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "a2", Platform: "ios"}) //nolint
					synctest.Wait()
					changes, err := reg.Subscribe(1)
					require.NoError(t, err)
					events, err := r.Subscribe(1)
					require.NoError(t, err)
					closes := []func(context.Context) error{reg.Close, r.Close}
					if order == "router, registry" {
						closes[0], closes[1] = closes[1], closes[0]
					}
					for _, c := range closes {
						short, cancel := context.WithTimeout(ctx, time.Second)
						start := time.Now()
						_ = c(short)
						require.LessOrEqual(t, time.Since(start), time.Second)
						cancel()
					}
					for range changes.All(ctx) { // ends, or the bubble fails
					}
					for range events.All(ctx) {
					}
					close(gate)
					for _, c := range closes {
						require.NoError(t, c(ctx))
					}
				})
			})
		}
	}
}
