package fanout_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/boltstore"
)

// members returns the names of a group's members.
func members(n int) []event.Account {
	all := make([]event.Account, n)
	for i := range all {
		all[i] = event.Account(fmt.Sprint("member-", i))
	}
	return all
}

// fileSize returns the size of the world's file, which grows in steps of a 64th of its bound.
func (w *world) fileSize() int64 {
	w.t.Helper()
	st, err := os.Stat(w.path)
	require.NoError(w.t, err)
	return st.Size()
}

// TestC5_I27_OnePayload sends 60 kB to 10,000 members, who come out of a slice or an iterator: neither the file nor the
// memory holds the payload more than a few times.
func TestC5_I27_OnePayload(t *testing.T) {
	all := members(fanout.MaxRecipients)
	for name, q := range map[string]fanout.SendRequest{"slice": {To: all}, "iterator": {Members: slices.Values(all)}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, filepath.Join(t.TempDir(), "store.db"), fanout.Config{TrimInterval: -1})
			w.stop()
			w.bolt.MaxSize = 256 << 20
			w.openStore()
			w.start()
			before, commits := w.fileSize(), w.st.Calls("Commit")
			q.From, q.Conversation, q.Payload = "member-7", "group", make([]byte, 60_000)
			var from, to runtime.MemStats
			runtime.ReadMemStats(&from)
			_, err := w.r.Send(context.Background(), q)
			require.NoError(t, err)
			runtime.ReadMemStats(&to)
			require.Equal(t, commits+1, w.st.Calls("Commit"))
			require.Less(t, w.fileSize()-before, int64(64<<20), "600 MB if each had its own")
			require.Less(t, to.TotalAlloc-from.TotalAlloc, uint64(200<<20))
			for _, i := range []int{0, 7, 9_999} {
				log := w.kinds(all[i], event.KindMessage)
				require.Len(t, log, 1)
				require.Len(t, log[0].Payload, 60_000)
				require.Equal(t, i != 7, log[0].Flags&event.FlagUnread != 0)
			}
		})
	}
}

// BenchmarkGroupOf10000 sends 512 bytes to a group, over a file.
func BenchmarkGroupOf10000(b *testing.B) {
	for _, n := range []int{1_000, fanout.MaxRecipients} {
		b.Run(fmt.Sprint("members=", n), func(b *testing.B) {
			w := newWorld(b, filepath.Join(b.TempDir(), "store.db"), fanout.Config{TrimInterval: -1})
			all := members(n)
			send := func() {
				_, err := w.r.Send(context.Background(), fanout.SendRequest{
					From: "member-7", Conversation: "group", Members: slices.Values(all), Payload: make([]byte, 512),
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			send()                 // the accounts are there from now on
			used := func() int64 { // the file itself grows in large steps
				n, err := w.inner.(*boltstore.Store).Backup(context.Background(), io.Discard)
				require.NoError(b, err)
				return n
			}
			before, sent := used(), 0
			b.ReportAllocs()
			for b.Loop() {
				send()
				sent++
			}
			b.ReportMetric(float64(used()-before)/float64(sent*n), "B/member")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(sent*n), "µs/member")
		})
	}
}
