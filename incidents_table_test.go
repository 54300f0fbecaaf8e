package manydevice_test

import (
	"context"
	"errors"
	"strings"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

var incidents = []incident{
	{
		name: "A hook hangs",
		config: func(s *scene, c *manydevice.Config) {
			c.Session.Revoke = func(context.Context, session.Ended) error { <-s.over; return nil }
		},
		provoke: func(s *scene) {
			s.login("d1")
			_, err := s.Sessions.Kick(s.ctx, session.KickRequest{Account: "ann", All: true})
			require.NoError(s.t, err)
		},
		changes: []string{"hook_failed"},
		lines:   []string{"WARN session: a credential may not be revoked | hook=Revoke account=ann login device=d1 err"},
		figures: map[string]any{"Sessions.Hooks[Revoke].Timeouts": 1, "Sessions.Hooks[Revoke].Longest": 2 * time.Second},
	},
	{
		name: "A hook is slow",
		config: func(_ *scene, c *manydevice.Config) {
			c.Session.DecideLogin = func(context.Context, session.Question) (bool, error) {
				time.Sleep(1900 * time.Millisecond) // of two seconds
				return true, nil
			}
		},
		provoke: func(s *scene) { s.login("d1") },
		lines:   []string{"WARN session: a hook takes more than half of its time | hook=DecideLogin account=ann took=1900000000 limit=2000000000"},
		figures: map[string]any{
			"Sessions.Hooks[DecideLogin].Longest": 1900 * time.Millisecond, "Sessions.Hooks[DecideLogin].Timeouts": 0,
			"Sessions.Hooks[DecideLogin].Total": 1900 * time.Millisecond,
		},
	},
	{
		name: "A hook panics",
		config: func(_ *scene, c *manydevice.Config) {
			c.Session.DecideLogin = func(context.Context, session.Question) (bool, error) { panic("no database") }
		},
		provoke: func(s *scene) {
			_, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "ann", Platform: "ios"})
			require.ErrorIs(s.t, err, session.ErrHookFailed)
		},
		lines: []string{
			"WARN session: a hook that decides did not answer | hook=DecideLogin account=ann err stack",
			"INFO session: login refused | account=ann",
		},
		changes: []string{"hook_failed"},
		figures: map[string]any{"Sessions.Hooks[DecideLogin].Panics": 1, "Sessions.Refused[hook]": 1},
	},
	{
		name: "The host's clock panics",
		config: func(s *scene, c *manydevice.Config) {
			c.Session.Wall = func() time.Time {
				if s.wall.Load() > 0 {
					panic("no clock")
				}
				return time.Now()
			}
		},
		provoke: func(s *scene) {
			s.wall.Store(1)
			s.login("d1")
			time.Sleep(6 * time.Second)
		},
		lines:   []string{"ERROR session: Config.Wall panicked, the system's clock stands in for it | hook=Wall err stack"},
		changes: []string{"hook_failed"},
	},
	{
		name: "A token is guessed",
		provoke: func(s *scene) {
			res := s.login("d1")
			_, err := s.Sessions.Authenticate(s.ctx, "ann", res.Session.Login, event.NewResumeToken())
			require.ErrorIs(s.t, err, session.ErrUnknownLogin)
		},
		lines:   []string{"INFO session: authentication refused | account=ann login why=unknown err"},
		figures: map[string]any{"Sessions.Refused[unknown]": 1},
	},
	{
		name: "The store does not answer a call that only reads",
		provoke: func(s *scene) {
			require.NoError(s.t, s.send("hello"))
			s.st.Inject(storetest.Fault{Method: storetest.Conversations, Account: "ann", Err: errors.New("network is down")})
			_, err := s.Router.Unread(s.ctx, "ann", "")
			require.Error(s.t, err)
		},
		figures: map[string]any{"Router.StoreFailures": 1},
	},
	{
		name: "A push service is away",
		config: func(_ *scene, c *manydevice.Config) {
			c.Fanout.Push.Hook = func(context.Context, fanout.Push) error { return errors.New("push service is away") }
			c.Fanout.Push.Tries = 2
		},
		provoke: func(s *scene) {
			s.login("d1")
			require.NoError(s.t, s.send("hello"))
			time.Sleep(10 * time.Minute)
		},
		lines: []string{
			"WARN fanout: hook failed | hook=Push.Hook account=ann err", "WARN fanout: hook failed | hook=Push.Hook account=ann err",
			"ERROR fanout: push given up | account=ann count=1 tries=2 err",
		},
		events:  []string{"hook_failed Push.Hook", "push_given_up"},
		figures: map[string]any{"Router.PushErrors": 2, "Router.PushesGivenUp": 1, "Router.Hooks[Push.Hook].Failures": 2},
	},
	{
		name: "Conn.Send panics",
		provoke: func(s *scene) {
			res := s.login("d1")
			_, err := s.Router.Attach(s.ctx, fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, bomb{})
			require.NoError(s.t, err)
		},
		lines:   []string{"ERROR fanout: Conn.Send panicked | account=ann login device=d1 err stack"},
		events:  []string{"send_failed"},
		figures: map[string]any{"Router.SendFailures": 1, "Sessions.SendPanics": 1, "Sessions.Closed[lost]": 1},
	},
	{
		name: "Conn.Close hangs",
		provoke: func(s *scene) {
			att, p := s.attach(s.login("d1"))
			release := p.BlockClose()
			att.Detach()
			time.Sleep(2 * time.Second)
			release()
		},
		lines:   []string{"WARN session: Conn.Close hangs | account=ann login reason=lost err"},
		changes: []string{"hook_failed"},
		figures: map[string]any{"Sessions.Hooks[Close].Timeouts": 1},
	},
	{
		name: "A client does not read",
		provoke: func(s *scene) {
			_, p := s.attach(s.login("d1"))
			p.Block()
			require.NoError(s.t, s.send("hello"))
			time.Sleep(12 * time.Second)
		},
		lines:  []string{"INFO fanout: a connection made no progress and is closed | account=ann login device=d1 cause=frame_write"},
		events: []string{"slow frame_write"},
		figures: map[string]any{
			"Router.Slow": 1, "Router.ByCause[frame_write]": 1, "Sessions.Closed[slow]": 1,
		},
	},
	{
		name: "A client does not acknowledge",
		provoke: func(s *scene) {
			s.attach(s.login("d1"))
			require.NoError(s.t, s.send("hello"))
			time.Sleep(32 * time.Second)
		},
		lines:   []string{"INFO fanout: a connection made no progress and is closed | account=ann login device=d1 cause=ack_wait"},
		events:  []string{"slow ack_wait"},
		figures: map[string]any{"Router.ByCause[ack_wait]": 1},
	},
	{
		name: "A client breaks the protocol",
		provoke: func(s *scene) {
			att, _ := s.attach(s.login("d1"))
			require.Error(s.t, att.HandleJSON(s.ctx, []byte(`{"t":"ack","position":{"epoch":"1","seq":"4711"}}`)))
		},
		lines:   []string{"INFO fanout: a client broke the protocol, its connection is closed | account=ann login device=d1 detail"},
		figures: map[string]any{"Sessions.Closed[protocol_error]": 1},
	},
	{
		name: "A device lags",
		provoke: func(s *scene) {
			s.attach(s.login("d1"))
			for range 100 {
				require.NoError(s.t, s.send("hello"))
			}
			time.Sleep(2 * time.Second)
		},
		figures: map[string]any{"Router.Lag": 101, "Router.LagAccount": "ann", "Router.UnackedEntries": 64}, // and its own login
	},
	{
		name: "An entry kills a device",
		provoke: func(s *scene) {
			res := s.login("d1")
			require.NoError(s.t, s.send("boom"))
			for range 5 {
				att, _ := s.attach(res)
				att.Detach()
				time.Sleep(time.Second)
			}
		},
		lines:   []string{"WARN fanout: a device keeps losing its connection at one entry | account=ann device=d1 seq attempts=5"},
		events:  []string{"poison", "redelivered"},
		figures: map[string]any{"Router.Poison": 1},
	},
	{
		name: "A storm of logins",
		provoke: func(s *scene) {
			for range 10 {
				s.login("")
			}
			_, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "ann", Platform: "ios"})
			require.ErrorIs(s.t, err, session.ErrLimited)
		},
		lines:   []string{"INFO session: login refused | account=ann platform=ios err"},
		figures: map[string]any{"Sessions.Refused[login_rate]": 1, "Sessions.Logins": 10},
	},
	{
		name: "A client reconnects in a loop",
		provoke: func(s *scene) {
			res := s.login("d1")
			for range 100 {
				att, err := s.Router.Attach(s.ctx, fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, new(ear))
				if err != nil {
					require.ErrorIs(s.t, err, session.ErrLimited)
					return
				}
				att.Detach()
			}
		},
		lines:   []string{"INFO session: attach refused | account=ann login err"},
		figures: map[string]any{"Sessions.Refused[attach_rate]": 1},
	},
	{
		name: "Devices evict each other in turns",
		config: func(s *scene, c *manydevice.Config) {
			rules, err := policy.New(policy.Rules{Single: true})
			require.NoError(s.t, err)
			c.Session.Policy = rules
		},
		provoke: func(s *scene) {
			for range 2 {
				s.login("d1")
				s.login("d2")
			}
			s.login("d1")
			_, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "ann", Device: "d2", Platform: "ios"})
			require.ErrorIs(s.t, err, session.ErrLimited)
		},
		lines:   []string{"INFO session: login evicted | account=ann device=d1", "INFO session: login refused | account=ann device=d2"},
		changes: []string{"ended evicted_single", "contended flapping"},
		figures: map[string]any{"Sessions.Refused[flapping]": 1, "Sessions.Ended[evicted_single]": 4},
	},
	{
		name: "A stolen token is used",
		config: func(_ *scene, c *manydevice.Config) {
			c.Session.TokenRotation = time.Hour
		},
		provoke: func(s *scene) {
			res := s.login("d1")
			time.Sleep(2 * time.Hour)
			att, _ := s.attach(res)
			require.NoError(s.t, att.HandleJSON(s.ctx, []byte(`{"t":"tokenStored"}`)))
			time.Sleep(time.Minute)
			_, err := s.Router.Attach(s.ctx, fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, new(ear))
			require.ErrorIs(s.t, err, session.ErrEnded)
		},
		lines: []string{
			"WARN session: login ended, since an old token of it was used again | account=ann login device=d1",
			"INFO session: attach refused | account=ann login",
		},
		changes: []string{"ended token_reuse"},
		figures: map[string]any{"Sessions.Ended[token_reuse]": 1, "Sessions.Refused[ended]": 1},
	},
	{
		name: "The server is drained",
		provoke: func(s *scene) {
			s.attach(s.login("d1"))
			require.NoError(s.t, s.Drain(s.ctx, session.DrainRequest{}))
			_, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "ann", Platform: "ios"})
			require.ErrorIs(s.t, err, session.ErrDraining)
		},
		lines: []string{"INFO session: drain begins | connections=1", "INFO session: drain is over"},
		figures: map[string]any{
			"Sessions.Draining": true, "Sessions.Closed[shutdown]": 1, "Sessions.Refused[draining]": 1, "Sessions.Connections": 0,
		},
	},
	{
		name: "The clock is set",
		provoke: func(s *scene) {
			s.attach(s.login("d1"))
			s.wall.Store(int64(time.Hour))
			time.Sleep(10 * time.Second)
		},
		lines:   []string{"WARN session: the wall clock was set | by=3600000000000 grace"},
		changes: []string{"clock_stepped"},
		figures: map[string]any{"Sessions.Connections": 1},
	},
	{
		name: "The store does not answer a read",
		provoke: func(s *scene) {
			res := s.login("d1")
			require.NoError(s.t, s.send("hello"))
			s.st.Inject(storetest.Fault{Method: storetest.Read, Account: "ann", Times: -1, Skip: 1, Err: errors.New("network is down")})
			s.attach(res) // which looks at the inbox first
		},
		lines:   []string{"WARN fanout: an inbox could not be read, its connection is closed | account=ann login device=d1 err"},
		events:  []string{"read_failed"},
		figures: map[string]any{"Router.ReadFailures": 1, "Sessions.Closed[unavailable]": 1},
	},
	{
		name:   "The file is full",
		onDisk: true,
		provoke: func(s *scene) {
			big := strings.Repeat("x", 60<<10)
			var err error
			for range 1_000 {
				if err = s.send(big); err != nil {
					break
				}
			}
			require.ErrorIs(s.t, err, store.ErrFull)
			s.login("d1") // everything else goes on
		},
		lines:   []string{"WARN boltstore: no room, appends are refused | bytes max_size=4194304 reserve room"},
		events:  []string{"refused send full"},
		figures: map[string]any{"Router.ByCause[full]": 1, "Store.Refused": 1},
	},
	{
		name:   "The store is closed before the engine",
		onDisk: true,
		provoke: func(s *scene) {
			s.attach(s.login("d1"))
			require.NoError(s.t, s.in.Close(s.ctx))
			<-s.Failed()
			require.Error(s.t, s.send("hello"))
		},
		lines:   []string{"ERROR session: the store was closed before the engine, and all connections were closed | connections=1 err"},
		events:  []string{"refused send closed"},
		figures: map[string]any{"Sessions.Closed[unavailable]": 1, "Router.ByCause[closed]": 1},
	},
	{
		name: "The disk fails",
		provoke: func(s *scene) {
			s.attach(s.login("d1"))
			s.st.Break()
			synctest.Wait()
			<-s.Failed()
			require.Error(s.t, s.send("hello"))
		},
		lines:   []string{"ERROR session: the store failed, and all connections were closed | connections=1 err"},
		events:  []string{"refused send store"},
		figures: map[string]any{"Sessions.Closed[unavailable]": 1, "Router.ByCause[store]": 1},
	},
}

// bomb is a connection with a fault.
type bomb struct{}

func (bomb) Send(context.Context, []event.Frame) error { panic("boom") }

func (bomb) Close(event.Closed) error { return nil }
