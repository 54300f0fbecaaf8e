package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/fanout"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/store/storetest"
	"github.com/manydevice/manydevice/transport/transporttest"
)

// TestS64_I27_DeviceThatStopsReading has one device whose network takes nothing, and one that reads but never
// acknowledges, beside a healthy one.
func TestS64_I27_DeviceThatStopsReading(t *testing.T) {
	inMemory(t, fanout.Config{Window: 8, WindowBytes: 4_000}, func(w *world) {
		b := w.ready("bob", "b1", "b2", "b3")
		b[0].pair.Block()
		b[2].HoldAcks(true)
		const n = 2_000
		for i := range n {
			w.host("ann", fmt.Sprint(i), "bob")
			for _, slow := range []*device{b[0], b[2]} {
				entries, bytes, control, live := slow.attachment().Window()
				require.LessOrEqual(w.t, entries, 8, "memory is bounded by the window")
				require.LessOrEqual(w.t, bytes, 4_000)
				require.LessOrEqual(w.t, control+live, 2, "that two devices came online")
			}
		}
		w.until("the healthy one has all", func() bool { return len(b[1].wire()) == n })
		require.Less(w.t, w.r.TailBytes(), int64(64*80), "and nothing is kept for the slow ones beside the tail")
		why := b[2].closed()
		require.Equal(w.t, event.Slow.Closed(0), why)
		require.Equal(w.t, event.RetryYes, why.Retry)
		b[0].closed()
		closed, ok := b[0].pair.Closed()
		require.True(w.t, ok)
		require.Equal(w.t, event.Slow, closed.Reason)
		require.Equal(w.t, uint64(2), w.r.Stats().Slow)
		b[2].HoldAcks(false)
		for _, slow := range []*device{b[0], b[2]} {
			slow.online()
			require.Equal(w.t, numbers(0, n), slow.texts(), "nothing is lost")
		}
	})
}

func TestS64_TimesOfSlowDevices(t *testing.T) {
	inMemory(t, fanout.Config{AckWait: 7 * time.Second, FrameWrite: 3 * time.Second}, func(w *world) {
		b := w.ready("bob", "b1", "b2", "b3")
		b[0].pair.Block()
		b[1].HoldAcks(true)
		b[2].HoldResetAcks(true)
		place := b[2].Position()
		b[2].claim(event.Position{Epoch: place.Epoch, Seq: 1000})
		w.host("ann", "x", "bob")
		begin := time.Now()
		closedAfter := func(d *device) time.Duration {
			<-d.pair.Done()
			return time.Since(begin)
		}
		require.InDelta(w.t, 3.5, closedAfter(b[0]).Seconds(), 1.0, "FrameWrite")
		for _, d := range b[1:] {
			require.InDelta(w.t, 7.5, closedAfter(d).Seconds(), 1.0, "AckWait")
		}
	})
}

func TestAckWaitIsAboutProgress(t *testing.T) {
	inMemory(t, fanout.Config{AckWait: 7 * time.Second, Window: 4}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.HoldAcks(true)
		w.feed("ann", 0, 20)
		for range 60 { // a slow device that gets on is left alone
			time.Sleep(3 * time.Second)
			if e := d.Messages(event.KindMessage); len(e) > 0 {
				first := d.Position().Seq
				require.NoError(w.t, d.Send(&event.Ack{Position: event.Position{Epoch: d.Position().Epoch, Seq: first}}))
			}
		}
		require.Equal(w.t, numbers(0, 20), d.wire())
		require.True(w.t, d.Connected())
		time.Sleep(time.Hour) // and so is one that has nothing to acknowledge
		require.True(w.t, d.Connected())
		require.Zero(w.t, w.r.Stats().Slow)
	})
}

