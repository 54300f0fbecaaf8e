package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/seam"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// skips returns how many calls of hooks were left out.
func skips(reg *session.Registry) uint64 {
	n := uint64(0)
	for _, h := range reg.Stats().Hooks {
		n += h.Skipped
	}
	return n
}

// logbook is a host's log at level info.
type logbook struct{ buffer }

func (b *logbook) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(b, nil)) }

// lines returns the lines so far whose text has a part.
func (b *logbook) lines(t testing.TB, part string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for l := range strings.Lines(b.String()) {
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(l), &m))
		if strings.Contains(m["msg"].(string), part) {
			all = append(all, m)
		}
	}
	return all
}

// K20.4: every reason, every refusal and every hook has a counter at any time, so that a dashboard is complete from the start.
func TestStats_EveryNameIsThere(t *testing.T) {
	rules := policy.Rules{Groups: []policy.Group{{Name: "mobile", Members: []string{"ios", "android"}, Limit: 2}}}
	inBubble(t, setup{rules: rules}, func(w *world) {
		s := w.reg.Stats()
		for _, i := range event.Reasons() {
			require.Contains(w.t, s.Ended, i.Reason)
			require.Contains(w.t, s.Closed, i.Reason)
		}
		require.Contains(w.t, s.Closed, event.Reason(""))
		for _, f := range append(session.Refusals(), policy.RuleGroup+"mobile", session.RuleHost, session.RuleReplace) {
			require.Contains(w.t, s.Refused, f)
		}
		for _, h := range session.Hooks() {
			require.Contains(w.t, s.Hooks, h)
		}
		s.Refused["x"], s.Ended["x"] = 1, 1 // they are copies
		require.NotContains(w.t, w.reg.Stats().Refused, session.Refusal("x"))
	})
}

// K20.4, I37: a node without a lease says so in its counters.
func TestStats_WithoutALease(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, _ *world) {
		g := x.join("ann", "a1", "ios")
		c.cut["x"].down.Store(true)
		c.pass(20 * time.Second)
		_, err := g.tryAttach(new(wire))
		require.ErrorIs(c.t, err, session.ErrNoLease)
		s := x.reg.Stats()
		require.EqualValues(c.t, 1, s.Refused[session.RefusedNoLease])
		require.EqualValues(c.t, 1, s.LeasesLost)
		require.EqualValues(c.t, 1, s.Closed[event.LeaseLost])
		require.NotZero(c.t, s.Hooks[session.HookLeases].Failures)
	})
}

// K20.4: an end is counted and logged by the node that has committed it, and the end of its connection where that was.
func TestStats_AnEndByAnotherNodeIsCountedOnce(t *testing.T) {
	var log logbook
	onNodes(t, setup{config: session.Config{Logger: log.logger()}}, func(c *cluster, x, y *world) {
		g := x.join("ann", "a1", "ios")
		y.kick("ann", g.id)
		c.pass(10 * time.Second)
		for w, ends := range map[*world]uint64{x: 0, y: 1} {
			s := w.reg.Stats()
			require.Equal(c.t, ends, s.Ended[event.KickedHost])
			require.Equal(c.t, 1-ends, s.Closed[event.KickedHost])
		}
		require.Len(c.t, log.lines(c.t, "login kicked"), 1)
	})
}

