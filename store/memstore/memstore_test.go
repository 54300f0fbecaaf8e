package memstore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// TestS31_Leases stands before the other suite, which takes longer.
func TestS31_Leases(t *testing.T) {
	storetest.TestLeases(t, storetest.LeaseHarness{
		Open: func(*testing.T) store.Leases { return memstore.NewLeases() }, Bubble: true,
	})
}

func TestS74_Suite(t *testing.T) {
	storetest.TestStore(t, storetest.Harness{
		Open: func(*testing.T) store.Store { return memstore.New(memstore.Config{}) },
		Small: func(*testing.T) store.Store {
			return memstore.New(memstore.Config{MaxBytes: 8 << 20})
		},
		Disk: disk, Opener: opener, Damage: damage, Corrupt: errDamaged,
		Capabilities: store.Capabilities{AtomicSend: true, UniformOrder: true, Dense: true, Shared: true},
		Steps:        5000,
	})
}

func batch(issuer *event.Issuer, payload int, to ...event.Account) store.Batch {
	m := store.Message{
		ID: issuer.Issue(), Kind: event.KindMessage, From: "ann", Conversation: "c1", Flags: event.FlagUnread,
		Payload: make([]byte, payload),
	}
	for _, a := range to {
		m.To = append(m.To, store.Inbox{Account: a})
	}
	return store.Batch{Account: "ann", Now: time.UnixMilli(1), Messages: []store.Message{m}}
}

func TestMaxBytes(t *testing.T) {
	const entry = 64
	for _, c := range []struct {
		name    string
		cfg     memstore.Config
		reserve bool
		payload int
		want    error
	}{
		{name: "fits exactly", cfg: memstore.Config{MaxBytes: 1000 + 2*entry}, payload: 1000},
		{name: "one byte too much", cfg: memstore.Config{MaxBytes: 1000 + 2*entry}, payload: 1001, want: store.ErrFull},
		{name: "no bound", payload: store.MaxPayloadBytes},
		{name: "negative: no bound", cfg: memstore.Config{MaxBytes: -1}, payload: store.MaxPayloadBytes},
		{
			name: "the reserve fits exactly", cfg: memstore.Config{MaxBytes: 128, Reserve: 1000}, payload: 1000, reserve: true,
		},
		{
			name: "beyond the reserve", cfg: memstore.Config{MaxBytes: 128, Reserve: 1000}, payload: 1001, reserve: true,
			want: store.ErrFull,
		},
		{name: "the reserve is a sixteenth", cfg: memstore.Config{MaxBytes: 1600}, payload: 1700 - 128, reserve: true},
		{
			name: "no reserve", cfg: memstore.Config{MaxBytes: 128, Reserve: -1}, payload: 1, reserve: true,
			want: store.ErrFull,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := memstore.New(c.cfg)
			b := batch(event.NewIssuer(s.Info().IDKey), c.payload, "ann", "bob")
			b.Reserve = c.reserve
			_, err := s.Commit(t.Context(), b)
			require.ErrorIs(t, err, c.want)
		})
	}
}

// TestMaxBytes_ComesBack fills a store again and again, and removes what is in it in each of the ways there are.
func TestMaxBytes_ComesBack(t *testing.T) {
	s := memstore.New(memstore.Config{MaxBytes: 500 + 2*64, Reserve: -1})
	issuer := event.NewIssuer(s.Info().IDKey)
	for round := range 20 {
		b := batch(issuer, 500, "ann", "bob")
		r, err := s.Commit(t.Context(), b)
		require.NoError(t, err, "round %d", round)
		_, err = s.Commit(t.Context(), batch(issuer, 0, "cat"))
		require.ErrorIs(t, err, store.ErrFull)
		if round%2 == 0 {
			_, err = s.Trim(t.Context(), "ann", r.Messages[0].To[0].Seq, 1)
			require.NoError(t, err)
			require.NoError(t, s.Delete(t.Context(), "bob", 0))
			continue
		}
		for _, p := range r.Messages[0].To {
			_, err = s.Void(t.Context(), p.Account, []uint64{p.Seq})
			require.NoError(t, err)
		}
	}
}

// TestStates_ForeignCursor pages on from a cursor that the store did not make, and from one whose register is gone.
func TestStates_ForeignCursor(t *testing.T) {
	s := memstore.New(memstore.Config{})
	_, err := s.Commit(t.Context(), store.Batch{Account: "ann", Now: time.UnixMilli(1), States: []store.StateUpdate{
		{Conversation: "c1", Name: "a"}, {Conversation: "c1", Name: "c"},
	}})
	require.NoError(t, err)
	_, err = s.States(t.Context(), "ann", store.StateOptions{Limit: 1, Cursor: "nonsense"})
	_, ok := errors.AsType[*event.InvalidError](err)
	require.True(t, ok, "%v", err)
	page, err := s.States(t.Context(), "ann", store.StateOptions{Limit: 5, Cursor: "c1\nb"})
	require.NoError(t, err)
	require.Equal(t, []event.State{{Conversation: "c1", Name: "c"}}, page.States)
}

// TestS57_HolesDoNotPileUp supersedes one entry over and over, behind an entry that stays.
func TestS57_HolesDoNotPileUp(t *testing.T) {
	s := memstore.New(memstore.Config{})
	issuer := event.NewIssuer(s.Info().IDKey)
	_, err := s.Commit(t.Context(), batch(issuer, 1, "ann"))
	require.NoError(t, err)
	for range 10_000 {
		b := batch(issuer, 1, "ann")
		b.Messages[0].Key = "k"
		_, err := s.Commit(t.Context(), b)
		require.NoError(t, err)
		require.Less(t, s.Slots("ann"), 64)
	}
}

func TestCloseAgain(t *testing.T) {
	s := memstore.New(memstore.Config{})
	require.NoError(t, s.Close(t.Context()))
	require.NoError(t, s.Close(t.Context()))
}

func BenchmarkCommit(b *testing.B) {
	for _, inboxes := range []int{1, 2, 1000} {
		b.Run(fmt.Sprintf("inboxes=%d", inboxes), func(b *testing.B) {
			s := memstore.New(memstore.Config{})
			issuer := event.NewIssuer(s.Info().IDKey)
			var names []event.Account
			for i := range inboxes {
				names = append(names, event.Account(fmt.Sprintf("account-%d", i)))
			}
			batch := batch(issuer, 512, names...)
			n := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				batch.Messages[0].ID = issuer.Issue()
				if _, err := s.Commit(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				if n++; n%1000 == 0 { // as a janitor would, so that the inbox keeps its size
					for _, a := range names {
						if _, err := s.Trim(b.Context(), a, n-500, 1000); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	s := memstore.New(memstore.Config{})
	issuer := event.NewIssuer(s.Info().IDKey)
	for range 10_000 {
		if _, err := s.Commit(b.Context(), batch(issuer, 512, "ann")); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("page=64", func(b *testing.B) {
		b.ReportAllocs()
		after := uint64(0)
		for b.Loop() {
			page, err := s.Read(b.Context(), "ann", store.ReadOptions{After: after, Limit: 64, MaxBytes: 1 << 20})
			if err != nil || len(page.Entries) == 0 {
				b.Fatal(err)
			}
			after = (after + 64) % 9_000
		}
	})
}
