package boltstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// made makes a closed store with something in it.
func made(t *testing.T, path string) {
	t.Helper()
	s, err := boltstore.Open(path, boltstore.Config{})
	require.NoError(t, err)
	_, err = s.Commit(t.Context(), message("m", []byte("x"), "ann"))
	require.NoError(t, err)
	closeStore(t, s)
}

// crashed makes a store that was not closed.
func crashed(t *testing.T, path string) {
	t.Helper()
	s, err := boltstore.Open(path, boltstore.Config{})
	require.NoError(t, err)
	_, err = s.Commit(t.Context(), message("m", []byte("x"), "ann"))
	require.NoError(t, err)
	s.Crash()
}

func backupOf(t *testing.T, path string) []byte {
	t.Helper()
	s, err := boltstore.Open(path, boltstore.Config{})
	require.NoError(t, err)
	defer closeStore(t, s)
	var b bytes.Buffer
	_, err = s.Backup(t.Context(), &b)
	require.NoError(t, err)
	return b.Bytes()
}

// setSchema changes the version that a file says it has.
func setSchema(t *testing.T, path string, n uint32) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	writeSchema(t, db, n)
	require.NoError(t, db.Close())
}

func writeSchema(t *testing.T, db *bolt.DB, n uint32) {
	t.Helper()
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		v := binary.BigEndian.AppendUint32([]byte{0}, n)
		table := crc32.MakeTable(crc32.Castagnoli)
		sum := crc32.Update(crc32.Update(254, table, []byte("schema")), table, v)
		return tx.Bucket([]byte("manydevice")).Put([]byte("schema"), append(binary.BigEndian.AppendUint32(nil, sum), v...))
	}))
}

// TestOpen_Messages holds Open to the table in docs/operations.md.
func TestOpen_Messages(t *testing.T) {
	docs, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	cases := []struct {
		text string // a part of the message, as the table has it
		err  error
		make func(t *testing.T, path string)
	}{
		{"file is in use", boltstore.ErrLocked, func(t *testing.T, path string) {
			open(t, path, boltstore.Config{})
		}},
		{"not a store", boltstore.ErrNotStore, func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("text "), 4000), 0o600))
		}},
		{"not a store", boltstore.ErrNotStore, func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, nil, 0o600)) }},
		{"not a store", boltstore.ErrNotStore, func(t *testing.T, path string) { require.NoError(t, os.Mkdir(path, 0o700)) }},
		{"not a store", boltstore.ErrNotStore, func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		}},
		{"written before the first release", boltstore.ErrOldSchema, func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucket([]byte("manydevice"))
				return errors.Join(err, b.Put([]byte("schema"), []byte{0, 0, 0, 4}), b.Put([]byte("secret"), make([]byte, 32)))
			}))
			require.NoError(t, db.Close())
		}},
		{"schema 6, this one knows up to 5", store.ErrSchema, func(t *testing.T, path string) {
			made(t, path)
			setSchema(t, path, 6)
		}},
		{"the file is a backup", boltstore.ErrBackup, func(t *testing.T, path string) {
			made(t, path+"1")
			require.NoError(t, os.WriteFile(path, backupOf(t, path+"1"), 0o600))
		}},
		{"was not closed and its log is missing", boltstore.ErrNoLog, func(t *testing.T, path string) {
			crashed(t, path)
			require.NoError(t, os.Remove(path+"-wal"))
		}},
		{"was not closed and its log is missing", boltstore.ErrNoLog, func(t *testing.T, path string) {
			crashed(t, path)
			require.NoError(t, os.Remove(path+"-wal2"))
		}},
		{"the log next to the file is that of another one", boltstore.ErrOtherLog, func(t *testing.T, path string) {
			crashed(t, path)
			crashed(t, path+"x")
			for _, suffix := range []string{"-wal", "-wal2"} {
				require.NoError(t, os.Rename(path+"x"+suffix, path+suffix))
			}
		}},
		{"the log next to the file is that of another one", boltstore.ErrOtherLog, func(t *testing.T, path string) {
			made(t, path)
			crashed(t, path+"x")
			for _, suffix := range []string{"-wal", "-wal2"} {
				require.NoError(t, os.Rename(path+"x"+suffix, path+suffix))
			}
		}},
		{"there is a log without its file", boltstore.ErrNoFile, func(t *testing.T, path string) {
			crashed(t, path)
			require.NoError(t, os.Remove(path))
		}},
		{"a symbolic link that leads to nothing", fs.ErrNotExist, func(t *testing.T, path string) {
			require.NoError(t, os.Symlink(filepath.Join(filepath.Dir(path), "elsewhere"), path))
		}},
		{"corrupt: page", boltstore.ErrCorrupt, func(t *testing.T, path string) {
			made(t, path)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			for i := 2 * 4096; i < len(b); i += 4096 {
				b[i+8], b[i+9] = 0xff, 0xff
			}
			require.NoError(t, os.WriteFile(path, b, 0o600))
		}},
		{"corrupt: the log", boltstore.ErrCorrupt, func(t *testing.T, path string) {
			crashed(t, path)
			for _, suffix := range []string{"-wal", "-wal2"} {
				b, err := os.ReadFile(path + suffix)
				require.NoError(t, err)
				b[4096+30] ^= 1
				require.NoError(t, os.WriteFile(path+suffix, b, 0o600))
			}
		}},
	}
	for _, tt := range cases {
		t.Run(tt.text, func(t *testing.T) {
			require.Contains(t, string(docs), tt.text)
			path := filepath.Join(t.TempDir(), "db")
			tt.make(t, path)
			before, _ := os.ReadDir(filepath.Dir(path))
			s, err := boltstore.Open(path, boltstore.Config{LockTimeout: -1})
			if err == nil {
				closeStore(t, s)
			}
			require.ErrorIs(t, err, tt.err)
			require.Contains(t, err.Error(), tt.text)
			require.NotContains(t, err.Error(), filepath.Dir(path))
			after, _ := os.ReadDir(filepath.Dir(path))
			require.Len(t, after, len(before), "nothing is made or removed")
		})
	}
	for _, text := range []string{"no room for the file in the address space", "others may use", "to open"} { // by other tests
		require.Contains(t, string(docs), text)
	}
}

