package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store"
)

// numbers returns the decimal numbers in [from, to).
func numbers(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// feed sends numbered messages to an account.
func (w *world) feed(account event.Account, from, to int) {
	w.t.Helper()
	for _, n := range numbers(from, to) {
		w.host("bob", n, account)
	}
}

func TestS43_ReturnOneAfterAnother(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		ids := []event.DeviceID{"a1", "a2", "a3"}
		devices := w.ready("ann", ids...)
		for _, d := range devices {
			d.acked()
			d.leave()
		}
		w.feed("ann", 0, 100)
		for _, d := range devices {
			d.online()
			require.Equal(w.t, numbers(0, 100), d.wire(), d.id)
			require.Zero(w.t, d.Redelivered(), d.id)
		}
	})
}

func TestS44_DiesBeforeAcking(t *testing.T) {
	for name, end := range map[string]func(d *device){
		"told":   func(d *device) { d.drop() },
		"untold": func(d *device) { d.cut() },
	} {
		t.Run(name, func(t *testing.T) {
			overStores(t, fanout.Config{Window: 50}, func(w *world) {
				d := w.login("ann", "a1")
				w.feed("ann", 0, 100)
				fresh := d.Save()
				d.HoldAcks(true)
				d.start()
				w.until("half of it", func() bool { return len(d.wire()) == 50 })
				end(d)
				d.Restore(fresh) // nothing was saved
				d.HoldAcks(false)
				before := len(d.Frames())
				d.online()
				require.Equal(w.t, numbers(0, 100), d.texts(), "nothing is missing")
				again, first := 0, 0
				for _, f := range d.Frames()[before:] {
					if data, ok := f.(*event.Data); ok && data.Redelivered {
						again += len(data.Entries)
					} else if ok {
						first += len(data.Entries)
					}
				}
				require.Equal(w.t, 50, again, "the same 50 come again, flagged")
				require.Equal(w.t, 50, first)
			})
		})
	}
}

func TestS44_FlagIsPerFrame(t *testing.T) {
	overStores(t, fanout.Config{Window: 50}, func(w *world) {
		d := w.login("ann", "a1")
		w.feed("ann", 0, 100)
		d.HoldAcks(true)
		d.start()
		w.until("half of it", func() bool { return len(d.wire()) == 50 })
		sent := d.Position()
		d.leave()
		before := len(d.Frames())
		d.HoldAcks(false)
		d.claim(event.Position{Epoch: sent.Epoch, Seq: sent.Seq - 20})
		d.caughtUp()
		again, first := 0, 0
		for _, f := range d.Frames()[before:] {
			if data, ok := f.(*event.Data); ok {
				for _, e := range data.Entries {
					require.Equal(w.t, e.Seq <= sent.Seq, data.Redelivered, "%d", e.Seq)
				}
				if data.Redelivered {
					again += len(data.Entries)
				} else {
					first += len(data.Entries)
				}
			}
		}
		require.Equal(w.t, []int{20, 50}, []int{again, first})
	})
}

func TestS45_StrangeAcks(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		w.feed("ann", 0, 10)
		d := w.login("ann", "a1")
		d.rough = true
		d.HoldAcks(true)
		d.online()
		at := func(seq uint64) event.ClientFrame {
			return &event.Ack{Position: event.Position{Epoch: w.head("ann").Epoch, Seq: seq}}
		}
		cursor := func() uint64 {
			w.flush()
			return w.cursor(d).Seq
		}
		require.Zero(w.t, cursor(), "lost")
		require.NoError(w.t, d.Send(at(5)))
		require.Equal(w.t, uint64(5), cursor())
		require.NoError(w.t, d.Send(at(5)), "duplicated")
		require.Equal(w.t, uint64(5), cursor())
		require.NoError(w.t, d.Send(at(3)), "out of order")
		require.Equal(w.t, uint64(5), cursor())

		var violation *fanout.ProtocolError
		require.ErrorAs(w.t, d.Send(at(99)), &violation, "I9: never sent")
		require.Equal(w.t, uint64(5), cursor())
		require.Equal(w.t, event.ProtocolError, d.closed().Reason)

		old := d.attachment()
		d.online()
		require.ErrorIs(w.t, old.Handle(context.Background(), at(10)), fanout.ErrDetached, "of an earlier connection")
		other := &event.Ack{Position: event.Position{Epoch: w.head("ann").Epoch + 1, Seq: 7}}
		require.ErrorAs(w.t, d.Send(other), &violation, "I9: of another epoch")
		d.closed()

		d.online()
		last := d.attachment()
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", Logins: []event.LoginID{d.Login()}})
		require.NoError(w.t, err)
		require.ErrorIs(w.t, last.Handle(context.Background(), at(10)), fanout.ErrDetached, "after the end of the login")
		require.Equal(w.t, d.Position().Seq, cursor(), "moved only by what the device claimed when it attached")
	})
}

