package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// damage flips a bit in the values of a table of a closed store whose keys match, and returns how many there were.
func damage(t *testing.T, path, table string, match func(key []byte) bool) (n int) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(table))
		var keys [][]byte
		err := b.ForEach(func(k, _ []byte) error {
			if match(k) {
				keys = append(keys, bytes.Clone(k))
			}
			return nil
		})
		for _, k := range keys {
			v := bytes.Clone(b.Get(k))
			v[len(v)-1] ^= 0x10
			err = errors.Join(err, b.Put(k, v))
		}
		n = len(keys)
		return err
	}))
	require.NoError(t, db.Close())
	return n
}

// part matches the rows of an account that begin with a tag.
func part(account event.Account, tag byte) func([]byte) bool {
	prefix := append([]byte(account), 0, 0, 0, 0, 1, tag)
	return func(key []byte) bool { return bytes.HasPrefix(key, prefix) }
}

func is(name string) func([]byte) bool { return func(key []byte) bool { return string(key) == name } }

// town makes a closed store in which each account has something of everything, and a message in common with bob.
func town(t *testing.T) string {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	for _, a := range []event.Account{"ann", "cid", "dan"} {
		furnish(t, s, a)
		long := message(string(a)+"-long", make([]byte, 5000), a, "bob")
		_, err := s.Commit(t.Context(), long)
		require.NoError(t, err)
		unread := message(string(a)+"-unread", nil, a)
		unread.Messages[0].Flags = event.FlagUnread
		_, err = s.Commit(t.Context(), unread)
		require.NoError(t, err)
	}
	closeStore(t, s)
	return path
}

// deeds are all that can be asked about an account.
func deeds(t *testing.T, s store.Store, a event.Account) map[string]error {
	ctx := t.Context()
	errs := map[string]error{}
	_, errs["load"] = s.Load(ctx, a)
	_, errs["read"] = s.Read(ctx, a, store.ReadOptions{Limit: 9})
	_, errs["states"] = s.States(ctx, a, store.StateOptions{Limit: 9})
	_, errs["conversations"] = s.Conversations(ctx, a, store.ConversationOptions{Limit: 9})
	_, errs["cursors"] = s.Cursors(ctx, a)
	errs["save"] = s.SaveCursors(ctx, []store.Cursor{{Account: a, Incarnation: 7, Seq: 1}})
	send := message(string(a)+"-new", []byte("new"), a)
	send.Messages[0].Key = string(a) + "-typing"
	send.Messages[0].Conversation, send.Messages[0].Flags = "talk", event.FlagUnread
	send.Idempotency = &store.Idempotency{ClientID: event.ClientMessageID(a + "-client"), Window: time.Hour, Max: 10}
	_, errs["repeat"] = s.Commit(ctx, send)
	send.Idempotency = nil
	send.States = []store.StateUpdate{{Conversation: event.ConversationID(a + "-talk"), Name: "pinned", Merge: store.MergeLast, Number: 2}}
	_, errs["send"] = s.Commit(ctx, send)
	_, errs["message"] = s.Message(ctx, event.MessageID(a+"-id"))
	_, errs["long"] = s.Message(ctx, event.MessageID(a+"-long"))
	_, errs["trim"] = s.Trim(ctx, a, 1, 1)
	_, errs["void"] = s.Void(ctx, a, []uint64{3, 4})
	return errs
}

