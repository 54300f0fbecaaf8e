package fanout_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

// Acks come for every delivery. A host that makes them itself, a binary protocol's for example, pays no allocation for one: Handle
// does not keep the frame, and lets the compiler see that.
func TestHandle_AnAckCostsNoAllocation(t *testing.T) {
	w := newWorld(t, "", fanout.Config{TrimInterval: -1})
	s := &sink{caughtUp: make(chan struct{})}
	d := w.login("ann", "phone")
	att, err := w.r.Attach(context.Background(), fanout.AttachRequest{Account: "ann", Login: d.Login(), Token: d.Token()}, s)
	require.NoError(t, err)
	d.att = att
	<-s.caughtUp
	h := w.head("ann")
	p := event.Position{Epoch: h.Epoch, Seq: h.Seq}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := att.Handle(context.Background(), &event.Ack{Position: p}); err != nil {
			t.Error(err)
		}
	}))
}