// TestOpen_AddressSpace runs itself with little address space.
func TestOpen_AddressSpace(t *testing.T) {
	if path := os.Getenv("BOLTSTORE_OPEN"); path != "" {
		_, err := boltstore.Open(path, boltstore.Config{})
		fmt.Println("error:", err, errors.Is(err, syscall.ENOMEM))
		return
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux holds a process to ulimit -v, which makes the map of the file fail")
	}
	path := filepath.Join(t.TempDir(), "db")
	made(t, path)
	cmd := exec.Command("sh", "-c", `ulimit -v 20000000 && exec "$0" -test.run=TestOpen_AddressSpace`, os.Args[0])
	cmd.Env = append(os.Environ(), "BOLTSTORE_OPEN="+path)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "no room for the file in the address space")
	require.Contains(t, string(out), "ulimit -v")
	require.Contains(t, string(out), "true")
}

func TestOpen_ModesAreNarrowed(t *testing.T) {
	for _, mode := range []fs.FileMode{0o644, 0o666, 0o660} {
		path := filepath.Join(t.TempDir(), "db")
		crashed(t, path)
		for _, suffix := range []string{"", "-wal", "-wal2"} {
			require.NoError(t, os.Chmod(path+suffix, mode))
		}
		var log bytes.Buffer
		s := open(t, path, boltstore.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for _, suffix := range []string{"", "-wal", "-wal2"} {
			st, err := os.Stat(path + suffix)
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), st.Mode().Perm(), suffix)
		}
		closeStore(t, s)
		require.Equal(t, 3, strings.Count(log.String(), "others could use the file"), log.String())
	}
}

