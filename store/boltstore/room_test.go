package boltstore_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

func TestReserve(t *testing.T) {
	for _, tt := range []struct {
		name      string
		max, want int64
	}{
		{"default", 0, 16 << 20},
		{"no bound", -1, 16 << 20},
		{"small share", 512 << 20, 16 << 20},
		{"tiny", 8 << 20, 2 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, boltstore.Config{MaxSize: tt.max}.Reserve())
		})
	}
}

func TestS70_FullAndRecovered(t *testing.T) {
	const most = 8 << 20
	path := newPath(t)
	s := open(t, path, boltstore.Config{MaxSize: most})
	ctx := t.Context()
	first := fill(t, s, "first", "ann")
	require.Greater(t, first, 100)
	bounded := func() {
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.LessOrEqual(t, st.Size(), int64(most))
	}
	bounded()

	// What ends something goes on, and so do reads.
	end := message("end", []byte("logout"), "ann")
	end.Reserve, end.Record = true, &store.RecordUpdate{Data: make([]byte, 2000)}
	_, err := s.Commit(ctx, end)
	require.NoError(t, err)
	require.NoError(t, s.SaveCursors(ctx, []store.Cursor{{Account: "ann", Incarnation: 1, Seq: 5}}))
	_, err = s.Commit(ctx, store.Batch{Account: "ann", Now: start, Forget: []event.Incarnation{1}})
	require.NoError(t, err)
	all, _, err := readAll(ctx, s, "ann")
	require.NoError(t, err)
	require.Len(t, all, first+1)
	_, err = s.Commit(ctx, message("still", make([]byte, fillBytes), "ann"))
	require.ErrorIs(t, err, store.ErrFull)
	_, err = s.Commit(ctx, store.Batch{Account: "new", Now: start, Record: &store.RecordUpdate{Data: make([]byte, 60_000)}})
	require.ErrorIs(t, err, store.ErrFull, "no new account's record either")

	// The reserve is used up, but not more than that.
	for i := 0; ; i++ {
		b := message(fmt.Sprint("spare", i), make([]byte, fillBytes), "ann")
		b.Reserve = true
		if _, err := s.Commit(ctx, b); err != nil {
			require.ErrorIs(t, err, store.ErrFull)
			require.Greater(t, i, 20)
			break
		}
	}
	bounded()

	// Room comes back without a restart, again and again, and the file does not grow for it.
	for round := range 5 {
		head, err := s.Trim(ctx, "ann", 1<<60, 1<<30)
		require.NoError(t, err)
		require.Zero(t, head.Entries)
		n := fill(t, s, fmt.Sprint("round", round, "-"), "ann")
		require.Greater(t, n, first/3, "round %d", round)
		bounded()
	}

	// Nor is it different after one.
	closeStore(t, s)
	s = open(t, path, boltstore.Config{MaxSize: most})
	require.Less(t, fill(t, s, "more", "ann"), 10)
	require.NoError(t, s.Delete(ctx, "ann", 1))
	waitFor(t, func() bool { return !s.Purging() })
	require.Greater(t, fill(t, s, "last", "bob"), first/3)
	bounded()
}

func TestS72_ReplayDoesNotPinPages(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{}.WithMemory(64<<10))
	ctx := t.Context()
	const backlog = 600
	for i := range backlog / 100 {
		var b store.Batch
		for j := range 100 {
			m := message(fmt.Sprint("old", i, "-", j), make([]byte, 200), "reader")
			m.Messages = append(b.Messages, m.Messages...)
			b = m
		}
		_, err := s.Commit(ctx, b)
		require.NoError(t, err)
	}
	before := s.HighWater()
	// A device replays in small pages, while another account's log is appended to and trimmed for ever.
	var after uint64
	read, written := 0, 0
	for after < backlog {
		p, err := s.Read(ctx, "reader", store.ReadOptions{After: after, Limit: 4})
		require.NoError(t, err)
		read += len(p.Entries)
		after = p.Through
		for range 4 {
			written++
			_, err := s.Commit(ctx, message(fmt.Sprint("new", written), make([]byte, 4000), "writer"))
			require.NoError(t, err)
		}
		_, err = s.Trim(ctx, "writer", uint64(written), 100)
		require.NoError(t, err)
	}
	require.Equal(t, backlog, read)
	require.Less(t, s.HighWater()-before, int64(1<<20), "%d bytes were written", written*4000)
}
