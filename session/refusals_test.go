package session_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/policy"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// refusalStory makes one call that is refused.
type refusalStory struct {
	want   session.Refusal
	quiet  bool // nothing is logged at info level: the caller knows, or another line says it
	rules  policy.Rules
	config session.Config
	act    func(w *world) error
}

func loginAs(w *world, d event.DeviceID, p event.Platform) error {
	_, err := w.tryLogin(request("ann", d, p))
	return err
}

var refusalStories = []refusalStory{
	{want: "platform", rules: policy.Rules{PerPlatform: 1, AtPlatform: policy.RefuseNew}, act: func(w *world) error {
		w.login("ann", "a1", "ios")
		return loginAs(w, "a2", "ios")
	}},
	{want: "group:mobile", rules: policy.Rules{Groups: []policy.Group{
		{Name: "mobile", Members: []string{"ios"}, Limit: 1, Action: policy.RefuseNew},
	}}, act: func(w *world) error {
		w.login("ann", "a1", "ios")
		return loginAs(w, "a2", "ios")
	}},
	{want: "unknown_platform", act: func(w *world) error { return loginAs(w, "a1", "toaster") }},
	{want: session.RuleHost, config: session.Config{DecideLogin: func(context.Context, session.Question) (bool, error) { return false, nil }},
		act: func(w *world) error { return loginAs(w, "a1", "ios") }},
	{want: session.RuleReplace, rules: policy.Rules{Primary: policy.PrimaryProtected}, act: func(w *world) error {
		g := w.login("ann", "a1", "ios")
		require.NoError(w.t, w.reg.SetPrimary(context.Background(), "ann", "a1"))
		_, err := w.reg.LoginReplacing(context.Background(), request("ann", "a2", "ios"), g.id)
		return err
	}},
	{want: session.RefusedBanned, act: func(w *world) error {
		_, err := w.reg.Ban(context.Background(), session.BanRequest{Account: "ann"})
		require.NoError(w.t, err)
		return loginAs(w, "a1", "ios")
	}},
	{want: session.RefusedDeleted, act: func(w *world) error {
		_, err := w.reg.DeleteAccount(context.Background(), session.DeleteRequest{Account: "ann", Refuse: true})
		require.NoError(w.t, err)
		return loginAs(w, "a1", "ios")
	}},
	{want: session.RefusedParked, act: func(w *world) error {
		w.login("ann", "a1", "ios")
		for seq := range uint64(64) {
			_, err := w.reg.Park(context.Background(), session.ParkRequest{Account: "ann", Device: "a1", Position: event.Position{Epoch: 1, Seq: seq + 1}})
			require.NoError(w.t, err)
		}
		_, err := w.reg.Park(context.Background(), session.ParkRequest{Account: "ann", Device: "a1", Position: event.Position{Epoch: 1, Seq: 65}})
		require.ErrorIs(w.t, err, session.ErrTooManyParked)
		return err
	}},
	{want: session.RefusedLoginRate, config: session.Config{LoginsPerMinute: 1}, act: func(w *world) error {
		w.login("ann", "a1", "ios")
		return loginAs(w, "a2", "ios")
	}},
	{want: session.RefusedLoginRate, config: session.Config{LoginsPerMinute: 1}, act: func(w *world) error {
		_ = loginAs(w, "a1", "toaster") // fails, and counts all the same
		return loginAs(w, "a1", "toaster")
	}},
	{want: session.RefusedAttachRate, config: session.Config{AttachesPerAccount: 1}, act: func(w *world) error {
		g := w.login("ann", "a1", "ios")
		var err error
		for range 5 {
			_, err = g.tryAttach(new(wire))
		}
		return err
	}},
	{want: session.RefusedNodeRate, config: session.Config{AttachesPerSecond: 1}, act: func(w *world) error {
		g := w.join("ann", "a1", "ios")
		_, err := g.tryAttach(new(wire))
		return err
	}},
	{want: session.RefusedFlapping, rules: policy.Rules{PerPlatform: 1}, config: session.Config{FlapLimit: 1}, act: func(w *world) error {
		var err error
		for i := 0; err == nil && i < 10; i++ {
			err = loginAs(w, []event.DeviceID{"a1", "a2"}[i%2], "ios")
		}
		return err
	}},
	{want: session.RefusedRecordFull, rules: policy.Rules{PerPlatform: 64}, act: func(w *world) error {
		var err error
		for i := 0; err == nil && i < 64; i++ {
			q := request("ann", event.DeviceID(strings.Repeat("x", 100)+string(rune('a'+i%26))+string(rune('a'+i/26))), "ios")
			q.Description.Extension = make([]byte, 900)
			_, err = w.tryLogin(q)
		}
		return err
	}},
	{want: session.RefusedProtected, rules: policy.Rules{Primary: policy.PrimaryProtected}, act: func(w *world) error {
		main, own := w.login("ann", "main", "ios"), w.login("ann", "own", "ios")
		require.NoError(w.t, w.reg.SetPrimary(context.Background(), "ann", "main"))
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{main.id}, By: own.id})
		return err
	}},
	{want: session.RefusedHook, config: session.Config{DecideLogin: func(context.Context, session.Question) (bool, error) { return true, errDown }},
		act: func(w *world) error { return loginAs(w, "a1", "ios") }},
	{want: session.RefusedUnknown, act: func(w *world) error {
		g := w.login("ann", "a1", "ios")
		g.token = event.NewResumeToken()
		_, err := g.tryAttach(new(wire))
		return err
	}},
	{want: session.RefusedEnded, act: func(w *world) error {
		g := w.login("ann", "a1", "ios")
		w.kick("ann", g.id)
		_, err := g.tryAttach(new(wire))
		return err
	}},
	{want: session.RefusedNotFound, quiet: true, act: func(w *world) error {
		return w.reg.SetPrimary(context.Background(), "ann", "a1")
	}},
	{want: session.RefusedDraining, quiet: true, act: func(w *world) error {
		require.NoError(w.t, w.reg.Drain(w.t.Context(), session.DrainRequest{}))
		return loginAs(w, "a1", "ios")
	}},
	{want: session.RefusedClosed, quiet: true, act: func(w *world) error {
		g := w.login("ann", "a1", "ios")
		w.shut(w.reg)
		_, err := g.tryAttach(new(wire))
		return err
	}},
	{want: session.RefusedInvalid, quiet: true, act: func(w *world) error { return loginAs(w, "a1\n", "ios") }},
	{want: session.RefusedCanceled, quiet: true, act: func(w *world) error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := w.reg.Login(ctx, request("ann", "a1", "ios"))
		return err
	}},
	{want: session.RefusedFull, act: func(w *world) error {
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { return store.ErrFull } })
		return loginAs(w, "a1", "ios")
	}},
	{want: session.RefusedStore, act: func(w *world) error {
		w.st.set(func(f *faults) { f.before = func(store.Batch) error { return errDown } })
		return loginAs(w, "a1", "ios")
	}},
}

