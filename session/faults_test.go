package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// calls are all ways to change an account. They are made with ann's devices a1 to a4 attached, and a5 long offline.
var calls = []struct {
	name string
	call func(ctx context.Context, w *world, g []*gadget) error
}{
	{"login that evicts", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Login(ctx, request("ann", "a6", "ios"))
		return err
	}},
	{"login that replaces", func(ctx context.Context, w *world, _ []*gadget) error {
		_, err := w.reg.Login(ctx, request("ann", "a2", "ios"))
		return err
	}},
	{"comeback", func(ctx context.Context, w *world, g []*gadget) error {
		_, err := w.reg.Attach(ctx, session.AttachRequest{Account: "ann", Login: g[0].id, Token: g[0].token}, new(wire))
		return err
	}},
	{"kick", func(ctx context.Context, w *world, g []*gadget) error {
		res, err := w.reg.Kick(ctx, session.KickRequest{Account: "ann", Logins: []event.LoginID{g[1].id, g[2].id}})
		if err != nil && len(res) > 0 {
			return errors.New("results beside an error")
		}
		return err
	}},
	{"logout", func(ctx context.Context, w *world, g []*gadget) error { return w.reg.Logout(ctx, "ann", g[1].id) }},
	{"remove device", func(ctx context.Context, w *world, g []*gadget) error {
		return w.reg.RemoveDevice(ctx, session.RemoveDeviceRequest{Account: "ann", Device: g[1].res.Session.Device})
	}},
}

// ready logs in one device that goes offline, and fills the platform.
func ready(w *world) []*gadget {
	w.t.Helper()
	all := []*gadget{w.join("ann", "a5", "ios")}
	all[0].conn.Detach()
	w.pass(5 * time.Minute)
	all = append(all, w.fill("ann", "ios", "a1", "a2", "a3", "a4")...)
	w.events.take()
	return all
}

func TestS12_StoreFailsBeforeTheEffect(t *testing.T) {
	for _, tt := range calls {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				all := ready(w)
				before, listed := w.stored("ann"), w.devices("ann")
				w.st.set(func(f *faults) { f.before = func(store.Batch) error { return store.ErrFull } })
				require.ErrorIs(w.t, tt.call(w.t.Context(), w, all), store.ErrFull)
				require.Equal(w.t, before, w.stored("ann"))
				require.Equal(w.t, listed, w.devices("ann"))
				require.Empty(w.t, w.events.take())
				require.Empty(w.t, w.revocations())
				for _, g := range all[1:] {
					require.Empty(w.t, g.wire.ends())
					require.True(w.t, g.live())
				}
				w.st.heal()
				require.NoError(w.t, tt.call(w.t.Context(), w, all))
				require.NotEmpty(w.t, w.revocations())
			})
		})
	}
}

func TestStore_CannotBeRead(t *testing.T) {
	for _, tt := range calls {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				all := ready(w)
				before, commits := w.stored("ann"), w.st.commits()
				w.st.set(func(f *faults) { f.load = func() error { return errDown } })
				require.ErrorIs(w.t, tt.call(w.t.Context(), w, all), errDown)
				require.Equal(w.t, commits, w.st.commits())
				require.Equal(w.t, before, w.stored("ann"))
				require.Empty(w.t, w.events.take())
			})
		})
	}
}

// TestCommit_OutcomeUnknown: whatever happened to the batch, the call has its effect once, and everybody is told.
func TestCommit_OutcomeUnknown(t *testing.T) {
	for _, tt := range calls {
		for _, took := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, took effect: %v", tt.name, took), func(t *testing.T) {
				var plain stored // as it is without faults
				var told []string
				inBubble(t, setup{}, func(w *world) {
					all := ready(w)
					require.NoError(w.t, tt.call(w.t.Context(), w, all))
					plain, told = w.stored("ann"), w.events.take()
				})
				inBubble(t, setup{}, func(w *world) {
					all := ready(w)
					lose := once(store.ErrUnknownOutcome)
					w.st.set(func(f *faults) {
						if took {
							f.after = func(store.Batch, error) error { return lose() }
						} else {
							f.before = func(store.Batch) error { return lose() }
						}
					})
					require.NoError(w.t, tt.call(w.t.Context(), w, all))
					got := w.stored("ann")
					require.Equal(w.t, plain.head.Seq, got.head.Seq, "no entry twice")
					have, want := shapeOf(w.t, []byte(got.data)), shapeOf(w.t, []byte(plain.data))
					require.Equal(w.t, want.Admissions, have.Admissions)
					require.Len(w.t, have.Logins, len(want.Logins))
					require.Len(w.t, have.Tombstones, len(want.Tombstones))
					require.Equal(w.t, told, w.events.take())
					require.Len(w.t, w.revocations(), len(have.Tombstones))
					requireClosed(w, all[1:])
				})
			})
		}
	}
}

