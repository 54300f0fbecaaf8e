package fanout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// claim makes the device attach with a position of the test's choice.
func (d *device) claim(p event.Position) {
	d.w.t.Helper()
	d.drop()
	saved := d.Save()
	saved.State.Position = &p
	d.Restore(saved)
	d.start()
}

func TestI8_UselessPositions(t *testing.T) {
	overStores(t, fanout.Config{MaxEntries: 10, TrimInterval: -1}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		w.feed("ann", 0, 30)
		_, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: 7})
		require.NoError(w.t, err)
		w.fence("ann")
		w.flush()
		require.NoError(w.t, w.r.Trim(context.Background(), "ann"))
		require.Greater(w.t, w.head("ann").Trim, uint64(5))
		trim := func(h store.Head) uint64 { return h.Trim }
		cursor := func(h store.Head) uint64 { return h.Seq } // everything was acknowledged
		at := func(e event.Epoch, seq uint64) event.Position { return event.Position{Epoch: e, Seq: seq} }
		for _, c := range []struct {
			name   string
			claim  func(h store.Head) event.Position
			reason event.ResetReason
			to     func(h store.Head) uint64
		}{
			{"another epoch", func(h store.Head) event.Position { return at(h.Epoch+1, 5) }, event.ResetEpoch, cursor},
			{"an earlier epoch", func(h store.Head) event.Position { return at(h.Epoch-1, h.Seq) }, event.ResetEpoch, cursor},
			{"trimmed", func(h store.Head) event.Position { return at(h.Epoch, h.Trim-1) }, event.ResetTrimmed, trim},
			{"the very first", func(h store.Head) event.Position { return at(h.Epoch, 0) }, event.ResetTrimmed, trim},
			{"ahead", func(h store.Head) event.Position { return at(h.Epoch, h.Seq+1) }, event.ResetAhead, cursor},
			{"far ahead", func(h store.Head) event.Position { return at(h.Epoch, 1<<63) }, event.ResetAhead, cursor},
		} {
			d.HoldResetAcks(true)
			before, resets, head := len(d.Frames()), len(d.Resets()), w.head("ann")
			claim := c.claim(head)
			d.claim(claim)
			w.until("reset: "+c.name, func() bool { return len(d.Resets()) > resets })
			want := event.Reset{Reason: c.reason, From: claim, To: at(head.Epoch, c.to(head))}
			require.Equal(w.t, want, d.Resets()[resets], c.name)
			w.feed("ann", 1000, 1003)
			w.host("bob", "", "ann")
			_, err := w.r.Publish(context.Background(), fanout.PublishRequest{From: "bob", Kind: event.KindTyping, To: []event.Account{"ann"}})
			require.NoError(w.t, err)
			lives := len(d.Lives())
			w.until("live-only events still come", func() bool { return len(d.Lives()) >= lives })
			for _, f := range d.Frames()[before:] {
				require.NotContains(w.t, []string{"*event.Data", "*event.CaughtUp", "*event.StatePage"}, fmt.Sprintf("%T", f), c.name)
			}
			pages := count[*event.StatePage](d)
			d.HoldResetAcks(false)
			d.caughtUp()
			w.fence("ann")
			require.Greater(w.t, count[*event.StatePage](d), pages, "I17: conversation state is sent again: %s", c.name)
			require.Equal(w.t, uint64(7), d.read("c1", event.StateRead), c.name)
			w.flush()
			require.Equal(w.t, w.head("ann").Seq, w.cursor(d).Seq, c.name)
			require.LessOrEqual(w.t, w.cursor(d).Sent, w.head("ann").Seq, "I9: a claim is no proof of anything: %s", c.name)
		}
	})
}

// TestI8_ClaimLeavesNoTrace ends the connection before the Reset is answered.
func TestI8_ClaimLeavesNoTrace(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		w.feed("ann", 0, 3)
		w.fence("ann")
		place := d.Position()
		d.HoldResetAcks(true)
		for _, p := range []event.Position{{Epoch: place.Epoch, Seq: 1 << 60}, {Epoch: place.Epoch + 7, Seq: 1 << 61}} {
			d.claim(p)
			w.until("reset", func() bool { return len(d.Resets()) > 0 })
			d.drop()
		}
		w.flush()
		require.Equal(w.t, place.Seq, w.cursor(d).Seq)
		require.LessOrEqual(w.t, w.cursor(d).Sent, w.head("ann").Seq)
		d.HoldResetAcks(false)
		d.claim(place)
		d.caughtUp()
		redelivered := d.Redelivered()
		w.feed("ann", 3, 5)
		w.fence("ann")
		require.Equal(w.t, redelivered, d.Redelivered(), "new entries are not flagged")
	})
}

