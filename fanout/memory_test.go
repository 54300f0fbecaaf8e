package fanout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
)

// idleConn is the least that a host can have of a connection. It remembers what to acknowledge.
type idleConn struct {
	epoch, seq atomic.Uint64
	caughtUp   atomic.Bool
}

func (c *idleConn) Send(_ context.Context, frames []event.Frame) error {
	for _, f := range frames {
		switch f := f.(type) {
		case *event.Data:
			c.epoch.Store(uint64(f.Epoch))
			c.seq.Store(f.Seq)
		case *event.CaughtUp:
			c.caughtUp.Store(true)
		}
	}
	return nil
}

func (c *idleConn) Close(event.Closed) error { return nil }

// used returns the bytes of heap and stacks that are in use.
func used() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one found to be finalised, and pools
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// idleLogins attaches so many logins, has them acknowledge all they get, and returns what one of them takes: beside the
// store, the host's connections, and what the engine has without logins.
func idleLogins(t testing.TB, logins, perAccount int) float64 {
	ctx := context.Background()
	st := memstore.New(memstore.Config{})
	p, err := policy.New(policy.Rules{})
	require.NoError(t, err)
	cfg := session.Config{Policy: p, LoginsPerMinute: -1, AttachesPerSecond: -1, AttachesPerAccount: -1}
	reg, err := session.New(st, cfg)
	require.NoError(t, err)
	requests := make([]fanout.AttachRequest, logins)
	for i := range requests {
		account := event.Account(fmt.Sprint("account-", i/perAccount))
		l, err := reg.Login(ctx, session.LoginRequest{
			Account: account, Device: event.DeviceID(fmt.Sprint("device-", i%perAccount)), Platform: "ios",
			Description: session.Description{Name: "Phone", Model: "Model 7", OS: "OS 3", AppVersion: "1.2.3"},
		})
		require.NoError(t, err)
		requests[i] = fanout.AttachRequest{Account: account, Login: l.Session.Login, Token: l.Token}
	}
	require.NoError(t, reg.Close(ctx))

	reg, err = session.New(st, cfg)
	require.NoError(t, err)
	r, err := fanout.New(reg, st, fanout.Config{})
	require.NoError(t, err)
	conns, atts := make([]idleConn, logins), make([]*fanout.Attachment, logins)
	before := used()
	for i := range requests {
		atts[i], err = r.Attach(ctx, requests[i], &conns[i])
		require.NoError(t, err)
		for !conns[i].caughtUp.Load() {
			runtime.Gosched()
		}
		if seq := conns[i].seq.Load(); seq > 0 {
			require.NoError(t, atts[i].Handle(ctx, &event.Ack{Position: event.Position{Epoch: event.Epoch(conns[i].epoch.Load()), Seq: seq}}))
		}
	}
	require.NoError(t, r.Flush(ctx))
	require.Eventually(t, func() bool { _, restless := r.Hubs(); return restless == 0 }, 10*time.Second, 10*time.Millisecond)
	after := used()
	runtime.KeepAlive(conns)
	require.NoError(t, reg.Close(ctx))
	require.NoError(t, r.Close(ctx))
	return (float64(after) - float64(before)) / float64(logins)
}

// BenchmarkIdleLogins reports the memory of an idle attached login. The goal is 700 bytes, so that 100,000 take 70 MB.
func BenchmarkIdleLogins(b *testing.B) {
	for _, logins := range []int{10_000, 100_000} {
		if testing.Short() && logins > 10_000 {
			continue
		}
		for _, perAccount := range []int{1, 4} {
			b.Run(fmt.Sprintf("logins=%d/per_account=%d", logins, perAccount), func(b *testing.B) {
				var bytes float64
				for b.Loop() {
					bytes = idleLogins(b, logins, perAccount)
				}
				b.ReportMetric(bytes, "B/login")
			})
		}
	}
}

// TestI27_IdleLogins holds what an idle login takes to a bound with room for noise.
func TestI27_IdleLogins(t *testing.T) {
	bytes := idleLogins(t, 4_000, 1)
	t.Logf("%.0f bytes", bytes)
	require.Less(t, bytes, 1_200.0)
}

// stuckConn takes some frames with entries, and no more.
type stuckConn struct {
	takes   int
	stuck   chan struct{} // gets a value when Send hangs
	release chan struct{}
}