// requireClosed checks that a connection was closed once if its login has ended, and lives otherwise.
func requireClosed(w *world, all []*gadget) {
	w.t.Helper()
	there := map[event.LoginID]bool{}
	for _, s := range w.list("ann") {
		there[s.Login] = true
	}
	for _, g := range all {
		require.Equal(w.t, there[g.id], g.live(), "%s", g.res.Session.Device)
		if !there[g.id] {
			require.Len(w.t, g.wire.ends(), 1)
		}
	}
}

func TestCommit_OutcomeUnknownPosition(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		lose := once(store.ErrUnknownOutcome)
		w.st.set(func(f *faults) { f.after = func(store.Batch, error) error { return lose() } })
		g := w.login("ann", "a1", "ios")
		require.EqualValues(w.t, 1, g.res.Position.Seq)
		require.Equal(w.t, g.res.Position, w.history()[0].Position)
		g.attach()
	})
}

// TestCommit_OutcomeUnknownThenOvertaken: the batch took effect, but before that can be seen another node changes the
// record. The victim's connection must not live on.
func TestCommit_OutcomeUnknownThenOvertaken(t *testing.T) {
	inBubble(t, setup{crowd: true}, func(w *world) {
		here := w.reg
		other := w.open(w.now)
		w.reg = here
		all := w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		w.events.take()
		lose := once(store.ErrUnknownOutcome)
		w.st.set(func(f *faults) {
			f.after = func(store.Batch, error) error {
				err := lose()
				if err != nil {
					w.st.heal()
					_, bad := other.Login(context.Background(), request("ann", "b1", "web"))
					err = errors.Join(err, bad)
				}
				return err
			}
		})
		g := w.login("ann", "a5", "ios")
		require.Equal(w.t, "a2 a3 a4 a5 b1", w.devices("ann"))
		require.Equal(w.t, []event.Reason{event.EvictedQuota}, all[0].wire.reasons())
		require.False(w.t, all[0].live())
		require.Len(w.t, g.res.Victims, 1)
		require.Equal(w.t, all[0].id, g.res.Victims[0].Session.Login)
		require.ElementsMatch(w.t, []string{"login b1", "ended a1 evicted_quota", "login a5"}, w.events.take())
		g.attach()
	})
}

// TestCommit_OutcomeStaysUnknown: the store is gone right after a commit that took effect. The caller gets an error, and
// the connections of logins that have ended are closed once the store is back.
func TestCommit_OutcomeStaysUnknown(t *testing.T) {
	inBubble(t, setup{config: session.Config{IdleTimeout: -1}}, func(w *world) {
		all := w.fill("ann", "ios", "a1", "a2", "a3", "a4")
		w.st.set(func(f *faults) {
			f.after = func(store.Batch, error) error {
				w.st.set(func(f *faults) { f.load = func() error { return errDown } })
				return store.ErrUnknownOutcome
			}
		})
		_, err := w.tryLogin(request("ann", "a5", "ios"))
		require.ErrorIs(w.t, err, store.ErrUnknownOutcome)
		w.st.heal()
		w.pass(10 * time.Second)
		require.Equal(w.t, "a2 a3 a4 a5", w.devices("ann"))
		require.Equal(w.t, []event.Reason{event.EvictedQuota}, all[0].wire.reasons())
		require.False(w.t, all[0].live())
		require.True(w.t, all[1].live())
	})
}

func TestCommit_ConflictIsTriedAgain(t *testing.T) {
	inBubble(t, setup{}, func(w *world) {
		all := ready(w)
		n := 0
		w.st.set(func(f *faults) {
			f.before = func(store.Batch) error {
				if n++; n <= 5 {
					return store.ErrConflict
				}
				return nil
			}
		})
		require.NoError(w.t, w.reg.Logout(w.t.Context(), "ann", all[1].id))
		require.Equal(w.t, 6, n)
		require.Equal(w.t, []string{"ended a1 logout"}, w.events.take())
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { return store.ErrConflict } })
		require.ErrorIs(w.t, w.reg.Logout(w.t.Context(), "ann", all[2].id), store.ErrConflict, "not for ever")
		require.True(w.t, all[2].live())
	})
}

// TestTwoRegistries: what one does to a record is seen by the other, whose cache is out of date.
func TestTwoRegistries(t *testing.T) {
	inBubble(t, setup{crowd: true, rules: policy.Rules{PerPlatform: 2}}, func(w *world) {
		regs := []*session.Registry{w.reg, w.open(w.now)}
		var failed journal
		var wg sync.WaitGroup
		for i, reg := range regs {
			wg.Go(func() {
				for n := range 20 {
					if _, err := reg.Login(context.Background(), request("ann", event.DeviceID(fmt.Sprint(i, "-", n)), "ios")); err != nil {
						failed.add(err.Error())
					}
				}
			})
		}
		wg.Wait()
		require.Empty(w.t, failed.take())
		rec := shapeOf(w.t, []byte(w.stored("ann").data))
		require.EqualValues(w.t, 40, rec.Admissions)
		require.Equal(w.t, 2, rec.holders("ios"))
		require.Len(w.t, w.revocations(), 38, "each by one of the two")
	})
}

