package session_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/internal/fault/faulttest"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// scene is an account with two devices that are attached, over a store that can fail in every method.
type scene struct {
	*world
	store  *storetest.Faulty
	a, b   *gadget
	sub    *session.Subscription // since before they came
	broken atomic.Bool           // DecidePolicy fails
}

// called is what is known of one call.
type called struct {
	text   string // how errors name it
	do     func(ctx context.Context, s *scene) error
	fields []badField
	fails  []failure
	// steps: the call takes the account's turn, so a closed registry, an ended context and a store that is away refuse it.
	// Other calls may succeed by what is in memory.
	steps bool
}

// badField is a field with values that it must not have.
type badField struct {
	field  string
	values []string // none: call knows them
	call   func(ctx context.Context, s *scene, value string) error
}

// failure is a call that fails for a reason that hosts branch on.
type failure struct {
	is   error
	call func(ctx context.Context, s *scene) error
}

// newScene tells a story in a bubble.
func newScene(t *testing.T, story func(s *scene)) {
	t.Helper()
	s := &scene{}
	set := setup{rules: policy.Rules{Primary: policy.PrimaryProtected}}
	set.config.DecideLogin = func(_ context.Context, q session.Question) (bool, error) {
		if q.Device == "asked" {
			return false, errDown
		}
		return q.Device != "unwanted", nil
	}
	set.config.DecidePolicy = func(context.Context, session.Question) (*policy.Policy, error) {
		if s.broken.Load() {
			return nil, errDown
		}
		return nil, nil
	}
	synctest.Test(t, func(t *testing.T) {
		s.store = storetest.WithFaults(memstore.New(memstore.Config{}))
		s.world = newWorld(t, s.store, set)
		s.sub = s.subscribe(s.reg)
		s.a, s.b = s.join("ann", "a1", "ios"), s.join("ann", "a2", "web")
		story(s)
	})
}

// away makes every method of the store fail.
func (s *scene) away() {
	for _, m := range []storetest.Method{
		storetest.Load, storetest.Commit, storetest.Read, storetest.Accounts, storetest.Delete, storetest.Message, storetest.States,
	} {
		s.store.Inject(storetest.Fault{Method: m, Times: -1, Err: errDown})
	}
}

// holds maps sentinels to whether the error that comes with data is there, too.
var holds = map[error]func(error) bool{
	session.ErrRefused: as[*session.RefusedError], session.ErrProtected: func(err error) bool {
		return as[*session.ProtectedError](err) || as[*session.RefusedError](err)
	},
	session.ErrEnded: as[*session.EndedError], session.ErrLimited: as[*session.LimitedError],
	session.ErrBanned: as[*session.BannedError], session.ErrHookFailed: as[*session.HookError],
	session.ErrRecordFull: as[*session.RecordFullError],
}

func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// TestErrors_EveryCallHasARow (K9.6): the table below knows each exported call that returns an error.
func TestErrors_EveryCallHasARow(t *testing.T) {
	var rows []string
	for name := range calledTable() {
		rows = append(rows, name)
	}
	slices.Sort(rows)
	require.Equal(t, faulttest.Calls(t, "."), rows)
}

// TestErrors_BeginWithTheCallThatFailed (K9.6): whatever a call fails for (a bad field, a reason that hosts branch on, the
// store, the end of the registry or of the context), its text begins with the call, once, and the error says what it is.
func TestErrors_BeginWithTheCallThatFailed(t *testing.T) {
	for name, c := range calledTable() {
		t.Run(name, func(t *testing.T) {
			t.Run("field", func(t *testing.T) {
				newScene(t, func(s *scene) {
					before := s.stored("ann")
					for _, f := range c.fields {
						values := f.values
						if values == nil {
							values = []string{""}
						}
						for _, v := range values {
							faulttest.Names(s.t, f.call(s.t.Context(), s, v), "session", c.text, f.field, v)
						}
					}
					require.Equal(s.t, before, s.stored("ann"), "nothing was changed")
					require.True(s.t, s.a.live() && s.b.live())
				})
			})
			for _, f := range c.fails {
				t.Run(strings.TrimPrefix(f.is.Error(), "session: "), func(t *testing.T) {
					newScene(t, func(s *scene) { c.requireFails(s.t, f.call(s.t.Context(), s), f.is) })
				})
			}
			c.ends(t)
		})
	}
}