func (c *stuckConn) Send(_ context.Context, frames []event.Frame) error {
	if d, ok := frames[0].(*event.Data); ok && len(d.Entries) > 0 {
		if c.takes == 0 {
			c.stuck <- struct{}{}
			<-c.release
		}
		c.takes--
	}
	return nil
}

func (c *stuckConn) Close(event.Closed) error { return nil }

// stuckLogins attaches devices with a long backlog whose connections hang, and returns what one of them takes. A file, since
// the store in memory shares its payloads with readers. With taken frames every other entry of the first window is for
// another device, so that a window ends in the middle of a page.
func stuckLogins(t testing.TB, logins, window, taken int) float64 {
	const size = 16 << 10
	w := newWorld(t, filepath.Join(t.TempDir(), "store.db"), fanout.Config{
		WindowBytes: window, Window: 2 * window / size, FrameWrite: time.Hour, AckWait: time.Hour, TrimInterval: -1,
	})
	ctx := context.Background()
	stuck, release := make(chan struct{}, logins), make(chan struct{})
	requests := make([]fanout.AttachRequest, logins)
	issuer := event.NewIssuer(w.st.Info().Secret)
	for i := range requests {
		account := event.Account(fmt.Sprint("a", i))
		d := w.login(account, "d")
		requests[i] = fanout.AttachRequest{Account: account, Login: d.Login(), Token: d.Token()}
		b := store.Batch{Account: account, Now: time.Now()}
		for n := range 3 * window / size {
			to := store.Inbox{Account: account}
			if taken > 0 && n < window/size && n%2 == 0 {
				to.Targets = []event.Incarnation{1 << 40}
			}
			b.Messages = append(b.Messages, store.Message{
				ID: issuer.Issue(), Kind: event.KindMessage, From: account, Payload: make([]byte, size), To: []store.Inbox{to},
			})
		}
		_, err := w.inner.Commit(ctx, b)
		require.NoError(t, err)
	}
	before := used()
	for _, q := range requests {
		att, err := w.r.Attach(ctx, q, &stuckConn{takes: taken, stuck: stuck, release: release})
		require.NoError(t, err)
		defer att.Detach()
	}
	for range logins {
		<-stuck
	}
	after := used()
	close(release)
	return (float64(after) - float64(before)) / float64(logins)
}

// TestS64_I27_StuckLogins: a device that takes nothing costs its window and 64 KiB at most.
func TestS64_I27_StuckLogins(t *testing.T) {
	for _, tt := range []struct{ window, taken int }{{64 << 10, 0}, {1 << 20, 0}, {1 << 20, 1}} {
		window := tt.window
		bytes := stuckLogins(t, 20, window, tt.taken)
		t.Logf("window %d: %.0f bytes", window, bytes)
		require.Greater(t, bytes, float64(window/2))
		require.Less(t, bytes, float64(window+64<<10))
	}
}

// BenchmarkStuckLogins reports the memory of a device whose connection takes nothing.
func BenchmarkStuckLogins(b *testing.B) {
	const window = 1 << 20
	var bytes float64
	for b.Loop() {
		bytes = stuckLogins(b, 50, window, 0)
	}
	b.ReportMetric(bytes-window, "B/login-beside-window")
}

// A window that was longer than the room of its own keeps nothing there once it is empty.
func TestI27_IdleKeepsNoEntry(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.HoldAcks(true)
		w.feed("ann", 0, 5)
		w.until("all of it", func() bool { return len(d.texts()) == 5 })
		require.Equal(w.t, 2, d.attachment().Kept())
		d.HoldAcks(false)
		d.acked()
		require.Zero(w.t, d.attachment().Kept())
	})
}

// An attachment whose window was long and comes to rest because its last entry is parked keeps no entry either.
func TestI27_ParkedWindowKeepsNothing(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		c := taking()
		att := w.hosted("ann", "a1", fanout.AttachRequest{}, c)
		w.feed("ann", 0, 10)
		w.until("all", func() bool { return len(c.seqs()) >= 10 })
		last := w.head("ann")
		require.NoError(w.t, att.Handle(context.Background(), &event.Ack{Position: event.Position{Epoch: last.Epoch, Seq: last.Seq - 1}}))
		require.NoError(w.t, w.r.Park(context.Background(), "ann", "a1", event.Position{Epoch: last.Epoch, Seq: last.Seq}))
		n, _, _, _ := att.Window()
		require.Zero(w.t, n)
		require.Zero(w.t, att.Kept())
	})
}
