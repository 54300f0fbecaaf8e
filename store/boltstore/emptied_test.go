package boltstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// allRooms has these tests fill files and disks with payloads of all sizes. That takes minutes.
var allRooms = flag.Bool("boltstore.rooms", false, "tests of full files and disks go through all cases")

var roomBytes = flag.Int64("boltstore.room-bytes", 16<<20, "MaxSize of the stores that are filled, emptied and filled again")

// filler appends messages to some accounts in turn, each to two, until the store is full.
type filler struct {
	s        store.Store
	issuer   *event.Issuer
	accounts []event.Account
	size     func(rnd *rand.Rand) int
	rnd      *rand.Rand
	n        int
}

func newFiller(s store.Store, size func(*rand.Rand) int) *filler {
	f := &filler{s: s, issuer: event.NewIssuer(s.Info().IDKey), size: size, rnd: rand.New(rand.NewPCG(1, 1))}
	for i := range 16 {
		f.accounts = append(f.accounts, event.Account(fmt.Sprint("account", i)))
	}
	return f
}

// batch is the next message, of n bytes.
func (f *filler) batch(n int) store.Batch {
	from, to := f.accounts[f.n%len(f.accounts)], f.accounts[(f.n+1+f.n/len(f.accounts))%len(f.accounts)]
	f.n++
	payload := make([]byte, n)
	for i := range payload {
		payload[i] = byte(f.rnd.Uint32())
	}
	if from == to {
		return message(string(f.issuer.Issue()), payload, from)
	}
	return message(string(f.issuer.Issue()), payload, from, to)
}

// until appends until next to nothing is taken for a while, and returns how many bytes went in. Room may come back in the
// background, for the first message within some seconds.
func (f *filler) until(ctx context.Context, wait time.Duration) (bytes int64, messages int, err error) {
	before := 0 // messages when this while began
	for began := time.Now(); ; {
		if messages-before > messages/200 {
			began, before = time.Now(), messages
		}
		if since := time.Since(began); since > wait && (messages > 0 || since > 5*time.Second) {
			return bytes, messages, nil
		}
		b := f.batch(f.size(f.rnd))
		_, err := f.s.Commit(ctx, b)
		if err == nil {
			bytes += int64(len(b.Messages[0].Payload) + 64*len(b.Messages[0].To))
			messages++
			continue
		}
		if !errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrFailed) {
			return bytes, messages, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var fillSizes = []struct {
	name string
	size func(rnd *rand.Rand) int
}{
	{"100 B", func(*rand.Rand) int { return 100 }},
	{"5 kB", func(*rand.Rand) int { return 5000 }},
	{"mixed to 200 kB", func(rnd *rand.Rand) int {
		return []int{50, 1000, 5000, 40_000, 200_000}[rnd.IntN(5)] * (1 + rnd.IntN(100)) / 100
	}},
}

// TestRoom_K13_EmptiedTakesWhatItFirstTook fills a store, empties it, and fills it again, three times.
func TestRoom_K13_EmptiedTakesWhatItFirstTook(t *testing.T) {
	const rounds = 3
	most := *roomBytes
	empty := map[string]func(ctx context.Context, s store.Store, a event.Account) error{
		"trimmed": func(ctx context.Context, s store.Store, a event.Account) error {
			_, err := s.Trim(ctx, a, 1<<60, 1<<30)
			return err
		},
		"deleted": func(ctx context.Context, s store.Store, a event.Account) error { return s.Delete(ctx, a, 0) },
	}
	for _, size := range fillSizes {
		for _, how := range []string{"trimmed", "deleted"} {
			for _, reopened := range []bool{false, true} {
				if !*allRooms && (size.name != fillSizes[2].name || reopened != (how == "deleted")) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/reopened=%t", size.name, how, reopened), func(t *testing.T) {
					path := filepath.Join(memoryDir(t), "store.db")
					s := open(t, path, boltstore.Config{MaxSize: most})
					f := newFiller(s, size.size)
					wait := 300 * time.Millisecond
					if *allRooms {
						wait = 3 * time.Second
					}
					first, n, err := f.until(t.Context(), wait)
					require.NoError(t, err)
					total, err := filesSize(path)
					require.NoError(t, err)
					t.Logf("first: %d messages, %d %% of MaxSize; files %d %%", n, first*100/most, total*100/most)
					for round := range rounds {
						for _, a := range f.accounts {
							require.NoError(t, empty[how](t.Context(), s, a))
						}
						if reopened {
							closeStore(t, s)
							s = open(t, path, boltstore.Config{MaxSize: most})
							f.s = s
						}
						again, n, err := f.until(t.Context(), wait)
						require.NoError(t, err)
						t.Logf("round %d: %d messages, %d %% of the first", round, n, again*100/first)
						require.True(t, again*10 >= first*9, "an emptied store takes %d %%", again*100/first)
					}
				})
			}
		}
	}
}

// TestRoom_K13_CursorsKeepToMaxSize saves cursors of many devices in a full store, again and again. They are taken, and the
// file does not become longer than MaxSize.
func TestRoom_K13_CursorsKeepToMaxSize(t *testing.T) {
	const most, accounts, devices, rounds = 8 << 20, 300, 20, 10
	path := filepath.Join(memoryDir(t), "store.db")
	s := open(t, path, boltstore.Config{MaxSize: most})
	cursors := make([]store.Cursor, 0, accounts*devices)
	for i := range accounts {
		b := store.Batch{Account: event.Account(fmt.Sprint("many", i)), Now: start}
		for d := range event.Incarnation(devices) {
			b.Begin = append(b.Begin, store.Begin{Incarnation: d + 1})
			cursors = append(cursors, store.Cursor{Account: b.Account, Incarnation: d + 1})
		}
		_, err := s.Commit(t.Context(), b)
		require.NoError(t, err)
	}
	_, _, err := newFiller(s, fillSizes[0].size).until(t.Context(), 500*time.Millisecond)
	require.NoError(t, err)
	refused := 0
	for round := range rounds {
		for i := range cursors {
			cursors[i].Seq, cursors[i].Sent = uint64(round), uint64(round)
		}
		for i := 0; i < len(cursors); i += 100 {
			err := s.SaveCursors(t.Context(), cursors[i:i+100])
			if errors.Is(err, store.ErrFull) {
				refused++
				continue
			}
			require.NoError(t, err)
		}
	}
	require.True(t, refused == 0, "%d of %d SaveCursors were refused", refused, rounds*len(cursors)/100)
	st, err := os.Stat(path)
	require.NoError(t, err)
	t.Logf("the file has %d %% of MaxSize", st.Size()*100/most)
	require.True(t, st.Size() <= most, "the file has %d %% of MaxSize", st.Size()*100/most)
	total, err := filesSize(path)
	require.NoError(t, err)
	t.Logf("all files have %d %%", total*100/most)
}
