package boltstore

import (
	"context"
	"crypto/aes"
	"encoding/base32"
	"encoding/binary"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

// seal makes the message ID that an issuer would make.
func seal(t *testing.T, s *Store, issuer uint32, counter uint64) string {
	secret := s.info.IDKey.Reveal()
	c, err := aes.NewCipher(secret[:])
	require.NoError(t, err)
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, issuer), counter)
	b = append(b, 0, 0, 0, 0)
	c.Encrypt(b, b)
	id := base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding).EncodeToString(b)
	key := s.keys.key(event.MessageID(id))
	require.True(t, key.sealed)
	require.Equal(t, counter, key.counter)
	return id
}

// rowsOf counts rows of the bucket of IDs: issuers, and message IDs from elsewhere.
func rowsOf(t *testing.T, s *Store) (issuers, others int) {
	require.NoError(t, s.db.View(func(tx *bolt.Tx) error {
		ids := tx.Bucket([]byte(bucketIDs))
		issuers, others = len(keysWith(ids, []byte(issuerTag))), len(keysWith(ids, []byte(idTag)))
		return nil
	}))
	return issuers, others
}

func requireFound(t *testing.T, s *Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		m, err := s.Message(t.Context(), event.MessageID(id))
		require.NoError(t, err)
		require.EqualValues(t, id, m.ID)
		_, err = s.Commit(t.Context(), store.Batch{Account: "ann", Now: time.UnixMilli(1), Messages: []store.Message{{
			ID: event.MessageID(id), Kind: event.KindMessage, From: "ann", To: []store.Inbox{{Account: "ann"}},
		}}})
		invalid := &event.InvalidError{}
		require.ErrorAs(t, err, &invalid, "used before")
	}
}

func requireUnknown(t *testing.T, s *Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		_, err := s.Message(t.Context(), event.MessageID(id))
		require.ErrorIs(t, err, store.ErrNotFound)
	}
}

// Whatever counters issuers begin and go on with, and whoever made an ID, its message is found by it, and is there once,
// also after the file was opened again.
func TestMessagesAreFoundByTheirIDs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s, err := Open(path, Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	const first, far = 1_000_000, 1 << counterBits
	sealed := []string{
		seal(t, s, 7, first), seal(t, s, 7, first-1), seal(t, s, 7, first+1), seal(t, s, 7, first+500_000),
		seal(t, s, 9, math.MaxUint64), seal(t, s, 9, 0), seal(t, s, 9, 5), // the counter begins anew
		seal(t, s, 0, 3), seal(t, s, 0, math.MaxUint64-5_000), // a little below the first
		seal(t, s, 7, first-counterSlack), seal(t, s, 7, first-counterSlack+far-1), // the first and last that have numbers
	}
	others := []string{"one", "two", seal(t, s, 7, first-counterSlack-1), seal(t, s, 7, first-counterSlack+far)}
	unknown := []string{seal(t, s, 7, first+2), seal(t, s, 11, first), "three", seal(t, s, 7, first-counterSlack-2)}
	for i, id := range append(sealed, others...) {
		requireUnknown(t, s, id)
		sendInternal(t, s, id)
		requireFound(t, s, id)
		n, _ := rowsOf(t, s)
		require.Equal(t, []int{1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}[i], n)
	}
	for range 2 {
		requireUnknown(t, s, unknown...)
		requireFound(t, s, append(sealed, others...)...)
		issuers, elsewhere := rowsOf(t, s)
		require.Equal(t, 3, issuers)
		require.Equal(t, len(others), elsewhere)
		require.NoError(t, s.Close(t.Context()))
		s, err = Open(path, Config{})
		require.NoError(t, err)
	}
	later := seal(t, s, 7, first+600_000) // of an issuer that goes on, as another process might have
	sendInternal(t, s, later)
	requireFound(t, s, later)
	page, err := s.Read(t.Context(), "ann", store.ReadOptions{Limit: 100})
	require.NoError(t, err)
	var got []string
	for _, e := range page.Entries {
		got = append(got, string(e.ID))
	}
	require.Equal(t, append(append(sealed, others...), later), got)

	_, err = s.Trim(t.Context(), "ann", page.Head.Seq, 100)
	require.NoError(t, err)
	requireUnknown(t, s, got...)
	issuers, elsewhere := rowsOf(t, s)
	require.Equal(t, 3, issuers)
	require.Zero(t, elsewhere)
	for _, id := range got { // who commits what is gone gets a new message
		sendInternal(t, s, id)
	}
	requireFound(t, s, got...)
}

