package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What an earlier memtable has left in a file of the log is a client's in the main. If it were full of what looks like heads of long
// records, to look at each would take hours.
func TestWAL_PayloadsThatLookLikeHeadsOfRecordsDoNotHoldUpOpen(t *testing.T) {
	path := filepath.Join(fast(t), "db")
	o := tiny(path, nil)
	o.Memory = 32 << 20
	db := open(t, o)
	head := make([]byte, 16)
	binary.BigEndian.PutUint32(head[4:], 4<<20) // its length
	binary.BigEndian.PutUint64(head[8:], 3)     // a memtable
	payload := bytes.Repeat(head, 60_000/len(head))
	for n := range 200 {
		require.NoError(t, db.Update(context.Background(), int64(len(payload)), func(w *Writer) error {
			p := Of(bodies, fmt.Append(nil, n))
			w.Put(&p, []byte("m"), payload)
			return nil
		}))
	}
	for _, row := range []string{"in memtable 2", "in memtable 3"} {
		require.NoError(t, db.Checkpoint(context.Background()))
		require.NoError(t, put(context.Background(), db, row, 10))
	}
	require.EqualValues(t, 3, db.current.Load().mem[0].number)
	crash(t, path)
	shut(t, db)
	uncrash(t, path)

	opened := make(chan error, 1)
	go func() {
		db, err := Open(o)
		if err == nil {
			err = db.Close(context.Background())
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		require.NoError(t, err)
	case <-time.After(time.Minute): // it takes milliseconds, or hours
		require.Fail(t, "Open looks at all that a client wrote")
	}
}