// TestSweep_IsTriedAgain: what cannot be written now is written later.
func TestSweep_IsTriedAgain(t *testing.T) {
	var lines buffer
	inBubble(t, setup{config: session.Config{Logger: slog.New(slog.NewTextHandler(&lines, nil))}}, func(w *world) {
		g := w.join("ann", "a1", "ios")
		w.events.take()
		g.conn.Detach()
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { return errDown } })
		w.pass(10 * time.Minute)
		require.Empty(w.t, w.events.take())
		require.Contains(w.t, lines.String(), errDown.Error(), "it is said loudly")
		w.st.heal()
		w.pass(5 * time.Second)
		require.Equal(w.t, []string{"offline a1 lost"}, w.events.take())
	})
}

// TestI5_StoreFailed: connections are closed with advice to come back, and nothing is answered from memory any more.
func TestI5_StoreFailed(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		t.Run(fmt.Sprintf("record in memory: %v", hidden), func(t *testing.T) {
			inBubble(t, setup{hidden: hidden}, func(w *world) {
				all := w.fill("ann", "ios", "a1", "a2")
				failed := fmt.Errorf("disk: %w", store.ErrFailed)
				w.st.set(func(f *faults) {
					f.before = func(store.Batch) error { return failed }
					f.load = func() error { return failed }
				})
				close(w.st.failed)
				w.pass(0)
				for _, g := range all {
					require.Equal(w.t, []event.Reason{event.Unavailable}, g.wire.reasons())
					require.Equal(w.t, event.RetryAfter, g.wire.ends()[0].Retry)
					_, err := g.tryAttach(new(wire))
					require.ErrorIs(w.t, err, store.ErrFailed)
				}
				_, err := w.tryLogin(request("ann", "a3", "ios"))
				require.ErrorIs(w.t, err, store.ErrFailed)
				_, err = w.reg.List(w.t.Context(), "ann", "")
				require.ErrorIs(w.t, err, store.ErrFailed)
			})
		})
	}
}

// TestRecord_Unreadable: a record that makes no sense, or is of a newer release, is refused and left as it is.
func TestRecord_Unreadable(t *testing.T) {
	var full string
	inBubble(t, setup{}, func(w *world) {
		w.fill("ann", "ios", "a1", "a2")
		full = w.stored("ann").data
	})
	tests := []struct{ name, data string }{
		{"no record", "{"},
		{"no version", "\x00" + full[1:]},
		{"older version", string([]byte{full[0] - 1}) + full[1:]},
		{"newer version", string([]byte{full[0] + 1}) + full[1:]},
		{"nothing but a version", full[:1]},
		{"cut short", full[:len(full)-1]},
		{"half of it", full[:len(full)/2]},
		{"too long", full + "\x00"},
		{"line of the log that is none", full[:1] + "\x01\x02\x01\xff" + "\x00\x00" + "\x00\x00\x00\x00\x00\x00"},
		{"fewer lines than it says", full[:1] + "\x02\x07\x06\x00\x00\x00\x00\x00\x00" + "\x00\x00" + "\x00\x00\x00\x00\x00\x00"},
		{"tombstone that is none", full[:1] + "\x00\x00" + "\x01\x02\x01\x00" + "\x00\x00\x00\x00\x00\x00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, setup{}, func(w *world) {
				_, err := w.st.Commit(w.t.Context(), store.Batch{
					Account: "ann", Now: time.Now(), Record: &store.RecordUpdate{Data: []byte(tt.data)},
				})
				require.NoError(w.t, err)
				before := w.stored("ann")
				for _, c := range calls {
					unread := []*gadget{w.login("bob", "b1", "ios"), w.login("bob", "b2", "ios"), w.login("bob", "b3", "ios")}
					err := c.call(w.t.Context(), w, unread)
					require.ErrorContains(w.t, err, "session: ", c.name)
					require.NotErrorIs(w.t, err, session.ErrUnknownLogin, "it is not known that there is none")
				}
				_, err = w.reg.Presence(w.t.Context(), "ann")
				require.Error(w.t, err)
				_, err = w.reg.DryRun(w.t.Context(), request("ann", "a1", "ios"))
				require.Error(w.t, err)
				w.pass(3 * time.Hour)
				require.Equal(w.t, before, w.stored("ann"))
			})
		})
	}
}
