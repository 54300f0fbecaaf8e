package fanout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// together sends n messages at once, which share commits.
func (w *world) together(n int, q func(i int) fanout.SendRequest) {
	w.t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { _, errs[i] = w.r.Send(context.Background(), q(i)) })
	}
	wg.Wait()
	require.NoError(w.t, errors.Join(errs...))
}

// TestC8_I27_FileStaysBounded has the inboxes of an engine wrap round forty times. The file finds its size in the first ones, and keeps it.
func TestC8_I27_FileStaysBounded(t *testing.T) {
	const entries, accounts, size = 64, 8, 3000
	for name, cfg := range map[string]fanout.Config{
		"by count": {MaxEntries: entries, TrimInterval: -1},
		"by bytes": {MaxBytes: entries * (size + 64), TrimInterval: -1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, filepath.Join(t.TempDir(), "store.db"), cfg)
			w.stop()
			w.bolt.MaxSize = 64 << 20 // the file grows in steps of a 64th of it
			w.openStore()
			w.start()
			var sizes []int64
			for range 40 {
				w.together(accounts*entries, func(i int) fanout.SendRequest {
					to := event.Account(fmt.Sprint("a", i%accounts))
					return fanout.SendRequest{From: "bob", Conversation: "c1", To: []event.Account{to}, NoSenderCopy: true, Payload: bytes.Repeat([]byte{byte(i)}, size)}
				})
				for i := range accounts {
					a := event.Account(fmt.Sprint("a", i))
					w.trim(a)
					require.LessOrEqual(t, w.head(a).Entries, entries)
				}
				st, err := os.Stat(w.path)
				require.NoError(t, err)
				sizes = append(sizes, st.Size())
			}
			require.LessOrEqual(t, sizes[39], sizes[0]*2, "%v", sizes)
			require.LessOrEqual(t, sizes[39], sizes[19]*21/20, "%v", sizes)
		})
	}
}

// reachable reports which of some words are in keys or values of the file, which is closed. Pages that are free still
// hold old bytes: what counts is what any bucket leads to.
func reachable(t testing.TB, path string, words ...string) (found []string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	require.NoError(t, err)
	defer db.Close()
	seen := map[string]bool{}
	var walk func(b *bolt.Bucket) error
	walk = func(b *bolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			for _, w := range words {
				if bytes.Contains(k, []byte(w)) || bytes.Contains(v, []byte(w)) {
					seen[w] = true
				}
			}
			if v == nil {
				return walk(b.Bucket(k))
			}
			return nil
		})
	}
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return walk(b) })
	}))
	for _, w := range words {
		if seen[w] {
			found = append(found, w)
		}
	}
	return found
}

