package rows_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/bench/internal/lab"
	"github.com/manydevice/manydevice/bench/internal/ours"
	"github.com/manydevice/manydevice/bench/internal/pebble"
	"github.com/manydevice/manydevice/bench/internal/raw"
	"github.com/manydevice/manydevice/bench/internal/rows"
	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
)

func scene(t *testing.T) *lab.Scene {
	r, err := lab.NewRunner(lab.Smoke(), t.TempDir())
	require.NoError(t, err)
	s := r.Scene(t.Context())
	t.Cleanup(func() { require.NoError(t, errors.Join(s.Close(), r.Close())) })
	return s
}

// references are all that do the work.
var references = []struct {
	name string
	open func(s *lab.Scene) (rows.Sender, error)
}{
	{"pebble, a batch per send", func(s *lab.Scene) (rows.Sender, error) {
		db, err := pebble.Open(s, pebble.Options{Memory: 1 << 20})
		return pebble.NewBatches(db), err
	}},
	{"pebble, one committer", func(s *lab.Scene) (rows.Sender, error) {
		db, err := pebble.Open(s, pebble.Options{Memory: 1 << 20})
		return pebble.NewCommitter(db), err
	}},
	{"keys ordered by account", func(s *lab.Scene) (rows.Sender, error) { return raw.NewOrdered(s) }},
	{"sequential puts", func(s *lab.Scene) (rows.Sender, error) { return raw.NewSequenceLog(s) }},
	{"file", func(s *lab.Scene) (rows.Sender, error) { return raw.NewFileLog(s) }},
}

// TestSend_IsWhatTheLibraryDoes runs one random history on a reference and on the library.
func TestSend_IsWhatTheLibraryDoes(t *testing.T) {
	for _, r := range references {
		t.Run(r.name, func(t *testing.T) {
			s := scene(t)
			reference, err := r.open(s)
			require.NoError(t, err)
			cfg, err := ours.Config()
			require.NoError(t, err)
			e, err := ours.File(s, cfg)
			require.NoError(t, err)
			seed := rand.Uint64()
			t.Log("seed", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			const accounts, ids, conversations = 4, 40, 3
			var repeated, refused int
			for n := range uint64(400) {
				from := random.IntN(accounts)
				to := (from + 1 + random.IntN(accounts-1)) % accounts
				id := strconv.Itoa(random.IntN(ids))
				c := "c" + strconv.Itoa(random.IntN(conversations))
				payload := fmt.Appendf(nil, "%0*d", random.IntN(600), 0)
				if random.IntN(2) == 0 { // or it is hardly ever the same message
					to, c, payload = from^1, "c0", []byte("again")
				}
				got, gotErr := reference.Send(rows.New(name(from), name(to), c, id, payload, n+1))
				want, wantErr := e.Router.Send(t.Context(), fanout.SendRequest{
					From: ours.Account(from), To: []event.Account{ours.Account(to)}, Conversation: event.ConversationID(c),
					ClientID: event.ClientMessageID(id), Payload: payload, Receipts: fanout.ReceiptsOff,
				})
				if wantErr != nil {
					require.ErrorIs(t, wantErr, store.ErrMismatch)
					require.ErrorIs(t, gotErr, rows.ErrMismatch)
					refused++
					continue
				}
				require.NoError(t, gotErr)
				require.Equal(t, want.Duplicate, got.Duplicate)
				require.Equal(t, want.Position.Seq, got.Seq)
				if got.Duplicate {
					require.LessOrEqual(t, got.Number, n)
					repeated++
				} else {
					require.Equal(t, n+1, got.Number)
				}
			}
			require.Positive(t, repeated)
			require.Positive(t, refused)
			for i := range accounts {
				sameInbox(t, e, reference, i)
			}
		})
	}
}

func name(i int) string { return string(ours.Account(i)) }

func sameInbox(t *testing.T, e *ours.Engine, reference rows.Sender, i int) {
	page, err := e.Store.Read(t.Context(), ours.Account(i), store.ReadOptions{Limit: 1000})
	require.NoError(t, err)
	head, err := reference.Head(name(i))
	require.NoError(t, err)
	var size uint64
	for _, entry := range page.Entries {
		size += uint64(len(entry.Payload))
	}
	require.Equal(t, []uint64{page.Head.Seq, uint64(page.Head.Entries), size}, []uint64{head.Seq, head.Entries, head.Bytes})
	unread, err := e.Router.Unread(t.Context(), ours.Account(i), "")
	require.NoError(t, err)
	require.NotEmpty(t, unread.Conversations)
	for _, c := range unread.Conversations {
		n, err := reference.Count(name(i), string(c.Conversation))
		require.NoError(t, err)
		require.Equal(t, c.Count, n, c.Conversation)
	}
}

// TestSend_ManyAtOnce has many send between few accounts, each message twice: no number is given twice, and none is left out.
func TestSend_ManyAtOnce(t *testing.T) {
	for _, r := range references {
		t.Run(r.name, func(t *testing.T) {
			reference, err := r.open(scene(t))
			require.NoError(t, err)
			const accounts, senders, each = 4, 16, 50
			require.NoError(t, rows.Fill(reference, accounts, name, func() uint64 { return 1 }))
			before, err := reference.Head(name(0))
			require.NoError(t, err)
			require.Equal(t, uint64(1), before.Seq, "an entry each")
			var mu sync.Mutex
			seen := make(map[string]bool)
			repeated := 0
			var wg sync.WaitGroup
			for w := range senders {
				wg.Go(func() {
					for i := range each {
						n := uint64(w/2*each + i + 2) // two senders have the same messages
						from := int(n) % accounts
						res, err := reference.Send(rows.New(name(from), name(from^1), "c", strconv.FormatUint(n, 36), []byte("x"), n))
						mu.Lock()
						if err != nil {
							t.Error(err)
						}
						place := fmt.Sprint(from, res.Seq)
						if res.Duplicate {
							repeated++
						} else {
							if seen[place] {
								t.Errorf("%s is given twice", place)
							}
							seen[place] = true
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			const sent = senders / 2 * each
			require.Equal(t, sent, repeated)
			var all, counted, attempts uint64
			for i := range accounts {
				h, err := reference.Head(name(i))
				require.NoError(t, err)
				require.Equal(t, h.Seq, h.Entries)
				n, err := reference.Count(name(i), "c")
				require.NoError(t, err)
				all, counted, attempts = all+h.Seq, counted+n, attempts+h.Attempts
			}
			require.Equal(t, []uint64{accounts + 2*sent, sent, accounts/2 + sent}, []uint64{all, counted, attempts})
		})
	}
}
