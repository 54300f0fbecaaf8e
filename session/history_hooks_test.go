package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
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
