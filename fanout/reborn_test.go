package fanout_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
	"github.com/manydevice/manydevice/store/storetest"
)

// What an account's devices got before it was deleted says nothing about the inbox that it has afterwards, also if the
// receipts for it were on their way and have to be tried again.
func TestI18_ReceiptsOfADeletedAccount(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.HoldAcks(true)
		w.host("bob", "x", "ann")
		w.fence("ann")
		proceed, reached := make(chan struct{}), make(chan struct{})
		w.st.Inject(storetest.Fault{
			Method: storetest.Commit, Account: "ann", Wait: proceed, Err: errAway, Reached: func() { close(reached) },
		})
		d.HoldAcks(false)
		<-reached
		_, err := w.reg.DeleteAccount(context.Background(), session.DeleteRequest{Account: "ann"})
		require.NoError(w.t, err)
		close(proceed)
		w.flush()
		page, err := w.inner.States(context.Background(), "ann", store.StateOptions{Limit: 64})
		require.NoError(w.t, err)
		require.Empty(w.t, page.States, "a watermark of the old inbox")
	})
}
