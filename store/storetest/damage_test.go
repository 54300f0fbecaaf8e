package storetest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store/storetest"
)

func TestFlipBits(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	require.NoError(t, os.WriteFile(one, []byte("a needle, needle needles"), 0o600))
	require.NoError(t, os.WriteFile(two, []byte("nothing"), 0o640))
	storetest.FlipBits(t, []byte("needle"), one, two, filepath.Join(t.TempDir(), "none"))
	text, err := os.ReadFile(one)
	require.NoError(t, err)
	require.Equal(t, "a neeele, neeele neeeles", string(text))
	text, err = os.ReadFile(two)
	require.NoError(t, err)
	require.Equal(t, "nothing", string(text))
	info, err := os.Stat(two)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
}
