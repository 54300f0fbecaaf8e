package boltstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// logged keeps the lines that a store has written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// lines returns the lines with a message, or all.
func (l *logged) lines(tb testing.TB, msg string) (all []map[string]any) {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		var m map[string]any
		require.NoError(tb, json.Unmarshal([]byte(line), &m))
		if msg == "" || m["msg"] == msg {
			all = append(all, m)
		}
	}
	return all
}

// Figures of commits, flushes, the file, the log and memory (K20.4).
func TestStats_FollowWhatTheStoreDoes(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{MaxSize: 1 << 30}.WithMemory(64<<10))
	before := s.Stats()
	require.Zero(t, before.Commits)
	require.Positive(t, before.FileSize)
	require.Positive(t, before.Room)
	require.EqualValues(t, 16<<20, before.Reserve)
	require.EqualValues(t, 64<<10, before.MemoryLimit)
	require.Positive(t, before.LogSize)
	for i := range 200 {
		_, err := s.Commit(t.Context(), message(fmt.Sprint(i), make([]byte, 1_000), "ann", event.Account(fmt.Sprint("to", i))))
		require.NoError(t, err)
	}
	now := s.Stats()
	require.GreaterOrEqual(t, now.Operations, uint64(200))
	require.GreaterOrEqual(t, now.Commits, uint64(200))
	require.Positive(t, now.LastCommit)
	require.GreaterOrEqual(t, now.LongestCommit, now.LastCommit)
	require.GreaterOrEqual(t, now.CommitTime, now.LongestCommit)
	require.Positive(t, now.Memory)
	require.NoError(t, s.Compact(t.Context()))
	now = s.Stats()
	require.Less(t, now.Room, before.Room)
	require.Positive(t, now.Flushes)
	require.Positive(t, now.FlushTime)
	require.False(t, now.Flushing)
	require.GreaterOrEqual(t, now.FileSize, before.FileSize)
	require.NoError(t, now.Failed)
	require.Zero(t, now.Refused+now.WindowFull+now.WorkFailures+now.ReadFailures)
}

func TestStats_OperationsThatWait(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	g := newGate(s)
	var all sync.WaitGroup
	all.Go(func() { _, _ = s.Commit(context.Background(), message("0", nil, "ann")) })
	<-g.entered
	all.Go(func() { _, _ = s.Commit(context.Background(), message("1", nil, "ann")) }) // runs meanwhile
	ran(t, s, 2)
	for i := range 5 {
		all.Go(func() { _, _ = s.Commit(context.Background(), message(fmt.Sprint("w", i), nil, "ann")) })
	}
	waitFor(t, func() bool { return s.Stats().Waiting == 5 })
	close(g.open)
	all.Wait()
	require.Zero(t, s.Stats().Waiting)
}

// How near an account is to its bound of idempotency records is seen before its sends are refused.
func TestStats_FullestIdempotencyWindow(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	send := func(i int, a event.Account) error {
		b := message(fmt.Sprint(a, i), nil, a)
		b.Idempotency = &store.Idempotency{Device: "d", ClientID: event.ClientMessageID(fmt.Sprint("c", i)), Window: time.Hour, Max: 4}
		_, err := s.Commit(t.Context(), b)
		return err
	}
	require.NoError(t, send(0, "ben"))
	for i := range 4 {
		require.NoError(t, send(i, "ann"))
	}
	st := s.Stats()
	require.Equal(t, event.Account("ann"), st.IdempotencyAccount)
	require.InDelta(t, 0.75, st.IdempotencyFill, 0.001, "as the last send found it")
	require.ErrorIs(t, send(4, "ann"), store.ErrWindowFull)
	st = s.Stats()
	require.InDelta(t, 1, st.IdempotencyFill, 0.001)
	require.EqualValues(t, 1, st.WindowFull)
}

