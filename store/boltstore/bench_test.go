package boltstore_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

var (
	benchRound  = flag.Duration("bench.round", 2*time.Second, "how long a round of BenchmarkSend takes")
	benchRounds = flag.Int("bench.rounds", 3, "rounds of BenchmarkSend; medians are reported")
)

const (
	payloadBytes = 512
	// rawBytes is what the raw references write for a message: the payload and what Commit is given beside it.
	rawBytes = payloadBytes + 64
)

// lane is one way to store a message from one account to another.
type lane interface {
	send(from, to uint64, id event.MessageID) error
	written() int64 // bytes, so far
}

type storeLane struct {
	tb    testing.TB
	s     *boltstore.Store
	named bool // with an idempotency record and an unread count
}

func (l *storeLane) written() int64 { return l.s.Written() }

func (l *rawLane) written() int64 {
	stats := l.db.Stats()
	return stats.TxStats.GetPageAlloc()
}

func benchAccount(n uint64) event.Account { return event.Account(fmt.Sprintf("account-%d", n)) }

func (l *storeLane) send(from, to uint64, id event.MessageID) error {
	b := message(string(id), make([]byte, payloadBytes), benchAccount(from), benchAccount(to))
	if l.named {
		b.Idempotency = &store.Idempotency{Device: "phone", ClientID: event.ClientMessageID(id[:20]), Window: 24 * time.Hour, Max: 16_384}
		b.Messages[0].To[1].Flags = event.FlagUnread
	}
	_, err := l.s.Commit(l.tb.Context(), b)
	return err
}

// rawLane puts messages into a bucket: all that wait share a commit, as in the store.
type rawLane struct {
	db    *bolt.DB
	put   func(b *bolt.Bucket, from, to, n uint64) error
	mu    sync.Mutex
	queue []rawSend
	busy  bool
	next  uint64
}

type rawSend struct {
	from, to uint64
	done     chan error
}

func newRawLane(b *testing.B, put func(b *bolt.Bucket, from, to, n uint64) error) *rawLane {
	db, err := bolt.Open(newPath(b), 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: 8 << 30})
	require.NoError(b, err)
	db.AllocSize = 16 << 20
	b.Cleanup(func() { _ = db.Close() })
	require.NoError(b, db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("b")); return err }))
	return &rawLane{db: db, put: put}
}

func (l *rawLane) send(from, to uint64, _ event.MessageID) error {
	s := rawSend{from, to, make(chan error, 1)}
	l.mu.Lock()
	l.queue = append(l.queue, s)
	lead := !l.busy
	l.busy = true
	l.mu.Unlock()
	if lead {
		l.lead()
	}
	return <-s.done
}

func (l *rawLane) lead() {
	for last := 0; ; {
		for range 4 {
			l.mu.Lock()
			enough := len(l.queue) >= last
			l.mu.Unlock()
			if enough {
				break
			}
			runtime.Gosched()
		}
		l.mu.Lock()
		group := l.queue
		l.queue = nil
		if l.busy = len(group) != 0; !l.busy {
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		last = len(group)
		err := l.db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("b"))
			b.FillPercent = 1
			for _, s := range group {
				l.next++
				if err := l.put(b, s.from, s.to, l.next); err != nil {
					return err
				}
			}
			return nil
		})
		for _, s := range group {
			s.done <- err
		}
	}
}

// sequential is the raw reference: one row for each message, in order.
func sequential(b *bolt.Bucket, _, _, n uint64) error {
	return b.Put(binary.BigEndian.AppendUint64(nil, n), make([]byte, rawBytes))
}

// byAccount has a row for the message, and one under the key of each of the two accounts.
func byAccount(b *bolt.Bucket, from, to, n uint64) error {
	b.FillPercent = bolt.DefaultFillPercent
	mid := binary.BigEndian.AppendUint64([]byte{1}, n)
	if err := b.Put(mid, make([]byte, rawBytes)); err != nil {
		return err
	}
	for _, a := range []uint64{from, to} {
		k := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{0}, a), n)
		if err := b.Put(k, mid); err != nil {
			return err
		}
	}
	return nil
}

// figures are what one round of one lane gave.
type figures struct {
	rate     float64 // messages a second
	p50, p99 float64 // milliseconds
	cpu      float64 // microseconds of processor time a message, of all that it takes
	bytes    float64 // written a message
}

