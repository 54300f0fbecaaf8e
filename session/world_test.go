package session_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
)

// setup says how the registry of a story is made.
type setup struct {
	rules  policy.Rules
	config session.Config
	hidden bool // the store does not declare that others may change it
	crowd  bool // registries without leases are let in beside each other, which real stores refuse
}

// world is one registry over one store, and what it did to the host.
type world struct {
	t   *testing.T
	reg *session.Registry
	st  *faults
	now setup

	real    bool // time is the real one
	noted   int  // changes of the clock that the test has seen
	events  told // changes, in the order in which subscribers hear of them
	mu      sync.Mutex
	revoked []session.Ended
}

// onStores tells a story twice: over memory in a bubble, and over a file in real time.
func onStores(t *testing.T, s setup, story func(w *world)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) { inBubble(t, s, story) })
	t.Run("file", func(t *testing.T) {
		st, err := boltstore.Open(filepath.Join(t.TempDir(), "store"), boltstore.Config{})
		require.NoError(t, err)
		w := newWorld(t, st, s)
		w.real = true
		story(w)
	})
}

// inBubble tells a story over memory, where waiting takes no time and no goroutine may be left behind.
func inBubble(t *testing.T, s setup, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { story(newWorld(t, memstore.New(memstore.Config{}), s)) })
}

func newWorld(t *testing.T, st store.Store, s setup) *world {
	t.Helper()
	w := &world{t: t, st: withFaults(st)}
	w.st.hidden, w.st.crowd = s.hidden, s.crowd
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, w.st.Close(ctx))
	})
	w.open(s)
	return w
}

// open makes a registry over the world's store. The one before is left alone: unless it was closed, its claim has to be
// abandoned, or the world be one of a crowd.
func (w *world) open(s setup) *session.Registry {
	w.t.Helper()
	var err error
	w.now = s
	s.config.Policy, err = policy.New(s.rules)
	require.NoError(w.t, err)
	// Stories log in and evict faster than anybody would.
	s.config.LoginsPerMinute = cmp.Or(s.config.LoginsPerMinute, -1)
	s.config.FlapLimit = cmp.Or(s.config.FlapLimit, -1)
	s.config.AttachesPerSecond = cmp.Or(s.config.AttachesPerSecond, -1)
	s.config.AttachesPerAccount = cmp.Or(s.config.AttachesPerAccount, -1)
	hook := s.config.Revoke
	s.config.Revoke = func(ctx context.Context, e session.Ended) error {
		w.mu.Lock()
		w.revoked = append(w.revoked, e)
		w.mu.Unlock()
		if hook != nil {
			return hook(ctx, e)
		}
		return nil
	}
	reg, err := session.New(w.st, s.config)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { w.shut(reg) })
	w.events.listen(w.subscribe(reg))
	w.reg = reg
	return reg
}

// shut closes a registry, which may be closed already.
func (w *world) shut(reg *session.Registry) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(w.t, reg.Close(ctx))
}

// restart closes the registry and opens another one over the same store.
func (w *world) restart(s setup) {
	w.t.Helper()
	w.shut(w.reg)
	w.open(s)
}

// subscribe returns a subscription that drops nothing in a test.
func (w *world) subscribe(reg *session.Registry) *session.Subscription {
	w.t.Helper()
	s, err := reg.Subscribe(1 << 20)
	require.NoError(w.t, err)
	return s
}

// history returns all changes that there were.
func (w *world) history() []session.Change { return w.events.changes() }

// revocations returns for whom the revoke hook was called.
func (w *world) revocations() []session.Ended {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.revoked)
}

// pass lets time go by. For bubbles only.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// tick makes the clock of a bubble move, as the real one does by itself.
func (w *world) tick() {
	if !w.real {
		w.pass(time.Second)
	}
}

// gadget is a device with one login, and its latest connection.
type gadget struct {
	w     *world
	res   *session.LoginResult
	acc   event.Account
	id    event.LoginID
	token event.ResumeToken
	wire  *wire
	conn  *session.Connection
}

func request(a event.Account, d event.DeviceID, p event.Platform) session.LoginRequest {
	return session.LoginRequest{Account: a, Device: d, Platform: p, Description: session.Description{Name: "My " + string(d)}}
}

func (w *world) tryLogin(q session.LoginRequest) (*gadget, error) {
	res, err := w.reg.Login(context.WithoutCancel(w.t.Context()), q)
	if err != nil {
		return nil, err
	}
	return &gadget{w: w, res: res, acc: q.Account, id: res.Session.Login, token: res.Token}, nil
}

// login logs a device in. It is not attached.
func (w *world) login(a event.Account, d event.DeviceID, p event.Platform) *gadget {
	w.t.Helper()
	g, err := w.tryLogin(request(a, d, p))
	require.NoError(w.t, err)
	return g
}

// join logs a device in and attaches it.
func (w *world) join(a event.Account, d event.DeviceID, p event.Platform) *gadget {
	w.t.Helper()
	return w.login(a, d, p).attach()
}

// fill logs in and attaches devices on one platform.
func (w *world) fill(a event.Account, p event.Platform, devices ...event.DeviceID) []*gadget {
	w.t.Helper()
	var all []*gadget
	for _, d := range devices {
		all = append(all, w.join(a, d, p))
	}
	return all
}

