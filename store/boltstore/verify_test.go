package boltstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// verify returns what Verify finds.
func verify(t *testing.T, s interface {
	Verify(context.Context, func(boltstore.Finding)) (boltstore.Verified, error)
}) (list []boltstore.Finding, done boltstore.Verified) {
	t.Helper()
	done, err := s.Verify(t.Context(), func(f boltstore.Finding) { list = append(list, f) })
	require.NoError(t, err)
	require.Len(t, list, done.Findings)
	return list, done
}

// busy gives a store rows of all kinds: copies, keys, recalls, changes, registers, records, cursors, idempotency records, deleted accounts.
func busy(t testing.TB, s store.Store) {
	t.Helper()
	ctx := context.Background()
	names := []event.Account{"ann", "bob", "cid", "dan"}
	big := []event.Account{"ann"}
	for i := range 40 {
		big = append(big, event.Account(fmt.Sprintf("member-%02d", i)))
	}
	commit := func(b store.Batch) {
		t.Helper()
		_, err := s.Commit(ctx, b)
		require.NoError(t, err)
	}
	for i := range 30 {
		b := message(fmt.Sprintf("m%d", i), make([]byte, 100+i*97), names[i%4], names[(i+1)%4])
		b.Messages[0].Flags = event.FlagUnread
		b.Idempotency = &store.Idempotency{
			Device: "phone", ClientID: event.ClientMessageID(fmt.Sprint("c", i)), Window: time.Hour, Max: 100,
		}
		if i%5 == 4 {
			b.Messages[0].Key = fmt.Sprint("key", i%3)
		}
		if i%7 == 6 {
			b.Messages[0].Of = event.MessageID(fmt.Sprintf("m%d", i-3))
		}
		commit(b)
	}
	commit(message("group", make([]byte, 5000), big...))
	commit(store.Batch{
		Account: "ann", Now: start, Record: &store.RecordUpdate{Data: []byte("hidden")},
		Begin:  []store.Begin{{Incarnation: 7}},
		States: []store.StateUpdate{{Conversation: "talk", Name: "read", Number: 3, Value: []byte("x")}},
	})
	_, err := s.Trim(ctx, "bob", 3, 100)
	require.NoError(t, err)
	_, err = s.Void(ctx, "cid", []uint64{5})
	require.NoError(t, err)
	require.NoError(t, s.Delete(ctx, "member-07", 0))
}

func TestVerify_AWholeStoreHasNoFindings(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	busy(t, s)
	list, done := verify(t, s)
	require.Empty(t, list)
	require.NotZero(t, done.Accounts)
	require.NoError(t, s.Compact(t.Context()))
	list, done = verify(t, s)
	require.Empty(t, list)
	require.Greater(t, done.Rows, 200)
	require.GreaterOrEqual(t, done.Messages, 10)
	closeStore(t, s)
	s = open(t, path, boltstore.Config{})
	list, _ = verify(t, s)
	require.Empty(t, list)
}

func TestVerify_BesideTraffic(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{}.WithMemory(64<<10))
	busy(t, s)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			me := event.Account(fmt.Sprint("writer-", w))
			for i := 0; ctx.Err() == nil; i++ {
				_, err := s.Commit(context.Background(), message(fmt.Sprintf("t%d-%d", w, i), make([]byte, 300), me, "ann"))
				require.NoError(t, err)
				if i%10 == 9 {
					_, err := s.Trim(context.Background(), me, uint64(i-4), 100)
					require.NoError(t, err)
				}
				if i%50 == 49 {
					require.NoError(t, s.Delete(context.Background(), me, 0))
				}
			}
		})
	}
	for range 5 {
		list, _ := verify(t, s)
		require.Empty(t, list)
	}
	stop()
	wg.Wait()
}

