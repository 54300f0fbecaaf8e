//go:build unix

package boltstore_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store/boltstore"
)

func TestOpen_CreatesForTheOwnerOnly(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path, boltstore.Config{})
	defer closeStore(t, s)
	for _, suffix := range []string{"", "-wal", "-wal2"} {
		st, err := os.Stat(path + suffix)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), st.Mode().Perm())
	}
}
