package boltstore_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// BenchmarkRead reads a page of 256 entries of 512 bytes.
func BenchmarkRead(b *testing.B) {
	if testing.Short() {
		b.Skip("takes minutes")
	}
	const entries = 4096
	s := open(b, newPath(b), boltstore.Config{})
	for i := range entries / 256 {
		batch := store.Batch{Account: "ann", Now: start}
		for j := range 256 {
			batch.Messages = append(batch.Messages,
				message(fmt.Sprint("m", i, "-", j), make([]byte, 512), "ann", "bob").Messages...)
		}
		_, err := s.Commit(b.Context(), batch)
		require.NoError(b, err)
	}
	b.ReportAllocs()
	b.SetBytes(256 * 512)
	for n := 0; b.Loop(); n++ {
		o := store.ReadOptions{After: uint64(n) % (entries / 256) * 256, Limit: 256}
		p, err := s.Read(b.Context(), "bob", o)
		if err != nil || len(p.Entries) != 256 {
			b.Fatal(len(p.Entries), err)
		}
	}
}

// BenchmarkHistory reads all of an inbox, of which a part came with each of many windows, in pages of 256, against a cursor
// that goes over rows of the same bytes and copies them.
func BenchmarkHistory(b *testing.B) {
	if testing.Short() {
		b.Skip("takes minutes")
	}
	const entries = 100_000
	for _, windows := range []int{1, 40} {
		b.Run(fmt.Sprint("windows=", windows), func(b *testing.B) {
			s := open(b, newPath(b), boltstore.Config{})
			issuer := event.NewIssuer(s.Info().IDKey)
			raw := newRawLane(b, sequential)
			for w := range windows {
				for n := 0; n < entries/windows; n += 250 {
					batch := store.Batch{Account: "ann", Now: start}
					for range 250 {
						batch.Messages = append(batch.Messages, message(string(issuer.Issue()), make([]byte, payloadBytes), "ann").Messages...)
					}
					_, err := s.Commit(b.Context(), batch)
					require.NoError(b, err)
					require.NoError(b, raw.db.Update(func(tx *bolt.Tx) error {
						for range 250 {
							raw.next++
							if err := sequential(tx.Bucket([]byte("b")), 0, 0, raw.next); err != nil {
								return err
							}
						}
						return nil
					}))
				}
				if w < windows-1 {
					require.NoError(b, s.Compact(b.Context()))
				}
			}
			b.Logf("%d runs", s.Runs())
			var ours, ref time.Duration
			for b.Loop() {
				began := cpuTime()
				n := 0
				for after := uint64(0); after < entries; {
					p, err := s.Read(b.Context(), "ann", store.ReadOptions{After: after, Limit: 256})
					require.NoError(b, err)
					n += len(p.Entries)
					after = p.Through
				}
				require.Equal(b, entries, n)
				ours += cpuTime() - began
				began = cpuTime()
				page := make([][]byte, 0, 256)
				require.NoError(b, raw.db.View(func(tx *bolt.Tx) error {
					return tx.Bucket([]byte("b")).ForEach(func(_, v []byte) error {
						if len(page) == cap(page) {
							page = make([][]byte, 0, cap(page))
						}
						page = append(page, slices.Clone(v))
						return nil
					})
				}))
				ref += cpuTime() - began
			}
			b.ReportMetric(float64(ref)/float64(ours), "of-raw")
			b.ReportMetric(float64(ours.Microseconds())/float64(b.N*entries), "cpu-us/entry")
		})
	}
}

// BenchmarkFold tells for how long appends wait for a commit that folds or merges, against one that does not, while many send
// to a million accounts. Use it with -benchtime=1x.
func BenchmarkFold(b *testing.B) {
	if testing.Short() {
		b.Skip("takes minutes")
	}
	const accounts, senders = 1_000_000, 256
	s := open(b, newPath(b), boltstore.Config{})
	issuer := event.NewIssuer(s.Info().IDKey)
	populate(b, s, issuer, accounts)
	for b.Loop() {
		var times [2][]time.Duration // without, with
		s.Pace(func(took time.Duration, slice bool) {
			i := 0
			if slice {
				i = 1
			}
			times[i] = append(times[i], took)
		})
		for range *benchRounds {
			round(b, &storeLane{b, s, true}, issuer, senders, accounts)
		}
		s.SetCommit((*bolt.Tx).Commit)
		require.NotEmpty(b, times[0])
		require.NotEmpty(b, times[1])
		for i, name := range []string{"plain", "fold"} {
			slices.Sort(times[i])
			for _, p := range []int{50, 99} {
				at := times[i][(len(times[i])-1)*p/100]
				b.ReportMetric(float64(at.Microseconds())/1000, fmt.Sprintf("%s-p%d-ms", name, p))
			}
			b.ReportMetric(float64(len(times[i])), name+"-commits")
		}
	}
}

// BenchmarkOpen opens a file as a crash left it, with a full journal, against bbolt alone.
func BenchmarkOpen(b *testing.B) {
	if testing.Short() {
		b.Skip("takes minutes")
	}
	for _, entries := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint("entries=", entries), func(b *testing.B) {
			path := newPath(b)
			s := open(b, path, boltstore.Config{})
			populate(b, s, event.NewIssuer(s.Info().IDKey), entries)
			_, accounts := s.Memory()
			s.Crash()
			var ours, ref time.Duration
			for b.Loop() {
				began := time.Now()
				s := open(b, path, boltstore.Config{})
				ours += time.Since(began)
				s.Crash()
				began = time.Now()
				db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
				require.NoError(b, err)
				ref += time.Since(began)
				require.NoError(b, db.Close())
			}
			b.ReportMetric(float64(ours.Milliseconds())/float64(b.N), "ms")
			b.ReportMetric(float64(ref.Milliseconds())/float64(b.N), "bbolt-ms")
			b.ReportMetric(float64(accounts), "unfolded")
		})
	}
}

// BenchmarkFileSize tells how many bytes of the file an entry of 512 bytes takes, in two inboxes of 2,000, and again after
// all of them were replaced ten times by newer ones.
func BenchmarkFileSize(b *testing.B) {
	if testing.Short() {
		b.Skip("takes minutes")
	}
	const accounts, each = 2000, 20
	for range b.N {
		s := open(b, newPath(b), boltstore.Config{}.WithLimits(2<<20, 512, 8))
		issuer := event.NewIssuer(s.Info().IDKey)
		size := func() float64 { return float64(s.HighWater()) / (accounts * each) }
		fill := func() {
			var wg sync.WaitGroup
			for i := range 256 {
				wg.Go(func() {
					for n := i; n < accounts*each; n += 256 {
						l := storeLane{b, s, false}
						if err := l.send(uint64(n%accounts), uint64((n+7)%accounts), issuer.Issue()); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		}
		fill()
		first := size()
		for range 10 {
			fill()
			for n := range uint64(accounts) {
				p, err := s.Read(b.Context(), benchAccount(n), store.ReadOptions{})
				require.NoError(b, err)
				_, err = s.Trim(b.Context(), benchAccount(n), p.Head.Seq-2*each, 1000)
				require.NoError(b, err)
			}
		}
		b.ReportMetric(first, "B/message")
		b.ReportMetric(size(), "B/message-later")
		b.ReportMetric(float64(s.Runs()), "runs")
	}
}
