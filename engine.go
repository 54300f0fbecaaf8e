package manydevice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

const (
	closeTimeout = 5 * time.Second
	flushTime    = time.Second // at most, of a Close's time, is kept for what is pending
)

// Config tunes an [Engine]. The zero value is valid.
type Config struct {
	Session session.Config // logins, their policy, and connections
	Fanout  fanout.Config  // delivery and retention
}

// Engine is everything wired together over one store. Its parts have all the methods. It is safe for concurrent use.
type Engine struct {
	// Sessions says who is logged in where: Login, Kick, List. Its Attach is for hosts without fan-out, and is refused here.
	Sessions *session.Registry
	// Router says who gets a copy: Attach, Send, MarkRead.
	Router *fanout.Router

	observed store.Observed // nil: the store tells nothing about itself
}

// Open starts an engine over a store, which stays the caller's and must be closed after the engine. A store that another engine
// uses already is refused with [store.ErrInUse], unless both have Leases.
func Open(st store.Store, cfg Config) (*Engine, error) {
	if st == nil {
		return nil, fmt.Errorf("manydevice: open: %w", &event.InvalidError{Field: "store", Reason: "nil"})
	}
	reg, err := session.New(st, cfg.Session)
	if err != nil {
		return nil, fmt.Errorf("manydevice: open: %w", err)
	}
	router, err := fanout.New(reg, st, cfg.Fanout)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("manydevice: open: %w", err), reg.Close(ctx))
	}
	e := &Engine{Sessions: reg, Router: router}
	e.observed, _ = st.(store.Observed)
	return e, nil
}

// Stats is what an engine tells about itself, for a metrics adapter. See docs/operations.md for what to watch.
type Stats struct {
	Sessions session.Stats
	Router   fanout.Stats
	Store    *store.Stats // nil: the store is no [store.Observed]
}

// Stats returns counters and gauges of all parts, read one after another. See [session.Registry.Stats] for what it costs.
func (e *Engine) Stats() Stats {
	s := Stats{Sessions: e.Sessions.Stats(), Router: e.Router.Stats()}
	if e.observed != nil {
		of := e.observed.Stats()
		s.Store = &of
	}
	return s
}

// Failed is closed when the store can no longer be used, because a physical write failed or because it was closed before the
// engine. Connections have been closed with advice to come back. The host closes the engine and the store, and opens them
// again. It stays open if the engine is closed first.
func (e *Engine) Failed() <-chan struct{} { return e.Sessions.Failed() }

// Drain prepares for a stop, for instance when a new version is rolled out: what is pending is written, no logins and
// connections are taken any more, and those that are there are closed. Each client is told when the next process, or another
// node, is there: see [session.DrainRequest], of which the zero value will do, and [fanout.Router.Drain] for what it waits for.
// Close comes after it.
//
//	err := engine.Drain(ctx, session.DrainRequest{Over: 10 * time.Second, Back: time.Second})
//	err = errors.Join(err, engine.Close(ctx), st.Close(ctx))
func (e *Engine) Drain(ctx context.Context, q session.DrainRequest) error {
	return e.Router.Drain(ctx, q)
}

// Close closes all connections with reason shutdown and advice to come back, as Drain does with a zero request, writes what is
// pending, and waits for what runs as long as ctx allows; a context without deadline is given 5 s. A quarter of that, a second at
// most, is kept for what is pending, whatever hangs. Logins do not end. It may be called again.
func (e *Engine) Close(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, closeTimeout)
		defer cancel()
	}
	// A login or a hook that hangs must not use up the time that the router needs to write what others have acknowledged.
	until, _ := ctx.Deadline()
	part, cancel := context.WithDeadline(ctx, until.Add(-min(time.Until(until)/4, flushTime)))
	defer cancel()
	if e.Sessions.Close(part) == nil {
		return e.Router.Close(ctx)
	}
	_ = e.Router.Close(ctx)
	return errors.Join(e.Sessions.Close(ctx), e.Router.Close(ctx)) // which go on waiting
}