func round(b *testing.B, l lane, issuer *event.Issuer, senders, accounts int) figures {
	var wg sync.WaitGroup
	times := make([][]time.Duration, senders)
	var total atomic.Int64
	end := time.Now().Add(*benchRound)
	began, cpu, written := time.Now(), cpuTime(), l.written()
	for i := range senders {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(began.UnixNano()), uint64(i)))
			for now := time.Now(); now.Before(end); {
				from := rnd.Uint64N(uint64(accounts))
				if err := l.send(from, (from+1+rnd.Uint64N(uint64(accounts-1)))%uint64(accounts), issuer.Issue()); err != nil {
					b.Error(err)
					return
				}
				done := time.Now()
				times[i] = append(times[i], done.Sub(now))
				now = done
				total.Add(1)
			}
		})
	}
	wg.Wait()
	took, n := time.Since(began), float64(total.Load())
	cpu, written = cpuTime()-cpu, l.written()-written
	all := slices.Concat(times...)
	slices.Sort(all)
	at := func(p int) float64 { return float64(all[len(all)*p/100].Microseconds()) / 1000 }
	return figures{n / took.Seconds(), at(50), at(99), float64(cpu.Microseconds()) / n, float64(written) / n}
}

func median(f []figures, of func(figures) float64) float64 {
	v := make([]float64, len(f))
	for i := range f {
		v[i] = of(f[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// populate gives each account an entry, so that no account is new when it is measured.
func populate(b *testing.B, s store.Store, issuer *event.Issuer, accounts int) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 64 {
		wg.Go(func() {
			for {
				batch := store.Batch{Account: "filler", Now: start}
				for range 256 {
					n := next.Add(1) - 1
					if n >= int64(accounts) {
						break
					}
					batch.Messages = append(batch.Messages,
						message(string(issuer.Issue()), make([]byte, 16), benchAccount(uint64(n))).Messages...)
				}
				if len(batch.Messages) == 0 {
					return
				}
				if _, err := s.Commit(b.Context(), batch); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkSend is a durable send of 512 bytes to two inboxes, against raw sequential puts and account-ordered keys, in
// turns. Use it with -benchtime=1x.
func BenchmarkSend(b *testing.B) {
	if testing.Short() {
		b.Skip("takes minutes")
	}
	for _, kind := range []string{"plain", "named"} {
		for _, accounts := range []int{10_000, 100_000, 1_000_000} {
			for _, senders := range []int{1, 64, 1024} {
				b.Run(fmt.Sprintf("%s/accounts=%d/senders=%d", kind, accounts, senders), func(b *testing.B) {
					benchSend(b, accounts, senders, kind == "named")
				})
			}
		}
	}
}

func benchSend(b *testing.B, accounts, senders int, named bool) {
	s := open(b, newPath(b), boltstore.Config{})
	issuer := event.NewIssuer(s.Info().IDKey)
	populate(b, s, issuer, accounts)
	ours := &storeLane{b, s, named}
	raw, ordered := newRawLane(b, sequential), newRawLane(b, byAccount)
	var got, ref, old []figures
	b.ResetTimer()
	for range b.N {
		for range *benchRounds {
			ref = append(ref, round(b, raw, issuer, senders, accounts))
			got = append(got, round(b, ours, issuer, senders, accounts))
			old = append(old, round(b, ordered, issuer, senders, accounts))
		}
	}
	rate := func(f figures) float64 { return f.rate }
	p50, p99 := func(f figures) float64 { return f.p50 }, func(f figures) float64 { return f.p99 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(got, rate), "msg/s")
	b.ReportMetric(median(got, rate)/median(ref, rate), "of-raw")
	b.ReportMetric(median(got, rate)/median(old, rate), "of-ordered")
	b.ReportMetric(median(got, p50), "p50-ms")
	b.ReportMetric(median(got, p99), "p99-ms")
	b.ReportMetric(median(ref, p50), "raw-p50-ms")
	b.ReportMetric(median(ref, p99), "raw-p99-ms")
	for name, f := range map[string][]figures{"": got, "raw-": ref, "ordered-": old} {
		b.ReportMetric(median(f, func(f figures) float64 { return f.cpu }), name+"cpu-us/msg")
		b.ReportMetric(median(f, func(f figures) float64 { return f.bytes }), name+"B/msg")
	}
}
