package session_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
	"github.com/manydevice/manydevice/transport/membus"
)

var (
	historyOps  = flag.Int("history.ops", 60_000, "operations of the random histories over memory; over a file a fiftieth")
	historySeed = flag.Uint64("history.seed", 0, "seed of the random histories; 0: another one each time")
)

// historyRound is how many operations one world lives through.
const historyRound = 5_000

// history plays random operations on a few accounts, on any of its worlds, which share one store.
type history struct {
	t        *testing.T
	worlds   []*world
	random   *rand.Rand
	accounts []*modelAccount
	lowered  bool // the limits are lower than at the beginning
	ended    int
	faulty   bool
	quick    bool // time does not pass
	cluster  *cluster
}

func newHistory(t *testing.T, seed uint64, worlds ...*world) *history {
	h := &history{t: t, worlds: worlds, random: rand.New(rand.NewPCG(seed, 0))}
	for i := range 4 {
		h.accounts = append(h.accounts, &modelAccount{name: event.Account(fmt.Sprint("ann", i)), limits: modelLimits, window: modelWindow})
	}
	return h
}

func (h *history) world() *world { return h.worlds[h.random.IntN(len(h.worlds))] }

// failed reports whether an operation failed because it was told to. Nothing has happened then.
func (h *history) failed(err error) bool {
	if h.faulty && errors.Is(err, errDown) {
		return true
	}
	require.NoError(h.t, err)
	return false
}

func (h *history) play() {
	w, m := h.world(), h.accounts[h.random.IntN(len(h.accounts))]
	live := m.live()
	one := func() *modelLogin { return live[h.random.IntN(len(live))] }
	switch op := h.random.IntN(1_000); {
	case op < 300 || len(live) == 0:
		h.login(w, m)
	case op < 500:
		h.attach(w, m, one())
	case op < 650:
		h.detach(one())
	case op < 700:
		h.kick(w, m, session.KickRequest{Logins: []event.LoginID{one().g.id, one().g.id, event.NewLoginID()}})
	case op < 710:
		p := modelPlatforms[h.random.IntN(len(modelPlatforms))]
		h.kick(w, m, session.KickRequest{Platform: p})
	case op < 720:
		h.kick(w, m, session.KickRequest{Filter: func(s session.Session) bool { return s.Platform == "ios" }})
	case op < 760:
		h.logout(w, m, one())
	case op < 770:
		h.kick(w, m, session.KickRequest{Others: one().g.id})
	case op < 780:
		h.kick(w, m, session.KickRequest{All: true})
	case op < 800:
		h.remove(w, m, one().device)
	case op < 880:
		h.late(m.all[h.random.IntN(len(m.all))])
	case op < 890:
		h.ban(w, m)
	case op < 900:
		h.erase(w, m)
	case op < 915:
		h.replace(w, m, one())
	case op < 920:
		h.change(m)
	case op < 923 && !h.quick:
		h.restart(w)
	case op < 924 && h.cluster != nil:
		h.partition(w)
	case op < 940:
		for _, b := range one().tabs {
			b.conn.SetBackground(false)
		}
	case !h.quick:
		w.pass(time.Duration(h.random.IntN(60)) * time.Second)
	}
	h.settle()
	m.check(h.world())
}

// settle lets the other nodes hear of what has happened.
func (h *history) settle() {
	if len(h.worlds) > 1 {
		h.worlds[0].pass(50 * time.Millisecond)
	}
}

// restart closes a registry and opens another one over the same store.
func (h *history) restart(w *world) {
	for _, m := range h.accounts { // any step notes what is over; otherwise it would linger anew
		_, err := w.reg.Kick(h.t.Context(), session.KickRequest{Account: m.name, Logins: []event.LoginID{event.NewLoginID()}})
		for h.failed(err) {
			_, err = w.reg.Kick(h.t.Context(), session.KickRequest{Account: m.name, Logins: []event.LoginID{event.NewLoginID()}})
		}
	}
	w.restart(w.now)
	w.heard(session.Change{Kind: restarted})
	now := time.Now()
	for _, m := range h.accounts {
		for _, l := range m.live() {
			switch {
			case len(h.worlds) > 1 && l.on != w:
			case l.online && len(h.worlds) == 1:
				l.online, l.tabs, l.since = false, nil, now
			case m.holds(l) && len(h.worlds) == 1: // it lingers anew
				l.since = now
			case l.online:
				l.online, l.tabs = false, nil
			}
		}
	}
	if len(h.worlds) > 1 {
		h.outlast()
	}
}

// partition keeps a node from its leases for a while: it stops serving, and takes up again under a new lease.
func (h *history) partition(w *world) {
	cut := h.cluster.cut[w.now.config.Node]
	cut.down.Store(true)
	w.pass(25 * time.Second)
	for _, m := range h.accounts {
		for _, l := range m.live() {
			if l.online && l.on == w {
				require.False(h.t, l.tabs[0].live(), "S31: fenced")
				l.online, l.tabs = false, nil
			}
		}
	}
	cut.down.Store(false)
	h.outlast()
}

// outlast has all nodes notice that one has gone, and waits until everything that was attached there is offline.
func (h *history) outlast() {
	h.worlds[0].pass(25 * time.Second)
	for _, w := range h.worlds {
		for _, m := range h.accounts {
			w.list(m.name)
		}
	}
	h.worlds[0].pass(2*modelWindow + time.Minute)
}

// restarted stands in the history of changes where the registry was opened anew.
const restarted session.ChangeKind = "restarted"

