package boltstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// possessions are what an account has, by what it is.
func possessions(t *testing.T, s store.Store, a event.Account) map[string]string {
	t.Helper()
	have := map[string]string{}
	entries, _, err := readAll(t.Context(), s, a)
	require.NoError(t, err)
	for i := range entries {
		e := &entries[i]
		have["entry "+fmt.Sprint(e.Seq)] = string(e.ID) + " " + string(e.Kind) + " " + string(e.From) + " " + string(e.Conversation) + " " + string(e.Payload)
	}
	for cursor := ""; ; {
		page, err := s.States(t.Context(), a, store.StateOptions{Cursor: cursor, Limit: 100})
		require.NoError(t, err)
		for _, st := range page.States {
			have["register "+string(st.Conversation)+" "+st.Name] = fmt.Sprint(st.Number) + " " + string(st.Value)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	r, err := s.Load(t.Context(), a)
	require.NoError(t, err)
	if r.Revision != 0 {
		have["record"] = string(r.Data)
	}
	return have
}

// TestSalvage_OfFlips saves a store after one bit was turned, closed or killed: what is saved is what was there, and Verify finds nothing.
func TestSalvage_OfFlips(t *testing.T) {
	closed, killed := flipMasters(t)
	for name, dir := range map[string]string{"closed": closed, "killed": killed} {
		t.Run(name, func(t *testing.T) {
			f := flipper{dir: dir, work: memoryDir(t), seed: *flipSeed + 100, none: true}
			require.NoError(t, f.load())
			w := author{accounts: f.Accounts}
			_, err := f.copy(0)
			require.NoError(t, err)
			s := open(t, filepath.Join(f.work, "store.db"), flipConfig())
			was := map[event.Account]map[string]string{}
			all := 0
			for _, a := range f.Accounts {
				was[a] = possessions(t, s, a)
				all += len(was[a])
			}
			closeStore(t, s)
			f.none = false
			missing, without, most := 0, 0, 0
			for n := range *flipCount {
				where, err := f.copy(n)
				require.NoError(t, err)
				to := filepath.Join(f.work, "saved")
				findings := 0
				_, err = boltstore.Salvage(t.Context(), filepath.Join(f.work, "store.db"), to, func(boltstore.Finding) { findings++ })
				require.NoError(t, err, where)
				s := open(t, to, boltstore.Config{})
				wrong, _ := verify(t, s)
				require.Empty(t, wrong, where)
				lost := 0
				for _, a := range f.Accounts {
					is := possessions(t, s, a)
					for what, value := range is {
						require.False(t, w.foreign(a, value), "%s: account %s: %s", where, a, what)
						if !strings.HasPrefix(where, "store.db-") { // a group that was lost may have removed something
							require.Equal(t, was[a][what], value, "%s: account %s: %s", where, a, what)
						}
					}
					lost += max(0, len(was[a])-len(is))
				}
				closeStore(t, s)
				require.NoError(t, os.Remove(to))
				if lost > 0 {
					require.NotZero(t, findings, where)
				} else {
					without++
				}
				missing, most = missing+lost, max(most, lost)
			}
			t.Logf("%d bits: %d without a loss; of %d each %d in all are missing, %d at most", *flipCount, without, all, missing, most)
		})
	}
}
