package kv

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// salvaged returns what can be read of a file, and what was reported.
func salvaged(t *testing.T, path string) (model, []error) {
	got := model{}
	var lost []error
	o := options(path)
	o.LockTimeout = time.Second
	_, err := Salvage(o, false, func(err error) { lost = append(lost, err) }, func(t Table, key, value []byte) error {
		got[string(rune('0'+t))+string(key)] = string(value)
		return nil
	})
	if err != nil {
		lost = append(lost, err)
	}
	return got, lost
}

// TestSalvage_OfStructure changes bits of what leads to rows. No more than one row is lost, and none has another value.
func TestSalvage_OfStructure(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%t", closed), func(t *testing.T) {
			dir := ram(t)
			im, m := flipFile(t, filepath.Join(dir, "base"), closed)
			path := filepath.Join(dir, "db")
			im.put(t, path)
			got, lost := salvaged(t, path)
			require.Equal(t, m, got)
			require.Empty(t, lost)
			places := structure(t, im[0])
			rng := rand.New(rand.NewPCG(uint64(*flipsN), 3))
			rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
			missing, most, untold, doubtful := 0, 0, 0, 0
			for _, at := range places[:min(len(places), *flipsN/4)] {
				bit := rng.IntN(8)
				im[0][at] ^= 1 << bit
				im.put(t, path)
				got, lost := salvaged(t, path)
				n := 0
				for k, v := range m {
					if have, there := got[k]; !there {
						n++
					} else if have != v {
						t.Errorf("byte %d of page %d, bit %d: row %q has another value", at%4096, at/4096, bit, k)
					}
				}
				for k := range got {
					if _, there := m[k]; !there {
						t.Errorf("byte %d of page %d, bit %d: row %q was removed", at%4096, at/4096, bit, k)
					}
				}
				if n > 0 && len(lost) == 0 {
					untold++
				}
				if n > 1 || n > 0 && len(lost) == 0 {
					t.Logf("byte %d of page %d, bit %d: %d lost: %v", at%4096, at/4096, bit, n, lost)
				}
				if n > 1 { // a reference that may be to either of two states of a page
					doubtful++
				}
				missing, most = missing+n, max(most, n)
				im[0][at] ^= 1 << bit
			}
			t.Logf("%d bits: %d rows of %d missing each, %d at most, %d untold", min(len(places), *flipsN/4), missing, len(m), most, untold)
			require.Zero(t, untold)
			require.LessOrEqual(t, doubtful, 1+*flipsN/1000)
			require.Less(t, most, 60, "the rows of a page")
		})
	}
}