// Messages of one issuer are in order in the file, those of the next one follow.
func TestMessagesOfAnIssuerAreNeighbours(t *testing.T) {
	s := openInternal(t)
	for _, id := range []string{seal(t, s, 9, 70), seal(t, s, 9, 71), seal(t, s, 4, 3), seal(t, s, 9, 72), seal(t, s, 4, 2)} {
		sendInternal(t, s, id)
	}
	var order [][2]uint64
	require.NoError(t, s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketMessages)).ForEach(func(k, _ []byte) error {
			n, err := number(k, "message number")
			order = append(order, [2]uint64{n >> counterBits, n&(1<<counterBits-1) - counterSlack})
			return err
		})
	}))
	minusOne := ^uint64(0)
	require.Equal(t, [][2]uint64{{1, 0}, {1, 1}, {1, 2}, {2, minusOne}, {2, 0}}, order)
}

// A reader between a commit and its publication has the old memory and the new file: no number must lead to another message
// there.
func TestIDsAreNotUsedAgainInTheGroupThatRemovedThem(t *testing.T) {
	s := openInternal(t)
	id := seal(t, s, 7, 5)
	sendInternal(t, s, id)
	batch := store.Batch{Account: "bob", Now: time.UnixMilli(1), Messages: []store.Message{{
		ID: event.MessageID(id), Kind: event.KindMessage, From: "bob", To: []store.Inbox{{Account: "bob"}},
	}}}
	hold, inside := make(chan struct{}), make(chan struct{})
	s.SetCommit(func(tx *bolt.Tx) error {
		if inside != nil {
			close(inside)
			inside = nil
			<-hold
		}
		return tx.Commit()
	})
	began := inside
	first, trimmed, again := make(chan error), make(chan error), make(chan error)
	go func() {
		_, err := s.Commit(context.Background(), store.Batch{Account: "zed", Now: time.UnixMilli(1), States: []store.StateUpdate{{Name: "x", Number: 1}}})
		first <- err
	}()
	<-began
	go func() { _, err := s.Trim(context.Background(), "ann", 1, 10); trimmed <- err }()
	require.Eventually(t, func() bool { return s.Waiting() == 1 }, 10*time.Second, time.Millisecond)
	go func() { _, err := s.Commit(context.Background(), batch); again <- err }()
	require.Eventually(t, func() bool { return s.Waiting() == 2 }, 10*time.Second, time.Millisecond)
	close(hold)
	require.NoError(t, <-first)
	require.NoError(t, <-trimmed)
	invalid := &event.InvalidError{}
	require.ErrorAs(t, <-again, &invalid)
	requireUnknown(t, s, id)
	_, err := s.Commit(t.Context(), batch)
	require.NoError(t, err)
	requireFound(t, s, id)
}

// When there are as many issuers as are to be kept in memory, messages of others are found by rows of their own.
func TestMoreIssuersThanNumbers(t *testing.T) {
	s := openInternal(t)
	sendInternal(t, s, seal(t, s, 1, 5))
	s.limits.issuers = 1
	id := seal(t, s, 2, 5)
	sendInternal(t, s, id)
	requireFound(t, s, id, seal(t, s, 1, 5))
	_, elsewhere := rowsOf(t, s)
	require.Equal(t, 1, elsewhere)
}

func TestCorruptIssuers(t *testing.T) {
	good := append(numberKey(2), numberKey(7)...)
	for name, row := range map[string][2][]byte{
		"short key":        {issuerRow(5)[:4], good},
		"short row":        {issuerRow(5), good[:15]},
		"number twice":     {issuerRow(5), append(numberKey(1), numberKey(7)...)},
		"number 0":         {issuerRow(5), append(numberKey(0), numberKey(7)...)},
		"number left out":  {issuerRow(5), append(numberKey(3), numberKey(7)...)},
		"too large":        {issuerRow(5), append(numberKey(maxIssuers+1), numberKey(7)...)},
		"that of messages": {issuerRow(1), nil},
		"":                 {issuerRow(5), good},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			s, err := Open(path, Config{})
			require.NoError(t, err)
			sendInternal(t, s, seal(t, s, 1, 5))
			require.NoError(t, s.db.Update(func(tx *bolt.Tx) error {
				if row[1] == nil {
					return tx.Bucket([]byte(bucketIDs)).Delete(row[0])
				}
				return tx.Bucket([]byte(bucketIDs)).Put(row[0], row[1])
			}))
			require.NoError(t, s.Close(t.Context()))
			s, err = Open(path, Config{})
			if name == "" {
				require.NoError(t, err)
				require.NoError(t, s.Close(t.Context()))
				return
			}
			require.ErrorIs(t, err, ErrCorrupt)
		})
	}
}
