package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/store"
)

// lockedBuffer is a log that several goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestScrub_OfALargeFile: of a large file that was closed, leaves are looked at after Open, in the background.
func TestScrub_OfALargeFile(t *testing.T) {
	dir := ram(t)
	im, m := flipFile(t, filepath.Join(dir, "base"), true)
	meta, err := newestMeta(bytes.NewReader(im[0]), 4096)
	require.NoError(t, err)
	c := newChecker(bytes.NewReader(im[0]), 4096, meta.high, options("").Tables)
	require.NoError(t, c.tree(&span{id: meta.root}))
	var leaf int // one that is not the first of its branch
	for id := range meta.high {
		list, is, _, err := parse(im[0][id*4096:], nil)
		if c.seen[id/64]&(1<<(id%64)) != 0 && err == nil && !is && len(list) > 2 {
			leaf = int(list[2].child)
		}
	}
	require.NotZero(t, leaf)
	_, _, used, err := parse(im[0][leaf*4096:], nil)
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		at   int // in the leaf
		says string
	}{
		{"none", -1, "damaged=0"},
		{"a row", used - 1, "table"},
		{"a page", 8, "page"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "db")
			im.put(t, path)
			if tt.at >= 0 {
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				b[leaf*4096+tt.at] ^= 0x14 // of a page one bit would be turned back
				require.NoError(t, os.WriteFile(path, b, 0o600))
				if tt.at == 8 {
					_, err = Open(options(path))
					require.ErrorIs(t, err, ErrCorrupt, "as a small file")
				}
			}
			var log lockedBuffer
			o := options(path)
			o.small, o.Logger = 1, slog.New(slog.NewTextHandler(&log, nil))
			db, err := Open(o)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return strings.Contains(log.String(), "was looked through") }, 10*time.Second, time.Millisecond)
			require.Contains(t, log.String(), tt.says)
			require.Equal(t, tt.at >= 0, db.Stats().Damaged > 0)
			if tt.at < 0 {
				var out flipResult
				out.read(db, m)
				require.Empty(t, out.wrong)
			}
			shut(t, db)
		})
	}
}

// A Verify that runs does not hold up Close until it has read a large file.
func TestVerify_EndsWhenTheDBIsClosed(t *testing.T) {
	db := open(t, options(filepath.Join(t.TempDir(), "db")))
	p := Of(heads, []byte("ann"))
	require.NoError(t, db.Update(t.Context(), 1, func(w *Writer) error { w.Put(&p, nil, []byte("x")); return nil }))
	require.NoError(t, db.Checkpoint(t.Context()))
	_, err := db.Verify(t.Context(), Verification{Row: func(Table, []byte, []byte) {
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, db.Close(over), context.Canceled)
	}})
	require.ErrorIs(t, err, store.ErrClosed)
	require.NoError(t, db.Close(t.Context()))
}

// TestFlips_OfALargeFile: readers may come before the walk in the background, and meet pages whose elements lead anywhere. A row found
// there is half a megabyte of key: to look for what it may have been took hours. Until the walk comes by, a page with a wrong number
// of elements may hide rows, and is the only thing that may.
func TestFlips_OfALargeFile(t *testing.T) {
	dir := ram(t)
	im, m := flipFile(t, filepath.Join(dir, "base"), true)
	path := filepath.Join(dir, "db")
	places := structure(t, im[0])
	rng := rand.New(rand.NewPCG(uint64(*flipsN), 4))
	rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	meta, err := newestMeta(bytes.NewReader(im[0]), 4096)
	require.NoError(t, err)
	root := int(meta.root)
	opened := 0
	for _, at := range places[:min(len(places), *flipsN/2)] {
		page := im[0][at/4096*4096:]
		if binary.NativeEndian.Uint16(page[8:]) == leafPage && at/4096 != root || at%4096 < pageHeader {
			continue
		}
		bit := rng.IntN(8)
		im[0][at] ^= 1 << bit
		im.put(t, path)
		o := options(path)
		o.small = 1
		if db, err := Open(o); err == nil {
			opened++
			var out flipResult
			out.read(db, m)
			if strings.HasPrefix(out.wrong, "view: "+ErrCorrupt.Error()) { // a key that lies beyond the end of the file
				out.wrong = ""
			}
			require.Empty(t, out.wrong, "byte %d of page %d, bit %d", at%4096, at/4096, bit)
			db.Crash()
		}
		im[0][at] ^= 1 << bit
	}
	require.NotZero(t, opened)
}

func TestMeant_OfAHugeRow(t *testing.T) {
	key := []byte("ann")
	row := appendRow(nil, rows, key, kindWhole, []byte("value"))
	rest := make([]byte, 4<<20)
	long := append(append(bytes.Clone(key), row...), rest...)
	require.Equal(t, key, meant(rows, long[:len(key)|1<<20], rest), "one bit of its length is wrong")
	require.Nil(t, meant(rows, rest, rest))
}
