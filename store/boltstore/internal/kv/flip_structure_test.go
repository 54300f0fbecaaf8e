package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFlips_OfTheLogsEnd: a last record that is damaged is told from one that was torn.
func TestFlips_OfTheLogsEnd(t *testing.T) {
	dir := ram(t)
	path := filepath.Join(dir, "db")
	db := open(t, options(path))
	for i := range 3 {
		require.NoError(t, db.Update(context.Background(), 100, func(w *Writer) error {
			part := Of(rows, []byte("a"))
			w.Put(&part, []byte{byte(i)}, []byte("value"))
			return nil
		}))
	}
	im := imageOf(t, path)
	l := db.logs[db.current.Load().mem[0].number%2]
	file, last := 1, l.end
	if l == db.logs[1] {
		file = 2
	}
	db.Crash()
	size := 0
	for at := int64(walPage); at < last; {
		size = int(binary.BigEndian.Uint32(im[file][at+4:]))
		at += int64(size)
	}
	b := im[file]
	read := func() (n int, err error) {
		im.put(t, path)
		db, err := Open(options(path))
		if err != nil {
			return 0, err
		}
		defer db.Crash()
		return n, db.View(context.Background(), func(s *Snapshot) error {
			part := Of(rows, []byte("a"))
			return s.Scan(&part, nil, nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
		})
	}
	for at := int(last) - size; at < int(last); at++ {
		for bit := range 8 {
			b[at] ^= 1 << bit
			_, err := read()
			b[at] ^= 1 << bit
			require.ErrorIs(t, err, ErrCorrupt, "byte %d, bit %d", at, bit)
		}
	}
	for at := int(last); at < int(last)+recordHeader; at++ { // the mark itself
		b[at] ^= 1
		n, err := read()
		b[at] ^= 1
		require.NoError(t, err)
		require.Equal(t, 3, n)
	}
	clear(b[int(last)-size/2 : int(last)+recordHeader]) // as a loss of power tears it
	n, err := read()
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

// TestFlips_OfStructure changes each bit of what bbolt believes: heads of pages and of elements, branches, meta pages, free pages,
// buckets.
func TestFlips_OfStructure(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%t", closed), func(t *testing.T) {
			dir := ram(t)
			im, m := flipFile(t, filepath.Join(dir, "base"), closed)
			path := filepath.Join(dir, "db")
			tally := map[string]int{}
			places := structure(t, im[0])
			rng := rand.New(rand.NewPCG(uint64(*flipsN), 2))
			rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
			for _, at := range places[:min(len(places), *flipsN/2)] {
				flipOne(t, im, m, path, [2]int{0, at}, rng.IntN(8), tally)
			}
			t.Logf("%d bytes of structure: %v", len(places), tally)
			require.LessOrEqual(t, tally["refused"], *flipsN/50) // what may be meant for either of two states, see mend.go
		})
	}
}

func structure(t *testing.T, b []byte) (places []int) {
	add := func(from, to int) {
		for ; from < to; from++ {
			places = append(places, from)
		}
	}
	meta, err := newestMeta(bytes.NewReader(b), 4096)
	require.NoError(t, err)
	c := newChecker(bytes.NewReader(b), 4096, meta.high, options("").Tables)
	require.NoError(t, c.tree(&span{id: meta.root}))
	if meta.freelist != noFreelistPage {
		c.use(meta.freelist, 1)
	}
	for id := range int(meta.high) {
		at := id * 4096
		switch {
		case id < 2:
			add(at, at+pageHeader+metaBytes)
			continue
		case c.seen[id/64]&(1<<(id%64)) == 0:
			continue
		}
		list, leaf, used, err := parse(b[at:], nil)
		switch {
		case id == int(meta.freelist):
			add(at, at+pageHeader+8*int(binary.NativeEndian.Uint16(b[at+10:])))
		case uint64(id) == meta.root || err == nil && !leaf:
			add(at, at+used)
		case err == nil:
			add(at, at+pageHeader+len(list)*elementBytes)
		}
	}
	return places
}

// TestOpen_ALogThatWasCutShort: what was answered is missing, wherever it ends.
func TestOpen_ALogThatWasCutShort(t *testing.T) {
	path := filepath.Join(ram(t), "db")
	db := open(t, options(path))
	for i := range 20 {
		require.NoError(t, db.Update(context.Background(), 100, func(w *Writer) error {
			part := Of(rows, []byte("a"))
			w.Put(&part, []byte{byte(i)}, make([]byte, 300))
			return nil
		}))
	}
	im := imageOf(t, path)
	l := db.logs[db.current.Load().mem[0].number%2]
	file, last := 1, l.end
	if l == db.logs[1] {
		file = 2
	}
	db.Crash()
	whole := im[file]
	for size := int64(0); size <= last; size++ {
		if size%7 > 0 && size > walPage && size < last-100 {
			continue
		}
		im[file] = whole[:size]
		im.put(t, path)
		_, err := Open(options(path))
		require.ErrorIs(t, err, ErrCorrupt, "cut to %d bytes of %d", size, last)
		if size < walPage {
			size += 500
		}
	}
	im[file] = whole
	im.put(t, path)
	shut(t, open(t, options(path)))
}
