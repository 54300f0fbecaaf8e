package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

var errPush = errors.New("the push service is away")

// pushLog is a host's push service: it notes what it is told.
type pushLog struct {
	mu     sync.Mutex
	calls  []fanout.Push
	times  []time.Time
	before func(ctx context.Context, p fanout.Push) error // called first; what it refuses is not noted
}

func (l *pushLog) hook(ctx context.Context, p fanout.Push) error {
	l.mu.Lock()
	before := l.before
	l.mu.Unlock()
	if before != nil {
		if err := before(ctx, p); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, p)
	l.times = append(l.times, time.Now())
	return nil
}

func (l *pushLog) first(before func(ctx context.Context, p fanout.Push) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = before
}

// take returns the calls so far, such as "ann: a1 x y; a2 y", and forgets them.
func (l *pushLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, p := range l.calls {
		var devices []string
		for _, d := range p.Devices {
			devices = append(devices, string(d.Device)+" "+strings.Join(texts(d.Missed), " "))
		}
		all = append(all, string(p.Account)+": "+strings.Join(devices, "; "))
	}
	l.calls, l.times = nil, nil
	return all
}

// got returns what each device was told that it missed, in order, however many calls that took, and forgets it.
func (l *pushLog) got() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]string{}
	for _, p := range l.calls {
		for _, d := range p.Devices {
			all[string(d.Device)] = strings.TrimSpace(all[string(d.Device)] + " " + strings.Join(texts(d.Missed), " "))
		}
	}
	l.calls, l.times = nil, nil
	return all
}

// pushInMemory runs a test in a bubble, with the given push configuration but for its hook.
func pushInMemory(t *testing.T, cfg fanout.Config, run func(w *world, l *pushLog)) {
	t.Helper()
	l := &pushLog{}
	cfg.Push.Hook = l.hook
	inMemory(t, cfg, func(w *world) { run(w, l) })
}

// pushOverStores runs it on a file as well, in a bubble too: no time passes there while the file is written.
func pushOverStores(t *testing.T, cfg fanout.Config, run func(w *world, l *pushLog)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) { pushInMemory(t, cfg, run) })
	t.Run("file", func(t *testing.T) {
		l := &pushLog{}
		cfg.Push.Hook = l.hook
		path := filepath.Join(t.TempDir(), "store.db")
		synctest.Test(t, func(t *testing.T) { run(newWorld(t, path, cfg), l) })
	})
}

// decided waits until nothing is left to decide.
func (w *world) decided() {
	w.t.Helper()
	w.eventually("all pushes are decided", func() bool {
		accounts, slots := w.r.PushPending()
		return accounts == 0 && slots == 0
	})
}

// pushes waits until that many calls of the hook have worked.
func (w *world) pushes(n uint64) {
	w.t.Helper()
	w.eventually("pushes", func() bool { return w.r.Stats().Pushes == n })
}

// eventually waits for longer than until: time costs nothing in a bubble.
func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	require.Eventually(w.t, cond, 3*time.Minute, 5*time.Millisecond, what)
}

// undecided requires that an account waits for its turn.
func (w *world) undecided(n int) {
	w.t.Helper()
	accounts, _ := w.r.PushPending()
	require.Equal(w.t, n, accounts, "accounts that wait for a decision")
}

// on logs a device in once more, from a platform.
func (d *device) on(p event.Platform) *device {
	d.w.t.Helper()
	res, err := d.w.reg.Login(context.Background(), session.LoginRequest{Account: d.account, Device: d.id, Platform: p})
	require.NoError(d.w.t, err)
	d.inc = res.Session.Incarnation
	d.LoggedIn(res.Session.Login, res.Token)
	return d
}

// mark is how far pushes of an account are decided, on disk.
func (w *world) pushMark(account event.Account) uint64 {
	w.t.Helper()
	conv, name := fanout.PushMark(w.head(account).Epoch)
	return w.register(account, conv, name)
}

