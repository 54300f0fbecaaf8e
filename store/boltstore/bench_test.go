package boltstore_test

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// BenchmarkCommit is a durable send of 512 bytes to two inboxes out of 10,000.
func BenchmarkCommit(b *testing.B) {
	payload := make([]byte, 512)
	send := func(b *testing.B, s store.Store, n int64) {
		from, to := event.Account(fmt.Sprint("a", n*7919%10_000)), event.Account(fmt.Sprint("b", n*104_729%10_000))
		if _, err := s.Commit(b.Context(), message(fmt.Sprint("m", n), payload, from, to)); err != nil {
			b.Error(err)
		}
	}
	b.Run("senders=1", func(b *testing.B) {
		s := open(b, newPath(b), boltstore.Config{})
		b.ReportAllocs()
		for n := int64(0); b.Loop(); n++ {
			send(b, s, n)
		}
	})
	for _, senders := range []int{64, 1024} {
		b.Run(fmt.Sprint("senders=", senders), func(b *testing.B) {
			s := open(b, newPath(b), boltstore.Config{})
			b.ReportAllocs()
			b.SetParallelism(max(1, senders/runtime.GOMAXPROCS(0)))
			var n atomic.Int64
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					send(b, s, n.Add(1))
				}
			})
		})
	}
}

// BenchmarkRead reads a page of 256 entries of 512 bytes.
func BenchmarkRead(b *testing.B) {
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
