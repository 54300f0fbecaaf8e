package kv

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDamage_OfWholePages damages more than one bit of each page. Where that cannot be told from a whole page, a mend must not make
// it so.
func TestDamage_OfWholePages(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	kinds := map[string]func(file, page []byte){
		"zeros":  func(_, page []byte) { clear(page) },
		"second": func(_, page []byte) { clear(page[2048:]) },
		"sector": func(_, page []byte) {
			at := rng.IntN(8) * 512
			for i := range page[at : at+512] {
				page[at+i] = byte(rng.Uint32())
			}
		},
		"bits": func(_, page []byte) {
			for range 2 + rng.IntN(4) {
				page[rng.IntN(512)] ^= 1 << rng.IntN(8)
			}
		},
		"number": func(_, page []byte) { page[8], page[0] = page[8]^1<<rng.IntN(8), page[0]^1<<rng.IntN(8) },
		"another": func(file, page []byte) {
			copy(page, file[4096*(2+rng.IntN(len(file)/4096-2)):][:4096])
		},
	}
	for _, closed := range []bool{true, false} {
		for name, damage := range kinds {
			t.Run(fmt.Sprintf("closed=%t/%s", closed, name), func(t *testing.T) {
				dir := ram(t)
				im, m := flipFile(t, filepath.Join(dir, "base"), closed)
				path := filepath.Join(dir, "db")
				whole, tally := im[0], map[string]int{}
				meta, err := newestMeta(bytes.NewReader(whole), 4096)
				require.NoError(t, err)
				pages := rng.Perm(int(meta.high))
				for _, id := range pages[:min(len(pages), max(1, *flipsN/20))] {
					im[0] = bytes.Clone(whole)
					damage(whole[:meta.high*4096], im[0][id*4096:][:4096])
					im.put(t, path)
					out := tryFlip(t, path, m)
					if out.wrong != "" {
						t.Errorf("page %d: %.300s", id, out.wrong)
					}
					switch {
					case out.refused != nil:
						tally["refused"]++
					case out.damaged > 0:
						tally["damaged"]++
					default:
						tally["no effect"]++
					}
				}
				t.Log(tally)
			})
		}
	}
}

// TestMend_WithoutAListOfFreePages: what a file says of itself is mended, which needs no proof by a list; a reference is not.
func TestMend_WithoutAListOfFreePages(t *testing.T) {
	dir := ram(t)
	im, m := flipFile(t, filepath.Join(dir, "base"), true)
	path := filepath.Join(dir, "db")
	meta, err := newestMeta(bytes.NewReader(im[0]), 4096)
	require.NoError(t, err)
	drop := mender{ReaderAt: bytes.NewReader(im[0])}
	require.ErrorIs(t, drop.dropFreelist(&pageReader{file: &drop, page: 4096, high: meta.high}, meta), errMended)
	_, err = drop.ReadAt(im[0], 0)
	require.NoError(t, err)
	root := im[0][meta.root*4096:][:4096]
	list, _, used, err := parse(root, nil)
	require.NoError(t, err)
	mended, refused := 0, 0
	for at := 0; at < used; at += 23 {
		isReference := refers(&span{id: meta.root}, root, at)
		root[at] ^= 1
		im.put(t, path)
		root[at] ^= 1
		out := tryFlip(t, path, m)
		require.Empty(t, out.wrong, "byte %d", at)
		switch {
		case isReference && out.refused != nil:
			refused++
		default:
			require.NoError(t, out.refused, "byte %d", at)
			mended++
		}
	}
	t.Logf("%d buckets, %d bytes: %d mended, %d refused", len(list), used, mended, refused)
	require.Greater(t, mended, used/46)
	require.NotZero(t, refused)
}