func TestS65_LiveIsDroppedFirst(t *testing.T) {
	inMemory(t, fanout.Config{LiveRing: 4}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.pair.Block()
		w.host("bob", "blocks", "ann") // the reader is now busy
		time.Sleep(time.Millisecond)
		for i := range 20 {
			n, err := w.r.Publish(context.Background(), fanout.PublishRequest{
				From: "bob", Kind: event.KindTyping, To: []event.Account{"ann"}, Subject: fmt.Sprint(i), Payload: fmt.Append(nil, i),
			})
			require.NoError(w.t, err)
			require.Equal(w.t, 1, n)
			w.host("bob", fmt.Sprint(i), "ann")
		}
		_, _, _, live := d.attachment().Window()
		require.Equal(w.t, 4, live)
		require.Equal(w.t, uint64(16), w.r.Stats().LiveDropped)
		d.pair.Unblock()
		w.fence("ann")
		require.Equal(w.t, []string{"16", "17", "18", "19"}, d.typed(), "the oldest went first")
		require.Equal(w.t, append([]string{"blocks"}, numbers(0, 20)...), d.wire(), "durable entries are untouched")
		require.Equal(w.t, uint64(4), w.r.Stats().LiveSent)
	})
}

func TestS67_SendAgainstClose(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.login("ann", "a1")
		for i := range 60 {
			d.start()
			var wg sync.WaitGroup
			errs := make([]error, 1)
			wg.Go(func() {
				_, errs[0] = w.r.Send(context.Background(), fanout.SendRequest{From: "bob", To: []event.Account{"ann"}, Payload: fmt.Append(nil, i)})
			})
			att, pair := d.attachment(), d.pair
			wg.Go(att.Detach)
			wg.Go(func() { att.Close(event.KickedHost.Closed(0)) })
			wg.Go(pair.Cut)
			wg.Wait()
			require.NoError(w.t, errors.Join(errs...))
			w.until("detached", func() bool {
				return errors.Is(att.Handle(context.Background(), &event.Ping{}), fanout.ErrDetached)
			})
		}
		d.online()
		require.Equal(w.t, numbers(0, 60), d.texts())
	})
}

func TestS72_ReadsAreShort(t *testing.T) {
	overStores(t, fanout.Config{PageEntries: 10, Window: 10}, func(w *world) {
		d := w.login("ann", "a1")
		w.feed("ann", 0, 100)
		d.HoldAcks(true)
		d.start()
		w.until("the first window", func() bool { return len(d.wire()) > 5 })
		w.feed("ann", 100, 110) // a device in the middle of its replay holds nothing open
		require.NoError(w.t, w.r.Trim(context.Background(), "ann"))
		d.HoldAcks(false)
		d.caughtUp()
		require.Equal(w.t, numbers(0, 110), d.wire())
	})
}

func TestBlockedReaderRests(t *testing.T) {
	inMemory(t, fanout.Config{Window: 4}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		d.HoldAcks(true)
		w.feed("ann", 0, 10)
		w.until("a full window", func() bool { return len(d.wire()) == 4 })
		time.Sleep(2 * time.Second)
		reads := w.st.Calls(storetest.Read)
		w.feed("ann", 10, 500)
		time.Sleep(10 * time.Second)
		require.Equal(w.t, reads, w.st.Calls(storetest.Read), "a device whose window is full costs no reads")
		d.HoldAcks(false)
		w.fence("ann")
		require.Equal(w.t, numbers(0, 500), d.wire())
		require.Less(w.t, w.st.Calls(storetest.Read)-reads, 500)
	})
}

func TestPongsAreBounded(t *testing.T) {
	overStores(t, fanout.Config{}, func(w *world) {
		d := w.ready("ann", "a1")[0]
		require.NoError(w.t, d.Send(&event.Ping{Nonce: "n1"}))
		w.until("pong", func() bool { return count[*event.Pong](d) == 1 })
		require.Equal(w.t, "n1", framesOf[*event.Pong](d)[0].Nonce)
		d.pair.Block()
		for range 1000 {
			require.NoError(w.t, d.Send(&event.Ping{Nonce: "flood"}))
		}
		_, _, control, _ := d.attachment().Window()
		require.LessOrEqual(w.t, control, 8)
		d.pair.Unblock()
		w.fence("ann")
		require.LessOrEqual(w.t, count[*event.Pong](d), 30)
	})
}