func anyOffline() fanout.Config {
	return fanout.Config{Push: fanout.PushConfig{Rules: fanout.PushRules{Preset: fanout.AnyOffline}}}
}

func TestC23_ExactlyWhoWasNotReached(t *testing.T) {
	pushOverStores(t, anyOffline(), func(w *world, l *pushLog) {
		w.login("ann", "never attached")
		a := w.ready("ann", "a1", "a2", "online")
		w.login("bob", "b1")
		a[0].leave()
		w.host("bob", "x", "ann")
		w.host("bob", "y", "ann", "eve")
		a[1].until("y")
		a[1].acked()
		a[1].leave()
		w.host("bob", "z", "ann")
		w.decided()
		require.Equal(w.t, map[string]string{"never attached": "x y z", "a1": "x y z", "a2": "z"}, l.got())
		a[0].online()
		a[0].acked()
		a[0].leave()
		w.host("bob", "u", "ann")
		w.decided()
		require.Equal(w.t, map[string]string{"never attached": "u", "a1": "u", "a2": "u"}, l.got(), "of what was told before nothing again")
		require.Zero(w.t, w.r.Stats().PushErrors)
	})
}

// until waits for a message.
func (d *device) until(text string) {
	d.w.t.Helper()
	d.w.until(text+" at "+string(d.id), func() bool {
		all := d.texts()
		return len(all) > 0 && all[len(all)-1] == text
	})
}

func TestC23_AfterADelay(t *testing.T) {
	pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
		w.login("ann", "a1")
		begin := time.Now()
		id := w.host("bob", "x", "ann").ID
		time.Sleep(10*time.Second - time.Millisecond)
		synctest.Wait()
		require.Empty(w.t, l.calls)
		w.decided()
		require.Len(w.t, l.calls, 1)
		require.Equal(w.t, 10*time.Second, l.times[0].Sub(begin))
		p := l.calls[0]
		require.Equal(w.t, event.Account("ann"), p.Account)
		require.Equal(w.t, session.Lingering, p.Devices[0].State, "without a connection is offline enough")
		require.Equal(w.t, event.Platform("ios"), p.Devices[0].Platform)
		require.Equal(w.t, id, p.Devices[0].Missed[0].ID)
		require.Equal(w.t, w.head("ann").Seq, w.pushMark("ann"))
		s := w.r.Stats()
		require.Equal(w.t, []uint64{1, 1, 0, 0, 0}, []uint64{s.Pushes, s.PushEntries, s.PushesCancelled, s.PushErrors, s.PushesGivenUp})
	})
}

func TestC23_OffByDefault(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		w.login("ann", "a1")
		w.host("bob", "x", "ann")
		w.undecided(0)
		time.Sleep(time.Minute)
		require.Zero(w.t, w.pushMark("ann"))
	})
}

func TestC23_BurstIsOneCallASecond(t *testing.T) {
	pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
		w.login("ann", "a1")
		for i := range 100 {
			w.host("bob", fmt.Sprint(i), "ann")
			time.Sleep(20 * time.Millisecond)
		}
		w.decided()
		require.LessOrEqual(w.t, len(l.calls), 3)
		require.Equal(w.t, map[string]string{"a1": strings.Join(numbers(0, 100), " ")}, l.got())
	})
}

func TestC23_CancelledByAnAck(t *testing.T) {
	cfg := anyOffline()
	cfg.CursorFlush = time.Hour // the ack is known in memory only
	pushOverStores(t, cfg, func(w *world, l *pushLog) {
		a := w.ready("ann", "a1", "a2")
		a[0].leave()
		a[1].leave()
		w.host("bob", "x", "ann")
		w.undecided(1)
		a[0].online()
		a[0].acked()
		a[0].leave()
		w.decided()
		require.Equal(w.t, map[string]string{"a2": "x"}, l.got())
		a[1].online()
		a[1].acked()
		a[0].online()
		w.host("bob", "y", "ann")
		for _, d := range a {
			d.until("y")
			d.acked()
		}
		a[1].leave()
		w.decided()
		require.Empty(w.t, l.take())
		require.EqualValues(w.t, 1, w.r.Stats().PushesCancelled)
	})
}

