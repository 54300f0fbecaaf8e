package session_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
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
	historyOps  = flag.Int("history.ops", 60_000, "operations of random histories over memory; over a file, on two nodes a fiftieth")
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
	cluster  *cluster
	reopen   func()        // closes the store, too, and opens it again; nil: that is of no use
	life     time.Duration // after which logins end; 0: never
	loose    bool          // which offline logins hold a slot is not known: clocks of nodes differ
	trouble  *trouble      // nil: clocks, hooks and connections of the host's behave
}

func newHistory(t *testing.T, seed uint64, worlds ...*world) *history {
	h := &history{t: t, worlds: worlds, random: rand.New(rand.NewPCG(seed, 0)), life: modelLife}
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
	if h.trouble != nil {
		h.idle(w)
	}
	live := m.live()
	one := func() *modelLogin { return live[h.random.IntN(len(live))] }
	switch op := h.random.IntN(1_000); {
	case h.trouble != nil && h.random.IntN(8) == 0:
		h.makeTrouble(w, m, live)
	case m.banned && op >= 900: // otherwise it would stay so, since nobody can log in
		h.ban(w, m)
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
	case op < 923:
		h.restart(w)
	case op < 924 && h.cluster != nil:
		h.partition(w)
	case op < 927:
		h.kickBy(w, m, one(), one())
	case op < 932:
		h.stored(w, one())
	case op < 934:
		h.reuse(w, one())
	case op < 944:
		for _, b := range one().tabs {
			b.conn.SetBackground(false)
		}
	case op < 950:
		w.pass(time.Duration(h.random.IntN(90)) * time.Minute)
	default:
		w.pass(time.Duration(h.random.IntN(60)) * time.Second)
	}
	h.expire(w)
	h.settle()
	if h.trouble != nil {
		h.idle(w)
	}
	m.check(h.world(), h.loose)
}

// settle lets the other nodes hear of what has happened.
func (h *history) settle() {
	if len(h.worlds) > 1 {
		sweeps := time.Duration(1)
		if h.faulty { // several may fail
			sweeps = 6
		}
		h.worlds[0].pass(sweeps*nodesSweep + 50*time.Millisecond)
	}
}

// late says things in the name of a login that may have ended long ago.
func (h *history) late(l *modelLogin) {
	if l.ended == "" {
		return
	}
	_, err := l.g.tryAttach(new(wire))
	if ended, ok := errors.AsType[*session.EndedError](err); ok {
		require.Equal(h.t, l.ended, ended.Why.Reason)
	} else if !h.faulty || !errors.Is(err, errDown) {
		require.ErrorIs(h.t, err, session.ErrUnknownLogin)
	}
	if l.g.conn != nil {
		l.g.conn.Detach()
	}
}

var modelTabs = map[event.Platform]int{"web": 2}

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
		rules: policy.Rules{Platforms: modelLimits, Tabs: modelTabs},
		config: session.Config{
			IdleTimeout: -1, TokenRotation: modelRotation, IdleDevice: -1, ResumeWindow: modelWindow, AbsoluteLifetime: modelLife,
		},
	}
}

// check requires that what the host was told fits together.
func (h *history) check() {
	told := 0
	for _, w := range h.worlds {
		told += len(w.revocations())
		inOrder(w, len(h.worlds) == 1)
	}
	require.Equal(h.t, h.ended, told, "each end was told once")
}

// rounds tells how many operations there are in all, and runs them in worlds of their own, two at a time.
func rounds(t *testing.T, ops int, round func(t *testing.T, seed uint64, ops int)) {
	t.Helper()
	roundsFrom(t, cmp.Or(*historySeed, rand.Uint64()), ops, round)
}

// roundsFrom is rounds that begins with the given seed.
func roundsFrom(t *testing.T, seed uint64, ops int, round func(t *testing.T, seed uint64, ops int)) {
	t.Helper()
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
			h.check()
		})
	})
}

