package session_test

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// keeper is the place in which an app and its extension keep their login: what each of them reads before it attaches.
type keeper struct {
	t       *testing.T
	random  *rand.Rand
	nodes   []*world
	restart func(w *world)
	wall    *wallClock // of all nodes; nil: nobody sets it

	login *gadget
	token event.ResumeToken
	past  []event.ResumeToken // that were in its place before, oldest first

	late, thefts int // how often a process came with the token before, and somebody with an older one
}

// process is an app or an extension that has read the token.
type process struct {
	shown event.ResumeToken
	after time.Duration // its request is on the way for so long
}

func (k *keeper) logIn() {
	k.login = k.nodes[0].login("ann", "phone", "ios")
	k.token, k.past = k.login.token, nil
}

func (k *keeper) node() *world { return k.nodes[k.random.IntN(len(k.nodes))] }

func (k *keeper) chance(percent int) bool { return k.random.IntN(100) < percent }

// attach brings a process in, which follows the client rule. Any word may get lost.
func (k *keeper) attach(p process) *session.Connection {
	w := k.node()
	if k.wall != nil && k.chance(20) {
		to := time.Duration(k.random.Int64N(int64(8_000*day))) - 7_600*day
		if len(k.nodes) == 1 { // what no node notices looks like clocks that differ, and a time that was said twice is not clear
			to /= []time.Duration{1, 100_000, 10_000_000}[k.random.IntN(3)]
		}
		k.wall.set(to)
		for _, n := range k.nodes { // what none of its reads has met, a node cannot take out
			n.reg.Clock().Now()
		}
	}
	c, err := w.reg.Attach(context.Background(), session.AttachRequest{
		Account: "ann", Login: k.login.id, Token: p.shown,
	}, new(wire))
	require.NoError(k.t, err, "nobody honest is logged out")
	next := c.Token()
	if next.IsZero() || k.chance(20) { // welcome got lost
		return c
	}
	if p.shown != k.token {
		k.late++
	}
	if k.token == p.shown { // stored in its place, unless there is another one by now
		k.past = append(k.past, k.token)
		k.token = next
	}
	require.Equal(k.t, k.token.Reveal(), next.Reveal(), "all that are handed out at a time are one")
	if k.chance(70) {
		require.NoError(k.t, w.reg.ConfirmToken(context.Background(), c))
	}
	return c
}

// play has one or two processes come at once, and leave again or not.
func (k *keeper) play() {
	var all []process
	for range 1 + k.random.IntN(2) {
		all = append(all, process{shown: k.token, after: time.Duration(k.random.IntN(9_000)) * time.Millisecond})
	}
	if len(all) == 2 && all[0].after > all[1].after {
		all[0], all[1] = all[1], all[0]
	}
	var passed time.Duration
	for _, p := range all {
		k.nodes[0].pass(p.after - passed)
		passed = p.after
		if c := k.attach(p); k.chance(50) {
			c.Detach()
		}
	}
	switch {
	case k.chance(5):
		k.restart(k.node())
	case k.chance(10):
		_, _, err := k.node().vouch("ann", "phone")
		require.NoError(k.t, err)
	case k.chance(10):
		k.theft()
	}
	k.nodes[0].pass([]time.Duration{time.Second, time.Minute, 11 * time.Minute}[k.random.IntN(3)])
}

// theft has somebody come with a token that was replaced before.
func (k *keeper) theft() {
	for shown := (event.ResumeToken{}); shown != k.token; { // until the one in use is confirmed by its use
		shown = k.token
		k.attach(process{shown: shown})
	}
	if len(k.past) == 0 {
		return
	}
	k.nodes[0].pass(11 * time.Second)
	g := k.login.on(k.node())
	g.token = k.past[len(k.past)-1-k.random.IntN(min(len(k.past), 64))]
	require.Equal(k.t, event.TokenReuse, g.refused().Reason, "I26")
	require.Empty(k.t, k.nodes[0].list("ann"))
	g.token = k.token
	require.Equal(k.t, event.TokenReuse, g.refused().Reason, "the owner is told why")
	k.thefts++
	k.logIn()
}