// K20.4, I37: every call that is turned down is counted under the rule that did it, and logged with its account.
func TestStats_RefusalsByRule(t *testing.T) {
	seen := map[session.Refusal]bool{
		policy.RuleGroup: true, "single": true, "device": true, "total": true, "account": true, // like "platform"
		session.RefusedChanging: true, session.RefusedFenced: true, session.RefusedNoLease: true, // below
	}
	for _, tt := range refusalStories {
		seen[tt.want] = true
		t.Run(string(tt.want), func(t *testing.T) {
			var log logbook
			tt.config.Logger = log.logger()
			inBubble(t, setup{rules: tt.rules, config: tt.config}, func(w *world) {
				before := w.reg.Stats().Refused[tt.want]
				require.Error(w.t, tt.act(w))
				s := w.reg.Stats()
				require.Greater(w.t, s.Refused[tt.want], before)
				lines := log.lines(w.t, "refused")
				if tt.quiet {
					require.Empty(w.t, lines)
					return
				}
				require.NotEmpty(w.t, lines)
				last := lines[len(lines)-1]
				require.Equal(w.t, "ann", last["account"])
				require.Equal(w.t, string(tt.want), last["why"])
				require.NotEmpty(w.t, last["err"])
			})
		})
	}
	for _, f := range session.Refusals() {
		require.True(t, seen[f], "no story refuses with %s", f)
	}
}

// The host may have a policy, and so groups, for each account: only some are counted by name.
func TestStats_RefusalsByGroupsWithoutEnd(t *testing.T) {
	s := setup{config: session.Config{DecidePolicy: func(_ context.Context, q session.Question) (*policy.Policy, error) {
		return policy.New(policy.Rules{Groups: []policy.Group{
			{Name: string(q.Account), Members: []string{"ios"}, Limit: 1, Action: policy.RefuseNew},
		}})
	}}}
	inBubble(t, s, func(w *world) {
		for i := range 70 {
			a := event.Account(fmt.Sprint("a", i))
			w.login(a, "d1", "ios")
			for range 2 {
				_, err := w.tryLogin(request(a, "d2", "ios"))
				require.ErrorIs(w.t, err, session.ErrRefused)
			}
		}
		refused := w.reg.Stats().Refused
		require.EqualValues(w.t, 2, refused["group:a63"])
		require.NotContains(w.t, refused, session.Refusal("group:a64"))
		require.EqualValues(w.t, 12, refused[session.RefusedGroup])
	})
}
