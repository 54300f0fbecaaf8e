package boltstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// backedUp returns a backup of s.
func backedUp(t *testing.T, s *boltstore.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := s.Backup(t.Context(), &b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), n)
	return b.Bytes()
}

// alone requires that the folder of path holds nothing but the named files.
func alone(t *testing.T, path string, names ...string) {
	t.Helper()
	files, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	have := []string{}
	for _, f := range files {
		have = append(have, f.Name())
	}
	require.ElementsMatch(t, names, have)
}

func TestS33_D11_Restore(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	ctx := t.Context()
	record := store.Batch{Account: "ann", Now: start, Record: &store.RecordUpdate{Data: make([]byte, 5000)}, Begin: []store.Begin{{Incarnation: 3}}}
	_, err := s.Commit(ctx, record)
	require.NoError(t, err)
	_, err = s.Commit(ctx, message("m", bytes.Repeat([]byte("x"), 30_000), "ann", "bob"))
	require.NoError(t, err)
	require.NoError(t, s.SaveCursors(ctx, []store.Cursor{{Account: "ann", Incarnation: 3, Seq: 1}}))
	copied := backedUp(t, s)
	_, err = s.Commit(ctx, message("later", nil, "ann"))
	require.NoError(t, err)

	path := newPath(t)
	require.NoError(t, boltstore.Restore(ctx, path, bytes.NewReader(copied)))
	alone(t, path, "store.db")
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	back := open(t, path, boltstore.Config{})
	require.NotEqual(t, s.Info().Incarnation, back.Info().Incarnation)
	require.Equal(t, s.Info().IDKey, back.Info().IDKey, "message IDs stay what they are")
	for _, a := range []event.Account{"ann", "bob", "never"} {
		before, _, err := readAll(ctx, s, a)
		require.NoError(t, err)
		after, head, err := readAll(ctx, back, a)
		require.NoError(t, err)
		require.Equal(t, back.Info().Incarnation, uint32(head.Epoch>>32), a)
		require.Equal(t, before[:min(len(before), 1)], after)
	}
	r, err := back.Load(ctx, "ann")
	require.NoError(t, err)
	require.Len(t, r.Data, 5000)
	cursors, err := back.Cursors(ctx, "ann")
	require.NoError(t, err)
	require.Equal(t, []store.Cursor{{Account: "ann", Incarnation: 3, Seq: 1}}, cursors)

	second := newPath(t)
	require.NoError(t, boltstore.Restore(ctx, second, iotest.OneByteReader(bytes.NewReader(copied))))
	require.NotEqual(t, back.Info().Incarnation, open(t, second, boltstore.Config{}).Info().Incarnation, "each time it is restored")

	direct := newPath(t)
	require.NoError(t, os.WriteFile(direct, copied, 0o600))
	_, err = boltstore.Open(direct, boltstore.Config{NewIncarnation: true})
	require.ErrorIs(t, err, boltstore.ErrBackup, "a backup is no file of a store: Restore makes one of it")
}

// TestD11_ConsistentWhileWriting takes backups while writers append to inboxes of their own and to one that is common.
// The common inbox has all messages in the order of their commits.
func TestD11_ConsistentWhileWriting(t *testing.T) {
	const writers, backups = 4, 5
	s := open(t, newPath(t), boltstore.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	sent := make(chan struct{}, 1)
	for w := range writers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				own := event.Account(fmt.Sprint("own", w))
				b := message(fmt.Sprint(w, "-", n), make([]byte, n%5*700), own, "common")
				b.States = []store.StateUpdate{{Conversation: "talk", Name: "count", Number: uint64(n + 1)}}
				if _, err := s.Commit(t.Context(), b); err != nil {
					t.Error(err)
				}
				if n%50 == 49 {
					if _, err := s.Trim(t.Context(), own, uint64(n/2), 1000); err != nil {
						t.Error(err)
					}
				}
				select {
				case sent <- struct{}{}:
				default:
				}
			}
		})
	}
	var copies [][]byte
	var answered []uint64
	for range backups {
		for range 20 {
			<-sent
		}
		before, err := s.Read(t.Context(), "common", store.ReadOptions{})
		require.NoError(t, err)
		answered = append(answered, before.Head.Seq)
		copies = append(copies, backedUp(t, s))
	}
	cancel()
	wg.Wait()
	all, _, err := readAll(t.Context(), s, "common")
	require.NoError(t, err)
	for i, c := range copies {
		path := newPath(t)
		require.NoError(t, boltstore.Restore(t.Context(), path, bytes.NewReader(c)))
		back := open(t, path, boltstore.Config{})
		have, head, err := readAll(t.Context(), back, "common")
		require.NoError(t, err)
		require.GreaterOrEqual(t, head.Seq, answered[i], "what was answered before is in it")
		require.Equal(t, all[:len(have)], have, "a beginning of what was committed")
		count := map[event.Account]uint64{}
		for _, e := range have {
			count[e.From]++
		}
		for w := range writers {
			own := event.Account(fmt.Sprint("own", w))
			page, err := back.Read(t.Context(), own, store.ReadOptions{})
			require.NoError(t, err)
			require.Equal(t, count[own], page.Head.Seq, "and whole batches")
			states, err := back.States(t.Context(), own, store.StateOptions{Limit: 9})
			require.NoError(t, err)
			require.Len(t, states.States, 1)
			require.Equal(t, count[own], states.States[0].Number)
		}
	}
}

