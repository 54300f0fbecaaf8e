package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

const (
	attachTime  = 90 * time.Second // a connection that is not attached is closed after so much silence
	requestTime = 10 * time.Second // bounds each request
	acceptPause = 50 * time.Millisecond
)

// server is a chat server: everything that the engine leaves to its host. It is safe for concurrent use.
type server struct {
	engine *manydevice.Engine
	st     store.Store
	ln     net.Listener
	log    *slog.Logger
	groups map[string][]event.Account // never written

	ctx    context.Context // ends when the server closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // the listener and every connection

	mu     sync.Mutex
	closed bool
	conns  map[*lineConn]struct{}
}

// startServer opens the file and the engine over it, and accepts connections until close.
func startServer(addr, db string, log *slog.Logger) (*server, error) {
	st, err := boltstore.Open(db, boltstore.Config{Logger: log})
	if err != nil {
		return nil, err
	}
	s, err := newServer(addr, st, log)
	if err != nil {
		return nil, errors.Join(err, st.Close(context.Background()))
	}
	return s, nil
}

// newServer is startServer over any store, which is the server's if there is no error.
func newServer(addr string, st store.Store, log *slog.Logger) (*server, error) {
	engine, err := manydevice.Open(st, manydevice.Config{
		Session: session.Config{
			Logger: log, LoginsPerMinute: -1, FlapLimit: -1, AttachesPerAccount: -1, // its story is faster than people are
		}, // four logins on each platform; the earliest makes room
		Fanout: fanout.Config{Logger: log},
	})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, errors.Join(err, engine.Close(context.Background()))
	}
	s := &server{
		engine: engine, st: st, ln: ln, log: log, groups: demoGroups(), conns: make(map[*lineConn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s, nil
}

func (s *server) addr() string { return s.ln.Addr().String() }

// close ends everything in the right order: what is pending is written and the attached connections are told when to come
// back, then the engine ends, then the connections that are not attached, then the store. Until the engine has ended a client
// that comes is told to come later.
func (s *server) close(ctx context.Context) error {
	errs := []error{s.engine.Drain(ctx, session.DrainRequest{}), s.engine.Close(ctx), s.ln.Close()}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	for _, c := range s.open() {
		if err := c.Close(event.Shutdown.Closed(time.Second)); err != nil {
			s.log.Debug("close", "err", err)
		}
	}
	done := make(chan struct{})
	go func() { // ends with the last connection, each of which has a deadline by now
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("connections: %w", ctx.Err()))
	}
	return errors.Join(append(errs, s.st.Close(ctx))...)
}

// open returns the connections that there are.
func (s *server) open() []*lineConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*lineConn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

func (s *server) accept() {
	for {
		nc, err := s.ln.Accept()
		switch {
		case err == nil:
			s.admit(newLineConn(nc))
		case errors.Is(err, net.ErrClosed):
			return
		default: // such as too many open files: it may get better
			s.log.Warn("accept", "err", err)
			pause(s.ctx, acceptPause)
		}
	}
}

// admit serves a connection on a goroutine of its own, unless the server closes.
func (s *server) admit(c *lineConn) {
	if !s.enlist(c) {
		c.abort()
		return
	}
	s.wg.Go(func() {
		g := &guest{s: s, conn: c}
		g.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	})
}

func (s *server) enlist(c *lineConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.conns[c] = struct{}{}
	}
	return !s.closed
}

// pause waits until d has passed or ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
