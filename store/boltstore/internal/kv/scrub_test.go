package kv

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