// A row that cannot be read is an error for who asks for it, and says where it is. Nobody else notices.
func TestI38_DamageIsToldToWhoAsks(t *testing.T) {
	for _, tt := range []struct {
		name, table string
		match       func([]byte) bool
		fails       []string // what is asked about ann
		says        []string
		bob         bool // his inbox shares what is damaged
	}{
		{"head", "head", is("ann"), []string{
			"load", "read", "states", "conversations", "cursors", "save", "repeat", "send", "trim", "void",
		}, []string{`account "ann"`, "table head"}, false},
		{"record", "account", part("ann", 'r'), []string{"load"}, []string{`account "ann"`, "table account"}, false},
		{"entries", "account", part("ann", 'e'), []string{"read", "trim", "void", "send"}, []string{`account "ann"`, "table account"}, false},
		{"register", "account", part("ann", 's'), []string{"states", "send"}, []string{`account "ann"`, "ann-talk"}, false},
		{"count", "account", part("ann", 'o'), []string{"conversations", "send", "void"}, []string{`account "ann"`, "talk"}, false},
		{"cursor", "account", part("ann", 'c'), []string{"cursors", "save"}, []string{`account "ann"`}, false},
		{"key", "account", part("ann", 'k'), []string{"send"}, []string{`account "ann"`, "ann-typing"}, false},
		{"idempotency record", "account", part("ann", 'i'), []string{"repeat"}, []string{`account "ann"`, "ann-client"}, false},
		{"message", "message", is("\x02ann-id\x00m"), []string{"read", "message"}, []string{`message "ann-id"`, "table message"}, true},
		{"payload", "message", is("\x02ann-long\x00p"), []string{"read"}, []string{`message "ann-long"`, "table message"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := town(t)
			require.NotZero(t, damage(t, path, tt.table, tt.match))
			s := open(t, path, boltstore.Config{})
			for deed, err := range deeds(t, s, "ann") {
				if !slices.Contains(tt.fails, deed) {
					require.NotErrorIs(t, err, boltstore.ErrCorrupt, deed)
					continue
				}
				require.ErrorIs(t, err, boltstore.ErrCorrupt, deed)
				for _, word := range tt.says {
					require.ErrorContains(t, err, word, deed)
				}
				require.LessOrEqual(t, strings.Count(err.Error(), `account "`), 1, "%v", err)
			}
			for _, other := range []event.Account{"cid", "dan"} {
				for deed, err := range deeds(t, s, other) {
					require.NoError(t, err, deed)
				}
			}
			_, err := s.Read(t.Context(), "bob", store.ReadOptions{Limit: 20})
			require.Equal(t, tt.bob, errors.Is(err, boltstore.ErrCorrupt))
			_, err = s.Commit(t.Context(), message("more", nil, "bob", "cid"))
			require.NoError(t, err)
			names, err := s.Accounts(t.Context(), "", 9)
			require.NoError(t, err)
			require.Equal(t, []event.Account{"ann", "bob", "cid", "dan"}, names)
			require.NoError(t, s.Stats().Failed)
			require.NotZero(t, s.Stats().ReadFailures)
			require.NoError(t, s.Compact(t.Context()))
		})
	}
}

// An operation that meets damage when it has written a part leaves nothing behind.
func TestDamageInTheMiddleOfABatch(t *testing.T) {
	path := town(t)
	require.NotZero(t, damage(t, path, "head", is("dan")))
	s := open(t, path, boltstore.Config{})
	before, head, err := readAll(t.Context(), s, "cid")
	require.NoError(t, err)
	b := message("half", []byte("x"), "cid", "bob", "dan")
	b.States = []store.StateUpdate{{Conversation: "c", Name: "n", Number: 1}}
	_, err = s.Commit(t.Context(), b)
	require.ErrorIs(t, err, boltstore.ErrCorrupt)
	require.ErrorContains(t, err, `account "dan"`)
	after, now, err := readAll(t.Context(), s, "cid")
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Equal(t, head, now)
	_, err = s.Message(t.Context(), "half")
	require.ErrorIs(t, err, store.ErrNotFound)
	states, err := s.States(t.Context(), "cid", store.StateOptions{Conversation: "c", Limit: 9})
	require.NoError(t, err)
	require.Empty(t, states.States)
	_, err = s.Commit(t.Context(), message("half", []byte("x"), "cid", "bob"))
	require.NoError(t, err, "the ID was not used")
}

// The message of an engine is named by its ID, though the row's key is another one.
func TestDamageNamesTheMessage(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	id := string(event.NewIssuer(s.Info().IDKey).Issue())
	_, err := s.Commit(t.Context(), message(id, []byte("x"), "ann"))
	require.NoError(t, err)
	closeStore(t, s)
	require.Equal(t, 1, damage(t, path, "message", func([]byte) bool { return true }))
	s = open(t, path, boltstore.Config{})
	_, err = s.Read(t.Context(), "ann", store.ReadOptions{Limit: 9})
	require.ErrorIs(t, err, boltstore.ErrCorrupt)
	for _, word := range []string{`account "ann"`, "entry 1", fmt.Sprintf("message %q", id), "table message"} {
		require.ErrorContains(t, err, word)
	}
}

