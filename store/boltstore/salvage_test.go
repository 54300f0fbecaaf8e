package boltstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// salvage makes a new store of a file, in which Verify must find nothing.
func salvage(t *testing.T, path string) (*boltstore.Store, []boltstore.Finding) {
	t.Helper()
	var list []boltstore.Finding
	to := filepath.Join(t.TempDir(), "saved.db")
	_, err := boltstore.Salvage(t.Context(), path, to, func(f boltstore.Finding) { list = append(list, f) })
	require.NoError(t, err)
	s := open(t, to, boltstore.Config{})
	wrong, _ := verify(t, s)
	require.Empty(t, wrong)
	return s, list
}

func idsOf(t *testing.T, s store.Store, a event.Account) (ids []string) {
	t.Helper()
	entries, _, err := readAll(t.Context(), s, a)
	require.NoError(t, err)
	for i := range entries {
		ids = append(ids, string(entries[i].ID))
	}
	return ids
}

func copyTo(t *testing.T, from, to string, suffixes ...string) {
	t.Helper()
	for _, suffix := range suffixes {
		b, err := os.ReadFile(from + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to+suffix, b, 0o600))
	}
}

// A log that is not the file's says nothing about it: the same names are other accounts there.
func TestSalvage_OfAFileWithAnotherOnesLog(t *testing.T) {
	other := newPath(t)
	s, err := boltstore.Open(other, boltstore.Config{})
	require.NoError(t, err)
	_, err = s.Commit(t.Context(), message("foreign", nil, "ann", "eve"))
	require.NoError(t, err)
	s.Crash()
	for name, prepare := range map[string]func(*testing.T, string){"closed": made, "not closed": crashed} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			prepare(t, path)
			copyTo(t, other, path, "-wal", "-wal2")
			s, list := salvage(t, path)
			require.Empty(t, idsOf(t, s, "eve"))
			if name == "closed" {
				require.Equal(t, []string{"m"}, idsOf(t, s, "ann"))
				require.Empty(t, list)
			} else {
				require.ErrorIs(t, list[0].Err, boltstore.ErrOtherLog)
			}
		})
	}
}

// What an older log of the file has is in the file, or was changed since.
func TestSalvage_OfAFileWithAnOlderLog(t *testing.T) {
	path := newPath(t)
	s, err := boltstore.Open(path, boltstore.Config{})
	require.NoError(t, err)
	for i := range 5 {
		_, err = s.Commit(t.Context(), message(fmt.Sprint("m", i), nil, "ann"))
		require.NoError(t, err)
	}
	old := newPath(t)
	copyTo(t, path, old, "-wal", "-wal2")
	_, err = s.Trim(t.Context(), "ann", 2, 10)
	require.NoError(t, err)
	require.NoError(t, s.Compact(t.Context()))
	copyTo(t, path, old, "")
	got, list := salvage(t, old)
	require.Equal(t, []string{"m2", "m3", "m4"}, idsOf(t, got, "ann"))
	require.Empty(t, list)
	closeStore(t, s)
	copyTo(t, path, old, "")
	got, list = salvage(t, old)
	require.Equal(t, []string{"m2", "m3", "m4"}, idsOf(t, got, "ann"))
	require.Empty(t, list)
}

func TestSalvage_ADamagedHeaderOfTheLogLosesNothing(t *testing.T) {
	for _, at := range []int{0, 9, 25} { // magic, number of the log, checksum
		path := newPath(t)
		crashed(t, path)
		for _, suffix := range []string{"-wal", "-wal2"} {
			b, err := os.ReadFile(path + suffix)
			require.NoError(t, err)
			b[at] ^= 4
			require.NoError(t, os.WriteFile(path+suffix, b, 0o600))
		}
		s, list := salvage(t, path)
		require.Equal(t, []string{"m"}, idsOf(t, s, "ann"))
		require.Len(t, list, 2)
	}
}