func (g *gadget) tryAttach(c *wire) (*session.Connection, error) {
	conn, err := g.w.reg.Attach(context.WithoutCancel(g.w.t.Context()),
		session.AttachRequest{Account: g.acc, Login: g.id, Token: g.token}, c)
	c.attached(conn)
	return conn, err
}

// attach binds a new connection, which becomes the gadget's.
func (g *gadget) attach() *gadget {
	g.w.t.Helper()
	c := new(wire)
	conn, err := g.tryAttach(c)
	require.NoError(g.w.t, err)
	g.wire, g.conn = c, conn
	return g
}

// refused attaches and returns the reason for which the login has ended.
func (g *gadget) refused() event.Closed {
	g.w.t.Helper()
	_, err := g.tryAttach(new(wire))
	ended, ok := errors.AsType[*session.EndedError](err)
	require.True(g.w.t, ok, "%v", err)
	require.ErrorIs(g.w.t, err, session.ErrEnded)
	return ended.Why
}

// live reports whether the gadget's connection can be sent on.
func (g *gadget) live() bool {
	return g.conn.Send(context.Background(), []event.Frame{&event.Pong{}}) == nil
}

func (w *world) list(a event.Account) []session.Session {
	w.t.Helper()
	all, err := w.reg.List(context.Background(), a, "")
	require.NoError(w.t, err)
	return all
}

// devices returns the devices that are logged in, earliest first.
func (w *world) devices(a event.Account) string {
	w.t.Helper()
	var names []string
	for _, s := range w.list(a) {
		names = append(names, string(s.Device))
	}
	return strings.Join(names, " ")
}

// states returns the states of all logins, earliest first.
func (w *world) states(a event.Account) []session.State {
	w.t.Helper()
	var all []session.State
	for _, s := range w.list(a) {
		all = append(all, s.State)
	}
	return all
}

// stored is what the store has of an account.
type stored struct {
	data string
	rev  store.Revision
	head store.Head
}

func (w *world) stored(a event.Account) stored {
	w.t.Helper()
	rec, err := w.st.Store.Load(context.Background(), a)
	require.NoError(w.t, err)
	page, err := w.st.Store.Read(context.Background(), a, store.ReadOptions{})
	require.NoError(w.t, err)
	return stored{string(rec.Data), rec.Revision, page.Head}
}

// entries returns the account's own events about its devices: kind, device, reason.
func (w *world) entries(a event.Account) []string {
	w.t.Helper()
	page, err := w.st.Store.Read(context.Background(), a, store.ReadOptions{Limit: 1_000})
	require.NoError(w.t, err)
	var all []string
	for _, e := range page.Entries {
		var c event.DeviceChange
		require.NoError(w.t, json.Unmarshal(e.Payload, &c))
		all = append(all, strings.TrimSpace(string(e.Kind)+" "+string(c.Device)+" "+string(c.Reason)))
	}
	return all
}

// shape is the part of a record that tests look at.
type shape struct {
	Admissions uint64
	Logins     []shapeLogin
	Tombstones []event.LoginID
}

type shapeLogin struct {
	ID       event.LoginID
	Device   event.DeviceID
	Platform event.Platform
	Slot     bool
}

func shapeOf(t *testing.T, data []byte) shape {
	t.Helper()
	rec, err := session.DecodeRecord(data)
	require.NoError(t, err)
	s := shape{Admissions: rec.Admissions}
	for _, l := range rec.Logins {
		s.Logins = append(s.Logins, shapeLogin{ID: l.ID, Device: l.Device, Platform: l.Platform, Slot: l.Slot})
	}
	for _, e := range rec.Ended() {
		s.Tombstones = append(s.Tombstones, e.Login)
	}
	return s
}

// edit changes what the store has of an account behind the registry's back.
func (w *world) edit(a event.Account, change func(*session.Record)) {
	w.t.Helper()
	stored, err := w.st.Store.Load(w.t.Context(), a)
	require.NoError(w.t, err)
	rec, err := session.DecodeRecord(stored.Data)
	require.NoError(w.t, err)
	change(rec)
	_, err = w.st.Store.Commit(w.t.Context(), store.Batch{
		Account: a, Now: time.Now(), Record: &store.RecordUpdate{Expect: stored.Revision, Data: rec.Encode()},
	})
	require.NoError(w.t, err)
}

func (s shape) holders(p event.Platform) int {
	n := 0
	for _, l := range s.Logins {
		if l.Slot && l.Platform == p {
			n++
		}
	}
	return n
}

func (w *world) saveCursor(a event.Account, i event.Incarnation, seq uint64) {
	w.t.Helper()
	require.NoError(w.t, w.st.SaveCursors(w.t.Context(), []store.Cursor{{Account: a, Incarnation: i, Seq: seq}}))
}

// cursor returns a device's cursor, -1 if it has none.
func (w *world) cursor(a event.Account, i event.Incarnation) int64 {
	w.t.Helper()
	all, err := w.st.Cursors(w.t.Context(), a)
	require.NoError(w.t, err)
	for _, c := range all {
		if c.Incarnation == i {
			return int64(c.Seq)
		}
	}
	return -1
}
