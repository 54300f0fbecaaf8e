package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

var now = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

// payload is what the i-th message has: 100 to 600 bytes, and some in several rows.
func payload(i int) []byte {
	n := 10 + i%40
	if i%25 == 11 {
		n = 500
	}
	return bytes.Repeat(fmt.Appendf(nil, "payload-%d ", i), n)
}

// fill makes a store with a few accounts, and leaves it open.
func fill(t *testing.T, path string, messages int) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path, boltstore.Config{})
	require.NoError(t, err)
	for i := range messages {
		from, to := event.Account(fmt.Sprint("user-", i%20)), event.Account(fmt.Sprint("user-", (i+1)%20))
		_, err := s.Commit(t.Context(), store.Batch{Account: from, Now: now, Messages: []store.Message{{
			ID: event.MessageID(fmt.Sprint("m", i)), Kind: event.KindMessage, Conversation: "talk", From: from,
			Payload: payload(i), Origin: "secret-login",
			To: []store.Inbox{{Account: from}, {Account: to}},
		}}})
		require.NoError(t, err)
	}
	_, err = s.Commit(t.Context(), store.Batch{
		Account: "user-3", Now: now, Record: &store.RecordUpdate{Data: []byte("secret-record")}, Begin: []store.Begin{{Incarnation: 9}},
	})
	require.NoError(t, err)
	return s
}

func shut(t *testing.T, s *boltstore.Store) {
	t.Helper()
	require.NoError(t, s.Close(context.Background()))
}

// mdfile runs the command and returns its exit status and what it printed.
func mdfile(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, &stdout, &stderr)
	for _, secret := range []string{"secret-record", "secret-login"} {
		require.NotContains(t, stdout.String(), secret)
		require.NotContains(t, stderr.String(), secret)
	}
	return code, stdout.String(), stderr.String()
}

// copyFiles copies a store as it is, with its log.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-wal2"} {
		b, err := os.ReadFile(from + suffix)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to+suffix, b, 0o600))
	}
}

// variants are the kinds of files that the command is given.
func variants(t *testing.T) map[string]string {
	dir := t.TempDir()
	path := filepath.Join(dir, "closed.db")
	s := fill(t, path, 100)
	copyFiles(t, path, filepath.Join(dir, "open.db"))
	out, err := os.Create(filepath.Join(dir, "backup"))
	require.NoError(t, err)
	_, err = s.Backup(t.Context(), out)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	shut(t, s)
	return map[string]string{"closed": path, "not closed": filepath.Join(dir, "open.db"), "backup": out.Name()}
}

func TestRun_OnAllKindsOfFiles(t *testing.T) {
	for name, path := range variants(t) {
		t.Run(name, func(t *testing.T) {
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			code, out, errs := mdfile(t, "info", path)
			require.Zero(t, code, errs)
			require.Contains(t, out, "schema 5")
			require.Equal(t, name == "backup", strings.HasPrefix(out, "backup"))
			require.Equal(t, name == "not closed", strings.Contains(out, "not closed"))

			code, out, errs = mdfile(t, "verify", path)
			require.Zero(t, code, out+errs)
			require.Contains(t, out, "20 accounts")
			require.Contains(t, out, "0 findings")

			code, out, errs = mdfile(t, "inspect", "-n", "3", path, "user-3")
			require.Zero(t, code, errs)
			require.Contains(t, out, "device 9")
			require.Contains(t, out, "entry 10:")
			require.NotContains(t, out, "entry 7:")
			require.NotContains(t, out, "payload-")

			code, out, errs = mdfile(t, "top", "-n", "2", path)
			require.Zero(t, code, errs)
			require.Equal(t, 6, strings.Count(out, "\n"))

			code, out, errs = mdfile(t, "dump", path)
			require.Zero(t, code, errs)
			entries := 0
			for line := range strings.Lines(out) {
				var l map[string]any
				require.NoError(t, json.Unmarshal([]byte(line), &l))
				if l["kind"] == "entry" {
					entries++
				}
				require.NotContains(t, l, "damaged")
				require.NotContains(t, l, "payload")
			}
			require.Equal(t, 200, entries)
			code, out, _ = mdfile(t, "dump", "-payloads", path)
			require.Zero(t, code)
			require.Contains(t, out, `"payload":"`)

			for _, c := range []string{"compact", "salvage"} {
				to := filepath.Join(t.TempDir(), "new.db")
				code, out, errs = mdfile(t, c, path, to)
				if c == "compact" && name == "backup" { // devices would not learn that they may know more
					require.Equal(t, exitFailed, code)
					require.Contains(t, errs, "mdfile restore")
					require.NoFileExists(t, to)
					continue
				}
				require.Zero(t, code, out+errs)
				requireWhole(t, to, 100)
				code, _, errs = mdfile(t, c, path, to)
				require.Equal(t, exitFailed, code, "it is there")
				require.Contains(t, errs, "exist")
				_, out, _ = mdfile(t, "verify", to)
				require.Contains(t, out, "0 findings")
			}
			to := filepath.Join(t.TempDir(), "new.db")
			code, _, errs = mdfile(t, "restore", path, to)
			if name != "backup" {
				require.Equal(t, exitFailed, code)
				require.NoFileExists(t, to)
			} else {
				require.Zero(t, code, errs)
				requireWhole(t, to, 100)
			}
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(before, after), "the file was changed")
		})
	}
}

// requireWhole opens a store and reads all messages.
func requireWhole(t *testing.T, path string, messages int) {
	t.Helper()
	s, err := boltstore.Open(path, boltstore.Config{})
	require.NoError(t, err)
	defer shut(t, s)
	require.Equal(t, 2*messages, entriesOf(t, s, nil))
	r, err := s.Load(t.Context(), "user-3")
	require.NoError(t, err)
	require.Equal(t, "secret-record", string(r.Data))
}