// Without its log a file lacks what was answered last, which is told.
func TestSalvage_WithoutTheLog(t *testing.T) {
	path := newPath(t)
	crashed(t, path)
	require.NoError(t, os.Remove(path+"-wal"))
	require.NoError(t, os.Remove(path+"-wal2"))
	s, list := salvage(t, path)
	require.Empty(t, idsOf(t, s, "ann"))
	require.ErrorIs(t, list[0].Err, boltstore.ErrNoLog)
}

// What a deleted account had does not come back to the next one of that name.
func TestSalvage_ADeletedAccountStaysDeleted(t *testing.T) {
	path := newPath(t)
	s, err := boltstore.Open(path, boltstore.Config{})
	require.NoError(t, err)
	for i := range 1500 {
		_, err := s.Commit(t.Context(), message(fmt.Sprint("m", i), nil, "ann"))
		require.NoError(t, err)
	}
	require.NoError(t, s.Compact(t.Context()))
	require.NoError(t, s.Delete(t.Context(), "ann", 0))
	s.Crash() // most rows are still there
	f, err := boltstore.OpenFile(path, nil)
	require.NoError(t, err)
	closed := newPath(t)
	require.NoError(t, f.CopyTo(t.Context(), closed))
	require.NoError(t, f.Close())
	require.Equal(t, 1, damage(t, closed, "head", is("ann")))
	got, list := salvage(t, closed)
	require.NotEmpty(t, list)
	require.Empty(t, idsOf(t, got, "ann"))
}

// A register or a cursor may be beyond the entries that are left.
func TestSalvage_WithoutTheHead(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	busy(t, s)
	_, err := s.Commit(t.Context(), message("beyond", nil, "ann"))
	require.NoError(t, err)
	_, err = s.Commit(t.Context(), store.Batch{
		Account: "ann", Now: start, States: []store.StateUpdate{{Conversation: "talk", Name: "pinned", Number: 3}},
	})
	require.NoError(t, err)
	closeStore(t, s)
	require.NotZero(t, damage(t, path, "head", is("ann")))
	require.Equal(t, 1, damage(t, path, "message", is("\x02beyond\x00m")))
	salvage(t, path)
}

// A file that is whole and not of this version is not taken apart.
func TestSalvage_OfOtherFiles(t *testing.T) {
	newer := newPath(t)
	made(t, newer)
	setSchema(t, newer, 6)
	other := newPath(t)
	db, err := bolt.Open(other, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("head")); return err }))
	require.NoError(t, db.Close())
	for path, want := range map[string]error{newer: store.ErrSchema, other: boltstore.ErrNotStore} {
		_, err := boltstore.Salvage(t.Context(), path, path+".saved", func(boltstore.Finding) {})
		require.ErrorIs(t, err, want)
		require.NoFileExists(t, path+".saved")
	}
}

// A finding names the message also where its ID is one of the engine's, which is sealed.
func TestSalvage_NamesMessages(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	id := event.NewIssuer(s.Info().IDKey).Issue()
	_, err := s.Commit(t.Context(), message(string(id), []byte("x"), "ann"))
	require.NoError(t, err)
	closeStore(t, s)
	require.Equal(t, 1, damage(t, path, "message", func(key []byte) bool { return key[0] == 1 }))
	_, list := salvage(t, path)
	require.Equal(t, id, list[0].Message)
}

// Each of the two meta pages may be the damaged one.
func TestOpenFile_ADamagedMetaPageIsTold(t *testing.T) {
	told := 0
	for which := range int64(2) {
		path := newPath(t)
		made(t, path)
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = file.WriteAt([]byte{0xff}, which*4096+36)
		require.NoError(t, errors.Join(err, file.Close()))
		saved, list := salvage(t, path)
		require.Equal(t, []string{"m"}, idsOf(t, saved, "ann"))
		require.NotEmpty(t, list)
		f, err := boltstore.OpenFile(path, nil)
		if err != nil { // the newer one
			require.ErrorIs(t, err, boltstore.ErrCorrupt)
			require.Contains(t, err.Error(), "a meta page is damaged")
			continue
		}
		list, _ = verify(t, f)
		require.Len(t, list, 1)
		require.NoError(t, f.Close())
		told++
	}
	require.Equal(t, 1, told)
}
