package boltstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

func TestOpenKeepsIncarnationAndSecret(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	info := s.Info()
	require.NotZero(t, info.Incarnation)
	require.NotZero(t, info.IDKey)
	closeStore(t, s)
	alone(t, path, "store.db")
	require.Equal(t, info, open(t, path, boltstore.Config{}).Info())
	alone(t, path, "store.db", "store.db-wal", "store.db-wal2")

	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	require.Less(t, st.Size(), int64(64<<20), "the map is large from the start, the file is not")
}

func TestOpenReportsAllFaults(t *testing.T) {
	_, err := boltstore.Open("", boltstore.Config{MaxSize: 1000, Memory: -1, LockTimeout: 1})
	for _, field := range []string{"path", "MaxSize", "Memory", "LockTimeout"} {
		require.ErrorContains(t, err, field)
	}
	for _, bad := range []int64{-1, 1, 1<<20 - 1, 4<<30 + 1} {
		_, err := boltstore.Open(newPath(t), boltstore.Config{Memory: bad})
		require.ErrorContains(t, err, "Memory")
	}
}

func TestMemoryIsBoundedByMaxSize(t *testing.T) {
	for _, tt := range []struct{ memory, most, want int64 }{
		{0, 0, 128 << 20}, {0, -1, 128 << 20}, {1 << 20, 0, 1 << 20}, {4 << 30, -1, 4 << 30}, {0, 64 << 20, 8 << 20}, {1 << 20, 4 << 20, 512 << 10},
	} {
		s := open(t, newPath(t), boltstore.Config{Memory: tt.memory, MaxSize: tt.most})
		require.Equal(t, tt.want, s.Stats().MemoryLimit, "%v", tt)
		closeStore(t, s)
	}
}

func TestOpenWithoutFolder(t *testing.T) {
	_, err := boltstore.Open(filepath.Join(t.TempDir(), "no", "store.db"), boltstore.Config{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestOpenLocked(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	for _, timeout := range []time.Duration{-1, 120 * time.Millisecond} {
		began := time.Now()
		_, err := boltstore.Open(path, boltstore.Config{LockTimeout: timeout})
		require.ErrorIs(t, err, boltstore.ErrLocked)
		require.Less(t, time.Since(began), 3*time.Second)
	}
	_, err := s.Commit(t.Context(), message("m", nil, "ann"))
	require.NoError(t, err, "the one who has it is not disturbed")

	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { closeStore(t, s) })
	open(t, path, boltstore.Config{})
}

func TestS33_NewIncarnationChangesEveryEpoch(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	old := s.Info()
	_, err := s.Commit(t.Context(), message("m", []byte("hi"), "ann", "bob"))
	require.NoError(t, err)
	before, err := s.Read(t.Context(), "bob", store.ReadOptions{Limit: 9})
	require.NoError(t, err)
	closeStore(t, s)

	s = open(t, path, boltstore.Config{NewIncarnation: true})
	require.NotEqual(t, old.Incarnation, s.Info().Incarnation)
	require.NotZero(t, s.Info().Incarnation)
	require.Equal(t, old.IDKey, s.Info().IDKey, "message IDs stay what they are")
	after, err := s.Read(t.Context(), "bob", store.ReadOptions{Limit: 9})
	require.NoError(t, err)
	require.NotEqual(t, before.Head.Epoch, after.Head.Epoch)
	require.Equal(t, before.Entries, after.Entries)
	never, err := s.Read(t.Context(), "never", store.ReadOptions{})
	require.NoError(t, err)
	require.Equal(t, s.Info().Incarnation, uint32(never.Head.Epoch>>32))
	info, err := s.Message(t.Context(), "m")
	require.NoError(t, err)
	require.Equal(t, after.Head.Epoch, info.To[1].Epoch, "a recall finds the copies")
	renewed := s.Info()
	closeStore(t, s)
	require.Equal(t, renewed, open(t, path, boltstore.Config{}).Info(), "it was for once")
}

func TestOpenNewerSchema(t *testing.T) {
	path := newPath(t)
	closeStore(t, open(t, path, boltstore.Config{}))
	setSchema(t, path, 77)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = boltstore.Open(path, boltstore.Config{NewIncarnation: true})
	require.ErrorIs(t, err, store.ErrSchema)
	require.ErrorContains(t, err, "77")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "the file was changed")
}

func TestOpenNotAStore(t *testing.T) {
	text := bytes.Repeat([]byte("Dear diary, "), 2000)
	for _, tt := range []struct {
		name string
		make func(t *testing.T, path string)
	}{
		{"empty", func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, nil, 0o600)) }},
		{"short", func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, text[:100], 0o600)) }},
		{"text", func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, text, 0o600)) }},
		{"other bbolt file", func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := newPath(t)
			tt.make(t, path)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			_, err = boltstore.Open(path, boltstore.Config{})
			require.ErrorIs(t, err, boltstore.ErrNotStore)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(before, after), "the file was changed")
			require.NoError(t, os.Remove(path)) // nobody holds it
			open(t, path, boltstore.Config{LockTimeout: -1})
		})
	}
}

func TestOpenTogether(t *testing.T) {
	path := newPath(t)
	var mu sync.Mutex
	infos := map[store.Info]int{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			s, err := boltstore.Open(path, boltstore.Config{LockTimeout: time.Minute})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			infos[s.Info()]++
			mu.Unlock()
			closeStore(t, s)
		})
	}
	wg.Wait()
	require.Len(t, infos, 1, "all made or found the same store")
	alone(t, path, "store.db")
}