func TestD11_RestoreRefusesWhatIsNotWhole(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	for i := range 50 {
		_, err := s.Commit(t.Context(), message(fmt.Sprint("m", i), make([]byte, 5000), "ann", "bob"))
		require.NoError(t, err)
	}
	good := backedUp(t, s)
	flipped := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	other := newPath(t)
	db, err := bolt.Open(other, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	foreign, err := os.ReadFile(other)
	require.NoError(t, err)
	text := bytes.Repeat([]byte("Dear diary, "), 20_000)
	writeSchema(t, s.Bolt(), 77)
	newer := backedUp(t, s)
	errAway := errors.New("the disk is away")
	canceled, cancel := context.WithCancel(t.Context())
	for _, tt := range []struct {
		name string
		r    io.Reader
		want error
	}{
		{"nothing", bytes.NewReader(nil), boltstore.ErrNotStore},
		{"a few bytes", bytes.NewReader(good[:19]), boltstore.ErrNotStore},
		{"one page", bytes.NewReader(good[:os.Getpagesize()]), boltstore.ErrCorrupt},
		{"half", bytes.NewReader(good[:len(good)/2]), boltstore.ErrCorrupt},
		{"without the end mark", bytes.NewReader(good[:len(good)-56]), boltstore.ErrCorrupt},
		{"but for a byte", bytes.NewReader(good[:len(good)-1]), boltstore.ErrCorrupt},
		{"a byte too many", bytes.NewReader(append(bytes.Clone(good), 0)), boltstore.ErrCorrupt},
		{"a bit in the middle", bytes.NewReader(flipped(len(good) / 2)), boltstore.ErrCorrupt},
		{"a bit of the checksum", bytes.NewReader(flipped(len(good) - 1)), boltstore.ErrCorrupt},
		{"some text", bytes.NewReader(text), boltstore.ErrNotStore},
		{"another program's file", bytes.NewReader(foreign), boltstore.ErrNotStore},
		{"of a newer release", bytes.NewReader(newer), store.ErrSchema},
		{"a reader that fails", io.MultiReader(bytes.NewReader(good[:50_000]), iotest.ErrReader(errAway)), errAway},
		{"ctx ends", io.MultiReader(bytes.NewReader(good[:50_000]), readFunc(func() { cancel() }), bytes.NewReader(good[50_000:])), context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := newPath(t)
			ctx := t.Context()
			if errors.Is(tt.want, context.Canceled) {
				ctx = canceled
			}
			require.ErrorIs(t, boltstore.Restore(ctx, path, tt.r), tt.want)
			alone(t, path)
		})
	}
	t.Run("over another file", func(t *testing.T) {
		path := newPath(t)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		require.ErrorIs(t, boltstore.Restore(t.Context(), path, iotest.ErrReader(errAway)), fs.ErrExist, "before it reads")
		late := readFunc(func() { require.NoError(t, os.WriteFile(path, text, 0o600)) })
		require.NoError(t, os.Remove(path))
		require.ErrorIs(t, boltstore.Restore(t.Context(), path, io.MultiReader(late, bytes.NewReader(good))), fs.ErrExist)
		have, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(text, have), "the file was changed")
		alone(t, path, "store.db")
	})
	require.Error(t, boltstore.Restore(t.Context(), "", bytes.NewReader(good)))
	require.ErrorIs(t, boltstore.Restore(t.Context(), filepath.Join(t.TempDir(), "no", "store.db"), bytes.NewReader(good)), fs.ErrNotExist)
}

// readFunc is called when its turn to be read has come, and reads nothing.
type readFunc func()

func (f readFunc) Read([]byte) (int, error) { f(); return 0, io.EOF }