func (c *called) requireFails(t testing.TB, err, is error) {
	t.Helper()
	faulttest.Begins(t, err, "session", c.text, is.Error())
	require.ErrorIs(t, err, is)
	if has := holds[is]; has != nil {
		require.True(t, has(err), "%v", err)
	}
}

// ends makes the call where there is no store, no registry or no time left.
func (c *called) ends(t *testing.T) {
	t.Helper()
	for _, tt := range []struct {
		name string
		over bool // the context
		end  func(s *scene)
		is   []error
	}{
		{"store away", false, (*scene).away, []error{errDown}},
		{"store failed", false, func(s *scene) { s.store.Break() }, []error{store.ErrFailed}},
		{"closed", false, func(s *scene) { s.shut(s.reg) }, []error{session.ErrClosed, session.ErrFenced, store.ErrClosed}},
		{"context over", true, func(*scene) {}, []error{context.Canceled}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			newScene(t, func(s *scene) {
				tt.end(s)
				ctx, cancel := context.WithCancel(s.t.Context())
				defer cancel()
				if tt.over {
					cancel()
				}
				err := c.do(ctx, s)
				if err == nil {
					require.False(s.t, c.steps)
					return
				}
				faulttest.Begins(s.t, err, "session", c.text, tt.name)
				require.True(s.t, slices.ContainsFunc(tt.is, func(is error) bool { return errors.Is(err, is) }), "%v", err)
			})
		})
	}
}

// TestErrors_NameTheUnknownPlatform (K9.6): a login on a platform that the rules do not know says which one that is, and
// that this is the reason.
func TestErrors_NameTheUnknownPlatform(t *testing.T) {
	onStores(t, setup{}, func(w *world) {
		for _, platform := range []event.Platform{"ipad", "iPad"} {
			_, err := w.tryLogin(request("ann", "a1", platform))
			require.EqualError(w.t, err, `session: login: refused: platform "ipad" is not one of android, ios, web, windows, macos, linux, harmony`)
			require.ErrorIs(w.t, err, session.ErrRefused)
			e, ok := errors.AsType[*session.RefusedError](err)
			require.True(w.t, ok)
			require.Equal(w.t, policy.RuleUnknownPlatform, e.Rule)
			require.Equal(w.t, event.Platform("ipad"), e.Platform)
		}
		g := w.login("ann", "a1", "ios")
		_, err := w.reg.LoginReplacing(w.t.Context(), request("ann", "a2", "ipad"), g.id)
		require.EqualError(w.t, err, `session: login replacing: refused: platform "ipad" is not one of android, ios, web, windows, macos, linux, harmony`)
		why, err := w.reg.DryRun(w.t.Context(), request("ann", "a2", "ipad"))
		require.NoError(w.t, err, "the answer is what would be")
		require.Contains(w.t, why.String(), `platform "ipad" is not one of android, ios, web, windows, macos, linux, harmony`)
	})
}

// TestErrors_OfLeases (K9.6): a registry whose node has no lease says so in the same style.
func TestErrors_OfLeases(t *testing.T) {
	onNodes(t, setup{}, func(c *cluster, x, _ *world) {
		g := x.join("ann", "phone", "ios")
		c.cut["x"].hang.Store(true)
		c.pass(20 * time.Second)
		_, err := g.tryAttach(new(wire))
		require.ErrorIs(c.t, err, session.ErrNoLease)
		require.EqualError(c.t, err, "session: attach: node has no lease")
		err = g.conn.Send(c.t.Context(), nil)
		require.ErrorIs(c.t, err, session.ErrFenced)
		require.EqualError(c.t, err, "session: send: connection is fenced")
	})
}