func TestI8_TrimmedInMidstream(t *testing.T) {
	overStores(t, fanout.Config{Window: 4, MaxEntries: 10, TrimInterval: -1}, func(w *world) {
		d := w.login("ann", "a1")
		_, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: "ann", Conversation: "c1", Seq: 1})
		require.NoError(w.t, err)
		w.feed("ann", 0, 50)
		d.HoldAcks(true)
		d.start()
		w.until("a full window", func() bool { return len(d.wire()) == 3 })
		require.NoError(w.t, w.r.Trim(context.Background(), "ann"))
		trim := w.head("ann").Trim
		d.HoldAcks(false)
		d.caughtUp()
		require.Len(w.t, d.Resets(), 1)
		require.Equal(w.t, event.ResetTrimmed, d.Resets()[0].Reason)
		require.Equal(w.t, trim, d.Resets()[0].To.Seq)
		require.Equal(w.t, append(numbers(0, 3), numbers(40, 50)...), d.wire())
		require.Equal(w.t, uint64(1), d.read("c1", event.StateRead), "conversation state is sent once more")
		require.Equal(w.t, 1, count[*event.CaughtUp](d))
	})
}

func TestS33_NewIncarnation(t *testing.T) {
	w := newWorld(t, filepath.Join(t.TempDir(), "store.db"), fanout.Config{})
	d := w.ready("ann", "a1")[0]
	w.feed("ann", 0, 5)
	w.fence("ann")
	d.acked()
	old := d.Position()
	w.bolt.NewIncarnation = true // the file was put back from a copy
	w.restart()
	w.bolt.NewIncarnation = false
	d.HoldResetAcks(true)
	d.start()
	w.until("reset", func() bool { return len(d.Resets()) == 1 })
	w.feed("ann", 5, 8)
	d.HoldResetAcks(false)
	d.caughtUp()
	w.fence("ann")
	require.Equal(t, event.ResetEpoch, d.Resets()[0].Reason)
	require.Equal(t, old, d.Resets()[0].From)
	require.NotEqual(t, old.Epoch, d.Position().Epoch)
	require.Equal(t, numbers(0, 8), d.texts())
}

func TestResetAckMustMatch(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.rough = true
		w.feed("ann", 0, 3)
		w.fence("ann")
		place := d.Position()
		wrong := map[string]event.Position{
			"another place": {Epoch: place.Epoch, Seq: place.Seq - 1},
			"another epoch": {Epoch: place.Epoch + 1, Seq: place.Seq},
		}
		for name, p := range wrong {
			d.HoldResetAcks(true)
			resets := len(d.Resets())
			d.claim(event.Position{Epoch: place.Epoch, Seq: place.Seq + 100})
			w.until("reset", func() bool { return len(d.Resets()) > resets })
			require.NoError(w.t, d.Send(&event.Ack{Position: p}), "an ack sent before the Reset was seen is passed over")
			violation := new(fanout.ProtocolError)
			require.ErrorAs(w.t, d.Send(&event.ResetAck{Position: p}), &violation, name)
			require.Equal(w.t, event.ProtocolError, d.closed().Reason, name)
			d.HoldResetAcks(false)
		}
		d.claim(place)
		d.caughtUp()
		violation := new(fanout.ProtocolError)
		require.ErrorAs(w.t, d.Send(&event.ResetAck{Position: place}), &violation, "nobody asked")
		require.Equal(w.t, event.ProtocolError, d.closed().Reason)
		w.flush()
		require.Equal(w.t, place.Seq, w.cursor(d).Seq, "I9")
	})
}

func TestI9_CursorOnlyMovesForward(t *testing.T) {
	overStores(t, fanout.Config{Window: 8}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		var last uint64
		check := func() {
			w.flush()
			c := w.cursor(d)
			require.GreaterOrEqual(w.t, c.Seq, last)
			require.LessOrEqual(w.t, c.Seq, w.head("ann").Seq)
			require.LessOrEqual(w.t, c.Sent, w.head("ann").Seq)
			last = c.Seq
		}
		for i := range 10 {
			w.feed("ann", i*10, i*10+10)
			w.fence("ann")
			check()
			d.claim(event.Position{Epoch: d.Position().Epoch, Seq: uint64(i)})
			d.caughtUp()
			check()
			d.drop()
			d.start()
			check()
		}
	})
}

// TestI9_AcksDuringAReplay has a device that went back acknowledge bit by bit, and then what it had acknowledged long ago.
func TestI9_AcksDuringAReplay(t *testing.T) {
	overStores(t, fanout.Config{Window: 2}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		w.feed("ann", 0, 10)
		w.fence("ann")
		d.acked()
		place := d.Position()
		d.HoldAcks(true)
		d.claim(event.Position{Epoch: place.Epoch, Seq: 1})
		w.until("a window", func() bool { return d.Position().Seq == 3 })
		require.NoError(w.t, d.Send(&event.Ack{Position: event.Position{Epoch: place.Epoch, Seq: 2}}))
		require.NoError(w.t, d.Send(&event.Ack{Position: place}))
		w.flush()
		require.Equal(w.t, place.Seq, w.cursor(d).Seq)
		d.HoldAcks(false)
		w.fence("ann")
	})
}

