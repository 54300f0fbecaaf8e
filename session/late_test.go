package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// late holds a commit back whose outcome nobody knows, as a network does that delivers it after its time-out.
type late struct {
	w     *world
	batch *store.Batch
}

// late holds back the next commit, and calls meantime before the registry learns that its outcome is not known.
func (w *world) late(meantime func()) *late {
	l := &late{w: w}
	w.st.set(func(f *faults) {
		f.before = func(b store.Batch) error {
			if l.batch != nil {
				return nil
			}
			l.batch = &b
			meantime()
			return store.ErrUnknownOutcome
		}
	})
	return l
}

// arrive has the commit take effect if it still can.
func (l *late) arrive() error {
	_, err := l.w.st.Store.Commit(context.Background(), *l.batch)
	return err
}

// A login's commit is late, and the rules that it was decided by are replaced. It is decided anew, and refused. Then
// nothing has changed, and nothing does.
func TestCommit_WhatWasRefusedInTheEndTakesNoEffectLater(t *testing.T) {
	closed := policy.Rules{Platforms: map[event.Platform]int{"ios": 0}}
	t.Run("login", func(t *testing.T) {
		inBubble(t, setup{}, func(w *world) {
			w.join("ann", "a1", "web")
			l := w.late(func() { require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, closed))) })
			_, err := w.tryLogin(request("ann", "a2", "ios"))
			require.ErrorIs(w.t, err, session.ErrRefused)
			require.ErrorIs(w.t, l.arrive(), store.ErrConflict)
			w.st.heal()
			w.pass(time.Minute)
			require.Equal(w.t, "a1", w.devices("ann"))
		})
	})
	t.Run("first login, enforced", func(t *testing.T) {
		inBubble(t, setup{}, func(w *world) {
			l := w.late(func() { w.rule(closed) })
			_, err := w.tryLogin(request("ann", "a1", "ios"))
			require.ErrorIs(w.t, err, session.ErrRefused)
			require.ErrorIs(w.t, l.arrive(), store.ErrConflict)
			w.st.heal()
			w.pass(time.Minute)
			require.Empty(w.t, w.devices("ann"))
		})
	})
	t.Run("the host that is asked again does not answer", func(t *testing.T) {
		broken := false
		s := setup{}
		brokenHook(&s, "DecideLogin", func(context.Context) error {
			if broken {
				return errDown
			}
			return nil
		})
		inBubble(t, s, func(w *world) {
			w.join("ann", "a1", "web")
			l := w.late(func() {
				broken = true
				require.NoError(w.t, w.reg.SetPolicy(mustPolicy(w.t, policy.Rules{})))
			})
			_, err := w.tryLogin(request("ann", "a2", "ios"))
			hookFailed(w.t, err, "DecideLogin")
			require.ErrorIs(w.t, l.arrive(), store.ErrConflict)
		})
	})
}

// A login's commit has taken effect when it is looked at the second time. The login has its slot and its window, however
// long the registry has been up.
func TestCommit_ALoginThatLandsLateHoldsItsSlot(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		w.pass(10 * time.Minute)
		w.late(func() {}).arriving()
		g := w.login("ann", "a1", "ios")
		require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
		require.Equal(w.t, []string{"login a1"}, w.events.take())
		w.pass(time.Minute)
		require.Equal(w.t, []session.State{session.Lingering}, w.states("ann"))
		g.attach()
	})
}

// A login that comes back for a slot, by a step that lands late, is admitted once, and told of once.
func TestCommit_AComebackThatLandsLateIsOne(t *testing.T) {
	inBubble(t, setup{rules: policy.Rules{Platforms: map[event.Platform]int{"ios": 1}}}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		g.conn.Detach()
		w.pass(10 * time.Minute)
		w.join("ann", "a2", "ios")
		w.events.take()
		w.late(func() {}).arriving()
		g.attach()
		require.Equal(w.t, []session.State{session.Online}, w.states("ann"))
		require.Equal(w.t, []string{"ended a2 evicted_quota", "online a1"}, w.events.take())
		require.EqualValues(w.t, 3, w.list("ann")[0].Admission)
		require.Len(w.t, w.revocations(), 1)
	})
}

// arriving has the commit take effect when it is looked at the second time.
func (l *late) arriving() {
	loads := 0
	l.w.st.set(func(f *faults) {
		f.load = func() error {
			if l.batch == nil {
				return nil
			}
			if loads++; loads == 2 {
				return l.arrive()
			}
			return nil
		}
	})
}