func TestS49_RetryAfterRestart(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		q := fanout.SendRequest{
			From: "ann", Origin: a[0].Login(), ClientID: "m1", Conversation: "c1", To: []event.Account{"bob"}, Payload: []byte("x"),
		}
		first := w.post(q)
		again := w.post(q)
		require.True(w.t, again.Duplicate)
		w.restart()
		later := w.post(q)
		require.True(w.t, later.Duplicate)
		for _, res := range []fanout.SendResult{again, later} {
			require.Equal(w.t, first.ID, res.ID)
			require.Equal(w.t, first.Position, res.Position)
		}
		require.Len(w.t, w.kinds("bob", event.KindMessage), 1)
		require.Len(w.t, w.kinds("ann", event.KindMessage), 1)
		q.Payload = []byte("y")
		_, err := w.r.Send(context.Background(), q)
		require.ErrorIs(w.t, err, store.ErrMismatch, "I11")
		require.Len(w.t, w.kinds("bob", event.KindMessage), 1)
	})
}

func TestS50_KickKeepsThePlace(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		a := w.ready("ann", "a1")
		w.feed("ann", 0, 5)
		w.fence("ann")
		_, err := w.reg.Kick(context.Background(), session.KickRequest{Account: "ann", All: true})
		require.NoError(w.t, err)
		w.feed("ann", 5, 10)
		a[0].relogin()
		a[0].online()
		require.Equal(w.t, numbers(0, 10), a[0].wire())
	})
}

func TestS52_TrimmedUnderALaggingDevice(t *testing.T) {
	overStores(t, fanout.Config{MaxEntries: 20, TrimInterval: -1}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.feed("ann", 0, 5)
		w.fence("ann")
		a[0].drop()
		at := a[0].Position()
		w.feed("ann", 5, 50)
		require.NoError(w.t, w.r.Trim(context.Background(), "ann"))
		a[0].online()
		trim := w.head("ann").Trim
		require.Greater(w.t, trim, at.Seq)
		require.Equal(w.t, []event.Reset{{Reason: event.ResetTrimmed, From: at, To: event.Position{Epoch: at.Epoch, Seq: trim}}}, a[0].Resets())
		require.Equal(w.t, append(numbers(0, 5), numbers(30, 50)...), a[0].wire(), "the gap is told, the rest comes")
		require.Equal(w.t, uint64(1), w.r.Stats().Resets, "counted")
		w.fence("ann")
		require.Equal(w.t, numbers(0, 50), a[1].wire(), "the other device is not concerned")
		require.Empty(w.t, a[1].Resets())
	})
}

func TestS55_LongAway(t *testing.T) {
	const n = 10_000
	inMemory(t, fanout.Config{}, func(w *world) {
		d := w.login("ann", "a1")
		w.feed("ann", 0, n)
		d.online()
		require.Equal(w.t, numbers(0, n), d.wire())
		frames := d.Frames()
		require.IsType(w.t, &event.CaughtUp{}, frames[len(frames)-1])
		require.Equal(w.t, 1, count[*event.CaughtUp](d), "once, at the end")
		for _, data := range framesOf[*event.Data](d) {
			require.LessOrEqual(w.t, len(data.Entries), 64, "paced by acks")
		}
	})
}

