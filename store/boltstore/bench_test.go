package boltstore_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

func benchAccount(n uint64) event.Account { return event.Account(fmt.Sprintf("account-%d", n)) }

// BenchmarkSend is a send of 512 bytes to two inboxes of many, with an idempotency record and an unread count. Nothing is made
// durable, so that it shows what the store itself does; bench has the rates.
func BenchmarkSend(b *testing.B) {
	const accounts = 10_000
	s := open(b, newPath(b), boltstore.Config{})
	s.SetWrite(func(func() error) error { return nil })
	issuer := event.NewIssuer(s.Info().IDKey)
	names := make([]event.Account, accounts)
	for i := range names {
		names[i] = benchAccount(uint64(i))
	}
	payload := make([]byte, 512)
	ctx := b.Context()
	var next atomic.Uint64
	send := func(rnd *rand.Rand) error {
		from := names[rnd.IntN(accounts)]
		to := names[rnd.IntN(accounts)]
		if to == from {
			return nil
		}
		id := issuer.Issue()
		inboxes := [2]store.Inbox{{Account: from}, {Account: to, Flags: event.FlagUnread}}
		messages := [1]store.Message{{
			ID: id, Kind: event.KindMessage, Conversation: "talk", From: from, Payload: payload, To: inboxes[:],
		}}
		_, err := s.Commit(ctx, store.Batch{Account: from, Now: start, Messages: messages[:], Idempotency: &store.Idempotency{
			Device: "phone", ClientID: event.ClientMessageID(id[:20]), Window: 24 * time.Hour, Max: 16_384,
		}})
		return err
	}
	for _, senders := range []int{1, 64} {
		b.Run(fmt.Sprint("senders=", senders), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(senders)
			if senders == 1 {
				rnd := rand.New(rand.NewPCG(1, next.Add(1)))
				for b.Loop() {
					require.NoError(b, send(rnd))
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				rnd := rand.New(rand.NewPCG(1, next.Add(1)))
				for pb.Next() {
					if err := send(rnd); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkRead reads a page of 256 entries of 512 bytes, out of memory and out of the file.
func BenchmarkRead(b *testing.B) {
	const entries = 4096
	s := open(b, newPath(b), boltstore.Config{})
	issuer := event.NewIssuer(s.Info().IDKey)
	for range entries / 256 {
		batch := store.Batch{Account: "ann", Now: start}
		for range 256 {
			batch.Messages = append(batch.Messages, message(string(issuer.Issue()), make([]byte, 512), "ann", "bob").Messages...)
		}
		_, err := s.Commit(b.Context(), batch)
		require.NoError(b, err)
	}
	for _, from := range []string{"memory", "file"} {
		b.Run(from, func(b *testing.B) {
			if from == "file" {
				require.NoError(b, s.Compact(b.Context()))
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
		})
	}
}
