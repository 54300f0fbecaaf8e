package fanout_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// simpleHistory is a random history of two devices of one account, whose connections, processes and engine die all the time.
type simpleHistory struct {
	w       *world
	rnd     *rand.Rand
	devices []*device
	saved   []transporttest.Saved // what each device had on disk a while ago
	dead    []*transporttest.Pair // by device: the connection whose network is gone
	sent    int
	want    [][]string // by device: all that it must apply, in order
}

func runHistory(w *world, seed uint64, steps int) {
	h := &simpleHistory{w: w, rnd: rand.New(rand.NewPCG(seed, 1))}
	for _, id := range []event.DeviceID{"a1", "a2"} {
		d := w.login("ann", id)
		h.devices = append(h.devices, d)
		h.saved = append(h.saved, d.Save())
	}
	h.want, h.dead = make([][]string, len(h.devices)), make([]*transporttest.Pair, len(h.devices))
	for range steps {
		h.step()
	}
	for _, d := range h.devices {
		d.HoldAcks(false)
		d.drop()
		d.online()
	}
	w.fence("ann")
	for i, d := range h.devices {
		require.Equal(w.t, h.want[i], d.texts(), "I10: seed %d: %s", seed, d.id)
		require.Empty(w.t, d.Resets(), "seed %d", seed)
		d.acked()
	}
	w.flush()
	for _, d := range h.devices {
		require.Equal(w.t, w.head("ann").Seq, w.cursor(d).Seq, "I9: seed %d", seed)
	}
	require.Equal(w.t, h.devices[0].read("c1", event.StateRead), h.devices[1].read("c1", event.StateRead), "I17: seed %d", seed)
}

func (h *simpleHistory) step() {
	i := h.rnd.IntN(len(h.devices))
	d := h.devices[i]
	switch n := h.rnd.IntN(100); {
	case n < 35:
		h.send(nil)
	case n < 50:
		h.send(d)
	case n < 55:
		h.markRead()
	case n < 70:
		if !d.Connected() {
			d.pairCfg.MaxFrames = h.rnd.IntN(3)
			h.saved[i] = d.Save() // what it claims is saved
			d.start()
		}
	case n < 76:
		d.drop()
	case n < 80:
		d.cut()
	case n < 84:
		if d.pair != nil && d.pair != h.dead[i] {
			h.dead[i] = d.pair
			d.pair.DropAfter(h.rnd.IntN(4)) // the network is gone, and nobody knows it yet
		}
	case n < 87:
		d.HoldAcks(h.rnd.IntN(2) == 0)
	case n < 90:
		h.saved[i] = d.Save()
	case n < 93:
		h.lose(i)
	case n < 94:
		h.w.crash()
	case n < 95:
		h.w.restart()
	case n < 97:
		h.w.flush()
	default:
		if h.w.path == "" {
			time.Sleep(time.Duration(h.rnd.IntN(8)) * time.Second)
			synctest.Wait()
		}
	}
}

// lose has the device's process die with all that was not saved. Its acks went out after saving, so that only what it
// did not acknowledge may be lost.
func (h *simpleHistory) lose(i int) {
	d := h.devices[i]
	d.drop()
	for _, f := range d.Sent() {
		if a, ok := f.(*event.Ack); ok && (h.saved[i].State.Position == nil || a.Position.Seq > h.saved[i].State.Position.Seq) {
			h.saved[i] = d.Save() // it had saved more
			break
		}
	}
	d.Restore(h.saved[i])
}

// send has bob, or one of the devices, send something to ann.
func (h *simpleHistory) send(from *device) {
	h.sent++
	q := fanout.SendRequest{From: "bob", ClientID: clientID(), Conversation: "c1", To: []event.Account{"ann"}, Payload: fmt.Append(nil, h.sent)}
	if from != nil {
		q.From, q.Origin = "ann", from.Login()
	}
	for i, d := range h.devices {
		if d != from {
			h.want[i] = append(h.want[i], string(q.Payload))
		}
	}
	h.w.post(q)
	if h.rnd.IntN(4) == 0 {
		require.True(h.w.t, h.w.post(q).Duplicate)
	}
}

func (h *simpleHistory) markRead() {
	if seq := h.w.head("ann").Seq; seq > 0 {
		_, err := h.w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: 1 + h.rnd.Uint64N(seq)})
		require.NoError(h.w.t, err)
	}
}

func TestI10_ExactlyOnce(t *testing.T) {
	cfg := fanout.Config{Window: 5, PageEntries: 3, AckWait: 10 * time.Second, FrameWrite: 4 * time.Second}
	t.Run("memory", func(t *testing.T) {
		for seed := range uint64(60) {
			synctest.Test(t, func(t *testing.T) { runHistory(newWorld(t, "", cfg), seed, 250) })
		}
	})
	t.Run("file", func(t *testing.T) {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				runHistory(newWorld(t, filepath.Join(t.TempDir(), "store.db"), cfg), 1000+seed, 150)
			})
		}
	})
}