func TestS56_I9_Restart(t *testing.T) {
	overStores(t, fanout.Config{CursorFlush: time.Hour}, func(w *world) {
		a := w.ready("ann", "a1", "a2")
		w.feed("ann", 0, 5)
		w.fence("ann")
		w.flush()
		flushed := w.cursor(a[0]).Seq
		require.Equal(w.t, a[0].Position().Seq, flushed)
		a[1].HoldAcks(true)
		w.feed("ann", 5, 10)
		w.fence("ann")
		ids := a[1].Messages(event.KindMessage)
		unsaved := a[1].Save()
		acked := a[0].Position().Seq
		w.crash()
		require.Equal(w.t, flushed, w.cursor(a[0]).Seq, "behind by no more than CursorFlush, and not beyond")
		require.Less(w.t, flushed, acked)

		unsaved.State.Position = nil // the device asks the engine for its place
		a[1].Restore(unsaved)
		a[1].HoldAcks(false)
		frames := len(a[1].Frames())
		a[1].online()
		var again []*event.Sealed
		for _, f := range a[1].Frames()[frames:] {
			if data, ok := f.(*event.Data); ok && len(data.Entries) > 0 {
				require.True(w.t, data.Redelivered)
				again = append(again, data.Entries...)
			}
		}
		require.Len(w.t, texts(again), 5, "what was not acknowledged comes again")
		for i, e := range again {
			require.Equal(w.t, ids[len(ids)-len(again)+i].ID, e.ID, "with the same ID")
		}
		a[0].online()
		require.Equal(w.t, numbers(0, 10), a[0].texts())
	})
}

func TestS57_FloodOfMarksAndReceipts(t *testing.T) {
	overStores(t, fanout.Config{MaxEntries: 50, TrimInterval: -1}, func(w *world) {
		ann := w.login("ann", "a1")
		w.feed("ann", 0, 30)
		var last fanout.SendResult
		for range 40 {
			last = w.post(fanout.SendRequest{From: "ann", Conversation: "c2", To: []event.Account{"eve"}, Payload: []byte("q")})
		}
		require.NotZero(w.t, last.ID)
		before := w.head("ann")
		for seq := range uint64(1000) {
			conv := event.ConversationID("c1")
			if seq%2 == 1 {
				conv = "c2"
			}
			who, limit := event.Account("ann"), before.Seq
			if seq%4 == 3 {
				who, limit = "eve", w.head("eve").Seq
			}
			_, err := w.r.MarkRead(context.Background(), fanout.MarkReadRequest{Account: who, Conversation: conv, Seq: 1 + seq%limit})
			require.NoError(w.t, err)
		}
		after := w.head("ann")
		require.Equal(w.t, before.Entries, after.Entries, "receipts and marks do not count as entries")
		require.LessOrEqual(w.t, len(w.log("ann")), before.Entries+5, "superseded ones are gone")
		require.NoError(w.t, w.r.Trim(context.Background(), "ann"))
		ann.online()
		require.Equal(w.t, 50, len(ann.wire()), "messages are not pushed out beyond MaxEntries")
	})
}

func TestS68_EntryBiggerThanTheWindow(t *testing.T) {
	overStores(t, fanout.Config{WindowBytes: 500, PageBytes: 300}, func(w *world) {
		d := w.login("ann", "a1")
		big := string(make([]byte, 2000))
		for _, p := range []string{"s", big, "s", "s", big, big} {
			w.host("bob", p, "ann")
		}
		d.online()
		require.Equal(w.t, []string{"s", big, "s", "s", big, big}, d.wire())
		for _, data := range framesOf[*event.Data](d) {
			for _, e := range data.Entries {
				require.True(w.t, len(e.Payload) == 1 || len(data.Entries) == 1, "delivered alone")
			}
		}
	})
	t.Run("beyond the bound of a message", func(t *testing.T) {
		inMemory(t, fanout.Config{}, func(w *world) {
			_, err := w.r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: make([]byte, fanout.MaxPayloadBytes+1)})
			invalid, ok := errors.AsType[*event.InvalidError](err)
			require.True(w.t, ok)
			require.Equal(w.t, "payload", invalid.Field)
		})
	})
}
