package kv

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	loadAccounts = flag.Int("load.accounts", 50_000, "accounts of BenchmarkLoad; 500 with -short")
	loadTime     = flag.Duration("load.time", 8*time.Second, "how long BenchmarkLoad sends; 50 ms with -short")
)

// BenchmarkLoad writes and looks up the rows of a send: 560 bytes to two inboxes, with an idempotency record and a count. The rate
// counts the time until everything is at its place in the file. Each run is one of -load.time: use it with -benchtime 1x.
func BenchmarkLoad(b *testing.B) {
	for _, senders := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			for range b.N {
				newLoad(b).run(b, senders)
			}
		})
	}
}

type load struct {
	db       *DB
	accounts int
	length   time.Duration
	payload  []byte
	ids      atomic.Uint64
}

func newLoad(b *testing.B) *load {
	o := options(filepath.Join(b.TempDir(), "db"))
	o.Tables = []TableSpec{{"head", 0.7}, {"account", 0.7}, {"message", 1}}
	o.Memory, o.MaxSize = 128<<20, 64<<30
	l := &load{db: open(b, o), accounts: *loadAccounts, length: *loadTime, payload: make([]byte, 560)}
	if testing.Short() {
		l.accounts, l.length = 500, 50*time.Millisecond
	}
	const some = 2000
	for first := 0; first < l.accounts; first += some {
		require.NoError(b, l.db.Update(b.Context(), 1, func(w *Writer) error {
			for i := first; i < min(l.accounts, first+some); i++ {
				h, r := l.account(i)
				w.Put(&h, nil, make([]byte, 30))
				w.Put(&r, append([]byte{'e'}, make([]byte, 8)...), make([]byte, 45))
			}
			return nil
		}))
	}
	return l
}

func (l *load) account(i int) (head, all Part) {
	name := fmt.Appendf(nil, "account-%07d", i)
	return Of(heads, name), Of(rows, append(name, 0, 0, 0, 0, 1))
}

func (l *load) run(b *testing.B, senders int) {
	took := make([][]time.Duration, senders)
	began := time.Now()
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for time.Since(began) < l.length {
				at := time.Now()
				if err := l.send(); err != nil {
					b.Error(err)
					return
				}
				took[s] = append(took[s], time.Since(at))
			}
		})
	}
	all.Wait()
	shut(b, l.db)
	every := slices.Concat(took...)
	slices.Sort(every)
	half, tail := every[len(every)/2], every[len(every)*999/1000]
	b.ReportMetric(float64(len(every))/time.Since(began).Seconds(), "messages/s")
	b.ReportMetric(float64(half.Microseconds()), "p50-µs")
	b.ReportMetric(float64(tail)/float64(half), "p99.9/p50")
	b.ReportMetric(0, "ns/op")
}

var errTwice = errors.New("there already")

// send does what a durable send does in one operation.
func (l *load) send() error {
	id := l.ids.Add(1)
	from := int((id * 0x9e3779b97f4a7c15 >> 20) % uint64(l.accounts))
	to := (from + 1) % l.accounts
	return l.db.Update(context.Background(), 1000, func(w *Writer) error {
		m := Of(bodies, binary.BigEndian.AppendUint64([]byte{1, 1, 2, 3, 4}, id))
		if v, err := w.Get(&m, []byte("m")); v != nil || err != nil {
			return errors.Join(err, errTwice)
		}
		if err := l.deliver(w, from, append([]byte("idevice\x00m"), binary.BigEndian.AppendUint64(nil, id)...), true); err != nil {
			return err
		}
		if err := l.deliver(w, to, []byte("oconversation"), false); err != nil {
			return err
		}
		w.Put(&m, []byte("m"), l.payload)
		return nil
	})
}

// deliver appends to an inbox, and writes one row more, which must not be there already if it is new.
func (l *load) deliver(w *Writer, account int, row []byte, isNew bool) error {
	head, all := l.account(account)
	h, err := w.Get(&head, nil)
	if err != nil {
		return err
	}
	var next [30]byte
	copy(next[:], h)
	seq := binary.BigEndian.Uint64(next[:]) + 1
	binary.BigEndian.PutUint64(next[:], seq)
	v, err := w.Get(&all, row)
	if err != nil || isNew && v != nil {
		return errors.Join(err, errTwice)
	}
	w.Put(&all, row, make([]byte, 40))
	w.Put(&head, nil, next[:])
	w.Put(&all, binary.BigEndian.AppendUint64([]byte{'e'}, seq), make([]byte, 30))
	return nil
}