// What copies share and cannot be read holds up nobody: entries that refer to it can be replaced and removed.
func TestDamagedMessagesHoldUpNothing(t *testing.T) {
	path := town(t)
	require.NotZero(t, damage(t, path, "message", func([]byte) bool { return true }))
	s := open(t, path, boltstore.Config{})
	_, err := s.Commit(t.Context(), message("new", nil, "ann", "bob", "cid"))
	require.NoError(t, err)
	_, err = s.Void(t.Context(), "ann", []uint64{1, 4})
	require.NoError(t, err)
	head, err := s.Trim(t.Context(), "ann", 4, 100)
	require.NoError(t, err)
	require.Equal(t, 1, head.Entries)
	all, _, err := readAll(t.Context(), s, "ann")
	require.NoError(t, err)
	require.Len(t, all, 1)
	r, err := s.Load(t.Context(), "ann")
	require.NoError(t, err)
	require.NoError(t, s.Delete(t.Context(), "ann", r.Revision))
	waitFor(t, func() bool { return !s.Purging() })
}

// Rows of a deleted account that cannot be read are removed unread, and hold up no other account's removal.
func TestPurgeGetsPastDamage(t *testing.T) {
	path := town(t)
	n := damage(t, path, "account", func(key []byte) bool { return bytes.HasPrefix(key, []byte("ann\x00")) })
	require.Greater(t, n, 5)
	s := open(t, path, boltstore.Config{})
	require.NoError(t, s.Delete(t.Context(), "ann", 1), "the record's revision is in the head")
	require.NoError(t, s.Delete(t.Context(), "cid", 1))
	waitFor(t, func() bool { return !s.Purging() })
	require.GreaterOrEqual(t, s.Stats().ReadFailures, uint64(n))
	for _, word := range []string{"ann-talk", "ann-client", "cid-talk", "cid-client"} {
		found, err := s.Reachable(word)
		require.NoError(t, err)
		require.False(t, found, word)
	}
	for _, err := range deeds(t, s, "ann") {
		require.NotErrorIs(t, err, boltstore.ErrCorrupt)
	}
	require.Zero(t, s.Stats().WorkFailures)
}

// A row of the purge table that cannot be read says nothing of how far the removal came, and maybe not even of whom: it is believed
// only of what no account uses any more, and holds up no other.
func TestDamagedPurgeRows(t *testing.T) {
	path := town(t)
	s := open(t, path, boltstore.Config{})
	require.NoError(t, s.Delete(t.Context(), "ann", 1))
	waitFor(t, func() bool { return !s.Purging() })
	closeStore(t, s)
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		purge, rows := tx.Bucket([]byte("purge")), tx.Bucket([]byte("account"))
		return errors.Join(
			rows.Put([]byte("ann\x00\x00\x00\x00\x01rest"), []byte("garbage")),
			purge.Put([]byte("ann\x00\x00\x00\x00\x01"), []byte("garbage")),
			purge.Put([]byte("a"), []byte("garbage")),
			purge.Put([]byte("cid\x00\x00\x00\x00\x01"), []byte("garbage")), // who is there
			purge.Put([]byte("nobody\x00\x00\x00\x00\x07"), []byte("garbage")),
		)
	}))
	require.NoError(t, db.Close())
	s = open(t, path, boltstore.Config{})
	waitFor(t, func() bool { return s.Stats().WorkFailures >= 2 })
	require.NoError(t, s.Delete(t.Context(), "dan", 1))
	waitFor(t, func() bool { found, err := s.Reachable("dan-talk"); return err == nil && !found })
	found, err := s.Reachable("rest")
	require.NoError(t, err)
	require.False(t, found)
	for _, err := range deeds(t, s, "cid") {
		require.NoError(t, err)
	}
}