// K20.4: logins, attaches, kicks, and every end of a login and of a connection are counted by reason; ends that another
// goroutine has caused are logged with account, device and who did it.
func TestStats_LoginsAndEnds(t *testing.T) {
	var log logbook
	s := setup{rules: policy.Rules{PerPlatform: 1}, config: session.Config{Logger: log.logger(), AbsoluteLifetime: 48 * time.Hour}}
	onStores(t, s, func(w *world) {
		log.reset()
		a1 := w.join("ann", "a1", "ios")
		a2 := w.join("ann", "a2", "ios") // evicts a1
		again := w.join("ann", "a2", "ios")
		again.attach() // moved
		w.kick("ann", again.id)
		b := w.join("bob", "b1", "ios")
		require.NoError(w.t, w.reg.Logout(context.Background(), "bob", b.id))
		_, err := w.reg.Ban(context.Background(), session.BanRequest{Account: "bob"})
		require.NoError(w.t, err)
		c := w.join("cid", "c1", "ios")
		wire := c.wire
		c.conn.Close(event.ProtocolError.Closed(0))
		require.NotEmpty(w.t, wire.reasons())
		c.attach()
		c.conn.Close(event.Closed{Reason: "my own"})
		require.NotEmpty(w.t, a1.wire.reasons())

		got := w.reg.Stats()
		require.EqualValues(w.t, 5, got.Logins)
		require.EqualValues(w.t, 4, got.NewDevices)
		require.EqualValues(w.t, 7, got.Attaches)
		require.EqualValues(w.t, 2, got.Resumes)
		require.EqualValues(w.t, 3, got.Kicks)
		for reason, n := range map[event.Reason]uint64{
			event.EvictedQuota: 1, event.Replaced: 1, event.KickedHost: 1, event.Logout: 1, event.Moved: 0,
		} {
			require.Equal(w.t, n, got.Ended[reason], reason)
		}
		for reason, n := range map[event.Reason]uint64{
			event.EvictedQuota: 1, event.Replaced: 1, event.KickedHost: 1, event.Moved: 1, event.ProtocolError: 1, "": 1,
		} {
			require.Equal(w.t, n, got.Closed[reason], reason)
		}
		evicted := log.lines(w.t, "login evicted")
		require.Len(w.t, evicted, 1)
		require.Equal(w.t, "ann", evicted[0]["account"])
		require.Equal(w.t, "a1", evicted[0]["device"])
		require.Equal(w.t, string(a1.id), evicted[0]["login"])
		require.Equal(w.t, string(a2.id), evicted[0]["by"])
		require.Equal(w.t, "evicted_quota", evicted[0]["reason"])
		kicked := log.lines(w.t, "login kicked")
		require.Len(w.t, kicked, 1)
		require.Equal(w.t, "ann", kicked[0]["account"])
		closed := log.lines(w.t, "connection closed")
		require.Len(w.t, closed, 1)
		require.Equal(w.t, "cid", closed[0]["account"])
		require.Equal(w.t, "protocol_error", closed[0]["reason"])
	})
}

// What fan-out finds wrong with a connection it logs itself: the registry has no second line for that.
func TestTrace_WhatFanOutEndsIsLoggedOnce(t *testing.T) {
	for name, by := range map[string]*seam.Delivery[*session.Connection]{"a host": nil, "fan-out": delivery(nil, func(event.Closed) {})} {
		t.Run(name, func(t *testing.T) {
			var log logbook
			inBubble(t, setup{config: session.Config{Logger: log.logger()}}, func(w *world) {
				g := w.login("ann", "a1", "ios")
				q := session.AttachRequest{Account: "ann", Login: g.id, Token: g.token, Delivery: by}
				c, err := w.reg.Attach(w.t.Context(), q, new(wire))
				require.NoError(w.t, err)
				c.Close(event.ProtocolError.Closed(0))
				c.AwaitClose(w.t.Context())
				require.Equal(w.t, by == nil, len(log.lines(w.t, "connection closed")) == 1)
			})
		})
	}
}

// A login that comes back without a slot is an admission of its own, and a token that was used again ends it loudly.
func TestStats_ComebacksAndReuse(t *testing.T) {
	var log logbook
	inBubble(t, setup{config: session.Config{Logger: log.logger()}}, func(w *world) {
		g, old, next := rotated(w)
		require.NoError(w.t, w.reg.ConfirmToken(w.t.Context(), g.conn))
		g.token = next
		g.conn.Detach()
		w.pass(5 * time.Minute)
		g.attach()
		require.EqualValues(w.t, 1, w.reg.Stats().Comebacks)
		g.token = old
		require.Equal(w.t, event.TokenReuse, g.refused().Reason)
		s := w.reg.Stats()
		require.EqualValues(w.t, 1, s.Ended[event.TokenReuse])
		lines := log.lines(w.t, "old token")
		require.Len(w.t, lines, 1)
		require.Equal(w.t, "WARN", lines[0]["level"])
		require.Equal(w.t, "ann", lines[0]["account"])
	})
}

// K20.4: gauges say how things are, and which account keeps others waiting.
func TestStats_Gauges(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2", "a3")
		w.join("bob", "b1", "ios")
		all[1].conn.SetBackground(true)
		all[2].conn.Detach()
		s := w.reg.Stats()
		require.Equal(w.t, 3, s.Connections)
		require.Equal(w.t, 2, s.Online)
		require.Equal(w.t, 1, s.Away)
		require.Equal(w.t, 1, s.Lingering)
		require.Equal(w.t, 2, s.Accounts)
		require.Equal(w.t, 2, s.Records)
		require.Positive(w.t, s.RecordBytes)
		require.Zero(w.t, s.Waiting)
		require.False(w.t, s.Draining)

		gate := make(chan struct{})
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { <-gate; return nil } })
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { _, _ = w.tryLogin(request("ann", "a9", "web")) })
		}
		w.pass(0)
		s = w.reg.Stats()
		require.Equal(w.t, 4, s.Waiting)
		require.Equal(w.t, event.Account("ann"), s.Hot)
		require.Equal(w.t, 4, s.HotWaiting)
		close(gate)
		wg.Wait()
		require.Zero(w.t, w.reg.Stats().Waiting)
		w.pass(2 * time.Hour)
		s = w.reg.Stats()
		require.NotZero(w.t, s.Cleanings)
		require.GreaterOrEqual(w.t, s.Cleaned, 2*s.Cleanings)
	})
}

