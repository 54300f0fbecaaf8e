package manydevice_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport/membus"
)

// ear is a connection that keeps what it is told at its end.
type ear struct {
	mu   sync.Mutex
	told []event.Closed
}

func (e *ear) Send(context.Context, []event.Frame) error { return nil }

func (e *ear) Close(why event.Closed) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = append(e.told, why)
	return nil
}

// stage is one engine in a bubble, for one story.
type stage struct {
	*manydevice.Engine
	t      *testing.T
	ctx    context.Context
	st     *storetest.Faulty
	leases *memstore.Leases
}

// on is a login with a connection.
type on struct {
	s   *stage
	res *session.LoginResult
	ear *ear
	att *fanout.Attachment
}

func (s *stage) login(device event.DeviceID, p event.Platform) *on {
	s.t.Helper()
	res, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "ann", Device: device, Platform: p})
	require.NoError(s.t, err)
	return &on{s: s, res: res}
}

func (o *on) try(tab string) error {
	o.ear = new(ear)
	var err error
	o.att, err = o.s.Router.Attach(o.s.ctx, fanout.AttachRequest{
		Account: "ann", Login: o.res.Session.Login, Token: o.res.Token, Tab: tab,
	}, o.ear)
	return err
}

func (o *on) attach(tab string) *on {
	o.s.t.Helper()
	require.NoError(o.s.t, o.try(tab))
	return o
}

// told returns what a connection was told at its end.
func (o *on) told() event.Closed {
	o.s.t.Helper()
	synctest.Wait()
	require.Len(o.s.t, o.ear.told, 1)
	return o.ear.told[0]
}

func (s *stage) kick(q session.KickRequest) {
	s.t.Helper()
	q.Account = "ann"
	_, err := s.Sessions.Kick(s.ctx, q)
	require.NoError(s.t, err)
}

func (s *stage) policy(r policy.Rules) {
	s.t.Helper()
	p, err := policy.New(r)
	require.NoError(s.t, err)
	require.NoError(s.t, s.Sessions.SetPolicy(p))
}

// closed returns what an error says is to be told to the client.
func closed(t *testing.T, err error) event.Closed {
	t.Helper()
	require.Error(t, err)
	return event.ClosedOf(err)
}