// An end that lands late is the call's own: it is not told that there was nothing to end.
func TestCommit_AnEndThatLandsLateIsTheCallsOwn(t *testing.T) {
	for name, end := range map[string]func(w *world, g *gadget) error{
		"logout": func(w *world, g *gadget) error { return w.reg.Logout(w.t.Context(), "ann", g.id) },
		"kick": func(w *world, g *gadget) error {
			results, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}})
			require.Equal(w.t, []session.KickResult{{Login: g.id, Ended: true}}, results)
			return err
		},
		"kick of all": func(w *world, g *gadget) error {
			results, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true})
			require.Equal(w.t, []session.KickResult{{Login: g.id, Ended: true}}, results)
			return err
		},
		"kick of all by one of them": func(w *world, g *gadget) error {
			results, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", All: true, By: g.id})
			require.Equal(w.t, []session.KickResult{{Login: g.id, Ended: true}}, results)
			return err
		},
		"kick of itself": func(w *world, g *gadget) error {
			results, err := w.reg.Kick(w.t.Context(), session.KickRequest{Account: "ann", Logins: []event.LoginID{g.id}, By: g.id})
			require.Equal(w.t, []session.KickResult{{Login: g.id, Ended: true}}, results)
			return err
		},
		"a device is removed": func(w *world, g *gadget) error {
			return w.reg.RemoveDevice(w.t.Context(), session.RemoveDeviceRequest{Account: "ann", Device: "a1"})
		},
		"ban": func(w *world, g *gadget) error {
			ended, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann"})
			require.Len(w.t, ended, 1)
			return err
		},
		"delete": func(w *world, g *gadget) error {
			ended, err := w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann"})
			require.Len(w.t, ended, 1)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				g := w.join("ann", "a1", "ios")
				w.late(func() {}).arriving()
				require.NoError(w.t, end(w, g))
				require.False(w.t, g.live())
				require.Len(w.t, g.wire.ends(), 1)
				require.Len(w.t, w.revocations(), 1)
				require.Empty(w.t, w.list("ann"))
			})
		})
	}
}

// The account's first login lands late, when Enforce has gone through the accounts already.
func TestI19_EnforceReachesALoginThatLandsLate(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		l := w.late(func() {})
		loads := 0
		w.st.set(func(f *faults) {
			f.load = func() error {
				if l.batch != nil {
					if loads++; loads == 2 {
						w.st.set(func(f *faults) { f.load = nil })
						w.rule(policy.Rules{Platforms: map[event.Platform]int{"ios": 0}})
						return l.arrive()
					}
				}
				return nil
			}
		})
		_, err := w.tryLogin(request("ann", "a1", "ios"))
		require.NoError(w.t, err)
		w.pass(time.Minute)
		require.Empty(w.t, w.devices("ann"))
	})
}

// The same, and the login lands only when both its call and Enforce have returned. The account was not in the store then.
func TestI19_EnforceReachesALoginThatLandsAfterIt(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		l := w.late(func() { w.st.set(func(f *faults) { f.load = func() error { return errDown } }) })
		_, err := w.tryLogin(request("ann", "a1", "ios"))
		require.ErrorIs(w.t, err, store.ErrUnknownOutcome)
		w.rule(policy.Rules{Platforms: map[event.Platform]int{"ios": 0}})
		require.NoError(w.t, l.arrive())
		w.st.heal()
		w.pass(time.Minute)
		require.Empty(w.t, w.devices("ann"))
		require.Equal(w.t, 1, countKind(w, session.ChangeEnded))
	})
}

// The same if nobody learns whether it has landed: its caller has an error, and the store cannot be read for a while.
func TestI19_EnforceReachesALoginOfUnknownOutcome(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		l := w.late(func() {
			w.rule(policy.Rules{Platforms: map[event.Platform]int{"ios": 0}})
			w.st.set(func(f *faults) { f.load = func() error { return errDown } })
		})
		_, err := w.tryLogin(request("ann", "a1", "ios"))
		require.ErrorIs(w.t, err, store.ErrUnknownOutcome)
		require.NoError(w.t, l.arrive())
		w.pass(5 * time.Second)
		w.st.heal()
		w.pass(time.Minute)
		require.Empty(w.t, w.devices("ann"))
	})
}
