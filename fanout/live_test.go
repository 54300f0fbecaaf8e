package fanout_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
)

// publish sends a live-only event and returns how many connections took it.
func (w *world) publish(q fanout.PublishRequest) int {
	w.t.Helper()
	n, err := w.r.Publish(context.Background(), q)
	require.NoError(w.t, err)
	return n
}

// typed returns the typing events that came.
func (d *device) typed() []string {
	return texts(slices.DeleteFunc(d.Lives(), func(e *event.Sealed) bool { return e.Kind != event.KindTyping }))
}

func typing(text, subject string, to ...event.Account) fanout.PublishRequest {
	return fanout.PublishRequest{From: "bob", Kind: event.KindTyping, Conversation: "c1", To: to, Subject: subject, Payload: []byte(text)}
}

func TestI15_LiveChangesNothing(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		b := w.ready("bob", "b1", "b2")
		w.fence("ann", "bob")
		ann, bob := w.head("ann"), w.head("bob")
		place := a[0].Position()
		q := typing("t", "", "ann", "ann", "cid")
		q.Origin, q.Mirror = b[0].Login(), true
		require.Equal(w.t, 3, w.publish(q))
		for _, d := range []*device{a[0], a[1], b[1]} {
			w.until("it comes", func() bool { return len(d.typed()) == 1 })
			e := d.Lives()[len(d.Lives())-1]
			require.Equal(w.t, event.Account("bob"), e.From)
			require.Zero(w.t, e.Seq)
			require.Equal(w.t, d == b[1], e.Origin == b[0].Login(), "only the own account learns the origin")
		}
		require.Empty(w.t, b[0].typed(), "not the origin")
		w.fence("ann")
		require.Equal(w.t, ann.Seq+1, w.head("ann").Seq, "nothing but the fence")
		require.Equal(w.t, bob, w.head("bob"))
		require.Equal(w.t, place.Seq+1, a[0].Position().Seq)

		q = typing("t2", "", "ann", "bob")
		require.Equal(w.t, 2, w.publish(q), "without Mirror the own account is left out")
		a[0].leave()
		a[1].leave()
		require.Zero(w.t, w.publish(typing("t3", "", "ann")))
		a[0].online()
		w.fence("ann")
		require.NotContains(w.t, a[0].typed(), "t3", "who is away does not get it later")
	})
}

func TestI15_Expires(t *testing.T) {
	inMemory(t, fanout.Config{FrameWrite: time.Hour}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.pair.Block()
		w.host("bob", "blocks", "ann")
		time.Sleep(time.Second)
		w.publish(typing("old", "1", "ann"))
		time.Sleep(9 * time.Second)
		w.publish(typing("young", "2", "ann"))
		time.Sleep(time.Second)
		d.pair.Unblock()
		w.fence("ann")
		require.Equal(w.t, []string{"young"}, d.typed(), "after 10 s it is of no use")
		require.Equal(w.t, uint64(1), w.r.Stats().LiveDropped)
	})
}

func TestI15_Coalesces(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.pair.Block()
		w.host("bob", "blocks", "ann")
		time.Sleep(time.Second)
		for i := range 10 {
			w.publish(typing(fmt.Sprint("a", i), "a", "ann"))
			w.publish(typing(fmt.Sprint("b", i), "b", "ann"))
		}
		d.pair.Unblock()
		w.fence("ann")
		require.Equal(w.t, []string{"a9", "b9"}, d.typed())
	})
}

func TestBackground(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		require.NoError(w.t, d.Send(&event.Background{On: true}))
		require.Zero(w.t, w.publish(typing("t", "", "ann")))
		require.Equal(w.t, uint64(1), w.r.Stats().LiveDropped)
		w.host("bob", "x", "ann")
		w.fence("ann")
		require.Equal(w.t, []string{"x"}, d.wire(), "Data is not concerned")
		require.NoError(w.t, d.Send(&event.Background{On: false}))
		require.Equal(w.t, 1, w.publish(typing("t2", "", "ann")))
		w.until("live again", func() bool { return len(d.typed()) == 1 })
	})
}

func TestB14_Presence(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		seen := func() (online, offline int) {
			for _, e := range a[0].Lives() {
				switch e.Kind {
				case event.KindDeviceOnline:
					online++
				case event.KindDeviceOffline:
					offline++
				}
				require.Equal(w.t, a[1].Login(), e.Origin)
			}
			return online, offline
		}
		time.Sleep(time.Second)
		on, off := seen()
		require.Equal(w.t, []int{1, 0}, []int{on, off})
		a[1].drop()
		time.Sleep(time.Minute)
		a[1].online()
		on, off = seen()
		require.Equal(w.t, []int{1, 0}, []int{on, off}, "within the resume window nobody notices")
		a[1].drop()
		time.Sleep(3 * time.Minute)
		on, off = seen()
		require.Equal(w.t, []int{1, 1}, []int{on, off})
		require.Empty(w.t, w.kinds("ann", event.KindDeviceOnline), "I15: presence is in no inbox")
	})
}