func TestNack(t *testing.T) {
	var mu sync.Mutex
	var told []fanout.Nacked
	cfg := fanout.Config{OnNack: func(n fanout.Nacked) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, n)
	}}
	overStores(t, cfg, func(w *world) {
		mu.Lock()
		told = nil
		mu.Unlock()
		d := w.loginWith("ann", "a1", transporttest.DeviceConfig{Nack: func(e *event.Entry) string {
			if string(e.Payload) == "1" {
				return "cannot decrypt"
			}
			return ""
		}})
		d.rough = true
		d.online()
		w.feed("ann", 0, 3)
		w.fence("ann")
		d.acked()
		place := w.kinds("ann", event.KindMessage)[1]
		want := fanout.Nacked{
			Account: "ann", Login: d.Login(), Device: "a1", Code: "cannot decrypt",
			Position: event.Position{Epoch: w.head("ann").Epoch, Seq: place.Seq},
		}
		mu.Lock()
		require.Equal(w.t, []fanout.Nacked{want}, told)
		mu.Unlock()
		require.Equal(w.t, uint64(1), w.r.Stats().Nacked)
		w.flush()
		require.Equal(w.t, w.head("ann").Seq, w.cursor(d).Seq, "it counts as an ack")

		require.NoError(w.t, d.Send(&event.Nack{Position: want.Position, Code: "again"}))
		violation := new(fanout.ProtocolError)
		require.ErrorAs(w.t, d.Send(&event.Nack{Position: event.Position{Epoch: want.Position.Epoch, Seq: 99}}), &violation)
		require.Equal(w.t, uint64(1), w.r.Stats().Nacked, "the host is told once, and of nothing that was not sent")
	})
}

func TestHandle(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		d := w.ready("ann", "a1")[0]
		d.rough = true
		att := d.attachment()
		require.Equal(w.t, d.Login(), att.Login())
		require.Equal(w.t, event.DeviceID("a1"), att.Device())
		require.NoError(w.t, att.HandleJSON(ctx, []byte(`{"t":"ping","nonce":"x"}`)))
		w.until("pong", func() bool { return count[*event.Pong](d) == 1 })
		require.NoError(w.t, att.Handle(ctx, &event.TokenStored{}))
		for name, send := range map[string]func(a *fanout.Attachment) error{
			"garbage":       func(a *fanout.Attachment) error { return a.HandleJSON(ctx, []byte(`{`)) },
			"unknown frame": func(a *fanout.Attachment) error { return a.HandleJSON(ctx, []byte(`{"t":"nonsense"}`)) },
		} {
			d.online()
			violation := new(fanout.ProtocolError)
			require.ErrorAs(w.t, send(d.attachment()), &violation, name)
			require.NotEmpty(w.t, violation.Error())
			require.Equal(w.t, event.ProtocolError, d.closed().Reason)
			for _, f := range []event.ClientFrame{&event.Ack{}, &event.Nack{}, &event.ResetAck{}, &event.TokenStored{}, &event.Background{On: true}, &event.Ping{}} {
				require.ErrorIs(w.t, d.attachment().Handle(ctx, f), fanout.ErrDetached, "I22: %T", f)
			}
		}
	})
}

func TestTouchKeepsAConnection(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		w.stop()
		w.scfg.IdleTimeout = 90 * time.Second
		w.openStore()
		w.start()
		d := w.ready("ann", "a1")[0]
		for range 10 {
			time.Sleep(time.Minute)
			d.attachment().Touch()
		}
		require.True(w.t, d.Connected())
		require.Equal(w.t, event.Lost, d.closed().Reason)
	})
}

// TestI22_TokenOfALoginThatEnds: a node may not know yet that another one has ended the login.
func TestI22_TokenOfALoginThatEnds(t *testing.T) {
	inMemory(t, fanout.Config{}, func(w *world) {
		ctx := context.Background()
		d := w.ready("ann", "a1")[0]
		d.drop()
		time.Sleep(25 * time.Hour) // it gets a new token
		conn := transporttest.NewPair(transporttest.PairConfig{}).Conn()
		att, err := w.r.Attach(ctx, fanout.AttachRequest{Account: "ann", Login: d.Login(), Token: d.Token()}, conn)
		require.NoError(w.t, err)
		defer att.Detach()
		other, err := session.New(unclaimed{w.inner}, w.scfg)
		require.NoError(w.t, err)
		_, err = other.Kick(ctx, session.KickRequest{Account: "ann", All: true})
		require.NoError(w.t, err)
		require.NoError(w.t, other.Close(ctx))
		require.ErrorIs(w.t, att.Handle(ctx, &event.TokenStored{}), fanout.ErrDetached)
	})
}
