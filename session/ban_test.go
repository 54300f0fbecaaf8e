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

func refusedAs(t *testing.T, err error, reason event.Reason, note string) session.Ban {
	t.Helper()
	require.ErrorIs(t, err, session.ErrBanned)
	e, ok := errors.AsType[*session.BannedError](err)
	require.True(t, ok)
	require.Equal(t, event.Closed{Reason: reason, Note: note, Retry: event.RetryNo}, e.Closed())
	require.Contains(t, e.Error(), string(reason))
	return e.Ban
}

func TestD8_Ban(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		phone, web := w.join("ann", "phone", "ios"), w.login("ann", "tab", "web")
		w.join("bea", "b1", "ios")
		w.saveCursor("ann", phone.res.Session.Incarnation, 1)
		ended, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann", Note: "spam"})
		require.NoError(w.t, err)
		require.Len(w.t, ended, 2)
		require.Equal(w.t, phone.id, ended[0].Session.Login)
		require.Equal(w.t, []event.Closed{{Reason: event.Banned, Note: "spam", Retry: event.RetryNo}}, phone.wire.ends())
		require.Equal(w.t, event.Banned, web.refused().Reason)
		require.Empty(w.t, w.devices("ann"))
		require.Len(w.t, w.revocations(), 2)
		require.Equal(w.t, "b1", w.devices("bea"))

		_, err = w.tryLogin(request("ann", "phone", "ios"))
		b := refusedAs(w.t, err, event.Banned, "spam")
		require.Zero(w.t, b.Until)
		require.NotZero(w.t, b.Since)
		w.restart(w.now)
		got, err := w.reg.Banned(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Equal(w.t, &b, got)

		for range 2 {
			require.NoError(w.t, w.reg.Unban(w.t.Context(), "ann"))
		}
		got, err = w.reg.Banned(w.t.Context(), "ann")
		require.NoError(w.t, err)
		require.Nil(w.t, got)
		again := w.login("ann", "phone", "ios")
		require.Equal(w.t, phone.res.Session.Incarnation, again.res.Session.Incarnation, "the device has kept its place")
		require.EqualValues(w.t, 1, w.cursor("ann", again.res.Session.Incarnation))
	})
}

func TestD8_BanEndsByItself(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		until := time.Now().Add(time.Hour)
		_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "new", Until: until})
		require.NoError(w.t, err, "also before it ever logged in")
		w.pass(time.Hour - time.Millisecond)
		_, err = w.tryLogin(request("new", "a1", "ios"))
		require.True(w.t, refusedAs(w.t, err, event.Banned, "").Until.Equal(until))
		w.pass(time.Millisecond)
		b, err := w.reg.Banned(w.t.Context(), "new")
		require.NoError(w.t, err)
		require.Nil(w.t, b)
		w.login("new", "a1", "ios")
	})
}

func TestD8_DeleteAccount(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		before := w.join("ann", "phone", "ios")
		other := w.login("ann", "tab", "web")
		old := w.stored("ann")
		ended, err := w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann", Note: "bye"})
		require.NoError(w.t, err)
		require.Len(w.t, ended, 2)
		require.Equal(w.t, []event.Closed{{Reason: event.AccountDeleted, Note: "bye", Retry: event.RetryNo}}, before.wire.ends())
		require.Equal(w.t, 1, countKind(w, session.ChangeDeleted))
		for _, c := range w.history() {
			if c.Kind == session.ChangeEnded {
				require.Zero(w.t, c.Position, "its entry is gone")
			}
		}

		now := w.stored("ann")
		require.Empty(w.t, now.data)
		require.Zero(w.t, now.head.Seq)
		require.Greater(w.t, now.head.Epoch, old.head.Epoch, "positions of before mean nothing any more")
		require.EqualValues(w.t, -1, w.cursor("ann", before.res.Session.Incarnation))
		_, err = other.tryAttach(new(wire))
		require.ErrorIs(w.t, err, session.ErrUnknownLogin)

		again := w.login("ann", "phone", "ios")
		require.NotEqual(w.t, before.res.Session.Incarnation, again.res.Session.Incarnation)
		require.EqualValues(w.t, 1, again.res.Session.Admission, "it begins anew")
	})
}

func TestD8_DeleteAccountForGood(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		w.join("ann", "phone", "ios")
		for range 2 { // a repetition is the same
			_, err := w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann", Refuse: true, Note: "bye"})
			require.NoError(w.t, err)
		}
		w.restart(w.now)
		_, err := w.tryLogin(request("ann", "phone", "ios"))
		refusedAs(w.t, err, event.AccountDeleted, "bye")
		require.NotContains(w.t, w.stored("ann").data, "phone")
		_, err = w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann"})
		require.NoError(w.t, err)
		w.login("ann", "phone", "ios")
	})
}

