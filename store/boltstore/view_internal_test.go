package boltstore

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

func openInternal(t *testing.T) *Store {
	s, err := Open(filepath.Join(t.TempDir(), "db"), Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return s
}

func sendInternal(t *testing.T, s *Store, id string) {
	_, err := s.Commit(t.Context(), store.Batch{Account: "ann", Now: time.UnixMilli(1), Messages: []store.Message{{
		ID: event.MessageID(id), Kind: event.KindMessage, From: "ann", To: []store.Inbox{{Account: "ann"}},
	}}})
	require.NoError(t, err)
}

// lookIn runs f in a view of a transaction.
func lookIn(s *Store, tx *bolt.Tx, f func(*view) error) error {
	v := &view{s: s, transaction: tx}
	if err := s.open(v); err != nil {
		return err
	}
	return f(v)
}

// Readers use the transaction of those before them, until a commit: while it writes none is open that nobody reads in.
func TestViewsAreKeptUntilTheNextCommit(t *testing.T) {
	s := openInternal(t)
	sendInternal(t, s, "one")
	head := func() uint64 {
		page, err := s.Read(t.Context(), "ann", store.ReadOptions{})
		require.NoError(t, err)
		return page.Head.Seq
	}
	require.EqualValues(t, 1, head())
	require.Equal(t, 1, s.db.Stats().OpenTxN)
	began := s.db.Stats().TxN
	require.EqualValues(t, 1, head())
	require.Equal(t, began, s.db.Stats().TxN, "the same transaction")
	during := func(tx *bolt.Tx) error {
		require.Zero(t, s.db.Stats().OpenTxN)
		require.EqualValues(t, 1, head())
		require.Zero(t, s.db.Stats().OpenTxN)
		err := tx.Commit()
		go func() { _, _ = s.Read(context.Background(), "ann", store.ReadOptions{}) }() // waits for the publication
		return err
	}
	s.SetCommit(during)
	sendInternal(t, s, "two")
	require.EqualValues(t, 2, head())
	s.SetCommit(func(tx *bolt.Tx) error {
		var page store.Page
		require.NoError(t, s.view(t.Context(), func(*view) error { // one that is in use all the while
			require.NoError(t, tx.Commit())
			return nil
		}))
		page, err := s.Read(t.Context(), "ann", store.ReadOptions{})
		require.NoError(t, err)
		require.EqualValues(t, 2, page.Head.Seq, "not published yet")
		return nil
	})
	sendInternal(t, s, "three")
	s.SetCommit((*bolt.Tx).Commit)
	require.EqualValues(t, 3, head())
	require.NoError(t, s.view(t.Context(), func(*view) error {
		sendInternal(t, s, "four")
		return nil
	}))
	require.Zero(t, s.db.Stats().OpenTxN, "what began before a commit is not used after it")
	require.EqualValues(t, 4, head())
	fails := s.view(t.Context(), func(*view) error { return store.ErrConflict })
	require.ErrorIs(t, fails, store.ErrConflict)
	require.Zero(t, s.db.Stats().OpenTxN, "what went wrong is not used again")
}

// A reader whose transaction began before what memory has been told since begins anew, at any point of its work.
func TestReaderBehindMemoryBeginsAnew(t *testing.T) {
	s := openInternal(t)
	sendInternal(t, s, "one")
	tx, err := s.db.Begin(false)
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback()) }()
	require.NoError(t, lookIn(s, tx, func(*view) error { return nil }))
	require.ErrorIs(t, lookIn(s, tx, func(v *view) error {
		sendInternal(t, s, "two")
		_, err := v.account("ann")
		return err
	}), errStale)
	require.ErrorIs(t, lookIn(s, tx, func(*view) error { return nil }), errStale)
}

// What memory refers to and the file has not is corrupt only if they are of the same moment.
func TestReaderKnowsWhatIsCorrupt(t *testing.T) {
	s := openInternal(t)
	sendInternal(t, s, "one")
	missing := func() (err error) {
		tx, err := s.db.Begin(false)
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback()) }()
		return lookIn(s, tx, func(v *view) error { return v.missing })
	}
	require.ErrorIs(t, missing(), ErrCorrupt)
	s.state.Lock()
	s.published-- // as between a commit and its publication
	s.state.Unlock()
	require.ErrorIs(t, missing(), errStale)
}

