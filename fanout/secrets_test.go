package fanout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store/storetest"
)

// TestI24_D4_NothingSecretIsTold makes everything happen that is logged or told, and looks for payloads and tokens.
func TestI24_D4_NothingSecretIsTold(t *testing.T) {
	const secret = "the-canary"
	overStores(t, fanout.Config{KeepMinimum: -1, AckWait: 2 * time.Second, TrimInterval: 50 * time.Millisecond, CursorFlush: 50 * time.Millisecond}, func(w *world) {
		var log syncBuffer
		w.stop()
		w.fcfg.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		w.scfg.Logger = w.fcfg.Logger
		w.fcfg.OnPoison = func(_ context.Context, p fanout.Poison) { fmt.Fprintf(&log, "%+v\n", p); panic("hook") }
		w.openStore()
		w.start()
		sub, err := w.r.Subscribe(10_000)
		require.NoError(w.t, err)
		d := w.ready("ann", "a1")[0]
		f := w.fragile("ann", "a2", secret)
		tokens := []event.ResumeToken{d.Token(), f.token}
		w.host("bob", secret, "ann")
		for range 5 {
			require.True(w.t, f.connect())
		}
		at := w.seqOf("ann", secret)
		require.NoError(w.t, w.r.Park(context.Background(), "ann", "a2", at))
		d.acked()
		for _, m := range []storetest.Method{storetest.Commit, storetest.SaveCursors, storetest.Trim, storetest.Read, storetest.Cursors} {
			remove := w.st.Inject(storetest.Fault{Method: m, Times: -1, Err: errAway})
			_, _ = w.r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: []byte(secret)})
			_, _ = w.r.Attach(context.Background(), fanout.AttachRequest{Account: "ann", Login: f.login, Token: f.token}, &inlet{done: make(chan struct{})})
			time.Sleep(120 * time.Millisecond)
			remove()
		}
		_, err = w.r.Attach(context.Background(), fanout.AttachRequest{Account: "ann", Login: f.login, Token: event.ResumeTokenOf(f.token.Reveal() + "x")}, &inlet{done: make(chan struct{})})
		fmt.Fprintln(&log, err)
		w.until("all kinds", func() bool {
			s := w.r.Stats()
			return s.Poison > 0 && s.TrimFailures > 0 && s.FlushFailures > 0 && s.Refused > 0
		})
		sub.Close()
		for e := range sub.All(context.Background()) {
			fmt.Fprintf(&log, "%+v %v\n", e, e.Err)
		}
		raw, err := json.Marshal(w.r.Stats())
		require.NoError(w.t, err)
		in, err := w.r.Inspect(context.Background(), "ann", fanout.InspectOptions{})
		require.NoError(w.t, err)
		picture, err := json.Marshal(in)
		require.NoError(w.t, err)
		text := log.String() + string(raw) + string(picture)
		for _, word := range []string{"keeps losing", "could not be trimmed", "cursors or receipts", "fanout: entry parked", "panicked", "trim_failed"} {
			require.Contains(w.t, text, word, "or the test proves nothing")
		}
		require.NotContains(w.t, text, secret)
		for _, token := range tokens {
			require.NotContains(w.t, text, token.Reveal())
		}
	})
}

// syncBuffer is a buffer for several writers.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