func TestD8_DeleteKeepsABan(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann", Note: "spam"})
		require.NoError(w.t, err)
		_, err = w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann"})
		require.NoError(w.t, err)
		_, err = w.tryLogin(request("ann", "phone", "ios"))
		refusedAs(w.t, err, event.Banned, "spam")
	})
}

// An account that was never logged in may have an inbox all the same.
func TestD8_DeleteAccountWithoutRecord(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		_, err := w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "nobody"})
		require.NoError(w.t, err)
		require.Empty(w.t, w.stored("nobody").data)
		accounts, err := w.st.Accounts(w.t.Context(), "", 10)
		require.NoError(w.t, err)
		require.Empty(w.t, accounts)
	})
}

func TestD8_DeleteFailsOnTheWay(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		phone := w.join("ann", "phone", "ios")
		w.st.set(func(f *faults) { f.erase = once(errDown) })
		_, err := w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann"})
		require.ErrorIs(w.t, err, errDown)
		require.Equal(w.t, []event.Reason{event.AccountDeleted}, phone.wire.reasons(), "its logins have ended")
		_, err = w.tryLogin(request("ann", "phone", "ios"))
		refusedAs(w.t, err, event.AccountDeleted, "")
		require.Zero(w.t, countKind(w, session.ChangeDeleted))

		_, err = w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann"})
		require.NoError(w.t, err)
		w.login("ann", "phone", "ios")
	})
}

func TestD8_DeleteUnderConflicts(t *testing.T) {
	for name, lost := range map[string]error{"conflict": store.ErrConflict, "unknown": store.ErrUnknownOutcome} {
		t.Run(name, func(t *testing.T) {
			onStores(t, setup{}, func(w *world) {
				w.join("ann", "phone", "ios")
				w.st.set(func(f *faults) { f.erase = once(lost) })
				_, err := w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "ann", Refuse: true})
				require.NoError(w.t, err)
				_, err = w.tryLogin(request("ann", "phone", "ios"))
				refusedAs(w.t, err, event.AccountDeleted, "")
			})
		})
	}
}

func TestD8_BadInput(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		w.join("ann", "phone", "ios")
		before := w.stored("ann")
		long := string(make([]byte, 513))
		ctx := context.Background()
		for name, call := range map[string]func() error{
			"ban nobody": func() error { _, err := w.reg.Ban(ctx, session.BanRequest{}); return err },
			"long note":  func() error { _, err := w.reg.Ban(ctx, session.BanRequest{Account: "ann", Note: long}); return err },
			"bad note":   func() error { _, err := w.reg.Ban(ctx, session.BanRequest{Account: "ann", Note: "\x00"}); return err },
			"past": func() error {
				_, err := w.reg.Ban(ctx, session.BanRequest{Account: "ann", Until: time.Now()})
				return err
			},
			"unban nobody":  func() error { return w.reg.Unban(ctx, "") },
			"who":           func() error { _, err := w.reg.Banned(ctx, ""); return err },
			"delete nobody": func() error { _, err := w.reg.DeleteAccount(ctx, session.DeleteRequest{}); return err },
			"delete note": func() error {
				_, err := w.reg.DeleteAccount(ctx, session.DeleteRequest{Account: "ann", Note: long})
				return err
			},
		} {
			_, ok := errors.AsType[*event.InvalidError](call())
			require.True(w.t, ok, name)
		}
		require.Equal(w.t, before, w.stored("ann"))
	})
}

// TestBan_UntilIsWithinReach: a ban beyond what can be written would be over at once, or never be shown (K20.7).
func TestBan_UntilIsWithinReach(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		w.login("ann", "phone", "ios")
		for name, until := range map[string]time.Time{
			"year 10000": time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC), "overflow": time.Unix(1<<60, 0),
		} {
			_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann", Until: until})
			invalid, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok, "%s: %v", name, err)
			require.Equal(w.t, "until", invalid.Field)
		}
		require.Len(w.t, w.list("ann"), 1, "nobody has ended")
		_, err := w.reg.Ban(w.t.Context(), session.BanRequest{Account: "ann", Until: time.Date(9_999, 12, 31, 0, 0, 0, 0, time.UTC)})
		require.NoError(w.t, err)
		_, err = w.tryLogin(request("ann", "phone", "ios"))
		require.ErrorIs(w.t, err, session.ErrBanned)
	})
}
