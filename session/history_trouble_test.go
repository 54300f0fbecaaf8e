package session_test

import (
	"cmp"
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/transport/membus"
)

// trouble is what goes wrong around a history: clocks that are set, servers that are off, hooks that hang, subscribers that do
// not read, connections that block.
type trouble struct {
	walls   []*wallClock // of each world
	calm    time.Time    // since when no clock was set and no server was off
	refuses map[hookName]bool
	deaf    []*session.Subscription // nobody reads them
	within  time.Duration           // how long attaches and kicks may take; 0: it does not matter

	mu    sync.Mutex
	moods map[hookName]map[event.Account]mood
	gate  chan struct{} // closed to let go what hangs
}

func newTrouble(seed uint64, walls ...*wallClock) *trouble {
	return &trouble{
		walls:   walls,
		refuses: map[hookName]bool{decideLogin: seed%2 == 0, decidePolicy: seed/2%2 == 0},
		moods:   map[hookName]map[event.Account]mood{decideLogin: {}, decidePolicy: {}, revoke: {}},
	}
}

// quick requires that a call has not waited for something that hangs.
func (h *history) quick(begin time.Time) {
	if h.trouble != nil && h.trouble.within > 0 {
		require.LessOrEqual(h.t, time.Since(begin), h.trouble.within, "I36: it waits for nobody")
	}
}

// atOnce is how long a call may take beside something that hangs: a Send that was about to begin may reach the host's code.
const atOnce = 25 * time.Millisecond

// beside requires that what is done takes no longer than it does without the trouble of others.
func (h *history) beside(do func()) {
	h.trouble.within = atOnce
	do()
	h.trouble.within = 0
}

// troubled returns a setup with hooks and clocks that the history sets.
func (t *trouble) setup(world int) setup {
	s := historySetup()
	s.rules.MaxLogins = troubleBound
	s.config.AbsoluteLifetime, s.config.IdleDevice = 0, 30*day
	s.config.Wall = t.walls[world].now
	if len(t.walls) > 1 {
		s.config.SweepInterval = nodesSweep
	}
	s.config.DecideLogin = func(ctx context.Context, q session.Question) (bool, error) {
		return true, t.behave(ctx, decideLogin, q.Account)
	}
	s.config.DecidePolicy = func(ctx context.Context, q session.Question) (*policy.Policy, error) {
		return nil, t.behave(ctx, decidePolicy, q.Account)
	}
	s.config.Revoke = func(ctx context.Context, e session.Ended) error { return t.behave(ctx, revoke, e.Session.Account) }
	if !t.refuses[decideLogin] {
		s.config.DecideLoginFallback = session.Admit
	}
	if !t.refuses[decidePolicy] {
		s.config.DecidePolicyFallback = session.Admit
	}
	return s
}

const troubleBound = 12

// withTrouble has the history know of its trouble.
func (h *history) withTrouble(tr *trouble) *history {
	tr.calm, tr.gate = time.Now(), make(chan struct{}) // the channel belongs to the bubble
	h.trouble, h.life = tr, 0
	for _, m := range h.accounts {
		m.bound = troubleBound
	}
	h.ignore()
	return h
}

// ignore subscribes without ever reading.
func (h *history) ignore() {
	for _, w := range h.worlds {
		s, err := w.reg.Subscribe(1)
		require.NoError(h.t, err)
		h.trouble.deaf = append(h.trouble.deaf[max(len(h.trouble.deaf)-10, 0):], s)
	}
}

// makeTrouble is one step of a troubled history.
func (h *history) makeTrouble(w *world, m *modelAccount, live []*modelLogin) {
	var l *modelLogin
	if len(live) > 0 {
		l = live[h.random.IntN(len(live))]
	}
	switch op := h.random.IntN(200); {
	case op < 20:
		h.setClock()
	case op < 22:
		h.off(w)
	case op < 23:
		w.pass(25 * time.Hour)
	case op < 28:
		h.windows(w, m)
	case m.banned || l == nil:
	case op < 80:
		h.ask(w, m)
	case op < 90:
		h.exhaust(w, m)
	case op < 110:
		h.hangingRevoke(w, m, l)
	case op < 160:
		h.blocked(w, m, l)
	case op < 190:
		h.lostConfirmation(w, m, l)
	default:
		h.ignore()
	}
}