// TestI7_CursorPassesNothingUnseen acknowledges bit by bit, and looks what the cursor has passed.
func TestI7_CursorPassesNothingUnseen(t *testing.T) {
	overStores(t, fanout.Config{Window: 5}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		d := a[0]
		d.HoldAcks(true)
		for i := range 20 {
			w.send(a[1], fmt.Sprint(i), "bob")
			w.send(d, "own", "bob")
		}
		for range 40 {
			at := d.Position()
			require.NoError(w.t, d.Send(&event.Ack{Position: at}))
			w.flush()
			cursor := w.cursor(d).Seq
			have := map[event.MessageID]bool{}
			for _, e := range d.Entries() {
				have[e.ID] = true
			}
			for _, e := range w.log("ann") {
				if e.Seq <= cursor && e.For(d.inc, d.Login()) {
					require.True(w.t, have[e.ID], "entry %d", e.Seq)
				}
			}
			if len(d.wire()) == 20 {
				break
			}
			w.until("more", func() bool { return d.Position().Seq > at.Seq })
		}
		require.Equal(w.t, numbers(0, 20), d.wire())
	})
}

// TestClaimCountsAsAck also attaches while the end of the connection before is still being worked on.
func TestClaimCountsAsAck(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.HoldAcks(true)
		w.feed("ann", 0, 5)
		w.fence("ann")
		d.drop()
		d.HoldAcks(false)
		d.online()
		w.flush()
		require.Equal(w.t, d.Position().Seq, w.cursor(d).Seq)
		require.Equal(w.t, numbers(0, 5), d.wire(), "nothing comes again")
	})
}

func TestCoversOfADeviceThatOnlySends(t *testing.T) {
	t.Run("every 64 entries", func(t *testing.T) {
		overStores(t, fanout.Config{}, func(w *world) {
			d := w.ready("ann", "a1")[0]
			start := d.Position().Seq
			for i := range 64 {
				w.send(d, fmt.Sprint(i), "bob")
			}
			w.until("the position moves", func() bool { return d.Position().Seq == start+64 })
			require.Empty(w.t, d.wire())
			w.until("and is acknowledged", func() bool {
				w.flush()
				return w.cursor(d).Seq == start+64
			})
		})
	})
	t.Run("after 5 s", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			d := w.ready("ann", "a1")[0]
			time.Sleep(10 * time.Second)
			all, restless := w.r.Hubs()
			require.Equal(w.t, []int{1, 0}, []int{all, restless}, "at rest")
			start := d.Position().Seq
			covers := w.r.Stats().Covers
			w.send(d, "one", "bob")
			time.Sleep(4 * time.Second)
			require.Equal(w.t, start, d.Position().Seq)
			time.Sleep(3 * time.Second)
			require.Equal(w.t, start+1, d.Position().Seq)
			require.Equal(w.t, covers+1, w.r.Stats().Covers)
			require.Equal(w.t, uint64(0), w.r.Stats().Slow)
		})
	})
}

func TestTokenRotation(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		first := d.Token()
		d.drop()
		time.Sleep(25 * time.Hour)
		d.online()
		require.NotEqual(w.t, first, d.Token(), "the new token is in Welcome")
		w.until("the device says that it has stored it", func() bool {
			return sent[*event.TokenStored](d)
		})
		d.drop()
		second := d.Token()
		d.online()
		require.Equal(w.t, second, d.Token(), "it was confirmed, and is young")
		d.drop()
		time.Sleep(10 * time.Second)
		_, err := w.r.Attach(context.Background(), fanout.AttachRequest{Account: "ann", Login: d.Login(), Token: first}, d.pair.Conn())
		require.ErrorIs(w.t, err, session.ErrEnded, "I26: the one before is void, and its use ends the login")
	})
}

func TestAttachErrors(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.drop()
		q := fanout.AttachRequest{Account: "ann", Login: d.Login(), Token: d.Token()}
		other := q
		other.Account = "bob"
		_, err := w.r.Attach(context.Background(), other, d.pair.Conn())
		require.ErrorIs(w.t, err, session.ErrUnknownLogin)
		_, err = w.r.Attach(context.Background(), q, nil)
		require.Error(w.t, err)
		w.until("nothing is kept of attempts", func() bool {
			all, restless := w.r.Hubs()
			return all == 0 && restless == 0
		})
	})
}

func TestEntriesAreTheSameLiveAndLater(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.post(fanout.SendRequest{
			From: "ann", Origin: a[0].Login(), ClientID: "m1", Kind: "own.kind", Conversation: "c1", Subject: "s", To: []event.Account{"bob"},
			Payload: []byte(`{"x":1}`), TTL: time.Hour + 1500*time.Microsecond, Receipts: fanout.ReceiptsOn,
		})
		w.post(fanout.SendRequest{From: "ann", Targets: []event.LoginID{a[1].Login()}})
		w.fence("ann")
		stored := make(map[event.MessageID]event.Entry)
		for _, e := range w.page("ann", store.ReadOptions{Limit: 100}).Entries {
			stored[e.ID] = e
		}
		require.GreaterOrEqual(w.t, len(a[1].Entries()), 3)
		for _, e := range a[1].Entries() {
			require.JSONEq(w.t, string(event.Seal(stored[e.ID]).JSON()), string(e.JSON()))
		}
	})
}
