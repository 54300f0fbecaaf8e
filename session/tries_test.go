package session_test

import (
	"cmp"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// TestErrors_WhatTheStoreSaidIsKept: a change that is given up after several tries has the store's last error in its own, and
// that of an earlier try that may still take effect (K20.6).
func TestErrors_WhatTheStoreSaidIsKept(t *testing.T) {
	busy := errors.New("serialization failure 40001")
	torn := errors.New("connection reset by peer")
	conflict, unknown := fmt.Errorf("%w: %w", store.ErrConflict, busy), fmt.Errorf("%w: %w", store.ErrUnknownOutcome, torn)
	broken := fmt.Errorf("%w: %w: %w", store.ErrUnknownOutcome, store.ErrFailed, torn)
	always := func(err error) func() error { return func() error { return err } }
	first := func(first, then error) func() func() error {
		return func() func() error {
			lose := once(first)
			return func() error { return cmp.Or(lose(), then) }
		}
	}
	for name, tt := range map[string]struct {
		fail func() func() error
		is   []error
		not  error
	}{
		"conflicts":                    {func() func() error { return always(conflict) }, []error{store.ErrConflict, busy}, store.ErrUnknownOutcome},
		"unknown outcomes":             {func() func() error { return always(unknown) }, []error{store.ErrUnknownOutcome, torn}, store.ErrConflict},
		"unknown, then conflicts":      {first(unknown, conflict), []error{store.ErrUnknownOutcome, torn, store.ErrConflict, busy}, nil},
		"unknown, then full":           {first(unknown, store.ErrFull), []error{store.ErrUnknownOutcome, torn, store.ErrFull}, nil},
		"conflict, then failed":        {first(conflict, store.ErrFailed), []error{store.ErrFailed}, store.ErrUnknownOutcome},
		"unknown, and the store fails": {first(broken, nil), []error{store.ErrFailed, store.ErrUnknownOutcome, torn}, nil},
	} {
		for call, do := range map[string]func(w *world) error{
			"login": func(w *world) error {
				_, err := w.tryLogin(request("bob", "b1", "ios"))
				return err
			},
			"logout": func(w *world) error { return w.reg.Logout(w.t.Context(), "ann", w.list("ann")[0].Login) },
			"delete": func(w *world) error {
				_, err := w.reg.DeleteAccount(w.t.Context(), session.DeleteRequest{Account: "cyd"})
				return err
			},
		} {
			t.Run(name+", "+call, func(t *testing.T) {
				onStores(t, setup{}, func(w *world) {
					w.login("ann", "a1", "ios")
					fail := tt.fail()
					w.st.set(func(f *faults) {
						f.before = func(b store.Batch) error {
							if b.Account == event.Account("cyd") { // the logins of a deleted account end before it is erased
								return nil
							}
							return fail()
						}
						f.erase = fail
					})
					if call == "delete" {
						w.login("cyd", "c1", "ios")
					}
					err := do(w)
					for _, is := range tt.is {
						require.ErrorIs(w.t, err, is)
					}
					if tt.not != nil {
						require.NotErrorIs(w.t, err, tt.not)
					}
					require.NotContains(w.t, err.Error(), "%!")
					w.st.heal()
				})
			})
		}
	}
}
