package fanout_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/storetest"
)

// TestErrors_BeginWithTheCallThatFailed (K9.6): whatever a call fails for (a bad field, an unknown login, the store, the
// end of the engine), its text begins with the call, once.
func TestErrors_BeginWithTheCallThatFailed(t *testing.T) {
	ctx := context.Background()
	type call func(w *world, account event.Account, origin event.LoginID) error
	calls := map[string]call{
		"send": func(w *world, a event.Account, o event.LoginID) error {
			_, err := w.r.Send(ctx, fanout.SendRequest{From: a, Origin: o, Conversation: "c", To: []event.Account{"bob"}})
			return err
		},
		"publish": func(w *world, a event.Account, o event.LoginID) error {
			_, err := w.r.Publish(ctx, fanout.PublishRequest{
				From: a, Origin: o, Kind: "typing", To: []event.Account{"bob"},
				Narrow: []fanout.Narrow{{Account: a, Logins: []event.LoginID{o}}}, Mirror: true,
			})
			return err
		},
		"mark read": func(w *world, a event.Account, o event.LoginID) error {
			_, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: a, Origin: o, Conversation: "c", Seq: 1})
			return err
		},
		"clear unread": func(w *world, a event.Account, o event.LoginID) error {
			_, err := w.r.ClearUnread(ctx, fanout.ClearUnreadRequest{Account: a, Origin: o})
			return err
		},
		"claim": func(w *world, a event.Account, o event.LoginID) error {
			_, err := w.r.Claim(ctx, fanout.ClaimRequest{Account: a, Origin: o, Key: "call"})
			return err
		},
		"attach": func(w *world, a event.Account, o event.LoginID) error {
			_, err := w.r.Attach(ctx, fanout.AttachRequest{Account: a, Login: o, Token: event.NewResumeToken()}, new(countedConn))
			return err
		},
		"unread": func(w *world, a event.Account, _ event.LoginID) error {
			_, err := w.r.Unread(ctx, a, "")
			return err
		},
		"inspect": func(w *world, a event.Account, _ event.LoginID) error {
			_, err := w.r.Inspect(ctx, a, fanout.InspectOptions{})
			return err
		},
		"park": func(w *world, a event.Account, _ event.LoginID) error {
			return w.r.Park(ctx, a, "x", event.Position{Seq: 9})
		},
		"unpark": func(w *world, a event.Account, _ event.LoginID) error {
			return w.r.Unpark(ctx, a, "x", event.Position{Seq: 9})
		},
	}
	methods := []storetest.Method{
		storetest.Load, storetest.Commit, storetest.Read, storetest.States, storetest.Conversations, storetest.Cursors, storetest.Message,
	}
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		w.host("bob", "one", "ann")
		w.fence("ann")
		check := func(name string, err error) {
			w.t.Helper()
			require.True(w.t, strings.HasPrefix(err.Error(), "fanout: "+name+": "), "%s: %v", name, err)
			require.Equal(w.t, 1, strings.Count(err.Error(), name+": "), "%v", err)
			require.Equal(w.t, 1, strings.Count(err.Error(), "fanout: "), "%v", err)
		}
		for name, do := range calls {
			check(name, do(w, "", d.Login()))
			check(name, do(w, "a\nb", d.Login()))
			if err := do(w, "ann", event.NewLoginID()); err != nil {
				check(name, err)
			}
			failed := 0
			for _, m := range methods {
				remove := w.st.Inject(storetest.Fault{Method: m, Times: -1, Err: errAway})
				if err := do(w, "ann", d.Login()); err != nil {
					failed++
					check(name, err)
				}
				remove()
			}
			if name != "publish" {
				require.Positive(w.t, failed, name)
			}
		}
	})
	inMemory(t, fanout.Config{}, func(w *world) {
		require.NoError(w.t, w.reg.Close(ctx))
		require.NoError(w.t, w.r.Close(ctx))
		for name, do := range calls {
			if err := do(w, "ann", event.NewLoginID()); err != nil {
				require.True(w.t, strings.HasPrefix(err.Error(), "fanout: "+name+": "), "%v", err)
			}
		}
		w.left(ctx)
		w.again()
	})
}