// gone requires that the words leave the file of a stopped world by themselves, within some restarts of it: a store may
// finish a deletion in the background.
func (w *world) gone(words ...string) {
	w.t.Helper()
	var left []string
	for range 20 {
		w.stop()
		left = reachable(w.t, w.path, words...)
		w.openStore()
		w.start()
		if len(left) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.Empty(w.t, left)
}

// long is a payload of many pages, in each of which the word stands.
func long(word string) []byte { return bytes.Repeat([]byte(word+" "), 3000) }

// TestC18_GoneFromTheFile looks into the file for what was edited, recalled, hidden and superseded, and for what retention
// has removed.
func TestC18_GoneFromTheFile(t *testing.T) {
	w := newWorld(t, filepath.Join(t.TempDir(), "store.db"), fanout.Config{MaxEntries: 5, TrimInterval: -1})
	a := w.ready("ann", "a1")[0]
	post := func(word string) fanout.SendResult { return w.send(a, string(long(word)), "bob", "cid") }
	words := []string{"edited-once", "edited-twice", "recalled", "hidden", "reaction-before", "draft-before", "still-there"}
	edited, recalled, hidden, there := post(words[0]), post(words[2]), post(words[3]), post(words[6])
	a.change(event.KindReaction, there.ID, string(long(words[4])))
	pin := fanout.SendRequest{From: "ann", Kind: event.KindConversationPin, Conversation: "c1", Payload: long(words[5])}
	w.post(pin)
	w.stop()
	require.ElementsMatch(t, []string{words[0], words[2], words[3], words[4], words[5], words[6]}, reachable(t, w.path, words...))
	w.openStore()
	w.start()

	a.change(event.KindEdit, edited.ID, string(long(words[1])))
	a.change(event.KindEdit, edited.ID, "short")
	a.change(event.KindRecall, recalled.ID, "")
	for _, account := range []event.Account{"ann", "bob", "cid"} {
		w.post(fanout.SendRequest{From: account, Kind: event.KindDeleteForMe, Of: hidden.ID})
	}
	a.change(event.KindReaction, there.ID, "-")
	pin.Payload = []byte("x")
	w.post(pin)
	w.gone(words[:6]...)

	for i := range 10 {
		w.send(a, fmt.Sprint(i), "bob", "cid")
	}
	for _, account := range []event.Account{"ann", "bob", "cid"} {
		w.trim(account)
	}
	w.gone(words...)
}

// TestD8_NothingIsLeft deletes an account that has something of everything.
func TestD8_NothingIsLeft(t *testing.T) {
	overStores(t, fanout.Config{TrimInterval: -1}, func(w *world) {
		ctx := context.Background()
		b := w.ready("bob", "b1")
		a := w.ready("ann-account", "ann-phone", "ann-desk")
		w.send(b[0], "kept by bob", "ann-account")
		w.post(fanout.SendRequest{From: "ann-account", Origin: a[0].Login(), ClientID: "ann-client-id", Conversation: "ann-talk", Payload: long("ann-secret")})
		early := event.NewIssuer(w.st.Info().IDKey).Issue()
		_, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann-account", Message: early})
		require.NoError(w.t, err)
		_, err = w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann-account", Conversation: "ann-talk", Seq: 2})
		require.NoError(w.t, err)
		pin := fanout.SendRequest{From: "ann-account", Kind: event.KindConversationMark, Conversation: "ann-pins", Subject: "ann-mark", Payload: long("ann-value")}
		w.post(pin)
		claim := fanout.ClaimRequest{Account: "ann-account", Origin: a[0].Login(), Key: "ann-call", Conversation: "ann-rings", Data: []byte("ann-data")}
		_, err = w.r.Claim(ctx, claim)
		require.NoError(w.t, err)
		w.fence("ann-account")
		w.flush()
		words := []string{"ann-phone", "ann-desk", "ann-client-id", "ann-talk", "ann-secret", "ann-pins", "ann-mark", "ann-value", "ann-rings", "ann-call"}
		if w.path != "" {
			w.stop()
			require.Equal(w.t, words, reachable(w.t, w.path, words...))
			w.openStore()
			w.start()
			_, err := w.r.MarkRead(ctx, fanout.MarkReadRequest{Account: "ann-account", Message: early})
			require.NoError(w.t, err)
		}
		require.Equal(w.t, 1, w.r.EarlyReads())
		epoch := w.head("ann-account").Epoch
		for _, d := range a {
			d.drop()
		}
		_, err = w.reg.DeleteAccount(ctx, session.DeleteRequest{Account: "ann-account"})
		require.NoError(w.t, err)

		require.Zero(w.t, w.r.EarlyReads())
		require.Equal(w.t, store.Head{Epoch: epoch + 1}, w.head("ann-account"))
		cursors, err := w.inner.Cursors(ctx, "ann-account")
		require.NoError(w.t, err)
		require.Empty(w.t, cursors)
		states, err := w.inner.States(ctx, "ann-account", store.StateOptions{Limit: 10})
		require.NoError(w.t, err)
		require.Empty(w.t, states.States)
		counts, err := w.inner.Conversations(ctx, "ann-account", store.ConversationOptions{Limit: 10})
		require.NoError(w.t, err)
		require.Empty(w.t, counts.Conversations)
		record, err := w.inner.Load(ctx, "ann-account")
		require.NoError(w.t, err)
		require.Zero(w.t, record.Revision)
		accounts, err := w.inner.Accounts(ctx, "", 10)
		require.NoError(w.t, err)
		require.NotContains(w.t, accounts, event.Account("ann-account"))
		require.NotEmpty(w.t, w.kinds("bob", event.KindMessage), "what others have is theirs")
		if w.path != "" {
			w.gone(words...)
		}

		a[0].relogin()
		res := w.post(fanout.SendRequest{From: "ann-account", Origin: a[0].Login(), ClientID: "ann-client-id", Payload: []byte("other")})
		require.False(w.t, res.Duplicate, "no client message ID is remembered")
		claim.Origin = a[0].Login()
		won, err := w.r.Claim(ctx, claim)
		require.NoError(w.t, err)
		require.True(w.t, won.Won, "and no claim")
	})
}