// endings tell, for each reason that there is, how a device comes to be told it.
var endings = map[event.Reason]func(s *stage) event.Closed{
	event.EvictedQuota: func(s *stage) event.Closed {
		s.policy(policy.Rules{PerPlatform: 1})
		d := s.login("a1", "ios").attach("")
		s.login("a2", "ios")
		return d.told()
	},
	event.EvictedSingle: func(s *stage) event.Closed {
		s.policy(policy.Rules{Single: true})
		d := s.login("a1", "ios").attach("")
		s.login("a2", "web")
		return d.told()
	},
	event.Replaced: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		s.login("a1", "ios")
		return d.told()
	},
	event.KickedSelf: func(s *stage) event.Closed {
		d, by := s.login("a1", "ios").attach(""), s.login("a2", "ios")
		s.kick(session.KickRequest{Others: by.res.Session.Login, By: by.res.Session.Login})
		return d.told()
	},
	event.KickedHost: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		s.kick(session.KickRequest{All: true})
		return d.told()
	},
	event.DeviceRemoved: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		require.NoError(s.t, s.Sessions.RemoveDevice(s.ctx, session.RemoveDeviceRequest{Account: "ann", Device: "a1"}))
		return d.told()
	},
	event.PasswordChanged: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		s.kick(session.KickRequest{All: true, Reason: event.PasswordChanged})
		return d.told()
	},
	event.AccountDeleted: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		_, err := s.Sessions.DeleteAccount(s.ctx, session.DeleteRequest{Account: "ann"})
		require.NoError(s.t, err)
		return d.told()
	},
	event.Banned: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		_, err := s.Sessions.Ban(s.ctx, session.BanRequest{Account: "ann"})
		require.NoError(s.t, err)
		return d.told()
	},
	event.Logout: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		require.NoError(s.t, s.Sessions.Logout(s.ctx, "ann", d.res.Session.Login))
		return d.told()
	},
	event.ExpiredIdle: func(s *stage) event.Closed {
		d := s.login("a1", "ios")
		time.Sleep(3*time.Hour + time.Minute)
		return closed(s.t, d.try(""))
	},
	event.ExpiredAbsolute: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		for d.att.Handle(s.ctx, &event.Ping{}) == nil {
			time.Sleep(30 * time.Minute)
		}
		return d.told()
	},
	event.TokenReuse: func(s *stage) event.Closed {
		d := s.login("a1", "ios")
		time.Sleep(90 * time.Minute)
		d.attach("")
		require.NoError(s.t, d.att.Handle(s.ctx, &event.TokenStored{})) // the new token counts from here on
		time.Sleep(10 * time.Second)
		thief := &on{s: s, res: d.res}
		require.Error(s.t, thief.try(""))
		return d.told()
	},
	event.PolicyChanged: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		s.login("a2", "ios")
		s.policy(policy.Rules{PerPlatform: 1})
		_, err := s.Sessions.Enforce(s.ctx, session.EnforceRequest{})
		require.NoError(s.t, err)
		return d.told()
	},
	event.RefusedQuota: func(s *stage) event.Closed {
		s.policy(policy.Rules{PerPlatform: 1, Reconnect: policy.ReconnectRefused})
		d := s.login("a1", "ios")
		time.Sleep(10 * time.Minute)
		s.login("a2", "ios")
		return closed(s.t, d.try(""))
	},
	event.Moved: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		(&on{s: s, res: d.res}).attach("")
		return d.told()
	},
	event.TabReplaced: func(s *stage) event.Closed {
		d := s.login("a1", "web").attach("one")
		(&on{s: s, res: d.res}).attach("two")
		return d.told()
	},
	event.Slow: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		_, err := s.Router.Send(s.ctx, fanout.SendRequest{
			From: "bea", To: []event.Account{"ann"}, Conversation: "c", Payload: []byte("hi"),
		})
		require.NoError(s.t, err)
		time.Sleep(time.Minute) // it never acknowledges
		return d.told()
	},
	event.Lost: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		time.Sleep(2 * time.Hour)
		return d.told()
	},
	event.Flapping: func(s *stage) event.Closed {
		for {
			_, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "ann", Device: "a1", Platform: "ios"})
			if err != nil {
				return closed(s.t, err)
			}
		}
	},
	event.RateLimited: func(s *stage) event.Closed {
		for {
			_, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "ann", Platform: "ios"})
			if err != nil {
				return closed(s.t, err)
			}
		}
	},
	event.ProtocolError: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		require.Error(s.t, d.att.HandleJSON(s.ctx, []byte("{")))
		return d.told()
	},
	event.LeaseLost: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		require.NoError(s.t, s.leases.Release(s.ctx, store.Lease{Node: "n1", Epoch: 1}))
		time.Sleep(10 * time.Second)
		return d.told()
	},
	event.Unavailable: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		s.st.Break()
		return d.told()
	},
	event.Shutdown: func(s *stage) event.Closed {
		d := s.login("a1", "ios").attach("")
		require.NoError(s.t, s.Drain(s.ctx, session.DrainRequest{}))
		return d.told()
	},
	event.Unknown: func(s *stage) event.Closed {
		d := s.login("a1", "ios")
		d.res.Token = event.NewResumeToken()
		return closed(s.t, d.try(""))
	},
}

// TestB8_EveryReasonIsGiven: each reason for the end of a login or a connection has a story, and the story's end is told
// with the advice that the reason has.
func TestB8_EveryReasonIsGiven(t *testing.T) {
	for _, info := range event.Reasons() {
		t.Run(string(info.Reason), func(t *testing.T) {
			story := endings[info.Reason]
			require.NotNil(t, story, "there is a story")
			synctest.Test(t, func(t *testing.T) {
				s := openStage(t)
				why := story(s)
				require.Equal(t, info.Reason, why.Reason)
				require.Equal(t, info.Retry, why.Retry)
				require.Equal(t, info.Retry == event.RetryAfter, why.After > 0, "a delay, if the advice is to wait")
			})
		})
	}
	require.Len(t, endings, len(event.Reasons()))
}

func openStage(t *testing.T) *stage {
	t.Helper()
	inner, bus := memstore.New(memstore.Config{}), membus.New(membus.Config{})
	s := &stage{t: t, ctx: t.Context(), st: storetest.WithFaults(inner), leases: memstore.NewLeases()}
	engine, err := manydevice.Open(s.st, manydevice.Config{Session: session.Config{
		Node: "n1", Leases: s.leases, Bus: bus, IdleTimeout: time.Hour, AbsoluteLifetime: 4 * time.Hour, IdleDevice: 3 * time.Hour,
		TokenRotation: time.Hour, SweepInterval: time.Minute,
	}})
	require.NoError(t, err)
	s.Engine = engine
	t.Cleanup(func() {
		_ = engine.Close(context.Background()) // the store may have failed
		require.NoError(t, s.st.Close(context.Background()))
		require.NoError(t, inner.Close(context.Background()))
		require.NoError(t, bus.Close(context.Background()))
	})
	return s
}
