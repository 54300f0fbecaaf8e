package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// loseTrack has the next commit not tell its outcome, nor does the store until it is healed. It returns the batch.
func (w *world) loseTrack(took bool) *store.Batch {
	lost := new(store.Batch)
	gone := func(b store.Batch) error {
		*lost = b
		w.st.set(func(f *faults) { f.load = func() error { return errDown } })
		return store.ErrUnknownOutcome
	}
	w.st.set(func(f *faults) {
		if took {
			f.after = func(b store.Batch, _ error) error { return gone(b) }
		} else {
			f.before = gone
		}
	})
	return lost
}

// A step of unknown outcome makes no end its own that another node has asked for.
func TestB7_S9_RevokedOnceBesideADoubt(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, y *world) {
		phone, tablet := y.login("ann", "phone", "ios"), y.login("ann", "tablet", "ios")
		require.NoError(c.t, x.reg.Logout(c.t.Context(), "ann", phone.id)) // it is not attached: y is not asked to look
		lose := once(store.ErrUnknownOutcome)
		c.st.set(func(f *faults) { f.before = func(store.Batch) error { return lose() } })
		require.NoError(c.t, y.reg.Logout(c.t.Context(), "ann", tablet.id))
		c.pass(5 * time.Second)
		require.Equal(c.t, []event.LoginID{phone.id}, revokedOn(x))
		require.Equal(c.t, []event.LoginID{tablet.id}, revokedOn(y))
		require.Equal(c.t, 1, countKind(x, session.ChangeEnded))
		require.Equal(c.t, 1, countKind(y, session.ChangeEnded))
	})
}

// The caller was told that the outcome is not known. Whatever it was, each end is told of once, by the node that made it.
func TestB7_S12_EndsOfUnknownOutcome(t *testing.T) {
	for name, tt := range map[string]struct {
		took  bool
		keep  bool // the credential
		other bool // x ends the login before y can see what came of its own try
		x, y  int  // revocations
		gone  bool
	}{
		"it took effect":                       {took: true, y: 1, gone: true},
		"it took effect, the credential stays": {took: true, keep: true, gone: true},
		"it did not":                           {},
		"it did not, and another node ends it": {other: true, x: 1, gone: true},
	} {
		for _, here := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", here", false: ", elsewhere"}[here], func(t *testing.T) {
				onNodes(t, setup{}, func(c *cluster, x, y *world) {
					g := map[bool]*world{true: y, false: x}[here].join("ann", "phone", "ios")
					c.loseTrack(tt.took)
					q := session.KickRequest{Account: "ann", All: true, KeepCredential: tt.keep}
					_, err := y.reg.Kick(c.t.Context(), q)
					require.ErrorIs(c.t, err, store.ErrUnknownOutcome)
					c.st.heal()
					if tt.other {
						_, err := x.reg.Kick(c.t.Context(), q)
						require.NoError(c.t, err)
					}
					c.pass(5 * time.Second)
					require.Equal(c.t, !tt.gone, g.live())
					require.Len(c.t, revokedOn(x), tt.x)
					require.Len(c.t, revokedOn(y), tt.y)
					require.Equal(c.t, tt.gone, len(g.wire.ends()) == 1)
					require.Equal(c.t, tt.gone && (here || !tt.other), countKind(y, session.ChangeEnded) == 1)
				})
			})
		}
	}
}

// What a step of unknown outcome found ended by another registry stays that one's, also where no leases tell them apart.
func TestB7_S12_AStrangeEndInAStepOfUnknownOutcome(t *testing.T) {
	inBubble(t, setup{crowd: true}, func(w *world) {
		here := w.reg
		other := w.open(w.now)
		w.reg = here
		phone, tablet := w.join("ann", "phone", "ios"), w.join("ann", "tablet", "ios")
		require.NoError(w.t, other.Logout(w.t.Context(), "ann", phone.id))
		w.loseTrack(true)
		require.ErrorIs(w.t, here.Logout(w.t.Context(), "ann", tablet.id), store.ErrUnknownOutcome)
		w.st.heal()
		w.pass(5 * time.Second)
		require.Equal(w.t, []event.LoginID{phone.id, tablet.id}, revokedOn(w))
		require.False(w.t, phone.live() || tablet.live())
	})
}

// The same of a login that has no live side any more, and at the second try.
func TestB7_S12_AnEndOfUnknownOutcomeWhileOffline(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.login("ann", "phone", "ios")
		w.pass(5 * time.Minute)
		require.Equal(w.t, []session.State{session.Offline}, w.states("ann"))
		w.loseTrack(true)
		lose := once(store.ErrUnknownOutcome)
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { return lose() } })
		require.ErrorIs(w.t, w.reg.Logout(w.t.Context(), "ann", g.id), store.ErrUnknownOutcome)
		w.st.heal()
		w.pass(5 * time.Second)
		require.Equal(w.t, []event.LoginID{g.id}, revokedOn(w))
		require.Equal(w.t, 1, countKind(w, session.ChangeEnded))
	})
}

// A commit of unknown outcome that has not taken effect when the registry looks does not take effect later, unseen.
func TestS12_ADoubtIsSettledForGood(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		g := w.join("ann", "phone", "ios")
		late := w.loseTrack(false)
		require.Error(w.t, w.reg.Logout(w.t.Context(), "ann", g.id))
		w.st.heal()
		w.pass(5 * time.Second)
		_, err := w.st.Commit(context.Background(), *late)
		require.ErrorIs(w.t, err, store.ErrConflict)
		require.True(w.t, g.live())
	})
}

// revokedOn returns for which logins a node has called the hook.
func revokedOn(w *world) (all []event.LoginID) {
	for _, e := range w.revocations() {
		all = append(all, e.Session.Login)
	}
	return all
}