// entriesOf reads everything, and checks that it is what fill wrote.
func entriesOf(t *testing.T, s *boltstore.Store, unreadable *int) (n int) {
	t.Helper()
	for i := range 20 {
		page, err := s.Read(t.Context(), event.Account(fmt.Sprint("user-", i)), store.ReadOptions{Limit: 1000})
		if err != nil && unreadable != nil {
			*unreadable++
			continue
		}
		require.NoError(t, err)
		for _, e := range page.Entries {
			var k int
			_, err := fmt.Sscanf(string(e.ID), "m%d", &k)
			require.NoError(t, err)
			require.Equal(t, payload(k), e.Payload)
		}
		n += len(page.Entries)
	}
	return n
}

func TestRun_Usage(t *testing.T) {
	for _, args := range [][]string{{}, {"nothing"}, {"info"}, {"info", "a", "b"}, {"dump", "-no", "a"}} {
		code, _, errs := mdfile(t, args...)
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, "usage:")
	}
	code, _, errs := mdfile(t, "info", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "no such file")
}

func TestRun_AFileInUseIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := fill(t, path, 3)
	defer shut(t, s)
	for _, c := range []string{"info", "verify", "dump", "top"} {
		code, _, errs := mdfile(t, c, path)
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, "in use")
	}
	code, _, errs := mdfile(t, "salvage", path, path+"2")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "in use")
	require.NoFileExists(t, path+"2")
}

// TestSalvage_OfDamagedFiles zeroes every third page in use, or flips bits in it. What is saved is right, and a whole store.
func TestSalvage_OfDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "db")
	shut(t, fill(t, base, 300))
	image, err := os.ReadFile(base)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	saved, told, unopened := 0, 0, 0
	used := pagesInUse(t, base)
	require.Greater(t, len(used), 20)
	tried := 0
	for i := 0; i < len(used); i += 3 {
		page := used[i]
		tried++
		b := bytes.Clone(image)
		if i%2 == 0 {
			clear(b[page*4096 : page*4096+4096])
		} else {
			for range 5 {
				b[page*4096+rng.IntN(512)] ^= 1 << rng.IntN(8)
			}
		}
		path, to := filepath.Join(dir, "bad"), filepath.Join(dir, fmt.Sprint("good", i))
		require.NoError(t, os.WriteFile(path, b, 0o600))
		code, out, errs := mdfile(t, "salvage", path, to)
		if code != 0 {
			require.Contains(t, errs, "corrupt")
			unopened++
			continue
		}
		code, verified, _ := mdfile(t, "verify", to)
		require.Zero(t, code, verified)
		s, err := boltstore.Open(to, boltstore.Config{})
		require.NoError(t, err)
		n := entriesOf(t, s, nil)
		shut(t, s)
		require.NoError(t, os.Remove(to))
		saved += n
		if n < 600 {
			require.NotContains(t, out, " 0 findings")
			told++
		}
	}
	t.Logf("%d damaged files: %d of %d entries saved; %d with losses, all told; %d without anything to save",
		tried, saved, tried*600, told, unopened)
	require.Less(t, unopened, tried/4)
	require.Greater(t, told, tried/4, "most pages have rows")
	require.Greater(t, saved, tried*600/2)
}

// pagesInUse returns the pages of a closed file that are neither free nor its two meta pages.
func pagesInUse(t *testing.T, path string) (list []int) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	require.NoError(t, err)
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		for id := 2; ; id++ {
			p, err := tx.Page(id)
			if p == nil || err != nil {
				return err
			}
			if p.Type != "free" {
				list = append(list, id)
			}
		}
	}))
	require.NoError(t, db.Close())
	return list
}

func TestVerify_Damage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	shut(t, fill(t, path, 300))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	i := bytes.Index(b, []byte("payload-7 "))
	b[i] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
	code, out, _ := mdfile(t, "verify", path)
	require.Equal(t, exitDamage, code)
	require.Contains(t, out, `message "m7"`)
	require.NotContains(t, out, "payload-")
	code, _, errs := mdfile(t, "compact", path, path+"2")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "corrupt")
	require.NoFileExists(t, path+"2")
}

// Pages that make no sense are told, with the way out, and a backup that is not as it was written.
func TestVerify_DamagedPagesAndBackups(t *testing.T) {
	dir := t.TempDir()
	path, copied := filepath.Join(dir, "db"), filepath.Join(dir, "backup")
	s := fill(t, path, 300)
	out, err := os.Create(copied)
	require.NoError(t, err)
	_, err = s.Backup(t.Context(), out)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	shut(t, s)

	used := pagesInUse(t, path)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, page := range used[len(used)-2:] {
		clear(b[page*4096 : page*4096+64])
	}
	require.NoError(t, os.WriteFile(path, b, 0o600))
	code, text, errs := mdfile(t, "verify", path)
	require.Equal(t, exitDamage, code, errs)
	require.Contains(t, text, fmt.Sprint("page ", used[len(used)-1]))
	require.Contains(t, text, "mdfile salvage")
	code, _, errs = mdfile(t, "info", path)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "corrupt")

	b, err = os.ReadFile(copied)
	require.NoError(t, err)
	i := bytes.Index(b, []byte("payload-7 "))
	b[i] ^= 1
	require.NoError(t, os.WriteFile(copied, b, 0o600))
	code, text, _ = mdfile(t, "verify", copied)
	require.Equal(t, exitDamage, code)
	require.Contains(t, text, "other bytes than were written")
	require.Contains(t, text, `message "m7"`)
}