func (k *keeper) run(t *testing.T, steps int) {
	k.t = t
	k.logIn()
	for range steps {
		k.play()
	}
	if steps >= 50 {
		require.NotZero(t, k.late)
		require.NotZero(t, k.thefts)
	}
}

func keeperSetup() setup {
	return setup{config: session.Config{IdleTimeout: -1, IdleDevice: -1, TokenRotation: 10 * time.Minute}}
}

// TestI26_RandomHoldersOfOneToken: an app and its extension come in any order, lose any word, the engine is restarted, and
// nobody of them is ever logged out; a token that was replaced never gets in once its interval is over, and ends the login.
func TestI26_RandomHoldersOfOneToken(t *testing.T) {
	rounds(t, *historyOps/20, func(t *testing.T, seed uint64, ops int) {
		inBubble(t, keeperSetup(), func(w *world) {
			k := &keeper{random: rand.New(rand.NewPCG(seed, 1)), nodes: []*world{w}, restart: func(w *world) { w.restart(w.now) }}
			k.run(w.t, ops)
		})
	})
}

// TestI26_RandomHoldersOverAFile: the same over a file, which is closed and opened again.
func TestI26_RandomHoldersOverAFile(t *testing.T) {
	rounds(t, *historyOps/100, func(t *testing.T, seed uint64, ops int) {
		path := filepath.Join(t.TempDir(), "store")
		open := func(t *testing.T) store.Store {
			st, err := boltstore.Open(path, boltstore.Config{})
			require.NoError(t, err)
			return st
		}
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, open(t), keeperSetup())
			k := &keeper{random: rand.New(rand.NewPCG(seed, 1)), nodes: []*world{w}, restart: func(w *world) {
				w.shut(w.reg)
				require.NoError(t, w.st.Close(context.Background()))
				w.st.Store = open(t)
				w.open(w.now)
			}}
			k.run(t, ops)
		})
	})
}

// TestI26_RandomHoldersOnTwoNodes: the same on two registries over one store.
func TestI26_RandomHoldersOnTwoNodes(t *testing.T) {
	rounds(t, *historyOps/200, func(t *testing.T, seed uint64, ops int) {
		s := keeperSetup()
		s.config.LeaseLife = time.Minute
		onNodes(t, s, func(c *cluster, x, y *world) {
			k := &keeper{random: rand.New(rand.NewPCG(seed, 1)), nodes: []*world{x, y}, restart: func(*world) {}}
			k.run(c.t, ops)
		})
	})
}

// TestI26_RandomHoldersUnderAClockThatIsSet, on one registry that is restarted, and on two.
func TestI26_RandomHoldersUnderAClockThatIsSet(t *testing.T) {
	t.Run("one", func(t *testing.T) {
		rounds(t, *historyOps/50, func(t *testing.T, seed uint64, ops int) {
			s, wall := withWall(keeperSetup())
			inBubble(t, s, func(w *world) {
				k := &keeper{
					random: rand.New(rand.NewPCG(seed, 1)), nodes: []*world{w}, restart: func(w *world) { w.restart(w.now) }, wall: wall,
				}
				k.run(w.t, ops)
			})
		})
	})
	t.Run("two", func(t *testing.T) {
		rounds(t, *historyOps/200, func(t *testing.T, seed uint64, ops int) {
			s, wall := withWall(keeperSetup())
			s.config.LeaseLife = time.Minute
			onNodes(t, s, func(c *cluster, x, y *world) {
				k := &keeper{
					random: rand.New(rand.NewPCG(seed, 1)), nodes: []*world{x, y}, restart: func(*world) {}, wall: wall,
				}
				k.run(c.t, ops)
			})
		})
	})
}
