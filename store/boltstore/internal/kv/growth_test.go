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

// TestRoom_EstimatesHold measures by how much the file grows for rows of each kind against what was estimated.
func TestRoom_EstimatesHold(t *testing.T) {
	for _, tt := range []struct {
		name string
		put  func(w *Writer, n int)
		rows int
	}{
		{"heads of accounts in no order", func(w *Writer, n int) {
			p := Of(heads, fmt.Appendf(nil, "account-%08d", rand.Uint32()))
			w.Put(&p, nil, make([]byte, 30))
		}, 40_000},
		{"entries of few accounts", func(w *Writer, n int) {
			p := Of(rows, fmt.Appendf(nil, "account-%d\x00", n%50))
			w.Put(&p, binary.BigEndian.AppendUint64([]byte("e"), uint64(n)), make([]byte, 40))
		}, 40_000},
		{"entries of many accounts", func(w *Writer, n int) {
			p := Of(rows, fmt.Appendf(nil, "account-%d\x00", rand.IntN(20_000)))
			w.Put(&p, binary.BigEndian.AppendUint64([]byte("e"), uint64(n)), make([]byte, 40))
		}, 40_000},
		{"records of 1,500 bytes", func(w *Writer, n int) {
			p := Of(rows, fmt.Appendf(nil, "account-%d\x00", rand.IntN(20_000)))
			w.Put(&p, []byte("r"), make([]byte, 1500))
		}, 4000},
		{"messages of 100 bytes", message(100), 40_000},
		{"messages of 500 bytes", message(500), 10_000},
		{"messages of 980 bytes", message(980), 6000},
		{"messages of 1,200 bytes", message(1200), 6000},
		{"messages of 1,500 bytes", message(1500), 6000},
		{"messages of 2,040 bytes", message(2040), 4000},
		{"messages of 2,100 bytes", message(2100), 4000},
		{"messages of 5,000 bytes", message(5000), 2000},
		{"messages of 200,000 bytes", message(200_000), 100},
		{"long values in no order", func(w *Writer, n int) {
			p := Of(rows, fmt.Appendf(nil, "account-%d\x00", rand.Uint32()))
			w.Put(&p, []byte("r"), make([]byte, 5000))
		}, 3000},
		{"long values under long keys", func(w *Writer, n int) {
			p := Of(rows, append(bytes.Repeat([]byte("x"), 100), fmt.Appendf(nil, "account-%d\x00", rand.Uint32())...))
			w.Put(&p, []byte("r"), make([]byte, 5000))
		}, 3000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(filepath.Join(fast(t), "db"))
			o.Memory = 2 << 20
			db := open(t, o)
			before, estimate := db.room.used(), int64(0)
			for n := 0; n < tt.rows; n += 20 {
				require.NoError(t, db.Update(context.Background(), 100, func(w *Writer) error {
					was := w.active.grows
					for i := range 20 {
						tt.put(w, n+i)
					}
					estimate += w.active.grows - was
					return nil
				}))
			}
			require.NoError(t, db.Checkpoint(context.Background()))
			grew := db.room.used() - before
			t.Logf("%d rows: the file grew by %d KiB, estimated %d KiB: %.2f", tt.rows, grew>>10, estimate>>10, float64(estimate)/float64(grew))
			require.Less(t, grew, estimate+estimate/20)
			require.Less(t, estimate, 2*grew)
			shut(t, db)
		})
	}
}

func message(size int) func(w *Writer, n int) {
	return func(w *Writer, n int) {
		p := messagePart(n)
		w.Put(&p, []byte("m"), make([]byte, size))
	}
}
