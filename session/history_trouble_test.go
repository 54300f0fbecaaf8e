package session_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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

// mood is how a hook of the host's behaves for one account.
type mood int

const (
	answers   mood = iota
	fails          // returns an error
	panics         //
	hangs          // until its context ends
	forgets        // hangs, and does not look at its context
	takesTime      // answers when it is let go
	moods
)

// hookName is one of the hooks that have moods.
type hookName int

const (
	decideLogin hookName = iota
	decidePolicy
	revoke
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

// behave is the hook's code.
func (t *trouble) behave(ctx context.Context, hook hookName, a event.Account) error {
	t.mu.Lock()
	mood, gate := t.moods[hook][a], t.gate
	t.mu.Unlock()
	switch mood {
	case fails:
		return errHook
	case panics:
		panic("the host's hook")
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	case forgets, takesTime:
		<-gate
	}
	return nil
}

var errHook = errors.New("the host's backend is down")

func (t *trouble) set(hook hookName, a event.Account, m mood) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moods[hook][a] = m
}

// letGo ends everything that hangs.
func (t *trouble) letGo() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.gate)
	t.gate = make(chan struct{})
}

// calmer sets the hook's mood back and lets everything go that hangs.
func (t *trouble) calmer(hook hookName, a event.Account) {
	t.set(hook, a, answers)
	t.letGo()
	synctest.Wait()
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

// setClock sets the wall clock of one node, or sets it right.
func (h *history) setClock() {
	tr := h.trouble
	wall := tr.walls[h.random.IntN(len(tr.walls))]
	steps := []time.Duration{20 * time.Second, 100 * time.Second, 10 * time.Hour, 40 * day, 20 * 365 * day}
	ahead := time.Duration(h.random.Int64N(int64(steps[h.random.IntN(len(steps))])))
	if h.random.IntN(2) == 0 {
		ahead = -ahead
	}
	if h.random.IntN(3) == 0 {
		ahead = 0
	}
	before := time.Duration(wall.off.Load())
	wall.set(ahead)
	if (ahead - before).Abs() > 2*time.Minute {
		tr.calm = time.Now()
	}
	if h.random.IntN(2) == 0 {
		h.worlds[0].pass(time.Duration(h.random.IntN(60)) * time.Second)
	}
}

// off stops a server for hours, or for 40 days.
func (h *history) off(w *world) {
	for _, m := range h.accounts {
		h.touch(w, m)
	}
	var lingers []*modelLogin // anew: they hold their slots when the server stops
	for _, m := range h.accounts {
		for _, l := range m.live() {
			if m.holds(l) {
				lingers = append(lingers, l)
			}
		}
	}
	w.shut(w.reg)
	for _, m := range h.accounts {
		for _, l := range m.live() {
			if l.online && l.on == w { // it has lost its connection
				require.Equal(h.t, []event.Reason{event.Shutdown}, l.tabs[0].wire.reasons())
				l.online, l.tabs, l.since = false, nil, time.Now()
			}
		}
	}
	away := time.Duration(2+h.random.IntN(9)) * time.Hour
	if len(h.worlds) == 1 && h.random.IntN(2) == 0 {
		away = 40 * day
	}
	w.pass(away)
	if h.random.IntN(3) == 0 {
		h.setClock()
	}
	w.open(w.now)
	h.trouble.calm = time.Now()
	h.ignore()
	w.events.add(session.Change{Kind: restarted})
	if len(h.worlds) > 1 {
		h.outlast()
		return
	}
	for _, l := range lingers {
		l.since = time.Now()
	}
}

// idle looks for logins that were ended for their age. None is within a day after a clock was set or a server was off (I30),
// and none that holds a slot.
func (h *history) idle(w *world) {
	tr := h.trouble
	defer func() {
		if tr.apart() && time.Since(tr.calm) > 12*time.Hour { // the grace is the time to set them right
			for _, wall := range tr.walls {
				wall.set(0)
			}
			tr.calm = time.Now()
		}
	}()
	if time.Since(tr.calm) < day-time.Hour {
		return
	}
	for _, m := range h.accounts {
		for _, o := range h.worlds { // each by its own clock
			h.touch(o, m)
		}
		there := map[event.LoginID]bool{}
		for _, s := range w.list(m.name) {
			there[s.Login] = true
		}
		for _, l := range m.live() {
			if there[l.g.id] {
				continue
			}
			require.Greater(h.t, time.Since(tr.calm), day, "I30: a clock or a stop has ended a login")
			require.False(h.t, l.online)
			require.True(h.t, tr.apart() || !m.holds(l))
			h.over(l, event.ExpiredIdle)
			_, err := l.g.on(w).tryAttach(new(wire))
			if tr.apart() && errors.Is(err, session.ErrUnknownLogin) {
				continue // one node has ended it, and by the other one's clock, which is believed by now, that is long over
			}
			require.ErrorIs(h.t, err, session.ErrEnded)
			require.Equal(h.t, event.ExpiredIdle, event.ClosedOf(err).Reason)
		}
	}
}

// apart reports whether the nodes' clocks differ by more than they may.
func (t *trouble) apart() bool {
	var offs []int64
	for _, w := range t.walls {
		offs = append(offs, w.off.Load())
	}
	return time.Duration(slices.Max(offs)-slices.Min(offs)) > time.Minute
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

// ask logs a device in while a hook fails or hangs for its account, and another account beside it. Sometimes the rules change
// meanwhile.
func (h *history) ask(w *world, m *modelAccount) {
	tr := h.trouble
	hook, mood := hookName(h.random.IntN(2)), mood(1+h.random.IntN(int(moods)-1))
	tr.set(hook, m.name, mood)
	q := request(m.name, event.DeviceID(fmt.Sprint("d", h.random.IntN(12))), modelPlatforms[h.random.IntN(len(modelPlatforms))])
	var g *gadget
	var err error
	var took time.Duration
	done := make(chan struct{})
	begin := time.Now()
	go func() {
		defer close(done)
		g, err = w.tryLogin(q)
		took = time.Since(begin)
	}()
	if mood == fails || mood == panics {
		<-done
		require.LessOrEqual(h.t, took, atOnce)
	} else {
		synctest.Wait()
		if o := h.accounts[h.random.IntN(len(h.accounts))]; o != m {
			h.beside(func() { h.neighbour(w, o) })
		}
		if h.random.IntN(4) == 0 && m.rules == nil {
			h.changeBut(m, hook == decidePolicy)
		}
	}
	if mood == takesTime {
		tr.calmer(hook, m.name)
	}
	<-done
	require.LessOrEqual(h.t, took, 3*hookTime, "it waits no longer than the hook may take")
	if mood != takesTime && tr.refuses[hook] {
		failed, ok := errors.AsType[*session.HookError](err)
		require.True(h.t, ok, "I35: with the account's rules unknown nobody gets in: %v", err)
		require.Positive(h.t, failed.RetryAfter)
	} else if errors.Is(err, session.ErrHookFailed) { // the change of rules took longer than the hook may take
		require.Equal(h.t, takesTime, mood)
	} else {
		h.admitted(m, q, g, err, nil)
	}
	tr.calmer(hook, m.name)
}

const hookTime = 2 * time.Second // the default

// neighbour is an account that has no trouble.
func (h *history) neighbour(w *world, o *modelAccount) {
	live := o.live()
	if o.banned {
		return
	}
	begin := time.Now()
	switch h.random.IntN(3) {
	case 0:
		h.login(w, o)
		h.quick(begin)
	case 1:
		if len(live) > 0 {
			h.attach(w, o, live[h.random.IntN(len(live))])
		}
	case 2:
		if len(live) > 0 {
			h.kick(w, o, session.KickRequest{Logins: []event.LoginID{live[0].g.id}})
		}
	}
}

// exhaust has more calls of a hook hang than there may be: from then on the account has its answer at once, and others do
// not notice.
func (h *history) exhaust(w *world, m *modelAccount) {
	tr := h.trouble
	hook := hookName(h.random.IntN(2))
	if !tr.refuses[hook] {
		return
	}
	tr.set(hook, m.name, forgets)
	q := request(m.name, "d1", "ios")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := w.tryLogin(q)
			if !errors.Is(err, session.ErrHookFailed) {
				h.t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	before, begin := skips(w.reg), time.Now()
	_, err := w.tryLogin(q)
	require.ErrorIs(h.t, err, session.ErrHookFailed)
	require.Equal(h.t, before+1, skips(w.reg))
	require.LessOrEqual(h.t, time.Since(begin), atOnce)
	if o := h.accounts[h.random.IntN(len(h.accounts))]; o != m {
		h.beside(func() { h.neighbour(w, o) })
	}
	tr.calmer(hook, m.name)
}

// hangingRevoke kicks a login whose revoke hook has no answer.
func (h *history) hangingRevoke(w *world, m *modelAccount, l *modelLogin) {
	tr := h.trouble
	mood := fails + mood(h.random.IntN(int(forgets)))
	tr.set(revoke, m.name, mood)
	begin := time.Now()
	var took time.Duration // of the kick: the neighbour takes its time, too
	done := make(chan error, 1)
	go func() {
		_, err := w.reg.Kick(h.t.Context(), session.KickRequest{Account: m.name, Logins: []event.LoginID{l.g.id}, By: l.g.id})
		took = time.Since(begin)
		done <- err
	}()
	synctest.Wait()
	for _, b := range l.tabs {
		require.False(h.t, b.live(), "I21: fenced before the hook is asked")
	}
	if o := h.accounts[h.random.IntN(len(h.accounts))]; o != m {
		h.beside(func() { h.neighbour(w, o) })
	}
	require.NoError(h.t, <-done)
	require.LessOrEqual(h.t, took, hookTime+atOnce)
	if len(h.worlds) > 1 { // where the connection is they wait for the hook, or do not hear that it has run
		h.worlds[0].pass(2 * hookTime)
	}
	h.over(l, event.KickedSelf)
	tr.calmer(revoke, m.name)
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

// admittedLoosely takes over what a login did to the account.
func (h *history) admittedLoosely(m *modelAccount, in *modelLogin, replaced []*modelLogin) {
	for _, l := range replaced {
		l.ended = ""
	}
	in.since, in.ended = time.Now(), ""
	m.all = append(m.all, in)
	for _, v := range in.g.res.Victims {
		for _, l := range m.live() {
			if l.g.id != v.Session.Login {
				continue
			}
			if v.Closed.Reason == event.KickedSelf { // it was chosen
				require.Contains(h.t, replaced, l)
				h.over(l, event.KickedSelf)
			} else {
				h.victim(l, in, v.Closed.Reason)
			}
		}
	}
	h.adopt(in.g.w, m, in)
}

// adopt takes over what an admission did, and requires that only those went whom it concerns.
func (h *history) adopt(w *world, m *modelAccount, in *modelLogin) {
	there := map[event.LoginID]uint64{}
	for _, s := range w.list(m.name) {
		there[s.Login] = s.Admission
	}
	for _, l := range m.live() {
		if l.admission = there[l.g.id]; l.admission == 0 {
			h.victim(l, in, l.g.on(w).refused().Reason)
		}
	}
}

// victim notes that a login had to go for another one.
func (h *history) victim(l, in *modelLogin, why event.Reason) {
	switch {
	case why == event.ExpiredIdle:
		require.Greater(h.t, time.Since(h.trouble.calm), day, "I30: a clock has ended a login")
	case l.device == in.device:
		require.Equal(h.t, event.Replaced, why)
	default:
		require.Equal(h.t, event.EvictedQuota, why, "I30: nobody ends by a clock")
		require.True(h.t, l.platform == in.platform || !l.online, "I19: nobody goes for another platform's sake, but at the bound")
	}
	h.over(l, why)
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
