package fanout_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
)

// olderNames are accounts that the store has from before event.Account.Validate refused their names.
func olderNames() []event.Account {
	all := []event.Account{"..", "a/../b"}
	for range 20 {
		all = append(all, event.Account("ann/"+event.NewLoginID()))
	}
	return all
}

// Retention goes on for accounts whose names are refused today, and they hold up nobody: sends to addresses of logins made
// such inboxes, all of them side by side, before these were refused (K12.4).
func TestTrim_AccountsWhoseNamesAreRefusedToday(t *testing.T) {
	inMemory(t, fanout.Config{MaxAge: 48 * time.Hour}, func(w *world) {
		names := olderNames()
		for i, name := range names {
			require.Error(w.t, name.Validate())
			_, err := w.st.Commit(context.Background(), store.Batch{
				Account: "bob", Now: time.Now(),
				Messages: []store.Message{{
					ID: event.MessageID(fmt.Sprint("m", i)), Kind: event.KindMessage, From: "bob", Payload: []byte("x"), To: []store.Inbox{{Account: name}},
				}},
			})
			require.NoError(w.t, err)
		}
		w.feed("zoe", 0, 3)
		time.Sleep(60 * time.Hour)
		for _, name := range append(names, "zoe") {
			require.Empty(w.t, w.kept(name), name)
		}
		require.Zero(w.t, w.r.Stats().TrimFailures)
		require.Error(w.t, w.r.Trim(context.Background(), names[0]), "but it is no name to call for")
	})
}
