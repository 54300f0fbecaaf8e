package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// checkAfterKill checks that all is there that was answered, and that nothing is there by halves.
func checkAfterKill(t require.TestingT, path string, done *answered) {
	s, err := boltstore.Open(path, killConfig())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	ctx := context.Background()
	inboxes, count := killedInboxes(ctx, t, s)
	checkKilledMessages(ctx, t, s, inboxes)
	for w := range killWriters {
		a := event.Account(fmt.Sprint("writer", w))
		record, err := s.Load(ctx, a)
		require.NoError(t, err)
		require.EqualValues(t, count[a], len(record.Data), "the record goes with the entry")
		if count[a] == 0 {
			continue
		}
		states, err := s.States(ctx, a, store.StateOptions{Limit: 9})
		require.NoError(t, err)
		require.Equal(t, []event.State{{Conversation: "talk", Name: "count", Number: count[a], Seq: count[a]}}, states.States)
	}
	checkAnswered(t, inboxes, done.sent)
	temp, err := s.Read(ctx, "temp", store.ReadOptions{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, uint64(temp.Head.Epoch), done.epoch, "a deletion that was answered stays")
}

// checkAnswered checks that sends are where their answers say: I1, I3.
func checkAnswered(t require.TestingT, inboxes map[event.Account][]event.Entry, sent map[string]answer) {
	for id, a := range sent {
		own, ann := inboxes[a.self], inboxes["ann"]
		if uint64(len(own)) < a.own || uint64(len(ann)) < a.ann { // not require.Less: there are many
			require.Fail(t, "lost", "%s was answered", id)
		}
		if got := string(own[a.own-1].ID); got != id {
			require.Equal(t, id, got)
		}
		if a.ann == 0 {
			continue
		}
		if got := string(ann[a.ann-1].ID); got != id {
			require.Equal(t, id, got)
		}
	}
}

// killedInboxes returns all inboxes, and how many entries of each are the account's own.
func killedInboxes(ctx context.Context, t require.TestingT, s store.Store) (inboxes map[event.Account][]event.Entry, count map[event.Account]uint64) {
	inboxes, count = map[event.Account][]event.Entry{}, map[event.Account]uint64{}
	accounts := killInboxes
	for w := range killWriters {
		accounts = append(accounts[:len(accounts):len(accounts)], event.Account(fmt.Sprint("writer", w)))
	}
	for _, a := range accounts {
		all, head, err := readAll(ctx, s, a)
		require.NoError(t, err)
		require.Len(t, all, int(head.Seq), "%s: sequence numbers are dense", a)
		require.Equal(t, len(all), head.Entries)
		for i, e := range all {
			if uint64(i+1) != e.Seq || string(killPayload(string(e.ID))) != string(e.Payload) {
				require.Fail(t, "wrong entry", "%s: %d: %+v", a, i+1, e)
			}
			if e.From == a {
				count[a]++
			}
		}
		inboxes[a] = all
	}
	return inboxes, count
}

// checkKilledMessages checks that all of a message is there or nothing (I2), and for the newest also that its name is known.
func checkKilledMessages(ctx context.Context, t require.TestingT, s store.Store, inboxes map[event.Account][]event.Entry) {
	const newest = 100
	total := map[event.MessageID]int{}
	for _, list := range inboxes {
		for _, e := range list {
			total[e.ID]++
		}
	}
	for id, n := range total {
		if n != 1+len(killInboxes) {
			require.Fail(t, "half a message", "%s is in %d inboxes", id, n)
		}
	}
	ann := inboxes["ann"]
	for _, e := range ann[max(0, len(ann)-newest):] {
		info, err := s.Message(ctx, e.ID)
		require.NoError(t, err)
		require.Len(t, info.To, 1+len(killInboxes))
		for _, p := range info.To {
			require.Equal(t, e.ID, inboxes[p.Account][p.Seq-1].ID)
		}
		r, err := s.Commit(ctx, killBatch(string(e.ID), store.Record{}, info.From))
		require.NoError(t, err)
		require.True(t, r.Duplicate, "the idempotency record is there")
		require.Equal(t, info.To[:1], r.Messages[0].To)
	}
}

// checkBackup checks that the last whole backup has what was answered before it began, and that a Restore that was killed left
// either a whole store or none.
func checkBackup(t require.TestingT, path string, done *answered) {
	k := &killer{path: path}
	if _, err := os.Lstat(k.restoredPath()); !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
		checkRestored(t, k.restoredPath(), done)
	}
	if _, err := os.Lstat(k.backupPath()); errors.Is(err, fs.ErrNotExist) {
		require.Less(t, done.backup, 0)
		return
	}
	require.NoError(t, removeStore(k.restoredPath()))
	f, err := os.Open(k.backupPath())
	require.NoError(t, err)
	err = boltstore.Restore(context.Background(), k.restoredPath(), f)
	require.NoError(t, errors.Join(err, f.Close()))
	checkRestored(t, k.restoredPath(), done)
	require.NoError(t, removeStore(k.restoredPath()))
}

func checkRestored(t require.TestingT, path string, done *answered) {
	s, err := boltstore.Open(path, killConfig())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	inboxes, _ := killedInboxes(context.Background(), t, s)
	checkKilledMessages(context.Background(), t, s, inboxes)
	sent := map[string]answer{}
	for id, a := range done.sent {
		if a.n < done.backup {
			sent[id] = a
		}
	}
	checkAnswered(t, inboxes, sent)
}
