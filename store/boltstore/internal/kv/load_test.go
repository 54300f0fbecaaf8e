package kv

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	accountsN = flag.Int("accounts", 0, "")
	sendersN  = flag.Int("senders", 1024, "")
	secs      = flag.Int("secs", 20, "")
	memMB     = flag.Int64("mem", 128, "")
	dirF      = flag.String("dir", "", "")
)

// TestLoad measures sends as boltstore writes them; see the flags.
func TestLoad(t *testing.T) {
	if *accountsN == 0 {
		t.Skip("no -accounts")
	}
	dir := *dirF
	if dir == "" {
		dir = t.TempDir()
	}
	path := filepath.Join(dir, "x.db")
	db, err := Open(Options{Path: path, Tables: []TableSpec{{"head", 0.7}, {"account", 0.8}, {"message", 1}}, Memory: *memMB << 20, MaxSize: 64 << 30, Reserve: 16 << 20,
		LockTimeout: 1, Log: slog.Default(), Meta: func(m map[string][]byte) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	n := *accountsN
	ctx := context.Background()
	acc := func(i int) (Part, Part) {
		name := fmt.Appendf(nil, "account-%07d", i)
		return Of(heads, name), Of(rows, append(name, 0, 0, 0, 0, 1))
	}
	for i := 0; i < n; i += 2000 {
		if err := db.Update(ctx, 1, func(w *Writer) error {
			for j := i; j < min(n, i+2000); j++ {
				h, r := acc(j)
				w.Put(&h, nil, make([]byte, 30))
				w.Put(&r, append([]byte{'e'}, make([]byte, 8)...), make([]byte, 45))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	payload := make([]byte, 560)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	var mid atomic.Uint64
	var done, stop atomic.Int64
	lat := make([][]time.Duration, *sendersN)
	send := func(i uint64) error {
		from := int((i * 0x9e3779b97f4a7c15 >> 20) % uint64(n))
		to := from ^ 1
		if to >= n {
			to = 0
		}
		return db.Update(ctx, 1000, func(w *Writer) error {
			id := mid.Add(1)
			m := Of(bodies, binary.BigEndian.AppendUint64([]byte{1, 1, 2, 3, 4}, id))
			if v, err := w.Get(&m, []byte("m")); v != nil || err != nil {
				return fmt.Errorf("dup")
			}
			for k, who := range []int{from, to} {
				hp, rp := acc(who)
				h, err := w.Get(&hp, nil)
				if err != nil {
					return err
				}
				var head [30]byte
				copy(head[:], h)
				if k == 0 {
					at := append([]byte("idevice-1\x00m"), binary.BigEndian.AppendUint64(nil, id)...)
					if v, err := w.Get(&rp, at); v != nil || err != nil {
						return fmt.Errorf("dup")
					}
					w.Put(&rp, at, make([]byte, 56))
				} else {
					ck := []byte("oconversation")
					c, err := w.Get(&rp, ck)
					if err != nil {
						return err
					}
					x := make([]byte, 12)
					copy(x, c)
					x[0]++
					w.Put(&rp, ck, x)
				}
				seq := binary.BigEndian.Uint64(head[:]) + 1
				binary.BigEndian.PutUint64(head[:], seq)
				w.Put(&hp, nil, head[:])
				w.Put(&rp, binary.BigEndian.AppendUint64([]byte{'e'}, seq), make([]byte, 30))
			}
			w.Put(&m, []byte("m"), payload)
			return nil
		})
	}
	var wg sync.WaitGroup
	began := time.Now()
	var next atomic.Uint64
	for s := range *sendersN {
		wg.Go(func() {
			for stop.Load() == 0 {
				b := time.Now()
				if err := send(next.Add(1)); err != nil {
					panic(err)
				}
				lat[s] = append(lat[s], time.Since(b))
				done.Add(1)
			}
		})
	}
	var before int64
	for i := 0; i < *secs; i++ {
		time.Sleep(time.Second)
		d := done.Load()
		st := db.Stats()
		fi, _ := os.Stat(path)
		t.Logf("%2d s: %d/s, mem %d MB, flushes %d, file %d MB, free %d MB, stall %v commits %d", i, d-before, st.Memory>>20, st.Flushes, fi.Size()>>20, st.FreeBytes>>20, st.StallTime, st.Commits)
		before = d
	}
	stop.Store(1)
	wg.Wait()
	total := done.Load()
	if err := db.Close(ctx); err != nil {
		t.Fatal(err)
	}
	el := time.Since(began)
	all := slices.Concat(lat...)
	slices.Sort(all)
	q := func(p float64) time.Duration { return all[int(p*float64(len(all)-1))] }
	st := db.Stats()
	t.Logf("%.0f/s with debt paid  p50 %v p99 %v p99.9 %v max %v flush %v stall %v group %.0f", float64(total)/el.Seconds(), q(.5), q(.99), q(.999), q(1), st.FlushTime, st.StallTime, float64(st.Operations)/float64(st.Commits))
}
