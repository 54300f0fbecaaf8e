package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// world is an engine over a store whose faults the test chooses, with the devices that it has.
type world struct {
	t       testing.TB
	path    string           // of the file; empty: memory
	bolt    boltstore.Config // for the next time that the file is opened
	inner   store.Store
	st      *storetest.Faulty
	scfg    session.Config
	fcfg    fanout.Config
	reg     *session.Registry
	r       *fanout.Router
	devices []*device
	fences  int
}

// kept is a store that outlives its engine.
type kept struct{ store.Store }

func (kept) Close(context.Context) error { return nil }

// unclaimed is a store that lets several engines without leases in, which real stores refuse.
type unclaimed struct{ store.Store }

func (unclaimed) Claim(bool) (func(), error) { return func() {}, nil }

// inMemory runs a test in a bubble over a store in memory.
func inMemory(t *testing.T, cfg fanout.Config, run func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { run(newWorld(t, "", cfg)) })
}

// overStores runs a scenario over both stores: in memory in a bubble, and on a file in real time.
func overStores(t *testing.T, cfg fanout.Config, run func(w *world)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) { inMemory(t, cfg, run) })
	t.Run("file", func(t *testing.T) { run(newWorld(t, filepath.Join(t.TempDir(), "store.db"), cfg)) })
}

func newWorld(t testing.TB, path string, cfg fanout.Config) *world {
	t.Helper()
	p, err := policy.New(policy.Rules{PerPlatform: -1})
	require.NoError(t, err)
	w := &world{t: t, path: path, fcfg: cfg, scfg: session.Config{
		Policy: p, IdleTimeout: -1, JanitorInterval: -1, LoginsPerMinute: -1, FlapLimit: -1, AttachesPerSecond: -1, AttachesPerAccount: -1,
	}}
	w.openStore()
	w.start()
	t.Cleanup(w.end)
	return w
}

func (w *world) openStore() {
	w.t.Helper()
	switch {
	case w.path != "":
		st, err := boltstore.Open(w.path, w.bolt)
		require.NoError(w.t, err)
		w.inner = st
	case w.inner == nil:
		w.inner = memstore.New(memstore.Config{})
	}
	w.st = storetest.WithFaults(kept{w.inner})
}

func (w *world) start() {
	w.t.Helper()
	var err error
	w.reg, err = session.New(w.st, w.scfg)
	require.NoError(w.t, err)
	w.r, err = fanout.New(w.reg, w.st, w.fcfg)
	require.NoError(w.t, err)
	calls := w.st.Calls(storetest.Commit)
	for deadline := time.Now().Add(10 * time.Second); calls == 0 && time.Now().Before(deadline); runtime.Gosched() {
		calls = w.st.Calls(storetest.Commit) // the first heartbeat is not to be counted among what tests count
	}
}

// stop ends the engine in good order and checks that it leaves nothing behind.
func (w *world) stop() { w.stopThen(func() {}) }

// stopThen is stop, with a look at what is at rest before the store is closed.
func (w *world) stopThen(look func()) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(w.t, w.reg.Close(ctx))
	require.NoError(w.t, w.r.Close(ctx))
	require.Zero(w.t, w.r.TailBytes(), "the tail cache is not empty")
	look()
	w.left(ctx)
}

// left closes the store's wrapper and, if it is a file, the store.
func (w *world) left(ctx context.Context) {
	w.t.Helper()
	require.NoError(w.t, w.st.Close(ctx))
	if w.path != "" {
		require.NoError(w.t, w.inner.Close(ctx))
	}
}

// restart closes the engine and opens it again over the same data, once every device has seen that its connection is over.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	for _, d := range w.devices {
		w.until("closed at "+string(d.id), func() bool { return !d.Connected() })
	}
	w.again()
}

// again starts an engine over what another one has left. That takes some time also where time stands still: whether a
// device was there before is told by the millisecond.
func (w *world) again() {
	w.t.Helper()
	time.Sleep(time.Millisecond)
	w.openStore()
	w.start()
}

// crash gives the engine up as it is: from one moment on nothing of it reaches the store or a device. Then it opens
// another one over the same data.
func (w *world) crash() {
	w.t.Helper()
	for _, d := range w.devices {
		d.cut()
	}
	w.st.Break()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(w.t, w.reg.Close(ctx))
	_ = w.r.Close(ctx) // it cannot write what is pending: that is the point
	w.left(ctx)
	w.again()
}