// Hints are for the window that was folded last and the seats of accounts that are not deleted.
func TestHintsHoldOnlyAsLongAsTheyAreTrue(t *testing.T) {
	s := openInternal(t)
	sendInternal(t, s, "one")
	b := store.Batch{Account: "ann", Messages: []store.Message{{Flags: event.FlagUnread, To: []store.Inbox{{Account: "ann"}}}}}
	h := s.hints(t.Context(), &b, "")
	one := h.of("ann")
	require.True(t, one.seated)
	require.Len(t, one.rows, 1)
	var a account
	require.True(t, h.seated(&a, one, h.layer))
	require.False(t, h.seated(&a, one, newLayer(9, 1)), "another window")
	h.use(&a, one, 7)
	require.Zero(t, a.hinted, "another window was folded")
	h.use(&a, one, 0)
	require.NotZero(t, a.hinted)
	require.NoError(t, s.Delete(t.Context(), "ann", 0))
	require.False(t, h.seated(&a, one, h.layer), "the name has another number")
}

// An account was deleted and its window folded while a caller looked its batch up.
func TestHintsOfAnAccountThatIsGoneMeanwhile(t *testing.T) {
	s := openInternal(t)
	sendInternal(t, s, "one")
	b := store.Batch{Account: "ann", Messages: []store.Message{{Flags: event.FlagUnread, To: []store.Inbox{{Account: "ann"}}}}}
	for name, found := range map[string]bool{"before it was looked for": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			h := &hints{list: []hint{{name: "ann"}}}
			h.message(&b.Messages[0], &b.Messages[0].To[0])
			s.seats(h)
			if found {
				require.NoError(t, s.viewAccounts(t.Context(), h.some))
			}
			require.NoError(t, s.Delete(t.Context(), "ann", 0))
			sendInternal(t, s, fmt.Sprint("again", found))
			require.NoError(t, s.Compact(t.Context()))
			h.done = 0
			require.NoError(t, s.viewAccounts(t.Context(), h.some))
			require.NoError(t, s.submit(t.Context(), 0, func(w *writer) error {
				w.hints = h
				defer func() { w.hints = nil }()
				a, err := w.account("ann")
				if err != nil {
					return err
				}
				require.EqualValues(t, 1, a.head.seq)
				require.Equal(t, h.list[0].aid, a.aid)
				return nil
			}))
		})
	}
}

// A message that was edited is still known, but without its payload. A reader for which memory has its entry still, because
// the commit of the edit is not published yet, must not take that for an empty payload (I4).
func TestI4_ReaderOfAnEntryThatIsBeingReplaced(t *testing.T) {
	s := openInternal(t)
	send := func(m store.Message) store.Place {
		m.From, m.Conversation = "ann", "c"
		b := store.Batch{Account: "ann", Now: time.UnixMilli(1), Messages: []store.Message{m}}
		res, err := s.Commit(t.Context(), b)
		require.NoError(t, err)
		return res.Messages[0].To[0]
	}
	first := send(store.Message{ID: "one", Kind: event.KindMessage, Payload: []byte("whole"), To: []store.Inbox{{Account: "ann"}}})
	read := func() string {
		page, err := s.Read(context.Background(), "ann", store.ReadOptions{Limit: 10})
		if err != nil || len(page.Entries) == 0 {
			return fmt.Sprint(err)
		}
		return string(page.Entries[0].Payload)
	}
	seen := make(chan string, 1)
	s.SetCommit(func(tx *bolt.Tx) error {
		err := tx.Commit()
		go func() { seen <- read() }()
		select {
		case early := <-seen:
			seen <- early
		case <-time.After(50 * time.Millisecond): // it waits for the publication
		}
		return err
	})
	at := event.Position{Epoch: first.Epoch, Seq: first.Seq}
	send(store.Message{
		ID: "two", Kind: event.KindEdit, Of: "one", Key: "edit", Payload: []byte("better"),
		To: []store.Inbox{{Account: "ann", Replaces: at}},
	})
	require.Equal(t, "better", <-seen)
}