// TestOpen_TakesNothingThatWasPutInItsWay: files and links under the names that Open uses are neither used nor followed.
func TestOpen_TakesNothingThatWasPutInItsWay(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "db"), filepath.Join(dir, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))
	require.NoError(t, os.WriteFile(path+".new", []byte("x"), 0o666))
	require.NoError(t, os.WriteFile(path+".new.tmp-1", []byte("x"), 0o666))
	require.NoError(t, os.Symlink(victim, path+".new.tmp-2"))
	s := open(t, path, boltstore.Config{})
	closeStore(t, s)
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "mine", string(b))

	require.NoError(t, os.Symlink(victim, path+"-wal"))
	_, err = boltstore.Open(path, boltstore.Config{})
	require.Error(t, err)
	b, err = os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "mine", string(b))
}

func TestOpen_ALinkLeadsToOneLog(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	path, link := filepath.Join(elsewhere, "real.db"), filepath.Join(dir, "db")
	made(t, path)
	require.NoError(t, os.Symlink(path, link))
	s := open(t, link, boltstore.Config{})
	_, err := s.Commit(t.Context(), message("m2", []byte("y"), "ann"))
	require.NoError(t, err)
	require.FileExists(t, path+"-wal")
	require.NoFileExists(t, link+"-wal")
	s.Crash()
	s = open(t, path, boltstore.Config{}) // by the other name
	all, _, err := readAll(t.Context(), s, "ann")
	require.NoError(t, err)
	require.Len(t, all, 2)
}

func TestOpen_RemovesWhatACrashHasLeft(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	made(t, path)
	old := time.Now().Add(-25 * time.Hour)
	for name, gone := range map[string]bool{
		"db.new.tmp-123": true, "db.restore.tmp-456": true, "db.new.tmp-": false, "db.new.tmp-12x": false, "db.backup": false, "other.new.tmp-1": false,
		"db.restore.tmp-456-wal": true, "db.new.tmp-456-wal2": true, "db.new.tmp-456.new.tmp-7": true, "db.new.tmp-4.new.tmp-x": false,
		"db.new-1": false, "db.restore-20300501": false, // somebody's own, named by hand
	} {
		p := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(p, []byte("x"), 0o600))
		s := open(t, path, boltstore.Config{})
		closeStore(t, s)
		require.FileExists(t, p, "it is new")
		require.NoError(t, os.Chtimes(p, old, old))
		s = open(t, path, boltstore.Config{})
		closeStore(t, s)
		_, err := os.Lstat(p)
		require.Equal(t, gone, errors.Is(err, fs.ErrNotExist), name)
	}
}

// TestOpen_MaxSizeBelowTheFile: the store opens, says so, and refuses appends; what makes room goes on.
func TestOpen_MaxSizeBelowTheFile(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	for i := range 200 {
		_, err := s.Commit(t.Context(), message(fmt.Sprint("m", i), make([]byte, 60_000), "ann"))
		require.NoError(t, err)
	}
	closeStore(t, s)
	var log bytes.Buffer
	s = open(t, path, boltstore.Config{MaxSize: 8 << 20, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.Contains(t, log.String(), "opened without room")
	require.Zero(t, s.Stats().Room)
	_, err := s.Commit(t.Context(), message("n", make([]byte, 60_000), "ann"))
	require.ErrorIs(t, err, store.ErrFull)
	_, err = s.Trim(t.Context(), "ann", 150, 1000)
	require.NoError(t, err)
}

func TestRestore_RefusesWhereALogIs(t *testing.T) {
	path := newPath(t)
	made(t, path)
	b := backupOf(t, path)
	for _, suffix := range []string{"-wal", "-wal2"} {
		to := filepath.Join(t.TempDir(), "db")
		require.NoError(t, os.WriteFile(to+suffix, []byte("x"), 0o600))
		require.ErrorIs(t, boltstore.Restore(context.Background(), to, bytes.NewReader(b)), fs.ErrExist)
		require.NoFileExists(t, to)
	}
	to := filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.Symlink(filepath.Join(t.TempDir(), "nothing"), to))
	require.ErrorIs(t, boltstore.Restore(context.Background(), to, bytes.NewReader(b)), fs.ErrExist)
}
