package counted_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/internal/counted"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/memstore"
	"github.com/manydevice/manydevice/store/storetest"
)

// What a store says about a call is no failure, and neither is a caller that went away. A call without an answer is one.
func TestStore_Counts(t *testing.T) {
	for _, tt := range []struct {
		err                 error
		failures, conflicts uint64
	}{
		{err: nil},
		{err: context.Canceled},
		{err: store.ErrNotFound},
		{err: store.ErrMismatch},
		{err: store.ErrWindowFull},
		{err: store.ErrConflict, conflicts: 1},
		{err: context.DeadlineExceeded, failures: 1},
		{err: store.ErrFull, failures: 1},
		{err: store.ErrUnknownOutcome, failures: 1},
		{err: errors.New("network is down"), failures: 1},
	} {
		t.Run(fmt.Sprint(tt.err), func(t *testing.T) {
			inner := storetest.WithFaults(memstore.New(memstore.Config{}))
			defer inner.Close(context.Background())
			var c counted.Counters
			if tt.err != nil {
				inner.Inject(storetest.Fault{Method: storetest.Load, Err: fmt.Errorf("load: %w", tt.err)})
			}
			_, err := counted.Store{Store: inner, Counters: &c}.Load(t.Context(), "ann")
			require.ErrorIs(t, err, tt.err)
			require.Equal(t, tt.failures, c.Failures.Load())
			require.Equal(t, tt.conflicts, c.Conflicts.Load())
		})
	}
}
