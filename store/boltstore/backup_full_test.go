package boltstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/boltstore"
)

// idleWriter takes a while for each Write, until it is let go.
type idleWriter struct {
	began, hurry chan struct{}
	once         sync.Once
	pause        time.Duration
}

func (w *idleWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.began) })
	select {
	case <-w.hurry:
	case <-time.After(w.pause):
	}
	return len(p), nil
}

// fullWithBackup fills a store and begins a backup that is slow.
func fullWithBackup(t *testing.T, pause time.Duration) (f *filler, w *idleWriter, over chan error) {
	s := open(t, filepath.Join(memoryDir(t), "store.db"), boltstore.Config{MaxSize: 16 << 20, Memory: 1 << 20})
	f = newFiller(s, func(*rand.Rand) int { return 3000 })
	_, _, err := f.until(t.Context(), 300*time.Millisecond)
	require.NoError(t, err)
	w = &idleWriter{began: make(chan struct{}), hurry: make(chan struct{}), pause: pause}
	over = make(chan error, 1)
	go func() {
		_, err := s.Backup(context.Background(), w)
		over <- err
	}()
	<-w.began
	return f, w, over
}

// Pages that a backup needs cannot be used again. In a store that is full it gives up before what ends something is refused.
func TestBackup_OfAFullStoreHoldsUpNoEnds(t *testing.T) {
	f, w, over := fullWithBackup(t, 5*time.Millisecond)
	ctx := t.Context()
	for i := range 10_000 {
		a := f.accounts[i%16]
		_, err := f.s.Commit(ctx, store.Batch{Account: a, Now: start, Reserve: true, States: []store.StateUpdate{
			{Conversation: event.ConversationID(fmt.Sprint("talk", i%1000)), Name: "read", Merge: store.MergeLast, Number: uint64(i)},
		}})
		require.NoError(t, err, "mark %d", i)
		if i%10 == 0 {
			_, err := f.s.Trim(ctx, a, 1<<60, 5)
			require.NoError(t, err, "trim %d", i)
		}
	}
	close(w.hurry)
	if err := <-over; err != nil {
		require.ErrorIs(t, err, store.ErrFull)
	}
}

// What was removed while a backup ran is room for sends once it is over, even if nothing else happens.
func TestBackup_SendsGoOnAfterIt(t *testing.T) {
	f, w, over := fullWithBackup(t, time.Minute)
	ctx := t.Context()
	for _, a := range f.accounts[:4] {
		_, err := f.s.Trim(ctx, a, 1<<60, 1<<30)
		require.NoError(t, err)
	}
	require.NoError(t, f.s.(*boltstore.Store).Compact(ctx))
	close(w.hurry)
	<-over
	waitFor(t, func() bool {
		_, err := f.s.Commit(ctx, f.batch(3000))
		return err == nil
	})
}
