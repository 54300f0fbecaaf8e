package fanout_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/store"
)

// late is a store whose next page of entries is late: what it calls meanwhile is not in the page any more.
type late struct {
	store.Store
	meanwhile chan func()
}

func (l *late) Read(ctx context.Context, a event.Account, o store.ReadOptions) (store.Page, error) {
	page, err := l.Store.Read(ctx, a, o)
	if o.Limit > 0 {
		select {
		case f := <-l.meanwhile:
			f()
		default:
		}
	}
	return page, err
}

// TestI8_DoorbellWhileNothingWasThere: a reader that was called too early finds nothing, and does not miss what arrives
// before it says so.
func TestI8_DoorbellWhileNothingWasThere(t *testing.T) {
	for name, ahead := range map[string]uint64{"the very entry": 1, "an entry below": 2} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, fanout.Config{}, func(w *world) {
				l := &late{Store: w.inner, meanwhile: make(chan func(), 1)}
				w.inner = l
				w.restart()
				d := w.ready("ann", "a1")[0]
				var err error
				l.meanwhile <- func() {
					_, err = w.r.Send(context.Background(), fanout.SendRequest{
						From: "bob", To: []event.Account{"ann"}, Conversation: "c1", Payload: []byte("late"),
					})
				}
				head := w.head("ann")
				w.r.Ring("ann", event.Position{Epoch: head.Epoch, Seq: head.Seq + ahead})
				w.until("it arrives", func() bool { return len(d.texts()) == 1 })
				require.NoError(w.t, err)
				require.Equal(w.t, []string{"late"}, d.texts())
			})
		})
	}
}
