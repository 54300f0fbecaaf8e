package store_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// A store finds what was written before rules about dots and addresses were added, in whatever script its name is.
func TestCheckAccount_TakesNamesOfBefore(t *testing.T) {
	for _, name := range []event.Account{"..", "a/../b", "ü/..", "группа/./x", "ann/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o", "ü/7ixajkf3nd3dbs7n3ctq2lw4xe5mzq6o"} {
		require.Error(t, name.Validate(), name)
		require.NoError(t, store.CheckAccount(name), name)
	}
	for _, name := range []event.Account{"", "a\nb", "\u202ea", "a\xff", event.Account(strings.Repeat("x", 129))} {
		require.Error(t, store.CheckAccount(name), "%q", name)
	}
}
