package boltstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// ballastBut is ballast that leaves some bytes.
func ballastBut(t *testing.T, name string, leave int64) {
	ballast(t, name)
	st, err := os.Stat(name)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(name, (st.Size()-leave)/4096*4096))
}

// A disk that is full when the store is opened leaves it the smallest log. Whatever is removed or saved at once has room in it, however
// long names are.
func TestFull_K13_RemovalsFitIntoTheSmallestLog(t *testing.T) {
	const entries, accounts = 600, 8
	dir := smallDisk(t, 64<<20)
	path, other := filepath.Join(dir, "store.db"), filepath.Join(dir, "other")
	cfg := boltstore.Config{MaxSize: -1}
	s := open(t, path, cfg)
	ctx := t.Context()
	issuer := event.NewIssuer(s.Info().IDKey)
	account := func(i int) event.Account { return event.Account(fmt.Sprint(strings.Repeat("a", 110), i)) }
	var cursors []store.Cursor
	for i := range entries * accounts {
		a, n := account(i%accounts), i/accounts
		b := message(string(issuer.Issue()), []byte("short"), a)
		m := &b.Messages[0]
		m.Key, m.Flags = fmt.Sprint(strings.Repeat("k", 110), n), event.FlagUnread
		m.Conversation = event.ConversationID(fmt.Sprint(strings.Repeat("c", 110), n%50))
		b.States = []store.StateUpdate{{Conversation: event.ConversationID(fmt.Sprint(strings.Repeat("c", 110), n)), Name: strings.Repeat("n", 100), Number: 1}}
		b.Begin = []store.Begin{{Incarnation: event.Incarnation(n + 1)}}
		cursors = append(cursors, store.Cursor{Account: a, Incarnation: event.Incarnation(n + 1), Seq: 5})
		_, err := s.Commit(ctx, b)
		require.NoError(t, err)
	}
	closeStore(t, s)
	ballastBut(t, other, 600<<10)
	s = open(t, path, cfg)
	ballast(t, filepath.Join(dir, "more"))
	require.NoError(t, s.SaveCursors(ctx, cursors))
	_, err := s.Trim(ctx, account(0), 1<<60, 1<<30)
	require.NoError(t, err)
	seqs := make([]uint64, 512)
	for i := range seqs {
		seqs[i] = uint64(i + 1)
	}
	_, err = s.Void(ctx, account(1), seqs)
	require.NoError(t, err)
	require.NoError(t, s.Delete(ctx, account(2), 0))
	waitFor(t, func() bool { return !s.Purging() })
	_, err = s.Commit(ctx, store.Batch{Account: account(3), Now: start, Reserve: true, Record: &store.RecordUpdate{Data: make([]byte, store.MaxRecordBytes)}})
	require.NoError(t, err)
	require.Zero(t, s.Stats().WorkFailures)
}

// The log of a full disk cannot grow. Operations of one group that do not fit into it together are done one after the other.
func TestFull_K13_ManyTrimsAtOnce(t *testing.T) {
	const accounts, most = 50, 200
	dir := smallDisk(t, 64<<20)
	s := open(t, filepath.Join(dir, "store.db"), boltstore.Config{MaxSize: -1, Memory: 1 << 20})
	ctx := t.Context()
	issuer := event.NewIssuer(s.Info().IDKey)
	name := func(a int) event.Account {
		return event.Account(fmt.Sprint("an account with a name of some length ", a))
	}
	for a := range accounts {
		for range 4 {
			var b store.Batch
			for range most {
				m := message(string(issuer.Issue()), []byte("short"), name(a))
				m.Messages = append(b.Messages, m.Messages...)
				b = m
			}
			_, err := s.Commit(ctx, b)
			require.NoError(t, err)
		}
	}
	ballast(t, filepath.Join(dir, "other"))
	errs := make([]error, accounts)
	var all sync.WaitGroup
	for a := range accounts {
		all.Go(func() { _, errs[a] = s.Trim(ctx, name(a), 1<<60, 1<<30) })
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// A store that cannot be made for want of room leaves nothing behind.
func TestFull_K13_ADiskThatHasNoRoomForANewStore(t *testing.T) {
	for _, leave := range []int64{0, 8 << 10, 40 << 10, 200 << 10} {
		dir := smallDisk(t, 8<<20)
		ballastBut(t, filepath.Join(dir, "other"), leave)
		path := filepath.Join(dir, "store.db")
		_, err := boltstore.Open(path, boltstore.Config{})
		require.ErrorIs(t, err, store.ErrFull)
		require.ErrorIs(t, err, syscall.ENOSPC)
		names, err := storeFiles(path)
		require.NoError(t, err)
		require.Subset(t, []string{path}, names)
		require.NoError(t, os.Remove(filepath.Join(dir, "other")))
		closeStore(t, open(t, path, boltstore.Config{}))
	}
}