// windows logs in private windows that are left behind, until the account's bound is near.
func (h *history) windows(w *world, m *modelAccount) {
	for range 4 {
		if h.idle(w); m.banned {
			return
		}
		q := request(m.name, "", "web")
		g, err := w.tryLogin(q)
		if h.down(err) {
			return
		}
		h.admitted(m, q, g, err, nil)
		w.pass(modelWindow + time.Second)
		h.settle()
	}
}

// blocked ends a connection, or takes its place, while its Send hangs and looks at no context.
func (h *history) blocked(w *world, m *modelAccount, l *modelLogin) {
	gate := make(chan struct{})
	c := &wire{onSend: func(context.Context) error {
		<-gate
		return nil
	}}
	h.attachBy(w, m, l, isVouched, c)
	var sending sync.WaitGroup
	if n := len(l.tabs); n > 0 && l.tabs[n-1].wire == c {
		sending.Go(func() { _ = l.tabs[n-1].conn.Send(context.Background(), []event.Frame{&event.Pong{}}) })
		synctest.Wait()
		h.beside(func() {
			switch h.random.IntN(4) {
			case 0:
				h.kick(w, m, session.KickRequest{Logins: []event.LoginID{l.g.id}})
			case 1:
				h.attachBy(h.world(), m, l, showsToken, new(wire))
			case 2:
				q := request(m.name, l.device, l.platform) // its own place is taken
				begin := time.Now()
				g, err := w.tryLogin(q)
				h.quick(begin)
				if !h.down(err) {
					close(gate) // how it ends is looked at
					sending.Wait()
					h.admitted(m, q, g, err, nil)
				}
			case 3:
				h.neighbour(w, h.accounts[h.random.IntN(len(h.accounts))])
			}
		})
	}
	select {
	case <-gate:
	default:
		close(gate)
	}
	sending.Wait()
}

// lostConfirmation has the engine hear that a device has its new token, and the device not that the engine has heard it. It
// comes back with the old one.
func (h *history) lostConfirmation(w *world, m *modelAccount, l *modelLogin) {
	before := len(l.old)
	if h.stored(w, l); l.ended != "" || len(l.old) == before && before < 64 || time.Since(l.confirmed) != 0 {
		return
	}
	h.attachBy(w, m, l, repeatsLast, new(wire))
}

// heard requires that those who read were told everything, whatever became of those who do not.
func (h *history) heard() {
	lost := uint64(0)
	for _, s := range h.trouble.deaf {
		important, frequent := s.Dropped()
		lost += important + frequent
	}
	require.Positive(h.t, lost, "somebody was deaf")
}

// TestI30_I35_HistoryOfTrouble: the wall clock is set, the server is off for 40 days, hooks fail and hang, connections block,
// subscribers do not read. Nobody but those whom it concerns notices, and nobody ends by it.
func TestI30_I35_HistoryOfTrouble(t *testing.T) {
	rounds(t, *historyOps/10, func(t *testing.T, seed uint64, ops int) {
		tr := newTrouble(seed, new(wallClock))
		inBubble(t, tr.setup(0), func(w *world) {
			h := newHistory(w.t, seed, w).withTrouble(tr)
			h.run(ops)
			h.heard()
			h.check()
		})
	})
}

// TestI30_I40_HistoryOfTroubleOnTwoNodes: the same on two registries over one store, each with a clock of its own. It begins with
// the same seed each time unless one is given, so that what fails is the change.
func TestI30_I40_HistoryOfTroubleOnTwoNodes(t *testing.T) {
	roundsFrom(t, cmp.Or(*historySeed, 1), *historyOps/100, func(t *testing.T, seed uint64, ops int) {
		tr := newTrouble(seed, new(wallClock), new(wallClock))
		onNodes(t, tr.setup(0), func(c *cluster, x, y *world) {
			y.shut(y.reg)
			s := tr.setup(1)
			s.config.Node, s.config.Leases, s.config.Bus, s.config.IdleTimeout = "y", y.now.config.Leases, y.now.config.Bus, -1
			y.open(s)
			h := newHistory(c.t, seed, x, y).withTrouble(tr)
			h.cluster, h.loose = c, true
			c.bus.Duplicate(membus.EveryNth(3))
			h.run(ops)
			h.heard()
			h.check()
		})
	})
}
