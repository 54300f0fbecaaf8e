package manydevice_test

import (
	"context"
	"errors"
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
	"github.com/manydevice/manydevice/store/storetest"
)

// refusedSum returns how many calls were refused.
func refusedSum(s session.Stats) (sum uint64) {
	for _, n := range s.Refused {
		sum += n
	}
	return sum
}

// Each call that ends with an error is counted once, under what it was, and as nothing that was carried out.
func TestCounts_EachRefusalByItsName(t *testing.T) {
	for name, c := range map[string]struct {
		call func(s *scene, res *session.LoginResult) error
		why  session.Refusal
	}{
		"logout of a login that is not there": {func(s *scene, _ *session.LoginResult) error {
			return s.Sessions.Logout(s.ctx, "ann", event.NewLoginID())
		}, session.RefusedNotFound},
		"logout of no login": {func(s *scene, _ *session.LoginResult) error {
			return s.Sessions.Logout(s.ctx, "ann", "x y")
		}, session.RefusedInvalid},
		"replacing what is no login": {func(s *scene, _ *session.LoginResult) error {
			_, err := s.Sessions.LoginReplacing(s.ctx, session.LoginRequest{Account: "ann", Platform: "ios"}, "x y")
			return err
		}, session.RefusedInvalid},
		"authentication by a wrong token": {func(s *scene, res *session.LoginResult) error {
			_, err := s.Sessions.Authenticate(s.ctx, "ann", res.Session.Login, event.NewResumeToken())
			return err
		}, session.RefusedUnknown},
		"authentication by a login that has ended": {func(s *scene, res *session.LoginResult) error {
			require.NoError(s.t, s.Sessions.Logout(s.ctx, "ann", res.Session.Login))
			_, err := s.Sessions.Authenticate(s.ctx, "ann", res.Session.Login, res.Token)
			return err
		}, session.RefusedEnded},
		"attach with a window that cannot be": {func(s *scene, res *session.LoginResult) error {
			_, err := s.Router.Attach(s.ctx, fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token, Window: -1}, new(ear))
			return err
		}, session.RefusedInvalid},
		"attach past the fan-out": {func(s *scene, res *session.LoginResult) error {
			_, err := s.Sessions.Attach(s.ctx, session.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, new(ear))
			return err
		}, session.RefusedInvalid},
		"attach to a router that was closed": {func(s *scene, res *session.LoginResult) error {
			require.NoError(s.t, s.Router.Close(s.ctx))
			_, err := s.Router.Attach(s.ctx, fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, new(ear))
			require.ErrorIs(s.t, err, fanout.ErrClosed)
			return err
		}, session.RefusedClosed},
		"one parked entry too many": {func(s *scene, _ *session.LoginResult) error {
			for range 66 {
				require.NoError(s.t, s.send("hello"))
			}
			look, err := s.Router.Inspect(s.ctx, "ann", fanout.InspectOptions{})
			require.NoError(s.t, err)
			for seq := range uint64(65) {
				if err = s.Router.Park(s.ctx, "ann", "d1", event.Position{Epoch: look.Inbox.Epoch, Seq: seq + 1}); err != nil {
					break
				}
			}
			require.ErrorIs(s.t, err, session.ErrTooManyParked)
			return err
		}, session.RefusedParked},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := openScene(t, memstore.New(memstore.Config{}), manydevice.Config{})
				res := s.login("d1")
				require.Error(t, c.call(s, res))
				got := s.Sessions.Stats()
				require.EqualValues(t, 1, got.Refused[c.why], got.Refused)
				require.EqualValues(t, 1, refusedSum(got))
				require.Equal(t, got.Ended[event.Logout], got.Kicks)
				require.NoError(t, s.Engine.Close(s.ctx))
			})
		})
	}
}

// A device that connects for the first time is no refusal, although it has no login yet: nobody was refused anything.
func TestCounts_AFirstConnectIsNoRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := manydevice.Open(memstore.New(memstore.Config{}), manydevice.Config{})
		require.NoError(t, err)
		for range 3 {
			a, _, err := e.Router.Connect(t.Context(), session.LoginRequest{Account: "ann", Device: "d1", Platform: "ios"}, fanout.AttachRequest{}, new(ear))
			require.NoError(t, err)
			a.Detach()
		}
		_, err = e.Sessions.Kick(t.Context(), session.KickRequest{Account: "ann", All: true})
		require.NoError(t, err)
		_, _, err = e.Router.Connect(t.Context(), session.LoginRequest{Account: "ann", Device: "d1", Platform: "ios"}, fanout.AttachRequest{}, new(ear))
		require.ErrorIs(t, err, session.ErrEnded)
		got := e.Sessions.Stats()
		require.EqualValues(t, 1, got.Refused[session.RefusedEnded])
		require.EqualValues(t, 1, refusedSum(got))
		require.NoError(t, e.Close(t.Context()))
	})
}

// tally counts how often connections were closed with what.
type tally struct{ counts sync.Map }

func (t *tally) of(r event.Reason) *atomic.Uint64 {
	n, _ := t.counts.LoadOrStore(r, new(atomic.Uint64))
	return n.(*atomic.Uint64)
}

// restless is a connection that counts how often it was closed with what, and fails now and then.
type restless struct {
	closes  *tally
	instant bool
	fails   bool
}

func (c *restless) NonBlocking() bool { return c.instant }

func (c *restless) Send(context.Context, []event.Frame) error {
	if c.fails {
		switch rand.IntN(40) {
		case 0:
			return errors.New("broken pipe")
		case 1:
			panic("boom")
		}
	}
	return nil
}

func (c *restless) Close(why event.Closed) error {
	c.closes.of(why.Reason).Add(1)
	return nil
}