// One line each says that the registry was opened, drained and closed, with how many connections that was about.
func TestTrace_OpenDrainClose(t *testing.T) {
	var log logbook
	inBubble(t, setup{config: session.Config{Logger: log.logger()}}, func(w *world) {
		require.Len(w.t, log.lines(w.t, "opened"), 1)
		w.fill("ann", "ios", "a1", "a2")
		require.NoError(w.t, w.reg.Drain(w.t.Context(), session.DrainRequest{Back: 2 * time.Second}))
		for part, want := range map[string]map[string]any{
			"drain begins":  {"over": 0, "back": 2 * time.Second, "spread": 100 * time.Millisecond},
			"drain is over": {"took": 0},
		} {
			lines := log.lines(w.t, part)
			require.Len(w.t, lines, 1)
			want["node"], want["connections"] = "local", 2
			for key, value := range want {
				require.EqualValues(w.t, value, lines[0][key], key)
			}
		}
		require.True(w.t, w.reg.Stats().Draining)
		w.shut(w.reg)
		w.shut(w.reg)
		require.Len(w.t, log.lines(w.t, "closed"), 1)
	})
}

// K20.4: a store that fails under 1,000 attached accounts writes a handful of lines, one of which, of level error, names the
// cause; what fails afterwards because of it is counted.
func TestTrace_AFailedStoreWritesFewLines(t *testing.T) {
	const accounts = 1_000
	var log logbook
	inBubble(t, setup{config: session.Config{Logger: log.logger()}}, func(w *world) {
		var all []*gadget
		for i := range accounts {
			all = append(all, w.join(event.Account("ann"+string(rune('0'+i%10)))+event.Account(rune('a'+i/10%26))+event.Account(rune('a'+i/260)), "a1", "ios"))
		}
		begun := len(log.lines(w.t, ""))
		failed := errors.Join(errors.New("input/output error"), store.ErrFailed)
		w.st.set(func(f *faults) {
			f.before = func(store.Batch) error { return failed }
			f.load, f.read, f.states = func() error { return failed }, func() error { return failed }, func() error { return failed }
			f.beat = func() error { return failed }
		})
		_, err := w.tryLogin(request("early", "a1", "ios")) // fails before anybody knows why
		require.ErrorIs(w.t, err, store.ErrFailed)
		close(w.st.failed)
		w.pass(time.Second)
		for _, g := range all {
			require.Equal(w.t, []event.Reason{event.Unavailable}, g.wire.reasons())
			_, err := g.tryAttach(new(wire))
			require.ErrorIs(w.t, err, store.ErrFailed)
			_, err = w.tryLogin(request(g.acc, "a2", "ios"))
			require.ErrorIs(w.t, err, store.ErrFailed)
		}
		w.pass(10 * time.Minute) // resume windows end, the janitor comes
		lines := log.lines(w.t, "")[begun:]
		require.LessOrEqual(w.t, len(lines), 20)
		var errs []map[string]any
		for _, l := range lines {
			if l["level"] == "ERROR" {
				errs = append(errs, l)
			}
		}
		require.Len(w.t, errs, 1)
		require.Contains(w.t, errs[0]["err"], "input/output error")
		require.EqualValues(w.t, accounts, errs[0]["connections"])
		s := w.reg.Stats()
		require.EqualValues(w.t, accounts, s.Closed[event.Unavailable])
		require.GreaterOrEqual(w.t, s.Refused[session.RefusedStore], uint64(2*accounts))
		require.GreaterOrEqual(w.t, s.StoreFailures, uint64(2*accounts))
	})
}

// A store that is slow or refuses, without having failed for good, is logged with the accounts, folded.
func TestTrace_ATroubledStoreIsFolded(t *testing.T) {
	var log logbook
	inBubble(t, setup{config: session.Config{Logger: log.logger()}}, func(w *world) {
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { return errDown } })
		for range 500 {
			require.Error(w.t, loginAs(w, "a1", "ios"))
		}
		w.pass(20 * time.Second)
		lines := log.lines(w.t, "login refused")
		require.Len(w.t, lines, 11)
		require.EqualValues(w.t, 490, lines[10]["repeated"])
		require.Equal(w.t, "ann", lines[10]["account"])
		require.EqualValues(w.t, 500, w.reg.Stats().StoreFailures)
		w.st.heal()
		for range 30 {
			require.Error(w.t, loginAs(w, "a1", "toaster"))
		}
		w.shut(w.reg)
		lines = log.lines(w.t, "login refused")
		require.Len(w.t, lines, 22, "Close loses none")
		require.EqualValues(w.t, 20, lines[21]["repeated"])
	})
}