// TestVerify_Findings damages a file in one way after another.
func TestVerify_Findings(t *testing.T) {
	change := func(table string, f func(b *bolt.Bucket) error) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Update(func(tx *bolt.Tx) error { return f(tx.Bucket([]byte(table))) }))
			require.NoError(t, db.Close())
		}
	}
	find := func(b *bolt.Bucket, prefix string) (k []byte) {
		k, _ = b.Cursor().Seek([]byte(prefix))
		return append([]byte{}, k...)
	}
	spoil := func(prefix string) func(b *bolt.Bucket) error {
		return func(b *bolt.Bucket) error {
			k := find(b, prefix)
			v := append([]byte{}, b.Get(k)...)
			v[len(v)-1] ^= 0x10
			return b.Put(k, v)
		}
	}
	remove := func(prefix string) func(b *bolt.Bucket) error {
		return func(b *bolt.Bucket) error { return b.Delete(find(b, prefix)) }
	}
	for _, tt := range []struct {
		name   string
		damage func(*testing.T, string)
		want   boltstore.Finding // what is not zero
	}{
		{"head", change("head", spoil("bob")), boltstore.Finding{Kind: boltstore.FindingRow, Table: "head", Account: "bob"}},
		{"missing head", change("head", remove("bob")), boltstore.Finding{Kind: boltstore.FindingLeft, Account: "bob"}},
		{"entry", change("account", spoil("bob\x00\x00\x00\x00\x01e")), boltstore.Finding{Kind: boltstore.FindingRow, Table: "account", Account: "bob"}},
		{"missing entry", change("account", remove("bob\x00\x00\x00\x00\x01e")), boltstore.Finding{Kind: boltstore.FindingCount, Account: "bob"}},
		{"register", change("account", spoil("ann\x00\x00\x00\x00\x01s")), boltstore.Finding{Kind: boltstore.FindingRow, Account: "ann"}},
		{"missing key", change("account", remove("ann\x00\x00\x00\x00\x01k")), boltstore.Finding{Kind: boltstore.FindingMissing, Account: "ann"}},
		{"missing record", change("account", remove("ann\x00\x00\x00\x00\x01r")), boltstore.Finding{Kind: boltstore.FindingCount, Account: "ann"}},
		{"message", change("message", spoil("\x02group\x00m")), boltstore.Finding{Kind: boltstore.FindingRow, Table: "message", Message: "group"}},
		{"missing message", change("message", remove("\x02group\x00m")), boltstore.Finding{Kind: boltstore.FindingMissing, Message: "group", Account: "ann"}},
		{"payload", change("message", spoil("\x02group\x00p")), boltstore.Finding{Kind: boltstore.FindingRow, Table: "message"}},
		{"missing payload", change("message", remove("\x02group\x00p")), boltstore.Finding{Kind: boltstore.FindingRow, Message: "group"}},
		{"part of a payload", change("long", remove("\x02\x02group\x00p")), boltstore.Finding{Kind: boltstore.FindingRow, Table: "message"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := newPath(t)
			s := open(t, path, boltstore.Config{})
			busy(t, s)
			closeStore(t, s)
			tt.damage(t, path)
			s = open(t, path, boltstore.Config{})
			list, _ := verify(t, s)
			require.NotEmpty(t, list)
			for _, f := range list {
				w := tt.want
				if f.Kind == w.Kind && (w.Table == "" || f.Table == w.Table) && (w.Account == "" || f.Account == w.Account) &&
					(w.Message == "" || f.Message == w.Message) {
					require.NotContains(t, f.String(), "hidden")
					return
				}
			}
			require.Fail(t, "not found", "%v", list)
		})
	}
}

func TestVerify_EndsWithItsContext(t *testing.T) {
	s := open(t, newPath(t), boltstore.Config{})
	busy(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Verify(ctx, func(boltstore.Finding) {})
	require.ErrorIs(t, err, context.Canceled)
	closeStore(t, s)
	_, err = s.Verify(t.Context(), func(boltstore.Finding) {})
	require.ErrorIs(t, err, store.ErrClosed)
}
