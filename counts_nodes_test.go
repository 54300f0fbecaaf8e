package manydevice_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/transport/membus"
)

// Over several nodes each end of a login is counted once, by the node that committed it, on whichever node the connection is, and
// each close by the node that had it.
func TestCounts_AddUpOverNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		st := memstore.New(memstore.Config{})
		leases := memstore.NewLeases()
		bus := membus.New(membus.Config{})
		rules, err := policy.New(policy.Rules{Total: 3})
		require.NoError(t, err)
		var nodes []*manydevice.Engine
		var revoked atomic.Int64
		for _, n := range []event.NodeID{"x", "y", "z"} {
			e, err := manydevice.Open(st, manydevice.Config{Session: session.Config{
				Policy: rules, Node: n, Leases: leases, Bus: bus,
				Revoke: func(context.Context, session.Ended) error { revoked.Add(1); return nil },
			}})
			require.NoError(t, err)
			nodes = append(nodes, e)
		}
		closes := new(tally)
		var attached, logins, failed, ends atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 150 {
					time.Sleep(rand.N(time.Second))
					e := nodes[rand.IntN(3)]
					who, device := event.Account(fmt.Sprint("user-", rand.IntN(8))), event.DeviceID(fmt.Sprint("d", rand.IntN(6)))
					switch rand.IntN(8) {
					case 0:
						_, err := e.Sessions.Kick(ctx, session.KickRequest{Account: who, All: true})
						if err != nil {
							failed.Add(1)
						} else {
							ends.Add(1)
						}
					case 1:
						_, _ = e.Router.Send(ctx, fanout.SendRequest{From: "zoe", To: []event.Account{who}, Kind: event.KindMessage, Conversation: "room", Payload: []byte("x")})
					default:
						res, err := e.Sessions.Login(ctx, session.LoginRequest{Account: who, Device: device, Platform: "ios"})
						if err != nil {
							failed.Add(1)
							continue
						}
						logins.Add(1)
						for k := range 2 {
							_, err = nodes[(rand.IntN(3)+k)%3].Router.Attach(ctx, fanout.AttachRequest{Account: who, Login: res.Session.Login, Token: res.Token}, &restless{closes: closes, instant: rand.IntN(2) == 0})
							if err != nil {
								failed.Add(1)
							} else {
								attached.Add(1)
							}
						}
					}
				}
			})
		}
		wg.Wait()
		for i := range 8 {
			_, err := nodes[0].Sessions.Kick(ctx, session.KickRequest{Account: event.Account(fmt.Sprint("user-", i)), All: true})
			require.NoError(t, err)
			ends.Add(1)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		var refused, ended, closed, admitted, came, kicks uint64
		byReason := map[event.Reason]uint64{}
		for _, e := range nodes {
			s := e.Stats()
			refused, admitted, came, kicks = refused+refusedSum(s.Sessions), admitted+s.Sessions.Logins, came+s.Sessions.Attaches, kicks+s.Sessions.Kicks
			for _, n := range s.Sessions.Ended {
				ended += n
			}
			for k, n := range s.Sessions.Closed {
				closed, byReason[k] = closed+n, byReason[k]+n
			}
			require.Zero(t, s.Sessions.Connections+s.Sessions.Online+s.Sessions.Lingering+s.Sessions.Accounts+s.Router.Attachments+s.Router.CursorsPending)
		}
		require.EqualValues(t, failed.Load(), refused)
		require.EqualValues(t, ends.Load(), kicks)
		require.EqualValues(t, logins.Load(), admitted)
		require.EqualValues(t, attached.Load(), came)
		require.EqualValues(t, logins.Load(), ended)
		require.EqualValues(t, revoked.Load(), ended, "the hook is called where the end is counted")
		require.EqualValues(t, attached.Load(), closed)
		for k, n := range byReason {
			require.Equal(t, closes.of(k).Load(), n, k)
		}
		for _, e := range nodes {
			require.NoError(t, e.Close(ctx))
		}
	})
}
