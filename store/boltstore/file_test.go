package boltstore_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store/boltstore"
)

// A page whose elements lead out of it is a finding. bbolt, asked for what is in it, makes pointers that end the process.
func TestOpenFile_PagesThatMakeNoSenseAreNotRead(t *testing.T) {
	path := newPath(t)
	made(t, path)
	image, err := os.ReadFile(path)
	require.NoError(t, err)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	told := 0
	for at := 0; ; at++ {
		i := bytes.Index(image[at:], []byte("incarnation"))
		if i < 0 {
			break
		}
		at += i
		for bit := range 3 * 16 * 8 { // headers of the elements of what the file says about itself
			header := int64(at - 3*16 + bit/8)
			_, err := file.WriteAt([]byte{image[header] ^ 1<<(bit%8)}, header)
			require.NoError(t, err)
			findings := 0
			f, err := boltstore.OpenFile(path, func(boltstore.Finding) { findings++ })
			_, e := file.WriteAt(image[header:header+1], header)
			require.NoError(t, e)
			if err == nil { // an older state of the page
				require.Zero(t, findings)
				require.NoError(t, f.Close())
				continue
			}
			require.ErrorIs(t, err, boltstore.ErrCorrupt)
			require.NotZero(t, findings)
			told++
		}
	}
	require.GreaterOrEqual(t, told, 3*16*8)
}

// A store is whole pages; the last one may end with what somebody has sent, also as a backup ends.
func TestOpen_APayloadCannotPassForABackup(t *testing.T) {
	path := newPath(t)
	made(t, path)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	st, err := file.Stat()
	require.NoError(t, err)
	_, err = file.WriteAt([]byte("manydevice-bkup1"), st.Size()-56)
	require.NoError(t, err)
	require.NoError(t, file.Close())
	s := open(t, path, boltstore.Config{})
	require.Equal(t, []string{"m"}, idsOf(t, s, "ann"))
}

// A copy of a backup by other means than Restore would let devices pass over new messages.
func TestFile_ABackupIsNotCopied(t *testing.T) {
	path := newPath(t)
	made(t, path)
	require.NoError(t, os.WriteFile(path+".backup", backupOf(t, path), 0o600))
	f, err := boltstore.OpenFile(path+".backup", nil)
	require.NoError(t, err)
	require.ErrorIs(t, f.CopyTo(t.Context(), path+".new"), boltstore.ErrBackup)
	require.NoError(t, f.Close())
	require.NoFileExists(t, path+".new")
}
