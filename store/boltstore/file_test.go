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
