package storetest

import (
	"math"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
)

var pageRules = []rule{
	{name: "page: bounded by count", check: func(f *fixture) {
		list := f.fill("ann", 5)
		for limit := 1; limit <= 7; limit++ {
			for after := range 6 {
				o := store.ReadOptions{Limit: limit}
				if after > 0 {
					o.After = list[after-1]
				}
				want := list[after:]
				want = want[:min(limit, len(want))]
				f.covers("ann", o, want)
			}
		}
	}},
	{name: "page: bounded by bytes, with one entry at least", check: func(f *fixture) {
		list := f.fill("ann", 4)
		size := f.all("ann")[0].Size()
		for _, c := range []struct{ bytes, want int }{
			{1, 1}, {size - 1, 1}, {size, 1}, {size + 1, 2}, {2 * size, 2}, {3*size + 1, 4}, {4 * size, 4}, {0, 4},
			{math.MaxInt, 4},
		} {
			f.covers("ann", store.ReadOptions{Limit: 10, MaxBytes: c.bytes}, list[:c.want])
		}
		f.covers("ann", store.ReadOptions{Limit: 1, MaxBytes: 2 * size}, list[:1])
	}},
	{name: "page: holes are covered", check: func(f *fixture) {
		list := f.fill("ann", 6)
		f.void("ann", list[1], list[2], list[5])
		f.covers("ann", store.ReadOptions{Limit: 1}, list[:1])
		f.covers("ann", store.ReadOptions{Limit: 2}, []uint64{list[0], list[3]})
		f.covers("ann", store.ReadOptions{Limit: 3}, []uint64{list[0], list[3], list[4]})
		f.covers("ann", store.ReadOptions{After: list[1], Limit: 1}, list[3:4])
		f.covers("ann", store.ReadOptions{After: list[4], Limit: 1}, nil)
	}},
	{name: "page: below the trim and beyond the head", check: func(f *fixture) {
		list := f.fill("ann", 4)
		f.trim("ann", list[1], 10)
		f.covers("ann", store.ReadOptions{Limit: 10}, list[2:])
		f.covers("ann", store.ReadOptions{After: list[3], Limit: 10}, nil)
		f.covers("ann", store.ReadOptions{After: list[3] + 1000, Limit: 10}, nil)
		f.covers("ann", store.ReadOptions{After: math.MaxUint64, Limit: 10}, nil)
	}},
	{name: "page: limit 0 is the head alone", check: func(f *fixture) {
		list := f.fill("ann", 2)
		p := f.page("ann", store.ReadOptions{MaxBytes: 1000})
		require.Empty(f.t, p.Entries)
		require.Equal(f.t, list[1], p.Head.Seq)
		require.Less(f.t, p.Through, list[0], "covers an entry that it does not hold")
	}},
	{name: "page: without bodies", check: func(f *fixture) {
		f.fill("ann", 2)
		want := f.all("ann")
		for i := range want {
			want[i].Payload = nil
		}
		p := f.page("ann", store.ReadOptions{Limit: 10, NoBodies: true})
		require.Equal(f.t, want, normalised(p.Entries))
	}},
	{name: "page: in memory of the caller", check: func(f *fixture) {
		f.fill("ann", 4)
		want := f.all("ann")
		for _, room := range []int{0, 1, 3, 9} {
			into := make([]event.Entry, room)
			for i := range into {
				into[i] = event.Entry{
					ID: "junk", Seq: 99, Payload: []byte("junk"), Key: "junk", ClientID: "junk", Origin: "junk", Ordinal: 9,
					Flags: event.FlagHigh, Targets: []event.Incarnation{9}, Expires: time.UnixMilli(9),
				}
			}
			p := f.page("ann", store.ReadOptions{Limit: 3, Into: into})
			require.Equal(f.t, want[:3], normalised(p.Entries), "room for %d", room)
			kept := slices.Clone(p.Entries)
			rest := f.page("ann", store.ReadOptions{Limit: 3, After: p.Through})
			require.Equal(f.t, want[3:], normalised(rest.Entries))
			require.Equal(f.t, kept, p.Entries, "the store writes to what it was lent before")
			for _, e := range f.page("ann", store.ReadOptions{Limit: 3, NoBodies: true, Into: p.Entries}).Entries {
				require.Empty(f.t, e.Payload)
			}
			none := f.page("ann", store.ReadOptions{Limit: 3, After: p.Head.Seq, Into: p.Entries})
			require.Empty(f.t, none.Entries)
		}
	}},
	{name: "page: what is known to be there is there", check: func(f *fixture) {
		for range 20 {
			seq := f.send("ann", "ann").To[0].Seq
			p := f.page("ann", store.ReadOptions{After: seq - 1, Limit: 10, Known: seq})
			require.Equal(f.t, []uint64{seq}, seqs(p.Entries))
		}
	}},
	{name: "page: to know more or less than there is does no harm", check: func(f *fixture) {
		list := f.fill("ann", 2)
		f.covers("ann", store.ReadOptions{Limit: 10, Known: list[0]}, list)
		require.Equal(f.t, list[1], f.page("ann", store.ReadOptions{Known: list[0]}).Head.Seq)
		f.covers("ann", store.ReadOptions{Limit: 10, Known: list[1] + 5}, list)
		require.Zero(f.t, f.page("bob", store.ReadOptions{Limit: 10, Known: 5}).Head.Seq)
	}},
	{name: "page: of one account alone", check: func(f *fixture) {
		names := []event.Account{"a", "aa", "a/b", "ab", "b", "\u00e9", "A"}
		for i, a := range names {
			f.fill(a, i+1)
		}
		for i, a := range names {
			require.Len(f.t, f.all(a), i+1)
		}
	}},
}