// late says things in the name of a login that may have ended long ago.
func (h *history) late(l *modelLogin) {
	if l.ended == "" {
		return
	}
	_, err := l.g.tryAttach(new(wire))
	if ended, ok := errors.AsType[*session.EndedError](err); ok {
		require.Equal(h.t, l.ended, ended.Closed.Reason)
	} else if !h.faulty || !errors.Is(err, errDown) {
		require.ErrorIs(h.t, err, session.ErrUnknownLogin)
	}
	if l.g.conn != nil {
		l.g.conn.Detach()
	}
}

var modelTabs = map[event.Platform]int{"web": 2}

// faults has commits fail now and then: conflicts, errors, and outcomes that are not known, whether or not they took
// effect.
func (h *history) faults(on bool) {
	h.faulty = on
	h.worlds[0].st.set(func(f *faults) {
		f.before, f.after = nil, nil
		if !on {
			return
		}
		var mu sync.Mutex // the sweep commits, too
		random := rand.New(rand.NewPCG(h.random.Uint64(), 1))
		draw := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return random.IntN(n)
		}
		f.before = func(store.Batch) error {
			switch draw(40) {
			case 0:
				return errDown
			case 1, 2:
				return store.ErrConflict
			case 3, 4:
				return store.ErrUnknownOutcome
			}
			return nil
		}
		f.after = func(_ store.Batch, err error) error {
			if err == nil && draw(20) == 0 {
				return store.ErrUnknownOutcome
			}
			return nil
		}
	})
}

func (h *history) run(steps int) {
	for i := range steps {
		h.play()
		if i%500 == 499 { // what is long over need not be looked at again and again
			for _, m := range h.accounts {
				old := max(0, len(m.all)-100)
				lasting := slices.DeleteFunc(slices.Clone(m.all[:old]), func(l *modelLogin) bool { return l.ended != "" })
				m.all = append(lasting, m.all[old:]...)
			}
		}
	}
}

func historySetup() setup {
	return setup{
		rules:  policy.Rules{Platforms: modelLimits, Tabs: modelTabs},
		config: session.Config{IdleTimeout: -1, TokenRotation: -1, IdleDevice: -1, ResumeWindow: modelWindow},
	}
}

// rounds tells how many operations there are in all, and runs them in worlds of their own, two at a time.
func rounds(t *testing.T, ops int, round func(t *testing.T, seed uint64, ops int)) {
	t.Helper()
	seed := *historySeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	if testing.Short() || raceDetector {
		ops /= 10
	}
	t.Logf("%d operations, seed %d (-history.seed)", ops, seed)
	for i := 0; ops > 0; i++ {
		n := min(ops, historyRound)
		ops -= n
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			round(t, seed+uint64(i), n)
		})
	}
}

// TestS16_RandomHistory: whatever happens, what the registry says is what the rules say. It covers S1 to S5, S17, S18, S20.
func TestS16_RandomHistory(t *testing.T) {
	rounds(t, *historyOps, func(t *testing.T, seed uint64, ops int) {
		inBubble(t, historySetup(), func(w *world) {
			h := newHistory(w.t, seed, w)
			h.run(ops)
			require.Len(w.t, w.revocations(), h.ended, "each end was told once")
			onlineOnce(w)
		})
	})
}

// onlineOnce requires that what watchers heard fits together.
func onlineOnce(w *world) {
	w.pass(10 * time.Second)
	online := map[event.LoginID]bool{}
	for _, c := range w.history() {
		switch c.Kind {
		case restarted: // what was told before is not known any more
			clear(online)
		case session.ChangeOnline:
			require.False(w.t, online[c.Session.Login], "online twice")
			online[c.Session.Login] = true
		case session.ChangeOffline:
			delete(online, c.Session.Login)
		case session.ChangeEnded:
			delete(online, c.Session.Login)
		}
	}
}

// TestS12_FaultyHistory: the same over a store that refuses, fails, and does not tell what it has done.
func TestS12_FaultyHistory(t *testing.T) {
	rounds(t, *historyOps/5, func(t *testing.T, seed uint64, ops int) {
		inBubble(t, historySetup(), func(w *world) {
			h := newHistory(w.t, seed, w)
			h.faults(true)
			h.run(ops)
			h.faults(false)
		})
	})
}

// TestS9_HistoryOfTwoNodes: the same on two registries over one store.
func TestS9_HistoryOfTwoNodes(t *testing.T) {
	rounds(t, *historyOps/5, func(t *testing.T, seed uint64, ops int) {
		s := historySetup()
		s.config.SweepInterval = 10 * time.Millisecond
		onNodes(t, s, func(c *cluster, x, y *world) {
			h := newHistory(c.t, seed, x, y)
			h.cluster = c
			c.bus.Duplicate(membus.EveryNth(3))
			h.run(ops)
			require.Equal(c.t, h.ended, len(x.revocations())+len(y.revocations()), "each end was told once")
		})
	})
}

// TestS16_HistoryOverAFile: the same over a file, where time does not pass by itself.
func TestS16_HistoryOverAFile(t *testing.T) {
	rounds(t, *historyOps/50, func(t *testing.T, seed uint64, ops int) {
		st, err := boltstore.Open(filepath.Join(t.TempDir(), "store"), boltstore.Config{})
		require.NoError(t, err)
		s := historySetup()
		s.config.ResumeWindow = time.Hour
		w := newWorld(t, st, s)
		w.real = true
		h := newHistory(t, seed, w)
		for _, m := range h.accounts {
			m.window = time.Hour
		}
		h.quick = true
		h.run(ops)
		require.Len(t, w.revocations(), h.ended)
	})
}
