package boltstore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/manydevice/manydevice/event"
)

// What folds tells of windows is never a false no, and exact for the last 63.
func TestFoldsKnowWindows(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var f folds
		in := map[uint64]bool{}
		last := uint64(0)
		for range 1 + rnd.IntN(40) {
			last += 1 + rnd.Uint64N([]uint64{1, 3, 40, 200}[rnd.IntN(4)])
			f.add(last)
			if rnd.IntN(3) == 0 {
				f.add(last)
			}
			in[last] = true
		}
		for first := uint64(1); first < last+5; first++ {
			w := window{first: first, last: first + rnd.Uint64N(70)}
			want := false
			for n := w.first; n <= w.last; n++ {
				want = want || in[n]
			}
			if want || w.first+olderFolds > last {
				require.Equal(t, want, f.in(w), "%+v, %v", w, in)
			}
		}
		all := folds{last: math.MaxUint64, bits: math.MaxUint64}
		require.True(t, all.in(window{first: 1, last: 1}))
	}
}

// A layer answers as a map would, also for busy accounts, names with the same hash, and readers that look at what was
// there before.
func TestLayerKeepsWhatIsPublished(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	l := newLayer(1, 1)
	type have struct {
		rows    map[string]string
		entries []logged
		head    head
	}
	want := map[uint64]*have{}
	before := map[uint64]memory{}
	counts := map[uint64]int{}
	var scratch []byte
	for n := range 3000 {
		aid := 1 + rnd.Uint64N(20)
		if n%2 == 0 {
			aid = 1 // a busy one
		}
		w := want[aid]
		if w == nil {
			w = &have{rows: map[string]string{}}
			want[aid] = w
		}
		d := &delta{aid: aid, head: w.head}
		for range rnd.IntN(3) {
			d.head.seq++
			e := logged{d.head.seq, strings.Repeat("x", rnd.IntN(300))}
			d.entries, w.entries = append(d.entries, e), append(w.entries, e)
		}
		for range rnd.IntN(3) {
			key := string([]byte{tagState, tagAttempt}[rnd.IntN(2)]) + fmt.Sprint(rnd.IntN(30))
			value := strings.Repeat("v", rnd.IntN(200))
			d.put(key, value)
			w.rows[key] = value
		}
		w.head = d.head
		scratch = l.publish(event.Account(fmt.Sprint("name", aid)), d, scratch)
		if s, i := l.of(aid); rnd.IntN(20) == 0 {
			before[aid], counts[aid] = l.memory(s, i, true), len(w.entries)
		}
	}
	require.True(t, l.seat(l.byAid[1]).busy)
	var d delta
	for aid, w := range want {
		number, ok := l.named(event.Account(fmt.Sprint("name", aid)))
		require.True(t, ok)
		require.Equal(t, aid, number)
		s, i := l.of(aid)
		require.Equal(t, w.head, s.head)
		m := l.memory(s, i, false)
		for k, v := range w.rows {
			got, ok := m.get(k)
			require.True(t, ok)
			require.Equal(t, v, got)
		}
		require.Equal(t, w.entries, m.part().entries)
		l.collect(&d, aid)
		require.Equal(t, w.entries, d.entries)
		require.Len(t, d.rows, len(w.rows))
		require.True(t, slices.IsSortedFunc(d.rows, func(a, b row) int { return strings.Compare(a.key, b.key) }))
		for _, r := range d.rows {
			require.Equal(t, w.rows[r.key], r.value)
		}
	}
	for aid, m := range before {
		require.Equal(t, want[aid].entries[:counts[aid]], m.part().entries)
	}
	_, ok := l.named("nobody")
	require.False(t, ok)
}

func TestLayerNamesWithTheSameHash(t *testing.T) {
	l := newLayer(1, 1)
	l.publish("ann", &delta{aid: 1}, nil)
	l.publish("bob", &delta{aid: 2}, nil)
	clear(l.byName)
	s, _ := l.of(1)
	for _, name := range []event.Account{"ann", "bob"} { // as if both had the hash of ann
		aid := map[event.Account]uint64{"ann": 1, "bob": 2}[name]
		l.byName = map[uint64]uint32{hashOf(l, name): l.byAid[1]}
		l.name(name, l.byAid[aid])
	}
	require.NotZero(t, s.name)
	l.byName = map[uint64]uint32{hashOf(l, "ann"): l.byAid[1]}
	for name, aid := range map[event.Account]uint64{"ann": 1, "bob": 2} {
		got, ok := l.named(name)
		require.True(t, ok)
		require.Equal(t, aid, got)
	}
}

func TestJournalRoundTrip(t *testing.T) {
	path := t.TempDir() + "/db"
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	rnd := rand.New(rand.NewPCG(8, 8))
	var want []*delta
	for range 40 {
		require.NoError(t, db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("j"))
			require.NoError(t, err)
			var r recordWriter
			r.begin()
			for range 1 + rnd.IntN(5) {
				d := &delta{aid: rnd.Uint64(), head: head{epoch: 1, seq: 100 + rnd.Uint64N(100)}, gone: rnd.IntN(2) == 0}
				if rnd.IntN(2) == 0 {
					d.name = "name"
				}
				for i := range rnd.IntN(4) {
					d.entries = append(d.entries, logged{d.head.seq - 5 + uint64(i), strings.Repeat("e", rnd.IntN(900))})
					d.put(fmt.Sprint("s", rnd.IntN(3)), strings.Repeat("v", rnd.IntN(3000)))
					d.put(fmt.Sprint("i", rnd.IntN(3)), "attempt")
				}
				r.add(d)
				want = append(want, d)
			}
			return r.write(b)
		}))
	}
	var got []*delta
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		return replay(tx.Bucket([]byte("j")), func(d *delta) { got = append(got, d) })
	}))
	require.Equal(t, want, got)
}

// A message to a group costs its payload once, and little for each member before it is folded.
func TestGroupMessageIsSmallForEachMember(t *testing.T) {
	const members = 10_000
	var r recordWriter
	r.begin()
	places := 0
	for i := range uint64(members) {
		d := &delta{aid: 1000 + i, head: head{epoch: 1, seq: 300 + i%500, trim: i % 300, entries: 200, bytes: 100_000, revision: 5, record: 5}}
		e := entry{mid: 5_000_000, flags: event.FlagUnread, ordinal: 30 + i%90, size: 512}
		d.entries = []logged{{d.head.seq, string(e.append(nil))}}
		d.put(countRow("group-conversation"), encodeCount(e.ordinal, nil))
		r.add(d)
		p := place{account: event.Account(fmt.Sprintf("user-%05d", i)), epoch: 1, seq: d.head.seq, ordinal: e.ordinal}
		places += len(p.append(nil))
	}
	each := float64(len(r.b)+places) / members
	t.Logf("%.1f bytes for each member: %.1f in the journal, %.1f for its place", each, float64(len(r.b))/members, float64(places)/members)
	require.LessOrEqual(t, each, 48.0)
}

// A filter has all that was added, and hardly anything else if it is not too small.
func TestFilterIsRightAboutWhatIsNotThere(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	f := newBloom(1000)
	var in []uint64
	for range 1000 {
		h := rnd.Uint64()
		f.add(h)
		in = append(in, h)
	}
	for _, h := range in {
		require.True(t, f.has(h))
	}
	wrong := 0
	for range 10_000 {
		if f.has(rnd.Uint64()) {
			wrong++
		}
	}
	require.Less(t, wrong, 200)
}
