//go:build unix

package boltstore_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store/boltstore"
)

// To open a pipe would wait for who writes to it.
func TestSalvage_OfNoRegularFile(t *testing.T) {
	path := newPath(t)
	crashed(t, path)
	require.NoError(t, os.Remove(path+"-wal"))
	require.NoError(t, syscall.Mkfifo(path+"-wal", 0o600))
	_, err := boltstore.OpenFile(path, nil)
	require.ErrorIs(t, err, boltstore.ErrNotStore)
	_, list := salvage(t, path)
	require.ErrorIs(t, list[0].Err, boltstore.ErrNotStore)
	require.NoError(t, os.Remove(path))
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	_, err = boltstore.Salvage(t.Context(), path, path+"2", func(boltstore.Finding) {})
	require.ErrorIs(t, err, boltstore.ErrNotStore)
	_, err = boltstore.OpenFile(path, nil)
	require.ErrorIs(t, err, boltstore.ErrNotStore)
}