// The sums hold whatever happens at the same time: calls that failed are refusals, changes that were told are ends, and each
// connection that was closed was told why. When all is gone, the gauges are zero.
func TestCounts_AddUp(t *testing.T) {
	for _, trouble := range []bool{false, true} {
		t.Run(fmt.Sprint("trouble ", trouble), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { addUp(t, trouble) })
		})
	}
}

func addUp(t *testing.T, trouble bool) {
	const accounts = 12
	ctx := context.Background()
	st := storetest.WithFaults(memstore.New(memstore.Config{}))
	rules, err := policy.New(policy.Rules{Total: 3})
	require.NoError(t, err)
	e, err := manydevice.Open(st, manydevice.Config{Session: session.Config{
		Policy: rules,
		Revoke: func(context.Context, session.Ended) error {
			if rand.IntN(10) == 0 {
				panic("no database")
			}
			return nil
		},
	}})
	require.NoError(t, err)
	changes, err := e.Sessions.Subscribe(1 << 16)
	require.NoError(t, err)
	var mend []func()
	if trouble {
		for range 200 {
			lost := storetest.LostAnswer()
			lost.Skip = rand.IntN(1_000)
			mend = append(mend, st.Inject(lost))
			for _, m := range []storetest.Method{storetest.Load, storetest.Commit, storetest.Read} {
				mend = append(mend, st.Inject(storetest.Fault{Method: m, Skip: rand.IntN(1_500), Err: errors.New("network is down")}))
			}
		}
	}
	var failed, ends, logins, attached atomic.Uint64
	count := func(err error, done *atomic.Uint64) bool {
		switch {
		case err != nil:
			failed.Add(1)
		case done != nil:
			done.Add(1)
		}
		return err == nil
	}
	closes := new(tally)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 150 {
				time.Sleep(rand.N(time.Second))
				who, device := event.Account(fmt.Sprint("user-", rand.IntN(accounts))), event.DeviceID(fmt.Sprint("d", rand.IntN(6)))
				switch rand.IntN(12) {
				case 5:
					_, err := e.Sessions.Kick(ctx, session.KickRequest{Account: who, All: true})
					count(err, &ends)
				case 6:
					count(e.Sessions.Logout(ctx, who, event.NewLoginID()), &ends)
				case 7:
					count(e.Sessions.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: who, Device: device}), &ends)
				case 8:
					_, err := e.Sessions.Ban(ctx, session.BanRequest{Account: who, Until: time.Now().Add(time.Second)})
					count(err, &ends)
				case 9:
					count(e.Sessions.SetPrimary(ctx, who, device), nil)
				case 10:
					_, err := e.Sessions.DeleteAccount(ctx, session.DeleteRequest{Account: who})
					count(err, &ends)
				case 11:
					_, _ = e.Router.Send(ctx, fanout.SendRequest{
						From: "zoe", To: []event.Account{who}, Kind: event.KindMessage, Conversation: "room", Payload: []byte("x"),
					})
				default:
					res, err := e.Sessions.Login(ctx, session.LoginRequest{Account: who, Device: device, Platform: "ios"})
					if !count(err, &logins) {
						continue
					}
					token := res.Token
					if rand.IntN(10) == 0 {
						token = event.NewResumeToken()
					}
					c := &restless{closes: closes, instant: rand.IntN(2) == 0, fails: trouble}
					_, err = e.Router.Attach(ctx, fanout.AttachRequest{Account: who, Login: res.Session.Login, Token: token}, c)
					count(err, &attached)
				}
			}
		})
	}
	wg.Wait()
	for _, f := range mend {
		f()
	}
	for i := range accounts {
		_, err := e.Sessions.Kick(ctx, session.KickRequest{Account: event.Account(fmt.Sprint("user-", i)), All: true})
		count(err, &ends)
	}
	time.Sleep(5 * time.Minute) // what is pending is written, and resume windows are over
	synctest.Wait()
	s := e.Stats()
	require.Equal(t, failed.Load(), refusedSum(s.Sessions), s.Sessions.Refused)
	require.Equal(t, ends.Load(), s.Sessions.Kicks)
	require.Equal(t, logins.Load(), s.Sessions.Logins)
	require.Equal(t, attached.Load(), s.Sessions.Attaches)

	changes.Close()
	told, hooks := map[event.Reason]uint64{}, uint64(0)
	for c := range changes.All(ctx) {
		switch c.Kind {
		case session.ChangeEnded:
			told[c.Reason]++
		case session.ChangeHookFailed:
			hooks++
		}
	}
	var closed uint64
	for reason, n := range s.Sessions.Ended {
		require.Equal(t, told[reason], n, reason)
	}
	for reason, n := range s.Sessions.Closed {
		require.Equal(t, closes.of(reason).Load(), n, reason)
		closed += n
	}
	require.Equal(t, attached.Load(), closed)
	require.Equal(t, hooks, s.Sessions.Hooks[session.HookRevoke].Panics)
	require.Equal(t, s.Router.SendFailures, s.Sessions.Closed[event.Lost])

	r := s.Router
	require.Zero(t, s.Sessions.Connections+s.Sessions.Online+s.Sessions.Away+s.Sessions.Lingering+s.Sessions.Accounts+s.Sessions.Waiting)
	require.Zero(t, r.Attachments+r.Unacked+r.UnackedEntries+r.Readers+r.CursorsPending+r.ReceiptsPending+r.PushWaiting)
	require.Zero(t, r.TailBytes+r.UnackedBytes+int64(r.Lag))
	require.NoError(t, e.Close(ctx))
	require.NoError(t, st.Close(ctx))
}
