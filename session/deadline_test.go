package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// asLongAs is a stall of the store that honours ctx.
func asLongAs(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waiting are calls that read an account.
var waiting = []struct {
	name string
	call func(ctx context.Context, w *world, g []*gadget) error
}{
	{"Kick", func(ctx context.Context, w *world, g []*gadget) error {
		_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{g[0].id}})
		return err
	}},
	{"Kick, by a filter", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Filter: func(session.Session) bool { return true }})
		return err
	}},
	{"Login", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Login(ctx, request("ann", "a9", "ios"))
		return err
	}},
	{"Login, with a back-fill", func(ctx context.Context, w *world, _ []*gadget) error {
		q := request("ann", "a9", "ios")
		q.BackFillSince = time.Now().Add(-time.Hour)
		_, err := w.reg.Login(ctx, q)
		return err
	}},
	{"LoginReplacing", func(ctx context.Context, w *world, g []*gadget) error {
		_, err := w.reg.LoginReplacing(ctx, request("ann", "a9", "ios"), g[0].id)
		return err
	}},
	{"Attach", func(ctx context.Context, w *world, g []*gadget) error {
		_, err := w.reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: g[0].id, Token: g[0].token}, new(wire))
		return err
	}},
	{"Logout", func(ctx context.Context, w *world, g []*gadget) error { return w.reg.Logout(ctx, "ann", g[0].id) }},
	{"RemoveDevice", func(ctx context.Context, w *world, _ []*gadget) error {
		return w.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: "a1"})
	}},
	{"SetPrimary", func(ctx context.Context, w *world, _ []*gadget) error { return w.reg.SetPrimary(ctx, "ann", "a1") }},
	{"Ban", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Ban(ctx, session.BanRequest{Account: "ann"})
		return err
	}},
	{"Unban", func(ctx context.Context, w *world, _ []*gadget) error { return w.reg.Unban(ctx, "ann") }},
	{"DeleteAccount", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.DeleteAccount(ctx, session.DeleteRequest{Account: "ann"})
		return err
	}},
	{"DryRun", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.DryRun(ctx, request("ann", "a9", "ios"))
		return err
	}},
	{"Enforce", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Enforce(ctx, session.EnforceRequest{PerSecond: -1})
		return err
	}},
	{"Enforce, dry", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Enforce(ctx, session.EnforceRequest{PerSecond: -1, DryRun: true})
		return err
	}},
	{"List", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.List(ctx, "ann", "")
		return err
	}},
	{"Presence", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Presence(ctx, "ann")
		return err
	}},
	{"Recent", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Recent(ctx, "ann")
		return err
	}},
	{"Banned", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Banned(ctx, "ann")
		return err
	}},
	{"Inspect", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Inspect(ctx, "ann")
		return err
	}},
}

// K3.3: the store takes 3 s for a read, and would give it up with its context. A call that may take 100 ms takes that long.
func TestI36_DeadlinesHoldWhileTheStoreReads_K3_3(t *testing.T) {
	for _, tt := range waiting {
		t.Run(tt.name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				all := w.fill("ann", "ios", "a1", "a2")
				w.restart(w.now) // nothing is known by heart
				before := w.stored("ann")
				w.st.set(func(f *faults) { f.stall = asLongAs(3 * time.Second) })
				ctx, cancel := context.WithTimeout(w.t.Context(), 100*time.Millisecond)
				defer cancel()
				start := time.Now()
				require.ErrorIs(w.t, tt.call(ctx, w, all), context.DeadlineExceeded)
				took := time.Since(start)
				if !w.real {
					require.Equal(w.t, 100*time.Millisecond, took)
				}
				require.Less(w.t, took, 2*time.Second)
				w.st.heal()
				require.Equal(w.t, before, w.stored("ann"), "certainly not done")
			})
		})
	}
}

// K3.3: another call has the account's turn and waits for the store.
func TestI36_DeadlinesHoldWhileOthersHaveTheTurn_K3_3(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		w.restart(w.now)
		w.st.set(func(f *faults) { f.stall = asLongAs(time.Minute) })
		done := make(chan error, 1)
		go func() { done <- w.reg.SetPrimary(context.Background(), "ann", "a1") }()
		w.pass(time.Second)
		ctx, cancel := context.WithTimeout(w.t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{all[0].id}})
		require.ErrorIs(w.t, err, context.DeadlineExceeded)
		require.Equal(w.t, 100*time.Millisecond, time.Since(start))
		require.NoError(w.t, <-done)
	})
}

// Others are in the way each time. When the deadline is over, that is the end of it, and it is known that nothing was done.
func TestI36_TriesEndWithTheDeadline(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		before := w.stored("ann")
		ctx, cancel := context.WithCancel(w.t.Context())
		tries := 0
		w.st.set(func(f *faults) {
			f.before = func(store.Batch) error {
				if tries++; tries == 3 {
					cancel()
				}
				return store.ErrConflict
			}
		})
		_, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{all[0].id}})
		require.ErrorIs(w.t, err, context.Canceled)
		require.NotErrorIs(w.t, err, store.ErrUnknownOutcome)
		require.Equal(w.t, 3, tries)
		require.Equal(w.t, before, w.stored("ann"))
	})
}

// A try whose outcome is not known may still take effect: nobody is told that it was not done because the time is over.
func TestI36_AnUnknownOutcomeIsSeenThrough(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2")
		ctx, cancel := context.WithCancel(w.t.Context())
		tries := 0
		w.st.set(func(f *faults) {
			f.before = func(store.Batch) error {
				switch tries++; tries {
				case 1:
					cancel()
					return store.ErrUnknownOutcome
				case 2:
					return store.ErrConflict
				}
				return nil
			}
		})
		res, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{all[0].id}})
		require.NoError(w.t, err)
		require.True(w.t, res[0].Ended)
		require.Equal(w.t, "a2", w.devices("ann"))
	})
}

// K20.6: when all tries have failed, the error is the store's, not one that says how often.
func TestTheStoresErrorIsKept_K20_6(t *testing.T) {
	why := errors.New("row lock of session 4711")
	for _, kind := range []error{store.ErrConflict, store.ErrUnknownOutcome} {
		onStores(t, setup{}, func(w *world) {
			w.join("ann", "a1", "ios")
			w.st.set(func(f *faults) { f.before = func(store.Batch) error { return errors.Join(kind, why) } })
			_, err := w.tryLogin(request("ann", "a2", "ios"))
			require.ErrorIs(w.t, err, why)
			require.ErrorIs(w.t, err, kind)
			w.st.heal()
		})
	}
}

// A login whose outcome is not known is not let in later behind the back of whoever looks at the account.
func TestS12_ALoginOfUnknownOutcomeIsSettledForGood(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		w.join("ann", "a1", "ios")
		late := w.loseTrack(false)
		_, err := w.tryLogin(request("ann", "a2", "ios"))
		require.ErrorIs(w.t, err, store.ErrUnknownOutcome)
		w.st.heal()
		w.rule(onePhone)
		_, err = w.st.Commit(context.Background(), *late)
		require.ErrorIs(w.t, err, store.ErrConflict)
		require.Equal(w.t, "a1", w.devices("ann"))
	})
}