// modelRules are rules of which more than one may have its say, and each action.
var modelRules = []policy.Rules{
	{PerPlatform: 2, Total: 4},
	{Groups: []policy.Group{{Name: "apple", Members: []string{"ios", "macos"}, Limit: 2}}, PerPlatform: policy.NoLimit, Total: 3},
	{PerPlatform: 2, AtPlatform: policy.RefuseNew},
	{PerPlatform: 3, Total: 4, AtTotal: policy.AskHost},
	{PerPlatform: 1, AtPlatform: policy.EvictOfflineFirst, Slots: policy.SlotEveryLogin},
	{PerPlatform: 1, Reconnect: policy.ReconnectRefused},
	{Single: true},
}

// TestA7_I19_HistoryOfOtherRules: the same under rules of every kind, with policy as the model.
func TestA7_I19_HistoryOfOtherRules(t *testing.T) {
	rounds(t, *historyOps/5, func(t *testing.T, seed uint64, ops int) {
		s := historySetup()
		s.rules = modelRules[seed%uint64(len(modelRules))]
		s.rules.Tabs = modelTabs
		s.config.DecideVictims = func(_ context.Context, q session.Question) (a policy.Answer, err error) {
			for _, c := range slices.Backward(q.Candidates) {
				a.End = append(a.End, c.Login)
			}
			return a, nil
		}
		inBubble(t, s, func(w *world) {
			h := newHistory(w.t, seed, w)
			for _, m := range h.accounts {
				m.rules = mustPolicy(w.t, s.rules)
			}
			h.faults(seed%2 == 0)
			h.run(ops)
			h.faults(false)
			h.check()
		})
	})
}

// inOrder requires that what watchers heard fits together: nothing of a login after its end, and, where only one registry
// tells of it, online and offline in turns.
func inOrder(w *world, alone bool) {
	w.pass(10 * time.Second)
	online, ended := map[event.LoginID]bool{}, map[event.LoginID]bool{}
	for _, c := range w.history() {
		id := c.Session.Login
		require.False(w.t, id != "" && ended[id], "%s after the end", c.Kind)
		switch c.Kind {
		case restarted: // what was told before is not known any more
			clear(online)
		case session.ChangeOnline:
			require.False(w.t, alone && online[id], "online twice")
			online[id] = true
		case session.ChangeOffline:
			delete(online, id)
		case session.ChangeEnded:
			delete(online, id)
			ended[id] = true
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
			h.check()
		})
	})
}

// nodesSweep is how often nodes of a history write down who has gone.
const nodesSweep = time.Second

// TestS9_HistoryOfTwoNodes: the same on two registries over one store.
func TestS9_HistoryOfTwoNodes(t *testing.T) {
	rounds(t, *historyOps/50, func(t *testing.T, seed uint64, ops int) {
		s := historySetup()
		s.config.SweepInterval = nodesSweep
		onNodes(t, s, func(c *cluster, x, y *world) {
			h := newHistory(c.t, seed, x, y)
			h.cluster = c
			c.bus.Duplicate(membus.EveryNth(3))
			h.faults(seed%2 == 0)
			h.run(ops)
			h.faults(false)
			h.check()
		})
	})
}

// TestS16_HistoryOverAFile: the same over a file, which is closed and opened again, and fails now and then.
func TestS16_HistoryOverAFile(t *testing.T) {
	rounds(t, *historyOps/50, func(t *testing.T, seed uint64, ops int) {
		path := filepath.Join(t.TempDir(), "store")
		open := func(t *testing.T) store.Store {
			st, err := boltstore.Open(path, boltstore.Config{})
			require.NoError(t, err)
			return st
		}
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, open(t), historySetup())
			h := newHistory(t, seed, w)
			h.reopen = func() {
				w.shut(w.reg)
				require.NoError(t, w.st.Close(context.Background()))
				w.st.Store = open(t)
				w.open(w.now)
			}
			h.faults(seed%2 == 0)
			h.run(ops)
			h.faults(false)
			h.check()
		})
	})
}