func TestC23_CancelledByReading(t *testing.T) {
	ctx := context.Background()
	read := func(q fanout.MarkReadRequest) func(w *world) error {
		q.Account = "ann"
		return func(w *world) error {
			_, err := w.r.MarkRead(ctx, q)
			return err
		}
	}
	for _, test := range []struct {
		name string
		read func(w *world) error
		want string
	}{
		{"not", func(*world) error { return nil }, "x y z"},
		{"all of c1", read(fanout.MarkReadRequest{Conversation: "c1", Seq: 4}), "y"},
		{"a part of c1", read(fanout.MarkReadRequest{Conversation: "c1", Seq: 2}), "y z"},
		{"privately", read(fanout.MarkReadRequest{Conversation: "c1", Seq: 4, Private: true}), "y"},
		{"another conversation", read(fanout.MarkReadRequest{Conversation: "c3", Seq: 4}), "x y z"},
		{"everything", func(w *world) error {
			_, err := w.r.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: "ann"})
			return err
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
				w.login("ann", "a1")
				require.EqualValues(w.t, 1, w.head("ann").Seq)
				for i, conv := range []event.ConversationID{"c1", "c2", "c1"} {
					w.post(fanout.SendRequest{From: "bob", Conversation: conv, To: []event.Account{"ann"}, Payload: []byte("xyz")[i : i+1]})
				}
				require.NoError(w.t, test.read(w))
				w.decided()
				want := map[string]string{}
				if test.want != "" {
					want["a1"] = test.want
				}
				require.Equal(w.t, want, l.got())
			})
		})
	}
}

func TestC23_NeverToEndedLogins(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		name string
		end  func(w *world, d *device) error
	}{
		{"kicked", func(w *world, d *device) error {
			_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{d.Login()}})
			return err
		}},
		{"logged out", func(w *world, d *device) error { return w.reg.Logout(ctx, "ann", d.Login()) }},
		{"removed", func(w *world, d *device) error {
			return w.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: d.id})
		}},
		{"evicted", func(w *world, d *device) error {
			_, err := w.reg.LoginReplacing(ctx, session.LoginRequest{Account: "ann", Device: "a3", Platform: "ios"}, d.Login())
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pushOverStores(t, fanout.Config{}, func(w *world, l *pushLog) {
				a := w.ready("ann", "a1", "a2")
				for _, d := range a {
					d.leave()
				}
				w.host("bob", "x", "ann")
				require.NoError(w.t, test.end(w, a[0]))
				w.decided()
				got := l.got()
				require.Equal(w.t, "x", got["a2"])
				require.NotContains(w.t, got, "a1")
			})
		})
	}
	t.Run("nobody is left", func(t *testing.T) {
		pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
			w.login("ann", "a1")
			w.host("bob", "x", "ann", "eve")
			_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", All: true})
			require.NoError(w.t, err)
			w.decided()
			require.Empty(w.t, l.take())
			require.Zero(w.t, w.pushMark("ann"), "and nothing is written for it")
		})
	})
}

func TestC23_LateClock(t *testing.T) {
	pushInMemory(t, fanout.Config{}, func(w *world, l *pushLog) {
		w.login("ann", "a1")
		_, err := w.inner.Commit(context.Background(), store.Batch{Account: "bob", Now: time.Now().Add(24 * time.Hour), Messages: []store.Message{{
			ID: "future", Kind: event.KindMessage, From: "bob", Payload: []byte("future"),
			To: []store.Inbox{{Account: "ann", Flags: event.FlagUnread}},
		}}})
		require.NoError(w.t, err)
		w.host("bob", "x", "ann")
		w.decided()
		require.Equal(w.t, []string{"ann: a1 future x"}, l.take(), "a clock that was set back holds nothing up")
	})
}