// writeFunc is a writer that a test looks into.
type writeFunc func(p []byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

func TestD11_BackupEnds(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	_, err := s.Commit(t.Context(), message("m", make([]byte, 500_000), "ann"))
	require.NoError(t, err)
	errAway := errors.New("the disk is away")
	ctx, cancel := context.WithCancel(t.Context())
	for _, tt := range []struct {
		name string
		w    writeFunc
		want error
	}{
		{"a writer that fails at once", func([]byte) (int, error) { return 0, errAway }, errAway},
		{"a writer that fails", func(p []byte) (int, error) { return len(p) / 2, errAway }, errAway},
		{"a writer that cheats", func(p []byte) (int, error) { return len(p) - 1, nil }, io.ErrShortWrite},
		{"ctx ends", func(p []byte) (int, error) { cancel(); return len(p), nil }, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := s.Backup(ctx, tt.w)
			require.ErrorIs(t, err, tt.want)
			require.Less(t, n, int64(500_000))
		})
	}
	_, err = s.Backup(ctx, io.Discard)
	require.ErrorIs(t, err, context.Canceled, "before it begins")
	_, err = s.Commit(t.Context(), message("m2", nil, "ann"))
	require.NoError(t, err, "the store is as before")

	begun, release := make(chan struct{}, 1000), make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := s.Backup(t.Context(), writeFunc(func(p []byte) (int, error) { begun <- struct{}{}; <-release; return len(p), nil }))
		done <- err
	}()
	<-begun
	short, stop := context.WithCancel(t.Context())
	stop()
	require.ErrorIs(t, s.Close(short), context.Canceled, "Close waits for a backup, but not longer than it may")
	close(release)
	require.ErrorIs(t, <-done, store.ErrClosed, "and ends it")
	require.NoError(t, s.Close(t.Context()))
	_, err = s.Backup(t.Context(), io.Discard)
	require.ErrorIs(t, err, store.ErrClosed)
}

func TestD11_BackupOfAFailedStore(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	s.SetWrite(func(func() error) error { return errDisk })
	n, err := s.Backup(t.Context(), writeFunc(func(p []byte) (int, error) {
		_, err := s.Commit(t.Context(), message("m", nil, "ann"))
		require.ErrorIs(t, err, store.ErrFailed)
		return len(p), nil
	}))
	require.ErrorIs(t, err, store.ErrFailed)
	require.EqualValues(t, os.Getpagesize(), n, "it ends at the next part")
	_, err = s.Backup(t.Context(), io.Discard)
	require.ErrorIs(t, err, store.ErrFailed)
}

// TestD11_BackupToASlowWriter writes and trims while a backup is under way.
func TestD11_BackupToASlowWriter(t *testing.T) {
	const most, mib, live = 64 << 20, 1 << 20, 12
	s := open(t, newPath(t), boltstore.Config{MaxSize: most}.WithMemory(256<<10))
	sent := 0
	write := func(keep int) error { // a MiB, after which so many of those before are left
		b := store.Batch{Account: "ann", Now: start}
		for range 4 {
			sent++
			b.Messages = append(b.Messages, message(fmt.Sprint("m", sent), make([]byte, mib/4), "ann").Messages...)
		}
		if _, err := s.Commit(t.Context(), b); err != nil {
			return err
		}
		_, err := s.Trim(t.Context(), "ann", uint64(max(0, sent-4*keep)), 4*live)
		return err
	}
	churn := func(n int) {
		for range n {
			require.NoError(t, write(live))
		}
	}
	churn(3 * live)
	quiet := s.HighWater()
	require.Less(t, quiet, int64(20*mib))

	parts := 0
	_, err := s.Backup(t.Context(), writeFunc(func(p []byte) (int, error) {
		if parts++; parts <= 8 {
			churn(1)
		}
		return len(p), nil
	}))
	require.NoError(t, err)
	grown := s.HighWater()
	require.Greater(t, grown, quiet+4*mib, "no page that the copy needs is used again")
	churn(3 * live)
	require.LessOrEqual(t, s.HighWater(), grown+2*mib, "afterwards they are")

	_, err = s.Backup(t.Context(), writeFunc(func(p []byte) (int, error) {
		return len(p), write(3 * live)
	}))
	require.ErrorIs(t, err, store.ErrFull)
	require.Less(t, s.HighWater(), int64(most-(16+4)*mib))
	require.NoError(t, write(live), "it gave up before anything was refused")

	_, err = s.Backup(t.Context(), writeFunc(func([]byte) (int, error) { // one that looks too late
		_, err := s.Trim(t.Context(), "ann", 1<<40, 1<<10)
		for err == nil {
			err = write(most)
		}
		return 0, err
	}))
	require.ErrorIs(t, err, store.ErrFull)
	require.LessOrEqual(t, s.HighWater(), int64(most-16*mib), "the reserve is left")
	_, err = s.Trim(t.Context(), "ann", 1<<40, 1<<10)
	require.NoError(t, err)
	churn(1)
}
