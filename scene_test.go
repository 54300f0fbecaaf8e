package manydevice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// onBothStores runs a test in a bubble on a store in memory, and on one in a file.
func onBothStores(t *testing.T, fn func(t *testing.T, st store.Store)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { fn(t, memstore.New(memstore.Config{})) })
	})
	t.Run("file", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { fn(t, openFile(t, filepath.Join(t.TempDir(), "store"))) })
	})
}

func openFile(t *testing.T, path string) *boltstore.Store {
	t.Helper()
	st, err := boltstore.Open(path, boltstore.Config{})
	require.NoError(t, err)
	return st
}

// scene is an engine in a bubble, to which something happens.
type scene struct {
	*manydevice.Engine
	t   *testing.T
	ctx context.Context
	st  *storetest.Faulty
	in  store.Store

	log     lines
	events  *fanout.Subscription
	changes *session.Subscription
	wall    atomic.Int64  // by how much the wall clock is wrong
	over    chan struct{} // closed at the end: what hangs goes on
}

// openScene opens an engine.
func openScene(t *testing.T, st store.Store, cfg manydevice.Config) *scene {
	t.Helper()
	engine, err := manydevice.Open(st, cfg)
	require.NoError(t, err)
	return &scene{Engine: engine, t: t, ctx: context.Background()}
}

// end closes the engine, and then its store.
func (s *scene) end(st store.Store) {
	s.t.Helper()
	require.NoError(s.t, errors.Join(s.Engine.Close(s.ctx), st.Close(s.ctx)))
}

// login logs a device of ann's in.
func (s *scene) login(device event.DeviceID) *session.LoginResult {
	s.t.Helper()
	res, err := s.Sessions.Login(s.ctx, session.LoginRequest{Account: "ann", Device: device, Platform: "ios"})
	require.NoError(s.t, err)
	return res
}

// attach connects a login over a pair.
func (s *scene) attach(res *session.LoginResult) (*fanout.Attachment, *transporttest.Pair) {
	s.t.Helper()
	p := transporttest.NewPair(transporttest.PairConfig{})
	att, err := s.Router.Attach(s.ctx, fanout.AttachRequest{Account: "ann", Login: res.Session.Login, Token: res.Token}, p.Conn())
	require.NoError(s.t, err)
	synctest.Wait()
	return att, p
}

// send sends ann a message from bob.
func (s *scene) send(text string) error {
	_, err := s.Router.Send(s.ctx, fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte(text)})
	return err
}

// deliver sends ann a message from bob, and waits until her devices have it.
func (s *scene) deliver() {
	s.t.Helper()
	require.NoError(s.t, s.send("x"))
	synctest.Wait()
}

// dies breaks the store under an engine, which has then not written what is pending.
func (s *scene) dies(st *storetest.Faulty) {
	st.Break()
	_ = s.Engine.Close(s.ctx)
}

// lines is the log of an engine.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// all returns what a JSON handler has written, a map for each line.
func (l *lines) all(t *testing.T) (all []map[string]any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader([]byte(l.String())))
	dec.UseNumber()
	for dec.More() {
		var line map[string]any
		require.NoError(t, dec.Decode(&line))
		all = append(all, line)
	}
	return all
}

// soon is a context that ends after a second.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}
