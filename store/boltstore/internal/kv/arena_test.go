package kv

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// held is how much memory an arena has, in use or not.
func (a *arena) held() (bytes int64) {
	for _, c := range a.slabs {
		bytes += int64(len(c))
	}
	for _, c := range a.words {
		if c != nil {
			bytes += 4 << wordBits
		}
	}
	return bytes
}

// What one large operation took, or what piled up while a flush failed, is not kept for the memtables to come.
func TestMemory_OfALargeOperationIsGivenBack(t *testing.T) {
	for _, size := range []int{10, 1000, 100_000} { // most of it is words, or bytes
		t.Run(fmt.Sprint("values of ", size), func(t *testing.T) {
			o := tiny(filepath.Join(fast(t), "db"), nil)
			o.MaxSize = 1 << 30
			db := open(t, o)
			many := 30_000_000 / (size + 300)
			require.NoError(t, db.Update(context.Background(), 1, func(w *Writer) error {
				p := Of(rows, []byte("a\x00"))
				v := make([]byte, size)
				for n := range many {
					w.Put(&p, fmt.Appendf(nil, "%06d", n), v)
				}
				return nil
			}))
			for range 3 {
				require.NoError(t, db.Checkpoint(context.Background()))
				require.NoError(t, put(context.Background(), db, "next", 10))
			}
			held := db.current.Load().mem[0].held()
			db.mu.Lock()
			if db.spare != nil {
				held += db.spare.held()
			}
			db.mu.Unlock()
			for _, w := range db.writers {
				held += int64(cap(w.record.b) + 8*cap(w.undo))
			}
			require.Less(t, held, 2*o.Memory)
			shut(t, db)
		})
	}
}
