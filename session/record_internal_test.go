package session

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store/memstore"
)

// fullRecord has everything that a record can have.
func fullRecord() *record {
	r := &record{
		Admissions: 300, Pace: 1_700_000_000_123,
		Logins: []login{
			{ID: "plain", Device: "d1", Incarnation: 5, Platform: "ios", Admission: 299, At: 1, Seen: 2, Token: digest{1}, TokenAt: 3},
			{
				ID: "full", Device: "d2", Incarnation: math.MaxUint64, Platform: "web", Admission: 300, At: -4, Seen: 5, Slot: true,
				Primary: true, Node: "n", Lease: 6, Left: 7, Moves: 3, MovedAt: -19, Token: digest{2}, TokenAt: 8, TokenStore: math.MaxUint32,
				Nonce: &nonce{10}, Issued: &issued{Token: digest{3}, Nonce: nonce{11}, Store: 12},
				Before: []event.NodeID{"m", "o"}, Moved: 20, Replaced: "first...second..", DescribedAt: 13, Description: Description{
					Name: "Ann's <phone>", Model: "m", OS: "o", AppVersion: "v", IP: "::1", Extension: []byte{0, 255},
				},
			},
		},
		Devices: []device{
			{ID: "d1", Incarnation: 5, First: 10, Seen: 11},
			{ID: "d2", Incarnation: 6, Primary: true, Parked: &parked{Epoch: 1 << 40, Seqs: []uint64{1, 1 << 50}}},
		},
		Evictions: []eviction{{By: 1, Of: 1 << 63, Time: 12, Swap: true}, {By: 2, Of: 1, Time: -13, Swap: true, Told: true}},
		Ban:       &ban{At: 14, Until: 15, Reason: event.Banned, Note: "why"},
	}
	for _, l := range []recent{
		{Login: "plain", Device: "d1", Platform: "ios", At: 16},
		{Login: "gone", Device: "d3", Platform: "mac", Name: "n", IP: "::2", Reason: event.EvictedQuota, At: 17},
	} {
		r.note(l)
	}
	for _, t := range []tombstone{
		{Login: "gone", Device: "gone", Tokens: "current.", Closed: closedRecord{Reason: event.Replaced, Retry: event.RetryNo}, Until: 18},
		{Login: "kicked", Device: "d2", Tokens: "current.issued..replaced", Node: "n", Until: -19, Served: []event.NodeID{"m", "n"}, At: 21, Closed: closedRecord{
			Reason: event.KickedSelf, Note: "bye", Retry: event.RetryLogin,
			Cause: &event.Cause{Login: "full", Device: "d2", Platform: "web", Name: "Ann's"},
		}},
	} {
		r.Tombstones.add(t.append(nil))
	}
	return r
}

// TestRecord_RoundTrip: all that a record says is there again when it was stored and loaded.
func TestRecord_RoundTrip(t *testing.T) {
	want := fullRecord()
	data := want.encode()
	got, err := decodeRecord(data)
	require.NoError(t, err)
	require.Equal(t, unpack(&want.Recent, (*decoder).recent), unpack(&got.Recent, (*decoder).recent))
	require.Equal(t, unpack(&want.Tombstones, (*decoder).tombstone), unpack(&got.Tombstones, (*decoder).tombstone))
	require.Equal(t, event.KickedSelf, got.tombstone("kicked").Closed.Reason)
	require.Nil(t, got.tombstone("full"))
	for _, r := range []*record{want, got} {
		r.Recent, r.Tombstones, r.size = packed{}, packed{}, 0
	}
	require.Equal(t, want, got)
	for n := range data {
		if _, err := decodeRecord(data[:n]); n > 0 {
			require.Error(t, err, "the first %d bytes of %d", n, len(data))
		}
	}
}

// TestPacked: lists lose their oldest items first, those that were loaded like those that were added.
func TestPacked(t *testing.T) {
	texts := func(p *packed) string {
		var all []string
		for item := range p.all() {
			all = append(all, string(item))
		}
		require.Len(t, all, p.count)
		return strings.Join(all, " ")
	}
	var first packed
	for _, s := range []string{"a", "", "ccc"} {
		first.add([]byte(s))
	}
	var p packed
	rest, ok := p.open(append(first.append(nil), "rest"...))
	require.True(t, ok)
	require.Equal(t, "rest", string(rest))
	p.add([]byte("d"))
	p.add([]byte("e"))
	require.Equal(t, "a  ccc d e", texts(&p))
	require.False(t, p.drop(func(item []byte) bool { return string(item) == "x" }))
	p.limit(9)
	p.limit(4)
	require.Equal(t, " ccc d e", texts(&p))
	require.True(t, p.drop(func(item []byte) bool { return string(item) == "ccc" || string(item) == "d" }))
	require.Equal(t, " e", texts(&p))
	p.limit(1)
	require.Equal(t, "e", texts(&p))
	p.limit(0)
	require.Empty(t, texts(&p))
	require.Equal(t, "a  ccc", texts(&first))
}

// FuzzRecord checks that no account record, of this release or not, makes the decoder panic, and that what it accepts is
// written in one way.
func FuzzRecord(f *testing.F) {
	full := fullRecord().encode()
	for _, s := range []string{
		"", "{}", `{"v":1}`, "\x01", "\x02", "\x03", string((&record{}).encode()), string(full), string(full[:len(full)/2]),
		string(full) + "x", string((&record{Ban: &ban{Reason: "x"}}).encode()), string((&record{Logins: []login{{}}}).encode()),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			require.Nil(t, r)
			return
		}
		first := r.encode()
		again, err := decodeRecord(first)
		require.NoError(t, err)
		require.Equal(t, string(first), string(again.encode()))
		r.tombstone("l")
		r.prune(func(until int64) bool { return until <= 0 })
		_, err = decodeRecord(r.encode())
		require.NoError(t, err)
		small, ok := r.fit(len(first) / 2)
		require.True(t, !ok || len(small) <= len(first)/2)
		_, err = decodeRecord(small)
		require.NoError(t, err)
	})
}

// FuzzNodeMessage checks that whatever comes over the bus is answered or dropped.
func FuzzNodeMessage(f *testing.F) {
	for _, s := range []string{"", "{}", `{"look":"ann"}`, `{"look":""}`, `{"look":5}`, `{"look":"\u0000"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		st := memstore.New(memstore.Config{})
		reg, err := New(st, Config{})
		require.NoError(t, err)
		defer func() { require.NoError(t, reg.Close(context.Background())) }()
		if answer := (&nodes{r: reg}).handle(raw); answer != nil {
			require.Equal(t, "{}", string(answer))
		}
	})
}
