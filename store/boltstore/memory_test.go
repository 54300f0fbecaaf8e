package boltstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// BenchmarkMemory sends many messages of 512 bytes among many accounts in a process of its own, and tells what memory that
// takes: the heap and what is resident, at the end and at the peak. Use it with -benchtime=1x.
func BenchmarkMemory(b *testing.B) {
	accounts, messages := 100_000, 500_000
	if testing.Short() {
		accounts, messages = 1000, 5000
	}
	for _, bound := range []int64{0, 32 << 20} {
		b.Run(fmt.Sprintf("accounts=%d/messages=%d/memory=%d", accounts, messages, bound), func(b *testing.B) {
			for b.Loop() {
				cmd := child(b.Context(), "memory", filepath.Join(b.TempDir(), "store.db"), accounts, messages, bound)
				out, err := cmd.Output()
				require.NoError(b, err)
				for l := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
					name, value, _ := strings.Cut(l, " ")
					n, err := strconv.ParseFloat(value, 64)
					require.NoError(b, err)
					b.ReportMetric(n, name)
				}
			}
		})
	}
}

// TestMemory_HeapIsBounded holds what the documents say of the heap: 64 MiB and two and a half times Memory. Without the bound, these messages
// would be twice of that in memory.
func TestMemory_HeapIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it sends 100,000 messages")
	}
	const memory = 8 << 20
	out, err := child(t.Context(), "memory", filepath.Join(memoryDir(t), "store.db"), 20_000, 100_000, memory).Output()
	require.NoError(t, err)
	_, peak, _ := strings.Cut(string(out), "peak-heap-MB ")
	peak, _, _ = strings.Cut(peak, "\n")
	heap, err := strconv.Atoi(peak)
	require.NoError(t, err)
	require.LessOrEqual(t, heap, (64<<20+memory*5/2)>>20)
}

// memoryChild sends messages, and says what memory that took.
func memoryChild(args []string) error {
	var n [3]int
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(args[1+i]); err != nil {
			return err
		}
	}
	s, err := boltstore.Open(args[0], boltstore.Config{Memory: int64(n[2])})
	if err != nil {
		return err
	}
	var peak memoryFigures
	ctx, stop := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() {
		for t := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; <-t.C {
			peak.max(readMemory())
		}
	})
	began := time.Now()
	err = sendMany(s, n[0], n[1])
	took := time.Since(began)
	stop()
	watch.Wait()
	runtime.GC()
	end := readMemory()
	if err := errors.Join(err, s.Close(context.Background())); err != nil {
		return err
	}
	st, err := os.Stat(args[0])
	if err != nil {
		return err
	}
	peak.print("peak")
	end.print("end")
	fmt.Println("file-MB", st.Size()>>20)
	fmt.Println("sends/s", int(float64(n[1])/took.Seconds()))
	return nil
}

// sendMany sends from 256 goroutines, each message to two accounts.
func sendMany(s store.Store, accounts, messages int) error {
	issuer := event.NewIssuer(s.Info().IDKey)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, 256)
	for i := range errs {
		wg.Go(func() {
			for {
				n := int(next.Add(1))
				if n > messages || errs[i] != nil {
					return
				}
				from, to := n%accounts, (n*7919+1)%accounts
				if from == to {
					to = (to + 1) % accounts
				}
				b := message(string(issuer.Issue()), make([]byte, 512), benchName(from), benchName(to))
				b.Idempotency = &store.Idempotency{Device: "phone", ClientID: event.ClientMessageID(fmt.Sprint("c", n)), Window: time.Hour, Max: 1 << 14}
				b.Messages[0].To[1].Flags = event.FlagUnread
				_, errs[i] = s.Commit(context.Background(), b)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func benchName(n int) event.Account { return event.Account(fmt.Sprintf("account-%d", n)) }

// memoryFigures are bytes of memory of this process.
type memoryFigures struct {
	heap, resident, anonymous, virtual int64 // anonymous: resident without files that are mapped
}

func (f *memoryFigures) max(g memoryFigures) {
	f.heap, f.resident = max(f.heap, g.heap), max(f.resident, g.resident)
	f.anonymous, f.virtual = max(f.anonymous, g.anonymous), max(f.virtual, g.virtual)
}

func (f *memoryFigures) print(when string) {
	for _, v := range []struct {
		name string
		n    int64
	}{{"heap", f.heap}, {"rss", f.resident}, {"rss-anon", f.anonymous}, {"virtual", f.virtual}} {
		fmt.Printf("%s-%s-MB %d\n", when, v.name, v.n>>20)
	}
}

// readMemory asks the runtime, and Linux; elsewhere only the heap is known.
func readMemory() (f memoryFigures) {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	f.heap = int64(heap[0].Value.Uint64())
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return f
	}
	defer func() { _ = status.Close() }()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		var name string
		var kb int64
		if n, _ := fmt.Sscanf(lines.Text(), "%s %d kB", &name, &kb); n != 2 {
			continue
		}
		switch name {
		case "VmRSS:":
			f.resident = kb << 10
		case "RssAnon:":
			f.anonymous = kb << 10
		case "VmSize:":
			f.virtual = kb << 10
		}
	}
	return f
}
