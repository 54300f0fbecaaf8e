package manydevice_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// I37: whichever call of the store fails under whichever call of the host, one of the two counters of such failures rises, and
// if a call failed for it, it is counted or told, too. A host that drops an error finds it there.
func TestTrace_EveryFailureOfTheStoreIsCounted(t *testing.T) {
	calls := map[string]func(s *scene) error{
		"Unread":        func(s *scene) error { _, err := s.Router.Unread(s.ctx, "ann", ""); return err },
		"Unread of one": func(s *scene) error { _, err := s.Router.Unread(s.ctx, "ann", "room"); return err },
		"Inspect":       func(s *scene) error { _, err := s.Router.Inspect(s.ctx, "ann", fanout.InspectOptions{}); return err },
		"Trim":          func(s *scene) error { return s.Router.Trim(s.ctx, "ann") },
		"Flush":         func(s *scene) error { return s.Router.Flush(s.ctx) },
		"Park":          func(s *scene) error { return s.Router.Park(s.ctx, "ann", "d1", event.Position{Epoch: 1, Seq: 1}) },
		"Send":          func(s *scene) error { return s.send("hello") },
		"List":          func(s *scene) error { _, err := s.Sessions.List(s.ctx, "ann", ""); return err },
		"Banned":        func(s *scene) error { _, err := s.Sessions.Banned(s.ctx, "ann"); return err },
		"Enforce":       func(s *scene) error { _, err := s.Sessions.Enforce(s.ctx, session.EnforceRequest{}); return err },
		"Kick": func(s *scene) error {
			_, err := s.Sessions.Kick(s.ctx, session.KickRequest{Account: "ann", All: true})
			return err
		},
		"DeleteAccount": func(s *scene) error {
			_, err := s.Sessions.DeleteAccount(s.ctx, session.DeleteRequest{Account: "ann"})
			return err
		},
	}
	for name, call := range calls {
		for _, m := range []storetest.Method{
			storetest.Load, storetest.Commit, storetest.Message, storetest.Read, storetest.States, storetest.Conversations,
			storetest.Cursors, storetest.SaveCursors, storetest.Trim, storetest.Void, storetest.Delete, storetest.Accounts,
		} {
			t.Run(name+"/"+string(m), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					st := storetest.WithFaults(memstore.New(memstore.Config{}))
					s := openScene(t, st, manydevice.Config{Fanout: fanout.Config{MaxEntries: 2}})
					for range 4 {
						require.NoError(t, s.send("hello"))
					}
					s.attach(s.login("d1"))
					time.Sleep(time.Second)
					before, called := s.Stats(), st.Calls(m)
					mend := st.Inject(storetest.Fault{Method: m, Times: -1, Err: errors.New("network is down")})
					err := call(s)
					synctest.Wait()
					after, called := s.Stats(), st.Calls(m)-called
					mend()
					rose := after.Sessions.StoreFailures - before.Sessions.StoreFailures + after.Router.StoreFailures - before.Router.StoreFailures
					require.EqualValues(t, called, rose)
					if called > 0 && name != "Enforce" { // which reports failures by itself
						require.Error(t, err)
					}
					s.end(st)
				})
			})
		}
	}
}
