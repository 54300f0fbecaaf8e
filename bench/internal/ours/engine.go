// Package ours drives the library by its public interface, as a chat server would.
package ours

import (
	"context"
	"fmt"
	"strconv"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
)

// Engine is an engine over a store, and that store.
type Engine struct {
	*manydevice.Engine
	Store store.Store
}

// Config leaves everything at its default, but for limits that hold back crowds, which a bench is, and for timers that
// would do their work in some runs and not in others.
func Config() (manydevice.Config, error) {
	pol, err := policy.New(policy.Rules{PerPlatform: 16})
	return manydevice.Config{
		Session: session.Config{
			Policy: pol, LoginsPerMinute: -1, FlapLimit: -1, AttachesPerSecond: -1, AttachesPerAccount: -1, IdleTimeout: -1, JanitorInterval: -1,
		},
		Fanout: fanout.Config{TrimInterval: -1},
	}, err
}

// Memory opens an engine over a store in memory. It is closed with the scene.
func Memory(s *lab.Scene, cfg manydevice.Config) (*Engine, error) {
	return open(s, memstore.New(memstore.Config{}), cfg)
}

func open(s *lab.Scene, st store.Store, cfg manydevice.Config) (*Engine, error) {
	s.Cleanup(func() error { return st.Close(context.Background()) }) // after the engine
	return Over(s, st, cfg)
}

// Over opens an engine over a store that somebody else closes. It is closed with the scene.
func Over(s *lab.Scene, st store.Store, cfg manydevice.Config) (*Engine, error) {
	engine, err := manydevice.Open(st, cfg)
	if err != nil {
		return nil, err
	}
	s.Cleanup(func() error { return engine.Close(context.Background()) })
	return &Engine{Engine: engine, Store: st}, nil
}

// Account is the i-th account.
func Account(i int) event.Account { return event.Account("a" + strconv.Itoa(i)) }

// Login logs in the account's device with the given number.
func (e *Engine) Login(ctx context.Context, account event.Account, device int) (*session.LoginResult, error) {
	return e.Sessions.Login(ctx, session.LoginRequest{
		Account: account, Device: event.DeviceID("d" + strconv.Itoa(device)), Platform: "ios",
	})
}

// Attach binds a device to a login. Nil means from where it acknowledged last.
func (e *Engine) Attach(ctx context.Context, l *session.LoginResult, d *Device, from *event.Position) (*fanout.Attachment, error) {
	att, err := e.Router.Attach(ctx, fanout.AttachRequest{
		Account: l.Session.Account, Login: l.Session.Login, Token: l.Token, Position: from,
	}, d)
	if err != nil {
		return nil, err
	}
	return att, d.bind(ctx, att)
}

// Devices logs in and attaches n devices of an account and waits until they are caught up. each, if set, prepares them.
func (e *Engine) Devices(ctx context.Context, account event.Account, n int, each func(i int, d *Device)) ([]*Device, error) {
	logins := make([]*session.LoginResult, n)
	for i := range logins {
		var err error
		if logins[i], err = e.Login(ctx, account, i); err != nil {
			return nil, err
		}
	}
	devices := make([]*Device, n)
	for i, l := range logins {
		devices[i] = NewDevice()
		if each != nil {
			each(i, devices[i])
		}
		if _, err := e.Attach(ctx, l, devices[i], nil); err != nil {
			return nil, err
		}
		if err := devices[i].CaughtUp(ctx); err != nil {
			return nil, fmt.Errorf("device %d of %s: %w", i, account, err)
		}
	}
	return devices, nil
}
