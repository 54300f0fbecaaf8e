package boltstore_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// dump returns the lines of a dump.
func dump(t *testing.T, path string, o boltstore.DumpOptions) (lines []map[string]any) {
	t.Helper()
	f, err := boltstore.OpenFile(path, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	var out bytes.Buffer
	require.NoError(t, f.Dump(t.Context(), &out, o))
	require.NotContains(t, out.String(), "hidden", "records are secret")
	require.NotContains(t, out.String(), base64.StdEncoding.EncodeToString([]byte("hidden")))
	for line := range strings.Lines(out.String()) {
		var l map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &l))
		lines = append(lines, l)
	}
	return lines
}

func TestDump_RowsOfAllKinds(t *testing.T) {
	path := newPath(t)
	s := open(t, path, boltstore.Config{})
	busy(t, s)
	for i := range 40 { // the clock hand turns
		b := message(fmt.Sprint("hand", i), nil, "ann")
		b.Idempotency = &store.Idempotency{
			Device: "tablet", ClientID: event.ClientMessageID(fmt.Sprint("hand", i)), Window: time.Second, Max: 100,
		}
		_, err := s.Commit(t.Context(), b)
		require.NoError(t, err)
	}
	closeStore(t, s)
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("purge")).Put([]byte("gone\x00\x00\x00\x00\x01"), []byte("damaged"))
	}))
	require.NoError(t, db.Close())

	fields := map[string]string{ // kind of row → what only such a row has, or has for sure
		"head": "generation", "account/cursor": "incarnation", "account/entry": "bytes", "account/idempotency": "expires", "account/key": "seq",
		"account/count": "number", "account/record": "length", "account/register": "name", "account/hand": "account",
		"message/message": "from", "message/payload": "length", "message/inboxes": "inboxes", "reference/references": "inboxes", "purge": "damaged",
	}
	for _, payloads := range []bool{false, true} {
		missing, shown := map[string]string{}, 0
		maps.Copy(missing, fields)
		for _, l := range dump(t, path, boltstore.DumpOptions{Payloads: payloads}) {
			kind := l["table"].(string)
			if k, ok := l["kind"]; ok {
				kind += "/" + k.(string)
			}
			require.Contains(t, fields, kind)
			if _, ok := l[fields[kind]]; ok {
				delete(missing, kind)
			}
			if l["payload"] != nil {
				shown++
			}
		}
		require.Empty(t, missing)
		require.Equal(t, payloads, shown > 0)
	}
}