// K20.5: a store that is opened without room says so at once, in the log and by a gauge; refusals are counted, and are two
// lines however many they are.
func TestLog_NoRoom(t *testing.T) {
	t.Run("the file fills up and is cleared", func(t *testing.T) {
		cfg, out := boltstore.Config{MaxSize: 8 << 20}, new(logged)
		cfg.Logger = out.logger()
		s := open(t, newPath(t), cfg)
		require.Empty(t, out.lines(t, "boltstore: opened without room, all appends will be refused"))
		fill(t, s, "m", "ann")
		for i := range 100 {
			_, err := s.Commit(t.Context(), message(fmt.Sprint(i), make([]byte, 2*fillBytes), "ann"))
			require.ErrorIs(t, err, store.ErrFull)
		}
		require.GreaterOrEqual(t, s.Stats().Refused, uint64(101))
		begun := out.lines(t, "boltstore: no room, appends are refused")
		require.Len(t, begun, 1)
		require.Equal(t, "WARN", begun[0]["level"])
		require.Empty(t, out.lines(t, "boltstore: there is room again"))
		_, err := s.Trim(t.Context(), "ann", 1<<40, 1<<30)
		require.NoError(t, err)
		require.NoError(t, s.Compact(t.Context()))
		for i := range 3 {
			_, err := s.Commit(t.Context(), message(fmt.Sprint("more", i), nil, "ann"))
			require.NoError(t, err)
		}
		ended := out.lines(t, "boltstore: there is room again")
		require.Len(t, ended, 1)
		require.GreaterOrEqual(t, ended[0]["refused"], float64(101))
	})
	t.Run("the file is longer than its bound", func(t *testing.T) {
		path, out := newPath(t), new(logged)
		s := open(t, path, boltstore.Config{})
		for i := range 300 {
			_, err := s.Commit(t.Context(), message(fmt.Sprint(i), make([]byte, fillBytes), "ann"))
			require.NoError(t, err)
		}
		closeStore(t, s)
		s = open(t, path, boltstore.Config{MaxSize: 4 << 20, Logger: out.logger()})
		warned := out.lines(t, "boltstore: opened without room, all appends will be refused")
		require.Len(t, warned, 1)
		require.Equal(t, "store.db", warned[0]["file"])
		require.EqualValues(t, 4<<20, warned[0]["max_size"])
		require.Zero(t, s.Stats().Room)
	})
}

// One line each at open, replay, failure and close, which name the file and not where it is.
func TestLog_OpenReplayFailureClose(t *testing.T) {
	path, out := newPath(t), new(logged)
	s := open(t, path, boltstore.Config{Logger: out.logger()})
	_, err := s.Commit(t.Context(), message("1", nil, "ann"))
	require.NoError(t, err)
	s.Crash()
	failed := out.lines(t, "boltstore: failed")
	require.Len(t, failed, 1)
	require.Equal(t, "ERROR", failed[0]["level"])
	require.Contains(t, fmt.Sprint(failed[0]), "crash for a test")
	require.Error(t, s.Stats().Failed)

	out.buf.Reset()
	s = open(t, path, boltstore.Config{Logger: out.logger()})
	replayed := out.lines(t, "boltstore: log replayed")
	require.Len(t, replayed, 1)
	require.EqualValues(t, 3, replayed[0]["rows"], "head, entry and message")
	require.Positive(t, replayed[0]["memory"])
	opened := out.lines(t, "boltstore: opened")
	require.Len(t, opened, 1)
	require.EqualValues(t, s.Info().Incarnation, opened[0]["incarnation"])
	s.SetWrite(func(func() error) error { return errors.New("no disk") })
	for i := range 20 {
		_, err := s.Commit(t.Context(), message(fmt.Sprint("x", i), nil, "ann"))
		require.ErrorIs(t, err, store.ErrFailed)
	}
	require.Len(t, out.lines(t, "boltstore: failed"), 1)
	require.ErrorContains(t, s.Stats().Failed, "no disk")
	closeStore(t, s)
	require.Len(t, out.lines(t, "boltstore: closed"), 1)
	require.NotPanics(t, func() { s.Stats() })
	for _, line := range out.lines(t, "") {
		require.NotContains(t, fmt.Sprint(line), strings.TrimSuffix(path, "store.db"), "the folder is nobody's business")
		require.Equal(t, "store.db", line["file"], "%v", line)
	}
}