// covers checks a page: it holds exactly the entries with the given numbers, and says how far it covers.
func (f *fixture) covers(account event.Account, o store.ReadOptions, want []uint64) {
	f.t.Helper()
	p := f.page(account, o)
	require.Equal(f.t, append([]uint64{}, want...), append([]uint64{}, seqs(p.Entries)...), "%+v", o)
	last := o.After
	if len(want) != 0 {
		last = want[len(want)-1]
	}
	rest := f.page(account, store.ReadOptions{After: last, Limit: 1})
	if len(rest.Entries) != 0 {
		require.Equal(f.t, last, p.Through, "%+v: a page that was cut short ends at its last entry", o)
		return
	}
	require.GreaterOrEqual(f.t, p.Through, p.Head.Seq, "%+v: a page that was not cut short covers all", o)
}

var removalRules = []rule{
	{name: "trim: oldest first, at most so many", check: func(f *fixture) {
		list := f.fill("ann", 6)
		h := f.trim("ann", list[4], 2)
		require.Equal(f.t, list[2:], seqs(f.all("ann")))
		require.GreaterOrEqual(f.t, h.Trim, list[1])
		require.Less(f.t, h.Trim, list[2])
		f.trim("ann", list[4], 2)
		require.Equal(f.t, list[4:], seqs(f.all("ann")))
		h = f.trim("ann", list[4], 2)
		require.Equal(f.t, list[4], h.Trim)
		require.Equal(f.t, list[5:], seqs(f.all("ann")))
		require.Equal(f.t, h, f.trim("ann", list[2], 2), "trim does not go back")
	}},
	{name: "trim: a slice as large as the rest is complete", check: func(f *fixture) {
		list := f.fill("ann", 4)
		h := f.trim("ann", list[1], 2)
		require.GreaterOrEqual(f.t, h.Trim, list[1])
		require.Equal(f.t, list[2:], seqs(f.all("ann")))
	}},
	{name: "trim: holes do not count for the limit", check: func(f *fixture) {
		list := f.fill("ann", 5)
		f.void("ann", list[1], list[2])
		h := f.trim("ann", list[3], 2)
		require.GreaterOrEqual(f.t, h.Trim, list[3])
		require.Equal(f.t, list[4:], seqs(f.all("ann")))
	}},
	{name: "trim: in slices of any size", check: func(f *fixture) {
		var list []uint64
		for range 5 {
			list = append(list, f.fill("ann", 500)...)
		}
		gone := 0
		for _, limit := range []int{1, 63, 511, 1, 1025, 700} {
			h := f.trim("ann", list[len(list)-2], limit)
			gone = min(gone+limit, len(list)-1)
			require.GreaterOrEqual(f.t, h.Trim, list[gone-1], "limit %d", limit)
			require.Less(f.t, h.Trim, list[gone], "limit %d", limit)
			require.Equal(f.t, len(list)-gone, h.Entries, "limit %d", limit)
			f.covers("ann", store.ReadOptions{Limit: 1}, list[gone:gone+1])
			f.covers("ann", store.ReadOptions{Limit: len(list)}, list[gone:])
		}
	}},
	{name: "trim: never beyond the head", check: func(f *fixture) {
		list := f.fill("ann", 3)
		h := f.trim("ann", math.MaxUint64, 10)
		require.Equal(f.t, list[2], h.Trim)
		require.Equal(f.t, list[2], h.Seq)
		require.Greater(f.t, f.fill("ann", 1)[0], list[2])
		require.Len(f.t, f.all("ann"), 1)
	}},
	{name: "trim: of an inbox that was never written", check: func(f *fixture) {
		h := f.trim("ann", 100, 10)
		require.Zero(f.t, h.Trim)
		require.Zero(f.t, h.Seq)
		require.Empty(f.t, f.accounts(10))
	}},
	{name: "trim: over holes and keyed entries", check: func(f *fixture) {
		list := f.fill("ann", 3)
		m := f.message("ann", "ann")
		m.Key = "k"
		f.commit(f.batch("ann", m))
		f.void("ann", list[0], list[1])
		h := f.trim("ann", list[1], 1)
		require.Equal(f.t, list[1], h.Trim)
		require.Len(f.t, f.all("ann"), 2)
		h = f.trim("ann", math.MaxUint64, 10)
		require.Equal(f.t, h.Seq, h.Trim)
		require.Empty(f.t, f.all("ann"))
		f.gone(m.ID)
	}},
	{name: "void: single entries, others are skipped", check: func(f *fixture) {
		list := f.fill("ann", 4)
		h := f.void("ann", list[2], list[0], list[2], list[3]+7, 0)
		require.Equal(f.t, []uint64{list[1], list[3]}, seqs(f.all("ann")))
		require.Equal(f.t, 2, h.Entries)
		require.Zero(f.t, h.Trim)
		require.Equal(f.t, h, f.void("ann", list[0]))
		require.Equal(f.t, h, f.void("ann"))
		require.Zero(f.t, f.void("bob", 1).Seq)
	}},
	{name: "void: what is left is as it was, of many as of few", check: func(f *fixture) {
		var all []uint64
		for range 3 {
			b := f.batch("ann")
			for i := range 400 {
				m := f.message("ann", "ann")
				if i%2 == 0 {
					m.To[0].Targets = []event.Incarnation{7}
				}
				b.Messages = append(b.Messages, m)
			}
			for _, placed := range f.commit(b).Messages {
				all = append(all, placed.To[0].Seq)
			}
		}
		left := []uint64{all[0], all[1], all[600], all[601], all[1199]}
		before := f.all("ann")
		f.void("ann", slices.DeleteFunc(slices.Clone(all), func(seq uint64) bool { return slices.Contains(left, seq) })...)
		got := f.all("ann")
		require.Equal(f.t, []event.Entry{before[0], before[1], before[600], before[601], before[1199]}, got)
	}},
	{name: "void: of one inbox alone", check: func(f *fixture) {
		p := f.send("ann", "ann", "bob")
		f.void("bob", p.To[1].Seq)
		require.Len(f.t, f.all("ann"), 1)
		require.Empty(f.t, f.all("bob"))
		require.Equal(f.t, p.To[1].Seq, f.head("bob").Seq)
	}},
}
