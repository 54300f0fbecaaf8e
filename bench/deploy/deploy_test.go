package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	os.Exit(m.Run())
}

// TestDeploy_NothingIsLostOrDoubled replaces the server of 50 clients once in each way. The times mean nothing here.
func TestDeploy_NothingIsLostOrDoubled(t *testing.T) {
	o, err := parse([]string{"-quick", "-dir", t.TempDir(), "-stops", "kill,close,drain1s"})
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, o.run(t.Context(), &out))
	require.Contains(t, out.String(), "| kill -9")
	require.Contains(t, out.String(), "| Drain 1 s")
}

func TestParse_RefusesWhatMakesNoSense(t *testing.T) {
	for _, args := range []string{"-stops never", "-clients 3", "-runs 0", "-every 0s", "-back -1s", "surplus"} {
		_, err := parse(strings.Fields(args))
		require.Error(t, err, args)
	}
}