// end leaves all connections in good order, and checks what every test has in common.
func (w *world) end() {
	for _, d := range w.devices {
		d.drop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if w.path == "" && w.r.Flush(ctx) == nil { // where a second costs nothing
		w.until("nothing is kept of accounts that nobody is attached to", func() bool {
			all, restless := w.r.Hubs()
			return all == 0 && restless == 0
		})
	}
	var inboxes []transporttest.Inbox
	w.stopThen(func() { inboxes = w.inboxes() }) // nothing changes them any more
	for _, d := range w.devices {
		d.verify()
	}
	w.validate(inboxes)
}

// until waits for a condition that the devices' frames bring about.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	require.Eventually(w.t, cond, 20*time.Second, time.Millisecond, what)
}

// send sends a message from a device to accounts.
func (w *world) send(d *device, text string, to ...event.Account) fanout.SendResult {
	w.t.Helper()
	return w.post(fanout.SendRequest{
		From: d.account, Origin: d.Login(), Conversation: "c1", To: to, Payload: []byte(text),
	})
}

// host sends a message in the name of an account, without a login.
func (w *world) host(from event.Account, text string, to ...event.Account) fanout.SendResult {
	w.t.Helper()
	return w.post(fanout.SendRequest{From: from, Conversation: "c1", To: to, Payload: []byte(text)})
}

func (w *world) post(q fanout.SendRequest) fanout.SendResult {
	w.t.Helper()
	res, err := w.r.Send(context.Background(), q)
	require.NoError(w.t, err)
	require.NotEmpty(w.t, res.ID)
	return res
}

// fence sends a last message to accounts and waits until every device that is attached has it, and the engine all that
// the device says to it. What was sent to these accounts before has then arrived, or never will.
func (w *world) fence(accounts ...event.Account) {
	w.t.Helper()
	w.fences++
	res := w.post(fanout.SendRequest{
		From: "fence", Conversation: "fence", To: accounts, NoSenderCopy: true, Receipts: fanout.ReceiptsOff,
		Payload: fmt.Appendf(nil, "fence %d", w.fences),
	})
	for _, d := range w.devices {
		if !slices.Contains(accounts, d.account) || !d.Connected() {
			continue
		}
		w.until("fence at "+string(d.id), func() bool {
			return slices.ContainsFunc(d.Entries(), func(e *event.Sealed) bool { return e.ID == res.ID }) && d.Answered()
		})
	}
}

func (w *world) page(account event.Account, o store.ReadOptions) store.Page {
	w.t.Helper()
	p, err := w.inner.Read(context.Background(), account, o)
	require.NoError(w.t, err)
	return p
}

func (w *world) head(account event.Account) store.Head {
	w.t.Helper()
	return w.page(account, store.ReadOptions{}).Head
}

// log returns all that an inbox holds.
func (w *world) log(account event.Account) []event.Entry {
	w.t.Helper()
	return w.page(account, store.ReadOptions{Limit: 1 << 20}).Entries
}

// kinds returns the entries of one kind that an inbox holds.
func (w *world) kinds(account event.Account, k event.Kind) []event.Entry {
	w.t.Helper()
	return slices.DeleteFunc(w.log(account), func(e event.Entry) bool { return e.Kind != k })
}

// cursor returns a device's cursor as it is on disk.
func (w *world) cursor(d *device) store.Cursor {
	w.t.Helper()
	all, err := w.inner.Cursors(context.Background(), d.account)
	require.NoError(w.t, err)
	i := slices.IndexFunc(all, func(c store.Cursor) bool { return c.Incarnation == d.inc })
	if i < 0 {
		return store.Cursor{}
	}
	return all[i]
}

// invalid requires an error about a field of the input.
func (w *world) invalid(err error, field string) {
	w.t.Helper()
	bad, ok := errors.AsType[*event.InvalidError](err)
	require.True(w.t, ok, "want an InvalidError, have %v", err)
	require.Equal(w.t, field, bad.Field)
}

func (w *world) flush() {
	w.t.Helper()
	require.NoError(w.t, w.r.Flush(context.Background()))
}

func (w *world) register(account event.Account, conv event.ConversationID, name string) uint64 {
	w.t.Helper()
	page, err := w.inner.States(context.Background(), account, store.StateOptions{Conversation: conv, Limit: 64})
	require.NoError(w.t, err)
	for _, s := range page.States {
		if s.Name == name {
			return s.Number
		}
	}
	return 0
}

var counter atomic.Uint64

// clientID returns a client message ID that no other call returns.
func clientID() event.ClientMessageID {
	return event.ClientMessageID(fmt.Sprint("client-", counter.Add(1)))
}
